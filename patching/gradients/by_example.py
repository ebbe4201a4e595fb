"""Scores on each example of a chunk, or at each span: the product of a score, part by part.

Shapes: B examples, n tokens at which something moves (an example's are neighbours), D d_model,
S senders, E edges, L spans.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...graphs.example_scores import edge_starts
from ...graphs.graph import ComputationGraph
from ...graphs.lift.devices import place, send, summing, taken
from ..run.chunk import Chunk
from ..run.runner import Runner


class Total:
    """Scores of all examples as they are added up, chunk by chunk.

    `each`: float32 [examples, edges], to be filled with the scores on each example, if wanted.
    """

    def __init__(self, runner: Runner, each: np.ndarray | None) -> None:
        self._runner, self._each, self._graph = runner, each, runner.graph
        device, dtype = summing(runner.model.tokens)
        self._sums = torch.zeros(runner.model.graph.size, dtype=dtype, device=device)
        self._at_spans = torch.zeros(
            self._graph.edge_count if self._graph.spans else 0, dtype=dtype, device=device
        )

    def apart(self, chunk: Chunk, delta: Tensor) -> ByExample | BySpan | None:
        """Return what takes a chunk's scores apart by example, or by span, if that is wanted."""
        if self._graph.spans:
            return BySpan(chunk, delta, len(self._graph.spans))
        return None if self._each is None else ByExample.of(chunk, delta)

    def add(self, sums: Tensor) -> None:
        """Add the summed scores of some examples, [P, S]."""
        self._sums += sums

    def end_chunk(self, rows: list[int], apart: ByExample | BySpan | None) -> None:
        """Take what was found of a chunk's examples, of these numbers."""
        if apart is None:
            return
        if self._each is not None:
            self._each[rows] = apart.values.cpu().numpy()
        if self._graph.spans:
            self._at_spans += apart.values.sum(0).to(self._at_spans)

    def numbers(self) -> np.ndarray:
        """Return the sums, in the shape of a mask of the runner's graph."""
        if not self._graph.spans:
            return np.asarray(self._sums.cpu().numpy())
        found = np.zeros(self._graph.size)
        found[self._graph.reads] = self._at_spans.cpu().numpy()
        return found


