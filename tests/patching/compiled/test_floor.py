"""What rounding may do to a metric comes with the scores, and is what torch's runs say."""

from __future__ import annotations

import numpy as np
import pytest

from edgewise.discovery.registry import get_method
from edgewise.patching.compiled.engine import attribute as compiled
from edgewise.patching.prompts.pairs import PromptPairs
from edgewise.patching.run.floors import rounding_floor
from edgewise.patching.run.runner import Runner
from tests.engine import fitting, tiny_lift, tiny_pairs
from tests.patching.test_whole_answers import spelled_pairs


@pytest.mark.parametrize(
    ("name", "metric", "ablation"),
    [
        ("llama", "kl", "resample"),
        ("llama", "exp(logit(answer) / 9)", "mean"),
        ("olmo2", "logit_diff", "zero"),
        ("gemma4-e", "nll", "mean"),
    ],
)
def test_it_is_torchs(name: str, metric: str, ablation: str) -> None:
    pairs = tiny_pairs(lengths=fitting(ablation, (6, 4, 5)))
    runner = Runner.create(tiny_lift(name), pairs, metric=metric, ablation=ablation, batch_size=2)
    compiled(runner, [0.5])
    assert np.isclose(runner.floor, rounding_floor(runner.chunks(), runner.metric), rtol=1e-4)


def test_answers_of_several_tokens() -> None:
    pairs = PromptPairs((*tiny_pairs(lengths=(5, 6)), *spelled_pairs(4, 3)))
    runner = Runner.create(tiny_lift("llama"), pairs, metric="log_prob_diff", batch_size=2)
    compiled(runner, [0.5])
    assert np.isclose(runner.floor, rounding_floor(runner.chunks(), runner.metric), rtol=1e-4)


def test_no_run_of_torchs_is_paid_for() -> None:
    model = tiny_lift("llama")
    runner = Runner.create(model, tiny_pairs(), metric="logit_diff", engine="jax")
    get_method("eap")(runner)
    assert not runner._kept.chunks
    other = runner.with_metric("nll")
    assert other.floor != runner.floor and not runner._kept.chunks
