"""Information flow routes: shares by hand, and what must hold for every model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgewise.discovery.registry import get_method
from edgewise.graphs.names import Port
from edgewise.patching.prompts.pairs import PromptPairs
from edgewise.patching.run.runner import Runner
from tests.engine import tiny_lift, tiny_pairs
from tests.patching.test_ablations import model, prompts

__all__ = ["model"]

NAME = "information-flow-routes"


def shares(*writes: list[float]) -> np.ndarray:
    """Return each write's share in their sum."""
    x = np.sum(writes, 0)
    close = [max(0.0, np.abs(x).sum() - np.abs(x - w).sum()) for w in writes]
    return np.array(close) / sum(close)


def test_by_hand(model) -> None:  # type: ignore[no-untyped-def]
    """The embedding writes (1, 0), the head (2, 6), the MLP (6, −6): see the tests of ablations."""
    runner = Runner.create(model, prompts((0,)), ablation="zero")
    found = get_method(NAME)(runner).scores
    for edge in ("embed->a0.h0<q>", "embed->a0.h0<k>", "embed->a0.h0<v>"):
        assert found[edge] == 1
    middle = shares([1, 0], [2, 6])
    assert found["embed->m0"] == pytest.approx(middle[0])
    assert found["a0.h0->m0"] == pytest.approx(middle[1])
    last = shares([1, 0], [2, 6], [6, -6])
    names = ("embed->logits", "a0.h0->logits", "m0->logits")
    np.testing.assert_allclose([found[name] for name in names], last, rtol=1e-6)


@pytest.mark.parametrize("family", ["gpt2", "gptj", "gemma3", "mixtral", "gemma3n", "mamba"])
def test_shares_of_a_port_add_up_to_one(family: str) -> None:
    runner = Runner.create(tiny_lift(family), tiny_pairs(lengths=(6, 4, 5)), batch_size=2)
    found = get_method(NAME)(runner, per_example=True)
    values, graph = found.scores.values, runner.graph
    assert np.nanmin(values) >= 0
    sums = np.nansum(values, 1)
    assert (sums < 1 + 1e-5).all()
    assert np.median(sums) == pytest.approx(1, abs=1e-5)
    assert found.examples is not None
    np.testing.assert_allclose(found.examples.mean().values, values, rtol=1e-4, atol=1e-6)
    logits = graph.port_index[Port.parse("logits")]
    assert sums[logits] == pytest.approx(1, abs=1e-5)


def test_neither_ablation_nor_metric_nor_batches_count() -> None:
    pairs = tiny_pairs(lengths=(6, 4, 5))
    values = [
        get_method(NAME)(Runner.create(tiny_lift("llama"), pairs, **how)).scores.values
        for how in (
            {"ablation": "resample", "metric": "kl"},
            {"ablation": "mean", "metric": "logit_diff", "batch_size": 1},
        )
    ]
    np.testing.assert_allclose(values[0], values[1], rtol=1e-5, atol=1e-7)


def test_what_stands_behind_the_answer_and_padding_count_for_nothing() -> None:
    lift, pairs = tiny_lift("gpt2"), tiny_pairs(lengths=(6,))
    (pair,) = pairs.pairs
    end = pair.answer_position + 1
    cut = type(pair)(pair.clean[:end], None, pair.answers, pair.distractors)
    both = [
        get_method(NAME)(Runner.create(lift, PromptPairs(some), ablation="zero")).scores.values
        for some in ((cut,), (pair,))
    ]
    np.testing.assert_allclose(both[0], both[1], rtol=1e-5, atol=1e-7)
    assert torch.tensor(both[0]).isfinite().sum() == lift.graph.edge_count
