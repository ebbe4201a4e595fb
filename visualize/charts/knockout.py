"""What cutting attention does, by layer: a curve for each span, and the attributes rate beside."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...graphs.files.tables.knockout import KnockoutFile
from ..legend import MARGIN, LegendSample, heading, paragraph, place_samples
from ..scene import Cell, EdgeMark, Legend, Scene, Text, straight
from ..style import DASHES, FAINT, INK, SMALL_FONT
from .methods import COLOURS
from .scales import GRID

_WIDTH, _HEIGHT, _BETWEEN, _AXIS, _SMALLEST = 420.0, 190.0, 34.0, 34.0, 7.5
READING = (
    "Attention from the spans named to the span '{to}' is cut in {window} around each layer; "
    "{what}. −1: nothing of it is left. In all layers at once: {everywhere}."
)
RATES = (
    " Below: of the {top} most probable tokens behind a layer at the subject's last token the "
    "share that are its attributes, and that are other subjects' (dashed)."
)


@dataclass(frozen=True)
class _Value:
    """A value at a layer, with the ends of its interval."""

    layer: int
    value: float
    low: float | None
    high: float | None


_Curves = Mapping[str, Sequence[_Value]]


def draw_knockout(file: KnockoutFile, *, title: str = "", caption: str | None = None) -> Scene:
    """Turn what was cut into a drawing's values; `caption`: default `READING`."""
    curves = {
        source: [
            _Value(row["layer"] or 0, row["change"], row["change_low"], row["change_high"])
            for row in file.curve(source)
        ]
        for source in file.sources
    }
    rates = {
        name: [
            _Value(row["layer"], value, row[f"{key}low"], row[f"{key}high"])  # type: ignore[literal-required]
            for row in file.attributes
            if (value := row[which]) is not None  # type: ignore[literal-required]
        ]
        for name, which, key in (
            ("its attributes", "rate", ""),
            ("other subjects' attributes", "others", "others_"),
        )
    }
    left = MARGIN + _AXIS
    width = left + _WIDTH + MARGIN
    texts, top = heading(title, width)
    top += 20
    panels = {"relative change of the answer's probability": curves}
    if file.attributes:
        panels["attributes rate at the subject's last token"] = {
            k: v for k, v in rates.items() if v
        }
    cells, lines, samples = list[Cell](), list[EdgeMark](), list[LegendSample]()
    for number, (words, own) in enumerate(panels.items()):
        texts.append(Text(left, top - 10, words, SMALL_FONT, INK, "start"))
        frame = _Frame(left, top, own, file.layers)
        grid, numbers = frame.grid()
        lines, texts = [*lines, *grid], [*texts, *numbers]
        for place, (name, values) in enumerate(own.items()):
            colour = COLOURS[place % len(COLOURS)] if not number else INK
            dashes = DASHES if place % 2 else ()  # equal curves show through each other
            cells += frame.dots(name, values, colour)
            lines += frame.lines(values, colour, dashes)
            samples.append(LegendSample(name, colour=colour, dashes=dashes))
        top += _HEIGHT + _BETWEEN
    legend, y = place_samples(samples, left, top - 2, _WIDTH)
    if caption is None:
        everywhere = ", ".join(
            f"{source} {file.everywhere(source)['change']:+.2f}".replace("-", "−")
            for source in file.sources
        )
        how = file.knockout
        layers, change = how["window"], "the answer's relative change of probability"
        caption = READING.format(
            to=how["to"], everywhere=everywhere,
            window=f"a window of {layers} layers" if layers > 1 else "one layer",
            what=f"the mean over prompts of {change}, with 95% intervals"
            if len(file.prompts) > 1 else change,
        )  # fmt: skip
        caption += RATES.format(top=how.get("top")) if file.attributes else ""
    notes, bottom = paragraph(caption, MARGIN, y, width - 2 * MARGIN)
    return Scene(
        width=round(width, 1), height=round(bottom - 6 + MARGIN, 1), title=title or caption,
        links=tuple(lines), texts=tuple(texts), legend=legend + Legend(texts=tuple(notes)),
        cells=tuple(cells),
    )  # fmt: skip


class _Frame:
    """One panel: where layers and values lie; 0 is among the values."""

    def __init__(self, x: float, y: float, curves: _Curves, layers: int) -> None:
        self.x, self.y, self.layers = x, y, layers
        found = [one.value for values in curves.values() for one in values]
        low, high = min([0.0, *found]), max([0.0, *found])
        room = 0.05 * (high - low or 1.0)
        self.least, self.most = low - (room if low else 0.0), high + room

    def at(self, layer: float, value: float) -> tuple[float, float]:
        """Place a value; an interval's end beyond the panel at its border."""
        across = (layer + 0.5) / self.layers
        up = (min(max(value, self.least), self.most) - self.least) / (self.most - self.least)
        return round(self.x + across * _WIDTH, 2), round(self.y + (1 - up) * _HEIGHT, 2)

    def grid(self) -> tuple[list[EdgeMark], list[Text]]:
        """Rule the panel, with values at its left and layers below it."""
        marks, texts = list[EdgeMark](), list[Text]()
        step = _round_step((self.most - self.least) / 6)
        for i in range(math.ceil(self.least / step), math.floor(self.most / step) + 1):
            _, y = self.at(0, i * step)
            ends = straight([(self.x, y), (self.x + _WIDTH, y)])
            marks.append(EdgeMark("", ends, GRID, 0.5 if i else 1.1))
            words = f"{i * step:g}".replace("-", "−")
            texts.append(Text(self.x - 5, y, words, _SMALLEST, FAINT, "end"))
        bottom = self.y + _HEIGHT
        every = next(n for n in (1, 2, 5, 10, 20, 50, 1000) if n * _WIDTH / self.layers >= 16)
        for layer in range(0, self.layers, every):
            x, _ = self.at(layer, 0.0)
            marks.append(EdgeMark("", straight([(x, bottom), (x, bottom + 3)]), FAINT, 0.7))
            texts.append(Text(x, bottom + 9, f"{layer}", _SMALLEST, FAINT))
        texts.append(Text(self.x - 5, bottom + 9, "layer", _SMALLEST, FAINT, "end"))
        return marks, texts

    def lines(
        self, values: Sequence[_Value], colour: str, dashes: tuple[float, ...]
    ) -> list[EdgeMark]:
        """Join a curve's values, with a bar for each interval."""
        marks = [
            EdgeMark("", straight([self.at(one.layer, one.low), self.at(one.layer, one.high)]),
                     colour, 0.7, 0.4)
            for one in values
            if one.low is not None and one.high is not None
        ]  # fmt: skip
        places = [self.at(one.layer, one.value) for one in values]
        if len(places) > 1:
            marks.append(EdgeMark("", straight(places), colour, 1.4, 1.0, dashes))
        return marks

    def dots(self, name: str, values: Sequence[_Value], colour: str) -> list[Cell]:
        """Mark a curve's values, each with what it is for who points at it."""
        marks = []
        for one in values:
            x, y = self.at(one.layer, one.value)
            words = f"{name}, layer {one.layer}: {one.value:.3f}"
            if one.low is not None and one.high is not None:
                words += f", 95% {one.low:.3f} to {one.high:.3f}"
            marks.append(Cell(f"{name} {one.layer}", x - 1.4, y - 1.4, 2.8, 2.8, colour, words))
        return marks


def _round_step(least: float) -> float:
    """Return the smallest of 1, 2, 5, 10, … of some power of ten that is no less."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(n * power for n in (1, 2, 5, 10) if n * power >= least * (1 - 1e-9))
