"""UGS: uniform gradient sampling (Li and Janson 2024).

1. Each edge is in the circuit with probability θ, the logistic function of a parameter. At each
   update draw some masks, each for a part of the minibatch: with probability w = θ(1 − θ) an edge's
   gate m is drawn evenly from [0, 1]; else it is 1 with probability θ − w/2, and 0.
2. Take the loss, and its gradient in each gate that was drawn evenly. Its mean over m is what the
   loss gains by the whole edge, so that w times it, as often as it is drawn, is the slope in θ's
   parameter.
3. Add `price` for each edge, as often as it is in the circuit. Go down the slope.
4. Keep the wanted number of edges of largest θ, without those that dangle.

An edge's score is −log(1 − θ). With scores to start from, θ begins the larger, the larger |score|
is, and `freeze` leaves out the edges of the least.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np

from ..registry import Discovery, Option, Options, Page, method
from .edge_gates import USUAL_SIZE, EdgeGates, Size, edge_gates
from .hard_concrete import rank_of, sigmoid
from .training import USUAL_TRAINING, GatedLoss, Seen, Training, train

if TYPE_CHECKING:
    from ...graphs.circuit import Circuit
    from ...graphs.scores import Scores
    from ...patching.run.runner import Progress, Runner
    from ..journal import Journal
    from .adam import Arrays

BEGIN = 1.0
"""Where the log-odds of edges begin: θ is .73, and every fifth gate is drawn evenly."""

GATES = "log_odds"


@dataclass(frozen=True)
class UniformDraws:
    """How many masks are drawn, and how their edges' probabilities move."""

    price: Annotated[
        float, Option("what is added to the loss for what is open: per edge, or for all nodes", 0)
    ] = 1e-3
    masks: Annotated[int, Option("how many masks an update draws", 1, 1024)] = 4
    rate: Annotated[float, Option("how far an update moves a gate's log-odds at most", 0)] = 0.2


@method(
    "ugs",
    summary="learn each edge's probability to be in the circuit from masks drawn by it",
    selects=True,
    page=Page(
        (
            "Give every edge a probability θ to be in the circuit. Draw masks: with probability "
            "w = θ(1 − θ) a gate is drawn evenly from [0, 1], else it is 1 with probability "
            "θ − w/2, and 0.",
            "Take the loss at each mask on its part of the minibatch. Its gradient in the gates "
            "that were drawn evenly is, on average, the slope in θ's log-odds.",
            "Add `price` times θ for each edge, and go down the slope.",
            "Keep the wanted number of edges of largest θ. An edge's score is −log(1 − θ).",
        ),
        "Li and Janson 2024, Optimal ablation for interpretability (their UGS)",
        "about 6 forward passes of the minibatch for each update",
        "For comparison with published circuits, and where what an edge is worth should be judged "
        "beside many different others.",
    ),
    gradient="path",
    engines=("torch", "jax"),
)
def ugs(
    runner: Runner,
    *,
    size: Annotated[Size, Options()] = USUAL_SIZE,
    drawing: Annotated[UniformDraws, Options()] = UniformDraws(),
    training: Annotated[Training, Options()] = USUAL_TRAINING,
    start: Scores | None = None,
    progress: Progress | None = None,
    journal: Journal | None = None,
) -> Discovery:
    """Learn which edges to keep; scores rank all edges by their probability to be kept."""
    gates = edge_gates(runner, size, start, progress)
    learner = UniformSampling(gates, drawing.price, {GATES: drawing.rate}, drawing.masks)
    return train(learner, runner, training, progress, journal)


@dataclass(frozen=True, eq=False)
class UniformSampling:
    """What is trained; see `training.Learner`."""

    gates: EdgeGates
    price: float
    rates: Mapping[str, float]
    drawn: int

    def begin(self) -> Arrays:
        """Return equal log-odds, or the larger the earlier an edge stands."""
        return {GATES: self.gates.begin(BEGIN)}

    def update(
        self, at: Arrays, done: float, draw: np.random.Generator, losses: Sequence[GatedLoss]
    ) -> tuple[Seen, Arrays]:
        """Ask for the loss at a mask for each part of the minibatch."""
        chance = sigmoid(at[GATES])
        evenly = chance * (1 - chance)
        slope, total = self.price * evenly, 0.0
        for loss_of in losses:
            drawn, even = masks_of(chance, draw)
            loss, slopes = loss_of(self.gates.spread(drawn))
            slope = slope + np.where(even, slopes[self.gates.movable], 0.0) / len(losses)
            total += loss / len(losses)
        return Seen(total, float(chance.sum())), {GATES: slope}

    def scores(self, at: Arrays) -> Scores:
        """Rank every edge."""
        return self.gates.scores(rank_of(at[GATES]))

    def circuit(self, at: Arrays) -> Circuit:
        """Keep the edges wanted."""
        return self.gates.circuit(rank_of(at[GATES]))


def masks_of(chance: np.ndarray, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw gates of edges that are in the circuit by some chance, and tell which evenly.

    >>> gates, even = masks_of(np.full(100_000, 0.8), np.random.default_rng(0))
    >>> shares = [even.mean(), (gates == 1).mean(), (gates == 0).mean(), gates.mean()]
    >>> [round(float(x), 2) for x in shares]
    [0.16, 0.72, 0.12, 0.8]
    """
    evenly = chance * (1 - chance)
    which, where = draw.random(len(chance)), draw.random(len(chance))
    even = which < evenly
    open_ = ~even & (which < evenly + chance - evenly / 2)
    return np.where(even, where, open_), even
