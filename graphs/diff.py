"""What two circuits on equal graphs share, what only one of them has, and how much that is.

Overlap is the Jaccard index J = |A ∩ B| / |A ∪ B|, and its chance-corrected form
(J − E[J]) / (1 − E[J]), where E[J] is the expectation for two circuits of the same sizes drawn
uniformly from the N possible edges (or nodes): 0 is what chance gives, 1 is equality. The overlap
X of two random sets of sizes a and b is hypergeometric, so E[J] = Σ_x P(X = x) · x / (a + b − x).
The p-value of an overlap is P(X >= shared): how often chance shares at least as much.

Conventions: two empty sets are equal, J = 1. Where chance leaves no choice (E[J] = 1: both empty,
or both everything) there is no corrected form: None.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from .circuit import Circuit
from .graph import ComputationGraph
from .names import Kind, Node, Port


@dataclass(frozen=True)
class Overlap:
    """Count two subsets of N possible things (edges or nodes).

    >>> overlap = Overlap(possible=10, a=4, b=3, shared=2)
    >>> overlap.only_a, overlap.only_b, overlap.jaccard, round(overlap.corrected or 0, 3)
    (2, 1, 0.4, 0.222)
    """

    possible: int
    a: int
    b: int
    shared: int

    @property
    def only_a(self) -> int:
        """Count what only A has."""
        return self.a - self.shared

    @property
    def only_b(self) -> int:
        """Count what only B has."""
        return self.b - self.shared

    @property
    def jaccard(self) -> float:
        """Return |A ∩ B| / |A ∪ B|; 1 if both are empty."""
        union = self.a + self.b - self.shared
        return self.shared / union if union else 1.0

    @property
    def expected(self) -> float:
        """Return the Jaccard index expected of random sets of the same sizes."""
        return expected_jaccard(self.possible, self.a, self.b)

    @property
    def corrected(self) -> float | None:
        """Return the chance-corrected Jaccard index, None where chance leaves no choice."""
        if (not self.a and not self.b) or min(self.a, self.b) == self.possible:
            return None
        return (self.jaccard - self.expected) / (1 - self.expected)

    @property
    def p_value(self) -> float:
        """Return the probability that random sets of the same sizes share at least as much."""
        return overlap_p_value(self.possible, self.a, self.b, self.shared)

    def to_dict(self) -> dict[str, Any]:
        """Return counts and indices under their names."""
        indices = {"jaccard": self.jaccard, "expected_jaccard": self.expected}
        counts = {**asdict(self), "only_a": self.only_a, "only_b": self.only_b}
        more = {"corrected_jaccard": self.corrected, "p_value": self.p_value}
        return {**counts, **indices, **more}


@dataclass(frozen=True)
class DiffSummary:
    """Hold the overlap of two circuits: in all, by kind (q, k, v, post, mlp, logits), by layer.

    An edge has the kind and layer of the port it ends in; `logits` has the layer None. A node has
    its own; its kinds are those of `Kind` (embed, head, mlp, …). `logits` is always in a circuit,
    so it is not counted among the nodes.
    """

    edges: Overlap
    edges_by_kind: Mapping[str, Overlap]
    edges_by_layer: Mapping[int | None, Overlap]
    nodes: Overlap
    nodes_by_kind: Mapping[str, Overlap]
    nodes_by_layer: Mapping[int | None, Overlap]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain mappings, layers as text, `null` for None."""

        def table(overlaps: Mapping[Any, Overlap]) -> dict[str, Any]:
            return {
                "none" if key is None else str(key): overlap.to_dict()
                for key, overlap in overlaps.items()
            }

        return {
            "edges": self.edges.to_dict(),
            "edges_by_kind": table(self.edges_by_kind),
            "edges_by_layer": table(self.edges_by_layer),
            "nodes": self.nodes.to_dict(),
            "nodes_by_kind": table(self.nodes_by_kind),
            "nodes_by_layer": table(self.nodes_by_layer),
        }


