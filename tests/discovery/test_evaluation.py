"""Evaluation: the ends of faithfulness, curves, and the smallest faithful circuit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from edgewise.discovery.evaluation import _evaluation, different_ends, measure, ratio
from edgewise.discovery.measures.curve import CURVE_SHARES, curve
from edgewise.discovery.measures.leaving_out import minimality
from edgewise.discovery.registry import get_method
from edgewise.discovery.smallest import smallest_faithful
from edgewise.graphs.circuit import Circuit
from edgewise.graphs.errors import EdgewiseError, GraphMismatch
from edgewise.graphs.graph import ComputationGraph
from edgewise.graphs.scores import Scores
from edgewise.patching.metrics.registry import get_metric
from edgewise.patching.run.runner import Runner
from tests.engine import ABLATIONS, random_mask, tiny_lift, tiny_pairs


@pytest.fixture
def runner() -> Runner:
    return Runner.create(tiny_lift("llama", 3), tiny_pairs(3), metric="logit_diff")


@pytest.mark.parametrize("metric", ["kl", "logit_diff", "nll", "prob_diff"])
@pytest.mark.parametrize("ablation", ABLATIONS)
def test_the_ends_are_one_and_zero(metric: str, ablation: str) -> None:
    model = tiny_lift("gpt2")
    runner = Runner.create(model, tiny_pairs(), metric=metric, ablation=ablation)
    full, empty = Circuit.full(model.graph), Circuit.empty(model.graph)
    found = measure(runner, full)
    assert found.faithfulness == pytest.approx(1)
    assert found.completeness == pytest.approx(0)
    found = measure(runner, empty)
    assert found.faithfulness == pytest.approx(0)
    assert found.completeness == pytest.approx(1)
    assert found.loss_empty == pytest.approx(runner.loss(empty))


def test_faithfulness_is_a_ratio_of_means_and_is_not_clamped(runner: Runner) -> None:
    circuits = [Circuit(runner.graph, random_mask(runner.graph, 0.8, seed)) for seed in range(8)]
    found = [measure(runner, c) for c in circuits]
    for circuit, one in zip(circuits, found, strict=True):
        logits = runner.logits([Circuit.full(runner.graph), circuit, Circuit.empty(runner.graph)])
        means = [
            np.mean(
                [float(x[i, list(p.answers)].mean() - x[i, list(p.distractors)].mean())
                 for i, p in enumerate(runner.pairs)]
            )
            for x in logits
        ]  # fmt: skip
        assert one.faithfulness == pytest.approx((means[1] - means[2]) / (means[0] - means[2]))
    assert any(not 0 <= (one.faithfulness or 0) <= 1 for one in found)


def test_equal_ends_have_no_faithfulness() -> None:
    assert ratio(1.0, 2.0, 2.0) is None


def test_a_circuit_of_another_graph_is_refused(runner: Runner) -> None:
    other = Circuit.full(ComputationGraph(layers=3, heads=4, kv_heads=2))
    with pytest.raises(GraphMismatch, match="layers 3 and 2"):
        measure(runner, other)


def test_the_curve_ends_at_one_and_areas_are_trapezoids(runner: Runner) -> None:
    scores = get_method("eap")(runner).scores
    found = curve(runner, scores)
    assert found.sizes[-1] == runner.graph.edge_count
    assert found.faithfulness[-1] == pytest.approx(1)
    values = np.array(found.faithfulness, dtype=float)
    shares = np.array(CURVE_SHARES)
    area = sum(
        (shares[i + 1] - shares[i]) * (values[i] + values[i + 1]) / 2
        for i in range(len(shares) - 1)
    )
    assert found.cpr == pytest.approx(area)
    assert found.cmd is not None
    assert found.cmd >= 0


class ByHand:
    """A runner whose circuits measure the sum of their edges' weights."""

    graph = ComputationGraph(layers=1, heads=1)  # 8 edges
    floor = 1e-12
    metric = get_metric("logit_diff")

    def __init__(self, weights: Sequence[float]) -> None:
        self.weights = self.spread(weights)

    def spread(self, values: Sequence[float]) -> np.ndarray:
        found = np.zeros(self.graph.reads.shape)
        found[self.graph.reads] = values
        return found

    def measure_each(self, circuits: Sequence[Circuit]) -> np.ndarray:
        """Measure two pairs, whose values lie around the sum."""
        sums = [self.weights[one.kept].sum() for one in circuits]
        return np.array([[[0.9 * one, 1.1 * one] for one in sums]])

    def measure(self, circuits: Sequence[Circuit]) -> np.ndarray:
        return np.asarray(self.measure_each(circuits).mean(-1))

    pairs = tiny_pairs(lengths=(6, 6))


