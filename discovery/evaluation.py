"""Evaluation of a circuit: faithfulness, completeness, and what it is made of.

Faithfulness is f(C) = (m(C) − m(∅)) / (m(full) − m(∅)), means over the data set first, the ratio
second, never clamped; ∅ keeps no edge under the same ablation. Completeness is the same of the
complement of C and should be near 0.

They and the metric's means have 95% intervals over prompts (see `uncertainty.bootstrap`), and where
|m(full) − m(∅)| is less than twice its standard error the two ratios are *undefined*.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..graphs.calls.typed import typed
from ..graphs.circuit import Circuit
from ..graphs.errors import EdgewiseError, unknown
from ..graphs.example_scores import clusters_of
from .uncertainty.bootstrap import (
    DEFINED,
    Estimate,
    faithfulness_estimate,
    mean_estimate,
    standard_error,
    units_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..patching.metrics.metric import Metric
    from ..patching.run.runner import Progress, Runner


PARTS = ("full", "circuit", "empty", "complement")
"""The circuits whose mean metric is measured: all edges, the circuit, none, and all others."""

RATIOS = ("faithfulness", "completeness")

IN_SAMPLE, HELD_OUT = "in_sample", "held_out"
"""On the pairs that a circuit was found on, and on others."""

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Which quantiles over the pairs are told."""

WORST = 5
"""How many of the worst pairs are told."""


@dataclass(frozen=True)
class Example:
    """What was measured on one pair, by its place from 1: of the model, the circuit, no edge."""

    pair: int
    group: str
    full: float
    circuit: float
    empty: float


@dataclass(frozen=True)
class Variation:
    """How a metric varies over pairs.

    `quantiles`: at `LEVELS`, of the full model, the circuit and no edge. `worst`: the pairs on
    which the circuit's loss is the farthest above the full model's, the worst first.
    """

    quantiles: Mapping[str, tuple[float, ...]]
    worst: tuple[Example, ...]

    def as_dict(self) -> dict[str, object]:
        """Return everything as plain values."""
        quantiles = {key: list(values) for key, values in self.quantiles.items()}
        worst = [asdict(one) for one in self.worst]
        return {"quantiles": {"levels": list(LEVELS), **quantiles}, "worst_pairs": worst}


