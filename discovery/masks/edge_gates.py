"""Gates of edges: which edges have one, where they begin, and the circuit they end as."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Annotated

import numpy as np

from ...graphs.errors import EdgewiseError
from ...graphs.scores import Scores
from ..meaning import Meaningless
from ..registry import Option, scoring_method

if TYPE_CHECKING:
    from ...graphs.circuit import Circuit
    from ...patching.run.runner import Progress, Runner

USUAL = 200


@dataclass(frozen=True)
class Size:
    """How large a circuit of edges is to be, and which edges cannot be in it."""

    edges: Annotated[int, Option("most edges to keep", 1)] = USUAL
    sparsity: Annotated[
        float, Option("which part of all edges to ablate, in place of `edges`; 0: not said", 0, 1)
    ] = 0.0
    freeze: Annotated[
        float,
        Option("which part of all edges, those of least |score|, never get a gate", 0, 1),
    ] = 0.0

    def __post_init__(self) -> None:
        if self.sparsity and self.edges != USUAL:
            raise EdgewiseError(
                f"sparsity {self.sparsity:g} and {self.edges:,} edges are both given; accepted: "
                "one of them."
            )
        if 1 in (self.sparsity, self.freeze):
            which = "sparsity" if self.sparsity == 1 else "freeze"
            raise EdgewiseError(f"{which} is 1, which leaves no edge; accepted: less.")

    def number(self, total: int) -> int:
        """Return how many edges are wanted of so many.

        >>> Size(sparsity=0.98).number(32_491), Size(edges=5).number(3)
        (650, 3)
        """
        wanted = round((1 - self.sparsity) * total) if self.sparsity else self.edges
        return max(1, min(total, wanted))


USUAL_SIZE = Size()


@dataclass(frozen=True, eq=False)
class EdgeGates:
    """The gates of a graph's edges; `movable`: of those that have one, bool [ports, senders].

    `order`: where scores tell how the gates begin, each such edge's place from 0 (the largest
    |score|) to 1, [n].
    """

    runner: Runner
    wanted: int
    movable: np.ndarray
    order: np.ndarray | None = None

    @cached_property
    def count(self) -> int:
        """Return how many gates there are, n."""
        return int(self.movable.sum())

    def begin(self, most: float) -> np.ndarray:
        """Return the log-odds that gates begin with, [n]: `most`, or down to −most by `order`."""
        return np.full(self.count, most) if self.order is None else most * (1 - 2 * self.order)

    def spread(self, gates: np.ndarray) -> np.ndarray:
        """Put gates [n] where their edges are, [ports, senders]; the others are shut."""
        found = np.zeros(self.movable.shape)
        found[self.movable] = gates
        return found

    def scores(self, ranks: np.ndarray) -> Scores:
        """Return the scores of all edges, [n]; of those without a gate 0."""
        return Scores(self.runner.graph, self.spread(ranks))

    def circuit(self, ranks: np.ndarray) -> Circuit:
        """Keep the edges of largest rank, as many as leave those wanted when none dangles."""
        found = np.full(self.movable.shape, np.nan)
        found[self.movable] = ranks
        return Scores(self.runner.graph, found).top(self.wanted, absolute=False, connected=True)


def edge_gates(
    runner: Runner,
    size: Size,
    start: Scores | None = None,
    progress: Progress | None = None,
) -> EdgeGates:
    """Return gates of all edges but those frozen; `start`: scores that say how they begin.

    Without these, where edges are to be frozen, they are those of the method that stands in.
    """
    graph = runner.graph
    wanted = size.number(graph.edge_count)
    if start is None and not size.freeze:
        return EdgeGates(runner, wanted, graph.reads)
    scores = _usual_scores(runner, progress) if start is None else start
    runner.require_graph(scores.graph, "the start")
    strength = np.nan_to_num(np.abs(scores.values[graph.reads]), nan=-1.0, posinf=np.inf)
    place = np.empty(len(strength))
    place[np.argsort(-strength, kind="stable")] = np.arange(len(strength))
    left = max(1, round((1 - size.freeze) * graph.edge_count))
    if left < wanted:
        raise EdgewiseError(
            f"freeze {size.freeze:g} leaves {left:,} of {graph.edge_count:,} edges, and {wanted:,} "
            f"are to be kept; accepted: less than {1 - wanted / graph.edge_count:.3g}."
        )
    movable = np.zeros_like(graph.reads)
    movable[graph.reads] = place < left
    return EdgeGates(runner, wanted, movable, place[place < left] / max(1, left - 1))


def _usual_scores(runner: Runner, progress: Progress | None) -> Scores:
    method = scoring_method()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Meaningless)  # said of the method that was asked for
        found = method(
            replace(runner, engine=method.engine(runner)), progress, None, None, False,
            **method.suited(runner.ablation),
        )  # fmt: skip
    return found.scores
