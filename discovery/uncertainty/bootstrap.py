"""Intervals of what is measured on prompt pairs: by how much would other prompts move it?

Everything is a ratio of means over examples: a mean itself, faithfulness
f = mean(circuit − empty) / mean(full − empty), a difference of two such ratios. The interval is
that of the *studentised bootstrap* (bootstrap-t; Efron and Tibshirani 1993, chapter 12.5):

1. What is drawn are *units*: the groups of pairs that share a template, or single pairs where
   there are fewer than `LEAST_CLUSTERS` groups. Numerator and denominator are drawn together.
2. Each resample gives the ratio r* and its standard error se* by linearisation: with residuals
   e_c = (t_c − r d_c) / D over the C units' sums t_c and d_c, D = Σ d_c, it is √(C/(C−1) · Σ e_c²).
3. The quantiles of (r* − r) / se* give the ends r − q(.975) · se and r − q(.025) · se.

On planted data its 95% intervals cover the true value in 93 to 96% of repetitions, from 5 units
up and for skewed values too, where percentiles cover 82 to 95% and BCa 83 to 95%. Of fewer units
than `LEAST_CLUSTERS` it is Student's interval with the same error. Results do not depend on the
order of the examples, on the hash seed, or on threads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ...graphs.errors import EdgewiseError

LEVEL = 0.95
"""Which share of intervals covers the true value."""

RESAMPLES = 4000
LEAST_CLUSTERS = 5
"""So many groups can be resampled; of fewer, their pairs are, and templates are taken as given."""

DEFINED = 2.0
"""A ratio is undefined where its denominator is less than so many standard errors from 0."""

DEGENERATE = 0.01  # share of resamples without variance from which no error can be divided by


@dataclass(frozen=True)
class Estimate:
    """A measured value with the ends of its 95% interval; `value` is None where it is undefined.

    The ends are not numbers (NaN) where one pair says nothing of others.
    """

    value: float | None
    low: float
    high: float

    @property
    def interval(self) -> tuple[float, float] | None:
        """Return the ends, None where there are none."""
        known = math.isfinite(self.low) and math.isfinite(self.high)
        return (self.low, self.high) if known else None

    @property
    def numbers(self) -> tuple[float | None, float | None, float | None]:
        """Return the value and the two ends, None for each that is no number.

        >>> UNDEFINED.numbers, Estimate(0.5, 0.4, 0.6).numbers
        ((None, None, None), (0.5, 0.4, 0.6))
        """
        every = (self.value, self.low, self.high)
        value, low, high = (None if x is None or math.isnan(x) else float(x) for x in every)
        return value, low, high

    def as_dict(self) -> dict[str, object]:
        """Return the value and its interval as plain values."""
        return {"value": self.value, "interval": self.interval and list(self.interval)}

    def beyond(self, margin: float) -> bool:
        """Tell whether the whole interval is farther from 0 than a margin, on one side.

        >>> Estimate(0.2, 0.06, 0.3).beyond(0.05), Estimate(0.2, -0.1, 0.5).beyond(0.05)
        (True, False)
        """
        return self.interval is not None and (self.low > margin or self.high < -margin)


UNDEFINED = Estimate(None, math.nan, math.nan)


def units_of(clusters: np.ndarray) -> np.ndarray:
    """Return what is resampled, int [examples]: the clusters or, of too few, the examples.

    >>> units_of(np.array([0, 0, 1, 1, 1])).tolist()
    [0, 1, 2, 3, 4]
    """
    number = len(np.unique(clusters))
    return clusters if number >= LEAST_CLUSTERS else np.arange(len(clusters))


def dealt_in_two(clusters: np.ndarray) -> np.ndarray:
    """Tell of each example whether it is in the second half; whole clusters stay together.

    They are dealt out from the largest on, each to the smaller half.

    >>> dealt_in_two(np.array([0, 0, 0, 1, 1, 2])).tolist()
    [False, False, False, True, True, True]
    """
    names, places, counts = np.unique(clusters, return_inverse=True, return_counts=True)
    second, sizes = np.zeros(len(names), dtype=bool), [0, 0]
    for name in np.argsort(-counts, kind="stable").tolist():
        second[name] = sizes[1] < sizes[0]
        sizes[int(second[name])] += int(counts[name])
    return np.asarray(second[places])


def resamples(clusters: np.ndarray, n: int, seed: int = 0) -> np.ndarray:
    """Draw bootstrap resamples: how often each example is in each of them, int64 [n, examples].

    Whole clusters are drawn, with replacement, as many as there are; see `units_of` for which.

    >>> resamples(np.array([0, 0, 1]), 3, seed=1).tolist()
    [[1, 1, 1], [2, 2, 0], [0, 0, 2]]
    """
    labels, places = np.unique(clusters, return_inverse=True)
    return _draws(len(labels), n, seed)[:, places]


def _draws(units: int, n: int, seed: int) -> np.ndarray:
    """Draw how often each of some units is in each of n resamples, int64 [n, units]."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(units, np.full(units, 1 / units), size=n)


