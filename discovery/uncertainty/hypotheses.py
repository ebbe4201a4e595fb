"""Is what a circuit is said to be compatible with what was measured? Five tests.

Source: Shi et al. 2024, "Hypothesis Testing the Circuit Hypothesis in LLMs" (NeurIPS). M is the
full model, C the circuit, s a metric's value on one example. The null hypotheses:

* **Equivalence**: |P(C does better than M) − ½| < ε. K of n examples are better; under a chance of
  ½ + ε, p = P(|K/n − ½| ≥ what was seen). ε is .1, as in the paper.
* **Independence**: s of the complement (C cut out of M) is independent of s of M. The statistic is
  HSIC (Gretton et al. 2007) with Gaussian kernels, p from permutations of one of the two.
* **Minimality**: each edge of C matters more than a share q* of random edges. An edge's effect is
  compared with those of `draws` random edges, each put into C with a random path of which it is
  part, and left out again; p = P(X ≤ how many it exceeds), X binomial with q*. The circuit's own p
  is the smallest, times the number of edges tested (Bonferroni).
* **Sufficiency** and **partial necessity**: C is more faithful (cutting C out of M does more) than
  at most a share q* of random circuits of equal size; p = P(X ≥ how many it exceeds). q* is .9.

A small p speaks *against* the circuit in the first three and *for* it in the last two.

What the paper leaves open, and what is done here: examples on which both do equally well say
nothing and are left out (sign test); each of the two variables has a kernel width of its own, the
median distance between its values; permutations count the identity, so that no p is 0; edges are
corrected for their number; the effect of an edge, and the distance of a circuit from the model, is
the mean over examples of the absolute difference of s; random circuits keep, of each kind of port,
as many edges as C.

Examples of one cluster (a template) are not independent. From `paired.LEAST_CLUSTERS` clusters up
each test takes them together, in its own way; of fewer each example counts by itself, and what is
found is told of these templates. Without clusters the first two are the paper's.

* Equivalence: the K of a cluster is beta-binomial, not binomial; its correlation is estimated from
  the clusters (analysis of variance), and made larger by ν/(ν − 2), as Student's variance is, ν
  being one less than the effective number of clusters.
* Independence: whole clusters are permuted, among those of equal size: exact, whatever is in them.
* The last three count edges or circuits that are exceeded *on average over the examples*; p given
  the examples is right for any clusters, but tells of no other prompts. So clusters (without them:
  examples) are drawn anew with replacement, and p is the mean over such resamples: to first order
  its error is then that of both draws, of circuits and of prompts. (Simulated with 24 clusters: the
  last two stay below .05; minimality too where clusters vary less than edges differ, and reaches
  .1 where they vary as much, of which p given the examples makes .4.)

Shapes: n examples, r resamples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...graphs.errors import EdgewiseError
from .bootstrap import resamples
from .paired import effective, independent

MARGIN = 0.1
"""ε: how far from even chances still counts as equivalent."""

SHARE = 0.9
"""q*: the share of random edges, or circuits, that is to be exceeded."""

PERMUTATIONS = 1000
"""How often the examples of one variable are permuted; it runs no model."""

RESAMPLES = 1000
"""How often clusters are drawn anew; it runs no model."""

LEVEL = 0.05
"""A p-value below this is called small."""


@dataclass(frozen=True)
class SignTest:
    """On how many examples one does better than the other, worse, or as well, and p."""

    better: int
    worse: int
    equal: int
    p: float


def sign_test(
    difference: np.ndarray,
    clusters: Sequence[int] | np.ndarray | None = None,
    *,
    margin: float = MARGIN,
    floor: float = 0.0,
) -> SignTest:
    """Test whether differences [n] are as often positive as negative, to within a margin.

    `clusters`: one number an example; default: all are independent. `floor`: differences up to
    this are none. Without margin and clusters it is the two-sided sign test.

    >>> sign_test(np.array([1.0, 2.0, -1.0, 3.0, 0.0]), margin=0.0)
    SignTest(better=3, worse=1, equal=1, p=0.625)
    """
    if not 0 <= margin < 0.5:
        raise EdgewiseError(f"margin is {margin}; accepted: from 0 up, below 0.5.")
    together = _clusters(clusters, len(difference))
    counts = [np.bincount(together, side) for side in (difference > floor, difference < -floor)]
    wins, sizes = counts[0].astype(int), (counts[0] + counts[1]).astype(int)
    wins, sizes = wins[sizes > 0], sizes[sizes > 0]
    better, number = int(wins.sum()), int(sizes.sum())
    chances = _distribution(sizes, 0.5 + margin, correlation(wins, sizes))
    count = np.arange(number + 1)
    seen = np.abs(2 * count - number) >= abs(2 * better - number)  # in whole numbers
    p = min(1.0, float(chances[seen].sum()))
    return SignTest(better, number - better, len(difference) - number, p)


def correlation(wins: np.ndarray, sizes: np.ndarray) -> float:
    """Return how alike wins [clusters] of so many are within clusters, 0 to 1, from above.

    1 where all or none are won, which tells nothing of it; 0 where no cluster has two.

    >>> correlation(np.array([2, 0] * 10), np.array([2, 2] * 10))
    1.0
    >>> correlation(np.array([1, 1] * 10), np.array([2, 2] * 10))
    0.0
    """
    number, count = int(sizes.sum()), len(sizes)
    if number == count:
        return 0.0
    share, each = wins.sum() / number, wins / sizes
    within = float((sizes * each * (1 - each)).sum()) / (number - count)
    between = float((sizes * (each - share) ** 2).sum()) / max(1, count - 1)
    size = (number - float((sizes**2).sum()) / number) / max(1, count - 1)
    free = effective(np.repeat(np.arange(count), sizes)) - 1
    if free <= 2 or size <= 1 or within + between == 0:
        return 1.0
    alike = (between - within) / (between + (size - 1) * within)
    larger = (1 + (size - 1) * alike) * free / (free - 2)  # the variance, in parts of a binomial's
    return float(np.clip((larger - 1) / (size - 1), 0.0, 1.0))


def _distribution(sizes: np.ndarray, chance: float, alike: float) -> np.ndarray:
    """Return how probable each number of wins is, [Σ sizes + 1], wins being alike in clusters."""
    from scipy.stats import betabinom, binom

    single = int((sizes == 1).sum()) if alike else int(sizes.sum())
    found = binom.pmf(np.arange(single + 1), single, chance)
    scale = (1 - alike) / alike if alike else 0.0
    for size in sizes[sizes > 1].tolist() if alike else ():
        if scale:
            count = np.arange(size + 1)
            own = betabinom.pmf(count, size, chance * scale, (1 - chance) * scale)
        else:
            own = np.concatenate([[1 - chance], np.zeros(size - 1), [chance]])
        found = np.convolve(found, own)
    return np.asarray(found)


def _clusters(clusters: Sequence[int] | np.ndarray | None, examples: int) -> np.ndarray:
    """Number what counts as independent by its first example; see `paired.independent`."""
    given = np.arange(examples) if clusters is None else np.asarray(clusters)
    if given.shape != (examples,):
        raise EdgewiseError(
            f"{examples} examples have clusters of shape {list(given.shape)}; accepted: one number "
            "for each."
        )
    _, first, places = np.unique(independent(given), return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[places])


def kernel(x: np.ndarray) -> np.ndarray:
    """Return the Gaussian kernel of values [n], [n, n]; its width is their median distance.

    If more than half of them are equal, the width is the mean distance; equal ones are alike.
    """
    distance = np.abs(x[:, None] - x[None, :])
    apart = distance[np.triu_indices(len(x), 1)]
    width = float(np.median(apart)) if len(apart) else 0.0
    width = width or (float(apart.mean()) if len(apart) else 0.0)
    found: np.ndarray = np.exp(-((distance / (width or 1.0)) ** 2) / 2)
    return found


def hsic(x: np.ndarray, y: np.ndarray) -> float:
    """Return trace(K H L H) / (n − 1)² of values [n] each: 0 if they tell nothing of each other."""
    return float((_centred(kernel(x)) * kernel(y)).sum()) / max(1, len(x) - 1) ** 2


def _centred(kernel: np.ndarray) -> np.ndarray:
    found: np.ndarray = kernel - kernel.mean(0) - kernel.mean(1)[:, None] + kernel.mean()
    return found


@dataclass(frozen=True)
class DependenceTest:
    """HSIC of two variables, and the share of permutations, itself among them, that reach it.

    `orders`: how many orders there are at most; p cannot be below the share of one of them.
    """

    hsic: float
    p: float
    permutations: int
    orders: float = math.inf


def dependence_test(
    x: np.ndarray,
    y: np.ndarray,
    clusters: Sequence[int] | np.ndarray | None = None,
    *,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> DependenceTest:
    """Test whether two variables [n] of the same examples are independent, by permutations.

    `clusters`: one number an example; whole ones change places with others of equal size.
    """
    if len(x) != len(y) or len(x) < 2:
        raise EdgewiseError(
            f"{len(x)} and {len(y)} values cannot be tested for independence; accepted: as many of "
            "both, 2 or more."
        )
    blocks = _blocks(_clusters(clusters, len(x)))
    draw, k, other = np.random.default_rng(seed), _centred(kernel(x)), kernel(y)
    scale = (len(x) - 1) ** 2
    seen = float((k * other).sum()) / scale
    slack = 1e-9 * (abs(seen) + float(np.abs(k * other).sum()) / scale)  # of adding up in order
    reach = 0
    for _ in range(permutations):
        order = np.arange(len(x))
        for block in blocks:
            order[block] = block[draw.permutation(len(block))]
        reach += float((k * other[np.ix_(order, order)]).sum()) / scale >= seen - slack
    orders = math.exp(min(700.0, sum(math.lgamma(len(block) + 1) for block in blocks)))
    return DependenceTest(seen, (1 + reach) / (1 + permutations), permutations, orders)


def _blocks(clusters: np.ndarray) -> list[np.ndarray]:
    """Return the places of the examples, [clusters, size] for each size of clusters."""
    order = np.argsort(clusters, kind="stable")
    sizes = np.bincount(clusters)
    each = np.split(order, np.cumsum(sizes)[:-1])
    return [
        np.stack([one for one, own in zip(each, sizes, strict=True) if own == size])
        for size in sorted(set(sizes.tolist()))
    ]


def over_resamples(
    values: np.ndarray, clusters: Sequence[int] | np.ndarray | None = None, *, seed: int = 0
) -> np.ndarray:
    """Average values [k, n] over the examples of resamples, [r, k]; whole clusters are drawn.

    The same clusters and seed draw the same resamples. A single one cannot be drawn anew.
    """
    together = _clusters(clusters, values.shape[1])
    if len(set(together.tolist())) < 2:
        return np.asarray(values.mean(1)[None])
    drawn = resamples(together, RESAMPLES, seed).astype(np.float64)
    return np.asarray(drawn @ values.T / drawn.sum(1, keepdims=True))


def exceeds_too_few(exceeded: int | np.ndarray, draws: int, share: float = SHARE) -> float:
    """Return p of exceeding so few of some draws, if the chance of each is a share.

    Of several resamples [r] it is the mean.

    >>> round(exceeds_too_few(0, 2, 0.5), 2)
    0.25
    """
    from scipy.stats import binom

    return float(np.mean(binom.cdf(exceeded, _some(draws), share)))


def exceeds_enough(exceeded: int | np.ndarray, draws: int, share: float = SHARE) -> float:
    """Return p of exceeding so many of some draws, if the chance of each is a share.

    Of several resamples [r] it is the mean.

    >>> round(exceeds_enough(2, 2, 0.9), 2)
    0.81
    """
    from scipy.stats import binom

    return float(np.mean(binom.sf(np.asarray(exceeded) - 1, _some(draws), share)))


def _some(draws: int) -> int:
    if draws < 1:
        raise EdgewiseError(f"{draws} draws say nothing; accepted: 1 or more.")
    return draws


@dataclass(frozen=True)
class MinimalityTest:
    """Of every edge tested its p, the smallest one corrected, and how many edges are too weak.

    `weak`: bool, whether p of an edge, times the number of edges, is below the level.
    """

    each: tuple[float, ...]
    p: float
    weak: tuple[bool, ...]


def minimality_test(
    effects: Sequence[float] | np.ndarray,
    drawn: Sequence[float] | np.ndarray,
    *,
    share: float = SHARE,
    level: float = LEVEL,
) -> MinimalityTest:
    """Test effects of edges against those of edges drawn at random; both of each resample too.

    Shapes: [edges] and [draws], or [r, edges] and [r, draws].
    """
    own = np.atleast_2d(np.asarray(effects, dtype=np.float64))
    random = np.sort(np.atleast_2d(np.asarray(drawn, dtype=np.float64)), axis=1)
    counts = np.stack([np.searchsorted(*rows) for rows in zip(random, own, strict=True)])
    each = tuple(exceeds_too_few(count, random.shape[1], share) for count in counts.T)
    corrected = [min(1.0, p * len(each)) for p in each]
    return MinimalityTest(each, min(corrected, default=1.0), tuple(p < level for p in corrected))


def smallest_sufficient(draws: int, *, share: float = SHARE) -> float:
    """Return the smallest p that sufficiency can have with so many draws: all are exceeded.

    >>> round(smallest_sufficient(29), 3)
    0.047
    """
    return exceeds_enough(draws, draws, share)
