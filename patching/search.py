"""Searching: ask what ablating more edges of one port would do to the loss, then keep the answer.

Discovery algorithms that decide edge by edge talk to this interface only. Two runners are behind
it: `DenseSearch` restarts a masked run at the first changed layer and is short enough to be seen
right; `IncrementalSearch` computes only what a question changes, and the loss only as well as is
needed to decide. Both give the same answers; tests compare them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ..errors import EdgewiseError
from ..graphs.circuit import Circuit

if TYPE_CHECKING:
    from torch import Tensor

    from .incremental import IncrementalChunk
    from .readout import Reading
    from .runner import Runner

MOST_AT_ONCE = 32
"""Losses that are taken in full together."""

QUESTION_BYTES = 1 << 28
"""Memory that the questions of one pass may take."""

LOOSE = 1.0
"""Bounds move to a nearer base point when the loss is known worse than this share of a decision."""


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

    def values(self) -> np.ndarray:
        """Return all losses exactly, float64 [n]."""
        if self._source is not None and not np.array_equal(self.low, self.high):
            self.low, self.high = self._source.know(0, len(self))
        return self.low


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


class Search(Protocol):
    """Hold a current circuit and its loss, and answer questions about smaller ones."""

    questions: int

    @property
    def kept(self) -> np.ndarray:
        """Return the current circuit's mask, bool [ports, senders]."""
        ...

    @property
    def loss(self) -> Loss:
        """Return the current circuit's loss."""
        ...

    def ask(self, rows: Sequence[int], candidates: np.ndarray) -> Losses:
        """Return the losses if edges of one or more ports were ablated too.

        Args:
            rows: the ports; several must be attention ports of one layer.
            candidates: bool [n, rows, senders], the edges each question ablates.
        """
        ...

    def commit(self, rows: Sequence[int], ablated: np.ndarray, loss: Loss | None) -> None:
        """Ablate edges of ports, bool [rows, senders].

        `loss`: what `ask` said of it; None: dead ports, which change nothing.
        """
        ...

    def restart(self, kept: np.ndarray) -> None:
        """Make another circuit the current one and measure it."""
        ...


def known(losses: np.ndarray) -> Losses:
    """Wrap losses that are known exactly."""
    return Losses(losses, losses)


class DenseSearch:
    """Answer each question by a run that restarts at the first changed layer.

    Raises:
        EdgewiseError: the full model's loss is not finite.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._kept = runner.graph.reads.copy()
        self._touched = len(runner.graph.ports)  # the first port that has lost an edge
        self.questions = 0
        self._loss = known(full_loss(runner))[0]

    @property
    def kept(self) -> np.ndarray:
        """Return the current circuit's mask, bool [ports, senders]."""
        return self._kept

    @property
    def loss(self) -> Loss:
        """Return the current circuit's loss."""
        return self._loss

    def ask(self, rows: Sequence[int], candidates: np.ndarray) -> Losses:
        """Return the losses if edges of one or more ports were ablated too."""
        masks = self._kept[None].repeat(len(candidates), axis=0)
        masks[:, list(rows)] &= ~candidates
        self.questions += len(candidates)
        start = min(*rows, self._touched)
        return known(self._runner.mask_losses(masks, start_row=start))

    def commit(self, rows: Sequence[int], ablated: np.ndarray, loss: Loss | None) -> None:
        """Ablate edges of ports."""
        self._kept[list(rows)] &= ~ablated
        self._touched = min(*rows, self._touched)
        self._loss = self._loss if loss is None else loss

    def restart(self, kept: np.ndarray) -> None:
        """Make another circuit the current one and measure it."""
        self._kept = kept.copy()
        cut = (kept != self._runner.graph.reads).any(1)
        self._touched = int(cut.argmax()) if cut.any() else len(cut)
        self._loss = known(self._runner.mask_losses(kept[None]))[0]