@pytest.mark.parametrize(
    ("scores", "signed", "absolute", "cpr", "cmd"),
    [
        # (1 + 5/4)/2 · 1/8 + (5/4 + 3/2)/2 · 1/4 + (3/2 + 1)/2 · 1/2, and |1 − f| of 0, 1/2, 0, 0
        ((4, -2, 1, 1, 0, 0, 0, 0), (1, 1.25, 1.5, 1), (1, 0.5, 1, 1), 71 / 64, 3 / 32),
        # above 1 is as far from 1 as below: |1 − f| of 0, 1/4, 0, 0
        ((9, 0.1, 3, -5, 0, 0, 0, 0), (1, 1.25, 0.75, 1), (1, 1.25, 1, 1), 53 / 64, 3 / 64),
    ],
)
def test_cpr_and_cmd_by_hand(
    scores: Sequence[float],
    signed: Sequence[float],
    absolute: Sequence[float],
    cpr: float,
    cmd: float,
) -> None:
    """CPR is the area under f of signed scores, CMD that of |1 − f| of absolute ones."""
    runner: Any = ByHand((4, -2, 1, 1, 0, 0, 0, 0))
    seen: list[tuple[int, int, str]] = []
    found = curve(
        runner,
        Scores(runner.graph, runner.spread(scores)),
        (1 / 8, 1 / 4, 1 / 2, 1),
        lambda *what: seen.append(what),
    )
    assert found.sizes == (1, 2, 4, 8)
    assert found.faithfulness == signed
    assert found.faithfulness_absolute == absolute
    assert (found.cpr, found.cmd) == (pytest.approx(cpr), pytest.approx(cmd))
    assert seen[0] == (1, 4, "circuits measured, 1 edges") and seen[-1][:2] == (4, 4)


