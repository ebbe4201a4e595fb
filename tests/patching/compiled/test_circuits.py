"""Masked runs by both engines: losses, logits, and gradients in the gates."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgewise.graphs.circuit import Circuit
from edgewise.patching.compiled.circuits import CompiledCircuits
from edgewise.patching.gradients.port_gradients import gate_gradients
from edgewise.patching.run.runner import Runner
from tests.engine import fitting, tiny_lift, tiny_pairs
from tests.patching.compiled.test_parity import assert_alike

MODELS = [
    ("gpt2", "resample", False), ("gpt2", "zero", False), ("llama", "mean", True),
    ("olmo2", "resample", False), ("mixtral", "position-mean", False), ("gptj", "noise", False),
    ("deepseek3", "resample", False), ("gemma4-e", "mean", False), ("gemma2", "resample", True),
]  # fmt: skip


@pytest.mark.parametrize(("name", "ablation", "grouped"), MODELS)
def test_circuits_and_gates(name: str, ablation: str, grouped: bool) -> None:
    """All edges, none, and some at random; gates between 0 and 1; in batches of two lengths."""
    model = tiny_lift(name, dtype=torch.float32, grouped_kv=grouped)
    pairs = tiny_pairs(lengths=fitting(ablation, (6, 4, 5)))
    runner = Runner.create(
        model, pairs, metric="kl", ablation=ablation, batch_size=2, engine="torch"
    )
    draw, reads = np.random.default_rng(0), model.graph.reads
    shares = (1.0, 0.9, 0.5, 0.1, 0.0)
    circuits = [Circuit(model.graph, reads & (draw.random(reads.shape) < q)) for q in shares]
    together = CompiledCircuits(runner)
    assert_alike(together.losses(circuits), runner.measure_each(circuits, losses=True)[0], 1e-5)
    assert_alike(together.logits(circuits), runner.logits(circuits).numpy(), 1e-5)
    gates = reads * draw.random(reads.shape)
    loss, slopes = together.gradients(gates)
    expected, other = gate_gradients(runner, gates)
    assert loss == pytest.approx(expected, rel=1e-4)
    assert_alike(slopes, other)


def test_all_edges_are_the_model_and_none_is_the_corrupted_prompt() -> None:
    model, pairs = tiny_lift("llama", dtype=torch.float32), tiny_pairs(lengths=(5, 5))
    runner = Runner.create(model, pairs, metric="logit_diff", engine="torch")
    both = [Circuit.full(model.graph), Circuit.empty(model.graph)]
    found, batch = CompiledCircuits(runner).logits(both), pairs.batch()
    assert model.model is not None
    for own, ids in zip(found, (batch.clean, batch.corrupted), strict=True):
        expected = model.model(input_ids=ids).logits[torch.arange(2), batch.answer_position]
        assert_alike(own, expected.detach().numpy(), 1e-5)
