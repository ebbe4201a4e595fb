"""Losses of many questions, known as well as is needed to decide them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

MOST_AT_ONCE = 32
"""Losses that are taken in full together."""

Bounds = tuple[np.ndarray, np.ndarray]


class Source(Protocol):
    """Give better bounds of n losses."""

    def sharpen(self, start: int, stop: int) -> Bounds:
        """Know some of the losses better; return the bounds of all."""
        ...

    def know(self, start: int, stop: int) -> Bounds:
        """Know some of the losses exactly; return the bounds of all."""
        ...


class Losses:
    """Hold the losses of n questions, as bounds that are sharpened when asked for.

    `low`, `high`: float64 [n]; equal where the loss is known. `source`: where they come from; None
    if all are known.
    """

    def __init__(self, low: np.ndarray, high: np.ndarray, source: Source | None = None) -> None:
        self.low, self.high = low, high
        self._source = source
        self._block, self._next = 1, -MOST_AT_ONCE

    def __len__(self) -> int:
        return len(self.low)

    def __getitem__(self, index: int) -> Loss:
        return Loss(self, index)

    def __iter__(self) -> Iterator[Loss]:
        return (self[index] for index in range(len(self)))

    def refine(self, index: int) -> bool:
        """Know a loss better; return False if it is known already.

        Where many are asked for in a row, the next ones are taken along.
        """
        if self.low[index] == self.high[index] or self._source is None:
            return False
        near = index <= self._next + self._block
        self._block = min(MOST_AT_ONCE, 2 * self._block) if near else 2
        self._next = min(len(self), index + self._block)
        self.low, self.high = self._source.sharpen(index, self._next)
        return True

    def values(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Return losses exactly, all or those from start to stop, float64."""
        some = slice(start, stop)
        if self._source is not None and not np.array_equal(self.low[some], self.high[some]):
            self.low, self.high = self._source.know(start, len(self) if stop is None else stop)
        return self.low[some]


@dataclass(frozen=True)
class Loss:
    """Hold one of several losses."""

    losses: Losses
    index: int

    @property
    def low(self) -> float:
        """Return the lower bound."""
        return float(self.losses.low[self.index])

    @property
    def high(self) -> float:
        """Return the upper bound."""
        return float(self.losses.high[self.index])

    def refine(self) -> bool:
        """Know the loss better; return False if it is known already."""
        return self.losses.refine(self.index)

    def value(self) -> float:
        """Return the loss exactly."""
        while self.refine():
            pass
        return self.low


def rises(new: Loss, old: Loss, threshold: float, *, absolute: bool = False) -> bool:
    """Tell whether a loss rises (or, if `absolute`, changes) by a threshold or more."""
    while True:
        least, most = new.low - old.high, new.high - old.low
        if absolute:
            least, most = max(least, -most, 0.0), max(most, -least)
        if least >= threshold or most < threshold:
            return least >= threshold
        if not (old.refine() or new.refine()):
            return least >= threshold


def known(losses: np.ndarray) -> Losses:
    """Wrap losses that are known exactly."""
    return Losses(losses, losses)
