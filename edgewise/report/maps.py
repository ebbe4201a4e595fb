"""Heat maps of node scores and matrices of overlaps, from files, as drawings.

A node's score is the sum of the scores of its edges out: of those that a circuit keeps, or, from a
scores file, of all. Signed by default, so that what helps and what hurts cancel as they do when
the node is ablated; of EAP and EAP-IG the signed sum over all edges is the node's own attribution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..graphs.errors import EdgewiseError, GraphMismatch

if TYPE_CHECKING:
    from ..graphs.circuit import Circuit
    from ..graphs.files import DiffFile
    from ..graphs.overlap import Overlap
    from ..graphs.scores import Scores
    from ..visualize.scene import Scene


@dataclass(frozen=True)
class ScoredSide:
    """Hold one panel's scores: what it is called, and whether only a circuit's edges have some."""

    name: str
    scores: Scores
    kept: bool = True


def draw_heat_map(sides: Sequence[ScoredSide], *, title: str = "", absolute: bool = False) -> Scene:
    """Draw the node scores of one circuit, or of two with their difference.

    Raises:
        EdgewiseError: more than two.
        GraphMismatch: two on unequal graphs.
    """
    from ..visualize.charts.heat_map import make_heat_map, panels_of

    if not 1 <= len(sides) <= 2:
        raise EdgewiseError(
            f"a heat map of {len(sides)} circuits cannot be drawn; accepted: one, two, or a diff."
        )
    graph = sides[0].scores.graph
    differences = graph.differences(sides[-1].scores.graph)
    if differences:
        raise GraphMismatch(
            f"{sides[0].name} and {sides[1].name} cannot be compared node by node: their graphs "
            f"differ in {'; '.join(differences)}. Draw each alone, or compare what their heads do "
            "with `edgewise roles`."
        )
    values = [side.scores.by_sender(absolute=absolute) for side in sides]
    panels = panels_of([side.name for side in sides], values)
    return make_heat_map(graph, panels, title=title, caption=_reading(sides, absolute=absolute))


def _reading(sides: Sequence[ScoredSide], *, absolute: bool) -> str:
    """Say how a heat map is read."""
    which = "its edges out that the circuit keeps" if sides[0].kept else "all its edges out"
    if len({side.kept for side in sides}) > 1:
        which = "its edges out (of a circuit those it keeps, of a scores file all)"
    words = f"The score of a node is the sum of the {'absolute ' * absolute}scores of {which}"
    if not absolute:
        words += "; above 0, ablating them raises the loss: the node helps"
    if len(sides) == 2:
        words += (
            f". At the right {sides[1].name} less {sides[0].name}; a node without a score counts "
            "as 0 there if the other has one. Its colours have a scale of their own"
        )
    return words + ". Colours follow the square root of a value, so that weak ones are seen."


def diff_sides(file: DiffFile, names: tuple[str, str]) -> list[ScoredSide]:
    """Return the two sides of a diff file."""
    from ..graphs.scores import Scores

    graph = file.diff.a.graph
    both = zip(names, (file.scores_a, file.scores_b), strict=True)
    return [ScoredSide(name, Scores(graph, values)) for name, values in both]


def draw_overlap(
    circuits: Mapping[str, Circuit], *, title: str = "", clustered: bool = False
) -> tuple[Scene, list[str], list[list[Overlap]]]:
    """Draw the overlaps of the edges of every two circuits; return names and overlaps as drawn.

    Args:
        circuits: two or more on equal graphs, by name.
        title: printed above.
        clustered: alike circuits stand together; else in the order given.

    Raises:
        EdgewiseError: a single circuit.
        GraphMismatch: the graphs differ; all that are unlike the first are named.
    """
    from ..graphs.overlap import clustered_order, pairwise_overlaps
    from ..visualize.charts.overlap import make_overlap_matrix

    names = list(circuits)
    overlaps = pairwise_overlaps(list(circuits.values()), names)
    order = clustered_order(overlaps) if clustered else range(len(names))
    names = [names[i] for i in order]
    overlaps = [[overlaps[i][j] for j in order] for i in order]
    return make_overlap_matrix(names, overlaps, title=title), names, overlaps


def label_files(paths: Sequence[str | Path], models: Sequence[Mapping[str, Any]]) -> list[str]:
    """Call files by their models, or, where those are equal, by their own names, or paths.

    >>> label_files(["x/a.json", "x/b.json"], [{"name": "gpt2"}, {"name": "gpt2"}])
    ['a', 'b']
    """
    choices = (
        [Path(str(model.get("name") or "?")).name for model in models],
        [stem(path) for path in paths],
    )
    for names in choices:
        if len(set(names)) == len(names) and "?" not in names:
            return names
    return [f"{path}" for path in paths]


def stem(path: str | Path) -> str:
    """Return a file's name without its ending.

    >>> stem("x/ioi.scores.safetensors"), stem("x/ioi.v2.json")
    ('ioi', 'ioi.v2')
    """
    name = Path(path).name
    return name.removesuffix(".scores.safetensors").removesuffix(".json")
