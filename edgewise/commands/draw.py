"""`edgewise draw`: circuits and diffs as images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import draw_maps, options, show
from .timeline import draw_strip

if TYPE_CHECKING:
    from ..graphs.files import CircuitFile, DiffFile

MANY_EDGES = 2000
"""Above this, a drawing takes long and shows little."""


LABEL_HELP = "What a circuit is called, once for each; default: its model, or its file."


@click.command(short_help="Draw circuits, a diff or a timeline to SVG, PNG, PDF, HTML, DOT.")
@click.argument("files", metavar="CIRCUIT.json|DIFF.json|TIMELINE.json …", nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="FILE",
    help="Ends in .svg, .png, .pdf, .html or (edges only) .dot.",
)
@click.option(
    "--as",
    "kind",
    type=click.Choice(["edges", "heat-map", "overlap"]),
    default="edges",
    help="edges: the circuit, diff or timeline itself. heat-map: node scores by layer and head, of "
    "a diff, of one or two circuit files (their kept edges) or scores files (all edges). overlap: "
    "how alike every two of several circuits are.",
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
@click.option("--label", "labels", multiple=True, metavar="NAME", help=LABEL_HELP)
@click.option("--absolute", is_flag=True, help="Heat map: add up absolute scores.")
@click.option(
    "--order",
    type=click.Choice(["given", "clustered"]),
    default="given",
    help="Overlap: clustered puts alike circuits together.",
)
@click.option(
    "--roles",
    metavar="ROLES.json",
    help="Write above each head of a circuit what `edgewise roles` found; a diff made with --roles "
    "needs no file.",
)
@options.json_option
def draw(
    files: tuple[str, ...],
    output: str,
    kind: str,
    top: int | None,
    title: str | None,
    layout: str,
    labels: tuple[str, ...],
    absolute: bool,
    order: str,
    roles: str | None,
    as_json: bool,
) -> None:
    """Draw the circuit, diff or timeline of a file, node scores, or how alike circuits are.

    Layers run upward; colours tell q, k and v edges apart, or what only one circuit has, or, of a
    timeline, what is new and what is there for the last time; an edge's width follows its score.
    Where a diff has a noise floor, faint edges are unstable and solid ones changed significantly.
    """
    _check_request(kind, files, output, absolute, order, labels)
    if roles is not None and kind != "edges":
        raise click.UsageError("--roles belongs to --as edges.")
    options.claim(output, *files, *([] if roles is None else [roles]))
    if kind == "heat-map":
        draw_maps.tell(draw_maps.heat_map(files, output, labels, title, absolute), as_json)
    elif kind == "overlap":
        draw_maps.tell(draw_maps.overlap(files, output, labels, title, order), as_json)
    else:
        _draw_edges(files[0], output, top, title, layout, roles, as_json)


def _check_request(
    kind: str,
    files: tuple[str, ...],
    output: str,
    absolute: bool,
    order: str,
    labels: tuple[str, ...],
) -> None:
    """Refuse an ending that this drawing cannot have, and options of another kind of drawing."""
    from ..graphs.errors import unknown
    from ..visualize.draw import accepted_suffixes

    accepted = accepted_suffixes(scene=kind != "edges")
    if Path(output).suffix.lower() not in accepted:
        error = unknown("ending of a drawing's name", Path(output).suffix, accepted)
        raise click.UsageError(str(error))
    if kind == "edges" and len(files) > 1:
        raise click.UsageError(
            f"{len(files)} files were given; one circuit or diff is drawn at a time. Compare two "
            "with `edgewise diff`, or several with --as overlap."
        )
    for given, option, of in (
        (absolute, "--absolute", "heat-map"),
        (order != "given", "--order", "overlap"),
    ):
        if given and kind != of:
            raise click.UsageError(f"{option} belongs to --as {of}.")
    if labels and kind == "edges":
        raise click.UsageError("--label belongs to --as heat-map and --as overlap.")


def _draw_edges(
    file: str,
    output: str,
    top: int | None,
    title: str | None,
    layout: str,
    roles: str | None,
    as_json: bool,
) -> None:
    """Draw a circuit's, a diff's or a timeline's edges and print what was drawn."""
    from ..graphs.errors import EdgewiseError
    from ..graphs.files import CircuitFile, TimelineFile, read_drawable
    from ..progress import reporting

    found = read_drawable(file)
    if roles is not None and not isinstance(found, CircuitFile):
        raise EdgewiseError(
            f"--roles is for a circuit, and {file} is none. Of a diff, measure the roles in both "
            "models: `edgewise diff A.json B.json --roles -o diff.json`, then draw that."
        )
    named = {} if roles is None or not isinstance(found, CircuitFile) else _roles(found, roles)
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
            drawn = _draw(found, output, most, title, layout, named)
    if as_json:
        show.emit({"drawing": output, "edges": drawn, "edges_total": edges})
    else:
        wanted = edges if top is None else min(edges, top)
        left = wanted - drawn
        without = f"; of the {wanted:,} strongest, {left:,} lead nowhere among them" if left else ""
        show.line(f"written: {output} ({drawn:,} of {edges:,} edges{without})")


def _draw(
    found: CircuitFile | DiffFile,
    output: str,
    top: int,
    title: str | None,
    layout: str,
    roles: Mapping[str, str],
) -> int:
    """Draw a file's circuit or diff, or its strongest edges; return how many edges were drawn."""
    from ..graphs.circuit import Circuit
    from ..graphs.files import CircuitFile
    from ..report.pictures import circuit_picture, diff_picture
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
        fade=picture.fade,
        labels=picture.labels or roles,
        title=usual if title is None else title,
        caption=picture.caption,
        layout=layout,
    )
    shown = picture.subject
    return len(shown) if isinstance(shown, Circuit) else len(shown.a | shown.b)


def _roles(found: CircuitFile, path: str) -> dict[str, str]:
    """Read what the heads of a circuit's model do.

    Raises:
        EdgewiseError: the file is of other models.
    """
    from ..graphs.errors import EdgewiseError
    from ..graphs.files import read_roles
    from ..graphs.roles import labels

    models = read_roles(path).models
    wanted = found.model["weights_sha256"]
    for one in models:
        if one.model["weights_sha256"] == wanted:
            return labels(one.heads, most=1)
    names = ", ".join(str(one.model["name"]) for one in models)
    raise EdgewiseError(
        f"{path} has the head roles of {names}, whose weights are not those of the circuit's model "
        f"({found.model['name']}); accepted: roles measured in that model."
    )


def _names(found: DiffFile) -> tuple[str, str]:
    """Name a diff's two circuits by their models, or by their files if the model is one."""
    models = _model(found.a["model"]), _model(found.b["model"])
    files = [Path(str(head.get("file", "?"))).stem for head in (found.a, found.b)]
    return (files[0], files[1]) if models[0] == models[1] else models


def _model(block: Mapping[str, Any]) -> str:
    """Name a model by the last part of its name."""
    return Path(str(block["name"])).name if block["name"] else "a model"
