"""Masked runs by both engines: gradients in the gates, and what whole circuits are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgewise.graphs.circuit import Circuit
from edgewise.patching.compiled.circuits import CompiledCircuits
from edgewise.patching.compiled.engine import attribute as compiled
from edgewise.patching.gradients.port_gradients import gate_gradients
from edgewise.patching.run.runner import Runner
from tests.engine import fitting, tiny_lift, tiny_pairs
from tests.patching.compiled.test_parity import assert_alike

MODELS = [
    ("gpt2", "resample", False), ("gpt2", "zero", False), ("llama", "mean", True),
    ("olmo2", "resample", False), ("mixtral", "position-mean", False), ("gptj", "noise", False),
    ("deepseek3", "resample", False), ("gemma4-e", "mean", False), ("gemma2", "resample", True),
]  # fmt: skip


STEP = 2.0**-12
"""How far gates are moved for finite differences: they stay numbers that float32 knows."""


@pytest.mark.parametrize(("name", "ablation", "grouped"), MODELS)
def test_gradients_in_gates(name: str, ablation: str, grouped: bool) -> None:
    """They are torch's, and what the loss does when all gates move a little, in float64."""
    model = tiny_lift(name, grouped_kv=grouped)
    pairs = tiny_pairs(lengths=fitting(ablation, (6, 4, 5)))
    runner = Runner.create(model, pairs, metric="kl", ablation=ablation, engine="torch")
    draw, reads, together = np.random.default_rng(0), model.graph.reads, CompiledCircuits(runner)
    gates = reads * draw.integers(16, 241, reads.shape) / 256
    loss, slopes = together.gradients(gates)
    expected, other = gate_gradients(runner, gates)
    assert loss == pytest.approx(expected, rel=1e-6)
    assert_alike(slopes, other, 1e-6)
    along = reads * draw.choice([-1.0, 1.0], reads.shape)
    up, down = (together.gradients(gates + side * along)[0] for side in (STEP, -STEP))
    assert (up - down) / (2 * STEP) == pytest.approx((slopes * along).sum(), rel=1e-4)


def test_scores_are_the_gradients_where_every_gate_is_open() -> None:
    model = tiny_lift("gemma2")
    runner = Runner.create(model, tiny_pairs(lengths=(6, 4, 5)), metric="nll", engine="torch")
    slopes = CompiledCircuits(runner).gradients(model.graph.reads * 1.0)[1]
    reads = model.graph.reads
    assert_alike(-slopes[reads], compiled(runner, [1.0]).values[reads], 1e-6)


def test_all_edges_are_the_model_and_none_is_the_corrupted_prompt() -> None:
    model, pairs = tiny_lift("llama", dtype=torch.float32), tiny_pairs(lengths=(5, 5))
    runner = Runner.create(model, pairs, metric="logit_diff", engine="torch")
    both = [Circuit.full(model.graph), Circuit.empty(model.graph)]
    found, batch = CompiledCircuits(runner).logits(both), pairs.batch()
    assert model.model is not None
    for own, ids in zip(found, (batch.clean, batch.corrupted), strict=True):
        expected = model.model(input_ids=ids).logits[torch.arange(2), batch.answer_position]
        assert_alike(own, expected.detach().numpy(), 1e-5)
