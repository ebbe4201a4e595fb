"""The worst that can be found: pairings of prompts, and gates chosen against a circuit.

* A **pairing** runs a clean prompt with another pair's corrupted prompt. Two pairs can be paired
  where what says so is equal: as many tokens, one answer position, one template.
* **Projected gradient ascent** (Madry et al. 2018; here on gates in [0, 1], not on inputs): step
  along the sign of the gradient, put what leaves the box back on its side, keep a step only if the
  value rises, else halve it. So the result is never below the start, and is a lower bound of the
  worst there is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from ...graphs.errors import EdgewiseError

LEAST_STEP = 1 / 64
"""A step shorter than this ends the ascent: no gate would move by more."""

ROUNDING = 2.0**-20
"""Slopes below this part of the steepest are none: their sign is that of rounding."""

Valued = Callable[[np.ndarray], tuple[float, np.ndarray]]
"""The value at some gates, and its gradient there."""


def pairings(keys: Sequence[Hashable], most: int, seed: int = 0) -> list[tuple[int, int]]:
    """Pair each of n prompts with itself, then with others of its key, at most `most` in all.

    >>> pairings(["a", "a", "b"], most=8)
    [(0, 0), (1, 1), (2, 2), (0, 1), (1, 0)]
    """
    if most < 1:
        raise EdgewiseError(f"{most} pairings of each prompt say nothing; accepted: 1 or more.")
    alike: dict[Hashable, list[int]] = defaultdict(list)
    for number, key in enumerate(keys):
        alike[key].append(number)
    draw = np.random.default_rng(seed)
    found: list[list[int]] = []
    for number, key in enumerate(keys):
        others = [other for other in alike[key] if other != number]
        if len(others) > most - 1:
            others = [others[i] for i in sorted(draw.permutation(len(others))[: most - 1])]
        found.append([number, *others])
    rounds = max(map(len, found), default=0)
    return [(i, own[r]) for r in range(rounds) for i, own in enumerate(found) if r < len(own)]


def possible_pairings(keys: Sequence[Hashable]) -> int:
    """Count all pairings there are.

    >>> possible_pairings(["a", "a", "b"])
    5
    """
    counts: dict[Hashable, int] = defaultdict(int)
    for key in keys:
        counts[key] += 1
    return sum(count**2 for count in counts.values())


@dataclass(frozen=True, eq=False)
class Ascent:
    """The best gates found, value and gradient there, the start's value, how often it was asked."""

    gates: np.ndarray
    value: float
    gradient: np.ndarray
    start: float
    asked: int


def ascend(valued: Valued, start: np.ndarray, movable: np.ndarray, most: int) -> Ascent:
    """Raise a value by projected gradient ascent over gates in [0, 1].

    Args:
        valued: asked at most `most` times, once of them at the start.
        start: gates from 0 to 1; those that are not `movable` (bool) stay.
    """
    if most < 1:
        raise EdgewiseError(f"an ascent of {most} steps finds nothing; accepted: 1 or more.")
    best, (value, gradient) = start.astype(np.float64), valued(start)
    first, step, asked = value, 1.0, 1
    while asked < most and step >= LEAST_STEP:
        slopes = np.where(np.abs(gradient) > ROUNDING * np.abs(gradient).max(), gradient, 0.0)
        moved = np.clip(best + step * np.sign(slopes), 0.0, 1.0)
        moved = np.where(movable, moved, best)
        if np.array_equal(moved, best):
            break
        found, slope = valued(moved)
        asked += 1
        if found > value:
            best, value, gradient = moved, found, slope
        else:
            step /= 2
    return Ascent(best, value, gradient, first, asked)
