"""The test of every edge's scores and of whole circuits: by hand, and against scipy."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgewise.discovery import significance
from edgewise.discovery.significance import (
    compare_edges,
    jaccard_matrix,
    label_permutation,
    q_values,
    welch,
)
from edgewise.graphs.errors import EdgewiseError
from edgewise.graphs.graph import ComputationGraph

TINY = ComputationGraph(layers=1, heads=1)


def column(*values: float) -> np.ndarray:
    return np.array(values, dtype=float)[:, None]


# -- one edge ------------------------------------------------------------------------------------


def test_welch_by_hand() -> None:
    # means 2 and 7.5, variances 1 and .5, se² = 1/3 + 1/4 = 7/12
    # df = (7/12)² / ((1/3)²/2 + (1/4)²/1) = 2.8824, t = 5.5 / √(7/12) = 7.2012
    t, df = 5.5 / np.sqrt(7 / 12), (7 / 12) ** 2 / (1 / 18 + 1 / 16)
    assert df == pytest.approx(2.8823529)
    p = welch(column(1, 2, 3), column(7, 8))
    assert p == pytest.approx([2 * scipy.stats.t.sf(t, df)], rel=1e-9)


SCORES = st.floats(-1e3, 1e3, width=32)


@given(st.data(), st.integers(2, 6), st.integers(2, 6))
def test_welch_is_scipys(data: Any, first: int, second: int) -> None:
    a, b = (data.draw(arrays(np.float64, (n, 3), elements=SCORES)) for n in (first, second))
    floor = 1e-3 * max(np.abs(a).max(), np.abs(b).max(), 1.0)
    wide = (a.std(0, ddof=1) > floor) & (b.std(0, ddof=1) > floor)
    if wide.any():
        true = scipy.stats.ttest_ind(a[:, wide], b[:, wide], equal_var=False).pvalue
        np.testing.assert_allclose(welch(a, b)[wide], true, rtol=1e-7, atol=1e-12)
    swapped = welch(b, a)
    np.testing.assert_allclose(swapped, welch(a, b), rtol=1e-9)


@pytest.mark.parametrize("value", [0.0, 0.1, -3e8, 1e-30])
def test_equal_constant_scores_are_no_difference(value: float) -> None:
    assert welch(column(*[value] * 3), column(*[value] * 4)) == pytest.approx([1.0], abs=1e-6)


def test_no_difference_of_means_is_no_difference() -> None:
    assert welch(column(1, 3), column(0, 4)) == [1.0]


def test_what_rounding_makes_is_no_difference() -> None:
    once = np.float32(0.1)
    a = np.array([[once, 100.0], [once, 90.0]], dtype=np.float64)
    b = np.array([[np.nextafter(once, np.float32(1)), 80.0]] * 2, dtype=np.float64)
    b[1, 1] = 95.0
    assert welch(a, b)[0] > 0.9
    assert welch(a, b, rounding=0.0)[0] < 1e-12 or welch(a, b, rounding=0.0)[0] == 1.0


def test_a_constant_that_moves_is_a_difference() -> None:
    assert welch(column(0.5, 0.5, 0.5), column(0.0, 0.0, 0.0))[0] < 1e-9
    assert welch(column(0.5, 0.6, 0.55), column(0.0, 0.0, 0.0))[0] < 0.01


def test_the_floor_is_a_part_of_the_largest_score_by_hand() -> None:
    """Beside scores of 10⁶ a constant change of ½ is t = ½ / (σ √(2/3)) with σ = 10⁶ / 2²⁰.

    That is t = .642 with 4 degrees of freedom, which is nothing; beside scores of 1 it is much.
    """
    large = welch(column(*[1e6 - 0.5] * 3), column(*[1e6] * 3))
    t = 0.5 / (1e6 / 2**20 * np.sqrt(2 / 3))
    assert t == pytest.approx(0.642, abs=1e-3)
    assert large == pytest.approx([2 * scipy.stats.t.sf(t, 4)], rel=1e-6)
    assert welch(column(*[0.5] * 3), column(*[1.0] * 3))[0] < 1e-9


def test_one_repetition_is_refused() -> None:
    for one, other in ((1, 3), (3, 1)):
        with pytest.raises(EdgewiseError, match=f"{one} and {other} repetitions cannot be tested"):
            welch(column(*range(one)), column(*range(other)))


# -- all edges -----------------------------------------------------------------------------------


def test_q_values_by_hand() -> None:
    found = q_values(np.array([0.005, 0.9, 0.02, 0.021, 0.04]))
    # sorted .005 .02 .021 .04 .9 times 5/1 5/2 5/3 5/4 1, then the least from above
    assert found == pytest.approx([0.025, 0.9, 0.035, 0.035, 0.05])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_q_values_are_scipys(p: list[float]) -> None:
    true = scipy.stats.false_discovery_control(p)
    np.testing.assert_allclose(q_values(np.array(p)), true, rtol=1e-12, atol=1e-300)


def test_every_edge_is_tested_and_nothing_else() -> None:
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(2, 5, *TINY.reads.shape))
    row, sender = np.argwhere(TINY.reads)[2]
    b[:, row, sender] += 100
    a[:, ~TINY.reads] = np.nan
    found = compare_edges(TINY, a, b)
    for values in (found.p, found.q, found.mean_a, found.mean_b):
        assert (np.isnan(values) == ~TINY.reads).all()
    assert np.nanargmin(found.q) == row * TINY.reads.shape[1] + sender
    assert found.q[row, sender] == pytest.approx(found.p[row, sender] * TINY.edge_count)
    assert found.mean_b[row, sender] - found.mean_a[row, sender] == pytest.approx(100, abs=3)


def test_scores_that_lack_an_edge_are_refused() -> None:
    a = np.zeros((3, *TINY.reads.shape))
    with pytest.raises(EdgewiseError, match="edges without a score"):
        compare_edges(TINY, np.full_like(a, np.nan), a)
    one = a.copy()
    one[2][np.nonzero(TINY.reads)[0][0], np.nonzero(TINY.reads)[1][0]] = np.nan
    for sides in ((one, a), (a, one)):
        with pytest.raises(EdgewiseError, match="edges without a score"):
            compare_edges(TINY, *sides)
    for wrong in (a[0], a[:, :-1], a[None]):
        with pytest.raises(EdgewiseError, match=r"accepted: \[repetitions, "):
            compare_edges(TINY, wrong, a)


def test_under_the_null_the_p_values_are_uniform() -> None:
    draw = np.random.default_rng(1)
    p = welch(draw.normal(size=(6, 20_000)), draw.normal(size=(6, 20_000)))
    for level in (0.01, 0.05, 0.5):
        assert np.mean(p < level) == pytest.approx(level, rel=0.15)


# -- whole circuits ------------------------------------------------------------------------------


def test_jaccard_matrix_by_hand() -> None:
    kept = np.array([[[1, 1, 0]], [[0, 1, 1]], [[0, 0, 0]], [[0, 0, 0]]], dtype=bool)
    third = 1 / 3
    assert jaccard_matrix(kept) == pytest.approx(
        np.array([[1, third, 0, 0], [third, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]])
    )


def test_label_permutation_by_hand() -> None:
    alike = np.full((6, 6), 0.2)
    alike[:3, :3], alike[3:, 3:] = 0.9, 0.7
    found = label_permutation(alike, 3)
    assert found.p == pytest.approx(2 / 20)  # the split itself and its mirror image, of C(6, 3)
    assert (found.within_a, found.within_b) == ((0.9,) * 3, (0.7,) * 3)
    assert found.between == (0.2,) * 9


@given(arrays(np.float64, (5, 5), elements=st.floats(0, 1)))
def test_label_permutation_counts_all_splits(values: np.ndarray) -> None:
    alike = (values + values.T) / 2

    def gap(group: tuple[int, ...]) -> float:
        pairs = list(itertools.combinations(range(5), 2))
        within = [alike[i, j] for i, j in pairs if (i in group) == (j in group)]
        between = [alike[i, j] for i, j in pairs if (i in group) != (j in group)]
        return float(np.mean(within) - np.mean(between))

    splits = list(itertools.combinations(range(5), 2))
    true = np.mean([gap(group) >= gap((0, 1)) - 1e-12 for group in splits])
    assert label_permutation(alike, 2).p == pytest.approx(true)


def test_many_splits_are_drawn_with_a_fixed_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(3)
    alike = draw.uniform(size=(12, 12))
    alike = (alike + alike.T) / 2
    exact = label_permutation(alike, 6).p
    monkeypatch.setattr(significance, "MOST_SPLITS", 900)
    drawn = label_permutation(alike, 6).p
    assert drawn == label_permutation(alike, 6).p
    assert drawn == pytest.approx(exact, abs=0.06)
    # the given split counts among the drawn: p is a whole number of 901st parts, exactly of 924th
    assert drawn * 901 == pytest.approx(round(drawn * 901), abs=1e-9)
    assert drawn * 924 != pytest.approx(round(drawn * 924), abs=1e-3)
    assert exact * 924 == pytest.approx(round(exact * 924), abs=1e-9)


@pytest.mark.parametrize("size", [5, 8])  # with 2 and 6 more pairs are within than between
@pytest.mark.parametrize("seed", range(3))
def test_the_permutation_is_that_of_every_split(size: int, seed: int) -> None:
    """By the definition: mean likeness within minus between, of all groups of two and the rest."""
    draw = np.random.default_rng(seed).random((size, size))
    likeness = (draw + draw.T) / 2
    pairs = list(itertools.combinations(range(size), 2))
    values = np.array([likeness[pair] for pair in pairs])

    def statistic(group: tuple[int, ...]) -> float:
        within = np.array([(i in group) == (j in group) for i, j in pairs])
        return float(values[within].mean() - values[~within].mean())

    every = [statistic(group) for group in pairs]
    expected = sum(one >= statistic((0, 1)) - 1e-12 for one in every) / len(every)
    assert label_permutation(likeness, 2).p == pytest.approx(expected)


@pytest.mark.parametrize("swapped", [False, True])
def test_the_floor_is_that_of_the_larger_side(swapped: bool) -> None:
    """Beside a score of 1, a difference of 10⁻⁷ is rounding, whichever side has it."""
    silent, loud = np.zeros((3, 2)), np.tile([1.0, 1e-7], (3, 1))
    a, b = (loud, silent) if swapped else (silent, loud)
    p = welch(a, b)
    assert p[0] < 1e-9 and p[1] > 0.8
