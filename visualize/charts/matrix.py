"""Tasks × circuits: two grids, what each circuit keeps of each task and what is left without it."""

from __future__ import annotations

from ...graphs.files.tables.matrix import MatrixFile, MatrixRow
from ..legend import MARGIN, heading, paragraph, wrap
from ..scene import Cell, Legend, Scene, Text
from ..style import FAINT, INK, PAPER, SMALL_FONT, text_width
from .scales import ABSENT, RISING, SCALE_HEIGHT, Scale, legend_bar

_CELL, _ROW, _LINE, _WIDEST, _BETWEEN = 52.0, 27.0, 11.0, 160.0, 40.0
PANELS = {"kept": "faithfulness of each circuit", "cut": "what is left without it"}
READING = (
    "Rows are tasks, columns circuits, numbered as in the list. In each cell the value with, below "
    "it, the median of random circuits of that size. A circuit that is a task's own keeps that "
    "task and leaves little of it. Colours go from 0 to 1; a dash: full model and no edge do not "
    "differ beyond chance."
)


def draw_matrix(file: MatrixFile, *, title: str = "", caption: str = READING) -> Scene:
    """Turn a matrix into a drawing's values."""
    tasks, circuits = ([one["name"] for one in many] for many in (file.tasks, file.circuits))
    labels = [wrap(name, _WIDEST, SMALL_FONT) for name in tasks]
    gutter = max(text_width(line, SMALL_FONT) for lines in labels for line in lines)
    row = max(_ROW, max(map(len, labels)) * _LINE + 4)
    widest = max(text_width(words, SMALL_FONT) for words in PANELS.values())
    left, panel = MARGIN + gutter + 14, max(len(circuits) * _CELL, widest)
    width = max(left + 2 * panel + _BETWEEN + MARGIN, 430.0)
    texts, top = heading(title, width)
    top += 34
    scale, cells = Scale(1.0, None, RISING, root=False), list[Cell]()
    for i, lines in enumerate(labels):
        middle = top + (i + 0.5) * row
        for n, words in enumerate(lines):
            y = middle - (len(lines) - 1) * _LINE / 2 + n * _LINE
            texts.append(Text(left - 8, y, words, SMALL_FONT, INK, "end"))
    for number, (table, words) in enumerate(PANELS.items()):
        x = left + number * (panel + _BETWEEN)
        texts.append(Text(x, top - 24, words, SMALL_FONT, INK, "start"))
        for j, name in enumerate(circuits):
            texts.append(Text(x + (j + 0.5) * _CELL, top - 8, f"{j + 1}", SMALL_FONT, FAINT))
            for i, task in enumerate(tasks):
                found = file.row(table, task, name)
                fill = ABSENT if found["f"] is None else scale.colour(max(0.0, found["f"]))
                corner = (x + j * _CELL, top + i * row)
                key = f"{table} {i + 1},{j + 1}"
                cells.append(Cell(key, *corner, _CELL - 0.8, row - 0.8, fill, _tooltip(found)))
                texts += _inside(found, fill, corner[0] + _CELL / 2, corner[1] + row / 2)
    y = top + len(tasks) * row + 18
    bars, numbers = legend_bar(scale, "value", MARGIN + 52, y)
    listed = ", ".join(f"{j + 1} {name}" for j, name in enumerate(circuits))
    notes, bottom = paragraph(
        f"Circuits: {listed}. {caption}", MARGIN, y + SCALE_HEIGHT, width - 2 * MARGIN
    )
    return Scene(
        width=round(width, 1), height=round(bottom - 6 + MARGIN, 1), title=title or caption,
        texts=tuple(texts), legend=Legend(texts=(*numbers, *notes)), cells=(*cells, *bars),
    )  # fmt: skip


def _inside(found: MatrixRow, fill: str, x: float, y: float) -> list[Text]:
    """Place a cell's numbers, dark on light and light on dark."""
    red, green, blue = bytes.fromhex(fill[1:])
    colour = PAPER if 0.299 * red + 0.587 * green + 0.114 * blue < 140 else INK
    value, random = (_short(found[key]) for key in ("f", "random"))
    return [Text(x, y - 5, value, 8.5, colour, bold=True), Text(x, y + 6, random, 7.0, colour)]


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}".replace("-", "−")


def _tooltip(found: MatrixRow) -> str:
    words = f"{found['circuit']} on {found['task']}  {_short(found['f'])}"
    if found["low"] is not None:
        words += f"  95% {_short(found['low'])} to {_short(found['high'])}"
    return f"{words}  random {_short(found['random'])}"
