"""`edgewise draw`: a circuit or a diff as an image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import options, show
from .timeline import draw_strip

if TYPE_CHECKING:
    from ..graphs.files import CircuitFile, DiffFile

MANY_EDGES = 2000
"""Above this, a drawing takes long and shows little."""


@click.command(short_help="Draw a circuit, diff or timeline to SVG, PNG, PDF or DOT.")
@click.argument("file", metavar="CIRCUIT.json|DIFF.json|TIMELINE.json")
@click.option(
    "-o", "--output", required=True, metavar="FILE", help="Ends in .svg, .png, .pdf or .dot."
)
@click.option(
    "--top",
    type=click.IntRange(1),
    metavar="N",
    help="Only the N strongest edges, without those that lead nowhere among them.",
)
@click.option("--title", metavar="TEXT", help="Printed above; default: task, model, method.")
@click.option(
    "--layout",
    type=click.Choice(["auto", "dot", "built-in"]),
    default="auto",
    help="Who places the nodes; auto: Graphviz's dot where the machine has it, else built-in.",
)
@options.json_option
def draw(
    file: str, output: str, top: int | None, title: str | None, layout: str, as_json: bool
) -> None:
    """Draw the circuit, diff or timeline of a file.

    Layers run upward; colours tell q, k and v edges apart, or what only one circuit has, or, of a
    timeline, what is new and what is there for the last time; an edge's width follows its score.
    """
    from ..errors import EdgewiseError, unknown
    from ..graphs.files import CircuitFile, TimelineFile, check_writable, read_drawable
    from ..progress import reporting
    from ..visualize.draw import accepted_suffixes

    if Path(output).suffix.lower() not in accepted_suffixes():
        error = unknown("ending of a drawing's name", Path(output).suffix, accepted_suffixes())
        raise click.UsageError(str(error))
    check_writable(output)
    found = read_drawable(file)
    if isinstance(found, TimelineFile):
        union = found.timeline.union
    else:
        union = found.circuit if isinstance(found, CircuitFile) else found.diff.a | found.diff.b
    edges = len(union)
    if top is None and edges > MANY_EDGES:
        raise EdgewiseError(
            f"{file} has {edges:,} edges, too many to be seen in a drawing; accepted: up to "
            f"{MANY_EDGES:,}. Draw the strongest with --top, such as --top 300."
        )
    with reporting() as progress:
        progress.say(f"drawing {edges if top is None else min(edges, top):,} edges")
        most = edges if top is None else top
        if isinstance(found, TimelineFile):
            drawn = draw_strip(found, output, most, title, layout)
        else:
            drawn = _draw(found, output, most, title, layout)
    if as_json:
        show.emit({"drawing": output, "edges": drawn, "edges_total": edges})
    else:
        wanted = edges if top is None else min(edges, top)
        left = wanted - drawn
        without = f"; of the {wanted:,} strongest, {left:,} lead nowhere among them" if left else ""
        show.line(f"written: {output} ({drawn:,} of {edges:,} edges{without})")


def _draw(
    found: CircuitFile | DiffFile, output: str, top: int, title: str | None, layout: str
) -> int:
    """Draw a file's circuit or diff, or its strongest edges; return how many edges were drawn."""
    from ..graphs.circuit import Circuit
    from ..graphs.files import CircuitFile
    from ..pictures import circuit_picture, diff_picture
    from ..visualize.draw import draw as render

    names = ("A", "B")
    if isinstance(found, CircuitFile):
        picture = circuit_picture(found, top)
        usual = f"{found.task['name']} in {_model(found.model)}, {found.discovery['method']}"
    else:
        names = _names(found)
        picture = diff_picture(found, names, top)
        usual = f"{names[0]} and {names[1]}"
    render(
        picture.subject,
        output,
        scores=picture.scores,
        names=names,
        whole=picture.whole,
        title=usual if title is None else title,
        caption=picture.caption,
        layout=layout,
    )
    shown = picture.subject
    return len(shown) if isinstance(shown, Circuit) else len(shown.a | shown.b)


def _names(found: DiffFile) -> tuple[str, str]:
    """Name a diff's two circuits by their models, or by their files if the model is one."""
    models = _model(found.a["model"]), _model(found.b["model"])
    files = [Path(str(head.get("file", "?"))).stem for head in (found.a, found.b)]
    return (files[0], files[1]) if models[0] == models[1] else models


def _model(block: Mapping[str, Any]) -> str:
    """Name a model by the last part of its name."""
    return Path(str(block["name"])).name if block["name"] else "a model"