@typed
@dataclass(frozen=True)
class Evaluation:
    """What was measured of a circuit: a metric's means as they are and as losses, and sizes.

    `faithfulness`, `completeness`: see the module; None if full and empty measure the same. They
    are ratios whatever their error; `estimate` tells whether they mean anything. Edges are counted
    by the kind of port (q, k, v, mlp, logits). `examples`: on how many pairs; `units`: how many
    groups of them, or pairs, were resampled. `estimates`: by `PARTS` and `RATIOS`. `gap_error`: the
    standard error of full − empty; None of a single pair.
    """

    metric: str
    value_full: float
    value_circuit: float
    value_empty: float
    value_complement: float
    faithfulness: float | None
    completeness: float | None
    loss_full: float
    loss_circuit: float
    loss_empty: float
    edges: int
    edges_total: int
    nodes: int
    edges_by_kind: dict[str, int]
    edges_total_by_kind: dict[str, int]
    nodes_by_kind: dict[str, int]
    examples: int = 0
    units: int = field(default=0, repr=False)
    estimates: Mapping[str, Estimate] = field(default_factory=dict, repr=False)
    gap_error: float | None = field(default=None, repr=False)
    spread: Variation | None = field(default=None, repr=False)

    @typed
    def estimate(self, name: str) -> Estimate:
        """Return one of `PARTS` or `RATIOS` with its interval; without a value if undefined."""
        if name in self.estimates:
            return self.estimates[name]
        if name not in (*PARTS, *RATIOS):
            raise unknown("estimate, `name`,", name, (*PARTS, *RATIOS))
        value = getattr(self, name if name in RATIOS else f"value_{name}")
        return Estimate(value, math.nan, math.nan)

    @property
    def undefined(self) -> str | None:
        """Say why the ratios are undefined; None if they are not."""
        if self.estimate("faithfulness").value is not None:
            return None
        if self.faithfulness is None or self.gap_error is None:
            return "undefined: full model and no edge measure the same"
        gap = abs(self.value_full - self.value_empty)
        errors = f"{DEFINED:g} standard errors are {DEFINED * self.gap_error:.2g}"
        return f"undefined: full − no edge is {gap:.2g}, {errors}"

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values; `undefined` says why ratios mean nothing, if so."""
        own = (one.name for one in fields(self))
        found = {name: getattr(self, name) for name in own if name not in ("estimates", "spread")}
        found["undefined"] = self.undefined
        found["intervals"] = {name: self._interval(name) for name in (*PARTS, *RATIOS)}
        return found | ({} if self.spread is None else self.spread.as_dict())

    def _interval(self, name: str) -> list[float] | None:
        found = self.estimate(name).interval
        return None if found is None else list(found)

    @staticmethod
    @typed
    def from_dict(values: Mapping[str, Any]) -> Evaluation:
        """Return what `as_dict` wrote; older ones have no intervals."""
        known = {one.name for one in fields(Evaluation)}
        own = {key: value for key, value in values.items() if key in known}
        intervals, spread = values.get("intervals") or {}, None
        if "quantiles" in values:
            quantiles = {k: tuple(v) for k, v in values["quantiles"].items() if k in PARTS}
            spread = Variation(quantiles, tuple(Example(**one) for one in values["worst_pairs"]))
        estimates = {}
        for name, interval in intervals.items():
            value = values[name if name in RATIOS else f"value_{name}"]
            value = None if name in RATIOS and values.get("undefined") else value
            estimates[name] = Estimate(value, *(interval or (math.nan, math.nan)))
        return Evaluation(**own, estimates=estimates, spread=spread)


def measure(runner: Runner, circuit: Circuit) -> Evaluation:
    """Measure a circuit on the runner's prompts with its metric; as `evaluate_by`."""
    return evaluate_by(runner, circuit, [runner.metric])[0]


def evaluate_by(runner: Runner, circuit: Circuit, metrics: Sequence[Metric]) -> list[Evaluation]:
    """Measure a circuit, which must be of the model's graph, with metrics at the cost of one."""
    graph = runner.graph
    circuits = [Circuit.full(graph), circuit, Circuit.empty(graph), circuit.complement]
    each, groups = runner.measure_each(circuits, metrics), [pair.group for pair in runner.pairs]
    floors = [runner.floor_of(metric) for metric in metrics]
    rows = zip(metrics, each, floors, strict=True)
    return [_with_intervals(one, circuit, values, groups, floor) for one, values, floor in rows]


def _with_intervals(
    metric: Metric, circuit: Circuit, each: np.ndarray, groups: Sequence[str], floor: float
) -> Evaluation:
    """Measure by one metric, of `PARTS`' values on each pair, [4, examples]."""
    clusters = clusters_of(groups)
    full, kept, empty, rest = each
    finite = bool(np.isfinite(each).all())
    estimates = {}
    if finite:
        estimates = {name: mean_estimate(x, clusters) for name, x in zip(PARTS, each, strict=True)}
        for name, values in zip(RATIOS, (kept, rest), strict=True):
            estimates[name] = faithfulness_estimate(full, values, empty, clusters, floor)
    error = standard_error(full - empty, clusters) if finite else math.nan
    return replace(
        _evaluation(metric, circuit, each.mean(1).tolist(), floor),
        examples=len(full),
        units=len(np.unique(units_of(clusters))),
        estimates=estimates,
        gap_error=error if math.isfinite(error) else None,
        spread=_spread(metric, each, groups),
    )


def _spread(metric: Metric, each: np.ndarray, groups: Sequence[str]) -> Variation:
    """Tell how the values of full, circuit and empty, the first of `each`, vary over pairs."""
    full, kept, empty = each[:3]
    found = np.quantile(each[:3], LEVELS, axis=1).T.tolist()
    sign = -1.0 if metric.larger_is_better else 1.0
    worst = np.argsort(-sign * (kept - full), kind="stable")[:WORST]
    examples = (
        Example(int(i) + 1, groups[i], float(full[i]), float(kept[i]), float(empty[i]))
        for i in worst
    )
    return Variation(dict(zip(PARTS, map(tuple, found), strict=False)), tuple(examples))


