"""`edgewise draw`: circuits, diffs, timelines, node scores and overlaps as images."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from . import options, show
from .accepted import COUNT, FILE, option
from .given import check_percent, foreign, is_folder, read_own

if TYPE_CHECKING:
    from ..graphs.files import CircuitFile, DiffFile
    from ..visualize.charts.heat_map import ScoredSide
    from ..visualize.charts.tables import Table
    from ..visualize.pictures import Picture

Read = TypeVar("Read")

MANY_EDGES = 2000
"""Above this, a drawing takes long and shows little."""


@click.command(short_help="Draw circuits, a diff, timeline or table to SVG, PNG, PDF, HTML, DOT.")
@click.argument(
    "files",
    type=FILE,
    metavar="CIRCUIT.json|DIFF.json|TIMELINE.json|TABLE.json …",
    nargs=-1,
    required=True,
)
@option(
    "-o --output FILE",
    "Ends in .svg, .png, .pdf, .html or (edges only) .dot.",
    type=FILE,
    required=True,
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
@option(
    "--top N", "Only the N strongest edges, without those that lead nowhere among them.", type=COUNT
)
@option("--title TEXT", "Printed above; default: task, model, method.")
@click.option(
    "--layout",
    type=click.Choice(["auto", "dot", "built-in"]),
    default="auto",
    help="Who places the nodes; auto: Graphviz's dot where the machine has it, else built-in.",
)
@option(
    "--label NAME",
    "What a circuit is called, once for each; default: its model, or its file.",
    "labels",
    multiple=True,
)
@option("--absolute", "Heat map: add up absolute scores.")
@click.option(
    "--order",
    type=click.Choice(["given", "clustered"]),
    default="given",
    help="Overlap: clustered puts alike circuits together.",
)
@option(
    "--roles ROLES.json",
    "Write above each head of a circuit what `edgewise roles` found; a diff made with --roles "
    "needs no file.",
    type=FILE,
)
@option(
    "--model MODEL",
    "The model of a circuit of another tool; needed for edge lists alone, which tell no graph.",
    type=FILE,
)
@options.family_option
@options.percent_option
@options.licence_option
@options.json_option
def draw(as_json: bool, **given: Any) -> None:
    """Draw the circuit, diff or timeline of a file, node scores, or how alike circuits are.

    Layers run upward; colours tell q, k and v edges apart, or what only one circuit has, or, of a
    timeline, what is new and what is there for the last time; an edge's width follows its score.
    Of a diff whose models were compared, solid edges changed; faint ones did not, or are unstable.
    """
    request = Request(**given)
    request.check()
    options.claim(request.output, *request.files, *filter(None, [request.roles]))
    makers = {"edges": _draw_edges, "heat-map": _draw_heat_map, "overlap": _draw_overlap}
    facts, words = makers[request.kind](request)
    if as_json:
        show.emit({"drawing": request.output, **facts})
    else:
        show.line(f"written: {request.output} ({words})")


@dataclass(frozen=True)
class Request:
    """What is to be drawn, by the command's options."""

    files: tuple[str, ...]
    output: str
    kind: str
    top: int | None
    title: str | None
    layout: str
    labels: tuple[str, ...]
    absolute: bool
    order: str
    roles: str | None
    model: str | None
    percent: float | None = None
    try_family: str | None = None

    def check(self) -> None:
        """Refuse an ending that this drawing cannot have, and options of another kind."""
        from ..graphs.errors import unknown
        from ..graphs.files.exchange import is_foreign
        from ..visualize.draw import accepted_suffixes

        suffix, accepted = Path(self.output).suffix, accepted_suffixes(scene=self.kind != "edges")
        if suffix.lower() not in accepted:
            raise click.UsageError(str(unknown("ending of a drawing's name", suffix, accepted)))
        if self.kind == "edges" and len(self.files) > 1:
            raise click.UsageError(
                f"{len(self.files)} files were given; one circuit or diff is drawn at a time. "
                "Compare two with `edgewise diff`, or several with --as overlap."
            )
        if self.kind == "edges" and self.files[0].endswith(".safetensors"):
            raise click.UsageError(
                f"{self.files[0]} holds no circuit; of a scores file the node scores can be drawn, "
                "with --as heat-map."
            )
        check_percent(self.percent, *self.files)
        if self.try_family is not None and self.model is None:
            raise click.UsageError("--try-family says how --model is described; give that too.")
        if self.model is not None and not any(map(is_foreign, self.files)):
            raise click.UsageError("--model is for circuits of other tools; these name theirs.")
        for given, flag, kinds in (
            (self.absolute, "--absolute", ["heat-map"]),
            (self.order != "given", "--order", ["overlap"]),
            (self.roles is not None, "--roles", ["edges"]),
            (self.labels, "--label", ["heat-map", "overlap"]),
        ):
            if given and self.kind not in kinds:
                belongs = " and ".join(f"--as {kind}" for kind in kinds)
                raise click.UsageError(f"{flag} belongs to {belongs}.")

    def titled(self, usual: str) -> str:
        """Return the title that was given, or else the usual one."""
        return usual if self.title is None else self.title

    def named(self, names: Sequence[str]) -> list[str]:
        """Return the labels that were given, one for each circuit, or else these names."""
        if self.labels and len(self.labels) != len(names):
            raise click.UsageError(
                f"--label was given {len(self.labels)} times for {len(names)} circuits; give one "
                "for each."
            )
        if len(set(self.labels)) < len(self.labels):
            raise click.UsageError("two circuits have the same --label; give each its own.")
        return list(self.labels or names)


