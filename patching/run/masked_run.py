"""The dense runner: one pass over the layers for one or more circuits, under a plan.

At a port p the stream is  x_p = base + Σ_{u kept} (o_u − a_u)  or, equally,
x_p = current + Σ_{u ablated} (a_u − o_u); the plan picks the cheaper sum. `base` is what the
stream holds when every edge is ablated, `current` the sum of what all senders write in this run.

Shapes: C circuits, B examples, T positions, D d_model, h heads that run, K d_head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ...graphs.lift.devices import place, send, taken
from ...graphs.lift.lifted import AttentionContext, Block, LiftedModel
from ...graphs.names import Kind
from ..trace import Past, Trace, past_of, project, project_heads, repeat_kv, together
from .plan import CURRENT, Inputs, LayerPlan, Plan, Sum

SUMS_KEPT = 8
OWN_SUM = 3  # in runs of one circuit, fewer known senders than this have no sum of their own

SUMMED, WIDEST = (torch.float32, torch.float64), 1 << 20
"""Types of deltas, and most numbers of one, with which few are added up without a matrix product,
as is faster then; each size costs some compiling, once."""


@dataclass(frozen=True)
class World:
    """What a masked run starts from.

    `base`: the run whose values ablated edges carry. `known`: [S', B·T·D] deltas (value − base
    value) of the first S' senders; those that the plan calls known are used. `past`: keys and
    values before the window. `extras`: [G, B·T·D] values from outside that the plan adds to ports.
    `given`: deltas of what the embedding sends to each MLP past the stream, [B, T, P], along the
    edges that carry its known delta, or, if `given_outside`, the first of the extras.
    """

    model: LiftedModel
    context: AttentionContext
    base: Trace
    known: Tensor
    past: Past | None = None
    extras: Tensor | None = None
    given: tuple[Tensor, ...] = ()
    given_outside: bool = False
    _sums: dict[tuple[int, ...], Tensor] = field(default_factory=dict, repr=False)

    def known_sum(self, senders: tuple[int, ...]) -> Tensor:
        """Add up deltas of known senders, [B·T·D]; the latest sums are kept."""
        if senders not in self._sums:
            if len(self._sums) >= SUMS_KEPT:
                self._sums.pop(next(iter(self._sums)))
            span = self.known[senders[0] : senders[-1] + 1]
            whole = len(span) == len(senders)
            self._sums[senders] = (span if whole else taken(self.known, senders)).sum(0)
        return self._sums[senders]

    def extra_sums(self, weights: np.ndarray) -> Tensor:
        """Add up values from outside: weights [C, n, G] give [C, n, B, T, D]."""
        assert self.extras is not None
        like = self.base.values.sources
        used = np.flatnonzero(weights.any((0, 1)))
        chosen = self.extras if len(used) == len(self.extras) else taken(self.extras, used)
        total = send(weights[:, :, used], chosen).flatten(0, 1) @ chosen
        return total.view(*weights.shape[:2], *like.shape[1:]).to(like.dtype)


class _Deltas:
    """The senders' deltas, and their weighted sums.

    Known senders are shared by all circuits, [n, N]; the rest (and few known ones, in runs of one
    circuit) have one value for each, [C, n, N]; N is B·T·D.
    """

    def __init__(self, plan: Plan, world: World, circuits: int) -> None:
        like = world.base.values.sources
        self._circuits = circuits
        self._shape, self._dtype = tuple(like.shape[1:]), like.dtype
        held = not torch.is_grad_enabled()
        shared = plan.needed & plan.known
        if held and circuits == 1 and shared.sum() < OWN_SUM:  # they need no sum of their own
            shared = np.zeros_like(shared)
        (columns,) = shared.nonzero()
        self._shared = world.known[: int(columns[-1]) + 1] if len(columns) else None
        self._mine = shared.astype(np.float32)
        own = [int(i) for i in (plan.needed & plan.moving & ~shared).nonzero()[0]]
        self._columns = np.array(own, dtype=np.intp)
        self.slot = {sender: i for i, sender in enumerate(own)}
        self._list: list[Tensor] = []
        few = like.dtype in SUMMED and like.device.type != "mps"
        self._one_by_one = few and like[0].numel() <= WIDEST
        self._places = torch.empty(0, dtype=torch.int64, device=like.device)
        self._own: Tensor | None = None
        if own and held:
            self._own = like.new_empty(circuits, len(own), like[0].numel())
            for sender in own:
                if plan.known[sender]:
                    self._own[:, self.slot[sender]] = world.known[sender]

    def put(self, sender: int, delta: Tensor) -> None:
        """Store one sender's delta, [C, B, T, D], if some port wants it alone."""
        if sender in self.slot:
            flat = delta.reshape(delta.shape[0], -1)
            if self._own is None:
                self._list.append(flat[:, None].expand(self._circuits, -1, -1))
            else:
                self._own[:, self.slot[sender]] = flat

    def noted(self) -> dict[int, Tensor]:
        """Map each sender whose delta was wanted to it, [N], of a run of one circuit."""
        columns = () if self._shared is None else self._mine[: len(self._shared)].nonzero()[0]
        shared = {int(i): self._shared[int(i)] for i in columns} if self._shared is not None else {}
        kept = self._own
        own = {s: self._list[i][0, 0] if kept is None else kept[0, i] for s, i in self.slot.items()}
        return shared | own

    def add(self, weights: np.ndarray) -> Tensor:
        """Weigh and add deltas: weights [C, n, S] give n streams a circuit, [C, n, B, T, D]."""
        circuits, number = weights.shape[:2]
        total: Tensor | None = None
        if self._shared is not None:
            part = (weights * self._mine)[:, :, : len(self._shared)]
            flat = send(part, self._shared).flatten(0, 1)
            total = (flat @ self._shared).view(circuits, number, -1)
        mine = weights[:, :, self._columns]
        places = mine.nonzero()
        if len(places[0]):
            more = self._weighed(mine, places)
            total = more if total is None else total + more
        assert total is not None
        return total.view(circuits, number, *self._shape).to(self._dtype)

    def _weighed(self, weights: np.ndarray, places: tuple[np.ndarray, ...]) -> Tensor:
        """Add up deltas with weights [C, n, slots], which are not 0 at `places`; [C, n, N].

        They are added up one by one if fewer are wanted than a matrix product would read.
        """
        circuits, number, _ = weights.shape
        circuit, which, slot = places
        written = int(slot.max()) + 1  # later slots are not written yet
        own = self._own
        if own is None:
            stacked = torch.cat(self._list[:written], 1)
        elif len(slot) <= circuits * written and self._one_by_one:
            sizes = np.bincount(circuit * number + which, minlength=circuits * number)
            index, starts = (
                send(x, self._places)
                for x in (circuit * own.shape[1] + slot, np.cumsum(sizes) - sizes)
            )
            each = send(weights[places], own)
            flat = functional.embedding_bag(
                index, own.flatten(0, 1), starts, mode="sum", per_sample_weights=each
            )
            return flat.view(circuits, number, -1)
        else:
            stacked = own[:, :written]
        part = send(weights[:, :, :written], stacked)
        return part @ stacked.expand(circuits, -1, -1)


