"""Rows of masks as integers, whose set operations take one step in place of one for each entry."""

from __future__ import annotations

import numpy as np


def integers(mask: np.ndarray) -> list[int]:
    """Return each row of a mask, bool [n, S], as an integer with bit s for entry s.

    >>> integers(np.array([[True, False, True], [False, True, False]]))
    [5, 2]
    """
    packed = np.packbits(mask, axis=1, bitorder="little")
    return [int.from_bytes(row.tobytes(), "little") for row in packed]


def booleans(bits: int, size: int) -> np.ndarray:
    """Return an integer's bits as a row of a mask, bool [size].

    >>> booleans(5, 4).tolist()
    [True, False, True, False]
    """
    packed = np.frombuffer(bits.to_bytes((size + 7) // 8, "little"), dtype=np.uint8)
    return np.unpackbits(packed, count=size, bitorder="little").astype(bool)
