"""Questions to the incremental runner: the stream at `logits` if more edges were ablated.

1. Edges T are taken away from a port p: its stream becomes x_p − Σ_{u in T} (o_u − a_u), and only
   what p feeds is computed from it (for `<q>` one head's query and attention).
2. The change of what the owner writes is added to every live port that keeps an edge from it, and
   so on in topological order, once each, up to `logits`.

Nothing else is computed. Ports that keep the same edges hold the same stream and share its norm and
projection; senders that all ports treat alike share one output product.

Shapes: n questions, R ports, B examples, T positions (1 for narrow values), D d_model, S senders.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...graphs.lift.devices import send
from .liveness import Group
from .state import IncrementalChunk, Projections


@dataclass(frozen=True)
class WriteChange:
    """By how much what some senders write has changed, summed, [n, B, T, D]."""

    senders: tuple[int, ...]
    value: Tensor


@dataclass(frozen=True)
class AskedStreams:
    """Streams of one port, [u, B, T, D]; `of`: which each question takes, [n]; None: its own."""

    row: int
    streams: Tensor
    of: Tensor | None


@torch.no_grad()
def ask(state: IncrementalChunk, rows: Sequence[int], ablated: np.ndarray) -> Tensor:
    """Return the stream at `logits`, [n, B, D], if edges into one or more ports were ablated too.

    `rows`: the ports; several must be attention ports of one layer. `ablated`: bool [n, R, S]; only
    edges that the current circuit keeps count.
    """
    step = max(1, state.chunk.budget.questions // max(state.question_bytes(row) for row in rows))
    found = []
    for start in range(0, len(ablated), step):
        some = ablated[start : start + step]
        starts = [_start(state, row, some[:, i], len(rows) > 1) for i, row in enumerate(rows)]
        found.append(_Question(state, starts, len(some)).answer())
    return torch.cat(found)


def _start(state: IncrementalChunk, row: int, ablated: np.ndarray, several: bool) -> AskedStreams:
    """Take edges away from a port's stream, of `several` once for questions that treat it alike."""
    ablated = ablated & state.layout.kept[row]
    index = None
    if several:
        ablated, of = np.unique(ablated, axis=0, return_inverse=True)
        index = send(of, state.at)
    wide = bool(state.layout.wide_port[row])
    x = state.stream(row, wide)
    (senders,) = np.nonzero(ablated.any(0))
    if not len(senders):
        return AskedStreams(row, x.expand(len(ablated), *x.shape), index)
    weights = send(ablated[:, senders], x)
    streams = x - state.moved(row, weights, senders, wide)
    empty = np.flatnonzero((ablated == state.layout.kept[row]).all(1)).tolist()
    if empty:  # exactly the base: a norm would blow up what rounding leaves of zero
        streams[empty] = state.base_stream(row, wide)
    return AskedStreams(row, streams, index)


