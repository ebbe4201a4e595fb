"""Which edges' scores differ between two models on the same prompts by more than δ?

Both models are run on the same prompt pairs, and every example gives every edge one difference,
d_i = score in B − score in A. What prompts make of scores is then the same in both models and
cancels; what is left is the models' difference. Of every edge is told:

1. The change d̄ = mean_i d_i, which is the difference of the two scores, and its standard error.
   Without clusters this is s/√n, with n − 1 degrees of freedom. Examples of one cluster (a
   template) may not be independent; see below.
2. The p-value of |true change| ≤ δ, both tails:
   p = P(T > (|d̄| − δ)/se) + P(T > (|d̄| + δ)/se), the largest that any such change can give.
   δ = 0 gives the ordinary two-sided t-test. A change smaller than δ does not matter however
   certain it is; without δ, all of a fine-tuned model's edges change.
3. Benjamini-Hochberg q-values (Benjamini & Hochberg 1995) over all edges: of the edges with
   q < level, no more than a share `level` is expected to be there by chance. Nearly all edges
   change by far less than δ, and their p-values, close to 1, would only make the others' q larger.
   So they are discarded as Zhao, Small & Su 2019 do: for the edges with p ≤ `KEPT` (those that
   change by more than δ) p/`KEPT` takes the place of p, and the others have q = 1. The division
   pays for the choice: under |true change| ≤ δ a p-value that is kept, so divided, is no smaller by
   chance than a uniform one, because Q(z)/(Q(z−ρ) + Q(z+ρ)), with Q a t-variable's upper tail,
   falls in z for every ρ. Of k kept p-values the i-th smallest is compared with i/(k + 1), so that
   one kept by chance is not enough. With δ = 0 none is larger than it need be or discarded.
4. The interval d̄ ± t·se of 95%, of this edge by itself.
5. The smallest true change that would have been found with probability `POWER`, as many edges being
   found as were: δ + λ·se, where a t-variable shifted by λ passes what the next edge must pass.

Scores are float32 sums, so differences below `ROUNDING` of the largest score are no differences,
nor are those below what half precision can hold; equal scores give p = 1.

Clusters. The cluster-robust error (Liang & Zeger 1986), se² = c/(c−1) · Σ_clusters (Σ_{i in it}
(d_i − d̄))² / n², with clusters of equal size that of their means, has c − 1 degrees of freedom (of
clusters of unequal size fewer, see `effective`) and finds little: at the ranks of 100,000 edges a
t-variable with 20 of them must reach twice what one with 63 must. But by how much clusters make an
error larger, the design effect r = se²/(s²/n), is of one scale for all edges, so it is moderated
over them as variances are in microarrays (Smyth 2004): where the r of the edges that change most
vary no more than c − 1 degrees of freedom let them vary, all edges share one r, never less than 1,
and the n − 1 degrees of freedom of s; the more they vary beyond that, the more each edge's own r
and its degrees of freedom count.

Fewer than `LEAST_CLUSTERS` clusters tell little of how clusters vary: their few degrees of freedom
find nothing. Then each example counts by itself, and what is found is told of these templates.

Shapes: n examples, c clusters, E edges.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ...graphs.calls.typed import typed
from ...graphs.errors import EdgewiseError
from .significance import q_values

ROUNDING = 2.0**-20  # floor of standard deviations, in parts of the largest |score|
LEAST_CLUSTERS = 16
POWER = 0.8
INTERVAL = 0.95
KEPT = 0.5  # p-values above are discarded, those below divided by it
TELLING, LEAST_TELLING = 0.01, 100  # of the edges, those that tell how much clusters matter
MOST_PRIOR = 1e4  # degrees of freedom that are as good as infinitely many
EDGES_AT_ONCE = 1 << 16


@dataclass(frozen=True, eq=False)
class PairedTest:
    """What the paired test found of every edge: float64 [E] each, but for the numbers.

    `detectable`: the smallest true change that would probably have been found. `clusters`: how
    many of the `examples` count as independent.
    """

    examples: int
    clusters: int
    delta: float
    level: float
    mean_a: np.ndarray
    mean_b: np.ndarray
    error: np.ndarray
    p: np.ndarray
    q: np.ndarray
    low: np.ndarray
    high: np.ndarray
    detectable: np.ndarray

    @property
    def change(self) -> np.ndarray:
        """Return by how much every edge's score is larger in B."""
        return np.asarray(self.mean_b - self.mean_a)

    @property
    def changed(self) -> np.ndarray:
        """Tell which edges changed by more than δ, bool [E]."""
        return np.asarray(self.q < self.level)


