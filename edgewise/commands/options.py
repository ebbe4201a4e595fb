"""Options that several commands have, and the parts of an experiment that flags ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import reduce, wraps
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..discovery.registry import get_method, methods, metric_defaults, scoring_method
from ..graphs.errors import EdgewiseError, unknown
from ..patching.ablations.registry import ablations, default_ablation, get_ablation
from ..patching.metrics.registry import default_metric, get_metric, metrics
from . import show

if TYPE_CHECKING:
    from pathlib import Path

    from ..experiment.parts import Part
    from ..experiment.spec import ComputeSpec, DiscoverySpec, Experiment
    from ..experiment.task import TaskSpec
    from ..graphs.files import CircuitFile
    from ..patching.prompts.pairs import PromptPairs
    from ..patching.prompts.splits import PromptSplit
    from ..session import Session

P = TypeVar("P", bound="Part")
Function = TypeVar("Function", bound=Callable[..., Any])


# -- what values are accepted --------------------------------------------------------------------


class Known(click.ParamType):  # type: ignore[type-arg]
    """A name that passes a check, such as a registry's; one that does not is wrong usage."""

    name = "name"

    def __init__(self, check: Callable[[str], object]) -> None:
        self._check = check

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the name."""
        try:
            self._check(value)
        except EdgewiseError as error:
            self.fail(str(error), param, ctx)
        return value


def among(what: str, accepted: Iterable[str]) -> Callable[[str], None]:
    """Return a check, for `Known`, that a name is in a closed list."""

    def check(text: str) -> None:
        if text not in accepted:
            raise unknown(what, text, accepted)

    return check


def _task(text: str) -> None:
    from ..experiment.task import check_task

    check_task(text)


def _not_blank(text: str) -> None:
    if not text.strip():  # as an unset variable of a shell makes it
        raise EdgewiseError("it is empty; accepted: a name. Give the one that was meant.")


FILE = Known(_not_blank)
COUNT = click.IntRange(1)
METRIC = Known(get_metric)


class LateHelp(click.Option):
    """An option whose help is made from registries, once somebody reads it."""

    def __init__(self, names: list[str], *, text: Callable[[], str], **settings: Any) -> None:
        super().__init__(names, **settings)
        self._text = text

    @property
    def help(self) -> str:
        """Return the help."""
        return self._text()

    @help.setter
    def help(self, value: str | None) -> None:
        """Leave out what click would set."""


def _task_settings(
    ctx: click.Context, param: click.Parameter, texts: tuple[str, ...]
) -> dict[str, str] | None:
    """Turn repeated NAME=VALUE, split at the first equals sign, into a mapping."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise click.BadParameter(f"'{text}' is not NAME=VALUE, as in corruption=flip.")
        found[name.strip().replace("-", "_")] = value
    if len(found) < len(texts):
        raise click.UsageError("a task option is given twice; accepted: each once.")
    return found or None


@contextmanager
def usage() -> Iterator[None]:
    """Turn what is wrong with the request itself into wrong usage: exit status 2."""
    try:
        yield
    except EdgewiseError as error:
        raise click.UsageError(str(error)) from None


# -- options -------------------------------------------------------------------------------------


def all_of(*decorators: Callable[[Any], Any]) -> Callable[[Function], Function]:
    """Return one decorator for several; help lists them in the order given."""
    return lambda function: reduce(lambda made, one: one(made), reversed(decorators), function)


def option(
    words: str, help: str | Callable[[], str], *name: str, **settings: Any
) -> Callable[[Function], Function]:
    """Add an option, written as in help: its flags, then what it takes, if anything.

    `help`: its text, or what makes it once somebody reads it. `name`: of the parameter.
    """
    flags = [word for word in words.split() if word.startswith("-")]
    takes = words.split()[len(flags) :]
    settings |= {"metavar": takes[0]} if takes else {"is_flag": True}
    settings |= {"help": help} if isinstance(help, str) else {"cls": LateHelp, "text": help}
    return click.option(*flags, *name, **settings)


