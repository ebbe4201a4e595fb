"""Colour scales for values: diverging around 0, and rising from 0 to 1, with their legend bars."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..scene import Cell, Text
from ..style import FAINT, INK, ONLY_A, ONLY_B, PAPER, SMALL_FONT, mix

ABSENT, GRID = "#e6e6e6", "#cfcfcf"
BAR, _BAR_HEIGHT, _STEPS = 200.0, 9.0, 50
SCALE_HEIGHT = 30.0
"""Points that a legend bar takes with the numbers below it."""


@dataclass(frozen=True)
class Scale:
    """The colours of values: 0 is white, `largest` in size is the full colour.

    `low` and `high` are a middle and a full colour, for values below and above 0; by `root`
    colours follow the square root of |value|, so that weak values are seen beside strong ones.

    >>> scale = Scale(2.0, *DIFFERENCE)
    >>> scale.colour(0.0), scale.colour(2.0), scale.colour(-2.0), scale.colour(float("nan"))
    ('#ffffff', '#d55e00', '#0072b2', '#e6e6e6')
    """

    largest: float
    low: tuple[str, str] | None
    high: tuple[str, str]
    root: bool = True

    def colour(self, value: float) -> str:
        """Return a value's colour; grey for NaN."""
        if math.isnan(value):
            return ABSENT
        size = min(abs(value) / self.largest, 1.0) if self.largest else 0.0
        return self.at(math.copysign(size**0.5 if self.root else size, value))

    def at(self, position: float) -> str:
        """Return the colour at a position on the legend bar, from -1 (or 0) to 1."""
        middle, full = (self.low or self.high) if position < 0 else self.high
        size = 2 * abs(position)
        return mix(PAPER, middle, size) if size < 1 else mix(middle, full, size - 1)

    def value(self, position: float) -> float:
        """Return the value at a position on the legend bar."""
        size = position**2 if self.root else abs(position)
        return math.copysign(size * self.largest, position) if position else 0.0


SCORE = (("#c2a5cf", "#762a83"), ("#9fd3a4", "#1b7837"))
DIFFERENCE = (("#86bcdc", ONLY_A), ("#f0ae7f", ONLY_B))
RISING = ("#86bcdc", "#00517f")


def legend_bar(scale: Scale, words: str, x: float, y: float) -> tuple[list[Cell], list[Text]]:
    """Place a scale's bar right of its words, with numbers below; y is the bar's middle."""
    least = -1.0 if scale.low is not None else 0.0
    top, width = y - _BAR_HEIGHT / 2, BAR / _STEPS
    cells = []
    for i in range(_STEPS):
        colour = scale.at(least + (1 - least) * (i + 0.5) / _STEPS)
        cells.append(Cell("", round(x + i * width, 2), top, width, _BAR_HEIGHT, colour))
    texts = [Text(x - 8, y, words, SMALL_FONT, FAINT, "end")]
    for i in range(5):
        position = least + (1 - least) * i / 4
        number = f"{scale.value(position):.2g}".replace("-", "−", 1)
        texts.append(Text(round(x + BAR * i / 4, 2), y + 12, number, 7.5, INK))
    return cells, texts
