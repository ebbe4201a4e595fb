"""Edge Pruning: gates of all edges learned together (Bhaskar et al. 2024).

1. Give each edge a hard concrete gate, which begins nearly open: u→p carries m o_u + (1 − m) a_u.
2. At each update draw all gates, take the loss on a minibatch (by default the divergence of the
   full model's outputs from the circuit's) and its gradient in every gate.
3. Add λ₁ (s − t) + λ₂ (s − t)², with s the part of all edges expected to be shut and t the part
   that is to be shut by then: t grows evenly over `warmup` of the training to what is wanted, and
   stays. Gates go down the slope of the sum, λ₁ and λ₂ up.
4. Keep the wanted number of edges whose gates are most surely open, without those that dangle.

An edge's score is −log of the probability that its gate is shut. With scores to start from, gates
begin the more open the larger |score| is, and `freeze` leaves out the edges of the least.

The paper learns a second set of gates, of nodes, on some tasks; here edges alone have gates. Its
GPT-2 runs take 3,000 updates of 32 pairs at a rate of 0.8, and λ₂ begins at 0 there. With some
hundred updates s would run away from t and back, so here λ₂ begins at `stiff` times the number of
edges, times the loss that there is to lose: that of no edge less that of all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np

from ..evaluation import measured_ends
from ..registry import Discovery, Option, Options, Page, method
from .edge_gates import USUAL_SIZE, EdgeGates, Size, edge_gates
from .hard_concrete import BEGIN, SHUT, chance_open, draw_uniform, gates_of, rank_of
from .training import USUAL_TRAINING, GatedLoss, Seen, Training, train

if TYPE_CHECKING:
    from ...graphs.circuit import Circuit
    from ...graphs.scores import Scores
    from ...patching.run.runner import Progress, Runner
    from ..journal import Journal
    from .adam import Arrays

GATES, PULL = "log_alpha", "lambda"

FAR, FASTEST = 24.0, 0.4
"""How far a gate's log-odds may move in a training, of whatever length, and in an update, unless a
rate is given."""

PULL_RATE = 0.8
"""How far an update moves λ₁ and λ₂ at most, as in the paper."""


@dataclass(frozen=True)
class Holding:
    """How gates move, and how they are held to the sparsity that is wanted."""

    warmup: Annotated[
        float, Option("in which part of the training the sparsity grows to the wanted one", 0, 1)
    ] = 0.8
    rate: Annotated[
        float,
        Option("how far an update moves a gate's log-odds at most; 0: what suits its length", 0),
    ] = 0.0
    stiff: Annotated[
        float,
        Option("how firmly the sparsity is held from the first update on; 0: as published", 0),
    ] = 0.07


@method(
    "edge-pruning",
    summary="learn a gate for every edge, all together, at a sparsity that grows to the wanted one",
    selects=True,
    page=Page(
        (
            "Give every edge a hard concrete gate, which begins nearly open: it carries "
            "m o_u + (1 − m) a_u.",
            "At each update draw all gates; take the loss on a minibatch, and its gradient in each "
            "gate from the gradients at ports. Gates go down it.",
            "A Lagrangian holds the part of edges that are shut to one that grows, over `warmup` "
            "of the training, to what is wanted; it is stiff from the first update on, so that a "
            "few hundred are enough.",
            "Keep the wanted number of edges whose gates are most surely open. An edge's score is "
            "−log of the probability that its gate is shut.",
        ),
        "Bhaskar, Wettig, Friedman and Chen 2024, Finding transformer circuits with edge pruning; "
        "gates of Louizos, Welling and Kingma 2018",
        "about 6 forward passes of the minibatch for each update",
        "Where a circuit of some hundred edges and more is to be as near to the model as it can, "
        "and minutes do not matter: all edges are chosen together. Ask for several `trainings`, as "
        "circuits depend on what is drawn. Too few updates leave a circuit worse than a cheap "
        "method's: on SmolLM2-135M 120 were enough, and 60 from given scores were not.",
    ),
    gradient="path",
    engines=("torch", "jax"),
)
def edge_pruning(
    runner: Runner,
    *,
    size: Annotated[Size, Options()] = USUAL_SIZE,
    holding: Annotated[Holding, Options()] = Holding(),
    training: Annotated[Training, Options()] = USUAL_TRAINING,
    start: Scores | None = None,
    progress: Progress | None = None,
    journal: Journal | None = None,
) -> Discovery:
    """Learn which edges to keep; scores rank all edges by how surely their gates are open."""
    gates = edge_gates(runner, size, start, progress)
    full, empty = measured_ends(runner)
    firm = holding.stiff * abs(full - empty) * runner.graph.edge_count
    rates = {GATES: holding.rate or min(FASTEST, FAR / training.updates), PULL: -PULL_RATE}
    learner = EdgePruning(gates, holding.warmup, rates, firm)
    return train(learner, runner, training, progress, journal)


@dataclass(frozen=True, eq=False)
class EdgePruning:
    """What is trained; see `training.Learner`."""

    gates: EdgeGates
    warmup: float
    rates: Mapping[str, float]
    firm: float = 0.0
    drawn: int = 1

    def begin(self) -> Arrays:
        """Return gates that are nearly open, or the more the earlier they stand, and λ₁ and λ₂."""
        return {GATES: self.gates.begin(BEGIN), PULL: np.array([0.0, self.firm])}

    def update(
        self, at: Arrays, done: float, draw: np.random.Generator, losses: Sequence[GatedLoss]
    ) -> tuple[Seen, Arrays]:
        """Ask for the loss at gates that are drawn once for the minibatch."""
        total = self.gates.runner.graph.edge_count
        drawn, slopes = gates_of(at[GATES], draw_uniform(draw, self.gates.count))
        loss, of_gates = losses[0](self.gates.spread(drawn))
        chance, of_chance = chance_open(at[GATES])
        wanted = self.wanted(done)
        gap = (wanted - chance.sum()) / total
        weight = at[PULL][0] + 2 * at[PULL][1] * gap
        slope = of_gates[self.gates.movable] * slopes - weight * of_chance / total
        seen = Seen(loss, float(chance.sum()), wanted)
        return seen, {GATES: slope, PULL: np.array([gap, gap**2])}

    def wanted(self, done: float) -> float:
        """Return how many edges are to be open when a part of the training is done."""
        first = float(chance_open(self.begin()[GATES])[0].sum())
        share = min(1.0, done / self.warmup) if self.warmup else 1.0
        return first + share * (self.gates.wanted - first)

    def _ranks(self, at: Arrays) -> np.ndarray:
        return rank_of(at[GATES] - SHUT)

    def scores(self, at: Arrays) -> Scores:
        """Rank every edge."""
        return self.gates.scores(self._ranks(at))

    def circuit(self, at: Arrays) -> Circuit:
        """Keep the edges wanted."""
        return self.gates.circuit(self._ranks(at))
