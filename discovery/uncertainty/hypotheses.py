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
as many edges as C. Examples count as independent: where many share a template, p is too small.

Shapes: n examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...graphs.errors import EdgewiseError

MARGIN = 0.1
"""ε: how far from even chances still counts as equivalent."""

SHARE = 0.9
"""q*: the share of random edges, or circuits, that is to be exceeded."""

PERMUTATIONS = 1000
"""How often the examples of one variable are permuted; it runs no model."""

LEVEL = 0.05
"""A p-value below this is called small."""


@dataclass(frozen=True)
class SignTest:
    """On how many examples one does better than the other, worse, or as well, and p."""

    better: int
    worse: int
    equal: int
    p: float


def sign_test(difference: np.ndarray, *, margin: float = MARGIN, floor: float = 0.0) -> SignTest:
    """Test whether differences [n] are as often positive as negative, to within a margin.

    `floor`: differences up to this are none. Without a margin it is the two-sided sign test.

    >>> sign_test(np.array([1.0, 2.0, -1.0, 3.0, 0.0]), margin=0.0)
    SignTest(better=3, worse=1, equal=1, p=0.625)
    """
    from scipy.stats import binom

    if not 0 <= margin < 0.5:
        raise EdgewiseError(f"margin is {margin}; accepted: from 0 up, below 0.5.")
    better, worse = int((difference > floor).sum()), int((difference < -floor).sum())
    number = better + worse
    count = np.arange(number + 1)
    seen = np.abs(2 * count - number) >= abs(better - worse)  # in whole numbers, without rounding
    p = float(binom.pmf(count[seen], number, 0.5 + margin).sum())
    return SignTest(better, worse, len(difference) - number, min(1.0, p))


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
    """HSIC of two variables, and the share of permutations, itself among them, that reach it."""

    hsic: float
    p: float
    permutations: int


def dependence_test(
    x: np.ndarray, y: np.ndarray, *, permutations: int = PERMUTATIONS, seed: int = 0
) -> DependenceTest:
    """Test whether two variables [n] of the same examples are independent, by permutations."""
    if len(x) != len(y) or len(x) < 2:
        raise EdgewiseError(
            f"{len(x)} and {len(y)} values cannot be tested for independence; accepted: as many of "
            "both, 2 or more."
        )
    draw, k, other = np.random.default_rng(seed), _centred(kernel(x)), kernel(y)
    scale = (len(x) - 1) ** 2
    seen = float((k * other).sum()) / scale
    slack = 1e-9 * (abs(seen) + float(np.abs(k * other).sum()) / scale)  # of adding up in order
    reach = 0
    for _ in range(permutations):
        order = draw.permutation(len(x))
        reach += float((k * other[np.ix_(order, order)]).sum()) / scale >= seen - slack
    return DependenceTest(seen, (1 + reach) / (1 + permutations), permutations)


def exceeds_too_few(exceeded: int, draws: int, share: float = SHARE) -> float:
    """Return p of exceeding so few of some draws, if the chance of each is a share.

    >>> round(exceeds_too_few(0, 2, 0.5), 2)
    0.25
    """
    from scipy.stats import binom

    return float(binom.cdf(exceeded, _some(draws), share))


def exceeds_enough(exceeded: int, draws: int, share: float = SHARE) -> float:
    """Return p of exceeding so many of some draws, if the chance of each is a share.

    >>> round(exceeds_enough(2, 2, 0.9), 2)
    0.81
    """
    from scipy.stats import binom

    return float(binom.sf(exceeded - 1, _some(draws), share))


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
    """Test effects of a circuit's edges against effects of edges drawn at random."""
    random = np.asarray(drawn, dtype=np.float64)
    counts = [int((random < effect).sum()) for effect in np.asarray(effects, dtype=np.float64)]
    each = tuple(exceeds_too_few(count, len(random), share) for count in counts)
    corrected = [min(1.0, p * len(each)) for p in each]
    return MinimalityTest(each, min(corrected, default=1.0), tuple(p < level for p in corrected))


def smallest_sufficient(draws: int, *, share: float = SHARE) -> float:
    """Return the smallest p that sufficiency can have with so many draws: all are exceeded.

    >>> round(smallest_sufficient(29), 3)
    0.047
    """
    return exceeds_enough(draws, draws, share)
