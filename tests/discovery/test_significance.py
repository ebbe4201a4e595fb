"""q-values, and the test of whole circuits: by hand, and against scipy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgewise.discovery.uncertainty import significance
from edgewise.discovery.uncertainty.significance import jaccard_matrix, label_permutation, q_values


def test_q_values_by_hand() -> None:
    found = q_values(np.array([0.005, 0.9, 0.02, 0.021, 0.04]))
    # sorted .005 .02 .021 .04 .9 times 5/1 5/2 5/3 5/4 1, then the least from above
    assert found == pytest.approx([0.025, 0.9, 0.035, 0.035, 0.05])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_q_values_are_scipys(p: list[float]) -> None:
    true = scipy.stats.false_discovery_control(p)
    np.testing.assert_allclose(q_values(np.array(p)), true, rtol=1e-12, atol=1e-300)


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
