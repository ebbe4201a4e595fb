"""Attribution: gradients against finite differences, and options that must not matter."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from edgewise.discovery.registry import get_method
from edgewise.graphs.errors import EdgewiseError
from edgewise.graphs.lift.lifted import Norm
from edgewise.patching.gradients.attribution import attribute
from edgewise.patching.run.runner import Runner
from edgewise.patching.trace import at_answers
from tests.configs import CONFIGS
from tests.engine import (
    WITH_GROUPS,
    ablated_values,
    fitting,
    naive_run,
    tiny_lift,
    tiny_pairs,
    whole,
)


def mask_loss(runner: Runner, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean loss of a soft mask, by the definition of a circuit's run."""
    (chunk,) = runner.chunks()
    model, batch = runner.model, chunk.batch
    ablated = ablated_values(runner, chunk)
    _, final = naive_run(model, batch.clean, whole(chunk), ablated, mask)
    logits = model.logits(at_answers(final, batch.answer_position))
    return runner.metric.loss(logits, chunk.target).mean()


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(("ablation", "grouped"), WITH_GROUPS[:-1])
def test_eap_is_the_derivative_of_the_loss_by_the_mask(
    name: str, ablation: str, grouped: bool
) -> None:
    model = tiny_lift(name, grouped_kv=grouped)
    pairs = tiny_pairs(lengths=fitting(ablation, (6, 4, 5)))
    runner = Runner.create(model, pairs, metric="logit_diff", ablation=ablation, batch_size=3)
    each = np.zeros((len(pairs), model.graph.edge_count), dtype=np.float32)
    scores = attribute(runner, [1.0], None, each)
    full = torch.ones(model.graph.reads.shape, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(mask_loss(runner, full), full)
    expected = np.where(model.graph.reads, -slope.numpy(), np.nan)  # ablating lowers the mask
    np.testing.assert_allclose(scores.values, expected, rtol=1e-4, atol=1e-6)
    mean = each.mean(0, dtype=np.float64)
    np.testing.assert_allclose(mean, expected[model.graph.reads], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("grouped", [False, True])
def test_norms_before_and_of_all_heads_together(centred: bool, grouped: bool) -> None:
    model = tiny_lift("olmo2-ungrouped" if centred else "olmo2", grouped_kv=grouped)
    weight = torch.linspace(0.5, 2, model.d_model, dtype=model.dtype)
    norm = Norm(weight, weight.flip(0), 0.01, centred=centred)
    blocks = tuple(replace(block, attention_norm=norm) for block in model.blocks)
    runner = Runner.create(replace(model, blocks=blocks), tiny_pairs(), ablation="zero")
    full = torch.ones(model.graph.reads.shape, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(mask_loss(runner, full), full)
    expected = np.where(model.graph.reads, -slope.numpy(), np.nan)
    scores = attribute(runner, [1.0]).values
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["gpt2", "llama", "mixtral", "qwen2-moe"])
def test_eap_is_the_finite_difference(name: str) -> None:
    model = tiny_lift(name, split_embedding=True)
    runner = Runner.create(model, tiny_pairs(), metric="prob_diff")
    scores = attribute(runner, [1.0])
    step = 1e-5
    full = torch.ones(model.graph.reads.shape, dtype=torch.float64)
    places = np.argwhere(model.graph.reads)
    for row, column in places[:: max(1, len(places) // 12)]:
        sides = []
        for sign in (1, -1):
            moved = full.clone()
            moved[row, column] -= sign * step
            sides.append(float(mask_loss(runner, moved)))
        difference = (sides[0] - sides[1]) / (2 * step)
        np.testing.assert_allclose(scores.values[row, column], difference, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("metric", ["logit_diff", "nll", "kl"])
def test_points_average_gradients(metric: str) -> None:
    runner = Runner.create(tiny_lift("llama-biases-tied"), tiny_pairs(), metric=metric)
    points = [0.0, 0.25, 0.7]
    together = attribute(runner, points).values
    alone = np.mean([attribute(runner, [point]).values for point in points], axis=0)
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("method", ["eap", "eap-ig", "clean-corrupted"])
def test_batches_do_not_matter(method: str) -> None:
    model, pairs = tiny_lift("gpt2"), tiny_pairs(lengths=(4, 6, 6, 3, 5))
    found = [
        get_method(method)(Runner.create(model, pairs, batch_size=size)).scores.values
        for size in (1, 2, 5)
    ]
    for values in found[1:]:
        np.testing.assert_allclose(values, found[0], rtol=1e-5, atol=1e-7)


def test_points_in_groups_are_points_together() -> None:
    runner = Runner.create(tiny_lift("llama"), tiny_pairs(lengths=(4, 6, 5)))
    points = [0.0, 0.1, 0.4, 0.6, 0.9]
    together = attribute(runner, points).values
    seen: list[tuple[int, int]] = []
    small = replace(runner, budget=replace(runner.budget, tape=1))
    apart = attribute(small, points, lambda done, total, _: seen.append((done, total)))
    np.testing.assert_allclose(apart.values, together, rtol=1e-5, atol=1e-7)
    assert seen == [(3 * i, 15) for i in range(1, 6)]


def test_midpoint_takes_the_middle_of_each_step() -> None:
    runner = Runner.create(tiny_lift("gpt2"), tiny_pairs())
    found = get_method("eap-ig")(runner, steps=2, midpoint=True).scores.values
    np.testing.assert_allclose(found, attribute(runner, [0.25, 0.75]).values)


def test_plain_eap_refuses_kl_and_says_why() -> None:
    runner = Runner.create(tiny_lift("gpt2"), tiny_pairs(), metric="kl")
    with pytest.raises(EdgewiseError, match="gradient of 'kl' is 0 at the clean run"):
        get_method("eap")(runner)


def test_a_metric_without_gradient_is_refused() -> None:
    runner = Runner.create(tiny_lift("gpt2"), tiny_pairs(), metric="accuracy")
    with pytest.raises(EdgewiseError, match="'accuracy' has no gradient"):
        get_method("eap-ig")(runner)


def test_half_precision_scores_are_close() -> None:
    pairs = tiny_pairs()
    exact = attribute(Runner.create(tiny_lift("llama"), pairs), [1.0]).values
    half = attribute(Runner.create(tiny_lift("llama", dtype=torch.bfloat16), pairs), [1.0]).values
    assert half.dtype == np.float32
    reads = ~np.isnan(exact)
    assert np.corrcoef(exact[reads], half[reads])[0, 1] > 0.99