def run_masked(
    world: World, plan: Plan, circuits: int, offsets: Mapping[int, Tensor] | None = None
) -> Tensor:
    """Run circuits under a plan and return the stream at `logits`, [C, B, T, D].

    `offsets`: what to add to the streams of single ports, by row, [B, T, D] each; the plan must
    tell ports apart. The result is differentiable in them.
    """
    return MaskedRun(world, plan, circuits, offsets or {}).final()


def run_noting(
    world: World, plan: Plan, offsets: Mapping[int, Tensor]
) -> tuple[Tensor, dict[int, Tensor]]:
    """Run one circuit as `run_masked` does, recording gradients; note every delta that is needed.

    Deltas are what a sender writes in this run minus its base value, [B·T·D], by its column.
    """
    run = MaskedRun(world, plan, 1, offsets)
    return run.final(), run.deltas.noted()


class MaskedRun:
    """One pass over the layers; `deltas` holds what senders write, and adds it up at ports."""

    def __init__(
        self, world: World, plan: Plan, circuits: int, offsets: Mapping[int, Tensor]
    ) -> None:
        self.world, self.plan, self.offsets = world, plan, offsets
        self.graph = world.model.graph
        self.deltas = _Deltas(plan, world, circuits)
        self.moved: Tensor | None = None  # current − base stream, [C or 1, B, T, D]
        self.merged = -1  # the known senders up to here are in `moved`
        apart = Kind.HEAD if self.graph.post_norm else None
        self.on_stream = np.array([sender.kind is not apart for sender in self.graph.senders])

    def final(self) -> Tensor:
        """Run all layers; return the stream at `logits`."""
        for layer, step in enumerate(self.plan.layers):
            block = self.world.model.blocks[layer]
            x = self._mlp_input(layer, step) if self.graph.parallel else None
            self._attention(layer, block, step)
            self._mixer(layer, block, step)
            self._post(layer, block, step)
            x = x if self.graph.parallel else self._mlp_input(layer, step)
            if x is not None:
                self._mlp(layer, block, step, x)
        return self._stream(
            self.plan.logits, self.world.base.streams.final, len(self.graph.senders)
        )

    def _streams(self, entries: Sequence[Sum], base: Tensor, senders: int) -> list[Tensor]:
        """Return what ports hold, [C or 1, B, T, D] each; `senders` write before them."""
        start = current = base[None]
        if any(entry.start == CURRENT for entry in entries):
            self._catch_up(senders)
            current = start if self.moved is None else start + self.moved
        found = [current if entry.start == CURRENT else start for entry in entries]
        inside = {i: w for i, entry in enumerate(entries) if (w := entry.weights) is not None}
        outside = {i: w for i, entry in enumerate(entries) if (w := entry.extra) is not None}
        for weights, add in ((inside, self.deltas.add), (outside, self.world.extra_sums)):
            if weights:
                sums = add(np.stack(list(weights.values()), axis=1)).unbind(1)
                for i, more in zip(weights, sums, strict=True):
                    found[i] = found[i] + more
        for i, entry in enumerate(entries):
            if entry.row is not None and entry.row in self.offsets:
                found[i] = found[i] + self.offsets[entry.row][..., : start.shape[-1]]
        return found

    def _stream(self, entry: Sum, base: Tensor, senders: int) -> Tensor:
        return self._streams([entry], base, senders)[0]

    def _catch_up(self, senders: int) -> None:
        """Add the deltas of known senders that come before to the current stream."""
        known = self.plan.known & self.plan.moving & self.on_stream
        new = [i for i in range(self.merged + 1, senders) if known[i]]
        self.merged = max(self.merged, senders - 1)
        if new:
            like = self.world.base.values.sources
            self._move(self.world.known_sum(tuple(new)).to(like.dtype).view(1, *like.shape[1:]))

    def _move(self, delta: Tensor) -> None:
        self.moved = delta if self.moved is None else self.moved + delta

    def _attention(self, layer: int, block: Block, step: LayerPlan) -> None:
        if not step.heads:
            return
        first, attention = self.graph.first_heads[layer], block.by_head
        base = self.world.base.streams.attention[layer]
        normed = self._normed(layer, block, step.sums)
        q, k, v = (
            project_inputs(block, letter, normed, step.inputs[letter], step.heads)
            for letter in "qkv"
        )
        heads = list(step.heads)
        past = past_of(block, layer, self.world.past, heads)
        z = attention.mix(q, k, v, self.world.context, past, heads)
        delta = z - taken(self.world.base.values.z[layer], heads, 2)  # [C or 1, B, T, h, K]
        if layer <= self.plan.current_until and not self.graph.post_norm:
            weight = attention.wo
            weight = weight if len(heads) == len(weight) else taken(weight, heads)
            moved = attention.scaled(delta.flatten(-2) @ weight.flatten(0, 1))
            self._move(place(moved, base.device))
        own = delta.movedim(-2, 0).flatten(1, -2)  # [h, C·B·T, K]
        for head, z_of in zip(heads, own, strict=True):
            if first + head in self.deltas.slot:
                out = attention.scaled(z_of @ attention.wo[head])
                out = place(out, base.device).view(*delta.shape[:-2], -1)
                self.deltas.put(first + head, out)

    def _mixer(self, layer: int, block: Block, step: LayerPlan) -> None:
        """Run `s{l}`: a mixer that is taken whole, on every position."""
        if step.mixer is None:
            return
        sender = self.graph.first_heads[layer]
        x = self._stream(step.mixer, self.world.base.streams.attention[layer], sender)
        base = self.world.base.values.z[layer].squeeze(-2)
        delta = block.write_whole(x, self.world.context) - base
        if layer <= self.plan.current_until:
            self._move(delta)
        self.deltas.put(sender, delta)

    def _normed(self, layer: int, block: Block, entries: Sequence[Sum]) -> list[Tensor]:
        """Normalise what the ports of a layer's heads hold, where it can be all together."""
        base, senders = self.world.base.streams.attention[layer], self.graph.first_heads[layer]
        own = [entry for entry in entries if entry.source is None]
        if len(own) < len(entries):  # keys and values of another layer
            source = next(entry.source for entry in entries if entry.source is not None)
            before, first = (
                self.world.base.streams.attention[source],
                self.graph.first_heads[source],
            )
            queries = iter(self._streams(own, base, senders))
            others = [entry for entry in entries if entry.source is not None]
            keys = iter(self._streams(others, before, first))
            return [
                block.read(next(queries)) if e.source is None else block.read(next(keys), "k")
                for e in entries
            ]
        plain = all(e.start != CURRENT and e.weights is not None for e in entries)
        if self.offsets or not plain or any(e.extra is not None for e in entries):
            return [block.read(x) for x in self._streams(entries, base, senders)]
        weights = np.stack([w for e in entries if (w := e.weights) is not None], axis=1)
        return list(block.read(base + self.deltas.add(weights)).unbind(1))

    def _post(self, layer: int, block: Block, step: LayerPlan) -> None:
        """Run `o{l}`, which reads the layer's heads and not the stream."""
        if step.post is None:
            return
        sender = self.graph.mlp_columns[layer].start - 1
        x = self._stream(step.post, self.world.base.streams.post[layer], sender)
        delta = block.write_post(x) - self.world.base.values.post[layer]
        if layer <= self.plan.current_until:
            self._move(delta)
        self.deltas.put(sender, delta)

    def _mlp_input(self, layer: int, step: LayerPlan) -> Tensor | None:
        if step.mlp is None:
            return None
        senders = self.graph.mlp_columns[layer].start
        if self.graph.parallel:
            senders = self.graph.first_heads[layer]
        base = self.world.base.streams.mlp[layer]
        if not self.world.given:
            return self._stream(step.mlp, base, senders)
        width = self.world.model.d_model
        x, given = self._stream(step.mlp, base[..., :width], senders), self._given(layer, step.mlp)
        circuits = max(len(x), len(given))
        return torch.cat([part.expand(circuits, -1, -1, -1) for part in (x, given)], -1)

    def _given(self, layer: int, entry: Sum) -> Tensor:
        """Return what an MLP is given past the stream, [C or 1, B, T, P]: the embedding's edge."""
        base, delta = self.world.base.values.given[layer][None], self.world.given[layer]
        share = np.array([float(entry.start == CURRENT and bool(self.plan.moving[0]))])
        if entry.weights is not None:
            share = share + entry.weights[:, 0]
        if entry.extra is not None and self.world.given_outside:
            share = share + entry.extra[:, 0]
        if share.any():
            base = base + send(share, delta)[:, None, None, None] * delta
        if entry.row is not None and entry.row in self.offsets:
            base = base + self.offsets[entry.row][..., self.world.model.d_model :]
        return base

    def _mlp(self, layer: int, block: Block, step: LayerPlan, x: Tensor) -> None:
        base = self.world.base.values.mlp[layer][:, None]  # [n, 1, B, T, D]
        some = None if len(step.writers) == len(base) else list(step.writers)
        delta = block.writes(x, some) - (base if some is None else taken(base, some))
        if layer <= self.plan.current_until:
            self._move(together(delta))
        first = self.graph.mlp_columns[layer].start
        for writer, own in zip(step.writers, delta, strict=True):
            self.deltas.put(first + writer, own)


def project_inputs(
    block: Block, letter: str, normed: list[Tensor], inputs: Inputs, heads: tuple[int, ...]
) -> Tensor:
    """Project each head's own of the layer's inputs, [C or 1, B, T, D] each: [C, B, T, h, K]."""
    if len(inputs.sums) == 1 and 2 * len(heads) > block.by_head.heads:
        whole = project(block, letter, normed[inputs.sums[0]])
        whole = whole if letter == "q" else repeat_kv(block, whole)
        return whole if len(heads) == whole.shape[-2] else taken(whole, heads, -2)
    columns: dict[int, Tensor] = {}
    for index, owners in zip(inputs.sums, inputs.owners, strict=True):
        part, places = project_heads(block, letter, normed[index], owners)
        columns.update({h: part[..., at, :] for h, at in zip(owners, places, strict=True)})
    return torch.stack(torch.broadcast_tensors(*(columns[head] for head in heads)), -2)
