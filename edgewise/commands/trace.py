"""`edgewise trace`: at which layer and token a model has a fact."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from . import options, show
from .accepted import COUNT, FILE, Known, Number, WholeNumber, all_of, names_of, option
from .flags import Flags, with_flags

if TYPE_CHECKING:
    from ..graphs.files.tables.trace import EffectRow, TotalRow, TraceFile
    from ..session import Session
    from ..steps.facts.prompts import Facts

Function = TypeVar("Function", bound=Callable[..., Any])

SHOWN = 5  # of each kind and token, so many layers of largest effect


def _not_empty(text: str) -> None:
    from ..graphs.errors import EdgewiseError

    if not text:
        raise EdgewiseError("it is empty; accepted: a text.")


TEXT = Known(_not_empty)

subject_options: Callable[[Function], Function] = all_of(
    option("--prompt TEXT", "In place of a task: one prompt, with --subject.", "text", type=TEXT),
    option("--subject TEXT", "The part of --prompt that it is about.", type=TEXT),
    option(
        "--answer TEXT",
        "Of --prompt, with the space before it; default: what the model says.",
        type=TEXT,
    ),
    option(
        "--span NAME",
        "Which span of a task's prompts is their subject; default subject.",
        "span",
    ),
    option("--known", "Leave out prompts that the model answers wrongly."),
)
"""What prompts with a subject are, for commands about facts."""


def _kinds_help() -> str:
    from ..patching.facts.names import KINDS

    each = "; ".join(f"{name}: {what}" for name, what in KINDS.items())
    return f"What is put back, with commas between; default all. {each}."


@click.command(short_help="Trace at which layer and token a model has a fact.")
@options.model_option
@options.task_options(required=False)
@subject_options
@option("--kinds NAMES", _kinds_help)
@option("--window W", "Over how many layers MLPs and attention are put back; default 1.",
        type=COUNT, default=1)  # fmt: skip
@option("--draws N", "Draws of the noise; default 10.", "noise_draws", type=COUNT, default=10)
@option("--noise X", "The noise's standard deviation, in units of that of the subjects' "
        "embeddings; default 3.", "deviations", type=Number(0, min_open=True),
        default=3.0)  # fmt: skip
@option("--noise-seed N", "Decides the noise; default 0.", type=WholeNumber(0), default=0)
@option("-o --output TRACE.json", "Write what was measured; `edgewise draw` makes its map.",
        type=FILE)  # fmt: skip
@options.family_option
@options.compute_options
@options.json_option
@with_flags
def trace(
    model: str, flags: Flags, kinds: str | None, output: str | None, as_json: bool, **given: Any
) -> None:
    """Make a prompt's subject unknown by noise, and put back one thing at a time.

    What is put back is the stream behind a layer, or what MLPs or attention add to it, at one
    token, as it is without noise; how much of the answer's probability comes back is the effect of
    that layer and token.
    """
    from ..experiment.spec import GraphSpec
    from ..graphs.files.tables.trace import TABLES, write_trace
    from ..progress import reporting
    from ..session import open_model
    from ..steps.facts.tracing import TraceOptions, trace_facts

    check_subject(flags, given)
    options.claim(output)
    wanted: dict[str, Any] = {}
    if kinds is not None:
        wanted["kinds"] = tuple(names_of("kinds", kinds))
    own = ("window", "deviations", "noise_seed", "known")
    wanted |= {name: given[name] for name in own} | span_of(given)
    how = TraceOptions(draws=given["noise_draws"], **wanted)
    with reporting() as progress:
        progress.say(f"loading and lifting {model}")
        session = open_model(model, flags.over(GraphSpec()), flags.compute(), progress=progress)
        facts = open_facts(session, flags, given)
        found = trace_facts(session, facts.pairs, how, progress)
    show.note(*facts.notes, *found.notes)
    if output is not None:
        write_trace(output, found.file)
    if as_json:
        show.emit({**found.file.as_dict(), "written": output}, rows=TABLES)
        return
    _print(found.file)
    show.written(output)


def check_subject(flags: Flags, given: dict[str, Any]) -> None:
    """Refuse a prompt and a task together, neither, and what goes with one of them alone."""
    text, task = given["text"], flags["task"]
    if (text is None) == (task is None):
        raise click.UsageError("give either --task, or --prompt with its --subject.")
    if text is not None and given["subject"] is None:
        raise click.UsageError("--prompt needs --subject, the part of it that it is about.")
    alone = ("subject", "answer") if text is None else ("span",)
    for name in alone:
        if given[name] is not None:
            belongs = "--prompt" if text is None else "--task"
            raise click.UsageError(f"--{name} belongs to {belongs}.")
    if text is not None:
        flags.task()  # refuses options of tasks
        for name in ("examples", "seed", "system", "continued"):
            if flags[name] is not None:
                raise click.UsageError(f"--{name} belongs to --task.")


def span_of(given: dict[str, Any]) -> dict[str, Any]:
    """Return the span that is the subject, if it was named."""
    return {} if given["span"] is None else {"span": given["span"]}


def open_facts(session: Session, flags: Flags, given: dict[str, Any]) -> Facts:
    """Open the task, or take the prompt that was written."""
    from ..steps.facts.prompts import fact_of_text, facts_of_task

    task = flags.task()
    if task is None:
        return fact_of_text(
            session, given["text"], given["subject"], given["answer"],
            answers=flags["answers"], bos=flags["bos"],
        )  # fmt: skip
    found = facts_of_task(session, task)
    show.understood(found.pairs.origin)
    return found


def _print(file: TraceFile) -> None:
    how = file.trace
    show.facts(
        ("model", file.model["name"]),
        ("prompts", described(file.prompts, str(file.task["name"]))),
        (
            "noise added",
            f"{how['deviation']:.3g} ({how['deviations']:g} deviations), {how['draws']} draws",
        ),
        ("window", f"{how['window']} layers" if how["window"] > 1 else None),
    )
    columns = ("probability of the answer", "p", "95%", "of the noise alone")
    show.table(columns, map(_total, file.totals))
    for kind in file.kinds:
        rows = [
            row
            for token in file.tokens
            for row in _strongest(file.rows(kind, token))
        ]  # fmt: skip
        heads = ("token", "layer", "effect", "95%", "of the noise", "share", "prompts")
        title = f"{kind}: indirect effects, the {SHOWN} largest of each token"
        show.table(heads, [_effect(row) for row in rows], title=title)
    show.line()
    show.sentences(_read(file))


def described(prompts: Sequence[Any], name: str) -> str:
    """Say how many prompts there are, and of what; of one, which."""
    if len(prompts) > 1:
        return f"{len(prompts):,} of {name}"
    (one,) = prompts
    marked = [f"[{t}]" if i in one["subject"] else t for i, t in enumerate(one["tokens"])]
    return f"{''.join(marked)} → {one['answer']}"


def _strongest(rows: Sequence[EffectRow]) -> list[EffectRow]:
    chosen = sorted(rows, key=lambda row: -abs(row["effect"]))[:SHOWN]
    return sorted(chosen, key=lambda row: row["layer"])


def _total(row: TotalRow) -> tuple[object, ...]:
    return row["what"], f"{row['p']:.3f}", _ends(row, ""), _ends(row, "noise_")


def _effect(row: EffectRow) -> tuple[object, ...]:
    share = show.ratio(row["share"])
    ends = _ends(row, "share_")
    return (
        row["token"], row["layer"], f"{row['effect'] + 0.0:.3f}", _ends(row, ""),
        _ends(row, "noise_"), f"{share} {ends}".rstrip(), row["prompts"],
    )  # fmt: skip


def _ends(row: Any, which: str) -> str:
    low, high = row[f"{which}low"], row[f"{which}high"]
    return "" if low is None or high is None else show.ends((low, high))


def _read(file: TraceFile) -> Iterator[str]:
    """Say where each kind's effect is largest."""
    from ..steps.facts.tracing import peak

    for kind in file.kinds:
        row = peak(file, kind)
        share = "" if row["share"] is None else f", {100 * row['share']:.0f}% of the total effect"
        yield (
            f"{kind}: largest at layer {row['layer']}, {row['token']} token: "
            f"{row['effect']:.3f}{share}."
        )
