"""The worst that can be found: pairings by hand, and an ascent that never ends below its start."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.discovery.uncertainty.worst import ascend, pairings, possible_pairings
from edgewise.graphs.errors import EdgewiseError


@given(st.lists(st.sampled_from("abc"), max_size=9), st.integers(1, 12), st.integers(0, 3))
def test_pairings_are_alike_and_each_prompt_has_its_own(
    keys: list[str], most: int, seed: int
) -> None:
    found = pairings(keys, most, seed)
    assert found == pairings(keys, most, seed)
    assert len(set(found)) == len(found) <= possible_pairings(keys)
    assert found[: len(keys)] == [(i, i) for i in range(len(keys))]
    for number, key in enumerate(keys):
        own = [b for a, b in found if a == number]
        assert all(keys[b] == key for b in own)
        assert len(own) == min(most, keys.count(key))


def test_all_pairings_where_there_is_room_for_them() -> None:
    keys = ["a", "a", "a", "b"]
    every = {(i, j) for i in range(4) for j in range(4) if keys[i] == keys[j]}
    assert set(pairings(keys, 99)) == every
    assert len(every) == possible_pairings(keys) == 10
    with pytest.raises(EdgewiseError, match="0 pairings of each prompt"):
        pairings(keys, 0)


def quadratic(target: np.ndarray) -> object:
    """Return a function whose largest value, 0, is at the target."""
    return lambda x: (-float(((x - target) ** 2).sum()), -2 * (x - target))


@given(st.lists(st.floats(-1, 2), min_size=1, max_size=6), st.integers(0, 9), st.integers(1, 40))
def test_an_ascent_stays_in_the_box_and_never_ends_below_its_start(
    target: list[float], seed: int, most: int
) -> None:
    draw = np.random.default_rng(seed)
    start, movable = draw.random(len(target)), draw.random(len(target)) < 0.7
    found = ascend(quadratic(np.array(target)), start, movable, most)  # type: ignore[arg-type]
    assert found.value >= found.start
    assert found.asked <= most
    assert 0 <= found.gates.min() <= found.gates.max() <= 1
    assert (found.gates == start)[~movable].all()


def test_a_linear_value_is_largest_at_a_corner() -> None:
    weights = np.array([2.0, -3.0, 0.0, 1.0])
    found = ascend(lambda x: (float(weights @ x), weights), np.full(4, 0.5), np.ones(4, bool), 9)
    assert found.gates.tolist() == [1, 0, 0.5, 1]
    assert found.value == 3
    assert found.start == 0
    assert found.asked == 2  # the second step would move nothing


def test_a_step_that_lowers_the_value_is_halved() -> None:
    target = np.array([0.25])
    found = ascend(quadratic(target), np.zeros(1), np.ones(1, bool), 20)  # type: ignore[arg-type]
    assert found.value == pytest.approx(0)  # 1 and ½ are too far, ¼ is right
    assert found.gates.tolist() == [0.25]
    with pytest.raises(EdgewiseError, match="an ascent of 0 steps"):
        ascend(quadratic(target), np.zeros(1), np.ones(1, bool), 0)  # type: ignore[arg-type]
