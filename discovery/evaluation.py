"""Evaluation of a circuit: faithfulness, completeness, what it is made of, and curves of size.

Faithfulness is f(C) = (m(C) − m(∅)) / (m(full) − m(∅)), means over the data set first, the ratio
second, never clamped; ∅ keeps no edge under the same ablation. Completeness is the same of the
complement of C and should be near 0. Minimality is, for each kept edge, by how much the loss rises
without it.

Every one of them has a 95% interval over prompts (see `uncertainty.bootstrap`), and where
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
from ..graphs.scores import Scores
from .uncertainty.bootstrap import (
    DEFINED,
    Estimate,
    defined,
    faithfulness_estimate,
    mean_estimate,
    standard_error,
    units_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ..graphs.graph import ComputationGraph
    from ..patching.incremental.losses import Losses
    from ..patching.incremental.search import Search
    from ..patching.metrics.metric import Metric
    from ..patching.run.runner import Progress, Runner

CURVE_SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""The sizes of the Mechanistic Interpretability Benchmark's curves, as shares of all edges."""


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

    def as_dict(self) -> dict[str, Any]:
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
    from ..patching.run.floors import rounding_floor

    graph = runner.graph
    circuits = [Circuit.full(graph), circuit, Circuit.empty(graph), circuit.complement]
    each, groups = runner.measure_each(circuits, metrics), [pair.group for pair in runner.pairs]
    floors = [rounding_floor(runner.chunks(), metric) for metric in metrics]
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


@dataclass(frozen=True)
class Curve:
    """Faithfulness by size: `sizes` edges, `faithfulness` of each, and the two areas.

    CPR is the integral of f over the share of edges with circuits chosen by signed scores, CMD that
    of |1 − f| with circuits chosen by absolute scores, both by trapezoids from .001 to 1.
    `intervals`: 95%, by the names of the fields. `undefined`: full and empty are not apart, so that
    the ratios mean nothing.
    """

    sizes: tuple[int, ...]
    faithfulness: tuple[float | None, ...]
    faithfulness_absolute: tuple[float | None, ...]
    cpr: float | None
    cmd: float | None
    intervals: Mapping[str, Any] = field(default_factory=dict, repr=False)
    undefined: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return asdict(self)

    def interval(self, name: str, place: int | None = None) -> tuple[float, float] | None:
        """Return the 95% interval of an area, or of one size's faithfulness by its field's name."""
        found = self.intervals.get(name)
        found = found if place is None or found is None else found[place]
        return None if found is None else (float(found[0]), float(found[1]))


def curve(
    runner: Runner,
    scores: Scores,
    shares: Sequence[float] = CURVE_SHARES,
    progress: Progress | None = None,
) -> Curve:
    """Measure top circuits of several sizes, and the areas CPR and CMD (Mueller et al. 2025)."""
    sizes = [max(1, round(share * runner.graph.edge_count)) for share in shares]
    graph = runner.graph
    full, empty = runner.measure_each([Circuit.full(graph), Circuit.empty(graph)])[0]
    ends = float(full.mean()), float(empty.mean())
    each: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for i, size in enumerate(sizes):
        tops = [scores.top(size, absolute=absolute) for absolute in (False, True)]
        for side, values in zip(each, runner.measure_each(tops)[0], strict=True):
            side.append(values)
        if progress is not None:
            progress(i + 1, len(sizes), f"circuits measured, {size} edges")
    signed, absolute = (
        tuple(ratio(float(one.mean()), *ends, runner.floor) for one in side) for side in each
    )
    cpr = cmd = None
    clusters = clusters_of(runner.pairs.groups)
    intervals: dict[str, Any] = {}
    is_defined = defined(full, empty, clusters, runner.floor)
    if None not in signed and None not in absolute:
        cpr, cmd, intervals = _areas((full, empty), each, shares, clusters)
    if not is_defined:
        intervals = {}
    return Curve(tuple(sizes), signed, absolute, cpr, cmd, intervals, not is_defined)


def _areas(
    ends: tuple[np.ndarray, np.ndarray],
    each: tuple[Sequence[np.ndarray], Sequence[np.ndarray]],
    shares: Sequence[float],
    clusters: np.ndarray,
) -> tuple[float, float, dict[str, Any]]:
    """Return CPR, CMD and the intervals of a curve, of values on each pair.

    Both areas are ratios of means too: Σ w (c − ∅) over full − ∅, and, as far as no 1 − f changes
    its sign, Σ w sign(1 − f) (full − c), w being the trapezoids' weights.
    """
    full, empty = ends
    steps = np.diff(np.asarray(shares))
    weights = (np.append(steps, 0) + np.insert(steps, 0, 0)) / 2
    gap = float((full - empty).mean())
    signed, absolute = (np.stack(side) for side in each)
    ratios = (absolute - empty).mean(1) / gap
    area = weights @ (signed - empty)
    missed = (weights * np.sign(1 - ratios)) @ (full - absolute)

    def interval(values: np.ndarray, least: float = -math.inf) -> list[float] | None:
        found = faithfulness_estimate(full, empty + values, empty, clusters).interval
        return None if found is None else [max(least, found[0]), found[1]]

    intervals = {
        "faithfulness": [interval(one - empty) for one in signed],
        "faithfulness_absolute": [interval(one - empty) for one in absolute],
        "cpr": interval(area),
        "cmd": interval(missed, least=0.0),
    }
    return float(area.mean() / gap), float(missed.mean() / gap), intervals


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


