"""Subnetwork probing: gates of nodes learned together (Cao, Sanh and Rush 2021).

1. Give each head and MLP a hard concrete gate, which begins nearly open: all its edges out carry
   m o_u + (1 − m) a_u.
2. At each update draw all gates, and take the loss on a minibatch with its gradient in every gate:
   the sum of those of a node's edges.
3. Add `price` times the part of all nodes that is expected to be open. Go down the slope.
4. Keep the `nodes` whose gates are most surely open, or all that are likelier open than shut, with
   every edge between two of them, from the embedding and to the logits; drop what dangles.

An edge's score is that of the less surely open of its two nodes, −log of the probability that its
gate is shut. The paper gates single weights and neurons; nodes follow Conmy et al. 2023, who
compare it with ACDC.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated

import numpy as np

from ...graphs.circuit import Circuit
from ...graphs.errors import EdgewiseError
from ...graphs.names import Kind
from ...graphs.scores import Scores
from ..registry import Discovery, Option, Options, Page, method
from .hard_concrete import BEGIN, SHUT, chance_open, draw_uniform, gates_of, rank_of
from .training import USUAL_TRAINING, GatedLoss, Seen, Training, train

if TYPE_CHECKING:
    from ...graphs.graph import ComputationGraph
    from ...patching.run.runner import Progress, Runner
    from ..journal import Journal
    from .adam import Arrays

GATES = "log_alpha"


@dataclass(frozen=True)
class Keeping:
    """How many nodes are kept, and how their gates move."""

    nodes: Annotated[
        int, Option("heads and MLPs to keep; 0: those that are likelier open than shut", 0)
    ] = 0
    price: Annotated[
        float, Option("what is added to the loss for what is open: per edge, or for all nodes", 0)
    ] = 1.0
    rate: Annotated[float, Option("how far an update moves a gate's log-odds at most", 0)] = 0.1


@method(
    "subnetwork-probing",
    summary="learn a gate for every head and MLP, all together",
    selects=True,
    page=Page(
        (
            "Give every head and MLP a hard concrete gate, which begins nearly open: all its edges "
            "out carry m o_u + (1 − m) a_u.",
            "At each update draw all gates; take the loss on a minibatch, and its gradient in each "
            "gate, the sum of those of its edges.",
            "Add `price` times the part of nodes that are open, and go down the slope.",
            "Keep the nodes whose gates are most surely open, with every edge between them. An "
            "edge's score is that of the less sure of its two nodes, −log P(shut).",
        ),
        "Cao, Sanh and Rush 2021, Low-complexity probing via finding subnetworks; gates of nodes "
        "as in Conmy et al. 2023",
        "about 6 forward passes of the minibatch for each update",
        "Where whole heads and MLPs are to be chosen. Its circuits have many edges: every one "
        "between two nodes that are kept.",
    ),
    gradient="path",
    engines=("torch", "jax"),
)
def subnetwork_probing(
    runner: Runner,
    *,
    keeping: Annotated[Keeping, Options()] = Keeping(),
    training: Annotated[Training, Options()] = USUAL_TRAINING,
    start: Scores | None = None,
    progress: Progress | None = None,
    journal: Journal | None = None,
) -> Discovery:
    """Learn which nodes to keep; scores rank all edges by their less surely open node."""
    if start is not None:
        runner.require_graph(start.graph, "the start")
    gated = int(gated_nodes(runner.graph).sum())
    if keeping.nodes > gated:
        raise EdgewiseError(
            f"{keeping.nodes:,} nodes are asked for, and the graph has {gated:,} heads and MLPs; "
            f"accepted: 0 to {gated:,}."
        )
    learner = SubnetworkProbing(
        runner.graph, keeping.nodes, keeping.price, {GATES: keeping.rate}, start
    )
    return train(learner, runner, training, progress, journal)


@dataclass(frozen=True, eq=False)
class SubnetworkProbing:
    """What is trained; see `training.Learner`."""

    graph: ComputationGraph
    nodes: int
    price: float
    rates: Mapping[str, float]
    start: Scores | None = None
    drawn: int = 1

    @cached_property
    def gated(self) -> np.ndarray:
        """Tell which senders have a gate."""
        return gated_nodes(self.graph)

    def begin(self) -> Arrays:
        """Return gates that are nearly open, or the more the larger a node's |scores| add up to."""
        log_alpha = np.full(int(self.gated.sum()), BEGIN)
        if self.start is not None:
            strength = np.nan_to_num(self.start.by_sender(absolute=True)[self.gated])
            order = np.empty(len(strength))
            order[np.argsort(-strength, kind="stable")] = np.linspace(0, 1, len(strength))
            log_alpha = BEGIN * (1 - order)
        return {GATES: log_alpha}

    def update(
        self, at: Arrays, done: float, draw: np.random.Generator, losses: Sequence[GatedLoss]
    ) -> tuple[Seen, Arrays]:
        """Ask for the loss at gates that are drawn once for the minibatch."""
        drawn, slopes = gates_of(at[GATES], draw_uniform(draw, len(at[GATES])))
        gates = self.graph.reads.astype(np.float64)
        gates[:, self.gated] *= drawn
        loss, of_gates = losses[0](gates)
        chance, of_chance = chance_open(at[GATES])
        own = (of_gates * self.graph.reads).sum(0)[self.gated]
        slope = own * slopes + self.price * of_chance / len(chance)
        return Seen(loss, float(chance.sum())), {GATES: slope}

    def scores(self, at: Arrays) -> Scores:
        """Rank every edge by the less surely open of its nodes."""
        return Scores(self.graph, self._of_edges(rank_of(at[GATES] - SHUT)))

    def circuit(self, at: Arrays) -> Circuit:
        """Keep every edge between nodes that are kept."""
        ranks = at[GATES] - SHUT
        if self.nodes:
            kept = np.zeros(len(ranks))
            kept[np.argsort(-ranks, kind="stable")[: self.nodes]] = 1
        else:
            kept = (ranks > 0).astype(np.float64)
        found = self._of_edges(kept, always=1.0)
        return Circuit(self.graph, self.graph.reads & (found > 0)).prune_dangling()

    def _of_edges(self, ranks: np.ndarray, always: float | None = None) -> np.ndarray:
        """Return the lesser rank of each edge's two nodes; of those without a gate, `always`."""
        most = float(ranks.max(initial=0.0)) if always is None else always
        of_senders = np.full(len(self.graph.senders), most)
        of_senders[self.gated] = ranks
        of_ports = np.array(
            [of_senders[list(own)].max() if own else most for own in self.graph.feeds]
        )
        found: np.ndarray = np.minimum(of_ports[:, None], of_senders[None])
        return found


def gated_nodes(graph: ComputationGraph) -> np.ndarray:
    """Tell which senders are heads, mixers or MLPs, bool [senders]."""
    return np.array([one.layer is not None and one.kind is not Kind.POST for one in graph.senders])
