"""Which edges' scores differ between two models by more than prompts make them differ?

Discovery is repeated R_a times in model A and R_b times in model B, each time on prompts of its
own, and every edge of the graph is asked about:

1. Welch's t-test (Welch 1947) of the edge's scores in A against those in B: the two may vary
   unequally. t = (mean_b − mean_a) / √(v_a / R_a + v_b / R_b), v the sample variances, with the
   degrees of freedom of Welch and Satterthwaite; p is two-sided.
2. The variances have a floor: scores are float32 sums, so differences below `ROUNDING` of the
   largest score are no differences. Equal scores, and none at all, give p = 1.
3. Benjamini-Hochberg q-values (Benjamini & Hochberg 1995) over all edges: of the edges with
   q < level, no more than a share `level` is expected to be there by chance.

No edge is selected by its score before the test: a test of the strongest edges only, on the
numbers that made them the strongest, would find changes where there are none.

Shapes: R repetitions, P ports, S senders, E edges.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..graphs.calls.typed import short_value, typed
from ..graphs.comparison import Likeness
from ..graphs.errors import EdgewiseError
from ..graphs.graph import ComputationGraph
from .registry import scoring_method

ROUNDING = 2.0**-20  # floor of standard deviations, in parts of the largest |score|
MOST_SPLITS = 20_000  # ways to split repetitions that are enumerated; of more, as many are drawn


@dataclass(frozen=True, eq=False)
class EdgeTest:
    """What a test found of every edge, float64 [P, S], NaN where no edge exists."""

    mean_a: np.ndarray
    mean_b: np.ndarray
    p: np.ndarray
    q: np.ndarray


def compare_edges(graph: ComputationGraph, a: np.ndarray, b: np.ndarray) -> EdgeTest:
    """Test, for every edge, whether scores [R, P, S] of two groups of two or more differ."""
    x, y = _rows(graph, a), _rows(graph, b)
    p = welch(x, y)
    found = np.full((4, *graph.reads.shape), np.nan)
    found[:, graph.reads] = x.mean(0), y.mean(0), p, q_values(p)
    return EdgeTest(*found)


def _rows(graph: ComputationGraph, scores: np.ndarray) -> np.ndarray:
    """Return the scores of the edges alone, float64 [R, E]."""
    if scores.ndim != 3 or scores.shape[1:] != graph.reads.shape:
        raise EdgewiseError(
            f"scores of shape {list(scores.shape)} cannot be tested; accepted: [repetitions, "
            f"{graph.reads.shape[0]}, {graph.reads.shape[1]}]."
        )
    found: np.ndarray = scores[:, graph.reads].astype(np.float64)
    if not np.isfinite(found).all():
        raise EdgewiseError(
            "edges without a score cannot be tested; accepted: scores of all edges, as "
            f"{scoring_method().name} gives them."
        )
    return found


@typed
def welch(a: np.ndarray, b: np.ndarray, rounding: float = ROUNDING) -> np.ndarray:
    """Return two-sided p-values of Welch's t-test for every column of [R_a, E] and [R_b, E].

    A standard deviation is at least `rounding` times the largest absolute number of the two.

    >>> a, b = np.array([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]]), np.array([[7.0, 5.0], [8.0, 5.0]])
    >>> welch(a, b).round(4).tolist()
    [0.0063, 1.0]
    """
    from scipy.stats import ttest_ind_from_stats

    a, b = (np.asarray(one, dtype=np.float64) for one in (a, b))
    if a.ndim != 2 or b.shape[1:] != a.shape[1:]:
        raise EdgewiseError(
            f"welch: `a` and `b` have shapes {list(a.shape)} and {list(b.shape)}; accepted: "
            "[repetitions, edges], of as many edges in both."
        )
    if min(len(a), len(b)) < 2:
        raise EdgewiseError(
            f"{len(a)} and {len(b)} repetitions cannot be tested; accepted: two or more of each."
        )
    floor = rounding * max(np.abs(a).max(initial=0), np.abs(b).max(initial=0))
    first, second = ((x.mean(0), np.maximum(x.std(0, ddof=1), floor), len(x)) for x in (a, b))
    with np.errstate(divide="ignore", invalid="ignore"):  # of equal constants, which are the same
        p: np.ndarray = ttest_ind_from_stats(*first, *second, equal_var=False).pvalue
    return np.where((first[0] == second[0]) | np.isnan(p), 1.0, np.minimum(p, 1.0))


@typed
def q_values(p: np.ndarray) -> np.ndarray:
    """Return Benjamini-Hochberg q-values of p-values [n]: min over p_j >= p_i of p_j · n / rank_j.

    >>> q_values(np.array([0.01, 0.04, 0.03, 0.5])).round(4).tolist()
    [0.04, 0.0533, 0.0533, 0.5]
    """
    from scipy.stats import false_discovery_control

    p = np.asarray(p)
    if p.ndim != 1 or not len(p) or not ((p >= 0) & (p <= 1)).all():
        raise EdgewiseError(
            f"q_values: `p` is {short_value(p)}; accepted: a list of numbers from 0 to 1."
        )
    return np.asarray(false_discovery_control(p))


def jaccard_matrix(kept: np.ndarray) -> np.ndarray:
    """Return the Jaccard index of every two masks of [R, P, S], float64 [R, R]; 1 if both empty."""
    flat = kept.reshape(len(kept), -1).astype(np.float64)
    shared = flat @ flat.T
    union = np.add.outer(shared.diagonal(), shared.diagonal()) - shared
    return np.divide(shared, union, out=np.ones_like(union), where=union > 0)


def label_permutation(likeness: np.ndarray, first: int, seed: int = 0) -> Likeness:
    """Test whether two groups are less alike between than within.

    The statistic is the mean likeness of pairs within a group minus that of pairs between; p is
    the share of all ways to split the repetitions into groups of these sizes (the given one among
    them) whose statistic is as large. Of more than `MOST_SPLITS` ways, so many are drawn, and
    p = (1 + number as large) / (1 + number drawn).

    `likeness`: [n, n], symmetric; the diagonal is not used. The `first` rows are the first group.

    >>> alike = np.array([[1, .9, .1, .1], [.9, 1, .1, .1], [.1, .1, 1, .8], [.1, .1, .8, 1]])
    >>> round(label_permutation(alike, 2).p, 4)
    0.3333
    """
    from scipy.stats import permutation_test

    a, b = np.arange(first), np.arange(first, len(likeness))
    pairs = np.triu_indices(len(likeness), 1)

    def statistic(one: np.ndarray, _: np.ndarray) -> float:
        within = np.isin(pairs[0], one) == np.isin(pairs[1], one)
        return round(float(likeness[pairs][within].mean() - likeness[pairs][~within].mean()), 12)

    rng = np.random.default_rng(seed)
    test = permutation_test(
        (a, b), statistic, n_resamples=MOST_SPLITS, alternative="greater", rng=rng
    )
    blocks = (likeness[np.ix_(rows, rows)] for rows in (a, b))
    a_alike, b_alike = (block[np.triu_indices(len(block), 1)].tolist() for block in blocks)
    between = likeness[:first, first:].ravel().tolist()
    return Likeness(tuple(a_alike), tuple(b_alike), tuple(between), float(test.pvalue))
