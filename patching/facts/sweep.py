"""Many runs of one prompt that differ in little, computed together, and no more than differs.

A *cell* is a run that is another one's (its base's) up to a layer, and before a position. Cells
with a first position in common are a group. Layer by layer, from below:

1. Cells that begin to differ there join: their streams from their position on.
2. The streams of all cells of all groups are projected by one product with each weight; the keys
   and values of the positions before a group's are those of the base, turned once for all cells.
3. What mixers and MLPs write is changed where a cell says so (`Sweep.mixed`, `Sweep.written`), or
   what queries may see (`Sweep.context`).

A token mixer that is taken whole has no keys and values: it runs on all positions. In a model that
attends in both directions all positions differ.

Shapes: n cells, B runs of the base, T positions of the prompt, t of a group, D d_model, H heads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from ...graphs.lift.devices import place
from ...graphs.lift.lifted import Attention, AttentionContext, LiftedModel, working_dtype
from ..run.memory import Budget
from ..trace import of_keys, project_all, repeat_kv, sum_heads, with_given


@dataclass(frozen=True)
class BaseRun:
    """A run, with all that cells take of it.

    `before`: the stream before each layer, and behind the last, [B, T, D]; `mixed`, `written`: what
    each layer's mixer and MLP add to it; `keys`, `values`: of each query head, as they are
    multiplied, [B, T, H, K], None where the layer has no heads; `given`: see `Values`.
    """

    model: LiftedModel
    context: AttentionContext
    given: tuple[Tensor, ...]
    before: list[Tensor] = field(default_factory=list)
    mixed: list[Tensor] = field(default_factory=list)
    written: list[Tensor] = field(default_factory=list)
    keys: list[Tensor | None] = field(default_factory=list)
    values: list[Tensor | None] = field(default_factory=list)

    @staticmethod
    @torch.no_grad()
    def of(
        model: LiftedModel, context: AttentionContext, stream: Tensor, given: tuple[Tensor, ...]
    ) -> BaseRun:
        """Run the model on what the embedding writes, [B, T, D]."""
        run = BaseRun(model, context, given, [stream])
        for layer, block in enumerate(model.blocks):
            x = run.before[layer]
            keys = values = None
            if isinstance(block.attention, Attention):
                q, k, v = project_all(block, x, of_keys(block, run.before, layer))
                own = (q, repeat_kv(block, k), repeat_kv(block, v))
                z, keys, values = attend(block.attention, own, context, context)
                mixed = place(sum_heads(block, z), x.device)
            elif block.attention is not None:
                mixed = place(block.write_whole(x, context), x.device)
            else:
                mixed = torch.zeros_like(x)
            mixed = block.write_post(mixed) if model.graph.has_post(layer) else mixed
            middle = x + mixed
            read = x if model.graph.parallel else middle
            written = block.write(with_given(read, given, layer))
            for held, one in ((run.before, middle + written), (run.mixed, mixed),
                              (run.written, written)):  # fmt: skip
                held.append(one)
            run.keys.append(keys)
            run.values.append(values)
        return run

    @property
    def final(self) -> Tensor:
        """Return the stream at `logits`, [B, T, D]."""
        return self.before[-1]


def attend(
    attention: Attention,
    projected: tuple[Tensor, Tensor, Tensor],
    context: AttentionContext,
    inner: AttentionContext,
    past: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Attend with queries, keys and values [..., B, t, H, K]: z, and keys and values as multiplied.

    `past`: of the positions before, as multiplied, [B, start, H, K]. `context`: of all positions,
    its queries these; `inner`: of these positions alone.
    """
    q, k, v = projected
    turned, keys = attention.turned(q[..., : k.shape[-1]], k, inner)
    values = attention.values(v)
    wide = working_dtype(turned.dtype)
    scores = torch.einsum("...bqhk,...bshk->...bhqs", turned.to(wide), keys.to(wide))
    if past is not None:
        before = torch.einsum("...bqhk,bshk->...bhqs", turned.to(wide), past[0].to(wide))
        scores = torch.cat((before, scores), -1)
    weight = attention.weigh(scores * attention.scale, context).to(values.dtype)
    start = 0 if past is None else past[1].shape[1]
    z = torch.einsum("...bhqs,...bshk->...bqhk", weight[..., start:], values)
    if past is not None:
        z = z + torch.einsum("...bhqs,bshk->...bqhk", weight[..., :start], past[1])
    return attention.gated(z, q), keys, values


