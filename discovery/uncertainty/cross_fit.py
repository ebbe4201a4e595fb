"""How many edges keep a behaviour on prompts that their scores are not of?

Edges chosen and measured on the same pairs look better than they are, and a size that is fitted to
the pairs which a report then measures is no held-out size. So the discovery's own pairs are cut
into two halves, and each half is measured with the circuit that the scores of the other give:

1. Cut the pairs in two by their groups (templates); one group alone is cut in the middle.
2. f(k) = (m(k) − m(∅)) / (m(full) − m(∅)), where m(k) is the mean over all pairs of what the top-k
   circuit of the *other* half's scores measures on each.
3. The least k found with f(k) ≥ target (doubled until it is reached, then the interval is halved)
   gives the circuit: the top k by the scores of all pairs.
4. By signed scores f need not reach the target: circuits without the edges that hold an answer back
   can be worse on other pairs the larger they are, and from the last edge of positive score on only
   edges that do harm are added. Then edges are chosen by |score|, which ends at the whole model.

Scores of all pairs are less noisy than those of a half, so the circuit is, if anything, better than
f(k) says. No pair held out for the report is looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..evaluation import different_ends, ratio
from ..smallest import least_size
from .bootstrap import dealt_in_two

if TYPE_CHECKING:
    from ...graphs.circuit import Circuit
    from ...graphs.example_scores import ExampleScores
    from ...graphs.scores import Scores
    from ...patching.prompts.pairs import PromptPairs
    from ...patching.run.runner import Progress, Runner

LEAST_PAIRS = 8
"""Of fewer, a half says too little: the size is chosen on the pairs themselves."""


@dataclass(frozen=True)
class Fitted:
    """A circuit, what it reached where its size was chosen, and how many halves that was on.

    `halves`: 2, or 1 where there were too few pairs to cut. `signed`: whether it is by signed
    score; `best_signed`: what the best size tried by signed score reached, where that was too
    little.
    """

    circuit: Circuit
    faithfulness: float
    halves: int
    signed: bool = False
    best_signed: float | None = None

    def as_dict(self) -> dict[str, object]:
        """Return what a circuit file says of it."""
        found: dict[str, object] = {"faithfulness": self.faithfulness, "halves": self.halves}
        best = {} if self.best_signed is None else {"best_signed": self.best_signed}
        return {**found, "signed": self.signed, **best}


def halves(clusters: np.ndarray) -> np.ndarray:
    """Tell of each example whether it is in the second half; whole clusters stay together.

    If that leaves less than a third of the examples in one half, they are dealt out one by one.

    >>> halves(np.array([0, 0, 0, 1, 1, 2])).tolist()
    [False, False, False, True, True, True]
    >>> halves(np.array([0, 0, 0, 0])).tolist()
    [False, True, False, True]
    """
    second = dealt_in_two(clusters)
    if 3 * min(second.sum(), (~second).sum()) < len(clusters):
        second[:] = np.arange(len(clusters)) % 2 == 1
    return second


def fewest(
    runner: Runner,
    examples: ExampleScores,
    target: float,
    *,
    absolute: bool = True,
    connected: bool = False,
    progress: Progress | None = None,
) -> Fitted:
    """Find few edges, of largest score, that reach a faithfulness on pairs not scored.

    Args:
        examples: the scores of the runner's pairs, one by one.
        target: what the circuits of each half's scores have to reach on the other half.
        absolute, connected: as in `Scores.top`.

    Raises:
        EdgewiseError: the full and the empty circuit measure the same.
    """
    full, empty = different_ends(runner)
    least = target - runner.floor / abs(full - empty)
    scores = examples.mean()
    parts: list[tuple[Runner, Scores]] = [(runner, scores)]
    if len(runner.pairs) >= LEAST_PAIRS:
        second = halves(examples.clusters)
        parts = [
            (_on(runner, np.flatnonzero(mine)), examples.chosen(np.flatnonzero(~mine)).mean())
            for mine in (~second, second)
        ]
    asked = 0

    def search(absolute: bool, limit: int) -> tuple[int, dict[int, float]]:
        found: dict[int, float] = {}

        def reached(k: int) -> bool:
            nonlocal asked
            asked += 1
            if progress is not None:
                progress(asked, 2 * limit.bit_length(), f"sizes tried, {k} {scores.level}s")
            total = sum(
                len(part.pairs) * float(part.measure([_top(its, k, absolute, connected)])[0, 0])
                for part, its in parts
            )
            found[k] = ratio(total / len(runner.pairs), full, empty) or 0.0
            return found[k] >= least

        k = least_size(reached, limit)
        if k not in found:
            reached(k)
        return k, found

    best = None
    if not absolute:
        k, tried = search(False, max(1, scores.positive))
        if tried[k] >= least:
            circuit = _top(scores, k, False, connected)
            return Fitted(circuit, tried[k], len(parts), signed=True)
        best = max(tried.values())
    k, tried = search(True, scores.units)
    circuit = _top(scores, k, True, connected)
    return Fitted(circuit, tried[k], len(parts), best_signed=best)


def _top(scores: Scores, k: int, absolute: bool, connected: bool) -> Circuit:
    """Return the k edges of largest score, without those on no way if they are not to count."""
    circuit = scores.top(k, absolute=absolute)
    return circuit.prune_dangling() if connected else circuit


def _on(runner: Runner, rows: np.ndarray) -> Runner:
    """Return the runner for some of its pairs, by their places."""
    from dataclasses import replace

    chosen = tuple(runner.pairs.pairs[i] for i in rows.tolist())
    return on_pairs(runner, replace(runner.pairs, pairs=chosen))


def on_pairs(runner: Runner, pairs: PromptPairs) -> Runner:
    """Return the runner for some of its pairs, whose ablation takes its values as before."""
    from ...patching.run.runner import Runner

    return Runner.create(
        runner.model, pairs, metric=runner.metric, ablation=runner.ablation,
        batch_size=min(runner.batch_size, len(pairs)), reference=runner.reference,
        engine=runner.engine,
    )  # fmt: skip