def mean_estimate(values: np.ndarray, clusters: np.ndarray) -> Estimate:
    """Estimate the mean of values [examples] over all prompts of their kind.

    >>> found = mean_estimate(np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), np.arange(6))
    >>> found.value, found.low < 2.5, found.high > 4.5
    (3.5, True, True)
    """
    return _ratios(values[None], np.ones_like(values)[None], np.ones(1), clusters)


def standard_error(values: np.ndarray, clusters: np.ndarray) -> float:
    """Return the standard error of the mean of values [examples], which may share clusters.

    NaN of a single unit. Without clusters it is s / √n.

    >>> round(standard_error(np.array([1.0, 2.0, 3.0, 4.0]), np.arange(4)), 4)
    0.6455
    """
    tops, bottoms, _ = _sums(values[None], np.ones_like(values)[None], clusters)
    return float(_errors(tops, bottoms, np.ones(1), np.ones((1, tops.shape[1])))[1][0])


def defined(full: np.ndarray, empty: np.ndarray, clusters: np.ndarray, floor: float = 0.0) -> bool:
    """Tell whether the ends of a ratio are far enough apart, on these examples, to divide by.

    They are not if their means differ by less than `DEFINED` standard errors of the difference,
    or by no more than `floor`, what rounding alone does. One example has no standard error.

    >>> ends = np.array([3.0, -2.0, 2.0, -1.0, 0.5, 0.5]), np.zeros(6)
    >>> defined(*ends, np.arange(6)), defined(ends[0] + 5, ends[1], np.arange(6))
    (False, True)
    """
    gap = abs(float(np.mean(full - empty)))
    error = standard_error(full - empty, clusters)
    return gap > floor and not gap < DEFINED * error


def faithfulness_estimate(
    full: np.ndarray,
    circuit: np.ndarray,
    empty: np.ndarray,
    clusters: np.ndarray,
    floor: float = 0.0,
) -> Estimate:
    """Estimate (m(circuit) − m(∅)) / (m(full) − m(∅)) of values [examples]; see the module.

    Undefined where the ends are not apart; see `defined`.
    """
    if not defined(full, empty, clusters, floor):
        return UNDEFINED
    return _ratios((circuit - empty)[None], (full - empty)[None], np.ones(1), clusters)


Ends = tuple[np.ndarray, np.ndarray]


