"""Parity where everything is drawn: masks, gates, metrics, ablations, lengths, batches, points."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgewise.graphs.circuit import Circuit
from edgewise.patching.ablations.registry import get_ablation
from edgewise.patching.compiled.circuits import CompiledCircuits
from edgewise.patching.compiled.engine import attribute as compiled
from edgewise.patching.gradients.attribution import attribute
from edgewise.patching.gradients.port_gradients import gate_gradients
from edgewise.patching.prompts.pairs import PromptPairs
from edgewise.patching.run.runner import Runner
from tests.engine import ABLATIONS, fitting, tiny_lift, tiny_pairs
from tests.patching.compiled.test_parity import METRICS, assert_alike
from tests.patching.test_whole_answers import WHOLE, spelled_pairs

GRAPHS: list[tuple[str, dict[str, bool]]] = [
    ("gpt2", {}), ("gpt2", {"split_embedding": True}), ("llama", {}),
    ("llama", {"grouped_kv": True}), ("gemma2", {"grouped_kv": True}),
]  # fmt: skip


def beside(pairs: PromptPairs, spelled: int, seed: int = 4) -> PromptPairs:
    """Put pairs with answers of several tokens behind others."""
    return PromptPairs((*pairs, *spelled_pairs(seed, spelled))) if spelled else pairs


@settings(max_examples=5)
@example(0, "kl", "position-mean", [2], 0, 1, [0.1], 0, False, True)
@example(3, "log_prob_diff", "mean", [4, 9, 3], 2, 7, [0.5, 1.0], 1, True, False)
@given(
    which=st.integers(0, len(GRAPHS) - 1),
    metric=st.sampled_from(METRICS),
    ablation=st.sampled_from(ABLATIONS),
    lengths=st.lists(st.integers(2, 9), min_size=1, max_size=5),
    spelled=st.integers(0, 3),
    batch=st.integers(1, 7),
    points=st.lists(st.sampled_from([0.1, 0.5, 0.75, 1.0]), min_size=1, max_size=3),
    seed=st.integers(0, 99),
    wide=st.booleans(),
    shared=st.booleans(),
)
def test_attribution(
    which: int, metric: str, ablation: str, lengths: list[int], spelled: int, batch: int,
    points: list[float], seed: int, wide: bool, shared: bool,
) -> None:  # fmt: skip
    """Lengths, batches and points; also answers of several tokens, and pairs that share nothing."""
    points = [0.5] if metric == METRICS[0] and set(points) == {1.0} else points  # flat there
    name, graph = GRAPHS[which]
    model = tiny_lift(name, dtype=torch.float64 if wide else torch.float32, **graph)
    pairs = tiny_pairs(seed, lengths=fitting(ablation, tuple(lengths)), shared=shared)
    if spelled and metric in WHOLE and not get_ablation(ablation).aligned:
        pairs = beside(pairs, spelled, seed)
    runner = Runner.create(
        model, pairs, metric=metric, ablation=ablation, batch_size=batch, engine="torch"
    )
    each = np.zeros((len(pairs), model.graph.edge_count), dtype=np.float32)
    expected = attribute(runner, points).values
    found = compiled(runner, points, None, each).values
    if np.nanmax(np.abs(expected)) > 1e-6:
        assert_alike(found, expected, 1e-5 if wide else 2e-4)
    if not expected[model.graph.reads].any():  # the mean of one prompt is that prompt
        assert not found[model.graph.reads].any() and not each.any()
        return
    assert_alike(each.mean(0, dtype=np.float64), found[model.graph.reads], 1e-5)


WORLDS: dict[str, tuple[str, str, tuple[int, ...], int, int]] = {
    "nll": ("gpt2", "resample", (6, 4, 5), 2, 3),
    "kl": ("llama", "mean", (7, 3), 0, 5),
    "exp(logit(answer) / 9)": ("gemma2", "zero", (6, 4, 5), 0, 2),
}
"""By the metric: a model, an ablation, lengths, how many answers of several tokens, and a batch."""


@cache
def ready(metric: str) -> tuple[Runner, CompiledCircuits]:
    name, ablation, lengths, spelled, batch = WORLDS[metric]
    pairs = beside(tiny_pairs(lengths=lengths), spelled)
    model = tiny_lift(name, dtype=torch.float32)
    runner = Runner.create(
        model, pairs, metric=metric, ablation=ablation, batch_size=batch, engine="torch"
    )
    return runner, CompiledCircuits(runner)


@settings(max_examples=15)
@given(metric=st.sampled_from(list(WORLDS)), seed=st.integers(0, 10**6), share=st.floats(0, 1))
def test_masks_and_gates(metric: str, seed: int, share: float) -> None:
    runner, together = ready(metric)
    draw, reads = np.random.default_rng(seed), runner.graph.reads
    masks = [reads & (draw.random(reads.shape) < share) for _ in range(3)]
    circuits = [Circuit(runner.graph, mask) for mask in masks]
    found: Any = together.losses(circuits)
    expected = runner.measure_each(circuits, losses=True)[0]
    # kl is nothing where every edge is kept, of logits that are rounded all the same
    assert np.abs(found - expected).max() <= 2e-5 * max(1, np.abs(expected).max())
    gates = reads * np.clip(draw.uniform(-1, 2, reads.shape), 0, 1)
    assert_alike(together.gradients(gates)[1], gate_gradients(runner, gates)[1], 2e-4)
