"""`edgewise trace`: at which layer and token a model has a fact."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from . import options, show
from .accepted import COUNT, FILE, Number, WholeNumber, names_of, option
from .flags import Flags, with_flags
from .subjects import AskedFacts, described, subject_options

if TYPE_CHECKING:
    from ..graphs.files.tables.trace import EffectRow, TotalRow, TraceFile

SHOWN = 5  # of each kind and token, so many layers of largest effect


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
    from ..patching.facts.names import KINDS
    from ..progress import reporting
    from ..session import open_model
    from ..steps.facts.tracing import TraceOptions, trace_facts

    asked = AskedFacts.of(flags, given)
    options.claim(output)
    how = TraceOptions(
        kinds=tuple(KINDS if kinds is None else names_of("kinds", kinds)), window=given["window"],
        draws=given["noise_draws"], deviations=given["deviations"],
        noise_seed=given["noise_seed"], known=given["known"], span=asked.span,
    )  # fmt: skip
    with reporting() as progress:
        progress.say(f"loading and lifting {model}")
        session = open_model(model, flags.over(GraphSpec()), flags.compute(), progress=progress)
        facts = asked.open(session, flags)
        found = trace_facts(session, facts.pairs, how, progress)
    show.note(*facts.notes, *found.notes)
    if output is not None:
        write_trace(output, found.file)
    if as_json:
        show.emit({**found.file.as_dict(), "written": output}, rows=TABLES)
        return
    _print(found.file)
    show.written(output)


def _print(file: TraceFile) -> None:
    how = file.trace
    show.facts(
        ("model", file.model["name"]),
        ("prompts", described(file.prompts, str(file.task["name"]))),
        (
            "noise added",
            f"{how['deviation']:.3g} ({how['deviations']:g} deviations), {how['draws']} "
            f"draw{'s' * (how['draws'] > 1)}",
        ),
        ("window", f"{how['window']} layers" if how["window"] > 1 else None),
    )
    columns = ("probability of the answer", "p", "95%", "of the noise alone")
    show.table(columns, map(_total, file.totals))
    several = len(file.prompts) > 1
    for kind in file.kinds:
        rows = [row for token in file.tokens for row in _strongest(file.rows(kind, token))]
        ends = "95%" if several else "of the noise"
        heads = ("token", "layer", "effect", ends, "share", "prompts")
        title = f"{kind}: indirect effects, the {SHOWN} largest of each token"
        show.table(heads, [_effect(row, several) for row in rows], title=title)
    show.line()
    show.sentences(_read(file))


def _strongest(rows: Sequence[EffectRow]) -> list[EffectRow]:
    chosen = sorted(rows, key=lambda row: -abs(row["effect"]))[:SHOWN]
    return sorted(chosen, key=lambda row: row["layer"])


def _total(row: TotalRow) -> tuple[object, ...]:
    return row["what"], f"{row['p']:.3f}", show.row_ends(row), show.row_ends(row, "noise_")


def _effect(row: EffectRow, several: bool) -> tuple[object, ...]:
    """Write a row; an interval over several prompts holds their noise, of one it is its."""
    share = f"{show.ratio(row['share'])} {show.row_ends(row, 'share_')}".rstrip()
    ends = show.row_ends(row, "" if several else "noise_")
    return row["token"], row["layer"], f"{row['effect'] + 0.0:.3f}", ends, share, row["prompts"]


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
