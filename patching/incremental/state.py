"""The incremental runner's state: what the current circuit's ports read and its senders write.

The state is a function of the circuit's mask alone: `rebuild` computes it anew from the clean run,
so no rounding piles up, and a search that was stopped goes on from the same numbers. Only nodes
with a path to `logits` are computed, only where something reads them (see liveness.py), and only if
they can differ from the full circuit's.

Shapes: n questions, B examples, T positions of the chunk's window (1 for narrow values), D d_model,
K d_head, S senders. Everything is float32 at least, whatever the model's dtype.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from ...graphs.lift.devices import projected
from ...graphs.lift.lifted import AttentionContext, Block
from ...graphs.names import Kind
from ..run.chunk import Chunk
from ..trace import Trace, at_answers, of_keys, past_of, project_heads
from .liveness import Group, Liveness

Projection = tuple[Tensor, int]  # of some heads [n or 1, B, T, h, K], and which of them is meant
Projections = dict[str, dict[int, Projection]]  # new queries, keys and values, by letter and head


class IncrementalChunk:
    """What one chunk's ports read and its senders write in the current circuit."""

    def __init__(self, chunk: Chunk) -> None:
        self.chunk, self.model, self.graph = chunk, chunk.model, chunk.model.graph
        base = chunk.base
        self.dtype = torch.promote_types(self.model.dtype, torch.float32)
        self.shape = tuple(base.streams.final.shape)  # [B, T, D]
        self.clean_delta = chunk.delta.view(len(self.graph.senders), *self.shape)
        self.several = chunk.batch.steps is not None  # reads of a run, so that all is wide
        self.at = chunk.batch.last - chunk.start
        self.clean_delta_narrow = self.narrow(self.clean_delta)
        wide, answers = chunk.context, chunk.batch.last
        narrow = AttentionContext(wide.mask, wide.position_ids, wide.start, answers)
        self.contexts = {True: wide, False: narrow}
        self._clean_projection: dict[tuple[int, int, str, bool], Tensor] = {}
        self._start(self.graph.reads)

    def _start(self, kept: np.ndarray) -> None:
        self.layout = Liveness(self.graph, kept, wide=self.several)
        self._delta: dict[int, Tensor] = {}
        self._stream: dict[int, Tensor] = {}
        self._projection: dict[tuple[int, int, str], Tensor] = {}
        self._z: dict[int, Tensor] = {}

    def narrow(self, x: Tensor) -> Tensor:
        """Take the answer positions of x [..., B, T, D] as [..., B, 1, D]."""
        return x if x.shape[-2] == 1 else at_answers(x, self.at).unsqueeze(-2)

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
        if any(int(u) in self._delta for u in senders):
            return torch.stack([self.delta(int(u), wide) for u in senders]).flatten(1)
        whole = len(senders) == senders[-1] - senders[0] + 1  # a view, no copy
        some = slice(int(senders[0]), int(senders[-1]) + 1) if whole else senders.tolist()
        return clean[some].flatten(1)

    def _of_run(self, row: int, base: bool) -> Tensor:
        """Return a port's stream in the clean run or with every edge ablated, [B, T, D]."""
        streams = (self.chunk.base if base else self.chunk.clean).streams
        node = self.graph.ports[row].node
        if (source := self.graph.source_of(self.graph.ports[row])) is not None:
            return streams.attention[source]
        by_kind = {Kind.MLP: streams.mlp, Kind.POST: streams.post}
        of_layer = by_kind.get(node.kind, streams.attention)
        return streams.final if node.layer is None else of_layer[node.layer]

    def moved(self, row: int, weights: Tensor, senders: np.ndarray, wide: bool) -> Tensor:
        """Weigh and add what senders bring to a port, [n, B, T, D]: weights [n, s] of s senders.

        To an MLP the embedding, sender 0, brings what that is given past the stream too, [n, B, T,
        D + P].
        """
        total = (weights @ self.deltas(senders, wide)).view(len(weights), *self.shape_of(wide))
        node = self.graph.ports[row].node
        if not self.chunk.given_delta or node.kind is not Kind.MLP:
            return total
        assert node.layer is not None
        given = self.fit(self.chunk.given_delta[node.layer], wide).to(self.dtype)
        share = weights[:, 0] if senders[0] == 0 else torch.zeros_like(weights[:, 0])
        return torch.cat((total, share[:, None, None, None] * given), -1)

    def shape_of(self, wide: bool) -> tuple[int, ...]:
        """Return the shape of what is written at every position or at the answer positions."""
        return self.shape if wide else (self.shape[0], 1, self.shape[2])

    def at_port(self, row: int, value: Tensor) -> Tensor:
        """Return what senders of layers bring to a port: nothing past the stream."""
        node = self.graph.ports[row].node
        if not self.chunk.given_delta or node.kind is not Kind.MLP or node.layer is None:
            return value
        return pad(value, (0, self.chunk.given_delta[node.layer].shape[-1]))

    def base_stream(self, row: int, wide: bool) -> Tensor:
        """Return what a port holds when every edge into it is ablated, [B, T, D]."""
        return self.fit(self._of_run(row, base=True), wide).to(self.dtype)

    def stream(self, row: int, wide: bool) -> Tensor:
        """Return what a port holds in the current circuit, [B, T, D]."""
        held = self._stream.get(row)
        if held is None:
            held = self._of_run(row, base=False).to(self.dtype)
        return self.fit(held, wide)

    def final(self) -> Tensor:
        """Return what `logits` reads in the current circuit, [B or R, D]."""
        return self.read(self.stream(len(self.graph.ports) - 1, self.several))

    def read(self, stream: Tensor) -> Tensor:
        """Return streams at `logits` where they are read, [..., B, T, D] to [..., R, D]."""
        return self.chunk.at_answers(stream) if self.several else stream.squeeze(-2)

    def base_writes(self, layer: int, row: int, senders: list[int], wide: bool) -> Tensor:
        """Return what senders of the port of `s`, `o`, `m` write in the base run, [s, B, T, D]."""
        values = self.chunk.base.values
        kind = self.graph.ports[row].node.kind
        if kind is Kind.POST:
            base = values.post[layer][None]
        elif kind is Kind.MIXER:
            base = values.z[layer].squeeze(-2)[None]
        else:
            every = self.graph.mlp_columns[layer]
            base = values.mlp[layer]
            if len(senders) < len(every):
                base = base[[sender - every[0] for sender in senders]]
        return self.fit(base, wide).to(self.dtype)

    def live_of(self, row: int) -> list[int]:
        """List the live senders that compute from a port."""
        return [sender for sender in self.graph.feeds[row] if self.layout.live[sender]]

    @torch.no_grad()
    def rebuild(self, kept: np.ndarray) -> None:
        """Make another circuit the current one and compute its state from the clean run."""
        self._start(kept)
        ports, _ = self.layout.touched
        for layer in range(self.graph.layers):
            self._rebuild_attention(layer, ports)
            for row in self.layout.others[layer]:
                if ports[row]:
                    self._rebuild_other(layer, row)
        last = len(self.graph.ports) - 1
        if ports[last]:
            self._stream[last] = self._summed(last, self.layout.kept[last], self.several)

    def _summed(self, row: int, kept: np.ndarray, wide: bool) -> Tensor:
        """Add up a port's stream from its kept edges, [B, T, D]."""
        total = self.base_stream(row, wide)
        senders = kept.nonzero()[0]
        if len(senders) and self.chunk.given_delta:
            total = total + self.moved(row, total.new_ones(1, len(senders)), senders, wide)[0]
        elif len(senders):
            total = total + self.deltas(senders, wide).sum(0).view_as(total)
        return total

    def _rebuild_attention(self, layer: int, touched: np.ndarray) -> None:
        block = self.model.blocks[layer]
        changed: Projections = {"q": {}, "k": {}, "v": {}}
        for group in self.layout.groups[layer]:
            rows = [row for row in group.rows if touched[row]]
            if not rows:
                continue
            wide = bool(self.layout.wide_port[rows].any())
            x = self._summed(rows[0], group.kept, wide)
            for row in rows:
                self._stream[row] = x
            self.project(layer, group, x[None], changed)
        for heads in self.parts(layer, changed):
            z = self.mix(layer, heads, changed)[0]  # [B, T, h, K]
            out = z - self._z_of_run(self.chunk.base, layer, heads, z.shape[1] == self.shape[1])
            for place, head in enumerate(heads):
                sender = self.layout.head(layer, head)
                self._z[sender] = z[..., place, :]
                self._delta[sender] = self.output(block, out[..., place : place + 1, :], (head,))
        for letter, projections in changed.items():
            for head, (value, place) in projections.items():
                self._projection[layer, head, letter] = value[0, ..., place, :]

    def _z_of_run(self, run: Trace, layer: int, heads: tuple[int, ...], wide: bool) -> Tensor:
        z = run.values.z[layer]
        z = (z if len(heads) == z.shape[-2] else z[..., list(heads), :]).to(self.dtype)
        return z if wide else self.narrow(z.flatten(-2)).unflatten(-1, (len(heads), -1))

    def _rebuild_other(self, layer: int, row: int) -> None:
        senders = self.live_of(row)
        wide = bool(self.layout.wide_port[row])
        self._stream[row] = x = self._summed(row, self.layout.kept[row], wide)
        moved = self.writes(layer, row, x, senders) - self.base_writes(layer, row, senders, wide)
        self._delta.update(zip(senders, moved, strict=True))

    def writes(self, layer: int, row: int, x: Tensor, senders: list[int]) -> Tensor:
        """Return what senders write when the port of `s`, `o` or `m` holds x, [s, ..., D]."""
        block, x = self.model.blocks[layer], x.to(self.model.dtype)
        kind = self.graph.ports[row].node.kind
        if kind is Kind.POST:
            return block.write_post(x)[None].to(self.dtype)
        if kind is Kind.MIXER:
            return block.write_whole(x, self.contexts[True])[None].to(self.dtype)
        every = self.graph.mlp_columns[layer]
        some = None if len(senders) == len(every) else [sender - every[0] for sender in senders]
        return block.writes(x, some).to(self.dtype)

    def project(self, layer: int, group: Group, x: Tensor, found: Projections) -> None:
        """Project a group's new stream, [n, B, T, D], for the heads that read it."""
        block = self.model.blocks[layer]
        x = x.to(self.model.dtype)
        normed = block.read(x, min(group.heads, default="k"))  # one norm: see `Group`
        for letter, heads in group.heads.items():
            for wide in (True, False):
                some = [h for h in heads if self._reads_wide(layer, letter, h) == wide]
                if some:
                    y = normed if wide else self.narrow(normed)
                    value, places = project_heads(block, letter, y, some)
                    found[letter].update({h: (value, i) for h, i in zip(some, places, strict=True)})

    def _reads_wide(self, layer: int, letter: str, head: int) -> bool:
        return letter != "q" or bool(self.layout.wide[self.layout.head(layer, head)])

    def parts(self, layer: int, changed: Projections) -> list[tuple[int, ...]]:
        """Part the heads with changed inputs by which inputs changed and by where they are read."""
        kinds: dict[tuple[object, ...], list[int]] = {}
        for head in sorted(set().union(*changed.values())):
            which = tuple(letter for letter in "qkv" if head in changed[letter])
            kinds.setdefault((which, self._reads_wide(layer, "q", head)), []).append(head)
        return [tuple(heads) for heads in kinds.values()]

    def mix(self, layer: int, heads: tuple[int, ...], changed: Projections) -> Tensor:
        """Let heads attend with their changed and their current inputs, [n, B, T, h, K]."""
        block = self.model.blocks[layer]
        wide = self._reads_wide(layer, "q", heads[0])
        inputs = []
        for letter in "qkv":
            new = changed[letter]
            if heads[0] in new:
                inputs.append(gathered([new[h] for h in heads]))
            else:
                current = [self._current(layer, letter, h, wide or letter != "q") for h in heads]
                inputs.append(torch.stack(current, -2)[None])
        past = past_of(block, layer, self.chunk.past, heads)
        q, k, v = inputs
        return block.by_head.mix(q, k, v, self.contexts[wide], past, heads).to(self.dtype)

    def _current(self, layer: int, letter: str, head: int, wide: bool) -> Tensor:
        """Return one head's query, key or value in the current circuit, [B, T, K]."""
        held = self._projection.get((layer, head, letter))
        if held is not None:
            return self.fit(held, wide)
        key = (layer, head, letter, wide)
        if key not in self._clean_projection:
            block = self.model.blocks[layer]
            streams = self.chunk.clean.streams.attention
            read = streams[layer] if letter == "q" else of_keys(block, streams, layer)
            clean = block.read(self.fit(read, wide), letter)
            value, (place,) = project_heads(block, letter, clean, [head])
            self._clean_projection[key] = value[..., place, :]
        return self._clean_projection[key]

    def current_z(self, layer: int, heads: tuple[int, ...], wide: bool) -> Tensor:
        """Return what heads read in the current circuit, [B, T, h, K]."""
        senders = [self.layout.head(layer, h) for h in heads]
        if not any(u in self._z for u in senders):
            return self._z_of_run(self.chunk.clean, layer, heads, wide)
        clean = self.chunk.clean.values.z[layer]
        found = [
            self.fit(self._z.get(u, clean[..., h, :].to(self.dtype)), wide)
            for u, h in zip(senders, heads, strict=True)
        ]
        return torch.stack(found, -2)

    def output(self, block: Block, z: Tensor, heads: tuple[int, ...]) -> Tensor:
        """Add up what heads write of mixtures z [..., h, K], [..., D]."""
        weight = block.by_head.wo
        if len(heads) == 1:
            weight = weight[heads[0]]
        else:
            weight = (weight[list(heads)] if len(heads) < len(weight) else weight).flatten(0, 1)
        out = projected(z.flatten(-2).to(weight.dtype), weight.t())
        return block.by_head.scaled(out).to(self.dtype)

    def question_bytes(self, row: int) -> int:
        """Estimate the memory that one question about a port takes."""
        examples, window, width = self.shape
        tokens = examples * (window if self.layout.wide_port[row] else 1)
        attended = max(block.features[0] for block in self.model.blocks)
        inner = max(block.features[1] for block in self.model.blocks)
        return 4 * tokens * (6 * width + 3 * inner + attended // 2)


def gathered(parts: list[Projection]) -> Tensor:
    """Put projections of several heads together, [n, B, T, h, K]."""
    first = parts[0][0]
    if all(value is first for value, _ in parts):
        places = [place for _, place in parts]
        return first if places == list(range(first.shape[-2])) else first[..., places, :]
    values = torch.broadcast_tensors(*(value[..., place, :] for value, place in parts))
    return torch.stack(values, -2)
