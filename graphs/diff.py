"""What two circuits on equal graphs share, what only one of them has, and how alike they are.

How alike the scores are, arrays [ports, senders] with NaN where an edge has none, is told by the
weighted overlap of the kept edges (see `overlap`) and by Spearman's rank correlation over all edges
that have a score on both sides, of scores and of |scores|. Where a number means nothing (fewer than
two edges, no variation, a kept edge without a score) it is None.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeVar

import numpy as np

from .calls.typed import typed
from .circuit import Circuit
from .graph import ComputationGraph
from .names import Edge, Kind, Node, Port
from .overlap import Overlap, weighted_overlap

Key = TypeVar("Key", bound=Hashable)
Thing = TypeVar("Thing")


def shape_differences(
    a: ComputationGraph, b: ComputationGraph, widths: tuple[object, object]
) -> list[str]:
    """List in words in what two models' shapes differ: their graphs, and their width."""
    unequal = [] if widths[0] == widths[1] else [f"d_model {widths[0]} and {widths[1]}"]
    return [*a.differences(b), *unequal]


@dataclass(frozen=True)
class DiffSummary:
    """What two circuits share, counted: in all, by kind (q, k, v, post, mlp, logits), by layer.

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

    def to_dict(self) -> dict[str, object]:
        """Return everything as plain mappings, layers as text, `none` for None."""
        return {
            name: found.to_dict()
            if isinstance(found, Overlap)
            else {"none" if key is None else str(key): one.to_dict() for key, one in found.items()}
            for name, found in vars(self).items()
        }


@typed
@dataclass(frozen=True)
class CircuitDiff:
    """Two circuits on equal graphs, side by side.

    >>> graph = ComputationGraph(layers=1, heads=1)
    >>> a = Circuit.empty(graph).with_edges(["embed->m0", "m0->logits"])
    >>> b = Circuit.empty(graph).with_edges(["embed->m0", "embed->logits"])
    >>> diff = CircuitDiff(a, b)
    >>> [str(edge) for edge in diff.only_a.edges], diff.summary().edges.shared
    (['m0->logits'], 1)
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
        """Sort the circuits' nodes, but for `logits`, into `shared`, `only_a` and `only_b`."""
        a, b = self.a.nodes[:-1], self.b.nodes[:-1]  # `logits` is always the last
        in_a, in_b = set(a), set(b)
        return {
            "shared": tuple(node for node in a if node in in_b),
            "only_a": tuple(node for node in a if node not in in_b),
            "only_b": tuple(node for node in b if node not in in_a),
        }

    def summary(self) -> DiffSummary:
        """Count the overlap of edges and nodes, in all, by kind and by layer."""
        graph, a, b = self.a.graph, set(self.a.nodes), set(self.b.nodes)
        masks = (graph.reads, self.a.kept, self.b.kept, self.shared.kept)
        found = dict.fromkeys((*graph.senders, *(port.node for port in graph.ports)))
        nodes = [node for node in found if node.kind is not Kind.LOGITS]
        nodes.sort(key=lambda node: -1 if node.layer is None else node.layer)
        ports = list(enumerate(graph.ports))

        def of_edges(some: list[tuple[int, Port]]) -> Overlap:
            rows = [row for row, _ in some]
            return Overlap(*(int(mask[rows].sum()) for mask in masks))

        def of_nodes(some: list[Node]) -> Overlap:
            among = set(some)
            return Overlap(len(among), len(among & a), len(among & b), len(among & a & b))

        return DiffSummary(
            edges=of_edges(ports),
            edges_by_kind=_by(lambda one: one[1].kind, ports, of_edges),
            edges_by_layer=_by(lambda one: one[1].node.layer, ports, of_edges),
            nodes=of_nodes(nodes),
            nodes_by_kind=_by(lambda node: node.kind.value, nodes, of_nodes),
            nodes_by_layer=_by(lambda node: node.layer, nodes, of_nodes),
        )


def _by(
    key: Callable[[Thing], Key], things: list[Thing], count: Callable[[list[Thing]], Overlap]
) -> dict[Key, Overlap]:
    """Count each group of things with one key, in order of first appearance."""
    groups: dict[Key, list[Thing]] = {}
    for thing in things:
        groups.setdefault(key(thing), []).append(thing)
    return {name: count(group) for name, group in groups.items()}


# -- scores --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ScoreComparison:
    """How alike two sides' scores are, by their weighted overlap and by rank correlations.

    `spearman` is of scores, `spearman_absolute` of |scores|; `over` so many `edges`: `all edges` if
    both sides have scores of every edge, `some edges` if not of every one, `shared edges` if only
    kept edges have.
    """

    over: Literal["all edges", "some edges", "shared edges"]
    edges: int
    spearman: float | None
    spearman_absolute: float | None
    weighted_overlap: float | None


def compare_scores(
    diff: CircuitDiff,
    kept: tuple[np.ndarray, np.ndarray],
    everything: tuple[np.ndarray, np.ndarray] | None = None,
) -> ScoreComparison:
    """Compare the scores of two circuits: of their kept edges, and of all if both are known."""
    a, b = kept if everything is None else everything
    both = ~np.isnan(a) & ~np.isnan(b)
    count = int(both.sum())
    over: Literal["all edges", "some edges", "shared edges"] = "shared edges"
    if everything is not None:
        over = "all edges" if count == diff.a.graph.edge_count else "some edges"
    x, y = a[both], b[both]
    return ScoreComparison(
        over=over,
        edges=count,
        spearman=rank_correlation(x, y),
        spearman_absolute=rank_correlation(np.abs(x), np.abs(y)),
        weighted_overlap=weighted_overlap(
            *(np.where(c.kept, s, 0.0) for c, s in zip((diff.a, diff.b), kept, strict=True))
        ),
    )


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    """Return Spearman's ρ of two rows of numbers, None if one of them does not vary.

    >>> round(rank_correlation(np.array([0.1, 0.2, 5.0]), np.array([1.0, 3.0, 2.0])), 4)
    0.5
    """
    from scipy.stats import spearmanr

    if len(a) < 2 or (a == a[0]).all() or (b == b[0]).all():
        return None
    return float(np.clip(spearmanr(a, b).statistic, -1, 1))


def changes(
    diff: CircuitDiff, a: np.ndarray, b: np.ndarray
) -> list[tuple[Edge, float, float, float]]:
    """List shared edges that have scores with A's, B's and the change B − A, the largest first."""
    known = diff.shared.kept & ~np.isnan(a) & ~np.isnan(b)
    places = np.argwhere(known)
    before, after = a[known].astype(np.float64), b[known].astype(np.float64)
    change = after - before
    return [
        (diff.a.graph.edge_at(*places[i]), float(before[i]), float(after[i]), float(change[i]))
        for i in np.argsort(-np.abs(change), kind="stable")
    ]