@dataclass
class ByExample:
    """The scores of a chunk's examples as they are added up, float32 [B, E], on the device.

    `delta`: [S, n·D], clean − ablated values. `cuts`: where each example's part of n·D begins and,
    last, where it ends. `starts`: the column of each port's first edge. `share`: what part of the
    points the gradients added next are of.
    """

    graph: ComputationGraph
    delta: Tensor
    cuts: list[int]
    starts: list[int]
    values: Tensor
    share: float = 1.0

    @staticmethod
    def of(chunk: Chunk, delta: Tensor) -> ByExample:
        """Begin with nothing."""
        batch, tokens, graph = chunk.batch, chunk.moving_on_host, chunk.model.graph
        length = batch.clean.shape[1] - chunk.start
        owner = (chunk.host or batch).owner.to(tokens.device)[tokens // length]
        width = chunk.model.d_model
        counts = torch.bincount(owner, minlength=batch.examples).cumsum(0).tolist()
        cuts = [0, *(count * width for count in counts)]
        values = delta.new_zeros(batch.examples, graph.edge_count, dtype=torch.float32)
        return ByExample(graph, delta, cuts, edge_starts(graph), values)

    def add(self, gradient: Tensor, rows: np.ndarray, before: int) -> None:
        """Add the scores of some ports' edges, which all come from the first `before` senders.

        `gradient`: [len(rows), n·D]; `rows`: runs of neighbouring ports.
        """
        delta = self.delta[:before]
        product = gradient.new_empty((len(self.values), len(rows), before))
        for i, (start, stop) in enumerate(itertools.pairwise(self.cuts)):
            torch.mm(gradient[:, start:stop], delta[:, start:stop].t(), out=product[i])
        there = self.graph.reads[rows, :before].ravel().nonzero()[0]
        # delta is clean − ablated, so the score has the opposite sign
        found = self.share * -taken(product.flatten(1), there, 1).float()
        columns = np.concatenate([np.arange(self.starts[r], self.starts[r + 1]) for r in rows])
        spans = np.split(columns, np.flatnonzero(np.diff(columns) != 1) + 1)
        for span, part in zip(spans, found.split([len(span) for span in spans], 1), strict=True):
            if len(span):
                self.values[:, int(span[0]) : int(span[-1]) + 1] += part

    def add_first(self, row: int, scores: Tensor) -> None:
        """Add scores of each token, [n], to the first edge of a port."""
        width = self.delta.shape[1] // max(1, len(scores))
        parts = scores.split([(b - a) // width for a, b in itertools.pairwise(self.cuts)])
        found = torch.stack([part.sum() for part in parts]).to(self.values)
        self.values[:, self.starts[row]] += self.share * found


class BySpan:
    """The scores of a chunk at spans as they are added up, [B, E·L], on the device.

    A residual edge connects equal positions, so the score of an edge into a port at a span is the
    sum over that span's positions. Each position is of one span, so the scores of an edge at all
    spans add up to its score.

    `delta`: [S, n·D], clean − ablated values. `share`: what part of the points the gradients added
    next are of. Edges are in the order of the graph that tells spans apart: a port's at its first
    span, at its second, and so on.
    """

    def __init__(self, chunk: Chunk, delta: Tensor, spans: int) -> None:
        batch, self.graph = chunk.batch, chunk.model.graph
        assert batch.span is not None  # spans are told apart
        self.delta, self.share, self._spans = delta, 1.0, spans
        tokens = chunk.moving_tokens
        self._tokens = len(tokens)
        length = batch.clean.shape[1] - chunk.start
        span = place(batch.span[:, chunk.start :].flatten(), tokens.device)[tokens]
        owner = batch.owner[tokens // length]
        part = (owner * spans + span).tolist()
        self._parts = {
            key: torch.tensor([i for i, one in enumerate(part) if one == key], device=delta.device)
            for key in sorted(set(part))
        }
        self._starts = edge_starts(self.graph)
        dtype = torch.promote_types(delta.dtype, torch.float32)
        self.values = torch.zeros(
            batch.examples, self.graph.edge_count * spans, dtype=dtype, device=delta.device
        )

    def add(self, gradient: Tensor, rows: np.ndarray, before: int) -> None:
        """Add the scores of some ports' edges, which all come from the first `before` senders.

        `gradient`: [len(rows), n·D].
        """
        if not self._parts:
            return
        width = gradient.shape[1] // self._tokens
        there = send(self.graph.reads[rows, :before].ravel().nonzero()[0], self._index)
        by_token = gradient.unflatten(1, (-1, width))
        deltas = self.delta[:before].unflatten(1, (-1, width))
        for key, tokens in self._parts.items():
            example, span = divmod(key, self._spans)
            product = by_token[:, tokens].flatten(1) @ deltas[:, tokens].flatten(1).t()
            # delta is clean − ablated, so the score has the opposite sign
            found = -self.share * product.flatten()[there]
            self.values[example].index_add_(0, self._columns(rows, span), found.to(self.values))

    def add_first(self, row: int, scores: Tensor) -> None:
        """Add scores of each token, [n], to the first edge of a port."""
        for key, tokens in self._parts.items():
            example, span = divmod(key, self._spans)
            column = self._columns(np.array([row]), span)[0]
            self.values[example, column] += self.share * scores[tokens].sum().to(self.values)

    def _columns(self, rows: np.ndarray, span: int) -> Tensor:
        """Return the places of ports' edges at a span."""
        found = []
        for row in rows.tolist():
            start, number = self._starts[row], self._starts[row + 1] - self._starts[row]
            first = start * self._spans + span * number
            found.append(np.arange(first, first + number))
        return send(np.concatenate(found), self._index)

    @property
    def _index(self) -> Tensor:
        return torch.empty(0, dtype=torch.int64, device=self.values.device)