@dataclass(frozen=True)
class Branch:
    """A run that differs from the base from a layer on, which is `joins`.

    `window`: the first and last layer that are changed in it. `position`: the token that is.
    """

    position: int
    window: tuple[int, int]
    joins: int


@dataclass
class Branches:
    """Cells that differ from position `start` on, in the order in which they join.

    `stream`: of those that have, [n, B, t, D]; `history`: the streams before layers whose keys and
    values others share.
    """

    start: int
    cells: list[Branch]
    context: AttentionContext
    stream: Tensor | None = None
    history: dict[int, Tensor] = field(default_factory=dict)

    @property
    def active(self) -> list[Branch]:
        """Return the cells that have joined."""
        return self.cells[: 0 if self.stream is None else len(self.stream)]

    @cached_property
    def inner(self) -> AttentionContext:
        """Return the context of the group's positions alone."""
        whole = self.context
        return AttentionContext(whole.mask[:, self.start :], whole.position_ids[:, self.start :])


class Sweep:
    """Cells of one base run, computed together."""

    def __init__(self, base: BaseRun, cells: Sequence[Branch], budget: Budget) -> None:
        self.base, self.model, self.budget = base, base.model, budget
        self.sources = {b.shared.source for b in self.model.blocks if b.shared is not None}
        self.cells = list(cells)

    def enter(self, group: Branches, cell: Branch) -> Tensor:
        """Return a cell's stream before the layer at which it joins, [B, t, D]."""
        return self.base.before[cell.joins][:, group.start :]

    def mixed(self, group: Branches, layer: int, mixed: Tensor) -> Tensor:
        """Return what a layer's mixer adds in a group's cells, [n, B, t, D]."""
        return mixed

    def written(self, group: Branches, layer: int, written: Tensor) -> Tensor:
        """Return what a layer's MLP adds in a group's cells, [n, B, t, D]."""
        return written

    def context(self, group: Branches, layer: int) -> AttentionContext:
        """Return what the queries of a group's cells may see."""
        return group.context

    @torch.no_grad()
    def run(self) -> Iterator[tuple[list[Branch], int, Tensor]]:
        """Yield the cells of one start at a time: they, the start, their final streams."""
        for groups in self._parts():
            self._run(groups)
            for group in groups:
                assert group.stream is not None  # every cell joins behind the last layer at latest
                yield group.cells, group.start, group.stream
                group.stream = None

    def _parts(self) -> Iterator[list[Branches]]:
        """Part the cells into groups, and these so that what a part's cells make fits in memory."""
        base, causal = self.base, self.model.causal
        context, (_, length, width) = base.context, base.before[0].shape
        features = max(sum(block.features) for block in self.model.blocks) + 8 * width
        by_start: dict[int, list[Branch]] = {}
        for cell in sorted(self.cells, key=lambda one: one.joins):
            by_start.setdefault(cell.position if causal else 0, []).append(cell)
        part, taken = list[Branches](), 0.0
        for start, cells in sorted(by_start.items()):
            each = len(base.before[0]) * (length - start) * (features + 3 * length)
            each += length * width * len(base.before[0]) * self.model.parts_whole
            most = max(1, self.budget.run // (each * base.before[0].element_size()))
            for at in range(0, len(cells), most):
                some = cells[at : at + most]
                if part and taken + len(some) / most > 1:
                    yield part
                    part, taken = [], 0.0
                at_start = AttentionContext(context.mask, context.position_ids, start)
                part.append(Branches(start, some, at_start))
                taken += len(some) / most
        if part:
            yield part

    def _run(self, groups: Sequence[Branches]) -> None:
        layers = len(self.model.blocks)
        for layer in range(layers + 1):
            for group in groups:
                self._join(group, layer)
            there = [group for group in groups if group.stream is not None]
            if there and layer < layers:
                self._layer(there, layer)

    def _join(self, group: Branches, layer: int) -> None:
        new = [cell for cell in group.cells if cell.joins == layer]
        if not new:
            return
        own = torch.stack([self.enter(group, cell) for cell in new])
        group.stream = own if group.stream is None else torch.cat((group.stream, own))
        for source in self.sources:
            if source < layer:
                held = self.base.before[source][:, group.start :].expand_as(own)
                before = group.history.get(source)
                group.history[source] = held if before is None else torch.cat((before, held))

    def _layer(self, groups: Sequence[Branches], layer: int) -> None:
        """Run one layer of all groups' cells: every weight is read once."""
        block, graph = self.model.blocks[layer], self.model.graph
        streams = []
        for group in groups:
            assert group.stream is not None
            streams.append(group.stream)
            if layer in self.sources:
                group.history[layer] = group.stream
        flat = torch.cat([x.flatten(0, 2) for x in streams])  # [rows, D]
        mixed = place(self._mixed(groups, layer, streams, flat), flat.device)
        mixed = block.write_post(mixed) if graph.has_post(layer) else mixed
        parts = self._split(mixed, streams)
        mixed = _flat(self.mixed(g, layer, x) for g, x in zip(groups, parts, strict=True))
        middle = flat + mixed
        read = flat if graph.parallel else middle
        if self.base.given:
            given = self.base.given[layer]
            read = torch.cat((read, _flat(
                given[:, g.start :].expand(len(x), -1, -1, -1)
                for g, x in zip(groups, streams, strict=True)
            )), -1)  # fmt: skip
        parts = self._split(block.write(read), streams)
        written = (self.written(g, layer, x) for g, x in zip(groups, parts, strict=True))
        for group, x in zip(groups, self._split(middle + _flat(written), streams), strict=True):
            group.stream = x

    def _mixed(
        self, groups: Sequence[Branches], layer: int, streams: Sequence[Tensor], flat: Tensor
    ) -> Tensor:
        """Return what a layer's mixer writes of the groups' streams, [rows, D], before a norm."""
        block, base = self.model.blocks[layer], self.base
        if block.attention is None:
            return torch.zeros_like(flat)
        if not isinstance(block.attention, Attention):
            before = base.before[layer]
            return _flat(
                block.write_whole(
                    torch.cat((before[:, : g.start].expand(len(x), -1, -1, -1), x), -2),
                    base.context,
                )[..., g.start :, :]
                for g, x in zip(groups, streams, strict=True)
            )
        keys = flat
        if block.shared is not None:
            keys = _flat(group.history[block.shared.source] for group in groups)
        q, k, v = project_all(block, flat, keys)
        found = []
        every = (self._split(x, streams) for x in (q, repeat_kv(block, k), repeat_kv(block, v)))
        old_keys, old_values = base.keys[layer], base.values[layer]
        assert old_keys is not None and old_values is not None  # the layer has heads
        for group, *own in zip(groups, *every, strict=True):
            start = group.start
            past = (old_keys[:, :start], old_values[:, :start]) if start else None
            context = self.context(group, layer)
            mine = (own[0], own[1], own[2])
            z = attend(block.attention, mine, context, group.inner, past)[0]
            found.append(z.flatten(0, 2))
        return sum_heads(block, torch.cat(found))

    def _split(self, rows: Tensor, streams: Sequence[Tensor]) -> list[Tensor]:
        """Give each group its rows, [n, B, t, …]."""
        parts = rows.split([x.shape[:3].numel() for x in streams])
        return [
            part.reshape(*x.shape[:3], *part.shape[1:])
            for part, x in zip(parts, streams, strict=True)
        ]


def _flat(parts: Iterator[Tensor]) -> Tensor:
    """Put the rows of groups, [n, B, t, …], below each other."""
    return torch.cat([part.flatten(0, 2) for part in parts])
