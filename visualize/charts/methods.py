"""Methods side by side: faithfulness of each one's strongest edges by their number, two panels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ...graphs.files.tables.methods import MethodsFile, SizeRow
from ..legend import MARGIN, LegendSample, heading, paragraph, place_samples
from ..scene import Cell, EdgeMark, Legend, Scene, Text, straight
from ..style import DASHES, FAINT, INK, SMALL_FONT
from .scales import GRID

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#4d4d4d")
"""Of methods, in the file's order; then again, dashed."""

READING = (
    "Faithfulness, on held-out pairs, of circuits of the strongest edges, with 95% intervals, by "
    "their number (on a logarithmic scale); left chosen by score, right by |score|. 1 is the whole "
    "model and 0 no edge; above 1 lies overshoot, not merit. Random scores stand beside."
)
PANELS = {"signed": "strongest by score", "absolute": "strongest by |score|"}
_WIDTH, _HEIGHT, _BETWEEN, _AXIS, _SMALLEST = 330.0, 220.0, 46.0, 30.0, 7.5


def draw_methods(file: MethodsFile, *, title: str = "", caption: str | None = None) -> Scene:
    """Turn what methods are worth into a drawing's values; `caption`: default `READING`."""
    if caption is None:
        caption = READING.replace("edges", f"{file.comparison.get('level', 'edge')}s", 1)
    rows: dict[str, list[SizeRow]] = {}
    for row in sorted(file.sizes, key=lambda row: row["edges"]):
        rows.setdefault(row["method"], []).append(row)
    left = MARGIN + _AXIS
    width = left + 2 * _WIDTH + _BETWEEN + MARGIN
    texts, top = heading(title, width)
    top += 22
    range_x, range_y = _ranges(file.sizes)
    cells, lines = list[Cell](), list[EdgeMark]()
    for number, (panel, words) in enumerate(PANELS.items()):
        x = left + number * (_WIDTH + _BETWEEN)
        texts.append(Text(x, top - 12, words, SMALL_FONT, INK, "start"))
        frame = _Frame(x, top, range_x, range_y)
        grid, numbers = frame.grid()
        lines, texts = [*lines, *grid], [*texts, *numbers]
        for place, (name, own) in enumerate(rows.items()):
            cells += frame.dots(name, panel, own, _look(name, place))
            lines += frame.lines(panel, own, _look(name, place))
    samples = [
        LegendSample(name, colour=_look(name, i)[0], dashes=_look(name, i)[1])
        for i, name in enumerate(rows)
    ]
    y = top + _HEIGHT + 32
    legend, y = place_samples(samples, left, y, width - left - MARGIN)
    notes, bottom = paragraph(caption, MARGIN, y, width - 2 * MARGIN)
    return Scene(
        width=round(width, 1), height=round(bottom - 6 + MARGIN, 1), title=title or caption,
        links=tuple(lines), texts=tuple(texts), legend=legend + Legend(texts=tuple(notes)),
        cells=tuple(cells),
    )  # fmt: skip


def _look(name: str, place: int) -> tuple[str, tuple[float, ...]]:
    """Return a method's colour and dashes; random scores are faint."""
    if name == "random":
        return FAINT, DASHES
    again = place // len(COLOURS)
    return COLOURS[place % len(COLOURS)], DASHES if again else ()


def _ranges(rows: Sequence[SizeRow]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the least and largest size, as logarithms, and faithfulness, 0 and 1 among them."""
    sizes = [math.log10(row["edges"]) for row in rows] or [0.0]
    values = [row[key] for row in rows for key in ("signed", "absolute")]
    found = [value for value in values if value is not None]
    low, high = min([0.0, *found]), max([1.0, *found])
    return (min(sizes), max(max(sizes), min(sizes) + 0.1)), (low, high + 0.05 * (high - low))


class _Frame:
    """One panel: where sizes and values lie."""

    def __init__(
        self, x: float, y: float, sizes: tuple[float, float], values: tuple[float, float]
    ) -> None:
        self.x, self.y, self.sizes, self.values = x, y, sizes, values

    def at(self, edges: int, value: float) -> tuple[float, float]:
        """Place a value; one beyond the panel, as an interval's end may be, at its border."""
        low, high = self.sizes
        least, most = self.values
        across = (math.log10(edges) - low) / (high - low)
        up = (min(max(value, least), most) - least) / (most - least)
        return round(self.x + across * _WIDTH, 2), round(self.y + (1 - up) * _HEIGHT, 2)

    def grid(self) -> tuple[list[EdgeMark], list[Text]]:
        """Rule the panel, with numbers at its left and below it."""
        marks, texts = list[EdgeMark](), list[Text]()
        least, most = self.values
        step = _step(most - least)
        for i in range(math.ceil(least / step), math.floor(most / step) + 1):
            _, y = self.at(1, i * step)
            ends = straight([(self.x, y), (self.x + _WIDTH, y)])
            marks.append(EdgeMark("", ends, GRID, 1.1 if i * step in (0.0, 1.0) else 0.5))
            words = f"{i * step:g}".replace("-", "−")
            texts.append(Text(self.x - 5, y, words, _SMALLEST, FAINT, "end"))
        for power in range(math.ceil(self.sizes[0]), math.floor(self.sizes[1]) + 1):
            x, _ = self.at(10**power, 0.0)
            bottom = self.y + _HEIGHT
            marks.append(EdgeMark("", straight([(x, bottom), (x, bottom + 4)]), FAINT, 0.7))
            texts.append(Text(x, bottom + 11, f"{10**power:,}", _SMALLEST, FAINT))
        return marks, texts

    def lines(
        self, panel: str, rows: Sequence[SizeRow], look: tuple[str, tuple[float, ...]]
    ) -> list[EdgeMark]:
        """Join a method's values, with a bar for each interval."""
        colour, dashes = look
        places, marks = list[tuple[float, float]](), list[EdgeMark]()
        for row in rows:
            value, low, high = _values(row, panel)
            if value is None:
                continue
            places.append(self.at(row["edges"], value))
            if low is not None and high is not None:
                ends = [self.at(row["edges"], end) for end in (low, high)]
                marks.append(EdgeMark("", straight(ends), colour, 0.7, 0.5))
        if len(places) > 1:
            marks.append(EdgeMark("", straight(places), colour, 1.4, 1.0, dashes))
        return marks

    def dots(
        self,
        name: str,
        panel: str,
        rows: Sequence[SizeRow],
        look: tuple[str, tuple[float, ...]],
    ) -> list[Cell]:
        """Mark a method's values, each with what it is for who points at it."""
        marks = []
        for row in rows:
            value, low, high = _values(row, panel)
            if value is None:
                continue
            x, y = self.at(row["edges"], value)
            words = f"{name}, {row['edges']:,} edges  {value:.3f}"
            if low is not None and high is not None:
                words += f"  95% {low:.3f} to {high:.3f}"
            key = f"{panel} {name} {row['edges']}"
            marks.append(Cell(key, x - 1.7, y - 1.7, 3.4, 3.4, look[0], words))
        return marks


def _values(row: SizeRow, panel: str) -> tuple[float | None, float | None, float | None]:
    found: Mapping[str, object] = row
    value, low, high = (found[key] for key in (panel, f"{panel}_low", f"{panel}_high"))
    return _number(value), _number(low), _number(high)


def _number(value: object) -> float | None:
    return value if isinstance(value, float) else None


def _step(height: float) -> float:
    """Return the round distance of the panel's lines, for about six of them."""
    power = 10.0 ** math.floor(math.log10(height / 6))
    return next(power * n for n in (1, 2, 5, 10) if height / (power * n) <= 8)