Outcome = tuple[Mapping[str, object], str]
"""What a drawing shows, for programs and for people."""


def _draw_edges(request: Request) -> Outcome:
    from ..graphs.errors import EdgewiseError
    from ..graphs.files import CircuitFile, TimelineFile, read_drawable
    from ..progress import reporting
    from ..visualize.charts.tables import TABLES
    from ..visualize.charts.timeline import draw_checkpoints
    from ..visualize.draw import draw as render

    (path,) = request.files
    found = _own(request, path, read_drawable)
    if isinstance(found, TABLES):
        return _draw_table(request, found)
    if request.roles is not None and not isinstance(found, CircuitFile):
        raise EdgewiseError(
            f"--roles is for a circuit, and {path} is none. Of a diff, measure the roles in both "
            "models: `edgewise diff A.json B.json --roles -o diff.json`, then draw that."
        )
    if isinstance(found, TimelineFile):
        whole = found.timeline.union
    else:
        whole = found.circuit if isinstance(found, CircuitFile) else found.diff.a | found.diff.b
    edges = len(whole)
    if request.top is None and edges > MANY_EDGES:
        raise EdgewiseError(
            f"{path} has {edges:,} edges, too many to be seen in a drawing; accepted: up to "
            f"{MANY_EDGES:,}. Draw the strongest with --top, such as --top 300."
        )
    most = min(edges, request.top or edges)
    with reporting() as progress:
        progress.say(f"drawing {most:,} edges")
        if isinstance(found, TimelineFile):
            usual = f"{found.task['name']} over {len(found.timeline)} checkpoints"
            title, layout = request.titled(f"{usual}, {found.discovery['method']}"), request.layout
            drawn = draw_checkpoints(found, request.output, most, title=title, layout=layout)
        else:
            picture = _picture(found, most, request)
            render(picture.subject, request.output, picture.drawing, layout=request.layout)
            drawn = picture.edges
    which = f"; the strongest that lead somewhere, {most:,} at most" if drawn < most else ""
    return {"edges": drawn, "edges_total": edges}, f"{drawn:,} of {edges:,} edges{which}"


