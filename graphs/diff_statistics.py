"""How alike the scores of two circuits are: rank correlation, weighted overlap, change by edge.

* Rank correlation: Spearman's ρ, the correlation of the ranks (equal scores share their mean
  rank), over all edges that have a score on both sides. Of the scores as they are, and of their
  absolute values, where the sign of an effect does not count.
* Weighted overlap: each circuit is a set of edges with weights w = |score|, divided by their sum,
  0 for edges it does not keep. The overlap is Σ min(w_a, w_b) / Σ max(w_a, w_b): 1 for equal
  weights, 0 for circuits that share nothing; with equal weights everywhere it is the Jaccard index.
  Source: Ruzicka 1958 (similarity of abundances), also called the weighted Jaccard index.

Scores are arrays [ports, senders], NaN where an edge has none. Where a number means nothing
(fewer than two edges, no variation, a kept edge without a score) it is None.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .diff import CircuitDiff

if TYPE_CHECKING:
    from .names import Edge


@dataclass(frozen=True)
class ScoreComparison:
    """Hold how alike two sides' scores are.

    Args:
        over: which edges the rank correlation is over: `all edges` if both sides have scores of
            every edge, `some edges` if not of every one, `shared edges` if only kept edges have.
        edges: how many these are.
        spearman, spearman_absolute: the rank correlation of scores and of |scores|.
        weighted_overlap: of the two circuits.
    """

    over: str
    edges: int
    spearman: float | None
    spearman_absolute: float | None
    weighted_overlap: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return everything under its name."""
        return asdict(self)

    @staticmethod
    def from_dict(block: Mapping[str, Any]) -> ScoreComparison:
        """Read what `to_dict` returned; what is missing is None or 0."""
        found = [block.get(name) for name in ("spearman", "spearman_absolute", "weighted_overlap")]
        numbers = [float(one) if isinstance(one, (int, float)) else None for one in found]
        edges = block.get("edges")
        return ScoreComparison(
            str(block.get("over", "shared edges")),
            edges if isinstance(edges, int) else 0,
            *numbers,
        )


def compare_scores(
    diff: CircuitDiff,
    kept: tuple[np.ndarray, np.ndarray],
    everything: tuple[np.ndarray, np.ndarray] | None = None,
) -> ScoreComparison:
    """Compare the scores of two circuits.

    Args:
        diff: the two circuits.
        kept: the scores of each one's kept edges.
        everything: the scores of all edges of both, if both are known.
    """
    a, b = kept if everything is None else everything
    both = ~np.isnan(a) & ~np.isnan(b)
    count = int(both.sum())
    over = "shared edges"
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
    if len(a) < 2:
        return None
    x, y = (ranks - ranks.mean() for ranks in (_ranks(a), _ranks(b)))
    size = float(np.sqrt((x @ x) * (y @ y)))
    return float(np.clip(x @ y / size, -1, 1)) if size else None


def _ranks(values: np.ndarray) -> np.ndarray:
    """Rank from 1 up; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: np.ndarray = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return ranks


def weighted_overlap(a: np.ndarray, b: np.ndarray) -> float | None:
    """Return Σ min(w_a, w_b) / Σ max(w_a, w_b), w = |score| / Σ |score|; None if a score is NaN.

    Two circuits without weight are equal, 1; one of them alone without shares nothing, 0.

    >>> round(weighted_overlap(np.array([1.0, 1.0, 0.0]), np.array([0.0, -3.0, 3.0])), 4)
    0.3333
    """
    x, y = (np.abs(side).astype(np.float64) for side in (a, b))
    if np.isnan(x).any() or np.isnan(y).any():
        return None
    sums = (x.sum(), y.sum())
    if not all(sums):
        return float(sums[0] == sums[1])
    x, y = x / sums[0], y / sums[1]
    return float(np.minimum(x, y).sum() / np.maximum(x, y).sum())


def changes(
    diff: CircuitDiff, a: np.ndarray, b: np.ndarray
) -> list[tuple[Edge, float, float, float]]:
    """List shared edges with their score in A and B and the change B − A, the largest first.

    Edges without a score on one side are left out; equal changes stay in graph order.
    """
    known = diff.shared.kept & ~np.isnan(a) & ~np.isnan(b)
    places = np.argwhere(known)
    before, after = a[known].astype(np.float64), b[known].astype(np.float64)
    change = after - before
    graph = diff.a.graph
    return [
        (graph.edge_at(*places[i]), float(before[i]), float(after[i]), float(change[i]))
        for i in np.argsort(-np.abs(change), kind="stable")
    ]
