"""The five tests on examples that share templates: identities, numbers by hand, and their level."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from edgewise.discovery.uncertainty.hypotheses import (
    correlation,
    dependence_test,
    exceeds_enough,
    exceeds_too_few,
    minimality_test,
    over_resamples,
    sign_test,
)
from edgewise.graphs.errors import EdgewiseError

FOURS = np.repeat(np.arange(24), 4)


# -- identities ----------------------------------------------------------------------------------


@given(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=2, max_size=40), st.integers(1, 3))
def test_clusters_of_one_and_few_clusters_are_none(signs: list[float], few: int) -> None:
    values = np.array(signs)
    alone, several = np.arange(len(values))[::-1], np.arange(len(values)) % few
    assert sign_test(values, alone) == sign_test(values) == sign_test(values, several)
    for clusters in (alone, several):
        found = dependence_test(values, np.cos(values), clusters, permutations=19)
        assert found == dependence_test(values, np.cos(values), permutations=19)
        same = over_resamples(values[None], np.arange(len(values)), seed=1)
        np.testing.assert_array_equal(over_resamples(values[None], clusters % 1, seed=1), same)


def test_numbers_and_order_of_clusters_do_not_matter() -> None:
    draw = np.random.default_rng(0)
    values, order = draw.standard_normal(96), draw.permutation(96)
    first = sign_test(values, FOURS)
    again = sign_test(values[order], (97 - 3 * FOURS)[order])
    assert (first.better, first.worse) == (again.better, again.worse)
    assert again.p == pytest.approx(first.p, rel=1e-9)


def test_what_is_the_same_on_every_example_is_exceeded_as_ever() -> None:
    values = np.arange(10.0)[:, None] * np.ones(96)
    found = over_resamples(values, FOURS)
    np.testing.assert_allclose(found, np.tile(np.arange(10.0), (len(found), 1)))
    p = exceeds_enough((found[:, :9] < found[:, 9:]).sum(1), 9)
    assert p == pytest.approx(exceeds_enough(9, 9))
    own, drawn = found[:, 3:5], found[:, 5:]
    plain = minimality_test([3.0, 4.0], range(5, 10)).each
    assert minimality_test(own, drawn).each == pytest.approx(plain)
    single = over_resamples(np.array([[3.0], [1.0]]))
    assert single.tolist() == [[3.0, 1.0]]


# -- numbers by hand -----------------------------------------------------------------------------


def test_clusters_that_always_agree_count_once() -> None:
    whole = np.repeat([1.0] * 14 + [-1.0] * 6, 3)  # of 20 clusters of three, 14 are won
    found = sign_test(whole, np.repeat(np.arange(20), 3))
    assert (found.better, found.worse) == (42, 18)
    assert found.p == pytest.approx(sign_test(whole[::3]).p)
    assert sign_test(whole).p < found.p  # as if all 60 were independent
    # all are won: of how alike they are nothing is known, so each cluster counts once
    every = sign_test(np.ones(60), np.repeat(np.arange(20), 3))
    assert every.p == pytest.approx(0.6**20 + 0.4**20)


def test_the_correlation_within_clusters_by_hand() -> None:
    wins, sizes = np.array([2, 1, 0] * 8), np.full(24, 2)
    # shares 1, ½, 0: within, 8 clusters of 2 · ¼ over 48 − 24; between, 16 of 2 · ¼ over 23
    within, between = 8 * 0.5 / 24, 16 * 0.5 / 23
    alike = (between - within) / (between + within)
    larger = (1 + alike) * 23 / 21
    assert correlation(wins, sizes) == pytest.approx(larger - 1)
    assert correlation(np.array([1, 0, 1]), np.array([1, 1, 1])) == 0
    assert correlation(np.array([3] * 20), np.array([3] * 20)) == 1  # nothing is known of it


def test_beta_binomials_are_added_up() -> None:
    """Two of seventeen clusters have two examples; each outcome's probability by hand."""
    sizes = [1] * 15 + [2, 2]
    clusters = np.repeat(np.arange(17), sizes)
    signs = np.array([1.0, -1.0] * 7 + [1.0] + [1.0, 1.0, -1.0, -1.0])
    wins = np.array([1, 0] * 7 + [1] + [2, 0])
    alike, chance = correlation(wins, np.array(sizes)), 0.6
    pair = [
        (1 - chance) * (1 - chance + alike * chance),
        2 * chance * (1 - chance) * (1 - alike),
        chance * (chance + alike * (1 - chance)),
    ]
    odds = [1 - chance, chance]
    found = np.zeros(20)
    single = np.ones(1)
    for _ in range(15):
        single = np.convolve(single, odds)
    for (i, a), (j, b), (k, c) in product(*map(enumerate, (single, pair, pair))):
        found[i + j + k] += a * b * c
    better = int(wins.sum())
    count = np.arange(20)
    expected = found[np.abs(2 * count - 19) >= abs(2 * better - 19)].sum()
    assert sign_test(signs, clusters).p == pytest.approx(expected)