def independent(clusters: Sequence[int] | np.ndarray) -> np.ndarray:
    """Number the clusters 0 … c − 1; where there are too few, each example is one by itself.

    >>> independent([7, 7, 3]).tolist(), len(set(independent([0, 1] * 10).tolist()))
    ([0, 1, 2], 20)
    """
    found = np.unique(np.asarray(clusters), return_inverse=True)[1]
    few = found.max(initial=-1) + 1 < LEAST_CLUSTERS
    return np.arange(len(found)) if few else np.asarray(found)


@typed
def paired_test(
    a: np.ndarray,
    b: np.ndarray,
    clusters: Sequence[int] | np.ndarray | None = None,
    *,
    delta: float = 0.0,
    level: float = 0.05,
) -> PairedTest:
    """Test, for every edge, whether scores [n, E] of the same examples differ by more than δ.

    `clusters`: one number an example, those of like number are not independent; default: all are.

    >>> a = np.array([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]])
    >>> found = paired_test(a, a + [[3.0, 0.0], [4.0, 0.0], [5.0, 0.0]], delta=1.0)
    >>> found.change.tolist(), found.p.round(4).tolist()
    ([4.0, 0.0], [0.0241, 1.0])
    """
    a, b = np.asarray(a), np.asarray(b)
    _check(a, b, delta)
    if not 0 < level < 1:
        raise EdgewiseError(f"the level is {level}; accepted: between 0 and 1.")
    if a.shape != b.shape:
        raise EdgewiseError(
            f"scores of shapes {list(a.shape)} and {list(b.shape)} are no pairs; accepted: the "
            "same examples and edges in both models."
        )
    given = np.arange(len(a)) if clusters is None else np.asarray(clusters)
    own = np.unique(given, return_inverse=True)[1] if given.ndim == 1 else given.ravel()[:0]
    count = len(set(own.tolist()))
    if len(own) != len(a) or count < 2:
        raise EdgewiseError(
            f"{len(a)} examples in {count} clusters cannot be tested; accepted: a cluster for each "
            "example, two clusters or more."
        )
    largest = max(np.abs(x).max(initial=0) for x in (a, b))
    found = np.empty((4, a.shape[1]))
    for part in _parts(a.shape[1]):
        x, y = (one[:, part].astype(np.float64) for one in (a, b))
        floor = np.maximum(_floor(a, x, largest), _floor(b, y, largest))
        found[:, part] = x.mean(0), y.mean(0), *_errors(y - x, own, floor)
    error, freedom = moderated(found[2], found[3], np.abs(found[1] - found[0]), own)
    return _tested((found[0], found[1], error), freedom, (len(a), count), (delta, level))


def unpaired_test(
    a: np.ndarray,
    b: np.ndarray,
    clusters: tuple[np.ndarray, np.ndarray] | None = None,
    *,
    delta: float = 0.0,
    level: float = 0.05,
) -> PairedTest:
    """Test the same of scores [n, E] and [m, E] of different examples: a control's test.

    The two may vary unequally; degrees of freedom are those of Welch and Satterthwaite.
    """
    _check(a, b, delta)
    sides = (np.arange(len(a)), np.arange(len(b))) if clusters is None else clusters
    counts = [len(np.unique(side)) for side in sides]
    if min(counts) < 2:
        raise EdgewiseError(
            f"{counts[0]} and {counts[1]} clusters of examples cannot be tested; accepted: two or "
            "more of each."
        )
    largest = max(np.abs(x).max(initial=0) for x in (a, b))
    means, variances, frees = [], [], []
    for one, side in zip((a, b), sides, strict=True):
        found = np.empty((3, a.shape[1]))
        for part in _parts(a.shape[1]):
            x = one[:, part].astype(np.float64)
            found[:, part] = x.mean(0), *_errors(x, side, _floor(one, x, largest))
        error, free = moderated(found[1], found[2], np.abs(found[0]), side)
        means.append(found[0])
        variances.append(error**2)
        frees.append(free)
    total = variances[0] + variances[1]
    own = variances[0] ** 2 / frees[0] + variances[1] ** 2 / frees[1]
    freedom = np.divide(total**2, own, out=np.minimum(*frees), where=own > 0)
    each = (means[0], means[1], np.sqrt(total))
    return _tested(each, freedom, (len(a) + len(b), sum(counts)), (delta, level))