def _evaluation(
    metric: Metric, circuit: Circuit, values: Sequence[float], floor: float
) -> Evaluation:
    full, kept, empty, rest = values
    graph = circuit.graph
    sign = -1.0 if metric.larger_is_better else 1.0
    return Evaluation(
        metric=metric.name,
        value_full=full,
        value_circuit=kept,
        value_empty=empty,
        value_complement=rest,
        faithfulness=ratio(kept, full, empty, floor),
        completeness=ratio(rest, full, empty, floor),
        loss_full=sign * full,
        loss_circuit=sign * kept,
        loss_empty=sign * empty,
        edges=len(circuit),
        edges_total=graph.edge_count,
        nodes=len(circuit.nodes),
        edges_by_kind=graph.count_by_kind(circuit.kept),
        edges_total_by_kind=graph.count_by_kind(),
        nodes_by_kind=dict(Counter(node.kind.value for node in circuit.nodes)),
    )


def fitted_to_its_prompts(in_sample: Evaluation, held_out: Evaluation) -> str | None:
    """Say in words how far a circuit does otherwise on other prompts; None if not beyond chance.

    The gap of faithfulness is beyond chance if its 95% interval, made of the two sides' (Zou and
    Donner 2008, for independent samples), does not hold 0.
    """
    own, other = in_sample.estimate("faithfulness"), held_out.estimate("faithfulness")
    if own.value is None or other.value is None or not (own.interval and other.interval):
        return None
    gap = own.value - other.value
    low = gap - math.hypot(own.value - own.low, other.high - other.value)
    high = gap + math.hypot(own.high - own.value, other.value - other.low)
    if low <= 0 <= high:
        return None
    said = (
        f"on the {in_sample.examples:,} prompts it was found on it keeps {own.value:.2f}, on "
        f"{held_out.examples:,} others {other.value:.2f} [{other.low:.2f}, {other.high:.2f}]"
    )
    fitted = abs(1 - own.value) <= abs(1 - other.value)
    return f"{said}: it is partly fitted to its prompts" if fitted else f"{said}: nearer to 1"


def ratio(value: float, full: float, empty: float, floor: float = 0.0) -> float | None:
    """Return (value − empty) / (full − empty), or None if the two ends are equal.

    They are if they differ by no more than `floor`, what rounding alone does.

    >>> ratio(3.0, 4.0, 0.0)
    0.75
    """
    return None if abs(full - empty) <= floor else (value - empty) / (full - empty)


def measured_together(
    runner: Runner, circuits: Sequence[Circuit], progress: Progress | None, words: str
) -> np.ndarray:
    """Measure circuits on every example, [circuits, examples], and tell how far it is."""
    if progress is None:
        return np.asarray(runner.measure_each(circuits)[0])
    tell = progress  # of its own, for the type checker
    each = runner.measure_each(circuits, progress=lambda done, total: tell(done, total, words))
    return np.asarray(each[0])


def measured_ends(runner: Runner) -> tuple[float, float]:
    """Measure the full and the empty circuit."""
    full, empty = runner.measure([Circuit.full(runner.graph), Circuit.empty(runner.graph)])[0]
    return float(full), float(empty)


def different_ends(
    runner: Runner, measured: tuple[float, float] | None = None
) -> tuple[float, float]:
    """Measure the full and the empty circuit; refuse ends that are the same, but for rounding.

    `measured`: both, if that is done already.
    """
    full, empty = measured_ends(runner) if measured is None else measured
    if abs(full - empty) <= runner.floor:
        raise EdgewiseError(
            f"the metric '{runner.metric.name}' is {full:.4g} for the full and for the empty "
            "circuit, so faithfulness means nothing; accepted: a metric, or prompts, that tell "
            "the two apart, or another selection (top, above)."
        )
    return full, empty