def test_whole_clusters_change_places_with_those_of_their_size() -> None:
    """Of 16 clusters fifteen are too unlike in size to move; the other two have two orders."""
    sizes = np.array([1, 1, *range(2, 17)])
    clusters = np.repeat(np.arange(17), sizes)
    draw = np.random.default_rng(0)
    x = draw.standard_normal(len(clusters))
    y = np.arange(len(clusters)) * 1.0
    found = dependence_test(x, y, clusters, permutations=200)
    assert found.orders == pytest.approx(2)
    assert found.p > 0.3  # one of the two orders is the one that was seen
    unequal = np.repeat(np.arange(16), np.arange(1, 17))
    stuck = dependence_test(x[: len(unequal)], y[: len(unequal)], unequal, permutations=9)
    assert (stuck.p, stuck.orders) == (1.0, 1.0)


def test_p_is_the_mean_over_resamples() -> None:
    counts = np.array([0, 1, 2])
    mean = np.mean([exceeds_enough(int(one), 2) for one in counts])
    assert exceeds_enough(counts, 2) == pytest.approx(mean)
    mean = np.mean([exceeds_too_few(int(one), 2) for one in counts])
    assert exceeds_too_few(counts, 2) == pytest.approx(mean)
    found = minimality_test([[0.5], [2.5]], [[1.0, 2.0], [1.0, 2.0]])
    assert found.each == (pytest.approx((0.1**2 + 1) / 2),)


@pytest.mark.parametrize("clusters", [[0], [[0, 1], [0, 1]]])
def test_clusters_that_fit_no_examples(clusters: list[int]) -> None:
    words = r"2 examples have clusters of shape .*; accepted: one number for each"
    for asked in (
        lambda: sign_test(np.ones(2), clusters),
        lambda: dependence_test(np.ones(2), np.ones(2), clusters),
        lambda: over_resamples(np.ones((1, 2)), clusters),
    ):
        with pytest.raises(EdgewiseError, match=words):
            asked()


# -- the level, simulated ------------------------------------------------------------------------

MOST = 0.085
"""More than this share of p < .05 in 200 runs is improbable (1%) if the level is .05."""


def share_of_small(
    runs: int, p: Callable[[np.random.Generator], tuple[float, float]]
) -> list[float]:
    """Return how often p with clusters, and p without, is below .05."""
    draw = np.random.default_rng(0)
    found = np.array([p(draw) for _ in range(runs)]) < 0.05
    return [float(one) for one in found.mean(0)]


def shared(draw: np.random.Generator, rows: int, alike: float) -> np.ndarray:
    """Draw normal values [rows, examples] of which templates share a part of the variance."""
    own, templates = draw.standard_normal((rows, 96)), draw.standard_normal((rows, 24))
    return np.sqrt(alike) * templates[:, FOURS] + np.sqrt(1 - alike) * own


@pytest.mark.parametrize("alike", [0.3, 1.0])
def test_equivalence_keeps_its_level(alike: float) -> None:
    def p(draw: np.random.Generator) -> tuple[float, float]:
        difference = shared(draw, 1, alike)[0] + norm.ppf(0.6)  # better on .6: the margin's end
        return sign_test(difference, FOURS).p, sign_test(difference).p

    together, alone = share_of_small(200, p)
    assert together <= MOST < alone


def test_independence_keeps_its_level() -> None:
    def p(draw: np.random.Generator) -> tuple[float, float]:
        x, y = shared(draw, 2, 0.7)
        how = {"permutations": 39, "seed": int(draw.integers(1 << 30))}
        return dependence_test(x, y, FOURS, **how).p, dependence_test(x, y, **how).p

    together, alone = share_of_small(150, p)
    assert together <= MOST < alone


def test_a_dependence_between_templates_is_found() -> None:
    draw = np.random.default_rng(0)
    x = shared(draw, 1, 0.7)[0]
    found = dependence_test(x, x + 0.5 * shared(draw, 1, 0.7)[0], FOURS)
    assert found.p < 0.01


@pytest.mark.parametrize("alike", [0.0, 0.7])
def test_random_circuits_keep_their_level(alike: float) -> None:
    """The circuit is exactly at the share of .9; so are three edges. Prompts add their own part."""

    def p(draw: np.random.Generator) -> tuple[float, float]:
        middle = np.concatenate([np.full(3, norm.ppf(0.9)), draw.standard_normal(99)])
        values = np.exp(middle[:, None] + 0.8 * shared(draw, 102, alike))
        over = over_resamples(values, FOURS)
        enough = exceeds_enough((over[:, 3:] < over[:, :1]).sum(1), 99)
        return enough, minimality_test(over[:, :3], over[:, 3:]).p

    sufficient, minimal = share_of_small(150, p)
    assert sufficient <= MOST
    assert minimal <= MOST
