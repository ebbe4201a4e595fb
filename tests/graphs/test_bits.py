"""Masks as integers and back."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgewise.graphs.bitsets import booleans, integers


@given(st.integers(1, 40), st.integers(1, 5), st.integers(0, 999))
def test_there_and_back(size: int, rows: int, seed: int) -> None:
    mask = np.random.default_rng(seed).random((rows, size)) < 0.4
    found = integers(mask)
    assert [bin(bits).count("1") for bits in found] == mask.sum(1).tolist()
    assert np.array_equal(np.stack([booleans(bits, size) for bits in found]), mask)
