"""Scores on each example of a chunk: the product that gives a score, taken example by example.

Shapes: B examples, n tokens at which something moves (an example's are neighbours), D d_model,
S senders, E edges.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...graphs.example_scores import edge_starts
from ...graphs.graph import ComputationGraph
from ...graphs.lift.devices import taken
from ..run.chunk import Chunk


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
