"""Scores at spans: the product that gives a score, taken over the positions of one span.

A residual edge connects equal positions, so the score of an edge into a port at a span is the sum
over that span's positions. Each position is of one span, so the scores of an edge at all spans add
up to its score.

Shapes: B examples, n tokens at which something moves, D d_model, S senders, L spans, E edges of the
model's graph.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...graphs.example_scores import edge_starts
from ...graphs.lift.devices import place, send
from ..run.chunk import Chunk


class BySpan:
    """The scores of a chunk at spans as they are added up, [B, E·L], on the device.

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
