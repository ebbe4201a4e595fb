"""Runs of circuits at spans: an edge may be kept at some spans of positions and ablated at others.

At a port p and a position t of span λ the stream is  x_p[t] = base[t] + Σ_{u kept at λ} δ_u[t],
with δ_u = o_u − a_u. So a port adds up one set of senders for each span, at its positions alone.

Deltas are held with the tokens of a span beside each other, so that all sums of a port together
read every delta once, as in a run that tells no positions apart.

Shapes: L spans, n ports, B examples, T positions, D d_model, S senders.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from ...graphs.lift.devices import place, send
from .chunk import Chunk
from .masked_run import MaskedRun, World
from .plan import Plan, Sum, make_span_plan


@torch.no_grad()
def run_at_spans(chunk: Chunk, mask: np.ndarray, start_row: int = 0) -> Tensor:
    """Run one circuit, bool [P·L, S], and return the stream at `logits`, [1, B, T, D].

    `start_row`: the circuit keeps everything before this port, and is run from its layer on.
    """
    graph = chunk.model.graph
    masks = mask.reshape(len(graph.ports), -1, mask.shape[1]).swapaxes(0, 1)  # [L, P, S]
    row = start_row // len(masks)
    plan = make_span_plan(graph, masks, consistent=chunk.ablation.consistent, start_row=row)
    world = chunk.restart_world if row else chunk.world
    assert chunk.batch.span is not None  # spans are told apart
    return _SpanRun(world, plan, chunk.batch.span[:, chunk.start :], len(masks)).final()


class _SpanDeltas:
    """The senders' deltas in one run, with the tokens of each span beside each other.

    `slot`: which of them some port adds up.
    """

    def __init__(self, plan: Plan, world: World, span: Tensor, spans: int) -> None:
        like = world.base.values.sources
        flat = place(span, like.device).flatten()  # [B·T]
        self._order = flat.argsort(stable=True)
        self._back = self._order.argsort()
        self._cuts = [0, *torch.bincount(flat, minlength=spans).cumsum(0).tolist()]
        self._shape = tuple(like.shape[1:])
        needed = np.flatnonzero(plan.needed & plan.moving).tolist()
        self.slot = {sender: i for i, sender in enumerate(needed)}
        self._columns = np.array(needed, dtype=np.intp)
        self._held = like.new_zeros(len(needed), len(flat), like.shape[-1])
        for sender, slot in self.slot.items():
            if plan.known[sender]:
                self._held[slot] = world.known[sender].view(len(flat), -1)[self._order]

    def put(self, sender: int, delta: Tensor) -> None:
        """Store one sender's delta, [1, B, T, D], if some port wants it."""
        if sender in self.slot:
            self._held[self.slot[sender]] = delta[0].flatten(0, 1)[self._order]

    def add(self, weights: np.ndarray) -> Tensor:
        """Add up deltas: weights [L, n, S], one row for each span, give [1, n, B, T, D]."""
        mine = weights[:, :, self._columns]
        used = np.flatnonzero(mine.any((0, 1)))
        written = int(used.max()) + 1 if len(used) else 0  # later ones are zero
        out = self._held.new_zeros(mine.shape[1], *self._held.shape[1:])
        for of_span, (start, stop) in zip(mine, itertools.pairwise(self._cuts), strict=True):
            if written and stop > start and of_span.any():
                part = self._held[:written, start:stop].flatten(1)
                total = send(of_span[:, :written], part) @ part
                out[:, start:stop] = total.view(len(out), stop - start, -1)
        return out[:, self._back].view(1, len(out), *self._shape)


class _SpanRun(MaskedRun):
    """One circuit's run; the plan's sums have weights [L, S], a row for each span."""

    deltas: _SpanDeltas  # type: ignore[assignment]

    def __init__(self, world: World, plan: Plan, span: Tensor, spans: int) -> None:
        super().__init__(world, plan, 1, {})
        self.deltas = _SpanDeltas(plan, world, span, spans)
        self._span = span

    def _given(self, layer: int, entry: Sum) -> Tensor:
        """Return what an MLP is given past the stream, [1, B, T, P], at the spans that keep it."""
        base, delta = self.world.base.values.given[layer][None], self.world.given[layer]
        if entry.weights is None:
            return base
        share = send(entry.weights[:, 0], delta)[place(self._span, delta.device)]  # [B, T]
        return base + share[..., None] * delta
