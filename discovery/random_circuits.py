"""Random circuits of a given size, as a baseline of faithfulness, and circuits made larger.

A circuit is held against circuits that keep, of every kind of port (q, k, v, MLP, logits), the same
number of edges, drawn uniformly. Its percentile says how many of them it beats: a circuit that does
not stand far above them is no better found than drawn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from typing_extensions import NotRequired, TypedDict

from ..graphs.circuit import Circuit
from ..graphs.errors import EdgewiseError
from ..graphs.example_scores import clusters_of
from .evaluation import different_ends, measured_together, ratio
from .uncertainty.bootstrap import UNDEFINED, Estimate, defined
from .uncertainty.draws import median_estimate, share_interval

if TYPE_CHECKING:
    from ..graphs.graph import ComputationGraph
    from ..patching.run.runner import Progress, Runner


def random_circuit(
    graph: ComputationGraph, counts_by_kind: Mapping[str, int], seed: int
) -> Circuit:
    """Draw a circuit that keeps a given number of edges of every kind of port.

    >>> from edgewise.graphs.graph import ComputationGraph
    >>> graph = ComputationGraph(layers=2, heads=2)
    >>> circuit = random_circuit(graph, {"q": 3, "mlp": 1}, seed=0)
    >>> graph.count_by_kind(circuit.kept)
    {'q': 3, 'k': 0, 'v': 0, 'mlp': 1, 'logits': 0}
    """
    draw = np.random.default_rng(seed)
    kinds = np.array([port.kind for port in graph.ports])
    kept = np.zeros(graph.reads.size, dtype=bool)
    total = graph.count_by_kind()
    for kind, count in sorted(counts_by_kind.items()):
        if not 0 <= count <= total.get(kind, 0):
            raise EdgewiseError(
                f"no random circuit keeps {count} edges into ports of kind {kind}; accepted: 0 to "
                f"{total.get(kind, 0)}."
            )
        edges = np.flatnonzero(graph.reads & (kinds == kind)[:, None])
        kept[draw.choice(edges, size=count, replace=False)] = True
    return Circuit(graph, kept.reshape(graph.reads.shape))


def random_circuits(
    graph: ComputationGraph, counts_by_kind: Mapping[str, int], number: int, seed: int = 0
) -> list[Circuit]:
    """Draw circuits, of which the first are the same for any number."""
    return [random_circuit(graph, counts_by_kind, seed + i) for i in range(number)]


def inflated(circuit: Circuit, seed: int) -> tuple[Circuit, tuple[int, int]]:
    """Put a random edge that a circuit lacks into it, on a random path; return the edge's place.

    Every lacking edge is as likely; the path leads from the embedding through it to `logits`, each
    step drawn uniformly.

    >>> from edgewise.graphs.graph import ComputationGraph
    >>> graph = ComputationGraph(layers=1, heads=1)
    >>> larger, place = inflated(Circuit.full(graph).without(["embed->m0"]), seed=0)
    >>> len(larger), str(graph.edge_at(*place))
    (8, 'embed->m0')
    """
    graph, draw = circuit.graph, np.random.default_rng(seed)
    lacking = np.argwhere(graph.reads & ~circuit.kept)
    if not len(lacking):
        raise EdgewiseError(
            "nothing can be put into a circuit that keeps every edge; accepted: a smaller one."
        )
    row, column = (int(i) for i in draw.choice(lacking))
    kept = circuit.kept.copy()
    kept[row, column] = True
    up = row
    while graph.feeds[up]:  # on to the logits
        sender = int(draw.choice(graph.feeds[up]))
        up = int(draw.choice(np.flatnonzero(graph.reads[:, sender])))
        kept[up, sender] = True
    down = column
    while into := [port for port, senders in enumerate(graph.feeds) if down in senders]:
        port = int(draw.choice(into))
        down = int(draw.choice(np.flatnonzero(graph.reads[port])))
        kept[port, down] = True
    return Circuit(graph, kept), (row, column)


class BaselineBlock(TypedDict):
    """Random circuits as plain values; see `Baseline`."""

    circuits: int
    seed: int
    undefined: NotRequired[bool]
    percentile: float
    percentile_interval: list[float]
    median: float | None
    median_interval: list[float] | None
    faithfulness: list[float]


@dataclass(frozen=True)
class Baseline:
    """Random circuits' faithfulness, a circuit's percentile among it, and the first draw's seed.

    `interval`: of the percentile, 95% over the draws. `median`: of the faithfulness, 95% over draws
    and prompts. `undefined`: full and empty are not apart, so that the ratios mean nothing; the
    percentile is that of the measured values all the same.
    """

    faithfulness: tuple[float, ...]
    percentile: float
    seed: int
    undefined: bool = False
    interval: tuple[float, float] = (0.0, 100.0)
    median: Estimate = UNDEFINED

    def as_dict(self) -> BaselineBlock:
        """Return everything as plain values."""
        ends = self.median.interval
        found = BaselineBlock(
            circuits=len(self.faithfulness),
            seed=self.seed,
            percentile=self.percentile,
            percentile_interval=[*self.interval],
            median=self.median.value,
            median_interval=None if ends is None else [*ends],
            faithfulness=[*self.faithfulness],
        )
        return {**found, "undefined": True} if self.undefined else found

    @staticmethod
    def from_dict(values: BaselineBlock) -> Baseline:
        """Return what `as_dict` wrote."""
        low, high = values["percentile_interval"]
        ends = values["median_interval"] or (math.nan, math.nan)
        return Baseline(
            tuple(values["faithfulness"]), values["percentile"], values["seed"],
            values.get("undefined", False), (low, high), Estimate(values["median"], *ends),
        )  # fmt: skip


def percentile(value: float, among: tuple[float, ...], floor: float = 0.0) -> float:
    """Return the share of numbers below a value in percent, equal ones counted half.

    Equal are those that differ by no more than `floor`, what rounding alone does.

    >>> percentile(0.5, (0.1, 0.5, 0.9, 0.2))
    62.5
    """
    equal = sum(abs(other - value) <= floor for other in among)
    return 100 * (sum(other < value - floor for other in among) + equal / 2) / len(among)


def percentile_interval(
    value: float, among: tuple[float, ...], floor: float = 0.0
) -> tuple[float, float]:
    """Return the 95% interval of the percentile among all random circuits, of which some are given.

    >>> low, high = percentile_interval(1.0, (0.0,) * 10)
    >>> round(low), high
    (69, 100.0)
    """
    equal = sum(abs(other - value) <= floor for other in among)
    low, high = share_interval(sum(other < value - floor for other in among), equal, len(among))
    return 100 * low, 100 * high


def baseline(
    runner: Runner, circuit: Circuit, number: int, seed: int = 0, progress: Progress | None = None
) -> Baseline:
    """Measure random circuits of a circuit's number of edges of each kind, and where it stands."""
    if number < 1:
        raise EdgewiseError(f"{number} random circuits say nothing; accepted: 1 or more.")
    runner.require_graph(circuit.graph)
    graph = circuit.graph
    drawn = random_circuits(graph, graph.count_by_kind(circuit.kept), number, seed)

    circuits = [Circuit.full(graph), Circuit.empty(graph), circuit, *drawn]
    first = len(circuits) - number

    def tell(done: int, total: int, words: str) -> None:
        if progress is not None and done >= first:
            progress(done - first, total - first, words)

    full, empty, *each = measured_together(runner, circuits, tell, "random circuits measured")
    ends = different_ends(runner, (float(full.mean()), float(empty.mean())))
    own, *others = (ratio(float(one.mean()), *ends) or 0.0 for one in each)  # the ends differ
    among, floor = tuple(others), runner.floor / abs(ends[0] - ends[1])
    clusters = clusters_of(runner.pairs.groups)
    return Baseline(
        among, percentile(own, among, floor), seed,
        not defined(full, empty, clusters, runner.floor), percentile_interval(own, among, floor),
        median_estimate(full, np.stack(each[1:]), empty, clusters, runner.floor),
    )  # fmt: skip
