"""The incremental runner: what changes downstream if more edges into one port are ablated?

1. The state holds, for the current circuit, what every live port reads and every live sender writes.
   It is a function of the circuit's mask alone: `rebuild` computes it anew from the clean run, so no
   rounding piles up and a run that was stopped goes on from the same numbers.
2. A question takes edges T away from a port p: its stream becomes x_p − Σ_{u in T} (o_u − a_u), and
   only what p feeds is computed from it (for `<q>` one head's query and attention).
3. The change of what the owner writes is added to every live port that keeps an edge from it, and
   so on in topological order, once each. The change at `logits` gives the new loss.

Nothing else is computed: no dead node, no node that the change does not reach, no position that is
not read (see layout.py). Ports that keep the same edges hold the same stream and share its norm and
projection; heads that all ports treat alike share one output product. So a question costs what the
circuit downstream of its port costs, from a few heads at one position up to a dense run.

Shapes: n questions, B examples, T positions of the chunk's window (1 for narrow values), D d_model,
K d_head, S senders. Everything is float32 at least, whatever the model's dtype.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..graphs.lifted import AttentionContext, Block
from ..graphs.names import Kind
from .layout import Group, Layout, Rows
from .runner import Chunk

Projection = tuple[Tensor, int]
"""Queries, keys or values [n or 1, B, T, h, K] of some heads, and which of them is meant."""


@dataclass(frozen=True)
class Change:
    """Hold by how much what some senders write has changed, summed, [n, B, T, D]."""

    senders: tuple[int, ...]
    value: Tensor


class IncrementalChunk:
    """Hold one chunk's state for the current circuit."""

    def __init__(self, chunk: Chunk, rows: tuple[Rows, ...]) -> None:
        self.chunk, self.model, self.graph = chunk, chunk.model, chunk.model.graph
        self.rows = rows
        base = chunk.base
        self.dtype = torch.promote_types(self.model.dtype, torch.float32)
        self.shape = tuple(base.streams.final.shape)  # [B, T, D]
        self.clean_delta = chunk.delta.view(len(self.graph.senders), *self.shape)
        self.at = chunk.batch.answer_position - chunk.start
        self.clean_delta_narrow = self.narrow(self.clean_delta)
        context = chunk.context
        self.contexts = {
            True: context,
            False: AttentionContext(
                context.mask, context.position_ids, context.start, chunk.batch.answer_position
            ),
        }
        self._clean_projection: dict[tuple[int, int, bool], Tensor] = {}
        self.layout = Layout(self.graph, rows, self.graph.reads)
        self._clear()

    def _clear(self) -> None:
        self._delta: dict[int, Tensor] = {}
        self._stream: dict[int, Tensor] = {}
        self._projection: dict[tuple[int, int], Tensor] = {}
        self._z: dict[int, Tensor] = {}

    # -- values of the current circuit ------------------------------------------------------

    def narrow(self, x: Tensor) -> Tensor:
        """Take the answer positions of x [..., B, T, D] as [..., B, 1, D]."""
        if x.shape[-2] == 1:
            return x
        index = self.at.view(-1, 1, 1).expand(*x.shape[:-2], 1, x.shape[-1])
        return x.gather(-2, index)

    def fit(self, x: Tensor, wide: bool) -> Tensor:
        """Return x at every position or at the answer positions."""
        return x if wide else self.narrow(x)

    def delta(self, sender: int, wide: bool) -> Tensor:
        """Return what a sender writes minus its ablation value, [B, T, D]."""
        moved = self._delta.get(sender)
        if moved is None:
            return (self.clean_delta if wide else self.clean_delta_narrow)[sender]
        return self.fit(moved, wide)

    def deltas(self, senders: np.ndarray, wide: bool) -> Tensor:
        """Stack the deltas of some senders, [s, B·T·D]."""
        clean = self.clean_delta if wide else self.clean_delta_narrow
        if not any(int(u) in self._delta for u in senders):
            if len(senders) == senders[-1] - senders[0] + 1:
                return clean[int(senders[0]) : int(senders[-1]) + 1].flatten(1)
            return clean[senders.tolist()].flatten(1)
        return torch.stack([self.delta(int(u), wide) for u in senders]).flatten(1)

    def _of_run(self, row: int, base: bool) -> Tensor:
        """Return a port's stream in the clean run or with every edge ablated, [B, T, D]."""
        streams = (self.chunk.base if base else self.chunk.clean).streams
        node = self.graph.ports[row].node
        if node.kind is Kind.LOGITS:
            return streams.final
        assert node.layer is not None
        if node.kind is Kind.MLP:
            return streams.mlp[node.layer]
        if node.kind is Kind.POST:
            return streams.post[node.layer]
        return streams.attention[node.layer]

    def stream(self, row: int, wide: bool) -> Tensor:
        """Return what a port holds in the current circuit, [B, T, D]."""
        held = self._stream.get(row)
        if held is None:
            held = self._of_run(row, base=False).to(self.dtype)
        return self.fit(held, wide)

    def _written(self, sender: int, layer: int, wide: bool) -> Tensor:
        """Return what `m` or `o` of a layer writes in the current circuit, [B, T, D]."""
        values = self.chunk.base.values
        post = self.graph.senders[sender].kind is Kind.POST
        base = values.post[layer] if post else values.mlp[layer]
        return self.fit(base, wide).to(self.dtype) + self.delta(sender, wide)

    # -- the whole circuit ------------------------------------------------------------------

    def rebuild(self, kept: np.ndarray) -> None:
        """Make another circuit the current one and compute its state from the clean run."""
        self.layout = Layout(self.graph, self.rows, kept)
        self._clear()
        ports, _ = self.layout.touched
        for layer in range(self.graph.layers):
            self._rebuild_attention(layer, ports)
            for row in self.rows[layer].others:
                if ports[row]:
                    self._rebuild_other(layer, row)
        last = len(self.graph.ports) - 1
        if ports[last]:
            self._stream[last] = self._summed(last, self.layout.kept[last], False)

    def _summed(self, row: int, kept: np.ndarray, wide: bool) -> Tensor:
        """Add up a port's stream from its kept edges, [B, T, D]."""
        total = self.fit(self._of_run(row, base=True), wide).to(self.dtype)
        senders = kept.nonzero()[0]
        if len(senders):
            total = total + self.deltas(senders, wide).sum(0).view_as(total)
        return total

    def _rebuild_attention(self, layer: int, touched: np.ndarray) -> None:
        block = self.model.blocks[layer]
        changed: dict[str, dict[int, Projection]] = {"q": {}, "k": {}, "v": {}}
        for group in self.layout.groups(layer):
            rows = [row for row in group.rows if touched[row]]
            if not rows:
                continue
            wide = bool(self.layout.wide_port[rows].any())
            x = self._summed(rows[0], group.kept, wide)
            for row in rows:
                self._stream[row] = x
            self._project(layer, block, group, x[None], changed)
        for heads, inputs in self._parts(layer, changed):
            z = self._mix(layer, heads, inputs)[0]  # [B, T, h, K]
            out = z - self._base_z(layer, heads, z.shape[1] == self.shape[1])
            for place, head in enumerate(heads):
                sender = self.layout.head(layer, head)
                self._z[sender] = z[..., place, :]
                self._delta[sender] = self._output(block, out[..., place : place + 1, :], (head,))
        for letter, projections in changed.items():
            for head, (value, place) in projections.items():
                at = self.rows[layer].attention["q"][head]
                self._projection[at, "qkv".index(letter)] = value[0, ..., place, :]

    def _base_z(self, layer: int, heads: tuple[int, ...], wide: bool) -> Tensor:
        z = self.chunk.base.values.z[layer][:, :, list(heads)].to(self.dtype)
        return z if wide else self.narrow(z.flatten(-2)).unflatten(-1, (len(heads), -1))

    def _rebuild_other(self, layer: int, row: int) -> None:
        (sender,) = self.graph.feeds[row]
        wide = bool(self.layout.wide_port[row])
        x = self._summed(row, self.layout.kept[row], wide)
        values = self.chunk.base.values
        post = self.graph.ports[row].node.kind is Kind.POST
        base = self.fit(values.post[layer] if post else values.mlp[layer], wide)
        self._stream[row] = x
        self._delta[sender] = self._write(layer, row, x) - base.to(self.dtype)

    # -- parts of a layer -------------------------------------------------------------------

    def _write(self, layer: int, row: int, x: Tensor) -> Tensor:
        """Return what `m` or `o` writes when its port holds x."""
        block = self.model.blocks[layer]
        post = self.graph.ports[row].node.kind is Kind.POST
        out = (block.write_post if post else block.write)(x.to(self.model.dtype))
        return out.to(self.dtype)

    def _project(
        self,
        layer: int,
        block: Block,
        group: Group,
        x: Tensor,
        found: dict[str, dict[int, Projection]],
        only: Iterable[int] | None = None,
    ) -> None:
        """Project a group's new stream, [n, B, T, D], for the heads that read it."""
        normed = block.attention_norm(x.to(self.model.dtype))
        wide = self.layout.wide
        for letter, every in group.heads.items():
            heads = [h for h in every if only is None or h in only]
            parts = {True: heads, False: []}
            if letter == "q" and normed.shape[-2] > 1:
                here = [bool(wide[self.layout.head(layer, h)]) for h in heads]
                parts = {
                    w: [h for h, is_w in zip(heads, here, strict=True) if is_w == w]
                    for w in (True, False)
                }
            for at_all, some in parts.items():
                if some:
                    y = normed if at_all else self.narrow(normed)
                    value, places = project_heads(block, letter, y, some)
                    found[letter].update({h: (value, i) for h, i in zip(some, places, strict=True)})

    def _parts(
        self, layer: int, changed: dict[str, dict[int, Projection]]
    ) -> list[tuple[tuple[int, ...], dict[str, dict[int, Projection]]]]:
        """Part the heads with changed inputs by which inputs changed and by where they are read."""
        kinds: dict[tuple[object, ...], list[int]] = {}
        for head in sorted(set().union(*changed.values())):
            which = tuple(letter for letter in "qkv" if head in changed[letter])
            wide = bool(self.layout.wide[self.layout.head(layer, head)])
            kinds.setdefault((which, wide), []).append(head)
        return [(tuple(heads), changed) for heads in kinds.values()]

    def _mix(
        self, layer: int, heads: tuple[int, ...], changed: dict[str, dict[int, Projection]]
    ) -> Tensor:
        """Let heads attend with their changed and their current inputs, [n, B, T, h, K]."""
        block = self.model.blocks[layer]
        wide = bool(self.layout.wide[self.layout.head(layer, heads[0])])
        inputs = []
        for letter in "qkv":
            new = changed[letter]
            if heads[0] in new:
                inputs.append(gathered([new[h] for h in heads]))
            else:
                current = [self._current(layer, letter, h, wide or letter != "q") for h in heads]
                inputs.append(torch.stack(current, -2)[None])
        past = self._past(layer, heads)
        z = block.attention.mix(*inputs, self.contexts[wide], past)
        return z.to(self.dtype)

    def _past(self, layer: int, heads: tuple[int, ...]) -> tuple[Tensor, Tensor] | None:
        """Return keys and values before the window, for each of some query heads."""
        if self.chunk.past is None:
            return None
        share = self.model.blocks[layer].attention.share
        groups = [head // share for head in heads]
        keys, values = self.chunk.past[layer]
        if groups == list(range(keys.shape[-2])):
            return keys, values
        return keys[..., groups, :], values[..., groups, :]

    def _current(self, layer: int, letter: str, head: int, wide: bool) -> Tensor:
        """Return one head's query, key or value in the current circuit, [B, T, K]."""
        at = self.rows[layer].attention["q"][head]
        held = self._projection.get((at, "qkv".index(letter)))
        if held is not None:
            return self.fit(held, wide)
        key = (at, "qkv".index(letter), wide)
        if key not in self._clean_projection:
            block = self.model.blocks[layer]
            clean = self.fit(self.chunk.clean.streams.attention[layer], wide)
            value, (place,) = project_heads(block, letter, block.attention_norm(clean), [head])
            self._clean_projection[key] = value[..., place, :]
        return self._clean_projection[key]

    def _current_z(self, layer: int, heads: tuple[int, ...], wide: bool) -> Tensor:
        """Return what heads read in the current circuit, [B, T, h, K]."""
        senders = [self.layout.head(layer, h) for h in heads]
        if not any(u in self._z for u in senders):
            z = self.chunk.clean.values.z[layer]
            z = z if len(heads) == z.shape[-2] else z[..., list(heads), :]
            z = z.to(self.dtype)
            return z if wide else self.narrow(z.flatten(-2)).unflatten(-1, (len(heads), -1))
        clean = self.chunk.clean.values.z[layer]
        return torch.stack(
            [
                self.fit(self._z.get(u, clean[..., h, :].to(self.dtype)), wide)
                for u, h in zip(senders, heads, strict=True)
            ],
            -2,
        )

    def _output(self, block: Block, z: Tensor, heads: tuple[int, ...]) -> Tensor:
        """Add up what heads write of mixtures z [..., h, K], [..., D]."""
        weight = block.attention.wo
        if len(heads) == 1:
            weight = weight[heads[0]]
        elif len(heads) < len(weight):
            weight = weight[list(heads)].flatten(0, 1)
        else:
            weight = weight.flatten(0, 1)
        return block.attention.scaled(z.flatten(-2).to(weight.dtype) @ weight).to(self.dtype)

    # -- questions --------------------------------------------------------------------------

    def question_bytes(self, row: int) -> int:
        """Estimate the memory that one question about a port takes."""
        examples, window, width = self.shape
        tokens = examples * (window if self.layout.wide_port[row] else 1)
        inner = max(block.mlp.up.weight.shape[0] for block in self.model.blocks)
        heads = sum(t.shape[0] * t.shape[1] for t in (self.model.blocks[0].attention.wq,) * 3)
        return 4 * tokens * (6 * width + 3 * inner + heads)

    def ask(self, row: int, ablated: np.ndarray) -> Tensor:
        """Return the stream at `logits`, [n, B, D], if edges of a port were ablated too.

        `ablated`: bool [n, S], edges that the current circuit keeps.
        """
        wide = bool(self.layout.wide_port[row])
        x = self.stream(row, wide)
        senders = ablated.any(0).nonzero()[0]
        if len(senders):
            weights = torch.from_numpy(ablated[:, senders]).to(x)
            x = x - (weights @ self.deltas(senders, wide)).view(len(ablated), *x.shape)
        else:
            x = x.expand(len(ablated), *x.shape)
        return Question(self, row).answer(x)


class Question:
    """Propagate a changed stream of one port to `logits`."""

    def __init__(self, state: IncrementalChunk, row: int) -> None:
        self.state, self.row, self.layout = state, row, state.layout
        self.changes: list[Change] = []
        self._last: dict[bool, tuple[tuple[int, ...], Tensor | None]] = {}
        self._narrow: dict[int, Tensor] = {}

    def answer(self, x: Tensor) -> Tensor:
        """Return the stream at `logits`, [n, B, D], if the port holds x [n, B, T, D]."""
        state, graph = self.state, self.state.graph
        port = graph.ports[self.row]
        if port.node.kind is Kind.LOGITS:
            return x.squeeze(-2)
        assert port.node.layer is not None
        first = port.node.layer
        for layer in range(first, graph.layers):
            rows = state.rows[layer]
            start = x if layer == first else None
            if start is None or port.letter is not None:
                self._attention(layer, start)
            for row in rows.others:
                if row == self.row:
                    self._other(layer, row, x)
                elif row > self.row and self.layout.live_ports[row]:
                    new = self.stream(row, self.layout.kept[row])
                    if new is not None:
                        self._other(layer, row, new)
        last = len(graph.ports) - 1
        final = self.stream(last, self.layout.kept[last])
        if final is None:
            final = state.stream(last, False).expand(len(x), -1, -1, -1)
        return final.squeeze(-2)

    def stream(self, row: int, kept: np.ndarray) -> Tensor | None:
        """Return a port's changed stream, [n, B, T, D], or None if nothing reaches it."""
        reached = tuple(i for i, c in enumerate(self.changes) if kept[c.senders[0]])
        if not reached:
            return None
        wide = bool(self.layout.wide_port[row])
        return self.state.stream(row, wide) + self._sum(reached, wide)

    def _sum(self, which: tuple[int, ...], wide: bool) -> Tensor:
        """Add up changes; a sum that only grows from port to port is not begun anew."""
        last, total = self._last.get(wide, ((), None))
        if not set(last) <= set(which):
            last, total = (), None
        for i in which:
            if i not in last:
                value = self._change(i, wide)
                total = value if total is None else total + value
        assert total is not None
        self._last[wide] = which, total
        return total

    def _change(self, index: int, wide: bool) -> Tensor:
        value = self.changes[index].value
        if wide or value.shape[-2] == 1:
            return value
        if index not in self._narrow:
            self._narrow[index] = self.state.narrow(value)
        return self._narrow[index]

    def _attention(self, layer: int, start: Tensor | None) -> None:
        """Run the heads that a change reaches; `start`: the asked port's stream, if it is here."""
        state, graph = self.state, self.state.graph
        block = state.model.blocks[layer]
        changed: dict[str, dict[int, Projection]] = {"q": {}, "k": {}, "v": {}}
        if start is not None:
            port = graph.ports[self.row]
            heads = tuple(
                u - self.layout.first_head[layer]
                for u in graph.feeds[self.row]
                if self.layout.live[u]
            )
            own = Group(self.layout.kept[self.row], (self.row,), {port.letter or "": heads})
            state._project(layer, block, own, start, changed)
        else:
            for group in self.layout.groups(layer):
                wide_row = max(group.rows, key=lambda r: bool(self.layout.wide_port[r]))
                x = self.stream(wide_row, group.kept)
                if x is not None:
                    state._project(layer, block, group, x, changed)
        for heads, inputs in state._parts(layer, changed):
            z = state._mix(layer, heads, inputs)
            wide = bool(self.layout.wide[self.layout.head(layer, heads[0])])
            moved = z - state._current_z(layer, heads, wide)
            for some in self.layout.classes(layer, heads):
                part = moved
                if len(some) < len(heads):
                    part = moved[..., [heads.index(h) for h in some], :]
                senders = tuple(self.layout.head(layer, h) for h in some)
                self.changes.append(Change(senders, state._output(block, part, some)))

    def _other(self, layer: int, row: int, x: Tensor) -> None:
        """Run `m` or `o` of a layer on its changed stream."""
        (sender,) = self.state.graph.feeds[row]
        if self.layout.live[sender]:
            wide = bool(self.layout.wide[sender])
            new = self.state._write(layer, row, x)
            value = new - self.state._written(sender, layer, wide)
            self.changes.append(Change((sender,), value))


def project_heads(
    block: Block, letter: str, normed: Tensor, heads: list[int]
) -> tuple[Tensor, list[int]]:
    """Project normed [..., D] for some query heads: [..., g, K], and each head's place in it."""
    weight, bias = block.attention.projection(letter)
    share = 1 if letter == "q" else block.attention.share
    groups = sorted({head // share for head in heads})
    if len(groups) == 1:
        at = slice(groups[0], groups[0] + 1)
        weight, bias = weight[at], None if bias is None else bias[at]
    elif len(groups) < len(weight):
        weight, bias = weight[groups], None if bias is None else bias[groups]
    out = (normed @ weight.flatten(0, 1).t()).unflatten(-1, (len(groups), -1))
    return out if bias is None else out + bias, [groups.index(head // share) for head in heads]


def gathered(parts: list[Projection]) -> Tensor:
    """Put projections of several heads together, [n, B, T, h, K]."""
    first = parts[0][0]
    if all(value is first for value, _ in parts):
        places = [place for _, place in parts]
        if places == list(range(first.shape[-2])):
            return first
        return first[..., places, :]
    values = torch.broadcast_tensors(*(value[..., place, :] for value, place in parts))
    return torch.stack(values, -2)
