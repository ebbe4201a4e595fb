"""The fewest edges of largest score that reach a faithfulness, found by halving."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..graphs.circuit import Circuit
from ..graphs.errors import EdgewiseError
from ..graphs.scores import Scores
from .evaluation import different_ends, ratio

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..patching.run.runner import Progress, Runner


def smallest_faithful(
    runner: Runner,
    scores: Scores,
    floor: float,
    progress: Progress | None = None,
    *,
    absolute: bool = True,
    connected: bool = False,
) -> Circuit:
    """Find a small n whose top-n circuit, by absolute or signed score, reaches a faithfulness.

    Doubles n until the floor is reached, but for rounding, then halves the interval. Faithfulness
    need not rise with every edge, so a smaller n may exist that this search steps over; the
    returned circuit is measured to reach the floor, and the one with an edge less is not.
    `connected`: without the edges on no way of kept edges from the embedding to the logits; where
    ablated inputs give the ablated output, as of a corrupted prompt, only the count changes.
    """
    total = min(scores.units, int((~np.isnan(scores.values)).sum()))
    ends = different_ends(runner)
    least = floor - runner.floor / abs(ends[0] - ends[1])
    asked = 0

    def circuit(n: int) -> Circuit:
        found = scores.top(n, absolute=absolute)
        return found.prune_dangling() if connected else found

    def reached(n: int) -> bool:
        nonlocal asked
        asked += 1
        if progress is not None:
            progress(asked, 2 * total.bit_length(), f"circuits measured, {n} {scores.level}s")
        found = _faithfulness(runner, circuit(n), ends)
        return found is not None and found >= least

    size = least_size(reached, total)
    if size == total < scores.units and not reached(total):
        raise EdgewiseError(
            f"the {total:,} edges that have a score do not reach faithfulness {floor:g} together; "
            "accepted: a smaller one, or scores of more edges."
        )
    return circuit(size)


def least_size(reached: Callable[[int], bool], total: int) -> int:
    """Return a small number for which something is reached, the total if for none before it.

    Doubles the number until it is, then halves the interval. What is reached need not be reached by
    all larger numbers, so a smaller one may exist that is stepped over.

    >>> least_size(lambda n: n >= 37, 1000)
    37
    """
    low, high = 0, 1
    while high < total and not reached(high):
        low, high = high, min(total, 2 * high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high


def _faithfulness(runner: Runner, circuit: Circuit, ends: tuple[float, float]) -> float | None:
    return ratio(float(runner.measure([circuit])[0, 0]), *ends, runner.floor)