def _draw_table(request: Request, found: Table) -> Outcome:
    """Draw a table, such as a matrix or a trace."""
    from ..visualize.charts.tables import table_chart
    from ..visualize.draw import accepted_suffixes, write_scene

    chart = table_chart(found)
    for given, flag in ((request.top, "--top"), (request.roles, "--roles")):
        if given is not None:
            raise click.UsageError(f"{flag} is for circuits; {request.files[0]} is {chart.what}.")
    if Path(request.output).suffix.lower() == ".dot":
        endings = ", ".join(accepted_suffixes(scene=True))
        raise click.UsageError(f"{chart.what} is no graph, so it has no .dot; accepted: {endings}.")
    write_scene(chart.draw(request.titled(chart.title)), request.output)
    words = ", ".join(f"{count} {what}" for what, count in chart.counts.items())
    return {"kind": chart.kind, **chart.counts}, words


def _own(
    request: Request, path: str, read: Callable[[str], Read], beside: CircuitFile | None = None
) -> Read | CircuitFile:
    """Read a file of this project, or make one of another tool's circuit, on another's graph."""
    from ..graphs.files.exchange import is_foreign
    from ..steps.imported import import_circuit, unnamed_file

    if not is_foreign(path):
        return read_own(path, read)
    found = foreign(path, request.percent if is_folder(path) else None)
    if request.model is not None:
        return import_circuit(found, request.model, try_family=request.try_family).file
    if beside is None:
        return unnamed_file(found)
    return unnamed_file(found, beside.circuit.graph, beside.model["d_model"])


def _picture(found: CircuitFile | DiffFile, top: int, request: Request) -> Picture:
    """Choose what of a circuit or a diff is drawn, with its title and a circuit's head roles."""
    from ..graphs.files import CircuitFile
    from ..visualize.pictures import circuit_picture, diff_picture

    if isinstance(found, CircuitFile):
        picture = circuit_picture(found, top)
        usual = _usual_title(found)
        labels = (
            dict(picture.drawing.labels) if request.roles is None else _roles(found, request.roles)
        )
    else:
        a, b = _names_in(found)
        picture = diff_picture(found, (a, b), top)
        usual, labels = f"{a} and {b}", dict(picture.drawing.labels)
    drawing = replace(picture.drawing, title=request.titled(usual), labels=labels)
    return picture._replace(drawing=drawing)


def _usual_title(found: CircuitFile) -> str:
    """Return a circuit's title: its task, model and method, or the file it was imported from."""
    name, source = Path(str(found.model["name"] or "a model")).name, found.discovery.get("source")
    if isinstance(source, Mapping):
        where = f" in {name}" if found.model["name"] else ""
        return f"{source.get('file')} of {source.get('tool')}{where}"
    return f"{found.task['name']} in {name}, {found.discovery['method']}"


def _roles(found: CircuitFile, path: str) -> dict[str, str]:
    from ..graphs.errors import EdgewiseError
    from ..graphs.files import read_roles
    from ..graphs.roles import labels

    models = read_roles(path).models
    for one in models:
        if one.model.get("weights_sha256", "") == found.model["weights_sha256"]:
            return labels(one.heads, most=1)
    names = ", ".join(str(one.model["name"]) for one in models)
    raise EdgewiseError(
        f"{path} has the head roles of {names}, whose weights are not those of the circuit's model "
        f"({found.model['name']}); accepted: roles measured in that model."
    )


def _draw_heat_map(request: Request) -> Outcome:
    from ..visualize.charts.heat_map import draw_heat_map
    from ..visualize.draw import write_scene

    sides = _sides(request)
    names = [side.name for side in sides]
    title = request.titled(f"Node scores of {' and '.join(names)}")
    write_scene(draw_heat_map(sides, title=title, absolute=request.absolute), request.output)
    panels = [*names, "their difference"] if len(names) > 1 else names
    found = {"kind": request.kind, "panels": panels, "absolute": request.absolute}
    return found, f"{Path(request.output).suffix[1:]}: {', '.join(panels)}"


