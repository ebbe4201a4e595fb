"""Evaluation of a circuit: faithfulness, completeness, what it is made of, and curves of size.

Faithfulness is f(C) = (m(C) − m(∅)) / (m(full) − m(∅)), means over the data set first, the ratio
second, never clamped; ∅ keeps no edge under the same ablation. Completeness is the same of the
complement of C and should be near 0.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..graphs.circuit import Circuit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..graphs.scores import Scores
    from ..patching.metrics import Metric
    from ..patching.runner import Progress, Runner

CURVE_SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""The sizes of the Mechanistic Interpretability Benchmark's curves, as shares of all edges."""


@dataclass(frozen=True)
class Evaluation:
    """Hold what was measured of a circuit.

    Args:
        metric: the metric's name.
        value_full, value_circuit, value_empty, value_complement: its raw means.
        faithfulness, completeness: see the module; None if full and empty measure the same.
        loss_full, loss_circuit, loss_empty: the metric as a loss.
        edges, edges_total, nodes: sizes.
        edges_by_kind, edges_total_by_kind: by the kind of port (q, k, v, mlp, logits).
        nodes_by_kind: by the kind of node.
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

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return asdict(self)


def evaluate(runner: Runner, circuit: Circuit) -> Evaluation:
    """Measure a circuit on the runner's prompts with its metric and ablation.

    Raises:
        GraphMismatch: the circuit was made for another graph than the model's.
    """
    return evaluate_by(runner, circuit, [runner.metric])[0]


def evaluate_by(runner: Runner, circuit: Circuit, metrics: Sequence[Metric]) -> list[Evaluation]:
    """Measure a circuit with several metrics at the cost of one.

    Raises:
        GraphMismatch: the circuit was made for another graph than the model's.
    """
    graph = runner.graph
    circuits = [Circuit.full(graph), circuit, Circuit.empty(graph), circuit.complement]
    values = runner.measure(circuits, metrics)
    return [_evaluation(m, circuit, row) for m, row in zip(metrics, values.tolist(), strict=True)]


def _evaluation(metric: Metric, circuit: Circuit, values: Sequence[float]) -> Evaluation:
    """Put together what was measured: the values of full, circuit, empty and complement."""
    graph = circuit.graph
    full, kept, empty, rest = values
    sign = -1.0 if metric.larger_is_better else 1.0
    return Evaluation(
        metric=metric.name,
        value_full=full,
        value_circuit=kept,
        value_empty=empty,
        value_complement=rest,
        faithfulness=ratio(kept, full, empty),
        completeness=ratio(rest, full, empty),
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


def ratio(value: float, full: float, empty: float) -> float | None:
    """Return (value − empty) / (full − empty), or None if the two ends are equal.

    >>> ratio(3.0, 4.0, 0.0)
    0.75
    """
    return None if full == empty else (value - empty) / (full - empty)


@dataclass(frozen=True)
class Curve:
    """Hold faithfulness by size: `sizes` edges, `faithfulness` of each, and the two areas.

    CPR is the integral of f over the share of edges with circuits chosen by signed scores, CMD that
    of |1 − f| with circuits chosen by absolute scores, both by trapezoids from .001 to 1.
    """

    sizes: tuple[int, ...]
    faithfulness: tuple[float | None, ...]
    faithfulness_absolute: tuple[float | None, ...]
    cpr: float | None
    cmd: float | None

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return asdict(self)


def curve(
    runner: Runner,
    scores: Scores,
    shares: Sequence[float] = CURVE_SHARES,
    progress: Progress | None = None,
) -> Curve:
    """Measure faithfulness of the top circuits of several sizes, and the areas CPR and CMD.

    Source: Mueller et al. 2025 (Mechanistic Interpretability Benchmark).
    """
    sizes = [max(1, round(share * runner.graph.edge_count)) for share in shares]
    ends = _ends(runner)
    signed, absolute = [], []
    for i, size in enumerate(sizes):
        signed.append(_faithfulness(runner, scores.top(size, absolute=False), ends))
        absolute.append(_faithfulness(runner, scores.top(size), ends))
        if progress is not None:
            progress(i + 1, len(sizes), f"circuits measured, {size} edges")
    cpr = cmd = None
    if None not in signed and None not in absolute:
        cpr = _area(np.array(signed, dtype=float), shares)
        cmd = _area(np.abs(1 - np.array(absolute, dtype=float)), shares)
    return Curve(tuple(sizes), tuple(signed), tuple(absolute), cpr, cmd)


def _ends(runner: Runner) -> tuple[float, float]:
    """Measure the full and the empty circuit."""
    full, empty = runner.measure([Circuit.full(runner.graph), Circuit.empty(runner.graph)])[0]
    return float(full), float(empty)


def _faithfulness(runner: Runner, circuit: Circuit, ends: tuple[float, float]) -> float | None:
    return ratio(float(runner.measure([circuit])[0, 0]), *ends)


def smallest_faithful(
    runner: Runner, scores: Scores, floor: float, progress: Progress | None = None
) -> Circuit:
    """Find a small n whose top-n circuit, by absolute score, reaches a faithfulness.

    Doubles n until the floor is reached, then halves the interval. Faithfulness need not rise with
    every edge, so a smaller n may exist that this search steps over; the returned circuit is
    measured to reach the floor, and the one with an edge less is measured not to.
    """
    total = runner.graph.edge_count
    ends = _ends(runner)
    low, high, asked = 0, 1, 0

    def reached(n: int) -> bool:
        nonlocal asked
        asked += 1
        if progress is not None:
            progress(asked, 2 * total.bit_length(), f"circuits measured, {n} edges")
        found = _faithfulness(runner, scores.top(n), ends)
        return found is not None and found >= floor

    while high < total and not reached(high):
        low, high = high, min(total, 2 * high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return scores.top(high)


def _area(values: np.ndarray, shares: Sequence[float]) -> float:
    """Integrate by trapezoids on the linear axis of shares."""
    return float(((values[1:] + values[:-1]) / 2 * np.diff(shares)).sum())
