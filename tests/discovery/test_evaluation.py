"""Evaluation: the ends of faithfulness, curves, and the smallest faithful circuit."""

from __future__ import annotations

import numpy as np
import pytest

from edgewise.discovery.evaluation import (
    CURVE_SHARES,
    curve,
    evaluate,
    minimality,
    ratio,
    smallest_faithful,
)
from edgewise.discovery.registry import get_method
from edgewise.graphs.circuit import Circuit
from edgewise.graphs.errors import GraphMismatch
from edgewise.graphs.graph import ComputationGraph
from edgewise.graphs.scores import Scores
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
    found = evaluate(runner, full)
    assert found.faithfulness == pytest.approx(1)
    assert found.completeness == pytest.approx(0)
    found = evaluate(runner, empty)
    assert found.faithfulness == pytest.approx(0)
    assert found.completeness == pytest.approx(1)
    assert found.loss_empty == pytest.approx(runner.loss(empty))


def test_faithfulness_is_a_ratio_of_means_and_is_not_clamped(runner: Runner) -> None:
    circuits = [Circuit(runner.graph, random_mask(runner.graph, 0.8, seed)) for seed in range(8)]
    found = [evaluate(runner, c) for c in circuits]
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
        evaluate(runner, other)


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


def test_the_smallest_faithful_circuit_is_on_the_edge(runner: Runner) -> None:
    scores = get_method("exact")(runner).scores
    found = smallest_faithful(runner, scores, 0.9)
    one_less: Circuit = scores.top(len(found) - 1)
    assert (evaluate(runner, found).faithfulness or 0) >= 0.9
    assert (evaluate(runner, one_less).faithfulness or 0) < 0.9


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