def _faithfulness(runner: Runner, circuit: Circuit, ends: tuple[float, float]) -> float | None:
    return ratio(float(runner.measure([circuit])[0, 0]), *ends, runner.floor)


def smallest_faithful(
    runner: Runner,
    scores: Scores,
    floor: float,
    progress: Progress | None = None,
    *,
    absolute: bool = True,
    connected: bool = False,
) -> Circuit:
    """Find a small n whose top-n circuit, by absolute or signed score, reaches a faithfulness.

    Doubles n until the floor is reached, but for rounding, then halves the interval. Faithfulness
    need not rise with every edge, so a smaller n may exist that this search steps over; the
    returned circuit is measured to reach the floor, and the one with an edge less is not.
    `connected`: without the edges on no way of kept edges from the embedding to the logits; where
    ablated inputs give the ablated output, as of a corrupted prompt, only the count changes.
    """
    total = runner.graph.edge_count
    ends = different_ends(runner)
    least = floor - runner.floor / abs(ends[0] - ends[1])
    asked = 0

    def circuit(n: int) -> Circuit:
        found = scores.top(n, absolute=absolute)
        return found.prune_dangling() if connected else found

    def reached(n: int) -> bool:
        nonlocal asked
        asked += 1
        if progress is not None:
            progress(asked, 2 * total.bit_length(), f"circuits measured, {n} edges")
        found = _faithfulness(runner, circuit(n), ends)
        return found is not None and found >= least

    return circuit(least_size(reached, total))


def least_size(reached: Callable[[int], bool], total: int) -> int:
    """Return a small number for which something is reached, the total if for none before it.

    Doubles the number until it is, then halves the interval. What is reached need not be reached by
    all larger numbers, so a smaller one may exist that is stepped over.

    >>> least_size(lambda n: n >= 37, 1000)
    37
    """
    low, high = 0, 1
    while high < total and not reached(high):
        low, high = high, min(total, 2 * high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high


def minimality(runner: Runner, circuit: Circuit, progress: Progress | None = None) -> Scores:
    """Measure by how much the loss rises without each kept edge: above `floor` the edge helps."""
    from ..patching.incremental.search import make_search

    runner.require_graph(circuit.graph)
    search = make_search(runner)
    search.restart(circuit.kept)
    return effects_of_leaving_out(search, runner.graph, progress)


def effects_of_leaving_out(
    search: Search,
    graph: ComputationGraph,
    progress: Progress | None = None,
    at_once: int | None = None,
) -> Scores:
    """Measure the loss's rise without each edge of the search's circuit, 0 for dead ones."""
    kept, loss = search.kept, search.loss.value()
    values = np.where(kept, 0.0, np.nan)
    live = kept & graph.live(kept)[0][:, None]
    done, total = int(kept.sum() - live.sum()), int(kept.sum())
    for row, senders, losses in leave_out(search, graph, at_once=at_once):
        values[row, senders] = losses.values() - loss
        done += len(senders)
        if progress is not None:
            what = "measured" if at_once else "left out one by one"
            progress(done, total, f"edges {what}, at {graph.ports[row]}")
    return Scores(graph, values)


def leave_out(
    search: Search,
    graph: ComputationGraph,
    among: np.ndarray | None = None,
    at_once: int | None = None,
) -> Iterator[tuple[int, np.ndarray, Losses]]:
    """Ask about the search's current circuit without each edge, `at_once` of a port together.

    Yields the row of a port with a way to `logits`, the senders [n] of its kept edges (those of
    `among`, bool [ports, senders], if given), and the losses.
    """
    for row, senders, single in single_questions(search, graph, among, at_once):
        yield row, senders, search.ask((row,), single)


def single_questions(
    search: Search,
    graph: ComputationGraph,
    among: np.ndarray | None = None,
    at_once: int | None = None,
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """List what `leave_out` asks: a port's row, senders [n], and the questions [n, 1, senders]."""
    kept = search.kept if among is None else search.kept & among
    for row in np.flatnonzero(kept.any(1) & graph.live(search.kept)[0]).tolist():
        every = np.flatnonzero(kept[row])
        for start in range(0, len(every), at_once or len(every)):
            senders = every[start : start + (at_once or len(every))]
            yield row, senders, senders[:, None, None] == np.arange(kept.shape[1])
