"""Where a search stops, decided on pairs that it does not see: the smallest circuit as good.

What a search finds is fitted to its pairs, the more the more it asks of them. So some of the
discovery's own pairs are kept from it; those that a report calls held out are not looked at.

1. The pairs are split by a seed, as a file's are (whole groups where there are enough of them).
2. The search goes on to ever smaller circuits. Of each is noted: its edges, its faithfulness on the
   pairs of the search and on those kept from it. It ends where `PATIENCE` in a row are farther from
   1 on the latter than the best, by more than the standard error of their difference, pair by pair.
3. Returned is the smallest circuit that is no farther from 1 than the best, but for that standard
   error, and nearer to 1 than every smaller one: more edges make it no better beyond chance.

So no smaller circuit that was noted is nearer to 1 on these pairs than the one that is returned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ...graphs.errors import EdgewiseError
from ...graphs.example_scores import clusters_of
from ...patching.prompts.splits import hold_out
from ..evaluation import different_ends
from ..uncertainty.bootstrap import standard_error
from ..uncertainty.cross_fit import on_pairs

if TYPE_CHECKING:
    from ...graphs.circuit import Circuit
    from ...patching.run.runner import Runner

PATIENCE = 3
"""So many smaller circuits in a row are worse where a search ends."""

LEAST = 2
"""Of so many pairs at least a standard error can be taken."""

WORSE = "smaller ones got worse"
"""Why a search ends where `Stop.enough` is reached."""

KEY = "stopped"
"""Where a circuit's file holds where the search stopped, and why."""

STOP_HELP = (
    "keep so many of the pairs from the search, and return the smallest circuit that is as good on "
    "them; 0: none. Pairs held out for the report are others"
)


@dataclass(frozen=True)
class Noted:
    """A circuit on the way: its edges, and its faithfulness on the search's and on other pairs.

    `threshold`: that it was found with, of a search that has one.
    """

    edges: int
    in_sample: float
    held_out: float
    threshold: float | None = None

    def as_dict(self) -> dict[str, object]:
        """Return what is known as plain values."""
        return {key: value for key, value in vars(self).items() if value is not None}


@dataclass
class Stop:
    """Pairs of a search and pairs kept from it, and what was noted of its circuits.

    `search`: the runner that the search may ask. `judge`: of the other pairs.
    """

    whole: Runner
    search: Runner
    judge: Runner
    words: str
    curve: list[Noted] = field(default_factory=list)
    _values: list[np.ndarray] = field(default_factory=list)

    @staticmethod
    def of(runner: Runner, number: int) -> Stop:
        """Split a runner's pairs; an EdgewiseError if too few are left on a side."""
        total = len(runner.pairs)
        if not LEAST <= number < total:
            raise EdgewiseError(
                f"stop_on keeps {number:,} of {total:,} pairs from the search; accepted: "
                f"{LEAST:,} to {total - 1:,}, or 0 for none."
            )
        split = hold_out(runner.pairs, None, number)
        assert split.test is not None  # so many are asked for
        search, judge = on_pairs(runner, split.discovery), on_pairs(runner, split.test)
        words = split.words.replace("held out", "kept from the search")
        return Stop(runner, search, judge, words)

    def __post_init__(self) -> None:
        self._ends = [different_ends(one) for one in (self.search, self.judge)]

    def note(self, circuit: Circuit, threshold: float | None = None) -> Noted:
        """Measure a circuit on both sides, and keep what was measured."""
        values = [one.measure_each([circuit])[0, 0] for one in (self.search, self.judge)]
        here, there = (
            float((found.mean() - empty) / (full - empty))
            for found, (full, empty) in zip(values, self._ends, strict=True)
        )
        self.curve.append(Noted(len(circuit), here, there, threshold))
        self._values.append(values[1])
        return self.curve[-1]

    @property
    def enough(self) -> bool:
        """Tell whether the last circuits noted are all worse than the best, beyond chance."""
        best = best_of(self.curve)
        last = range(max(0, len(self.curve) - PATIENCE), len(self.curve))
        return len(last) == PATIENCE and all(
            far(self.curve[one]) > far(self.curve[best]) + self._error(one, best) for one in last
        )

    def choose(self) -> int:
        """Return which of the circuits noted so far is to be returned, by its place."""
        return smallest_as_good(self.curve, self._error)

    def no_worse(self, other: int, than: int) -> bool:
        """Tell whether one noted circuit is at least as near to 1 as another, by their places."""
        return far(self.curve[other]) <= far(self.curve[than])

    def block(self, chosen: int, end: str) -> dict[str, Any]:
        """Return what a file says: the pairs, every circuit noted, the one returned, and why.

        `end`: why no smaller circuits were looked for.
        """
        one, best = self.curve[chosen], self.curve[best_of(self.curve)]
        why = f"of {len(self.curve)} circuits none is nearer to 1"
        if one.edges < best.edges:
            why = (
                f"{best.edges:,} edges ({best.held_out:.3f}) are nearer to 1, but by no more than "
                "a standard error"
            )
        return {
            "pairs": len(self.judge.pairs),
            "searched": len(self.search.pairs),
            "words": self.words,
            "edges": one.edges,
            "held_out": one.held_out,
            "why": f"{why}; {end}",
            "curve": [one.as_dict() for one in self.curve],
        }

    def _error(self, a: int, b: int) -> float:
        """Return the standard error of the difference of two circuits' faithfulness."""
        full, empty = self._ends[1]
        each = (self._values[a] - self._values[b]) / abs(full - empty)
        found = standard_error(each, clusters_of(self.judge.pairs.groups))
        return found if np.isfinite(found) else 0.0

    def drifted(self, loss: float, circuit: Circuit) -> float:
        """Return a search's loss as one of all pairs, off by as much as it is off on its own."""
        return self.whole.loss(circuit) + loss - self.search.loss(circuit)


def far(noted: Noted) -> float:
    """Return how far a circuit is from the whole model on the pairs kept from the search."""
    return abs(1 - noted.held_out)


def best_of(curve: Sequence[Noted]) -> int:
    """Return the place of the circuit nearest to 1; of equals that of fewest edges."""
    return min(range(len(curve)), key=lambda i: (far(curve[i]), curve[i].edges))


def smallest_as_good(curve: Sequence[Noted], error: Callable[[int, int], float]) -> int:
    """Return the place of the smallest circuit that is as good as the best.

    `error`: the standard error of the difference of two, by their places.

    >>> curve = [Noted(9, 1.3, 0.96), Noted(5, 1.1, 0.9), Noted(3, 1.0, 0.7), Noted(2, 0.7, 0.75)]
    >>> smallest_as_good(curve, lambda a, b: 0.1), smallest_as_good(curve, lambda a, b: 0.3)
    (1, 3)
    """
    best, least = best_of(curve), np.inf
    for place in sorted(range(len(curve)), key=lambda i: (curve[i].edges, far(curve[i]))):
        now = far(curve[place])
        if now < least and now <= far(curve[best]) + error(place, best):
            return place
        least = min(least, now)
    return best


def stopped(discovery: object) -> str | None:
    """Say where a search stopped and why, from what a file says of its discovery."""
    block = discovery.get(KEY) if isinstance(discovery, dict) else None
    if not isinstance(block, dict):
        return None
    return (
        f"at {block['edges']:,} edges, {block['held_out']:.3f} on {block['pairs']} pairs kept from "
        f"the search: {block['why']}"
    )