def difference_estimate(
    one: np.ndarray,
    other: np.ndarray,
    ends: Ends,
    clusters: np.ndarray,
    floor: float = 0.0,
    *,
    other_ends: Ends | None = None,
) -> Estimate:
    """Estimate the faithfulness of one circuit minus that of another on the same examples.

    `ends`: the full and the empty circuit's values; `other_ends`: of the second circuit, where it
    was run in another model. Both are resampled together. Undefined where either ratio is.
    """
    every = [ends] if other_ends is None else [ends, other_ends]
    if not all(defined(*pair, clusters, floor) for pair in every):
        return UNDEFINED
    full, empty = ends
    if other_ends is None:  # one denominator
        return _ratios((one - other)[None], (full - empty)[None], np.ones(1), clusters)
    tops = np.stack([one - empty, other - other_ends[1]])
    bottoms = np.stack([full - empty, other_ends[0] - other_ends[1]])
    return _ratios(tops, bottoms, np.array([1.0, -1.0]), clusters)


def _ratios(
    tops: np.ndarray, bottoms: np.ndarray, signs: np.ndarray, clusters: np.ndarray
) -> Estimate:
    """Estimate Σ_k sign_k · mean(top_k) / mean(bottom_k) of values [k, examples]."""
    if not (np.isfinite(tops).all() and np.isfinite(bottoms).all()):
        raise EdgewiseError("values that are not finite have no interval; accepted: numbers.")
    top, bottom, units = _sums(tops, bottoms, clusters)
    (value,), (error,) = _errors(top, bottom, signs, np.ones((1, units)))
    if units < 2 or not math.isfinite(error):
        return Estimate(float(value), math.nan, math.nan)
    if not error > 1e-12 * (abs(value) + 1e-300):  # the same on every example
        return Estimate(float(value), float(value), float(value))
    from scipy.stats import norm, t

    tail = (1 - LEVEL) / 2
    wide = float(t.ppf(1 - tail, units - 1))
    if units < LEAST_CLUSTERS:
        return Estimate(float(value), float(value - wide * error), float(value + wide * error))
    drawn, errors = _errors(top, bottom, signs, _draws(units, RESAMPLES, seed=0))
    fine = (errors > 1e-9 * error) & np.isfinite(errors) & np.isfinite(drawn)
    if fine.mean() < 1 - DEGENERATE:  # such as shares of 1: percentiles, wider for few units
        tail = float(norm.cdf(-wide * math.sqrt(units / (units - 1))))
        low, high = np.quantile(drawn[np.isfinite(drawn)], [tail, 1 - tail])
        return Estimate(float(value), float(low), float(high))
    low, high = np.quantile((drawn[fine] - value) / errors[fine], [tail, 1 - tail])
    return Estimate(float(value), float(value - high * error), float(value - low * error))


def _sums(
    tops: np.ndarray, bottoms: np.ndarray, clusters: np.ndarray
) -> tuple[np.ndarray, np.ndarray, int]:
    """Add values [k, examples] up within units, [k, units], in an order of their own."""
    labels, places = np.unique(units_of(clusters), return_inverse=True)
    rows = np.concatenate([tops, bottoms])
    order = np.lexsort(rows)  # sums, too, do not depend on the order of the examples
    found = np.zeros((len(rows), len(labels)))
    for row, values in zip(found, rows, strict=True):
        np.add.at(row, places[order], values[order])
    found = found[:, np.lexsort(found)]
    return found[: len(tops)], found[len(tops) :], len(labels)


def _errors(
    tops: np.ndarray, bottoms: np.ndarray, signs: np.ndarray, draws: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return Σ_k sign_k · ratio_k of units' sums [k, units] and its error, of each draw [n]."""
    units = tops.shape[1]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        below = draws @ bottoms.T  # [n, k]
        ratios = (draws @ tops.T) / below
        residuals = np.zeros(draws.shape)
        for k, sign in enumerate(signs):
            parts = tops[k] - ratios[:, k, None] * bottoms[k]  # [n, units]
            residuals += sign * parts / below[:, k, None]
        squares = (draws * residuals**2).sum(1)
        errors = np.sqrt(squares * (units / (units - 1))) if units > 1 else squares * np.nan
    return ratios @ signs, errors
