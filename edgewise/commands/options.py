"""Options that several commands have."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..discovery.registry import metric_defaults
from ..patching.ablations.registry import ablations, default_ablation, get_ablation
from ..patching.metrics.registry import default_metric, metrics
from . import show
from .accepted import COUNT, FILE, METRIC, Known, Number, WholeNumber, all_of, among, option

if TYPE_CHECKING:
    from pathlib import Path

    from ..experiment.parts import Part

P = TypeVar("P", bound="Part")
Function = TypeVar("Function", bound=Callable[..., Any])


def _task(text: str) -> None:
    from ..experiment.task import check_task

    check_task(text)


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


def _accept(ctx: click.Context, param: click.Parameter, names: tuple[str, ...]) -> None:
    """Remember that the user accepts licences, before anything is asked of their models."""
    from ..graphs.load.builtin.licences import LICENCES, accept_licence

    for name in names:
        path = accept_licence(name)
        if path is not None:
            licence = LICENCES[name]
            show.aside(
                f"You accepted the {licence.title} ({' and '.join(licence.addresses)}); {path} "
                "remembers it."
            )


def _licence(text: str) -> None:
    from ..graphs.load.builtin.licences import licence_named

    licence_named(text)


def _licences_help() -> str:
    from ..graphs.load.builtin.licences import LICENCES

    return (
        f"Accept, once and for good, terms that a built-in model is under: {', '.join(LICENCES)}."
    )


licence_option = option(
    "--accept-licence NAME",
    _licences_help,
    type=Known(_licence),
    callback=_accept,
    expose_value=False,
    multiple=True,
)

compute_options = all_of(
    option(
        "--dtype TYPE",
        "float32, float64, bfloat16 or float16; default float32, of a circuit its own.",
        type=Known(among("dtype", ("float32", "float64", "bfloat16", "float16"))),
    ),
    option(
        "--engine NAME",
        "What scores edges and runs circuits: auto (default: jax where it is installed and there "
        "is a card), torch, jax.",
        type=Known(among("engine", ("auto", "torch", "jax"))),
    ),
    option("--device NAME", "auto (default), cpu, cuda, mps.", default="auto"),
    option("--threads N", "Threads torch computes with.", type=WholeNumber(1, 1024)),
    option(
        "--allow-pickle",
        "Read pickled weights too, which can run code; only from sources you trust.",
    ),
    licence_option,
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
        "--greedy",
        "With --top: edges join one by one, from the logits back; each has to lead there when it "
        "joins.",
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
        type=Number(0),
    ),
    option(
        "--delta-share S",
        "The same, as a share of the larger model's difference between all edges and none; "
        "default 0.005.",
        type=Number(0),
    ),
    option(
        "--level Q",
        "The share of false changes that is accepted; default 0.05.",
        type=Number(0, 1, min_open=True, max_open=True),
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
    type=Number(0, 100, min_open=True),
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
    type=WholeNumber(0),
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
            type=WholeNumber(0),
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
        *most, last = (one.form for one in ablations().values())
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


def claim_folder(path: str, accepted: str = "give a folder that can be written") -> None:
    """Make a folder for this command to write in; it goes again if nothing came to stand in it."""
    click.get_current_context().with_resource(_folder(path, accepted))


@contextmanager
def _folder(path: str, accepted: str) -> Iterator[None]:
    from ..graphs.errors import EdgewiseError

    there = os.path.isdir(path)
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        why = f"{error.strerror or error}; {accepted}"
        raise EdgewiseError(f"cannot write {path}: {why}.") from error
    try:
        yield
    finally:
        if not there:
            with suppress(OSError):  # it is not empty
                os.rmdir(path)
