"""Metrics that read few tokens' logits get these alone; they must be those of the whole product."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgewise.graphs.circuit import Circuit
from edgewise.patching.incremental.readout import Readout, make_readout
from edgewise.patching.metrics.metric import Metric, Target
from edgewise.patching.metrics.registry import get_metric
from edgewise.patching.run.runner import Runner
from tests.configs import CONFIGS
from tests.engine import random_mask, tiny_lift, tiny_pairs


@pytest.mark.parametrize("name", CONFIGS)
def test_few_logits_are_those_of_the_whole_vocabulary(name: str) -> None:
    runner = Runner.create(tiny_lift(name), tiny_pairs(lengths=(6, 4, 5)), batch_size=2)
    metric = get_metric("logit_diff")
    masks = np.stack([random_mask(runner.graph, density, 0) for density in (0.1, 0.5, 1.0)])
    expected = sum(
        metric.loss(runner.chunk_logits(chunk, masks), chunk.target).sum(-1)
        for chunk in runner.chunks()
    )
    assert isinstance(expected, torch.Tensor)
    found = runner.mask_losses(masks)
    np.testing.assert_allclose(found, expected.numpy() / 3, rtol=1e-12, atol=1e-12)


def test_the_whole_vocabulary_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Runner.create(tiny_lift("llama"), tiny_pairs())
    mask = random_mask(runner.graph, 0.5, 0)[None]
    wanted = runner.mask_losses(mask)
    again = Runner.create(tiny_lift("llama"), tiny_pairs())

    def refuse(*_: object) -> torch.Tensor:
        raise AssertionError("all logits were asked for")

    monkeypatch.setattr("edgewise.graphs.lift.lifted.LiftedModel.logits", refuse)
    np.testing.assert_array_equal(again.mask_losses(mask), wanted)
    with pytest.raises(AssertionError):
        again.with_metric("kl").mask_losses(mask)


def test_a_metric_that_compares_with_the_clean_run_gets_all_logits() -> None:
    def gap(logits: torch.Tensor, target: Target) -> torch.Tensor:
        assert target.clean_logits is not None
        rows = torch.arange(len(target.answers))
        first = target.answers[:, 0]
        return logits[..., rows, first] - target.clean_logits[rows, first]

    both = Metric("gap", gap, larger_is_better=True, needs_clean_logits=True, tokens_only=True)
    runner = Runner.create(tiny_lift("gpt2"), tiny_pairs(), metric=both)
    full = random_mask(runner.graph, 1.0, 0)[None]
    np.testing.assert_allclose(runner.mask_losses(full), 0, atol=1e-12)
    (chunk,) = runner.chunks()
    assert type(make_readout(chunk, both)) is Readout


def test_a_metric_gives_the_same_number_in_any_company() -> None:
    runner = Runner.create(tiny_lift("llama", dtype=torch.float32), tiny_pairs())
    circuit = Circuit(runner.graph, random_mask(runner.graph, 0.4, 0))
    metrics = [get_metric(name) for name in ("kl", "logit_diff", "accuracy")]
    together = runner.measure([circuit], metrics)
    alone = [runner.measure([circuit], [metric])[0] for metric in metrics]
    np.testing.assert_array_equal(together, np.stack(alone))


def test_one_stream_is_read_like_several() -> None:
    runner = Runner.create(tiny_lift("gpt2"), tiny_pairs())
    (chunk,) = runner.chunks()
    streams = torch.randn(3, len(chunk.batch), chunk.model.d_model, dtype=torch.float64)
    several = chunk.answer_logits.logits(streams)
    torch.testing.assert_close(chunk.answer_logits.logits(streams[1]), several[1])