def test_the_benchmarks_sizes_and_axis() -> None:
    """Trapezoids on linear k from .001: a constant f of 1 has the area .999, none is missed."""
    assert CURVE_SHARES == (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
    runner: Any = ByHand((1, 0, 0, 0, 0, 0, 0, 0))
    found = curve(runner, Scores(runner.graph, runner.spread(range(8, 0, -1))))
    assert found.sizes == (1, 1, 1, 1, 1, 1, 1, 2, 4, 8)
    assert found.cpr == pytest.approx(0.999)
    assert found.cmd == 0
    flat = curve(ByHand((0,) * 8), Scores(runner.graph, runner.spread((1,) * 8)))  # type: ignore[arg-type]
    assert (flat.cpr, flat.cmd) == (None, None)


@pytest.mark.parametrize(("metric", "sign"), [("logit_diff", -1), ("nll", 1)])
def test_what_is_measured_of_a_circuit_by_hand(metric: str, sign: int) -> None:
    """Of full 4, circuit 3, empty 2, complement 1.5: f is (3 − 2)/(4 − 2), and so on."""
    circuit = Circuit.empty(ByHand.graph).with_edges(["embed->m0", "embed->a0.h0<q>", "m0->logits"])
    found = _evaluation(get_metric(metric), circuit, (4.0, 3.0, 2.0, 1.5), 1e-9)
    assert (found.faithfulness, found.completeness) == (0.5, -0.25)
    assert (found.value_full, found.value_circuit) == (4, 3)
    assert (found.value_empty, found.value_complement) == (2, 1.5)
    assert (found.loss_full, found.loss_circuit, found.loss_empty) == (4 * sign, 3 * sign, 2 * sign)
    assert (found.edges, found.edges_total, found.nodes) == (3, 8, 4)
    assert found.edges_by_kind == {"q": 1, "k": 0, "v": 0, "mlp": 1, "logits": 1}
    assert found.edges_total_by_kind == {"q": 1, "k": 1, "v": 1, "mlp": 2, "logits": 3}
    assert found.nodes_by_kind == {"embed": 1, "head": 1, "mlp": 1, "logits": 1}
    alike = _evaluation(get_metric(metric), circuit, (2.5, 3.0, 2.0, 1.5), 0.5)
    assert (alike.faithfulness, alike.completeness) == (None, None)
    assert ratio(3.0, 2.5, 2.0, 0.49) == 2.0


@pytest.mark.parametrize(("wanted", "size"), [(0.5, 1), (0.51, 2), (0.74, 2), (0.76, 3), (1, 4)])
def test_the_smallest_faithful_circuit_by_hand(wanted: float, size: int) -> None:
    """Weights 4, 2, 1, 1 in the order of their scores give f of .5, .75, .875 and 1."""
    runner: Any = ByHand((4, 2, 1, 1, 0, 0, 0, 0))
    scores = Scores(runner.graph, runner.spread((8, 7, 6, 5, 4, 3, 2, 1)))
    seen: list[tuple[int, int, str]] = []
    found = smallest_faithful(runner, scores, wanted, lambda *what: seen.append(what))
    assert len(found) == size
    assert [asked for asked, _, _ in seen] == list(range(1, len(seen) + 1))
    assert {total for _, total, _ in seen} == {8}  # twice the digits of 8


@pytest.mark.parametrize("sign", [1, -1])  # the full circuit may measure less than the empty one
@pytest.mark.parametrize(("wanted", "size"), [(0.54, 1), (0.56, 2), (0.79, 2), (0.81, 3)])
def test_faithfulness_is_reached_but_for_rounding_by_hand(
    wanted: float, size: int, sign: int
) -> None:
    """A mean may be off by .4 and the ends are 8 apart, so f of .5 and .75 may be .55 and .8."""
    runner: Any = ByHand([sign * weight for weight in (4, 2, 1, 1, 0, 0, 0, 0)])
    runner.floor = 0.4
    scores = Scores(runner.graph, runner.spread((8, 7, 6, 5, 4, 3, 2, 1)))
    assert len(smallest_faithful(runner, scores, wanted)) == size


@pytest.mark.parametrize("sign", [1, -1])
def test_ends_as_far_apart_as_rounding_moves_them_are_equal(sign: int) -> None:
    runner: Any = ByHand([sign * 8, *[0] * 7])
    runner.floor = 8.0
    with pytest.raises(EdgewiseError, match=f"is {sign * 8} for the full and for the empty"):
        different_ends(runner)
    runner.floor = 7.9
    assert different_ends(runner) == (sign * 8, 0)


def test_the_smallest_faithful_circuit_by_signed_scores_by_hand() -> None:
    """Of weights 4, 2, 1, 1 the largest |score| is that of the last, the largest score of the 4."""
    runner: Any = ByHand((4, 2, 1, 1, 0, 0, 0, 0))
    scores = Scores(runner.graph, runner.spread((4, 3, 2, -9, 0, 0, 0, 0)))
    first, last = (
        {str(e) for e in smallest_faithful(runner, scores, 0.5, absolute=absolute).edges}
        for absolute in (False, True)
    )
    assert first == {"embed->a0.h0<q>"}  # f = 4/8
    assert last == {"embed->a0.h0<q>", "embed->m0"}  # 1/8, then 5/8


def test_the_smallest_faithful_circuit_is_on_the_edge(runner: Runner) -> None:
    scores = get_method("exact")(runner).scores
    found = smallest_faithful(runner, scores, 0.9)
    one_less: Circuit = scores.top(len(found) - 1)
    assert (measure(runner, found).faithfulness or 0) >= 0.9
    assert (measure(runner, one_less).faithfulness or 0) < 0.9


def test_an_unreachable_floor_gives_the_full_circuit(runner: Runner) -> None:
    scores = Scores(runner.graph, np.where(runner.graph.reads, 1.0, np.nan))
    assert smallest_faithful(runner, scores, 1e9) == Circuit.full(runner.graph)


@pytest.mark.parametrize("metric", ["kl", "logit_diff"])
@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "gpt-neox"])
def test_minimality_is_the_rise_without_each_edge(name: str, ablation: str, metric: str) -> None:
    runner = Runner.create(tiny_lift(name), tiny_pairs(), metric=metric, ablation=ablation)
    circuit = Circuit(runner.graph, random_mask(runner.graph, 0.7, 1))
    seen: list[tuple[int, int]] = []
    found = minimality(runner, circuit, lambda done, total, _: seen.append((done, total)))
    assert (~np.isnan(found.values) == circuit.kept).all()
    loss = runner.loss(circuit)
    edges = list(circuit.edges)
    rises = runner.losses([circuit.without([edge]) for edge in edges]) - loss
    np.testing.assert_allclose([found[edge] for edge in edges], rises, atol=1e-6)
    assert np.count_nonzero(rises) > 5
    assert seen == sorted(seen)
    assert seen[-1] == (len(edges), len(edges))


def test_an_edge_without_a_way_to_the_logits_is_not_needed(runner: Runner) -> None:
    circuit = Circuit.empty(runner.graph).with_edges(["embed->m0", "embed->logits"])
    found = minimality(runner, circuit)
    assert found["embed->m0"] == 0
    assert found["embed->logits"] != 0


def test_minimality_of_no_edge_is_nothing(runner: Runner) -> None:
    assert np.isnan(minimality(runner, Circuit.empty(runner.graph)).values).all()


def test_minimality_of_a_circuit_of_another_graph_is_refused(runner: Runner) -> None:
    with pytest.raises(GraphMismatch, match="layers 3 and 2"):
        minimality(runner, Circuit.full(ComputationGraph(layers=3, heads=4, kv_heads=2)))
