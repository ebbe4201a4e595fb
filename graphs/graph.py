"""The computation graph: which senders and ports a model has, and who can read whom.

A graph is only a shape. A mask over its edges is a bool matrix [ports, senders].
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np

from .bitsets import booleans, integers
from .errors import GraphMismatch
from .names import LETTERS, Edge, Kind, Node, Port

MOST_CELLS = 10**9
"""Most places of a mask [ports, senders], a byte each: Llama-3.1-405B's has 0.8 billion."""


@dataclass(frozen=True)
class ComputationGraph:
    """A transformer's shape; senders, ports and edges follow from it.

    Args:
        layers: number of blocks.
        heads: query heads in each block.
        kv_heads: key/value heads in each block.
        parallel: attention and MLP of a block read the same stream.
        post_norm: a norm after attention stands between the heads and the stream.
        grouped_kv: one `<k>` and one `<v>` port for each key/value head.
        split_embedding: `tok` and `pos` in place of `embed`.
        experts: for each layer how many experts it has, 0 where it has a plain MLP; empty if no
            layer has experts. They are senders of their own and read one port, `m{l}`.
        shared_experts: layers with experts have a shared one too, another sender.

    >>> graph = ComputationGraph(layers=12, heads=12)
    >>> graph.edge_count
    32491
    """

    layers: int
    heads: int
    kv_heads: int = 0
    parallel: bool = False
    post_norm: bool = False
    grouped_kv: bool = False
    split_embedding: bool = False
    experts: tuple[int, ...] = ()
    shared_experts: bool = False

    def __post_init__(self) -> None:
        if not self.kv_heads:
            object.__setattr__(self, "kv_heads", self.heads)
        object.__setattr__(self, "experts", tuple(self.experts) if any(self.experts) else ())
        if self.layers < 1 or self.heads < 1 or self.heads % self.kv_heads:
            raise GraphMismatch(
                f"no graph has {self.layers} layers, {self.heads} heads and {self.kv_heads} "
                "key/value heads; accepted: at least one of each, heads a multiple of kv_heads."
            )
        if self.experts and (len(self.experts) != self.layers or min(self.experts) < 0):
            raise GraphMismatch(
                f"no graph of {self.layers} layers has experts {list(self.experts)}; accepted: a "
                "number for each layer, 0 where it has none."
            )
        if self.shared_experts and not self.experts:
            raise GraphMismatch("a graph without experts has no shared experts.")
        ports, senders = self.size
        if ports * senders > MOST_CELLS:
            raise GraphMismatch(
                f"a graph of {ports} ports and {senders} senders is larger than any this program "
                f"can hold; accepted: {MOST_CELLS} pairs of them."
            )

    @property
    def size(self) -> tuple[int, int]:
        """Count the ports and senders, a mask's shape, without listing them.

        >>> ComputationGraph(2, 2, 1, post_norm=True, experts=(0, 3), shared_experts=True).size
        (17, 12)
        """
        attention = self.heads + 2 * (self.kv_heads if self.grouped_kv else self.heads)
        ports = self.layers * (attention + self.post_norm + 1) + 1
        mlps = sum(n + self.shared_experts if n else 1 for n in self.experts) or self.layers
        return ports, 1 + self.split_embedding + self.layers * (self.heads + self.post_norm) + mlps

    # -- senders and ports ------------------------------------------------------------------

    @cached_property
    def senders(self) -> tuple[Node, ...]:
        """List the senders in topological order."""
        found = [Node(Kind.TOK), Node(Kind.POS)] if self.split_embedding else [Node(Kind.EMBED)]
        for layer in range(self.layers):
            found += [Node(Kind.HEAD, layer, head) for head in range(self.heads)]
            if self.post_norm:
                found.append(Node(Kind.POST, layer))
            found += self.mlp_nodes(layer)
        return tuple(found)

    def mlp_nodes(self, layer: int) -> list[Node]:
        """List the senders that compute from a layer's port `m{l}`: its MLP, or its experts."""
        if not self.experts or not self.experts[layer]:
            return [Node(Kind.MLP, layer)]
        found = [Node(Kind.EXPERT, layer, expert) for expert in range(self.experts[layer])]
        return [*found, Node(Kind.SHARED, layer)] if self.shared_experts else found

    @cached_property
    def mlp_columns(self) -> tuple[range, ...]:
        """Tell, for each layer, the columns of the senders that compute from its port `m{l}`."""
        layers = [self.mlp_nodes(layer) for layer in range(self.layers)]
        firsts = [self.sender_index[nodes[0]] for nodes in layers]
        return tuple(range(i, i + len(nodes)) for i, nodes in zip(firsts, layers, strict=True))

    @cached_property
    def ports(self) -> tuple[Port, ...]:
        """List the ports in topological order: per layer q, k, v of all heads, (o), m; logits."""
        found = []
        for layer in range(self.layers):
            for letter in LETTERS:
                found += [Port(node, letter) for node in self.attention_owners(layer, letter)]
            if self.post_norm:
                found.append(Port(Node(Kind.POST, layer)))
            found.append(Port(Node(Kind.MLP, layer)))
        return (*found, Port(Node(Kind.LOGITS)))

    def attention_owners(self, layer: int, letter: str) -> list[Node]:
        """List the owners of one layer's ports of one letter."""
        if self.grouped_kv and letter != "q":
            return [Node(Kind.KV, layer, group) for group in range(self.kv_heads)]
        return [Node(Kind.HEAD, layer, head) for head in range(self.heads)]

    @cached_property
    def attention_rows(self) -> tuple[dict[str, tuple[int, ...]], ...]:
        """Tell, for each layer and letter, the row of the port that each query head reads."""
        found = []
        for layer in range(self.layers):
            rows: dict[str, tuple[int, ...]] = {}
            for letter in LETTERS:
                owners = self.attention_owners(layer, letter)
                first, share = self.port_index[Port(owners[0], letter)], self.heads // len(owners)
                rows[letter] = tuple(first + head // share for head in range(self.heads))
            found.append(rows)
        return tuple(found)

    @cached_property
    def first_heads(self) -> tuple[int, ...]:
        """Return the column of each layer's first head."""
        return tuple(self.sender_index[Node(Kind.HEAD, layer, 0)] for layer in range(self.layers))

    @cached_property
    def sender_index(self) -> dict[Node, int]:
        """Map each sender to its column."""
        return {node: i for i, node in enumerate(self.senders)}

    @cached_property
    def port_index(self) -> dict[Port, int]:
        """Map each port to its row."""
        return {port: i for i, port in enumerate(self.ports)}

    @cached_property
    def feed_bits(self) -> tuple[int, ...]:
        """Return the same as `feeds`, each port's senders as the bits of an integer."""
        return tuple(sum(1 << sender for sender in senders) for senders in self.feeds)

    @cached_property
    def feeds(self) -> tuple[tuple[int, ...], ...]:
        """List, for each port, the senders that compute from it (none for `logits`)."""
        share = self.heads // self.kv_heads
        found: list[tuple[int, ...]] = []
        for port in self.ports:
            node = port.node
            if node.kind is Kind.LOGITS:
                found.append(())
            elif node.kind is Kind.KV:
                assert node.index is not None
                first = self.sender_index[Node(Kind.HEAD, node.layer, node.index * share)]
                found.append(tuple(range(first, first + share)))
            elif node.kind is Kind.MLP:
                assert node.layer is not None
                found.append(tuple(self.mlp_columns[node.layer]))
            else:
                found.append((self.sender_index[node],))
        return tuple(found)

    # -- edges ------------------------------------------------------------------------------

    @cached_property
    def reads(self) -> np.ndarray:
        """Return the bool matrix [ports, senders] of the edges that exist; read-only."""
        layers = np.array([-1 if node.layer is None else node.layer for node in self.senders])
        steps = np.array([_STEP.get(node.kind, 0) for node in self.senders])
        heads = np.array([node.kind is Kind.HEAD for node in self.senders])
        written, unread = layers * 3 + steps, heads & self.post_norm
        exist = np.zeros(self.size, dtype=bool)
        for row, port in enumerate(self.ports):
            kind, layer = port.node.kind, port.node.layer
            if kind is Kind.POST:
                exist[row] = heads & (layers == layer)
                continue
            step = _STEP[Kind.MLP] if kind is Kind.MLP and not self.parallel else 0
            before = (self.layers if layer is None else layer) * 3 + step
            exist[row] = (written < before) & ~unread
        exist.setflags(write=False)
        return exist

    @cached_property
    def edge_count(self) -> int:
        """Count the edges."""
        return int(self.reads.sum())

    def locate(self, edge: Edge | str) -> tuple[int, int]:
        """Find an edge's place in a mask, (port row, sender column), or raise a GraphMismatch."""
        edge = Edge.parse(edge) if isinstance(edge, str) else edge
        row = self.port_index.get(edge.port)
        column = self.sender_index.get(edge.sender)
        if row is None or column is None:
            missing = f"port {edge.port}" if row is None else f"sender {edge.sender}"
            if row is not None and edge.sender.kind is Kind.MLP and self.experts:
                missing += " (where a layer has experts, they are its senders)"
            raise GraphMismatch(
                f"edge {edge}: the graph has no {missing}; it has {self.describe()}."
            )
        if not self.reads[row, column]:
            raise GraphMismatch(
                f"edge {edge} does not exist: {edge.sender} writes after {edge.port} reads"
                + (", or only through the layer's o node." if self.post_norm else ".")
            )
        return row, column

    def edge_at(self, row: int, column: int) -> Edge:
        """Name the edge at a place of a mask."""
        return Edge(self.senders[column], self.ports[row])

    def count_by_kind(self, mask: np.ndarray | None = None) -> dict[str, int]:
        """Count edges by the kind of port they end in (q, k, v, post, mlp, logits)."""
        per_port = (self.reads if mask is None else mask).sum(axis=1)
        counts: Counter[str] = Counter()
        for port, number in zip(self.ports, per_port, strict=True):
            counts[port.kind] += int(number)
        return dict(counts)

    def live(self, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find the ports, bool [P], and senders, bool [S], with a kept path to `logits`."""
        senders, held = 0, integers(kept)
        ports = np.zeros(len(self.ports), dtype=bool)
        for row in range(len(self.ports) - 1, -1, -1):
            feeds = self.feed_bits[row]
            if not feeds or senders & feeds:
                ports[row] = True
                senders |= held[row]
        return ports, booleans(senders, len(self.senders))

    # -- comparing shapes -------------------------------------------------------------------

    def describe(self) -> str:
        """Say the shape in one line."""
        words = [f"{self.layers} layers", f"{self.heads} heads", f"{self.kv_heads} key/value heads"]
        flags = ("parallel", "post_norm", "grouped_kv", "split_embedding")
        words += [name for name in flags if getattr(self, name)]
        if self.experts:
            shared = " and a shared one" if self.shared_experts else ""
            words.append(f"{_counts(self.experts)} experts{shared}")
        return ", ".join(words)

    def differences(self, other: ComputationGraph) -> list[str]:
        """List in words where two shapes differ; empty if equal."""
        return [
            f"{f.name} {getattr(self, f.name)} and {getattr(other, f.name)}"
            for f in fields(self)
            if getattr(self, f.name) != getattr(other, f.name)
        ]


_STEP = {Kind.HEAD: 0, Kind.POST: 1, Kind.MLP: 2, Kind.EXPERT: 2, Kind.SHARED: 2}
"""In which of the three steps of a layer a node writes."""


def _counts(numbers: tuple[int, ...]) -> str:
    """Say numbers, one for each layer, in words.

    >>> _counts((8, 8)), _counts((0, 4, 4))
    ('8', '0, 4, 4')
    """
    return str(numbers[0]) if len(set(numbers)) == 1 else ", ".join(map(str, numbers))