compute_options = all_of(
    option(
        "--dtype TYPE",
        "float32, float64, bfloat16 or float16; default float32, of a circuit its own.",
        type=Known(among("dtype", ("float32", "float64", "bfloat16", "float16"))),
    ),
    option("--device NAME", "auto (default), cpu, cuda, mps.", default="auto"),
    option("--threads N", "Threads torch computes with.", type=click.IntRange(1, 1024)),
    option(
        "--allow-pickle",
        "Read pickled weights too, which can run code; only from sources you trust.",
    ),
)

family_option = option(
    "--try-family NAME",
    "Describe a model whose type is not registered as this family, or type, is; shape: by what its "
    "modules do. Default: by shape, or the family whose modules it has.",
)

graph_options = all_of(
    click.option(
        "--grouped-kv/--ungrouped-kv",
        default=False,
        help="One port for each key/value head, or (default) for each query head.",
    ),
    option("--split-embedding", "Token and position embedding as two senders."),
    family_option,
)

selection_options = all_of(
    option("--top N", "Keep the N edges of largest |score|.", type=int),
    option("--above X", "Keep the edges whose |score| is at least X.", type=float),
    option(
        "--faithfulness F",
        "Keep as few edges of largest |score| as reach faithfulness F, such as 0.9.",
        type=float,
    ),
    option(
        "--target F",
        "Keep as few edges of largest |score| as reach faithfulness F on pairs that they were not "
        "scored on: the pairs are cut in halves, each measured with the other's scores.",
        type=float,
    ),
    option(
        "--signed", "Select by the scores themselves: edges that work against the task come last."
    ),
    option(
        "--connected",
        "Count and keep only edges on ways of kept edges from the embedding to the logits.",
    ),
    option(
        "--stable S",
        "Of the edges kept, leave out those that less than a share S of 1,000 resamples of the "
        "prompts keep too, such as 0.9.",
        type=float,
    ),
)

paired_options = all_of(
    click.option(
        "--paired/--no-paired",
        default=None,
        help="Test every edge on the same prompts in both models (default where it can be done), "
        "or not.",
    ),
    option(
        "--delta X",
        "The smallest change of a score that matters, in units of the metric.",
        type=click.FloatRange(0),
    ),
    option(
        "--delta-share S",
        "The same, as a share of the larger model's difference between all edges and none; "
        "default 0.005.",
        type=click.FloatRange(0),
    ),
    option(
        "--level Q",
        "The share of false changes that is accepted; default 0.05.",
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
    ),
    click.option(
        "--controls/--no-controls",
        default=None,
        help="Look whether edges are found to change where nothing has (default), or not.",
    ),
)

model_option = option("--model MODEL", "See `edgewise lift --help`.", type=FILE, required=True)
json_option = option("--json", "Print one JSON object on standard output.", "as_json")
batch_option = option(
    "--batch-size N", "Examples run at once; default: as many as fit in memory.", type=COUNT
)
percent_option = option(
    "--percent K",
    "Of a folder of MIB's with a circuit of each size, the largest with at most K percent of all "
    "edges.",
    type=click.FloatRange(0, 100, min_open=True),
)
task_option = option(
    "--task-option NAME=VALUE",
    "A built-in task's own option, such as corruption=flip; repeat for more.",
    "task_settings",
    callback=_task_settings,
    multiple=True,
)


test_option = option(
    "--test M",
    "Number of further pairs, held out to measure on; 0: none. Default: as many as are found on; "
    "of a file half of it from 64 pairs up, with --examples as many of the others.",
    type=click.IntRange(0),
)


def _ways_help() -> str:
    from ..patching.prompts.answers import WAYS

    ways = "; ".join(f"{way} {does}" for way, does in WAYS.items())
    return f"How answers of several tokens are taken: {ways}. Default: they are refused."


def _way(text: str) -> None:
    from ..patching.prompts.answers import WAYS

    among("way to take answers", WAYS)(text)


