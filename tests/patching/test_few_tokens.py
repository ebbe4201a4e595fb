"""Metrics that read few tokens' logits get these alone; they must be those of the whole product."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgewise.patching.metrics import get_metric
from edgewise.patching.runner import Runner
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

    monkeypatch.setattr("edgewise.graphs.lifted.LiftedModel.logits", refuse)
    np.testing.assert_array_equal(again.mask_losses(mask), wanted)
    with pytest.raises(AssertionError):
        again.with_metric("kl").mask_losses(mask)