def _sides(request: Request) -> list[ScoredSide]:
    """Read a diff file, or one or two circuit or scores files."""
    from ..graphs.files import CircuitFile, DiffFile, read_any, read_scores
    from ..graphs.levels.nodes import EDGE, NODE
    from ..graphs.scores import Scores
    from ..visualize.charts.heat_map import ScoredSide

    if len(request.files) > 2:
        raise click.UsageError(
            f"a heat map takes one or two files or a diff, not {len(request.files)}."
        )
    sides: list[ScoredSide] = []
    models: list[Mapping[str, object]] = []
    for file in request.files:
        scores = file.endswith(".safetensors")
        read = read_scores(file) if scores else _own(request, file, read_any)
        if isinstance(read, DiffFile):
            if len(request.files) > 1:
                raise click.UsageError(f"{file} is a diff: give it alone, or give circuit files.")
            both = [Scores(read.diff.a.graph, values) for values in (read.scores_a, read.scores_b)]
            return list(map(ScoredSide, request.named(_names_in(read)), both))
        if isinstance(read, CircuitFile):
            assert read.edge_scores is not None  # CircuitFile.__post_init__
            level = EDGE if read.discovery.get("level", EDGE) == EDGE else NODE
            its = Scores(read.circuit.graph, read.edge_scores, level)
            sides.append(ScoredSide("", its, True))
            models.append(read.model)
        else:
            sides.append(ScoredSide("", read.scores, False))
            models.append({})
    names = request.named(names_of(request.files, models))
    return [replace(side, name=name) for side, name in zip(sides, names, strict=True)]


def _draw_overlap(request: Request) -> Outcome:
    from ..graphs.errors import GraphMismatch
    from ..graphs.files import read_circuit
    from ..graphs.files.exchange import is_foreign
    from ..visualize.charts.overlap import draw_overlap
    from ..visualize.draw import write_scene

    if len(request.files) < 2:
        raise click.UsageError("a matrix of overlaps takes two or more circuit files.")
    own = [read_own(file, read_circuit) for file in request.files if not is_foreign(file)]
    beside = own[0] if own else None  # circuits of other tools stand on the same graph
    read = [_own(request, file, read_circuit, beside) for file in request.files]
    names = request.named(names_of(request.files, [one.model for one in read]))
    circuits = {name: one.circuit for name, one in zip(names, read, strict=True)}
    widths = [one.model["d_model"] for one in read]
    if len(set(widths)) > 1:
        listed = ", ".join(f"{name} {w}" for name, w in zip(names, widths, strict=True))
        raise GraphMismatch(
            f"the circuits' edges cannot be compared: d_model differs ({listed}). Compare circuits "
            "of models of one shape."
        )
    title = request.titled(f"Overlap of {len(request.files)} circuits")
    clustered = request.order == "clustered"
    scene, ordered, overlaps = draw_overlap(circuits, title=title, clustered=clustered)
    write_scene(scene, request.output)
    found = {
        "kind": request.kind,
        "circuits": ordered,
        "jaccard": [[one.jaccard for one in row] for row in overlaps],
        "corrected_jaccard": [[one.corrected for one in row] for row in overlaps],
    }
    return found, f"{Path(request.output).suffix[1:]}: {', '.join(ordered)}"


def _names_in(found: DiffFile) -> list[str]:
    heads = (found.a, found.b)
    return names_of([str(one.get("file", "?")) for one in heads], [one["model"] for one in heads])


def names_of(files: Sequence[str], models: Sequence[Mapping[str, object]]) -> list[str]:
    """Call circuits by their models, or, where those are equal, by their files, or by paths.

    >>> names_of(["x/a.json", "x/b.scores.safetensors"], [{"name": "gpt2"}, {"name": "gpt2"}])
    ['a', 'b']
    """
    stems = [re.sub(r"(\.scores\.safetensors)?(\.json)?$", "", Path(file).name) for file in files]
    for names in ([Path(str(model.get("name") or "?")).name for model in models], stems):
        if len(set(names)) == len(names) and "?" not in names:
            return names
    return list(files)
