"""Level neuron: what holds of hidden units that are senders of their own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from edgewise.discovery.registry import get_method
from edgewise.experiment.spec import DiscoverySpec, Selection
from edgewise.graphs.circuit import Circuit
from edgewise.graphs.errors import EdgewiseError, GraphMismatch, NameSyntaxError, UnsupportedModel
from edgewise.graphs.graph import ComputationGraph
from edgewise.graphs.lift.lifted import MLP
from edgewise.graphs.names import Edge, Kind, Node, Port
from edgewise.patching.run.runner import Runner
from edgewise.patching.trace import at_answers, run_plain
from tests.engine import tiny_lift, tiny_pairs, whole

FAMILIES = ["gpt2", "llama", "gpt-neox"]


def both(name: str, **how: object) -> tuple[Runner, Runner]:
    """Make a runner that takes MLPs whole, and one that tells the neurons of m1 apart."""
    model, pairs = tiny_lift(name), tiny_pairs(shared=False)
    return tuple(  # type: ignore[return-value]
        Runner.create(one, pairs, metric="logit_diff", **how)  # type: ignore[arg-type]
        for one in (model, model.with_neurons([1]))
    )


def hidden(runner: Runner, corrupted: bool, offset: torch.Tensor | None = None) -> torch.Tensor:
    """Return what the last projection of m1 reads, by the definition, [B, T, I]."""
    (chunk,) = runner.chunks()
    ids = chunk.batch.corrupted if corrupted else chunk.batch.clean
    trace = run_plain(runner.model, ids, whole(chunk))
    block = runner.model.blocks[1]
    mlp, x = block.mlp, trace.streams.mlp[1]
    assert isinstance(mlp, MLP)
    normed = x if block.mlp_norm is None else block.mlp_norm(x)
    up = mlp.up(normed)
    act = {"gelu_new": "tanh"}.get(mlp.activation, "none")
    first = up if mlp.gate is None else mlp.gate(normed)
    if mlp.activation == "silu":
        first = torch.nn.functional.silu(first)
    else:
        first = torch.nn.functional.gelu(first, approximate=act)
    return first if mlp.gate is None else first * up


@pytest.mark.parametrize("name", FAMILIES)
def test_the_neurons_and_the_rest_write_what_the_mlp_does(name: str) -> None:
    plain, apart = both(name)
    (chunk,), (other,) = plain.chunks(), apart.chunks()
    written, parts = (one.clean.values.mlp[1] for one in (chunk, other))
    np.testing.assert_allclose(parts.sum(0), written[0], atol=1e-10)
    mlp = plain.model.blocks[1].mlp
    assert isinstance(mlp, MLP)
    h = hidden(plain, corrupted=False)
    each = h.movedim(-1, 0)[..., None] * mlp.down.weight.T[:, None, None, :]
    np.testing.assert_allclose(parts[:-1], each, atol=1e-10)
    some = apart.model.blocks[1].writes(chunk.clean.streams.mlp[1], [2, len(parts) - 1])
    np.testing.assert_allclose(some, parts[[2, -1]], atol=1e-10)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("method", ["eap", "eap-ig", "eap-ig-activations"])
def test_scores_of_neurons_add_up_to_the_mlps(name: str, method: str) -> None:
    """(h̃ − h)·∂loss/∂h of each, as what it writes is a sum over them; the bias does not change."""
    plain, apart = both(name)
    expected = get_method(method).at("node")(plain).scores
    found = get_method(method).at("neuron")(apart, per_example=True)
    scores = dict(zip(map(str, apart.graph.senders), found.scores.by_sender(), strict=True))
    own = [value for node, value in scores.items() if node.startswith("m1.")]
    whole_ones = dict(zip(map(str, plain.graph.senders), expected.by_sender(), strict=True))
    assert sum(own) == pytest.approx(whole_ones["m1"], abs=1e-5)
    assert scores["m1.rest"] == pytest.approx(0, abs=1e-7)
    for node in ("embed", "a0.h0", "a1.h1", "m0"):
        assert scores[node] == pytest.approx(whole_ones[node], abs=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_an_exact_effect_is_that_of_patching_the_unit_alone(name: str) -> None:
    """And two are patched together as the definition says."""
    plain, apart = both(name)
    found = get_method("exact").at("neuron")(apart).scores.by_sender()
    (chunk,) = plain.chunks()
    h, patched = hidden(plain, corrupted=False), hidden(plain, corrupted=True)
    mlp, stream = plain.model.blocks[1].mlp, chunk.clean.streams.final
    assert isinstance(mlp, MLP)
    assert plain.graph.layers == 2  # so that m1 writes to the logits alone

    def loss(units: list[int]) -> float:
        change = (patched - h)[..., units] @ mlp.down.weight[:, units].T
        logits = plain.model.logits(at_answers(stream + change, chunk.batch.answer_position))
        return float(plain.metric.loss(logits, chunk.target).mean())

    at = apart.graph.sender_index
    for unit in (0, 3):
        effect = loss([unit]) - loss([])
        assert found[at[Node(Kind.NEURON, 1, unit)]] == pytest.approx(effect, abs=1e-6)
    pair = [Edge(Node(Kind.NEURON, 1, unit), Port.parse("logits")) for unit in (0, 3)]
    together = apart.loss(Circuit.full(apart.graph).without(pair))
    assert together == pytest.approx(loss([0, 3]), abs=1e-6)


def test_names_and_shapes_by_hand() -> None:
    graph = ComputationGraph(layers=2, heads=1, neurons=(0, 3))
    assert [str(node) for node in graph.senders] == [
        "embed", "a0.h0", "m0", "a1.h0", "m1.n0", "m1.n1", "m1.n2", "m1.rest",
    ]  # fmt: skip
    assert graph.size == (len(graph.ports), len(graph.senders))
    assert str(Edge.parse("m9.n1234->a10.h2<q>").sender) == "m9.n1234"
    assert graph.plain == ComputationGraph(layers=2, heads=1)
    with pytest.raises(NameSyntaxError, match="no port: all neurons of a layer read the port m9"):
        Port.parse("m9.n3")
    with pytest.raises(GraphMismatch, match="where neurons are told apart, they are its senders"):
        graph.locate("m1->logits")
    with pytest.raises(
        GraphMismatch, match=r"has neurons \[1\]; accepted: a number for each layer"
    ):
        ComputationGraph(layers=2, heads=1, neurons=(1,))
    with pytest.raises(GraphMismatch, match="0 where it has experts, or no MLP"):
        ComputationGraph(layers=2, heads=1, neurons=(1, 0), without_mlp=(0,))


def test_what_cannot_be_told_apart() -> None:
    with pytest.raises(UnsupportedModel, match=r"neurons of m0 cannot be told apart.*normalised"):
        tiny_lift("gemma2").with_neurons([0])
    with pytest.raises(UnsupportedModel, match=r"neurons of m0 cannot be told apart: .*experts"):
        tiny_lift("mixtral").with_neurons([0])
    with pytest.raises(EdgewiseError, match="there is no m7; accepted: MLPs of layers 0 to 1"):
        tiny_lift("gpt2").with_neurons([7])
    for fields, words in (
        ({"level": "neuron"}, "level neuron needs `mlps`"),
        ({"mlps": (1,)}, "the level is edge; accepted: level neuron, or no mlps"),
        ({"level": "neuron", "mlps": "1,1"}, "numbers of layers, each once, such as 9,10"),
    ):
        with pytest.raises(EdgewiseError, match=words):
            DiscoverySpec.of(method="eap", select=Selection(top=3), **fields)


@pytest.mark.parametrize("ablation", ["mean", "noise", "zero"])
def test_neurons_at_spans_add_up_under_other_ablations(ablation: str) -> None:
    model, pairs = tiny_lift("llama"), tiny_pairs(shared=False)
    named = tuple(replace(pair, spans=(("end", pair.answer_position),)) for pair in pairs)
    pairs = replace(pairs, pairs=named)
    how = {"metric": "logit_diff", "ablation": ablation}
    plain, apart = (
        Runner.create(model, pairs, **how),
        Runner.create(model.with_neurons([0, 1]), pairs.at_spans(), **how),
    )
    expected = get_method("eap").at("node")(plain).scores.by_sender()
    found = get_method("eap").at("neuron")(apart).scores.by_sender()
    own = [i for i, node in enumerate(apart.graph.senders) if str(node).startswith("m1.")]
    m1 = plain.graph.sender_index[Node(Kind.MLP, 1)]
    assert found[own].sum() == pytest.approx(expected[m1], abs=1e-5)
    ends = [
        one.losses([Circuit.full(one.graph), Circuit.empty(one.graph)]) for one in (plain, apart)
    ]
    np.testing.assert_allclose(*ends, atol=1e-7)
