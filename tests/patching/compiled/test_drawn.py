"""Parity where everything is drawn: masks, gates, metrics, ablations, lengths, batches, points."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgewise.graphs.circuit import Circuit
from edgewise.patching.compiled.circuits import CompiledCircuits
from edgewise.patching.compiled.engine import attribute as compiled
from edgewise.patching.gradients.attribution import attribute
from edgewise.patching.gradients.port_gradients import gate_gradients
from edgewise.patching.run.runner import Runner
from tests.engine import ABLATIONS, fitting, tiny_lift, tiny_pairs
from tests.patching.compiled.test_parity import METRICS, assert_alike

MODELS = ("gpt2", "llama", "gemma2")


@settings(max_examples=8)
@example("gpt2", "kl", "position-mean", [2], 1, [0.1], 0)
@given(
    name=st.sampled_from(MODELS),
    metric=st.sampled_from(METRICS),
    ablation=st.sampled_from(ABLATIONS),
    lengths=st.lists(st.integers(2, 9), min_size=1, max_size=5),
    batch=st.integers(1, 3),
    points=st.lists(st.sampled_from([0.1, 0.5, 0.75, 1.0]), min_size=1, max_size=3),
    seed=st.integers(0, 99),
)
def test_attribution(
    name: str, metric: str, ablation: str, lengths: list[int], batch: int, points: list[float],
    seed: int,
) -> None:  # fmt: skip
    points = [0.5] if metric == METRICS[0] and set(points) == {1.0} else points  # flat there
    model = tiny_lift(name, dtype=torch.float32)
    pairs = tiny_pairs(seed, lengths=fitting(ablation, tuple(lengths)))
    runner = Runner.create(
        model, pairs, metric=metric, ablation=ablation, batch_size=batch, engine="torch"
    )
    each = np.zeros((len(pairs), model.graph.edge_count), dtype=np.float32)
    expected = attribute(runner, points).values
    found = compiled(runner, points, None, each).values
    if np.nanmax(np.abs(expected)) > 1e-6:
        assert_alike(found, expected, 2e-4)
    if not expected[model.graph.reads].any():  # the mean of one prompt is that prompt
        assert not found[model.graph.reads].any() and not each.any()
        return
    assert_alike(each.mean(0), found[model.graph.reads], 1e-5)


@cache
def ready(name: str, ablation: str) -> tuple[Runner, CompiledCircuits]:
    pairs = tiny_pairs(lengths=fitting(ablation, (6, 4, 5)))
    model = tiny_lift(name, dtype=torch.float32)
    runner = Runner.create(model, pairs, metric="nll", ablation=ablation, engine="torch")
    return runner, CompiledCircuits(runner)


@settings(max_examples=25)
@given(
    which=st.sampled_from([("gpt2", "resample"), ("llama", "mean"), ("gemma2", "zero")]),
    seed=st.integers(0, 10**6),
    share=st.floats(0, 1),
)
def test_masks_and_gates(which: tuple[str, str], seed: int, share: float) -> None:
    runner, together = ready(*which)
    draw, reads = np.random.default_rng(seed), runner.graph.reads
    masks = [reads & (draw.random(reads.shape) < share) for _ in range(3)]
    circuits = [Circuit(runner.graph, mask) for mask in masks]
    found: Any = together.losses(circuits)
    assert_alike(found, runner.measure_each(circuits, losses=True)[0], 2e-5)
    gates = reads * np.clip(draw.uniform(-1, 2, reads.shape), 0, 1)
    assert_alike(together.gradients(gates)[1], gate_gradients(runner, gates)[1], 2e-4)