answers_options = all_of(
    option("--answers NAME", _ways_help, type=Known(_way)),
    option("--system TEXT", "Of a file of chat: a system message before the others."),
    option(
        "--continue TEXT",
        "Of a file of chat: how the assistant's answer begins, behind which answers stand.",
        "continued",
    ),
)


def task_options(*, required: bool, test: bool = False) -> Callable[[Function], Function]:
    """Add the task and how its prompt pairs are made; `test`: and how many are held out."""
    return all_of(
        option(
            "--task NAME|FILE",
            "A built-in task or a file of prompt pairs; `edgewise tasks` lists and shows both.",
            type=Known(_task),
            required=required,
        ),
        task_option,
        option("--examples N", "Number of pairs; default 64, of a file all.", type=COUNT),
        test_option if test else all_of(),
        option(
            "--seed N",
            "Decides which pairs a built-in task makes, or are formed of samples; default 0.",
            type=click.IntRange(0),
            default=0 if required else None,
        ),
        click.option(
            "--bos/--no-bos",
            default=None,
            help="Force a beginning-of-sequence token, or none; default: the tokenizer's way.",
        ),
        answers_options,
    )


def measure_options(*, searching: bool | None) -> Callable[[Function], Function]:
    """Add metric, ablation and batch size; by default those of a circuit's file (None)."""

    def metric_help() -> str:
        default = "that of the circuit"
        if searching is not None:
            default = metric_defaults() if searching else default_metric(searching=False)
        example = "an expression such as 'logit(answer) - logit(distractor)'"
        return f"{', '.join(metrics())}, or {example}; default {default}."

    def ablation_help() -> str:
        *most, last = ablations()
        default = "that of the circuit" if searching is None else default_ablation()
        return f"What ablated edges carry: {', '.join(most)} or {last}; default {default}."

    return all_of(
        option("--metric NAME|EXPRESSION", metric_help, type=METRIC),
        option("--ablation NAME", ablation_help, type=Known(get_ablation)),
        batch_option,
    )


def claim(output: str | Path | None, *inputs: str | Path) -> None:
    """Keep an output for this command until it ends; refuse one that could not be written then."""
    from ..graphs.files import check_writable
    from ..store.locks import writing

    if output is not None:
        check_writable(output, *inputs)
        click.get_current_context().with_resource(writing(output))


# -- what flags ask for --------------------------------------------------------------------------

PREFIX = "method_option_"
"""What precedes the name of a method's option among a command's parameters."""


