"""Integrated gradients in activations: for each place where senders write, along their own way.

A place is the embedding, a layer's heads together, the norm behind them where there is one, or a
layer's MLP (its experts together). For a sender u at such a place,

    s(u→p) = mean over examples of Σ (a_u − o_u) · mean over k of ∂loss/∂x_p ,

the gradient taken in the run in which all senders of the place write o + t_k·(a − o) and everything
later is recomputed. So the scores of all edges out of a place add up, as m grows, to the change of
the loss where all of it is ablated.

Shapes: K points, B examples, T positions, n tokens at which something moves, D d_model, g senders.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ....graphs.graph import ComputationGraph
from ....graphs.lift.devices import send, summing
from ....graphs.names import Kind
from ....graphs.scores import Scores
from ...run.chunk import Chunk, sender_deltas
from ...run.runner import Progress, Runner
from ..attribution import ChunkScores, groups
from ..by_example import ByExample
from ..finish import finished
from ..tape import LayerTape, WritingPlace, tapes_behind

PLACES = {Kind.HEAD: Kind.HEAD, Kind.MIXER: Kind.HEAD, Kind.POST: Kind.POST}
"""At whose place senders of a kind write; all others, experts and neurons, at their MLP's."""


def places(graph: ComputationGraph) -> dict[WritingPlace, list[int]]:
    """Map the places where senders write to these, as columns, in graph order.

    >>> [len(some) for some in places(ComputationGraph(layers=1, heads=2)).values()]
    [1, 2, 1]
    """
    found: dict[WritingPlace, list[int]] = {}
    for column, node in enumerate(graph.senders):
        kind = None if node.layer is None else PLACES.get(node.kind, Kind.MLP)
        found.setdefault(WritingPlace(kind, node.layer or 0), []).append(column)
    return found


def attribute_activations(
    runner: Runner,
    shares: Sequence[float],
    progress: Progress | None = None,
    each: np.ndarray | None = None,
) -> Scores:
    """Score every edge by gradients along its sender's own way.

    `shares`: for each gradient, how far what senders write is led towards what ablation gives: 0 is
    the clean run. `each`: float32 [examples, edges], filled with the scores on each example.
    """
    runner.metric.require_gradient(at_clean_only=not any(shares))
    runner.require_plain("a score along each layer's own way")
    graph = runner.graph
    device, dtype = summing(runner.model.tokens)
    sums = torch.zeros(graph.reads.shape, dtype=dtype, device=device)
    every = places(graph)
    done, total = 0, len(runner.pairs) * len(every)
    for rows, chunk in runner.numbered_chunks():
        with torch.no_grad():
            delta = sender_deltas(chunk.clean, chunk.base, chunk.moving_tokens).flatten(1)
        apart = None if each is None else ByExample.of(chunk, delta)
        for place, columns in every.items():
            own = delta[columns[0] : columns[-1] + 1]
            for some in groups(chunk, shares, runner.budget.tape):
                part = len(some) / len(shares)
                if apart is not None:
                    apart.share = part
                sums += part * _OfPlace(runner, chunk, some, own, apart, place, columns).scores()
            done += chunk.batch.examples
            if progress is not None:
                progress(done, total, "pairs and places scored")
        if each is not None and apart is not None:
            each[rows] = apart.values.cpu().numpy()
    return finished(runner, [1.0], sums.cpu().numpy())


class _OfPlace(ChunkScores):
    """One run forward and backward, of the edges out of one place; `delta`: [g, n·D] of these."""

    def __init__(
        self,
        runner: Runner,
        chunk: Chunk,
        shares: list[float],
        delta: Tensor,
        apart: ByExample | None,
        place: WritingPlace,
        columns: list[int],
    ) -> None:
        super().__init__(runner, chunk, shares, delta, apart)
        self._place, self._columns = place, columns
        self.past_share = float(place.kind is None)

    def _tapes(self) -> tuple[list[LayerTape], Tensor]:
        return tapes_behind(self.model, self.chunk, self.points, self._place)

    def _flush(self) -> None:
        """Take the scores of the ports put aside: rows of one matrix product."""
        if not self.pending:
            return
        rows = np.concatenate([np.arange(row, row + len(g)) for row, g in self.pending])
        gradient = torch.cat([g for _, g in self.pending])
        self.pending.clear()
        reads = self.graph.reads[rows][:, self._columns]  # [rows, g]
        product = -(gradient @ self.delta.t()).to(self.values) * send(reads, self.values)
        some = slice(self._columns[0], self._columns[-1] + 1)
        self.values[torch.from_numpy(rows).to(self.values.device), some] = product
        if isinstance(self.apart, ByExample):
            self._on_examples(self.apart, gradient, rows, reads)

    def _on_examples(
        self, apart: ByExample, gradient: Tensor, rows: np.ndarray, reads: np.ndarray
    ) -> None:
        """Add the scores on each example, of which the same product is taken apart."""
        before = self.graph.reads[rows].cumsum(1)[:, self._columns] - 1
        starts = np.array([apart.starts[row] for row in rows])[:, None]
        columns = torch.from_numpy((starts + before)[reads]).to(apart.values.device)
        here = torch.from_numpy(reads).to(apart.values.device)
        for i, (start, stop) in enumerate(itertools.pairwise(apart.cuts)):
            product = gradient[:, start:stop] @ self.delta[:, start:stop].t()
            apart.values[i, columns] += apart.share * -product[here].to(apart.values)
