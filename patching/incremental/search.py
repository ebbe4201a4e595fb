"""Searching: ask what ablating more edges of one port would do to the loss, then keep the answer.

`Search` restarts a masked run at the first changed layer and is short enough to be seen right;
`IncrementalSearch` computes only what a question changes, and the loss only as well as is needed to
decide. Both give the same answers; tests compare them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np

from ...graphs.errors import EdgewiseError
from ..engines import AUTO, TORCH
from .losses import Loss, Losses, known

if TYPE_CHECKING:
    from torch import Tensor

    from ..run.runner import Runner


class BaseKind(str, Enum):
    """What became the base point of bounds when a search was marked."""

    SAME = "same"
    MOVED = "moved"  # the marked circuit
    RENEWED = "renewed"  # the marked circuit, with another head of the vocabulary


@dataclass(frozen=True)
class Trail:
    """What a marked search's numbers follow from.

    `kept`: the mask at the last mark. `base`, `head`: those at the last mark that moved the base
    point, and at the last that renewed its head; None: the full circuit's.
    """

    kept: np.ndarray
    base: np.ndarray | None = None
    head: np.ndarray | None = None
    questions: int = 0
    products: int = 0

    def marked(self, kept: np.ndarray, mark: BaseKind, questions: int, products: int) -> Trail:
        """Return the trail after another mark."""
        base = self.base if mark is BaseKind.SAME else kept
        head = kept if mark is BaseKind.RENEWED else self.head
        return Trail(kept, base, head, questions, products)


class Search:
    """A current circuit and its loss, and answers to questions about smaller ones, by whole runs.

    `questions`: how many were asked. `kept`: the current circuit's mask, bool [ports, senders].
    """

    def __init__(self, runner: Runner) -> None:
        self._runner, self.questions = runner, 0
        self.kept = runner.graph.reads.copy()
        self._touched = len(runner.graph.ports)  # the first port that has lost an edge
        self.loss = known(runner.mask_losses(self.kept[None]))[0]
        if not math.isfinite(self.loss.low):
            raise EdgewiseError(
                f"the metric '{runner.metric.name}' is {self.loss.low} for the full model, so no "
                "change of it can be measured; accepted: a metric that is finite on every prompt."
            )

    @property
    def products(self) -> int:
        """Count questions whose loss took the whole unembedding."""
        return self.questions

    def ask(self, rows: Sequence[int], candidates: np.ndarray) -> Losses:
        """Return the losses if edges of one or more ports were ablated too.

        `rows`: the ports; several must be attention ports of one layer. `candidates`: bool
        [n, rows, senders], the edges each question ablates.
        """
        masks, start = self._masks(rows, candidates)
        return known(self._runner.mask_losses(masks, start_row=start), before=self.loss)

    def ask_each(self, rows: Sequence[int], candidates: np.ndarray) -> np.ndarray:
        """Return the same losses on each example, float64 [n, examples], all in full."""
        masks, start = self._masks(rows, candidates)
        return self._runner.mask_losses_each(masks, start_row=start)

    def _masks(self, rows: Sequence[int], candidates: np.ndarray) -> tuple[np.ndarray, int]:
        """Return the masks that are asked about, and the first port they may have changed."""
        masks = self.kept[None].repeat(len(candidates), axis=0)
        masks[:, list(rows)] &= ~candidates
        self.questions += len(candidates)
        return masks, min(*rows, self._touched)

    def commit(self, rows: Sequence[int], ablated: np.ndarray, loss: Loss | None) -> None:
        """Ablate edges of ports, bool [rows, senders].

        `loss`: what `ask` said of it; None: dead ports, which change nothing.
        """
        self.kept[list(rows)] &= ~ablated
        self._touched = min(*rows, self._touched)
        self.loss = self.loss if loss is None else loss

    def restart(self, kept: np.ndarray) -> None:
        """Make another circuit the current one and measure it."""
        self.kept = kept.copy()
        cut = (kept != self._runner.graph.reads).any(1)
        self._touched = int(cut.argmax()) if cut.any() else len(cut)
        self.loss = known(self._runner.mask_losses(kept[None]))[0]

    def mark(self) -> BaseKind:
        """Settle what is held, so that every later number follows from the trail of marks alone."""
        self.restart(self.kept)
        return BaseKind.SAME

    def restore(self, trail: Trail) -> None:
        """Stand where a search stood when it was marked, to the last bit."""
        self.restart(trail.kept)
        self.questions = trail.questions


class IncrementalSearch(Search):
    """Answer each question by what it changes; see candidates.py and readout.py.

    Edges committed to a port are taken away in every later question about it; the state is computed
    anew when another port is asked about. `resolution`: a difference of losses that matters (the
    threshold of decisions); bounds move to a nearer base point when the loss is known worse.
    """

    def __init__(self, runner: Runner, resolution: float = 0.0) -> None:
        from .readout import make_readout
        from .state import IncrementalChunk

        super().__init__(runner)
        self._resolution = resolution
        chunks = list(runner.chunks())
        self._states = [IncrementalChunk(chunk) for chunk in chunks]
        self._readouts = [make_readout(chunk, runner.metric, resolution) for chunk in chunks]
        self._rows: tuple[int, ...] = ()  # the ports that were asked about last
        self._cut = np.zeros_like(self.kept)
        self._at = self._streams()

    @property
    def products(self) -> int:
        """Count questions whose loss took the whole unembedding."""
        return max(readout.products for readout in self._readouts)

    def ask(self, rows: Sequence[int], candidates: np.ndarray) -> Losses:
        """Return the losses if edges of one or more ports were ablated too."""
        return self._read(self._ask(rows, candidates))

    def ask_each(self, rows: Sequence[int], candidates: np.ndarray) -> np.ndarray:
        """Return the same losses on each example, float64 [n, examples], all in full."""
        from .readout import as_array

        streams = self._ask(rows, candidates)
        found = np.empty((len(candidates), len(self._runner.pairs)))
        chunks = self._runner.numbered_chunks()
        for (where, _), readout, stream in zip(chunks, self._readouts, streams, strict=True):
            found[:, where] = as_array(readout.each(stream))
        return found

    def _ask(self, rows: Sequence[int], candidates: np.ndarray) -> list[Tensor]:
        """Return the streams at `logits` of each question, [n, B, D] of each chunk."""
        from .candidates import ask

        if tuple(rows) != self._rows:
            self._renew(tuple(rows))
        self.questions += len(candidates)
        ablated = candidates | self._cut[list(rows)]
        return [ask(state, rows, ablated) for state in self._states]

    def _read(self, streams: list[Tensor], current: bool = True) -> Losses:
        """Read losses of streams [n, B, D]; `current`: rises above the current circuit's matter."""
        from .readout import Readings

        now = self._at if current else [None] * len(streams)
        triples = zip(self._readouts, streams, now, strict=True)
        readings = [readout.read(stream, at) for readout, stream, at in triples]
        source = Readings(self._runner, readings, streams)
        return Losses(source.bounds(), source, self.loss)

    def commit(self, rows: Sequence[int], ablated: np.ndarray, loss: Loss | None) -> None:
        """Ablate edges of ports."""
        from .readout import Readings

        where = list(rows)
        if loss is not None:  # else nothing that the state holds depends on it
            self._cut[where] |= ablated & self.kept[where]
            if not set(rows) <= set(self._rows):
                self._rows = ()  # what was asked last reads a state that is no longer current
            if loss is not self.loss:
                source = loss.losses.source
                if isinstance(source, Readings):
                    self._at = [stream[loss.index : loss.index + 1] for stream in source.streams]
                else:
                    self._at = self._streams()
                self.loss = loss
        self.kept[where] &= ~ablated

    def restart(self, kept: np.ndarray) -> None:
        """Make another circuit the current one and measure it."""
        self._rebuild(kept)
        self._measure()
        self.loss.value()

    def _measure(self) -> None:
        """Stand at the state's circuit, with bounds of its loss."""
        self._at = self._streams()
        self.loss = self._read(self._at, current=False)[0]
        if not self._well_known():
            self.loss.refine()

    def mark(self) -> BaseKind:
        """Settle what is held; the loss becomes that of the state as it is computed anew.

        The base point of bounds becomes the last mark's again if it still bounds this loss well
        enough, else this circuit.
        """
        self._renew(())
        went = [readout.back() for readout in self._readouts]
        if all(went):
            self._measure()
            if self._well_known():
                return BaseKind.SAME
        renew = any(readout.heavy for readout in self._readouts)
        self._anchor(renew)
        return BaseKind.RENEWED if renew else BaseKind.MOVED

    def _well_known(self) -> bool:
        return self.loss.high - self.loss.low <= self._resolution

    def restore(self, trail: Trail) -> None:
        """Stand where a search stood when it was marked, to the last bit."""
        if trail.head is not None:
            self._rebuild(trail.head)
            self._anchor(True)
        if trail.base is not None and trail.base is not trail.head:
            self._rebuild(trail.base)
            self._anchor(False)
        self._rebuild(trail.kept)
        if trail.base is not trail.kept:
            self._measure()
        self.questions = trail.questions
        for readout in self._readouts:
            readout.products = trail.products

    def _streams(self) -> list[Tensor]:
        """Return the current circuit's streams at `logits`, [1, B, D] of each chunk."""
        return [state.final()[None] for state in self._states]

    def _anchor(self, renew: bool) -> None:
        """Take the loss in full, with the current circuit as base point of later bounds."""
        self._at = self._streams()
        pairs = zip(self._readouts, self._at, strict=True)
        losses = np.sum([readout.anchor(stream, renew) for readout, stream in pairs], axis=0)
        self.loss = known(losses / len(self._runner.pairs))[0]

    def _rebuild(self, kept: np.ndarray) -> None:
        self.kept = kept.copy()
        self._cut[:] = True
        self._renew(())

    def _renew(self, rows: tuple[int, ...]) -> None:
        """Compute the state of the current circuit anew if ports have lost edges."""
        if self._cut.any():
            for state in self._states:
                state.rebuild(self.kept.copy())
            self._cut[:] = False
        self._rows = rows


def make_search(runner: Runner, resolution: float = 0.0) -> Search:
    """Return the fastest search, in torch.

    By whole runs a model on several devices is searched, any at spans of positions, and any by
    another engine, if that is asked for by name.
    """
    if runner.graph.spans or runner.engine not in (AUTO, TORCH):
        return Search(runner)
    runner = replace(runner, engine=TORCH)
    several = runner.model.on_several_devices
    return Search(runner) if several else IncrementalSearch(runner, resolution)
