"""A matrix of overlaps: the Jaccard index of every two of N circuits, and corrected for chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...graphs.calls.typed import typed
from ...graphs.circuit import Circuit
from ...graphs.errors import EdgewiseError
from ...graphs.overlap import Overlap, clustered_order, pairwise_overlaps
from ..legend import MARGIN, heading, paragraph, wrap
from ..scene import Cell, Legend, Scene, Text
from ..style import FAINT, INK, PAPER, SMALL_FONT, text_width
from .scales import ABSENT, BAR, RISING, SCALE_HEIGHT, Scale, legend_bar

_CELL, _ROW, _LINE, _WIDEST = 36.0, 27.0, 11.0, 220.0
READING = (
    "In each cell the Jaccard index of the two circuits' edges, below it the same corrected for "
    "chance: 0 is what random circuits of these sizes share on average, 1 is equality. On the "
    "diagonal the numbers of edges."
)


@typed
def draw_overlap(
    circuits: Mapping[str, Circuit], *, title: str = "", clustered: bool = False
) -> tuple[Scene, list[str], list[list[Overlap]]]:
    """Draw the overlaps of every two of some circuits; return names and overlaps as drawn.

    `clustered`: alike circuits stand together; else in the order given.

    Raises:
        EdgewiseError: a single circuit.
        GraphMismatch: the graphs differ; all that are unlike the first are named.
    """
    names = list(circuits)
    overlaps = pairwise_overlaps(list(circuits.values()), names)
    if clustered:
        order = clustered_order(overlaps)
        names = [names[i] for i in order]
        overlaps = [[overlaps[i][j] for j in order] for i in order]
    return make_overlap_matrix(names, overlaps, title=title), names, overlaps


@typed
def make_overlap_matrix(
    names: Sequence[str],
    overlaps: Sequence[Sequence[Overlap]],
    *,
    title: str = "",
    caption: str = READING,
) -> Scene:
    """Turn the overlaps of N circuits, [i][j], into a drawing's values.

    Raises:
        EdgewiseError: the overlaps are not N by N.

    >>> same, other = Overlap(9, 2, 2, 2), Overlap(9, 2, 2, 1)
    >>> scene = make_overlap_matrix(["a", "b"], [[same, other], [other, same]])
    >>> [cell.tooltip for cell in scene.cells if cell.name][1]
    'a and b  Jaccard 0.3333  corrected 0.2088  shared 1 of 3'
    """
    count = len(names)
    if not count or [len(row) for row in overlaps] != [count] * count:
        raise EdgewiseError(
            f"a matrix of {[len(row) for row in overlaps]} overlaps does not fit {count} names; "
            "accepted: as many rows and columns as names."
        )
    labels = [wrap(name, _WIDEST, SMALL_FONT) for name in names]
    gutter = max((text_width(line, SMALL_FONT) for lines in labels for line in lines), default=0.0)
    row = max(_ROW, max(map(len, labels)) * _LINE + 4)
    numbered = MARGIN + text_width(f"{count}", SMALL_FONT)
    left = numbered + gutter + 16
    width = max(left + count * _CELL + MARGIN, 430.0)
    texts, top = heading(title, width)
    top += 18
    scale = Scale(1.0, None, RISING, root=False)
    cells: list[Cell] = []
    for i, lines in enumerate(labels):
        middle = top + (i + 0.5) * row
        for n, words in enumerate(lines):
            y = middle - (len(lines) - 1) * _LINE / 2 + n * _LINE
            texts.append(Text(numbered + 8, y, words, SMALL_FONT, INK, "start"))
        texts.append(Text(numbered, middle, f"{i + 1}", SMALL_FONT, FAINT, "end"))
        texts.append(Text(left + (i + 0.5) * _CELL, top - 8, f"{i + 1}", SMALL_FONT, FAINT))
        for j, overlap in enumerate(overlaps[i]):
            fill = ABSENT if i == j else scale.colour(overlap.jaccard)
            tooltip, inside = f"{names[i]}  {overlap.a:,} edges", [(f"{overlap.a:,}", 0, 7.5)]
            if i != j:
                tooltip, inside = _describe(names[i], names[j], overlap)
            x, name = left + j * _CELL, f"{i + 1},{j + 1}"
            cells.append(Cell(name, x, top + i * row, _CELL - 0.8, row - 0.8, fill, tooltip))
            red, green, blue = bytes.fromhex(fill[1:])
            colour = PAPER if 0.299 * red + 0.587 * green + 0.114 * blue < 140 else INK
            for words, below, size in inside:
                where = (x + _CELL / 2, middle + below)
                texts.append(Text(*where, words, size, colour, bold=size > 8))
    y = top + count * row + 18
    bars, numbers = legend_bar(scale, "Jaccard", MARGIN + 52, y)
    notes, bottom = paragraph(caption, MARGIN, y + SCALE_HEIGHT, width - 2 * MARGIN)
    return Scene(
        width=round(max(width, MARGIN + 52 + BAR + 30), 1), height=round(bottom - 6 + MARGIN, 1),
        title=title or caption, texts=tuple(texts), legend=Legend(texts=(*numbers, *notes)),
        cells=(*cells, *bars),
    )  # fmt: skip


def _describe(a: str, b: str, overlap: Overlap) -> tuple[str, list[tuple[str, int, float]]]:
    """Return a cell's tooltip, and its numbers with how far below its middle and how large."""
    corrected, below = "none", "–"
    if overlap.corrected is not None:
        corrected = f"{overlap.corrected:.4g}"
        below = f"{overlap.corrected:.2f}".replace("-", "−")
    words = f"{a} and {b}  Jaccard {overlap.jaccard:.4g}  corrected {corrected}  shared "
    words += f"{overlap.shared:,} of {overlap.a + overlap.b - overlap.shared:,}"
    return words, [(f"{overlap.jaccard:.2f}", -5, 8.5), (below, 6, 7.0)]
