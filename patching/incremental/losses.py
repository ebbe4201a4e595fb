"""Losses of many questions, known as well as is needed to decide them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

MOST_AT_ONCE = 32  # losses that are taken in full together


class LossBounds(NamedTuple):
    """Bounds of n losses, and of the rise of each above the one before; float64 [n]."""

    low: np.ndarray
    high: np.ndarray
    rise_low: np.ndarray
    rise_high: np.ndarray


def exactly(losses: np.ndarray) -> LossBounds:
    """Bound losses that are known; by how much the first one rises is not."""
    rise = np.diff(losses)
    low, high = (np.concatenate(([sign * np.inf], rise)) for sign in (-1, 1))
    return LossBounds(losses, losses, low, high)


class BoundSource(Protocol):
    """Where n losses are known better, and with `leads`, as number −1, that they start from."""

    leads: bool

    def sharpen(self, start: int, stop: int) -> LossBounds:
        """Know some of the losses better; return the bounds of all."""

    def know(self, start: int, stop: int) -> LossBounds:
        """Know some of the losses exactly; return the bounds of all."""


class Losses:
    """Losses of n questions about a circuit of loss `before`, as bounds that `source` sharpens."""

    def __init__(
        self, bounds: LossBounds, source: BoundSource | None = None, before: Loss | None = None
    ) -> None:
        self.bounds, self.before, self.source = bounds, before, source
        self._block, self._next = 1, -MOST_AT_ONCE

    def __len__(self) -> int:
        return len(self.bounds.low)

    def __getitem__(self, index: int) -> Loss:
        return Loss(self, index)

    def __iter__(self) -> Iterator[Loss]:
        return (self[index] for index in range(len(self)))

    def sharpen(self, index: int) -> bool:
        """Know a loss better; where many are asked for in a row, the next ones are taken along."""
        if self.source is None:
            return False
        near = index <= self._next + self._block
        self._block = min(MOST_AT_ONCE, 2 * self._block) if near else 2
        self._next = min(len(self), index + self._block)
        self.bounds = self.source.sharpen(index, self._next)
        return True

    def values(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Return losses exactly, all or those from start to stop, float64."""
        low, high = (bound[start:stop] for bound in self.bounds[:2])
        if self.source is not None and not np.array_equal(low, high):
            self.bounds = self.source.know(start, len(self) if stop is None else stop)
        return self.bounds.low[start:stop]

    def rise(self, index: int) -> float:
        """Return by how much a loss exceeds the one before."""
        _, _, low, high = self.bounds
        if low[index] != high[index] and self.source is not None and self.source.leads:
            self.bounds = self.source.know(index - 1, index + 1)
            return float(self.bounds.rise_low[index])
        if low[index] == high[index]:
            return float(low[index])
        before = self[index - 1] if index else self.before
        assert before is not None  # who asks for the first one's rise has given it
        return self[index].value() - before.value()


@dataclass(frozen=True)
class Loss:
    """One of several losses."""

    losses: Losses
    index: int

    @property
    def low(self) -> float:
        """Return the lower bound."""
        return float(self.losses.bounds.low[self.index])

    @property
    def high(self) -> float:
        """Return the upper bound."""
        return float(self.losses.bounds.high[self.index])

    def refine(self) -> bool:
        """Know the loss better; return False if it is known already."""
        return self.low != self.high and self.losses.sharpen(self.index)

    def value(self) -> float:
        """Return the loss exactly."""
        while self.refine():
            pass
        return self.low

    def follows(self, other: Loss) -> bool:
        """Tell whether another loss is the one before."""
        if self.index:
            return other.losses is self.losses and other.index == self.index - 1
        return other is self.losses.before

    def rise(self, old: Loss) -> tuple[float, float]:
        """Bound by how much this exceeds another loss."""
        least, most = self.low - old.high, self.high - old.low
        if not self.follows(old):
            return least, most
        _, _, low, high = self.losses.bounds
        return max(least, float(low[self.index])), min(most, float(high[self.index]))

    def refine_rise(self, old: Loss) -> bool:
        """Know better how much this exceeds another loss; return False if it is known."""
        if not self.follows(old):
            return old.refine() or self.refine()
        _, _, low, high = self.losses.bounds
        if low[self.index] == high[self.index]:
            return False
        source = self.losses.source
        if self.index or (source is not None and source.leads):
            return self.losses.sharpen(self.index)
        return self.refine() or old.refine()


def rises(new: Loss, old: Loss, threshold: float, *, absolute: bool = False) -> bool:
    """Tell whether a loss rises (or, if `absolute`, changes) by a threshold or more."""
    while True:
        least, most = new.rise(old)
        if absolute:
            least, most = max(least, -most, 0.0), max(most, -least)
        if least >= threshold or most < threshold or not new.refine_rise(old):
            return least >= threshold


def known(losses: np.ndarray, before: Loss | None = None) -> Losses:
    """Wrap losses that are known exactly."""
    return Losses(exactly(losses), before=before)
