"""Both engines compute the same: each is the other's certificate."""

from __future__ import annotations

from typing import Any
from zlib import crc32

import numpy as np
import pytest
import torch

from edgewise.graphs.circuit import Circuit
from edgewise.graphs.errors import UnsupportedModel
from edgewise.graphs.lift.lifted import LiftedModel
from edgewise.patching.compiled.circuits import CompiledCircuits
from edgewise.patching.compiled.engine import attribute as compiled
from edgewise.patching.compiled.model import require_by_head
from edgewise.patching.gradients.attribution import attribute
from edgewise.patching.prompts.pairs import PromptPairs
from edgewise.patching.run.runner import Runner
from tests.configs import ALL, EVERY
from tests.engine import ABLATIONS, UNGROUPED, fitting, random_mask, tiny_lift, tiny_pairs
from tests.patching.test_whole_answers import spelled_pairs

SCORES = 1e-4
"""How far scores may differ, in parts of the largest."""

LOGITS = 1e-5
"""How far logits may differ, in parts of the largest."""

SAID = r"(its node [sm]\d+ is taken whole and runs|its layers read several streams).* 'torch'\."
"""What is said where only torch can run a model."""


UNSTEADY = ("gemma4-e-mixture",)
"""Random weights with which float32 is not enough: the model's own logits are off by 1.2e-5."""


def lift(name: str, **graph: Any) -> LiftedModel:
    return tiny_lift(name, dtype=torch.float32, **graph)


def assert_alike(found: np.ndarray, expected: np.ndarray, within: float = SCORES) -> None:
    assert np.array_equal(np.isnan(found), np.isnan(expected))
    there = ~np.isnan(expected)
    largest = np.abs(expected[there]).max()
    assert largest > 0
    assert np.abs(found - expected)[there].max() <= within * largest


@pytest.mark.parametrize("name", EVERY)
def test_every_configuration_with_heads(name: str) -> None:
    """Scores, and logits and losses of circuits; every second one has a port for each group.

    Lengths differ within the batch, and some positions are left out.
    """
    grouped = crc32(name.encode()) % 2 == 0 and name not in UNGROUPED
    wide = torch.float64 if name in UNSTEADY else torch.float32
    model = tiny_lift(name, dtype=wide, grouped_kv=grouped)
    pairs = tiny_pairs(lengths=(6, 4, 5))
    runner = Runner.create(model, pairs, metric="logit_diff", engine="torch")
    assert_alike(compiled(runner, [1.0]).values, attribute(runner, [1.0]).values)
    some = Circuit(model.graph, random_mask(model.graph, 0.7, crc32(name.encode())))
    circuits, together = [Circuit.full(model.graph), some], CompiledCircuits(runner)
    logits = runner.logits(circuits).numpy()
    for found, expected in zip(together.logits(circuits), logits, strict=True):
        assert_alike(found, expected, LOGITS)
    losses = runner.measure_each(circuits, losses=True)[0]
    assert np.abs(together.losses(circuits) - losses).max() <= 2 * LOGITS * np.abs(logits).max()


@pytest.mark.parametrize("name", [name for name in ALL if name not in EVERY])
def test_what_has_parts_taken_whole_is_refused_in_words(name: str) -> None:
    """These alone: all others run."""
    model = lift(name)
    whole = model.spread is not None or any(
        hasattr(part, "calls") for block in model.blocks for part in (block.attention, block.mlp)
    )
    assert whole
    with pytest.raises(UnsupportedModel, match=SAID):
        require_by_head(model)


SOME = ("gpt2", "gemma4-e")


@pytest.mark.parametrize(
    ("name", "grouped"),
    [("gpt2", False), ("llama", True), ("olmo2", True), ("mixtral", False), ("gemma4-e", False)],
)
def test_points_between_embeddings(name: str, grouped: bool) -> None:
    model = lift(name, grouped_kv=grouped, split_embedding=name == "gpt2")
    runner = Runner.create(model, tiny_pairs(lengths=(6, 4, 5)), metric="nll")
    points = [0.0, 0.5, 1.0]
    assert_alike(compiled(runner, points).values, attribute(runner, points).values)


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("ablation", [*ABLATIONS[:1], *ABLATIONS[2:]])
def test_every_ablation(name: str, ablation: str) -> None:
    pairs = tiny_pairs(lengths=fitting(ablation, (6, 4, 5)))
    runner = Runner.create(lift(name), pairs, metric="logit_diff", ablation=ablation)
    assert_alike(compiled(runner, [1.0]).values, attribute(runner, [1.0]).values)


METRICS = [
    "kl", "logit_diff", "prob_diff", "nll", "log_prob_diff", "p(answer) / p(distractor)",
    "minimize: max(logit(distractor), 0.1) * abs(logprob(answer)) - sqrt(p(answer))",
    "log(p(answer) + p(distractor)) ** 2", "exp(logit(answer) / 9)",
    "min(logprob(answer), logprob(distractor))",
]  # fmt: skip


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric(metric: str) -> None:
    runner = Runner.create(lift("llama"), tiny_pairs(lengths=(6, 4, 5)), metric=metric)
    points = [0.0, 0.5]
    assert_alike(compiled(runner, points).values, attribute(runner, points).values)


def test_scores_on_each_example_and_their_mean() -> None:
    pairs = tiny_pairs(lengths=(6, 3, 5, 6, 4))
    for name in ("gpt2", "mixtral"):
        runner = Runner.create(lift(name), pairs, metric="logit_diff", batch_size=2)
        size = (len(pairs), runner.graph.edge_count)
        one, other = (np.zeros(size, dtype=np.float32) for _ in range(2))
        scores = compiled(runner, [0.0, 1.0], None, one)
        attribute(runner, [0.0, 1.0], None, other)
        assert_alike(one, other)
        mean = one.mean(0, dtype=np.float64)
        assert_alike(mean, scores.values[runner.graph.reads], 1e-6)


@pytest.mark.parametrize("metric", ["kl", "nll", "log_prob_diff"])
@pytest.mark.parametrize(("ablation", "size"), [("resample", 2), ("mean", 3)])
def test_answers_of_several_tokens(metric: str, ablation: str, size: int) -> None:
    """Plain pairs among spelled ones; per example too; circuits' losses on them."""
    pairs = PromptPairs((*tiny_pairs(lengths=(5, 6)), *spelled_pairs(4, 3)))
    runner = Runner.create(lift("llama"), pairs, metric=metric, ablation=ablation, batch_size=size)
    one, other = (
        np.zeros((len(pairs), runner.graph.edge_count), dtype=np.float32) for _ in range(2)
    )
    found = compiled(runner, [0.3, 0.8], None, one).values
    assert_alike(found, attribute(runner, [0.3, 0.8], None, other).values)
    assert_alike(one, other)
    assert_alike(compiled(runner, [0.3, 0.8]).values, found, 1e-5)
    circuit = Circuit(runner.graph, runner.graph.reads & (found > 0))
    losses = CompiledCircuits(runner).losses([circuit])
    assert_alike(losses, runner.measure_each([circuit], losses=True)[0], 1e-5)
