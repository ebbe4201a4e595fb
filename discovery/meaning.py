"""What must be said of a result that cannot tell edges apart, beside its numbers.

* Scores that are all 0, and searches by a metric that is the same for the full and for the empty
  circuit, but for rounding, say nothing of any edge.
* A selection that keeps edges of score 0, or cuts inside a tie, is not made by the scores alone.
* A circuit in which no way of kept edges leads from the embedding to the logits carries nothing of
  the prompt; one whose faithfulness is far above 1 does more than the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..graphs.levels.nodes import EDGE
from .evaluation import measured_ends

if TYPE_CHECKING:
    from ..graphs.circuit import Circuit
    from ..graphs.scores import Scores
    from ..patching.run.runner import Runner

LARGE, MANY = 0.1, 1000
"""Of which share of a graph's edges, and of how many, a circuit is no small part."""

OVERSHOOT = 1.1
"""Faithfulness above which a circuit is said to do more than the model."""

RULE = "earlier in the graph"
"""Which of the edges that tie at the cut are kept."""


class Meaningless(UserWarning):
    """A result that cannot tell edges apart."""


def doubt(runner: Runner, scores: Scores, searched: bool) -> str | None:
    """Say why what a method found, a circuit if it `searched`, cannot mean anything; or None."""
    values = scores.values[~np.isnan(scores.values)].astype(np.float64)
    remedy = (
        f"accepted: a metric, prompts or an ablation (here {runner.ablation.name}) with which "
        "ablating edges changes something."
    )
    if searched:
        full, empty = measured_ends(runner)
        if abs(full - empty) > runner.floor:
            return None
        return (
            f"the metric '{runner.metric.name}' is {full:.4g} for the full and for the empty "
            f"circuit (apart by no more than rounding, {runner.floor:.1g}), so the edges found "
            f"mean nothing; {remedy}"
        )
    if len(values) and np.abs(values).sum() > runner.floor:
        return None
    return (
        f"every edge has the score 0 by the metric '{runner.metric.name}', but for rounding, so "
        f"that no edge can be told from another; {remedy}"
    )


@dataclass(frozen=True)
class Ties:
    """How many edges have the score at which a selection cuts, and how many of them are kept."""

    score: float
    edges: int
    kept: int

    def as_dict(self) -> dict[str, object]:
        """Return what a circuit file says of it."""
        return {**vars(self), "rule": RULE}


def ties(scores: Scores, circuit: Circuit, *, absolute: bool) -> Ties | None:
    """Return what ties at the cut that keeps as many edges of largest score; None if nothing."""
    cut = scores.cut(scores.count(circuit), absolute=absolute)
    return Ties(cut.score, cut.tied, cut.taken) if cut.tied > cut.taken > 0 else None


def doubts_of_selection(
    scores: Scores, circuit: Circuit, tied: Ties | None, *, signed: bool = False
) -> list[str]:
    """Say what in a selection the scores did not decide; of one by `signed` score if it is dead.

    Of nodes too: without the embedding among them no edge carries anything.
    """
    at_risk = signed or scores.level != EDGE
    if at_risk and len(circuit) and not len(circuit.prune_dangling()):
        return [
            f"no way of kept edges leads from the embedding to the logits, so the "
            f"{len(circuit):,} edges kept carry nothing of the prompt; keep more {scores.level}s, "
            "or count only those on such ways (`connected`)."
        ]
    zeros, kept, what = _zeros(scores, circuit), scores.count(circuit), f"{scores.level}s"
    if zeros:
        return [
            f"{zeros:,} of the {kept:,} {what} kept have the score 0: only "
            f"{kept - zeros:,} have another. Those of score 0 are kept because they stand "
            f"{RULE}, not because they matter; ask for fewer {what}."
        ]
    if tied is not None:
        return [
            f"{tied.edges:,} {what} tie at the score {tied.score:.4g}, where the selection cuts; "
            f"{tied.kept:,} of them are kept, those that stand {RULE}."
        ]
    return []


def _zeros(scores: Scores, circuit: Circuit) -> int:
    """Count the edges, or nodes, of a circuit whose score is 0."""
    zero = circuit.kept & (scores.values == 0)
    return int(zero.sum() if scores.level == EDGE else zero.any(0).sum())


def doubts_of_size(faithfulness: float | None, kept: int = 0, edges: int = 1) -> list[str]:
    """Say of a circuit, of so many of a graph's edges, what its faithfulness alone does not.

    >>> doubts_of_size(1.05), len(doubts_of_size(2.0)), len(doubts_of_size(0.9, 20_000, 100_000))
    ([], 1, 1)
    """
    said = []
    if faithfulness is not None and faithfulness > OVERSHOOT:
        said.append(
            f"the circuit's faithfulness is {faithfulness:.3g}: it does more than the model, as "
            "edges that work against the behaviour are left out. That is overshoot and no merit; "
            "fewer edges may do."
        )
    if kept > MANY and kept > LARGE * edges:
        said.append(
            f"the circuit has {kept:,} edges, {kept / edges:.0%} of all: by these scores no small "
            "circuit does so much of the behaviour. A given number of edges (top, signed and "
            "connected) does less of it; a method that measures (refine) may do it with fewer."
        )
    return said