def moderated(
    error: np.ndarray, clustered: np.ndarray, size: np.ndarray, clusters: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the errors of means [E], and their degrees of freedom, from those of two kinds.

    `error`: as if all examples were independent; `clustered`: cluster-robust. `size`: which edges
    tell how much clusters matter, the `TELLING` part of largest size.
    """
    from scipy.special import digamma

    examples = len(clusters)
    alone, free = examples - 1.0, effective(clusters) - 1
    if len(np.unique(clusters)) == examples:
        return error, np.full(error.shape, alone)
    effect = np.divide(clustered**2, error**2, out=np.ones_like(error), where=error > 0)
    varies = np.flatnonzero((error > 0) & (clustered > 0))
    most = max(LEAST_TELLING, round(TELLING * len(error)))
    telling = varies[np.argsort(-size[varies], kind="stable")[:most]]
    logs = np.log(effect[telling]) - digamma(free / 2) + np.log(free / 2)
    if len(logs) < 2:
        return np.maximum(error, clustered), np.full(error.shape, free)
    prior = _prior_freedom(float(logs.var(ddof=1)), free)
    common = max(1.0, float(np.exp(logs.mean())))
    if np.isinf(prior):
        return error * np.sqrt(common), np.full(error.shape, alone)
    own = (prior * common + free * effect) / (prior + free)
    return error * np.sqrt(np.maximum(own, 1.0)), np.full(error.shape, min(alone, prior + free))


def _prior_freedom(variance: float, free: float) -> float:
    """Return of how many degrees of freedom the common value is worth, as logarithms vary so much.

    A variance with `free` degrees of freedom has a logarithm of variance trigamma(free/2) about
    that of its true value; what is beyond that is trigamma(prior/2).

    >>> _prior_freedom(0.1, 20), round(_prior_freedom(0.3, 20))
    (inf, 11)
    """
    from scipy.optimize import brentq
    from scipy.special import polygamma

    beyond_noise = variance - float(polygamma(1, free / 2))
    if beyond_noise <= float(polygamma(1, MOST_PRIOR / 2)):
        return float("inf")
    return float(brentq(lambda d: float(polygamma(1, d / 2)) - beyond_noise, 1e-3, MOST_PRIOR))


def effective(clusters: np.ndarray) -> float:
    """Return how many clusters of equal size are worth as much as these (Kish 1965): n² / Σ n_g².

    >>> effective(np.array([0, 0, 1, 1])), effective(np.array([0, 0, 0, 1]))
    (2.0, 1.6)
    """
    sizes = np.unique(clusters, return_counts=True)[1]
    return float(sizes.sum() ** 2 / (sizes**2).sum())


# -- the parts of the test -----------------------------------------------------------------------


def beyond(change: np.ndarray, error: np.ndarray, delta: float, freedom: np.ndarray) -> np.ndarray:
    """Return the p-values of |true change| ≤ δ; 1 where nothing varies and nothing changed."""
    from scipy.special import stdtr

    size = np.abs(change)
    with np.errstate(divide="ignore", invalid="ignore"):  # of scores that are 0 throughout
        p = stdtr(freedom, (delta - size) / error) + stdtr(freedom, -(size + delta) / error)
    return np.where((size <= delta) & (error == 0) | np.isnan(p), 1.0, np.minimum(p, 1.0))


def noncentrality(threshold: float, freedom: float, power: float = POWER) -> float:
    """Return by how many standard errors a change must exceed δ to pass p ≤ `threshold` so often.

    P((Z + λ)/√(V/ν) > t) = power, V of the χ² distribution; the mean over its quantiles is robust
    where a noncentral t's series is not.

    >>> round(noncentrality(0.05, 1e6), 2)  # 1.96 + 0.84
    2.8
    """
    from scipy.optimize import brentq
    from scipy.special import chdtri, ndtr, stdtrit

    least = -float(stdtrit(freedom, threshold / 2))
    middles = (np.arange(2000) + 0.5) / 2000
    roots = least * np.sqrt(chdtri(freedom, middles) / freedom)
    high = float(roots.max()) + 10.0
    return float(brentq(lambda shift: float(ndtr(shift - roots).mean()) - power, 0.0, high))


def _tested(
    found: tuple[np.ndarray, np.ndarray, np.ndarray],
    freedom: np.ndarray,
    counts: tuple[int, int],
    asked: tuple[float, float],
) -> PairedTest:
    from scipy.special import stdtrit

    (mean_a, mean_b, error), (delta, level) = found, asked
    change = mean_b - mean_a
    p = beyond(change, error, delta, freedom)
    q = kept_q_values(p) if delta else q_values(p)
    half = stdtrit(freedom, (1 + INTERVAL) / 2) * error
    passed, kept = int((q < level).sum()), int((p <= KEPT).sum())
    rank = KEPT * (1 + passed) / (2 + kept) if delta else min(1 + passed, len(q)) / len(q)
    next_one = level * rank
    shift = noncentrality(next_one, float(np.median(freedom)))
    return PairedTest(
        *counts, delta, level, mean_a, mean_b, error, p, q, change - half, change + half,
        delta + shift * error,
    )  # fmt: skip


def kept_q_values(p: np.ndarray) -> np.ndarray:
    """Return Benjamini-Hochberg's q-values of p / `KEPT` and a 1 among p ≤ `KEPT`, 1 for others.

    >>> kept_q_values(np.array([0.01, 0.3, 1.0, 1.0])).round(4).tolist()
    [0.06, 0.9, 1.0, 1.0]
    """
    q = np.ones(len(p))
    kept = p <= KEPT
    q[kept] = q_values(np.append(p[kept] / KEPT, 1.0))[:-1]
    return q


def _errors(
    values: np.ndarray, clusters: np.ndarray, floor: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the errors of the means of values [n, e]: ordinary, and cluster-robust."""
    names = np.unique(clusters)
    count, size = len(names), len(values)
    away = values - values.mean(0)
    error = np.sqrt((away**2).sum(0) / (size - 1) / size)
    least = floor / np.sqrt(size)
    if count == size:
        return np.maximum(error, least), np.maximum(error, least)
    sums = (names[:, None] == clusters).astype(np.float64) @ away
    clustered = np.sqrt(count / (count - 1) * (sums**2).sum(0)) / size
    return np.maximum(error, least), np.maximum(clustered, least)


def _floor(scores: np.ndarray, values: np.ndarray, largest: float) -> np.ndarray:
    """Return what rounding alone makes of scores, for each edge."""
    held = np.finfo(scores.dtype).eps if scores.dtype == np.float16 else 0.0
    return np.asarray(np.maximum(ROUNDING * largest, held * np.abs(values).max(0, initial=0)))


def _parts(edges: int) -> Iterator[slice]:
    for start in range(0, edges, EDGES_AT_ONCE):
        yield slice(start, start + EDGES_AT_ONCE)


def _check(a: np.ndarray, b: np.ndarray, delta: float) -> None:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or not a.shape[1]:
        raise EdgewiseError(
            f"scores of shapes {list(a.shape)} and {list(b.shape)} cannot be tested; accepted: "
            "[examples, edges], of the same edges."
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise EdgewiseError(
            "edges without a score cannot be tested; accepted: finite scores of all edges."
        )
    if not (np.isfinite(delta) and delta >= 0):
        raise EdgewiseError(f"the smallest change that matters is {delta}; accepted: 0 or more.")