class IncrementalSearch:
    """Answer each question by what it changes; see questions.py and readout.py.

    Edges committed to a port are taken away in every later question about it; the state is computed
    anew when another port is asked about.

    Args:
        runner: the runner whose circuits are searched.
        resolution: a difference of losses that matters (the threshold of decisions); it tells when
            bounds are worth renewing.

    Raises:
        EdgewiseError: the full model's loss is not finite.
    """

    def __init__(self, runner: Runner, resolution: float = 0.0) -> None:
        from .incremental import IncrementalChunk
        from .layout import rows_by_layer
        from .readout import make_readout

        self._runner, self._resolution = runner, resolution
        self._kept = runner.graph.reads.copy()
        self.questions = 0
        self._loss = known(full_loss(runner))[0]
        rows = rows_by_layer(runner.graph)
        chunks = list(runner.chunks())
        self._states = [IncrementalChunk(chunk, rows) for chunk in chunks]
        self._readouts = [make_readout(chunk, runner.metric) for chunk in chunks]
        self._rows: tuple[int, ...] = ()
        self._cut = np.zeros_like(self._kept)

    @property
    def kept(self) -> np.ndarray:
        """Return the current circuit's mask, bool [ports, senders]."""
        return self._kept

    @property
    def loss(self) -> Loss:
        """Return the current circuit's loss."""
        return self._loss

    @property
    def products(self) -> int:
        """Count questions whose loss took the whole unembedding."""
        return max(readout.products for readout in self._readouts)

    def ask(self, rows: Sequence[int], candidates: np.ndarray) -> Losses:
        """Return the losses if edges of one or more ports were ablated too."""
        if tuple(rows) != self._rows:
            self._renew(tuple(rows))
        self.questions += len(candidates)
        ablated = candidates | self._cut[list(rows)]
        return self._read([self._ask_chunk(state, rows, ablated) for state in self._states])

    def _ask_chunk(
        self, state: IncrementalChunk, rows: Sequence[int], ablated: np.ndarray
    ) -> Tensor:
        import torch

        from .questions import ask

        step = max(1, QUESTION_BYTES // max(state.question_bytes(row) for row in rows))
        with torch.no_grad():
            parts = [ask(state, rows, ablated[i : i + step]) for i in range(0, len(ablated), step)]
        return torch.cat(parts)

    def _read(self, streams: list[Tensor]) -> Losses:
        import torch

        pairs = zip(self._readouts, streams, strict=True)
        with torch.no_grad():
            source = _Readings(self._runner, [readout.read(stream) for readout, stream in pairs])
        return Losses(*source.bounds(), source)

    def commit(self, rows: Sequence[int], ablated: np.ndarray, loss: Loss | None) -> None:
        """Ablate edges of ports."""
        where = list(rows)
        if loss is not None:  # else nothing that the state holds depends on it
            self._cut[where] |= ablated & self._kept[where]
            if not set(rows) <= set(self._rows):
                self._rows = ()  # what was asked last reads a state that is no longer current
            self._loss = loss
            if loss.high - loss.low > LOOSE * self._resolution:
                loss.value()
        self._kept[where] &= ~ablated

    def restart(self, kept: np.ndarray) -> None:
        """Make another circuit the current one and measure it."""
        self._kept = kept.copy()
        self._cut[:] = True
        self._renew(())
        last = len(kept) - 1
        self._loss = self.ask((last,), np.zeros((1, 1, kept.shape[1]), dtype=bool))[0]
        self.questions -= 1
        self._loss.value()

    def _renew(self, rows: tuple[int, ...]) -> None:
        """Compute the state of the current circuit anew if ports have lost edges."""
        import torch

        if self._cut.any():
            with torch.no_grad():
                for state in self._states:
                    state.rebuild(self._kept.copy())
            self._cut[:] = False
        self._rows = rows


@dataclass(frozen=True)
class _Readings:
    """Average the readings of all chunks."""

    runner: Runner
    readings: list[Reading]

    def bounds(self) -> Bounds:
        from .runner import refuse_nan

        number = len(self.runner.pairs)
        low = np.sum([reading.low for reading in self.readings], axis=0) / number
        high = np.sum([reading.high for reading in self.readings], axis=0) / number
        refuse_nan(low, f"the metric '{self.runner.metric.name}'")
        return low, high

    def sharpen(self, start: int, stop: int) -> Bounds:
        import torch

        with torch.no_grad():
            for reading in self.readings:
                reading.sharpen(start, stop)
        return self.bounds()

    def know(self, start: int, stop: int) -> Bounds:
        import torch

        with torch.no_grad():
            for reading in self.readings:
                reading.know(start, stop)
        return self.bounds()


def make_search(runner: Runner, resolution: float = 0.0) -> Search:
    """Return the fastest search for a runner; see `IncrementalSearch` for `resolution`.

    What is reused between questions lies on one device: a model that is spread over several is
    searched by whole runs.
    """
    return DenseSearch(runner) if runner.model.spread else IncrementalSearch(runner, resolution)


def full_loss(runner: Runner) -> np.ndarray:
    """Return the full circuit's loss, [1].

    Raises:
        EdgewiseError: it is not finite.
    """
    losses = runner.losses([Circuit.full(runner.graph)])
    if not math.isfinite(losses[0]):
        raise EdgewiseError(
            f"the metric '{runner.metric.name}' is {losses[0]} for the full model, so no "
            "change of it can be measured; accepted: a metric that is finite on every prompt."
        )
    return losses
