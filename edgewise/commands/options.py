"""Options that several commands have, and names that are checked against a registry."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..discovery.registry import get_method, methods, metric_defaults
from ..graphs.errors import EdgewiseError, unknown
from ..patching.ablations.registry import ablations, default_ablation, get_ablation
from ..patching.metrics.registry import default_metric, get_metric, metrics

if TYPE_CHECKING:
    from pathlib import Path

    from ..experiment.parts import Part
    from ..experiment.spec import ComputeSpec, DiscoverySpec, Experiment, GraphSpec
    from ..experiment.task import TaskSpec
    from ..progress import Reporter
    from ..session import Session

P = TypeVar("P", bound="Part")
Function = TypeVar("Function", bound=Callable[..., Any])


class Known(click.ParamType):  # type: ignore[type-arg]
    """A name that a registry must know; an unknown one is wrong usage, with the nearest match."""

    def __init__(self, name: str, check: Callable[[str], object]) -> None:
        self.name = name
        self._check = check

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the name if it is known."""
        try:
            self._check(value)
        except EdgewiseError as error:
            self.fail(str(error), param, ctx)
        return value


def _task(text: str) -> None:
    from ..experiment.task import check_task

    check_task(text)


def _dtype(text: str) -> None:
    if text not in (accepted := ("float32", "float64", "bfloat16", "float16")):
        raise unknown("dtype", text, accepted)


class Told(click.Option):
    """An option whose help asks registries, once somebody reads it."""

    def __init__(self, names: Sequence[str], *, told: Callable[[], str], **settings: Any) -> None:
        super().__init__(names, **settings)
        self._told = told

    @property
    def help(self) -> str:
        """Return the help."""
        return self._told()

    @help.setter
    def help(self, value: str | None) -> None:
        """Leave out what click would set."""


class KeyValue(click.ParamType):  # type: ignore[type-arg]
    """Text of the form NAME=VALUE, as a pair."""

    name = "NAME=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Split the text at its first equals sign."""
        name, equals, text = str(value).partition("=")
        if not (name and equals):
            self.fail(f"'{value}' is not NAME=VALUE, as in corruption=flip.", param, ctx)
        return name.strip().replace("-", "_"), text


@contextmanager
def usage() -> Iterator[None]:
    """Turn what is wrong with the request itself into wrong usage: exit status 2."""
    try:
        yield
    except EdgewiseError as error:
        raise click.UsageError(str(error)) from None


def settings(given: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """Turn repeated NAME=VALUE into a mapping; a name given twice is wrong usage."""
    found = dict(given)
    if len(found) < len(given):
        raise click.UsageError("a task option is given twice; accepted: each once.")
    return found


def all_of(*decorators: Callable[[Any], Any]) -> Callable[[Function], Function]:
    """Return one decorator for several; help lists them in the order given."""

    def decorate(function: Function) -> Function:
        for one in reversed(decorators):
            function = one(function)
        return function

    return decorate


compute_options = all_of(
    click.option(
        "--dtype",
        type=Known("TYPE", _dtype),
        help="float32, float64, bfloat16 or float16; default float32, of a circuit its own.",
    ),
    click.option(
        "--device", metavar="NAME", default="auto", help="auto (default), cpu, cuda, mps."
    ),
    click.option(
        "--threads", type=click.IntRange(1, 1024), metavar="N", help="Threads torch computes with."
    ),
    click.option(
        "--allow-pickle",
        is_flag=True,
        help="Read pickled weights too, which can run code; only from sources you trust.",
    ),
)

graph_options = all_of(
    click.option(
        "--grouped-kv/--ungrouped-kv",
        default=False,
        help="One port for each key/value head, or (default) for each query head.",
    ),
    click.option(
        "--split-embedding", is_flag=True, help="Token and position embedding as two senders."
    ),
)

selection_options = all_of(
    click.option("--top", type=int, metavar="N", help="Keep the N edges of largest |score|."),
    click.option(
        "--above", type=float, metavar="X", help="Keep the edges whose |score| is at least X."
    ),
    click.option(
        "--faithfulness",
        type=float,
        metavar="F",
        help="Keep as few edges of largest |score| as reach faithfulness F, such as 0.9.",
    ),
    click.option(
        "--signed",
        is_flag=True,
        help="Select by the scores themselves: edges that work against the task come last.",
    ),
)

task_option = click.option(
    "--task-option",
    "task_settings",
    type=KeyValue(),
    metavar="NAME=VALUE",
    multiple=True,
    help="A built-in task's own option, such as corruption=flip; repeat for more.",
)

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object on standard output."
)


