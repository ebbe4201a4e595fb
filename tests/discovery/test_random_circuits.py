"""Random circuits: counts by kind, uniformity, and where a circuit stands among them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta

from edgewise.discovery.random_circuits import (
    baseline,
    percentile,
    random_circuit,
    random_circuits,
)
from edgewise.graphs.circuit import Circuit
from edgewise.graphs.errors import EdgewiseError, GraphMismatch
from edgewise.graphs.graph import ComputationGraph
from edgewise.graphs.lift.plain import plain_block, plain_model
from edgewise.patching.prompts.pairs import Pair, PromptPairs
from edgewise.patching.run.runner import Runner
from tests.graph_shapes import shapes

TINY = ComputationGraph(layers=2, heads=2)


@given(shapes(), st.data(), st.integers(0, 5))
def test_as_many_edges_of_each_kind(
    graph: ComputationGraph, data: st.DataObject, seed: int
) -> None:
    counts = {kind: data.draw(st.integers(0, n)) for kind, n in graph.count_by_kind().items()}
    circuit = random_circuit(graph, counts, seed)
    assert graph.count_by_kind(circuit.kept) == counts
    assert circuit == random_circuit(graph, dict(reversed(counts.items())), seed)


def test_every_edge_of_a_kind_is_as_likely() -> None:
    drawn = random_circuits(TINY, {"q": 3, "logits": 1}, 3000)
    shares = np.mean([one.kept for one in drawn], axis=0)
    total = TINY.count_by_kind()
    for row, port in enumerate(TINY.ports):
        expected = {"q": 3, "logits": 1}.get(port.kind, 0) / total[port.kind]
        np.testing.assert_allclose(shares[row][TINY.reads[row]], expected, atol=0.04)


def test_each_draw_has_the_next_seed() -> None:
    counts = {"q": 3, "logits": 1}
    drawn = random_circuits(TINY, counts, 3, seed=5)
    assert drawn == [random_circuit(TINY, counts, seed) for seed in (5, 6, 7)]
    assert random_circuits(TINY, counts, 2, seed=5) == drawn[:2]
    assert len({one.kept.tobytes() for one in drawn}) == 3


def test_too_many_edges_are_refused() -> None:
    with pytest.raises(EdgewiseError, match="999 edges into ports of kind q; accepted: 0 to "):
        random_circuit(TINY, {"q": 999}, 0)
    with pytest.raises(EdgewiseError, match="kind post; accepted: 0 to 0"):
        random_circuit(TINY, {"post": 1}, 0)


def test_percentile_by_hand() -> None:
    assert percentile(0.5, (0.1, 0.2, 0.9, 1.0)) == 50.0
    assert percentile(1.0, (0.0, 1.0)) == 75.0
    assert percentile(-1.0, (0.0, 1.0)) == 0.0
    # within ¼ of ½ are ¼ and ¾, counted half; only ⅛ is below
    assert percentile(0.5, (0.25, 0.75, 0.125, 0.875), 0.25) == 100 * (1 + 2 / 2) / 4


def runner(repeats: int = 1) -> Runner:
    """Run a model in which only `embed->logits` matters: it predicts the token it reads."""
    zero = torch.zeros(1, 2, 4)
    block = plain_block(wq=zero, wk=zero, wv=zero, wo=zero)
    model = plain_model(tokens=torch.eye(4), blocks=[block], unembed=torch.eye(4))
    pairs = PromptPairs((Pair((0, 1), (0, 2), (1,), (2,)),) * repeats)
    return Runner.create(model, pairs, metric="logit_diff")


def test_where_a_circuit_stands_by_hand() -> None:
    measured = runner()
    graph = measured.graph
    needed = Circuit.empty(graph).with_edges(["embed->logits"])
    found = baseline(measured, needed, 60)
    # one of the three edges into logits is drawn: faithfulness 1 if it is the needed one, else 0
    assert set(found.faithfulness) == {0.0, 1.0}
    ones = sum(found.faithfulness)
    assert 10 < ones < 30
    assert found.percentile == pytest.approx(100 * (60 - ones + ones / 2) / 60)
    useless = baseline(measured, Circuit.empty(graph).with_edges(["m0->logits"]), 60)
    assert useless.faithfulness == found.faithfulness
    assert useless.percentile == pytest.approx(100 * (60 - ones) / 2 / 60)
    # of 60 draws so many are below, and the others equal: on either side of the circuit
    assert found.interval[0] == pytest.approx(
        100 * beta.ppf(0.025, 60 - ones, 60 - (60 - ones) + 1)
    )
    assert found.interval[1] == 100
    assert useless.interval[0] == 0
    assert found.median.value == 0  # about a third of the draws keep the needed edge
    assert found.as_dict() == {
        "circuits": 60, "seed": 0, "percentile": found.percentile,
        "percentile_interval": list(found.interval), "median": 0.0, "median_interval": None,
        "faithfulness": list(found.faithfulness),
    }  # fmt: skip
    seen: list[tuple[int, int, str]] = []
    later = baseline(measured, needed, 2, 7, lambda *what: seen.append(what))
    assert (later.seed, later.faithfulness) == (7, found.faithfulness[7:9])
    assert seen == [(i, 2, "random circuits measured") for i in range(3)]


def test_the_median_has_an_interval_over_draws_and_prompts() -> None:
    measured = runner(repeats=6)
    needed = Circuit.empty(measured.graph).with_edges(["embed->logits"])
    found = baseline(measured, needed, 60)
    ones = sum(found.faithfulness)
    assert 10 < ones < 20  # so that the median of 60 draws anew is hardly ever 1
    assert (found.median.value, found.median.interval) == (0.0, (0.0, 0.0))
    assert found.as_dict()["median_interval"] == [0.0, 0.0]
    every = baseline(measured, Circuit.full(measured.graph).without(["embed->m0"]), 60)
    assert every.median.value == pytest.approx(1)  # nearly all keep the needed edge
    assert baseline(measured, needed, 4).median.interval is None


def test_a_baseline_that_cannot_be() -> None:
    measured = runner()
    with pytest.raises(EdgewiseError, match="0 random circuits say nothing"):
        baseline(measured, Circuit.full(measured.graph), 0)
    with pytest.raises(GraphMismatch):
        baseline(measured, Circuit.full(TINY), 1)