class _Question:
    """Propagate changed streams of one layer's ports to `logits`."""

    def __init__(self, state: IncrementalChunk, starts: list[AskedStreams], questions: int) -> None:
        self.state, self.layout = state, state.layout
        self.starts, self.questions = starts, questions
        self.changes: list[WriteChange] = []
        self._last: dict[bool, tuple[tuple[int, ...], Tensor | None]] = {}
        self._narrow: dict[int, Tensor] = {}

    def answer(self) -> Tensor:
        """Return the stream at `logits`, [n, B, D]."""
        state, graph = self.state, self.state.graph
        asked = {start.row: start for start in self.starts}
        last = len(graph.ports) - 1
        if last in asked:
            return state.read(self._whole(asked[last]))
        first = graph.ports[self.starts[0].row]
        assert first.node.layer is not None
        for layer in range(first.node.layer, graph.layers):
            here = layer == first.node.layer
            if not here or first.letter is not None:
                self._attention(layer, self.starts if here else [])
            for row in self.layout.others[layer]:
                if row in asked:
                    self._other(layer, row, self._whole(asked[row]))
                elif row > self.starts[0].row and self.layout.live_ports[row]:
                    x = self.stream(row, self.layout.kept[row])
                    if x is not None:
                        self._other(layer, row, x)
        final = self.stream(last, self.layout.kept[last])
        if final is None:
            final = state.stream(last, state.several).expand(self.questions, -1, -1, -1)
        return state.read(final)

    def _whole(self, start: AskedStreams) -> Tensor:
        """Return an asked port's stream for every question, [n, B, T, D]."""
        return start.streams if start.of is None else start.streams[start.of]

    def stream(self, row: int, kept: np.ndarray) -> Tensor | None:
        """Return a port's changed stream, [n, B, T, D], or None if nothing reaches it."""
        reached = tuple(i for i, c in enumerate(self.changes) if kept[c.senders[0]])
        if not reached:
            return None
        wide = bool(self.layout.wide_port[row])
        return self.state.stream(row, wide) + self.state.at_port(row, self._sum(reached, wide))

    def _sum(self, which: tuple[int, ...], wide: bool) -> Tensor:
        """Add up changes; a sum that only grows from port to port is not begun anew."""
        last, total = self._last.get(wide, ((), None))
        if not set(last) <= set(which):
            last, total = (), None
        for i in which:
            if i not in last:
                value = self.changes[i].value
                if not wide and value.shape[-2] != 1:
                    if i not in self._narrow:
                        self._narrow[i] = self.state.narrow(value)
                    value = self._narrow[i]
                total = value if total is None else total + value
        assert total is not None
        self._last[wide] = which, total
        return total

    def _attention(self, layer: int, starts: list[AskedStreams]) -> None:
        """Run the heads that a change reaches; `starts`: the asked ports, if they are here."""
        state = self.state
        changed: Projections = {"q": {}, "k": {}, "v": {}}
        for start in starts:
            self._project(layer, start, changed)
        if not starts:
            for group in self.layout.groups[layer]:
                widest = max(group.rows, key=lambda row: bool(self.layout.wide_port[row]))
                x = self.stream(widest, group.kept)
                if x is not None:
                    state.project(layer, group, x, changed)
        for heads in state.parts(layer, changed):
            z = state.mix(layer, heads, changed)
            wide = bool(self.layout.wide[self.layout.head(layer, heads[0])])
            moved = z - state.current_z(layer, heads, wide)
            senders = [self.layout.head(layer, h) for h in heads]
            for places in self.layout.classes(senders):
                part = moved if len(places) == len(heads) else moved[..., places, :]
                some = tuple(heads[i] for i in places)
                value = state.output(state.model.blocks[layer], part, some)
                self.changes.append(WriteChange(tuple(senders[i] for i in places), value))

    def _project(self, layer: int, start: AskedStreams, changed: Projections) -> None:
        """Project an asked port's streams for the heads that read it."""
        letter = self.state.graph.ports[start.row].letter or ""
        first = self.state.graph.first_heads[layer]
        heads = [sender - first for sender in self.state.live_of(start.row)]
        found: Projections = {"q": {}, "k": {}, "v": {}}
        group = Group(self.layout.kept[start.row], [start.row], {letter: heads})
        self.state.project(layer, group, start.streams, found)
        for head, (value, place) in found[letter].items():
            changed[letter][head] = value if start.of is None else value[start.of], place

    def _other(self, layer: int, row: int, x: Tensor) -> None:
        """Run the senders behind the port of `s`, `o` or `m` on its changed stream."""
        state = self.state
        senders = state.live_of(row)
        if not senders:
            return
        wide = bool(self.layout.wide_port[row])
        now = state.base_writes(layer, row, senders, wide)
        now = now + torch.stack([state.delta(sender, wide) for sender in senders])
        moved = state.writes(layer, row, x, senders) - now[:, None]
        for places in self.layout.classes(senders):
            some = tuple(senders[i] for i in places)
            value = moved[places[0]] if len(places) == 1 else moved[places].sum(0)
            value = state.fit(value, bool(self.layout.wide[some[0]]))
            self.changes.append(WriteChange(some, value))
