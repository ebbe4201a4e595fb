"""Gradients in what ports hold, for any circuit, against the definition of a circuit's run."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgewise.graphs.circuit import Circuit
from edgewise.graphs.errors import EdgewiseError
from edgewise.graphs.graph import ComputationGraph
from edgewise.graphs.names import Edge, Port
from edgewise.patching.gradients.attribution import attribute
from edgewise.patching.gradients.port_gradients import gate_gradients, gated_batch, port_gradients
from edgewise.patching.run.runner import Runner
from edgewise.patching.trace import at_answers
from tests.configs import CONFIGS
from tests.configs_whole import WHOLE_CONFIGS
from tests.engine import (
    WITH_GROUPS,
    ablated_values,
    fitting,
    held,
    moved_by,
    naive_run,
    random_mask,
    tiny_lift,
    tiny_pairs,
    whole,
)

SOME = [
    "gpt2", "llama", "qwen2-some-windows", "gpt-neox", "gemma2-caps", "granite", "olmo2",
    "olmo-clip", "stablelm-norms", "falcon-new-one-norm", "bloom-three-heads", "llama-dynamic",
    "mixtral-window-tied", "qwen2-moe-first-dense", "gemma4-e",
]  # fmt: skip


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize(("ablation", "grouped"), WITH_GROUPS)
@pytest.mark.parametrize("density", [0.15, 0.5, 1.0])
def test_gradients_of_any_circuit(name: str, ablation: str, grouped: bool, density: float) -> None:
    model = tiny_lift(name, grouped_kv=grouped)
    lengths = fitting(ablation, (5, 4))
    pairs = tiny_pairs(lengths=lengths, shared=ablation != "resample")
    runner = Runner.create(model, pairs, metric="nll", ablation=ablation)
    (chunk,) = runner.chunks()
    circuit = Circuit(model.graph, random_mask(model.graph, density, 3))
    found = port_gradients(runner, chunk, circuit)
    batch = chunk.batch
    ablated = ablated_values(runner, chunk)
    offsets = {
        row: torch.zeros(
            *batch.clean.shape, held(model, port), dtype=model.dtype, requires_grad=True
        )
        for row, port in enumerate(model.graph.ports)
    }
    mask = torch.from_numpy(circuit.kept * 1.0)
    _, final = naive_run(model, batch.clean, whole(chunk), ablated, mask, offsets)
    logits = model.logits(at_answers(final, batch.answer_position))
    loss = runner.metric.loss(logits, chunk.target).sum()
    expected = torch.autograd.grad(loss, list(offsets.values()), materialize_grads=True)
    for port, gradient in zip(model.graph.ports, expected, strict=True):
        window = gradient[:, chunk.start :]
        if port in found:
            torch.testing.assert_close(found[port], window, rtol=1e-6, atol=1e-9)
        else:
            assert not window.any()


@pytest.mark.parametrize("name", SOME)
def test_the_full_circuit_has_the_gradients_of_attribution(name: str) -> None:
    model = tiny_lift(name)
    runner = Runner.create(model, tiny_pairs(lengths=(6, 4, 5)))
    (chunk,) = runner.chunks()
    found = port_gradients(runner, chunk, Circuit.full(model.graph))
    rows = [-moved_by(chunk, port, found[port]) for port in model.graph.ports]
    scores = torch.stack(rows).numpy() / len(runner.pairs)
    expected = attribute(runner, [1.0]).values
    reads = model.graph.reads
    np.testing.assert_allclose(scores[reads], expected[reads], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_are_finite_differences(name: str) -> None:
    model = tiny_lift(name)
    runner = Runner.create(model, tiny_pairs(lengths=(7, 4)), metric="nll", ablation="zero")
    (chunk,) = runner.chunks()
    batch, generator = chunk.batch, torch.Generator().manual_seed(0)
    direction = [
        torch.randn(*batch.clean.shape, held(model, port), generator=generator, dtype=model.dtype)
        for port in model.graph.ports
    ]
    zero = [torch.zeros((), dtype=model.dtype)] * len(model.graph.senders)
    everything = torch.ones(model.graph.reads.shape, dtype=model.dtype)

    def loss(step: float) -> float:
        offsets = {row: step * one for row, one in enumerate(direction)}
        _, final = naive_run(model, batch.clean, whole(chunk), zero, everything, offsets)
        logits = model.logits(at_answers(final, batch.answer_position))
        return float(runner.metric.loss(logits, chunk.target).sum())

    found = port_gradients(runner, chunk, Circuit.full(model.graph))
    slope = sum(
        float((gradient * direction[model.graph.port_index[port]]).sum())
        for port, gradient in found.items()
    )
    step = 1e-6
    assert slope == pytest.approx((loss(step) - loss(-step)) / (2 * step), rel=1e-5, abs=1e-6)


def test_a_port_whose_live_expert_no_token_is_sent_to_has_no_gradient() -> None:
    model = tiny_lift("mixtral-window-tied")
    runner = Runner.create(model, tiny_pairs(lengths=(1,)))
    (chunk,) = runner.chunks()
    graph, port = model.graph, Port.parse("m0")
    busy = chunk.clean.values.mlp[0].flatten(1).any(1).tolist()
    assert sum(busy) == 1
    for expert, sent_to in enumerate(busy):
        kept = graph.reads.copy()
        kept[graph.port_index[port] + 1 :] = False
        kept[graph.locate(Edge.parse(f"m0.e{expert}->logits"))] = True
        found = port_gradients(runner, chunk, Circuit(graph, kept))
        assert bool(found[port].any()) == sent_to


def test_a_metric_without_gradient_is_refused() -> None:
    runner = Runner.create(tiny_lift("gpt2"), tiny_pairs(), metric="accuracy")
    (chunk,) = runner.chunks()
    with pytest.raises(EdgewiseError, match="has no gradient"):
        port_gradients(runner, chunk, Circuit.full(runner.graph))


def gates_between(graph: ComputationGraph, seed: int) -> np.ndarray:
    """Draw gates, a third of them shut, a third open and the others between."""
    draw = np.random.default_rng(seed)
    gates = np.clip(draw.uniform(-1, 2, graph.reads.shape), 0, 1)
    return np.where(graph.reads, gates, 0.0)


@pytest.mark.parametrize("name", [*SOME[::3], next(iter(WHOLE_CONFIGS)), "gemma4-e"])
@pytest.mark.parametrize(("ablation", "grouped"), [("resample", False), ("zero", True)])
def test_gradients_of_gates(name: str, ablation: str, grouped: bool) -> None:
    model = tiny_lift(name, grouped_kv=grouped)
    runner = Runner.create(model, tiny_pairs(), metric="nll", ablation=ablation, batch_size=2)
    gates = gates_between(model.graph, 4)
    loss, found = gate_gradients(runner, gates)
    expected, losses = torch.zeros(gates.shape, dtype=torch.float64), []
    for chunk in runner.chunks():
        leaf = torch.from_numpy(gates).requires_grad_()
        ablated = ablated_values(runner, chunk)
        _, final = naive_run(model, chunk.batch.clean, whole(chunk), ablated, leaf)
        logits = model.logits(at_answers(final, chunk.batch.answer_position))
        value = runner.metric.loss(logits, chunk.target).sum()
        losses.append(float(value.detach()))
        expected += torch.autograd.grad(value, leaf)[0]
    assert loss == pytest.approx(sum(losses) / 3, rel=1e-6)
    right = np.where(model.graph.reads, expected.numpy() / 3, 0.0)
    np.testing.assert_allclose(found, right, rtol=1e-4, atol=1e-6 * np.abs(right).max())


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_shut_and_open_gates_are_a_circuit(share: float) -> None:
    runner = Runner.create(tiny_lift("llama"), tiny_pairs(), metric="kl")
    circuit = Circuit(runner.graph, random_mask(runner.graph, share, 5))
    loss, _ = gate_gradients(runner, circuit.kept.astype(float))
    assert loss == pytest.approx(runner.loss(circuit), rel=1e-6, abs=1e-9)


def test_few_examples_at_once_where_ports_are_many() -> None:
    runner = Runner.create(tiny_lift("llama"), tiny_pairs(), metric="kl")
    assert gated_batch(runner) == 3