@dataclass(frozen=True)
class CircuitDiff:
    """Hold two circuits on equal graphs.

    >>> graph = ComputationGraph(layers=1, heads=1)
    >>> a = Circuit.empty(graph).with_edges(["embed->m0", "m0->logits"])
    >>> b = Circuit.empty(graph).with_edges(["embed->m0", "embed->logits"])
    >>> diff = CircuitDiff(a, b)
    >>> [str(edge) for edge in diff.only_a.edges], diff.summary().edges.shared
    (['m0->logits'], 1)

    Raises:
        GraphMismatch: the graphs differ; the message says in what.
    """

    a: Circuit
    b: Circuit

    def __post_init__(self) -> None:
        self.a & self.b

    @cached_property
    def shared(self) -> Circuit:
        """Keep the edges both have."""
        return self.a & self.b

    @cached_property
    def only_a(self) -> Circuit:
        """Keep the edges only A has."""
        return self.a - self.b

    @cached_property
    def only_b(self) -> Circuit:
        """Keep the edges only B has."""
        return self.b - self.a

    @cached_property
    def nodes(self) -> Mapping[str, tuple[Node, ...]]:
        """Sort the circuits' nodes, but for `logits`, into `shared`, `only_a` and `only_b`.

        >>> graph = ComputationGraph(layers=1, heads=1)
        >>> a = Circuit.empty(graph).with_edges(["embed->m0", "m0->logits"])
        >>> diff = CircuitDiff(a, Circuit.empty(graph).with_edges(["embed->logits"]))
        >>> {name: [str(node) for node in nodes] for name, nodes in diff.nodes.items()}
        {'shared': ['embed'], 'only_a': ['m0'], 'only_b': []}
        """
        a, b = (
            [node for node in circuit.nodes if node.kind is not Kind.LOGITS]
            for circuit in (self.a, self.b)
        )
        return {
            "shared": tuple(node for node in a if node in set(b)),
            "only_a": tuple(node for node in a if node not in set(b)),
            "only_b": tuple(node for node in b if node not in set(a)),
        }

    def summary(self) -> DiffSummary:
        """Count the overlap of edges and nodes, in all, by kind and by layer."""
        graph = self.a.graph
        possible = _all_nodes(graph)
        nodes = [set(circuit.nodes) for circuit in (self.a, self.b)]
        return DiffSummary(
            edges=self._edges(range(len(graph.ports))),
            edges_by_kind=self._edges_by(lambda port: port.kind),
            edges_by_layer=self._edges_by(lambda port: port.node.layer),
            nodes=_node_overlap(possible, *nodes),
            nodes_by_kind={
                kind: _node_overlap(group, *nodes)
                for kind, group in _grouped(possible, lambda node: node.kind.value).items()
            },
            nodes_by_layer={
                layer: _node_overlap(group, *nodes)
                for layer, group in _grouped(possible, lambda node: node.layer).items()
            },
        )

    def _edges_by(self, key: Callable[[Port], Any]) -> dict[Any, Overlap]:
        ports = self.a.graph.ports
        groups = _grouped(range(len(ports)), lambda row: key(ports[row]))
        return {name: self._edges(rows) for name, rows in groups.items()}

    def _edges(self, rows: Iterable[int]) -> Overlap:
        """Count the edges that end in some ports."""
        chosen = list(rows)
        graph = self.a.graph
        masks = (graph.reads, self.a.kept, self.b.kept, self.shared.kept)
        return Overlap(*(int(mask[chosen].sum()) for mask in masks))


def _all_nodes(graph: ComputationGraph) -> list[Node]:
    """List every node but `logits`, once, by layer."""
    found = dict.fromkeys(graph.senders) | dict.fromkeys(port.node for port in graph.ports)
    nodes = [node for node in found if node.kind is not Kind.LOGITS]
    return sorted(nodes, key=lambda node: -1 if node.layer is None else node.layer)


def _node_overlap(possible: Iterable[Node], a: set[Node], b: set[Node]) -> Overlap:
    among = set(possible)
    return Overlap(len(among), len(among & a), len(among & b), len(among & a & b))


def _grouped(things: Iterable[Any], key: Callable[[Any], Any]) -> dict[Any, list[Any]]:
    """Group things by a key, in order of first appearance."""
    groups: dict[Any, list[Any]] = {}
    for thing in things:
        groups.setdefault(key(thing), []).append(thing)
    return groups


@lru_cache(maxsize=4096)
def expected_jaccard(possible: int, a: int, b: int) -> float:
    """Return E[|A ∩ B| / |A ∪ B|] of uniformly random subsets of sizes a and b of N things.

    Exact: the sum over the hypergeometric distribution of the overlap, 1 if both are empty.

    >>> expected_jaccard(2, 1, 1)
    0.5

    Raises:
        ValueError: a size is negative or exceeds N.
    """
    overlap, log_weight = _hypergeometric(possible, a, b)
    if a + b == 0:
        return 1.0
    weight = np.exp(log_weight - log_weight.max())
    return math.fsum(weight * overlap / (a + b - overlap)) / math.fsum(weight)


@lru_cache(maxsize=4096)
def overlap_p_value(possible: int, a: int, b: int, shared: int) -> float:
    """Return P(X >= shared), X the overlap of uniformly random subsets of sizes a and b of N.

    Exact: the upper tail of the hypergeometric distribution. Too small for a float it is 0.

    >>> round(overlap_p_value(4, 2, 2, 1), 4), overlap_p_value(0, 0, 0, 0)
    (0.8333, 1.0)

    Raises:
        ValueError: a size is negative or exceeds N.
    """
    overlap, log_weight = _hypergeometric(possible, a, b)
    tail = log_weight[overlap >= shared]
    if not len(tail):
        return 0.0
    if len(tail) == len(log_weight):
        return 1.0
    return min(1.0, math.exp(_log_sum(tail) - _log_sum(log_weight)))


def _log_sum(logs: np.ndarray) -> float:
    """Return log Σ exp."""
    most = float(logs.max())
    return most + math.log(math.fsum(np.exp(logs - most)))


def _hypergeometric(possible: int, a: int, b: int) -> tuple[np.ndarray, np.ndarray]:
    """Return every possible overlap x, [n], and log P(X = x) but for a constant, [n]."""
    if not (0 <= a <= possible and 0 <= b <= possible):
        raise ValueError(f"no subsets of sizes {a} and {b} of {possible} things")
    least, most = max(0, a + b - possible), min(a, b)
    overlap = np.arange(least, most + 1, dtype=np.float64)
    # P(x + 1) / P(x), summed up as logarithms so that nothing under- or overflows
    ratios = (a - overlap[:-1]) * (b - overlap[:-1])
    ratios /= (overlap[:-1] + 1) * (possible - a - b + overlap[:-1] + 1)
    return overlap, np.concatenate([[0.0], np.cumsum(np.log(ratios))])
