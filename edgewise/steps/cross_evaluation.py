"""Function beside structure: two circuits, what they share and their union, run in both models.

Faithfulness of circuit i in model j on the same prompts tells whether edges that only one circuit
has matter there. Random circuits show what that many edges do anyhow: they keep, of each kind of
port, as many edges as the larger of the two circuits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..discovery.evaluation import different_ends, measured_together
from ..discovery.random_circuits import random_circuits
from ..discovery.uncertainty.bootstrap import (
    defined,
    difference_estimate,
    faithfulness_estimate,
)
from ..discovery.uncertainty.draws import median_estimate
from ..graphs.circuit import Circuit
from ..graphs.comparison import ROWS, CrossEvaluation, CrossRow, RandomCircuits, Ratio
from ..graphs.diff import CircuitDiff
from ..graphs.example_scores import clusters_of
from ..patching.prompts.pairs import PromptPairs
from ..progress import Progress
from ..session import Session, make_runner

Interval = tuple[float, float] | None
RANDOM = 20  # circuits that are run in each model


@dataclass(frozen=True)
class CrossPlan:
    """The circuits that are run in both models: those of a diff by `ROWS`, and random ones."""

    circuits: Mapping[str, Circuit]
    drawn: tuple[Circuit, ...]

    @staticmethod
    def of(diff: CircuitDiff, random: int = RANDOM, seed: int = 0) -> CrossPlan:
        """Take the four circuits of a diff and draw the random ones."""
        graph = diff.a.graph
        counts = [graph.count_by_kind(circuit.kept) for circuit in (diff.a, diff.b)]
        most = {kind: max(count[kind] for count in counts) for kind in counts[0]}
        circuits = (diff.a, diff.b, diff.shared, diff.a | diff.b)
        drawn = random_circuits(graph, most, random, seed)
        return CrossPlan(dict(zip(ROWS, circuits, strict=True)), tuple(drawn))


@dataclass(frozen=True)
class MeasuredCircuits:
    """What a plan's circuits measure in one model; `ends`: the full and the empty circuit.

    `intervals`, `differences`, `undefined`: see `CrossEvaluation`. `random_median`: of the random
    circuits' faithfulness, with its interval; None in files of earlier runs.
    """

    ends: tuple[float, float]
    circuits: tuple[float, ...]
    random: tuple[float, ...]
    intervals: tuple[Interval, ...] = ()
    differences: dict[str, Interval] = field(default_factory=dict)
    undefined: bool = False
    random_median: tuple[float | None, Interval] | None = None

    def faithfulness(self, values: Sequence[float]) -> tuple[float, ...]:
        """Place values between the ends, which are different (see `cross_in`)."""
        full, empty = self.ends
        return tuple((value - empty) / (full - empty) for value in values)


def cross_in(
    session: Session,
    pairs: PromptPairs,
    plan: CrossPlan,
    measure: tuple[str, str],
    *,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> MeasuredCircuits:
    """Measure a plan's circuits in one model, by a metric with an ablation."""
    metric, ablation = measure
    mlps = next(iter(plan.circuits.values())).graph.layers_of_neurons
    runner = make_runner(
        session, pairs, metric=metric, ablation=ablation, batch_size=batch_size, mlps=mlps
    )
    graph, count = runner.graph, len(plan.circuits)
    circuits = [Circuit.full(graph), Circuit.empty(graph), *plan.circuits.values(), *plan.drawn]
    full, empty, *each = measured_together(runner, circuits, progress, "circuits run")
    ends = different_ends(runner, (float(full.mean()), float(empty.mean())))
    values = [float(one.mean()) for one in each]
    clusters = clusters_of(pairs.groups)
    is_defined = defined(full, empty, clusters, runner.floor)
    intervals = [faithfulness_estimate(full, one, empty, clusters).interval for one in each[:count]]
    by_name = dict(zip(plan.circuits, each, strict=False))
    differences = {
        f"{one}-{other}": difference_estimate(
            by_name[one], by_name[other], (full, empty), clusters
        ).interval
        for one, other in (("A", "B"), ("A", "both"), ("B", "both"))
    }
    drawn = np.array(each[count:]).reshape(-1, len(full))
    median = median_estimate(full, drawn, empty, clusters, runner.floor)
    return MeasuredCircuits(
        ends, tuple(values[:count]), tuple(values[count:]), tuple(intervals), differences,
        not is_defined, (median.value, median.interval),
    )  # fmt: skip


def cross_evaluation(
    plan: CrossPlan,
    measured: tuple[MeasuredCircuits, MeasuredCircuits],
    names: tuple[str, str],
    pairs: PromptPairs,
    measure: tuple[str, str],
) -> CrossEvaluation:
    """Put together what was measured on the same pairs in models A and B, which are called so."""
    a, b = measured
    values = zip(a.circuits, b.circuits, strict=True)
    ratios = zip(a.faithfulness(a.circuits), b.faithfulness(b.circuits), strict=True)
    sizes = map(len, plan.circuits.values())
    size = len(plan.drawn[0]) if plan.drawn else 0
    drawn = (a.faithfulness(a.random), b.faithfulness(b.random))
    full, empty = zip(a.ends, b.ends, strict=True)
    median = None
    if a.random_median is not None and b.random_median is not None:
        (one, its), (other, others) = a.random_median, b.random_median
        median = Ratio(one, *(its or ())), Ratio(other, *(others or ()))
    none = (None,) * len(plan.circuits)
    intervals = zip(a.intervals or none, b.intervals or none, strict=True)
    return CrossEvaluation(
        metric=measure[0], ablation=measure[1], examples=len(pairs), sha256=pairs.sha256,
        models=names, rows=tuple(map(CrossRow, plan.circuits, sizes, values, ratios, intervals)),
        random=RandomCircuits(len(plan.drawn), size, drawn, median),
        full=full, empty=empty, differences=(a.differences, b.differences),
        undefined=(a.undefined, b.undefined),
    )  # fmt: skip
