"""`edgewise draw`: a circuit or a diff as an image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import options, show

if TYPE_CHECKING:
    from ..graphs.files import CircuitFile, DiffFile

MANY_EDGES = 2000
"""Above this, a drawing takes long and shows little."""


@click.command(short_help="Draw a circuit or a diff to SVG, PNG, PDF or DOT.")
@click.argument("file", metavar="CIRCUIT.json|DIFF.json")
@click.option(
    "-o", "--output", required=True, metavar="FILE", help="Ends in .svg, .png, .pdf or .dot."
)
@click.option("--top", type=click.IntRange(1), metavar="N", help="Only the N strongest edges.")
@click.option("--title", metavar="TEXT", help="Printed above; default: task, model, method.")
@click.option(
    "--layout",
    type=click.Choice(["auto", "dot", "built-in"]),
    default="auto",
    help="Who places the nodes: Graphviz's dot where the machine has it (auto), or nobody else.",
)
@options.json_option
def draw(
    file: str, output: str, top: int | None, title: str | None, layout: str, as_json: bool
) -> None:
    """Draw the circuit or diff of a file.

    Layers run upward; colours tell q, k and v edges apart, or what only one circuit has; an edge's
    width follows its score.
    """
    from ..errors import EdgewiseError, unknown
    from ..graphs.files import CircuitFile, check_writable, read_any
    from ..progress import reporting
    from ..visualize.draw import accepted_suffixes

    if Path(output).suffix.lower() not in accepted_suffixes():
        error = unknown("ending of a drawing's name", Path(output).suffix, accepted_suffixes())
        raise click.UsageError(str(error))
    check_writable(output)
    found = read_any(file)
    edges = (
        len(found.circuit) if isinstance(found, CircuitFile) else len(found.diff.a | found.diff.b)
    )
    if top is None and edges > MANY_EDGES:
        raise EdgewiseError(
            f"{file} has {edges:,} edges, too many to be seen in a drawing; accepted: up to "
            f"{MANY_EDGES:,}. Draw the strongest with --top, such as --top 300."
        )
    with reporting() as progress:
        progress.say(f"drawing {edges if top is None else min(edges, top):,} edges")
        if isinstance(found, CircuitFile):
            drawn = draw_circuit(found, output, top=top, title=title, layout=layout)
        else:
            drawn = draw_diff(found, output, top=top, title=title, layout=layout)
    if as_json:
        show.emit({"drawing": output, "edges": drawn, "edges_total": edges})
    else:
        show.line(f"written: {output} ({drawn:,} of {edges:,} edges)")


def draw_circuit(
    file: CircuitFile, output: str, *, top: int | None, title: str | None, layout: str
) -> int:
    """Draw a circuit file's circuit, or its strongest edges; return how many edges were drawn."""
    from ..graphs.scores import Scores
    from ..visualize.draw import draw as render

    assert file.edge_scores is not None
    scores = Scores(file.circuit.graph, file.edge_scores)
    circuit = file.circuit if top is None else scores.top(top)
    if title is None:
        title = f"{file.task['name']} in {_model(file.model)}, {file.discovery['method']}"
    render(circuit, output, scores=scores, title=title, layout=layout)
    return len(circuit)


def draw_diff(
    file: DiffFile, output: str, *, top: int | None, title: str | None, layout: str
) -> int:
    """Draw a diff file's diff, or the strongest edges of both; return how many were drawn."""
    import numpy as np

    from ..graphs.diff import CircuitDiff
    from ..graphs.scores import Scores
    from ..visualize.draw import draw as render

    graph = file.diff.a.graph
    scores = (Scores(graph, file.scores_a), Scores(graph, file.scores_b))
    diff = file.diff
    if top is not None:
        strength = np.fmax(np.abs(file.scores_a), np.abs(file.scores_b))
        strongest = Scores(graph, strength).top(top)
        diff = CircuitDiff(diff.a & strongest, diff.b & strongest)
    names = tuple(_model(head["model"]) for head in (file.a, file.b))
    if names[0] == names[1]:
        names = tuple(Path(str(head.get("file", "?"))).stem for head in (file.a, file.b))
    if title is None:
        title = f"{names[0]} and {names[1]}"
    render(diff, output, scores=scores, names=(names[0], names[1]), title=title, layout=layout)
    return len(diff.a | diff.b)


def _model(block: object) -> str:
    """Name a model by the last part of its name."""
    name = block.get("name") if isinstance(block, dict) else None
    return Path(str(name)).name if name else "a model"
