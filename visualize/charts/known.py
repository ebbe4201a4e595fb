"""Methods × known circuits: a grid of how surely each method ranks the true edges first."""

from __future__ import annotations

from ...graphs.files.tables.known import KnownFile, ScoredRow
from ..legend import MARGIN, heading, paragraph
from ..scene import Cell, Legend, Scene, Text
from ..style import FAINT, INK, SMALL_FONT, text_width
from .scales import ABSENT, RISING, SCALE_HEIGHT, Scale, legend_bar

_CELL, _ROW, _BETWEEN = 15.0, 17.0, 14.0
READING = (
    "Each cell is a method on a known circuit: the area under the ROC curve of true against other "
    "edges, .5 (white) by chance, 1 (full colour) where every true edge ranks before all others. "
    "Grey: the method refuses the case. Columns are numbered as in the list."
)


def draw_known(file: KnownFile, *, title: str = "", caption: str = READING) -> Scene:
    """Turn scores on known circuits into a drawing's values."""
    methods = file.methods
    gutter = max(text_width(name, SMALL_FONT) for name in methods)
    left = MARGIN + gutter + 10
    kinds = list(dict.fromkeys(row["kind"] for row in file.cases))
    ordered = [row for kind in kinds for row in file.cases if row["kind"] == kind]
    width = max(left + len(ordered) * _CELL + len(kinds) * _BETWEEN + MARGIN, 430.0)
    texts, top = heading(title, width)
    top += 34
    scale, cells = Scale(1.0, None, RISING, root=False), list[Cell]()
    for i, name in enumerate(methods):
        middle = top + (i + 0.5) * _ROW
        texts.append(Text(left - 8, middle, name, SMALL_FONT, INK, "end"))
    x, before = left, ""
    for number, case in enumerate(ordered, 1):
        if case["kind"] != before:
            x += _BETWEEN if before else 0
            texts.append(Text(x, top - 24, case["kind"], SMALL_FONT, INK, "start"))
            before = case["kind"]
        if number == 1 or not number % 5:
            texts.append(Text(x + _CELL / 2, top - 8, f"{number}", SMALL_FONT, FAINT))
        for i, name in enumerate(methods):
            row = file.row(name, case["case"])
            area = None if row is None else row["AUC"]
            fill = ABSENT if area is None else scale.colour(max(0.0, 2 * area - 1))
            corner, size = (x, top + i * _ROW), (_CELL - 0.8, _ROW - 0.8)
            words = f"{name} on {case['case']}: {_said(row)}"
            cells.append(Cell(f"{name} {number}", *corner, *size, fill, words))
        x += _CELL
    y = top + len(methods) * _ROW + 18
    words = "AUC, from .5 (0 here) to 1: 2·AUC − 1"
    bars, numbers = legend_bar(scale, words, MARGIN + text_width(words, SMALL_FONT) + 14, y)
    listed = ", ".join(f"{number} {case['case']}" for number, case in enumerate(ordered, 1))
    notes, bottom = paragraph(
        f"{caption} Known circuits: {listed}.", MARGIN, y + SCALE_HEIGHT, width - 2 * MARGIN
    )
    return Scene(
        width=round(width, 1), height=round(bottom - 6 + MARGIN, 1), title=title or caption,
        texts=tuple(texts), legend=Legend(texts=(*numbers, *notes)), cells=(*cells, *bars),
    )  # fmt: skip


def _said(row: ScoredRow | None) -> str:
    """Write what a cell's tooltip tells."""
    if row is None or row["AUC"] is None:
        return "not run" if row is None else row["refused"] or "no area"
    found = [f"AUC {row['AUC']:.3f}"]
    found += [f"{key} {value:.2f}" for key in ("precision", "recall", "f")
              if isinstance(value := row.get(key), float)]  # fmt: skip
    return ", ".join(found)
