"""What some random circuits say of all: identities, numbers by hand, and how often it holds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from edgewise.discovery.random_circuits import percentile, percentile_interval
from edgewise.discovery.uncertainty.bootstrap import UNDEFINED
from edgewise.discovery.uncertainty.draws import median_estimate, share_interval
from edgewise.graphs.errors import EdgewiseError


@given(st.integers(1, 60), st.data())
def test_without_ties_it_is_clopper_and_pearsons(draws: int, data: st.DataObject) -> None:
    below = data.draw(st.integers(0, draws))
    expected = binomtest(below, draws).proportion_ci(0.95, method="exact")
    assert share_interval(below, 0, draws) == pytest.approx((expected.low, expected.high))


def test_ends_by_hand() -> None:
    low, high = share_interval(10, 0, 10)
    assert (low, high) == (pytest.approx(0.025**0.1), 1.0)
    low, high = share_interval(0, 0, 10)
    assert (low, high) == (0.0, pytest.approx(1 - 0.025**0.1))
    assert share_interval(3, 4, 10) == (share_interval(3, 0, 10)[0], share_interval(7, 0, 10)[1])
    assert share_interval(0, 10, 10) == (0.0, 1.0)


@given(
    st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75]), min_size=1, max_size=30),
    st.sampled_from([0.0, 0.5, 1.0]),
)
def test_the_percentile_lies_in_its_interval(among: list[float], value: float) -> None:
    low, high = percentile_interval(value, tuple(among))
    assert low <= percentile(value, tuple(among)) <= high
    mirrored = percentile_interval(-value, tuple(-one for one in among))
    assert mirrored == pytest.approx((100 - high, 100 - low))


@pytest.mark.parametrize("counts", [(0, 0, 0), (3, 2, 4), (-1, 0, 3)])
def test_counts_that_are_no_share(counts: tuple[int, int, int]) -> None:
    with pytest.raises(EdgewiseError, match="are no share; accepted: counts that add up to"):
        share_interval(*counts)


def test_the_median_by_hand() -> None:
    full, empty = np.full(6, 4.0), np.zeros(6)
    drawn = np.array([[0.0], [1.0], [4.0], [2.0], [8.0]]) * np.ones(6)
    found = median_estimate(full, drawn, empty, np.arange(6))
    assert found.value == 0.5
    # prompts are all alike; the median of five draws of five is 0 in .058 of resamples
    assert (found.low, found.high) == (0.0, 2.0)
    same = median_estimate(full, np.ones((5, 6)), empty, np.arange(6))
    assert (same.value, same.low, same.high) == (0.25, 0.25, 0.25)


def test_what_has_no_interval() -> None:
    full, empty = np.full(6, 4.0), np.zeros(6)
    few = median_estimate(full, np.ones((4, 6)), empty, np.arange(6))
    assert (few.value, few.interval) == (0.25, None)
    single = median_estimate(full[:1], np.ones((9, 1)), empty[:1], np.arange(1))
    assert (single.value, single.interval) == (0.25, None)
    assert median_estimate(full, np.zeros((0, 6)), empty, np.arange(6)) == UNDEFINED
    unclear = np.array([3.0, -2.0, 2.0, -1.0, 0.5, 0.5])
    assert median_estimate(unclear, np.ones((9, 6)), empty, np.arange(6)) == UNDEFINED
    assert math.isnan(few.low)


@pytest.mark.parametrize(("spread", "noise"), [(1.0, 0.1), (0.1, 3.0)])
@pytest.mark.parametrize("draws", [5, 20])
def test_how_often_the_true_median_is_covered(draws: int, spread: float, noise: float) -> None:
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(16), 2)
    covered = 0
    for _ in range(100):
        middle = spread * np.sign(rng.standard_normal(draws)) * rng.exponential(size=draws) ** 2
        shared = rng.standard_normal((draws + 1, 16))[:, clusters]  # of templates
        own = noise * (shared[:-1] + shared[-1] + rng.standard_normal((draws, 32)))
        found = median_estimate(
            2 + rng.standard_normal(32), middle[:, None] + own, np.zeros(32), clusters
        )
        covered += found.low <= 0 <= found.high
    assert covered >= 88
