"""A circuit: a computation graph and the set of edges that are kept."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .calls.typed import require, typed
from .errors import GraphMismatch
from .graph import ComputationGraph
from .names import Edge, Kind, Node

if TYPE_CHECKING:
    import networkx


@typed
@dataclass(frozen=True, eq=False)
class Circuit:
    """A graph and which of its edges are kept, bool [ports, senders]; edits return a new value.

    >>> graph = ComputationGraph(layers=2, heads=2)
    >>> circuit = Circuit.empty(graph).with_edges(["embed->m1", "m1->logits"])
    >>> len(circuit), [str(node) for node in circuit.nodes]
    (2, ['embed', 'm1', 'logits'])
    """

    graph: ComputationGraph
    kept: np.ndarray

    def __post_init__(self) -> None:
        kept = np.array(self.kept, dtype=bool)
        if kept.shape != self.graph.reads.shape:
            raise GraphMismatch(
                f"a mask of shape {kept.shape} does not fit a graph of "
                f"{self.graph.reads.shape[0]} ports and {self.graph.reads.shape[1]} senders."
            )
        if (kept & ~self.graph.reads).any():
            row, column = np.argwhere(kept & ~self.graph.reads)[0]
            raise GraphMismatch(
                f"edge {self.graph.edge_at(row, column)} does not exist in the graph."
            )
        kept.setflags(write=False)
        object.__setattr__(self, "kept", kept)

    def __repr__(self) -> str:
        counts = f"{len(self):,} of {self.graph.edge_count:,} edges, {len(self.nodes):,} nodes"
        return f"Circuit({counts}, {self.graph.describe()})"

    @staticmethod
    @typed
    def full(graph: ComputationGraph) -> Circuit:
        """Keep every edge."""
        return Circuit(graph, graph.reads)

    @staticmethod
    @typed
    def empty(graph: ComputationGraph) -> Circuit:
        """Keep no edge."""
        return Circuit(graph, np.zeros_like(graph.reads))

    # -- edits and algebra ------------------------------------------------------------------

    @typed
    def with_edges(self, edges: Iterable[Edge | str]) -> Circuit:
        """Keep these edges too."""
        return self._set(edges, True)

    @typed
    def without(self, edges: Iterable[Edge | str]) -> Circuit:
        """Ablate these edges too."""
        return self._set(edges, False)

    def _set(self, edges: Iterable[Edge | str], value: bool) -> Circuit:
        kept = self.kept.copy()
        for edge in edges:
            kept[self.graph.locate(edge)] = value
        return Circuit(self.graph, kept)

    def __and__(self, other: Circuit) -> Circuit:
        return Circuit(self.graph, self.kept & self._same_graph(other).kept)

    def __or__(self, other: Circuit) -> Circuit:
        return Circuit(self.graph, self.kept | self._same_graph(other).kept)

    def __sub__(self, other: Circuit) -> Circuit:
        return Circuit(self.graph, self.kept & ~self._same_graph(other).kept)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Circuit):
            return NotImplemented
        return self.graph == other.graph and bool((self.kept == other.kept).all())

    def __hash__(self) -> int:
        return hash((self.graph, self.kept.tobytes()))

    def _same_graph(self, other: Circuit) -> Circuit:
        require("a circuit with another", "other", other, Circuit, "a Circuit")
        if self.graph != other.graph:
            raise GraphMismatch(
                "the two circuits live on unequal graphs, so their edges cannot be compared: "
                f"{'; '.join(self.graph.differences(other.graph))}."
            )
        return other

    @property
    def complement(self) -> Circuit:
        """Keep exactly the edges this circuit ablates."""
        return Circuit(self.graph, self.graph.reads & ~self.kept)

    # -- what is in it ----------------------------------------------------------------------

    def __len__(self) -> int:
        return int(self.kept.sum())

    def __contains__(self, edge: Edge | str) -> bool:
        return bool(self.kept[self.graph.locate(edge)])

    @property
    def edges(self) -> Iterator[Edge]:
        """Yield the kept edges in graph order."""
        senders, ports = self.graph.senders, self.graph.ports
        for row, column in np.argwhere(self.kept).tolist():
            yield Edge(senders[column], ports[row])

    @property
    def nodes(self) -> tuple[Node, ...]:
        """List the nodes a kept edge touches, in topological order, and always `logits`."""
        touched = {self.graph.senders[i] for i in np.flatnonzero(self.kept.any(axis=0))}
        touched |= {self.graph.ports[i].node for i in np.flatnonzero(self.kept.any(axis=1))}
        touched.add(Node(Kind.LOGITS))
        return tuple(sorted(touched, key=_place))

    # -- dead ends --------------------------------------------------------------------------

    def live(self) -> tuple[np.ndarray, np.ndarray]:
        """Find what has a path of kept edges to `logits`: bool [ports] and bool [senders]."""
        return self.graph.live(self.kept)

    def prune_dangling(self) -> Circuit:
        """Drop, until nothing changes, edges into nodes without out and out of nodes without in."""
        kept = self.kept.copy()
        sources = np.array([n.layer is None for n in self.graph.senders])
        while True:
            _, useful = self.graph.live(kept)
            fed = sources.copy()
            for row, feeds in enumerate(self.graph.feeds):
                if kept[row].any():
                    fed[list(feeds)] = True
            alive_port = np.array(
                [not f or bool((useful[list(f)] & fed[list(f)]).any()) for f in self.graph.feeds]
            )
            pruned = kept & alive_port[:, None] & fed[None, :]
            if (pruned == kept).all():
                return Circuit(self.graph, kept)
            kept = pruned

    def to_networkx(self) -> networkx.MultiDiGraph:
        """Return the circuit as a networkx graph: nodes by name, one edge per port, keyed by it."""
        import networkx

        graph = networkx.MultiDiGraph()
        for node in self.nodes:
            graph.add_node(str(node), kind=node.kind.value, layer=node.layer, index=node.index)
        for edge in self.edges:
            graph.add_edge(
                str(edge.sender), str(edge.port.node), key=str(edge.port), kind=edge.port.kind
            )
        return graph


_ORDER = (
    Kind.TOK, Kind.POS, Kind.EMBED, Kind.KV, Kind.HEAD, Kind.MIXER, Kind.POST, Kind.MLP,
    Kind.EXPERT, Kind.SHARED, Kind.NEURON, Kind.REST,
)  # fmt: skip


def _place(node: Node) -> tuple[float, int, int]:
    """Return a key that sorts nodes topologically; what only reads stands before what it feeds."""
    if node.kind is Kind.LOGITS:
        return (math.inf, 0, 0)
    return (-1 if node.layer is None else node.layer, _ORDER.index(node.kind), node.index or 0)
