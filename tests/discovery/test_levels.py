"""Levels: what holds of the scores and circuits of nodes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from edgewise.discovery.meaning import doubts_of_selection
from edgewise.discovery.registry import get_method, methods
from edgewise.experiment.spec import DiscoverySpec, Selection
from edgewise.graphs.circuit import Circuit
from edgewise.graphs.errors import EdgewiseError, FileFormatError, GraphMismatch
from edgewise.graphs.example_scores import ExampleScores
from edgewise.graphs.files import (
    read_example_scores,
    read_scores,
    write_example_scores,
    write_scores,
)
from edgewise.graphs.graph import ComputationGraph
from edgewise.graphs.levels.nodes import NODE, fan_out
from edgewise.graphs.scores import Scores
from edgewise.patching.run.runner import Runner
from edgewise.patching.trace import at_answers
from tests.engine import ablated_values, naive_run, tiny_lift, tiny_pairs, whole

FAMILIES = ["gpt2", "llama", "gpt-neox", "gemma2", "mixtral"]


def plainly(runner: Runner) -> np.ndarray:
    """Return (a_u − o_u) · ∂loss/∂o_u of every sender, o_u weighed by one gate at all its ports."""
    (chunk,) = runner.chunks()
    graph, ablated = runner.graph, ablated_values(runner, chunk)
    gates = torch.ones(len(graph.senders), dtype=torch.float64, requires_grad=True)
    mask = gates.expand(len(graph.ports), -1)
    _, final = naive_run(runner.model, chunk.batch.clean, whole(chunk), ablated, mask)
    logits = runner.model.logits(at_answers(final, chunk.batch.answer_position))
    loss = runner.metric.loss(logits, chunk.target).mean()
    return -torch.autograd.grad(loss, gates)[0].numpy()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_nodes_score_is_its_change_times_the_gradient_at_what_it_writes(name: str) -> None:
    runner = Runner.create(tiny_lift(name), tiny_pairs(), metric="logit_diff")
    found = get_method("eap").at(NODE)(runner, per_example=True)
    by_node = found.scores.by_sender()
    np.testing.assert_allclose(by_node, plainly(runner), rtol=1e-5, atol=1e-7)
    edges = get_method("eap")(runner).scores.values
    np.testing.assert_allclose(by_node, np.nansum(edges, 0), rtol=1e-5, atol=1e-7)
    assert found.examples is not None
    np.testing.assert_allclose(found.examples.mean().by_sender(), by_node, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("ablation", ["resample", "zero"])
def test_an_exact_effect_is_that_of_all_edges_out_of_the_node(name: str, ablation: str) -> None:
    """Whether a question is asked with others or alone, and as a circuit."""
    runner = Runner.create(tiny_lift(name), tiny_pairs(), metric="logit_diff", ablation=ablation)
    exact = get_method("exact").at(NODE)
    found = exact(runner, candidates=2, per_example=True)
    graph, full = runner.graph, Circuit.full(runner.graph)
    without = [
        Circuit(graph, full.kept & (np.arange(len(graph.senders)) != u))
        for u in range(len(graph.senders))
    ]
    losses = runner.losses([full, *without])
    np.testing.assert_allclose(found.scores.by_sender(), losses[1:] - losses[0], atol=1e-6)
    np.testing.assert_allclose(exact(runner).scores.values, found.scores.values, atol=1e-6)
    assert found.examples is not None
    np.testing.assert_allclose(found.examples.mean().values, found.scores.values, atol=1e-6)
    assert found.questions == len(graph.senders)


def test_circuits_of_nodes_by_hand() -> None:
    """embed 3, a0.h0 1, m0 −2, a1.h0 0, m1 5: the numbers kept are of nodes."""
    graph = ComputationGraph(layers=2, heads=1)
    scores = Scores.of_nodes(graph, np.array([3.0, 1.0, -2.0, 0.0, 5.0]))
    assert scores.units == 5
    assert scores.positive == 3
    top = scores.top(2)
    assert [str(edge) for edge in top.edges] == ["embed->m1", "embed->logits", "m1->logits"]
    assert scores.count(top) == 2
    assert scores.count(scores.top(3, absolute=False)) == 3
    assert str(scores.top(3).nodes) == "(Node('embed'), Node('m0'), Node('m1'), Node('logits'))"
    assert scores.above(5) == Circuit.empty(graph).with_edges(["m1->logits"])
    assert scores.top(5) == Circuit.full(graph)
    assert len(scores.top(1, connected=True)) == 0  # m1 alone is fed by nothing
    assert scores.top(2, connected=True) == top
    assert repr(scores).startswith("Scores(5 of 5 nodes")


def test_a_circuit_of_nodes_does_what_it_does_with_the_edges_into_other_nodes() -> None:
    runner = Runner.create(tiny_lift("llama"), tiny_pairs(), metric="logit_diff")
    graph, draw = runner.graph, np.random.default_rng(0)
    for _ in range(3):
        nodes = draw.random(len(graph.senders)) < 0.6
        circuits = [Circuit(graph, fan_out(graph, nodes)), Circuit(graph, graph.reads & nodes)]
        one, other = runner.losses(circuits)
        assert one == pytest.approx(other, abs=1e-9)


def test_sidecars_say_the_level(tmp_path: Path) -> None:
    graph = ComputationGraph(layers=1, heads=1)
    about = {"method": "eap", "metric": "kl", "ablation": "zero"}
    scores = Scores.of_nodes(graph, np.array([3.0, 1.0, 2.0]))
    write_scores(tmp_path / "a.json", scores, **about)
    found = read_scores(tmp_path / "a.json").scores
    assert found.level == NODE
    np.testing.assert_array_equal(found.values, scores.values)
    each = ExampleScores(graph, scores.values[graph.reads][None].repeat(2, 0), ("", ""), NODE)
    write_example_scores(tmp_path / "a.json", each, about=about, pairs_sha256="0")
    assert read_example_scores(tmp_path / "a.json", graph).scores.mean().level == NODE
    path = tmp_path / "a.scores.safetensors"
    path.write_bytes(path.read_bytes().replace(b'"level": "node"', b'"level": "edgy"'))
    with pytest.raises(FileFormatError, match="unknown level 'edgy'"):
        read_scores(path)


def test_scores_that_are_not_of_nodes_are_refused() -> None:
    graph = ComputationGraph(layers=1, heads=1)
    values = np.where(graph.reads, 1.0, np.nan)
    values[graph.locate("embed->m0")] = 2
    with pytest.raises(GraphMismatch, match=r"differ among the edges of embed, first at .*; accep"):
        Scores(graph, values, NODE)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"method": "acdc", "level": "node"}, "'acdc' does not work at level node; accepted: le"),
        ({"method": "screen", "level": "node"}, "method that does: .*eap-ig"),
        ({"method": "eap", "level": "nodes"}, "unknown level 'nodes'; did you mean 'node'"),
        (
            {"method": "eap", "level": "node", "select": Selection(top=3, stable=0.9)},
            "stable chooses among edges, and level node keeps or ablates all edges out of a node",
        ),
    ],
)
def test_wrong_requests(fields: dict[str, object], words: str) -> None:
    with pytest.raises(EdgewiseError, match=words):
        DiscoverySpec.of(**fields)


def test_what_works_at_which_level() -> None:
    known = {name: method.levels for name, method in methods().items()}
    assert known["acdc"] == ("edge",)
    for name in ("eap", "eap-ig", "clean-corrupted", "conductance", "exact"):
        assert known[name] == ("edge", "node", "neuron"), name


def test_a_file_of_a_node_circuit_can_be_repeated() -> None:
    spec = DiscoverySpec("eap", select=Selection(top=3), level="node")
    assert json.loads(json.dumps(spec.block))["level"] == "node"
    assert "level" not in DiscoverySpec("eap").block
    assert spec.select.words(spec.level) == (
        "the 3 nodes of largest absolute score, with every edge among them"
    )


def test_nodes_without_the_embedding_are_doubted() -> None:
    graph = ComputationGraph(layers=2, heads=1)
    late = Scores.of_nodes(graph, np.array([0.0, 1, 2, 3, 4]))
    (said,) = doubts_of_selection(late, late.top(3), None)
    assert "carry nothing of the prompt; keep more nodes" in said
    first = Scores.of_nodes(graph, np.array([5.0, 1, 2, 3, 4]))
    assert doubts_of_selection(first, first.top(3), None) == []