class Flags(dict[str, Any]):
    """What a command line says of an experiment, by the names of its parts' fields.

    What was not given is None here, and is the part's default, or that of a circuit's file.
    """

    def __missing__(self, name: str) -> None:
        return None

    def only(self, *names: str) -> dict[str, Any]:
        """Return what was given under some names."""
        return {name: self[name] for name in names if name in self}

    def over(self, part: P) -> P:
        """Return a part with the fields that were given; what makes no sense is wrong usage."""
        with usage():
            return part.but(**self.only(*part.names()))

    def compute(self, file: CircuitFile | None = None) -> ComputeSpec:
        """Return where and how to compute, by default in the precision of a circuit."""
        from ..experiment.spec import ComputeSpec

        return self.over(ComputeSpec() if file is None else ComputeSpec.of_circuit(file))

    def task(self) -> TaskSpec | None:
        """Return which prompt pairs are asked for, None if they are those of a circuit."""
        from ..experiment.task import TaskSpec

        if self["task"] is None:
            if self["task_settings"]:
                raise click.UsageError("--task-option needs --task.")
            return None
        fields, options = self.only(*TaskSpec.names()), self["task_settings"] or {}
        with usage():
            return TaskSpec.named(self["task"], options=options, **fields)

    def discovery(self) -> DiscoverySpec:
        """Return how circuits are to be found."""
        from ..experiment.spec import DiscoverySpec, Selection
        from ..experiment.start import read_start

        fields = self.only(*DiscoverySpec.names())
        fields["options"] = _method_options(self)
        if "start" in fields:
            fields["start"] = read_start(fields["start"])
        with usage():
            given = self.only(*Selection.names())
            if self["stable"] and not {"method", *Selection.ways()} & self.keys():
                given |= Selection.usual().as_dict()
            return DiscoverySpec.usual(**fields, select=Selection.of(**given))

    def experiment(self, *models: str) -> Experiment:
        """Return everything that is asked for."""
        from ..experiment.spec import (
            ComparisonSpec,
            EvaluationSpec,
            Experiment,
            GraphSpec,
            numbered,
        )

        discovery, task = self.discovery(), self.task()
        assert task is not None  # click requires --task where an experiment is asked for
        with usage():
            metrics = tuple(dict.fromkeys([discovery.metric, *(self["measure"] or ())]))
            evaluation = EvaluationSpec(metrics, **self.only("control"))
            graph = self.over(GraphSpec())
            return Experiment(
                task.name, numbered(models), task, discovery, evaluation,
                compute=self.compute(), graph=graph, comparison=self.over(ComparisonSpec()),
            )  # fmt: skip

    def pairs(self, file: CircuitFile, session: Session) -> tuple[PromptPairs, list[str]]:
        """Return the prompt pairs asked for, or a circuit's own, and notes if these changed."""
        from ..experiment.task import TAKEN
        from ..session import open_task
        from ..steps.stored import circuit_pairs

        task = self.task()
        if task is not None:
            pairs = open_task(session, task)[0]
            show.understood(pairs.origin)
            return pairs, []
        return circuit_pairs(file, session, self.only("examples", "seed", "bos", *TAKEN))

    def split(self, file: CircuitFile, session: Session) -> tuple[PromptSplit, list[str]]:
        """Return the pairs asked for, or a circuit's own with those held out; notes as `pairs`.

        Of a task that is named with so many test pairs, those are meant.
        """
        from ..experiment.task import TAKEN
        from ..patching.prompts.splits import PromptSplit
        from ..session import open_split
        from ..steps.stored import circuit_split

        task = self.task()
        if task is None:
            return circuit_split(
                file, session, self.only("examples", "test", "seed", "bos", *TAKEN)
            )
        if not task.test:
            return PromptSplit(self.pairs(file, session)[0]), []
        made = open_split(session, task)
        show.understood(made.discovery.origin)
        return PromptSplit(made.test or made.discovery), []


def with_flags(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command what its command line says of an experiment as one argument, `flags`."""

    @wraps(function)
    def command(*first: Any, **values: Any) -> None:
        from ..experiment.spec import FIELDS

        mine = {key for key in values if key in FIELDS or key.startswith(PREFIX)}
        given = {key: values.pop(key) for key in mine}
        flags = Flags({key: value for key, value in given.items() if value is not None})
        if flags["threads"] is not None:
            import torch

            torch.set_num_threads(flags["threads"])
        function(*first, flags=flags, **values)

    return command


def flag_name(key: str) -> str:
    """Write an option's key as its flag.

    >>> flag_name("ports_first")
    '--ports-first'
    """
    return "--" + key.replace("_", "-")


def _method_options(flags: Flags) -> dict[str, Any]:
    """Return the method's options that were given; others' are wrong usage."""
    method = scoring_method() if flags["method"] is None else get_method(flags["method"])
    own = {key.removeprefix(PREFIX): flags[key] for key in flags if key.startswith(PREFIX)}
    for key in own.keys() - method.options.keys():
        owners = ", ".join(name for name, one in methods().items() if key in one.options)
        of_others = f"{flag_name(key)} is an option of {owners}"
        if not method.options:
            raise click.UsageError(f"{of_others}; method '{method.name}' has no options.")
        known = map(flag_name, method.options)
        error = unknown(f"option of method '{method.name}'", flag_name(key), known)
        raise click.UsageError(f"{error} {of_others}.")
    return own
