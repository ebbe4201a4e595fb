"""Which sets of edges differ by more than chance, and which of many p-values are small enough?

Shapes: R repetitions, P ports, S senders.
"""

from __future__ import annotations

import numpy as np

from ...graphs.calls.typed import short_value, typed
from ...graphs.comparison import Likeness
from ...graphs.errors import EdgewiseError

MOST_SPLITS = 20_000  # ways to split repetitions that are enumerated; of more, as many are drawn


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