def task_options(*, required: bool) -> Callable[[Function], Function]:
    """Add the task and how its prompt pairs are made."""
    return all_of(
        click.option(
            "--task",
            type=Known("NAME|FILE.jsonl", _task),
            required=required,
            help="A built-in task (`edgewise tasks` lists them) or a file of prompt pairs.",
        ),
        task_option,
        click.option(
            "--examples",
            type=click.IntRange(1),
            metavar="N",
            help="Number of pairs; default 64, of a file all.",
        ),
        click.option(
            "--seed",
            type=click.IntRange(0),
            default=0 if required else None,
            metavar="N",
            help="Decides which pairs a built-in task makes; default 0.",
        ),
        click.option(
            "--bos/--no-bos",
            default=None,
            help="Force a beginning-of-sequence token, or none; default: the tokenizer's way.",
        ),
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
        click.option(
            "--metric", cls=Told, type=Known("NAME|EXPRESSION", get_metric), told=metric_help
        ),
        click.option("--ablation", cls=Told, type=Known("NAME", get_ablation), told=ablation_help),
        click.option(
            "--batch-size",
            type=click.IntRange(1),
            metavar="N",
            help="Examples run at once; default: as many as fit in memory.",
        ),
    )


def set_threads(threads: int | None) -> None:
    """Let torch compute with so many threads."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def claim(output: str | Path | None, *inputs: str | Path) -> None:
    """Keep an output for this command until it ends; refuse one that could not be written then."""
    from ..graphs.files import check_writable
    from ..store.locks import writing

    if output is not None:
        check_writable(output, *inputs)
        click.get_current_context().with_resource(writing(output))


def only_given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what is None."""
    return {key: value for key, value in values.items() if value is not None}


# -- what flags ask for --------------------------------------------------------------------------

PREFIX = "method_option_"
"""What precedes the name of a method's option among a command's parameters."""


@dataclass(frozen=True)
class Asked:
    """What a command's flags say of an experiment, by the names of its parts' fields.

    What was not given is not in it, and is the part's default, or that of a circuit's file.
    """

    given: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.given.get(name)

    def over(self, part: P, *, but: Mapping[str, object] | None = None) -> P:
        """Return a part with the fields that were given; what makes no sense is wrong usage."""
        with usage():
            return part.but(**self.fields(type(part)), **(but or {}))

    def fields(self, part: type[Part]) -> dict[str, object]:
        """Return the fields of a part that were given."""
        return {name: self.given[name] for name in part.names() if name in self.given}

    @property
    def settings(self) -> dict[str, str]:
        """Return the task's own options; one given twice is wrong usage."""
        return settings(self["task_settings"] or ())

    def task(self) -> TaskSpec:
        """Return which prompt pairs are asked for."""
        from ..experiment.task import TaskSpec

        with usage():
            return TaskSpec.named(self["task"], options=self.settings, **self.fields(TaskSpec))

    def discovery(self) -> DiscoverySpec:
        """Return how circuits are to be found."""
        from ..experiment.spec import DiscoverySpec, Selection
        from ..experiment.start import read_start

        own = method_options(self.given, self["method"])
        fields = self.fields(DiscoverySpec)
        if "start" in fields:
            fields["start"] = read_start(self["start"])
        with usage():
            select = Selection.of(**self.fields(Selection))
            return DiscoverySpec.of(**fields, options=own, select=select)

    def experiment(self, *models: str) -> Experiment:
        """Return everything that is asked for."""
        from ..experiment.spec import ComputeSpec, EvaluationSpec, Experiment, GraphSpec, numbered

        discovery, task = self.discovery(), self.task()
        with usage():
            metrics = tuple(dict.fromkeys([discovery.metric, *(self["measure"] or ())]))
            return Experiment(
                name=task.name,
                models=numbered(models),
                task=task,
                discovery=discovery,
                evaluation=EvaluationSpec(metrics),
                compute=self.over(ComputeSpec()),
                graph=self.over(GraphSpec()),
            )


def asking(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command what its flags say of an experiment as one argument, `asked`."""

    @wraps(function)
    def command(*first: Any, **values: Any) -> None:
        from ..experiment.spec import FIELDS

        mine = [key for key in values if key in FIELDS or key.startswith(PREFIX)]
        given = only_given({key: values.pop(key) for key in mine})
        function(*first, asked=Asked(given), **values)

    return command


def flag_name(key: str) -> str:
    """Write an option's key as its flag.

    >>> flag_name("ports_first")
    '--ports-first'
    """
    return "--" + key.replace("_", "-")


def method_options(given: Mapping[str, Any], method: str) -> dict[str, Any]:
    """Return the method's options that were given; others' are wrong usage."""
    accepted = get_method(method).options
    own = {key.removeprefix(PREFIX): given[key] for key in given if key.startswith(PREFIX)}
    for key in own.keys() - accepted.keys():
        owners = ", ".join(name for name, one in methods().items() if key in one.options)
        if not accepted:
            raise click.UsageError(
                f"{flag_name(key)} is an option of {owners}; method '{method}' has no options."
            )
        error = unknown(f"option of method '{method}'", flag_name(key), map(flag_name, accepted))
        raise click.UsageError(f"{error} {flag_name(key)} is an option of {owners}.")
    return own


def open_session(model: str, graph: GraphSpec, compute: ComputeSpec, progress: Reporter) -> Session:
    """Load, lift and certify the model that a command's options name."""
    from ..session import open_model

    set_threads(compute.threads)
    progress.say(f"loading and lifting {model}")
    return open_model(model, graph, compute, progress=progress)
