"""Which of N circuits are alike: the overlap of every pair, and an order that shows groups."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .circuit import Circuit
from .diff import CircuitDiff, Overlap
from .errors import EdgewiseError, GraphMismatch


def pairwise_overlaps(
    circuits: Sequence[Circuit], names: Sequence[str] | None = None
) -> list[list[Overlap]]:
    """Count what the edges of every two circuits share: [i][j], the diagonal with themselves.

    Raises:
        EdgewiseError: fewer than two circuits.
        GraphMismatch: the graphs differ; names every circuit that is unlike the first, and in what.

    >>> from edgewise.graphs.graph import ComputationGraph
    >>> full = Circuit.full(ComputationGraph(layers=1, heads=1))
    >>> few = full.without(["embed->logits"])
    >>> [[overlap.shared for overlap in row] for row in pairwise_overlaps([full, few])]
    [[8, 7], [7, 7]]
    """
    if len(circuits) < 2:
        raise EdgewiseError(f"overlaps of {len(circuits)} circuits; accepted: two or more.")
    called = names or [str(i) for i in range(1, len(circuits) + 1)]
    unlike = [
        f"{name} in {'; '.join(found)}"
        for name, circuit in zip(called, circuits, strict=True)
        if (found := circuits[0].graph.differences(circuit.graph))
    ]
    if unlike:
        raise GraphMismatch(
            f"the circuits' edges cannot be compared: from the graph of {called[0]} differ "
            f"{', '.join(unlike)} (its value first). Compare circuits of one model, or of models "
            "of one shape, found with the same graph options; `edgewise roles` compares what the "
            "heads of unlike circuits do."
        )
    return [[_edge_overlap(CircuitDiff(a, b)) for b in circuits] for a in circuits]


def _edge_overlap(diff: CircuitDiff) -> Overlap:
    return Overlap(diff.a.graph.edge_count, len(diff.a), len(diff.b), len(diff.shared))


def clustered_order(overlaps: Sequence[Sequence[Overlap]]) -> list[int]:
    """Order circuits so that alike ones stand together.

    Average linkage on 1 − Jaccard, leaves in the order of least distance between neighbours
    (Bar-Joseph et al. 2001), as scipy computes it; the end with the first circuit comes first.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    distances = np.array([[1.0 - overlap.jaccard for overlap in row] for row in overlaps])
    if len(distances) < 3:
        return list(range(len(distances)))
    tree = linkage(squareform(distances, checks=False), "average", optimal_ordering=True)
    order = [int(i) for i in leaves_list(tree)]
    return order if order.index(0) <= (len(order) - 1) / 2 else order[::-1]
