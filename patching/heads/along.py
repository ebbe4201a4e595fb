"""What routes through heads alone change at the answers: only what they need is computed.

Of a head that acts on `logits`, or on queries of such heads, the query at the answer position is
all that counts; the keys and values of a head that nothing on the routes changes are those of the
clean run. So a route costs a few projections, no layer is run, and no MLP.

Shapes: C routes, B examples, T positions, D d_model, K d_head.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ...graphs.lift.lifted import AttentionContext
from ...graphs.names import Edge, Kind, Node
from ..run.chunk import Chunk
from ..trace import at_answers, of_keys, past_of, project_heads


@dataclass(frozen=True)
class Route:
    """Edges that lead from a start to `logits`."""

    start: Node
    edges: frozenset[Edge]

    @property
    def inner(self) -> frozenset[Node]:
        """Return the senders on the way, which are recomputed."""
        return frozenset(edge.sender for edge in self.edges) - {self.start}


def can_follow(chunk: Chunk, routes: Iterable[Route]) -> bool:
    """Tell whether only heads of one stream stand on the routes, read at plain answers."""
    model = chunk.model
    plain = chunk.batch.steps is None and not model.graph.post_norm
    heads = all(node.kind is Kind.HEAD for route in routes for node in route.inner)
    return plain and heads and not model.on_several_devices


def follow(chunk: Chunk, routes: Sequence[Route]) -> Tensor:
    """Return the stream at `logits` and the answers along each route, [C, B, D]."""
    return _Following(chunk, routes).final()


class _Following:
    """What every sender on some routes writes more than in the clean run, head by head."""

    def __init__(self, chunk: Chunk, routes: Sequence[Route]) -> None:
        self.chunk, self.routes, self.run = chunk, routes, chunk.clean
        self.graph = chunk.model.graph
        self.at = chunk.batch.answer_position
        edges = {edge for route in routes for edge in route.edges}
        self.nodes = {edge.sender for edge in edges}
        self.outgoing = {node: [e for e in edges if e.sender == node] for node in self.nodes}
        self.inner = sorted(
            {node for route in routes for node in route.inner},
            key=self.graph.sender_index.__getitem__,
        )
        self.more: dict[Node, Tensor] = {}  # of heads that ran, [C, B, T or 1, D]

    def final(self) -> Tensor:
        """Follow all routes."""
        for node in self.inner:
            self.more[node] = self._head(node)
        base = at_answers(self.run.streams.final, self.at - self.chunk.start)
        into = [[e for e in r.edges if e.port.node.kind is Kind.LOGITS] for r in self.routes]
        return base + self._sum(into, at_end=True)[:, :, 0]

    def _at_end(self, node: Node) -> bool:
        """Tell whether only what a head writes at the answers counts."""
        return all(
            edge.port.node.kind is Kind.LOGITS
            or (edge.port.letter == "q" and self._at_end(edge.port.node))
            for edge in self.outgoing[node]
        )

    def _sum(self, edges: Sequence[Sequence[Edge]], *, at_end: bool) -> Tensor:
        """Add up what comes along edges of each route, [C, B, T or 1, D]."""
        clean = self.run.streams.final
        shape = (len(edges), len(clean), 1 if at_end else clean.shape[1], clean.shape[2])
        total = clean.new_zeros(shape)
        for row, some in enumerate(edges):
            for edge in some:
                if edge.sender == self.routes[row].start:
                    column = self.graph.sender_index[edge.sender]
                    flat = self.chunk.delta[column].view_as(clean).to(clean)
                    total[row] -= self._picked(flat) if at_end else flat
                else:
                    own = self.more[edge.sender][row]
                    total[row] += self._picked(own) if at_end and own.shape[1] > 1 else own
        return total

    def _picked(self, x: Tensor) -> Tensor:
        """Pick the answer positions of the window, x [B, T, D] gives [B, 1, D]."""
        return at_answers(x, self.at - self.chunk.start)[:, None]

    def _head(self, node: Node) -> Tensor:
        """Return what a head writes more along each route, [C, B, T or 1, D]."""
        assert node.layer is not None and node.index is not None
        layer, head = node.layer, node.index
        block, chunk = self.chunk.model.blocks[layer], self.chunk
        at_end, rows = self._at_end(node), self.graph.attention_rows[layer]
        into = {
            letter: [
                [e for e in route.edges if self.graph.port_index[e.port] == rows[letter][head]]
                for route in self.routes
            ]
            for letter in "qkv"
        }  # fmt: skip
        streams = self.run.streams.attention
        made: dict[str, Tensor] = {}
        for letter, edges in into.items():
            x = (streams[layer] if letter == "q" else of_keys(block, streams, layer))[None]
            end = at_end and letter == "q"
            if end:
                x = self._picked(x[0])[None]
            if any(edges):
                x = x + self._sum(edges, at_end=end)
            normed = block.read(x) if letter == "q" else block.read(x, letter)
            projected, (place,) = project_heads(block, letter, normed, [head])
            made[letter] = projected[..., place : place + 1, :]
        context = chunk.context
        if at_end:
            context = AttentionContext(chunk.batch.mask, chunk.batch.position_ids, at=self.at)
        past = past_of(block, layer, chunk.past, [head])
        most = max(len(x) for x in made.values())
        q, k, v = (made[key].expand(most, *made[key].shape[1:]) for key in "qkv")
        z = block.by_head.mix(q, k, v, context, past, [head])[..., 0, :]  # [C, B, T or 1, K]
        clean = self.run.values.z[layer][:, :, head]
        change = z - (self._picked(clean) if at_end else clean)
        flat = change.flatten(0, -2)[None]
        return block.by_head.outputs(flat, [head])[0].view(*change.shape[:-1], -1)


def pieces(chunk: Chunk, routes: int) -> int:
    """Return how many routes can be followed together in the memory that a run may take."""
    size = 6 * chunk.clean.streams.final.numel() * 4
    return int(np.clip(chunk.budget.run // max(1, size), 1, routes))
