"""How alike circuits are: one formula of each measure of overlap, and which of N circuits group.

* Jaccard index: J = |A ∩ B| / |A ∪ B|; two empty sets are equal, J = 1.
* Corrected for chance: (J − E[J]) / (1 − E[J]), where E[J] is the expectation for two sets of the
  same sizes drawn uniformly from the N possible edges (or nodes): 0 is what chance gives, 1 is
  equality. The overlap X of two random sets of sizes a and b is hypergeometric, so
  E[J] = Σ_x P(X = x) · x / (a + b − x). Where chance leaves no choice (E[J] = 1: both empty, or
  both everything) there is no corrected form: None. The p-value is P(X >= shared).
* Weighted overlap: every edge has the weight w = |score| / Σ |score|, 0 outside the circuit;
  Σ min(w_a, w_b) / Σ max(w_a, w_b): 1 for equal weights, 0 for circuits that share nothing; of
  two circuits of one size with equal weights everywhere it is the Jaccard index. Source: Ruzicka
  1958, also called the weighted Jaccard index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from .errors import EdgewiseError, GraphMismatch

if TYPE_CHECKING:
    from .circuit import Circuit


@dataclass(frozen=True)
class Overlap:
    """The sizes of two subsets of N possible things (edges or nodes), and of what they share.

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

    def to_dict(self) -> dict[str, float | None]:
        """Return counts and indices under their names."""
        counts = {**vars(self), "only_a": self.only_a, "only_b": self.only_b}
        indices = {"jaccard": self.jaccard, "expected_jaccard": self.expected}
        return counts | indices | {"corrected_jaccard": self.corrected, "p_value": self.p_value}


@lru_cache(maxsize=4096)
def expected_jaccard(possible: int, a: int, b: int) -> float:
    """Return E[|A ∩ B| / |A ∪ B|] of uniformly random subsets of sizes a and b of N things.

    >>> expected_jaccard(2, 1, 1)
    0.5
    """
    from scipy.stats import hypergeom

    _check_sizes(possible, a, b)
    if not a + b:
        return 1.0
    overlap = np.arange(max(0, a + b - possible), min(a, b) + 1)
    return float(hypergeom.pmf(overlap, possible, a, b) @ (overlap / (a + b - overlap)))


@lru_cache(maxsize=4096)
def overlap_p_value(possible: int, a: int, b: int, shared: int) -> float:
    """Return P(X >= shared), X the overlap of uniformly random subsets of sizes a and b of N.

    >>> round(overlap_p_value(4, 2, 2, 1), 4), overlap_p_value(0, 0, 0, 0)
    (0.8333, 1.0)
    """
    from scipy.stats import hypergeom

    _check_sizes(possible, a, b)
    if shared <= 0 or shared > min(a, b):
        return float(shared <= 0)
    return min(1.0, float(hypergeom.sf(shared - 1, possible, a, b)))


def _check_sizes(possible: int, a: int, b: int) -> None:
    if not (0 <= a <= possible and 0 <= b <= possible):
        raise ValueError(f"no subsets of sizes {a} and {b} of {possible} things")


def weighted_overlap(a: np.ndarray, b: np.ndarray) -> float | None:
    """Return Σ min(w_a, w_b) / Σ max(w_a, w_b), w = |score| / Σ |score|; None if a score is NaN.

    Two circuits without weight are equal, 1; one of them alone without shares nothing, 0.

    >>> round(weighted_overlap(np.array([1.0, 2.0, -1.0]), np.array([3.0, 1.0, 1.0])), 3)
    0.481
    """
    x, y = (np.abs(side).astype(np.float64) for side in (a, b))
    if np.isnan(x).any() or np.isnan(y).any():
        return None
    sums = (x.sum(), y.sum())
    if not all(sums):
        return float(sums[0] == sums[1])
    x, y = x / sums[0], y / sums[1]
    return float(np.minimum(x, y).sum() / np.maximum(x, y).sum())


# -- many circuits -------------------------------------------------------------------------------


def pairwise_overlaps(
    circuits: Sequence[Circuit], names: Sequence[str] | None = None
) -> list[list[Overlap]]:
    """Count what the edges of every two circuits share: [i][j], the diagonal with themselves.

    A GraphMismatch names every circuit whose graph is unlike the first one's, and in what.

    >>> from edgewise.graphs.circuit import Circuit
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
    possible = circuits[0].graph.edge_count
    return [[Overlap(possible, len(a), len(b), len(a & b)) for b in circuits] for a in circuits]


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
