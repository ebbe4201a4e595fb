"""`edgewise knockout`: what a prompt's last token has to read, from where, in which layers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from . import options, show
from .accepted import COUNT, FILE, names_of, option
from .flags import Flags, with_flags
from .subjects import AskedFacts, described, subject_options

if TYPE_CHECKING:
    from ..graphs.files.tables.knockout import CutRow, KnockoutFile


def _spans_help() -> str:
    from ..patching.facts.names import SPANS, USUAL

    each = "; ".join(f"{name}: {what}" for name, what in SPANS.items())
    return (
        "Spans that attention is cut from, with commas between, each alone; also those that a task "
        f"names. {each}. Default: {', '.join(USUAL)}."
    )


@click.command(short_help="Cut attention between spans, in windows of layers.")
@options.model_option
@options.task_options(required=False)
@subject_options
@option("--from NAMES", _spans_help, "sources")
@option("--to NAME", "The span whose attention is cut; default last.", "to")
@option("--window W", "Over how many layers attention is cut; default 1.", type=COUNT, default=1)
@option("--attributes FILE", "JSON of subjects, each with words or texts about it: measure the "
        "attributes rate too.", type=FILE)  # fmt: skip
@option("--top K", "Among how many tokens attributes are looked for; default 50.", "among",
        type=COUNT, default=50)  # fmt: skip
@option("-o --output KNOCKOUT.json", "Write what was measured; `edgewise draw` makes its curves.",
        type=FILE)  # fmt: skip
@options.family_option
@options.compute_options
@options.json_option
@with_flags
def knockout(
    model: str, flags: Flags, sources: str | None, output: str | None, as_json: bool, **given: Any
) -> None:
    """Cut attention from one span of a prompt to another, in a window around every layer.

    What happens to the answer's probability tells where the last token reads the subject, and
    where the rest. The prompt's first token, on which many models rest their attention, is a span
    of its own.
    """
    from ..experiment.spec import GraphSpec
    from ..graphs.files.tables.knockout import TABLES, write_knockout
    from ..patching.facts.names import LAST, USUAL
    from ..progress import reporting
    from ..session import open_model
    from ..steps.facts.knockout import KnockoutOptions, knock_out_facts

    asked = AskedFacts.of(flags, given)
    options.claim(output, *filter(None, [given["attributes"]]))
    how = KnockoutOptions(
        sources=tuple(USUAL if sources is None else names_of("from", sources)),
        to=given["to"] or LAST, window=given["window"], span=asked.span, known=given["known"],
        attributes=given["attributes"], top=given["among"],
    )  # fmt: skip
    with reporting() as progress:
        progress.say(f"loading and lifting {model}")
        session = open_model(model, flags.over(GraphSpec()), flags.compute(), progress=progress)
        facts = asked.open(session, flags)
        found = knock_out_facts(session, facts.pairs, how, progress)
    show.note(*facts.notes, *found.notes)
    if output is not None:
        write_knockout(output, found.file)
    if as_json:
        show.emit({**found.file.as_dict(), "written": output}, rows=TABLES)
        return
    _print(found.file)
    show.written(output)


def _print(file: KnockoutFile) -> None:
    how = file.knockout
    layers = f"{how['window']} layer{'s' * (how['window'] > 1)}"
    clean = sum(one["clean"] for one in file.prompts) / len(file.prompts)
    show.facts(
        ("model", file.model["name"]),
        ("prompts", described(file.prompts, str(file.task["name"]))),
        ("probability", f"{clean:.3f} of the answer, on average"),
        ("cut", f"attention to the span '{how['to']}', in windows of {layers}"),
    )
    for source in file.sources:
        rows = [_cut(row) for row in (*file.curve(source), file.everywhere(source))]
        columns = ("layer", "p", "95%", "relative change", "95%", "prompts")
        show.table(columns, rows, title=f"from: {source}")
    if file.attributes:
        cells = [
            (row["layer"], show.ratio(row["rate"]), show.row_ends(row), show.ratio(row["others"]),
             show.row_ends(row, "others_"), row["prompts"])
            for row in file.attributes
        ]  # fmt: skip
        columns = ("layer", "attributes", "95%", "others'", "95%", "prompts")
        title = f"attributes among the {how.get('top')} tokens at the subject's last token"
        show.table(columns, cells, title=title)
    show.line()
    show.sentences(_read(file))


def _cut(row: CutRow) -> tuple[object, ...]:
    layer = "all" if row["layer"] is None else row["layer"]
    change = f"{round(row['change'], 3) + 0.0:+.3f}"
    return (
        layer,
        show.ratio(row["p"]),
        show.row_ends(row),
        change,
        show.row_ends(row, "change_"),
        row["prompts"],
    )


def _read(file: KnockoutFile) -> Iterator[str]:
    """Say where cutting from each span does most."""
    from ..steps.facts.knockout import strongest

    for source in file.sources:
        row, every = strongest(file, source), file.everywhere(source)
        if row["change"] < 0:
            yield (
                f"{source}: most is lost around layer {row['layer']}, {row['change']:+.2f}; in all "
                f"layers {every['change']:+.2f}."
            )
        else:
            yield f"{source}: nothing is lost at any layer; in all layers {every['change']:+.2f}."
