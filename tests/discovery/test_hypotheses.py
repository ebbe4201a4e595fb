"""The five tests of circuits: identities, numbers by hand, and scipy's own where there is one."""

from __future__ import annotations

from itertools import permutations
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from edgewise.discovery.uncertainty.hypotheses import (
    dependence_test,
    exceeds_enough,
    exceeds_too_few,
    hsic,
    kernel,
    minimality_test,
    sign_test,
    smallest_sufficient,
)
from edgewise.graphs.errors import EdgewiseError


@given(st.integers(0, 40), st.integers(0, 40))
def test_without_a_margin_it_is_the_sign_test(better: int, worse: int) -> None:
    difference = np.array([1.0] * better + [-1.0] * worse + [0.0] * 3)
    found = sign_test(difference, margin=0.0)
    assert (found.better, found.worse, found.equal) == (better, worse, 3)
    expected = binomtest(better, better + worse).pvalue if better + worse else 1.0
    assert found.p == pytest.approx(expected)


def test_a_margin_by_hand() -> None:
    # of 4 examples all are better: |4/4 − ½| or more is 0 or 4 of 4, at a chance of .6
    assert sign_test(np.ones(4), margin=0.1).p == pytest.approx(0.6**4 + 0.4**4)
    # one of two is as even as can be, so every outcome is at least as uneven
    assert sign_test(np.array([1.0, -1.0]), margin=0.1).p == 1.0
    # the larger the margin, the less is uneven
    assert sign_test(np.ones(9), margin=0.3).p > sign_test(np.ones(9), margin=0.1).p
    with pytest.raises(EdgewiseError, match=r"margin is 0\.5; accepted: from 0 up, below 0\.5"):
        sign_test(np.ones(3), margin=0.5)


def test_differences_of_rounding_are_none() -> None:
    found = sign_test(np.array([1e-9, -1e-9, 2.0]), floor=1e-6)
    assert (found.better, found.worse, found.equal) == (1, 0, 2)


def test_hsic_by_definition() -> None:
    x, y = np.array([0.0, 1.0, 3.0]), np.array([2.0, 0.0, 1.0])
    # distances of x: 1, 3, 2, the median 2; of y: 2, 1, 1, the median 1
    k = np.exp(-(np.array([[0, 1, 9], [1, 0, 4], [9, 4, 0]]) / (2 * 2.0**2)))
    l_ = np.exp(-(np.array([[0, 4, 1], [4, 0, 1], [1, 1, 0]]) / (2 * 1.0**2)))
    np.testing.assert_allclose(kernel(x), k)
    np.testing.assert_allclose(kernel(y), l_)
    h = np.eye(3) - 1 / 3
    assert hsic(x, y) == pytest.approx(np.trace(k @ h @ l_ @ h) / 4)
    assert hsic(x, y) == pytest.approx(hsic(y, x))


def test_nothing_depends_on_a_constant() -> None:
    found = dependence_test(np.zeros(8), np.arange(8.0))
    assert found.hsic == pytest.approx(0)
    assert found.p == 1.0


def test_permutations_by_hand() -> None:
    x, y = np.array([0.0, 1.0, 5.0, 7.0]), np.array([1.0, 2.0, 8.0, 3.0])
    every = [hsic(x, y[list(order)]) for order in permutations(range(4))]
    share = np.mean(np.array(every) >= hsic(x, y) - 1e-12)
    assert dependence_test(x, y, permutations=4000).p == pytest.approx(share, abs=0.03)


def test_no_p_value_of_permutations_is_0() -> None:
    x = np.arange(40.0)
    found = dependence_test(x, x, permutations=99)
    assert found.p == 0.01
    assert found == dependence_test(x, x, permutations=99)
    with pytest.raises(EdgewiseError, match="1 and 1 values cannot be tested for independence"):
        dependence_test(np.ones(1), np.ones(1))


@pytest.mark.parametrize("dependent", [False, True])
def test_permutations_keep_their_level(dependent: bool) -> None:
    draw = np.random.default_rng(0)
    small = 0
    for run in range(200):
        x = draw.standard_normal(30)
        y = x**2 * dependent + draw.standard_normal(30) * (0.3 if dependent else 1)
        small += dependence_test(x, y, permutations=99, seed=run).p <= 0.05
    assert small > 150 if dependent else 2 <= small <= 20  # 10 are expected


@given(st.integers(1, 60), st.data(), st.sampled_from([0.5, 0.9]))
def test_tails_are_those_of_a_binomial(draws: int, data: st.DataObject, share: float) -> None:
    count = data.draw(st.integers(0, draws))
    less, more = (
        binomtest(count, draws, share, alternative=side).pvalue for side in ("less", "greater")
    )
    assert exceeds_too_few(count, draws, share) == pytest.approx(less)
    assert exceeds_enough(count, draws, share) == pytest.approx(more)
    assert exceeds_enough(count, draws, share) > 0


def test_minimality_by_hand() -> None:
    drawn = [1.0, 2.0, 3.0, 4.0]
    found = minimality_test([0.5, 2.5, 9.0], drawn, share=0.9)
    none = 0.1**4
    two = sum(comb(4, k) * 0.9**k * 0.1 ** (4 - k) for k in range(3))
    assert found.each == pytest.approx((none, two, 1.0))
    assert found.p == pytest.approx(3 * none)
    assert found.weak == (True, False, False)
    assert minimality_test([], drawn).p == 1.0


def test_as_many_draws_as_a_small_p_needs() -> None:
    assert smallest_sufficient(29) < 0.05 < smallest_sufficient(28)
    with pytest.raises(EdgewiseError, match="0 draws say nothing; accepted: 1 or more"):
        exceeds_enough(0, 0)
