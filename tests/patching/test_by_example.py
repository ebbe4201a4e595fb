"""Scores on each example: their mean is the score, and each is that of a run of its pair alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from edgewise.discovery.registry import get_method, methods
from edgewise.graphs.errors import EdgewiseError
from edgewise.graphs.example_scores import ExampleScores
from edgewise.patching.gradients import attribution
from edgewise.patching.gradients.attribution import attribute
from edgewise.patching.incremental import readout, search
from edgewise.patching.prompts.pairs import PromptPairs
from edgewise.patching.run.runner import Runner
from edgewise.patching.trace import at_answers
from tests.engine import (
    ABLATIONS,
    ablated_values,
    fitting,
    naive_run,
    one_of_each_type,
    tiny_lift,
    tiny_pairs,
    whole,
)
from tests.patching.test_whole_answers import spelled_pairs

GRADIENTS = [name for name, one in methods().items() if one.gradient and one.by_example]
SOME = ["gpt2", "llama", "gptj", "gemma2", "mistral-window", "mixtral", "olmo2", "gemma4-e"]


def scored(runner: Runner, points: list[float]) -> tuple[np.ndarray, ExampleScores]:
    """Return the scores of all edges as they are without examples, and those on each example."""
    graph = runner.graph
    each = np.zeros((len(runner.pairs), graph.edge_count), dtype=np.float32)
    plain = attribute(runner, points).values
    np.testing.assert_array_equal(attribute(runner, points, None, each).values, plain)
    return plain, ExampleScores(graph, each, runner.pairs.groups)


@pytest.mark.parametrize("name", one_of_each_type(copies=False).values())
def test_the_mean_over_examples_is_the_score(name: str) -> None:
    model = tiny_lift(name, grouped_kv=len(name) % 2 == 0)
    runner = Runner.create(model, tiny_pairs(lengths=(6, 4, 5)), batch_size=2)
    plain, found = scored(runner, [0.0, 0.5, 1.0])
    np.testing.assert_allclose(found.mean().values, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("ablation", ABLATIONS)
def test_an_example_has_the_scores_of_its_pair_alone(name: str, ablation: str) -> None:
    model = tiny_lift(name)
    pairs = tiny_pairs(lengths=fitting(ablation, (6, 3, 5, 4)))
    options = {"metric": "logit_diff", "ablation": ablation}
    plain, found = scored(Runner.create(model, pairs, **options, batch_size=3), [0.5, 1.0])
    np.testing.assert_allclose(found.mean().values, plain, rtol=1e-5, atol=1e-6)
    for i, pair in enumerate(pairs):
        alone = Runner.create(model, PromptPairs((pair,)), **options, reference=pairs)
        expected = attribute(alone, [0.5, 1.0]).values[model.graph.reads]
        np.testing.assert_allclose(found.values[i], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", SOME)
def test_an_example_has_the_derivative_of_its_own_loss(name: str) -> None:
    model, pairs = tiny_lift(name), tiny_pairs(lengths=(6, 4))
    runner = Runner.create(model, pairs, metric="logit_diff", batch_size=2)
    _, found = scored(runner, [1.0])
    (chunk,) = runner.chunks()
    mask = torch.ones(model.graph.reads.shape, dtype=torch.float64, requires_grad=True)
    _, final = naive_run(
        model, chunk.batch.clean, whole(chunk), ablated_values(runner, chunk), mask
    )
    logits = model.logits(at_answers(final, chunk.batch.answer_position))
    for loss, row in zip(runner.metric.loss(logits, chunk.target), runner._rows[0], strict=True):
        (slope,) = torch.autograd.grad(loss, mask, retain_graph=True)
        expected = -slope.numpy()[model.graph.reads]  # ablating lowers the mask
        np.testing.assert_allclose(found.values[row], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gptj", "gemma2", "mistral-window"])
@pytest.mark.parametrize("metric", ["nll", "log_prob_diff"])
def test_answers_of_several_tokens_with_several_reads_and_runs(name: str, metric: str) -> None:
    model, pairs = tiny_lift(name), spelled_pairs(seed=3)
    assert max(len(pair.runs) for pair in pairs) > 1
    plain, found = scored(Runner.create(model, pairs, metric=metric, batch_size=2), [0.0, 1.0])
    np.testing.assert_allclose(found.mean().values, plain, rtol=1e-5, atol=1e-6)
    for i, pair in enumerate(pairs):
        alone = Runner.create(model, PromptPairs((pair,)), metric=metric)
        expected = attribute(alone, [0.0, 1.0]).values[model.graph.reads]
        np.testing.assert_allclose(found.values[i], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", GRADIENTS)
@pytest.mark.parametrize("size", [1, 2, 5])
def test_batches_and_groups_of_points_do_not_matter(
    method: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, pairs = tiny_lift("llama", split_embedding=True), tiny_pairs(lengths=(4, 6, 6, 3, 5))
    usual = get_method(method)(Runner.create(model, pairs, batch_size=3), per_example=True).examples
    monkeypatch.setattr(attribution, "ROWS_AT_ONCE", 7)
    runner = Runner.create(model, pairs, batch_size=size)
    runner = replace(runner, budget=replace(runner.budget, tape=1))
    found = get_method(method)(runner, per_example=True)
    assert usual is not None
    assert found.examples is not None
    np.testing.assert_allclose(found.examples.values, usual.values, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        found.examples.mean().values, found.scores.values, rtol=1e-5, atol=1e-6
    )


def test_a_pair_at_which_nothing_moves_has_scores_of_zero() -> None:
    first, second = tiny_pairs(lengths=(5, 5))
    pairs = PromptPairs((replace(first, corrupted=first.clean), second))
    _, found = scored(Runner.create(tiny_lift("gpt2"), pairs), [1.0])
    assert not found.values[0].any()
    assert found.values[1].any()


def test_a_method_that_gives_none_is_refused() -> None:
    runner = Runner.create(tiny_lift("gpt2"), tiny_pairs())
    with pytest.raises(EdgewiseError, match="'acdc' gives no scores on each example; accepted: "):
        get_method("acdc")(runner, per_example=True)


@pytest.mark.parametrize(
    ("name", "metric", "by_runs"),
    [
        ("gpt2", "logit_diff", False),
        ("llama", "kl", False),
        ("gemma2", "nll", False),
        ("gptj", "prob_diff", False),
        ("gpt2", "kl", True),
    ],
)
def test_exact_effects_on_each_example(
    name: str, metric: str, by_runs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if by_runs:
        monkeypatch.setattr(search, "make_search", search.Search)
    else:
        monkeypatch.setattr(readout, "SIZES", (2, 5))  # so that `kl` and `nll` are bounded
    model, pairs = tiny_lift(name), tiny_pairs(lengths=(6, 3, 5))
    exact = get_method("exact")
    runner = Runner.create(model, pairs, metric=metric, batch_size=2)
    plain, found = exact(runner), exact(runner, per_example=True)
    assert found.examples is not None
    assert found.questions == plain.questions == model.graph.edge_count
    np.testing.assert_allclose(found.scores.values, plain.scores.values, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(
        found.examples.mean().values, found.scores.values, rtol=1e-5, atol=1e-7
    )
    for i, pair in enumerate(pairs):
        alone = exact(Runner.create(model, PromptPairs((pair,)), metric=metric)).scores
        expected = alone.values[model.graph.reads]
        np.testing.assert_allclose(found.examples.values[i], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("metric", ["kl", "log_prob_diff"])
def test_exact_effects_with_answers_of_several_tokens(metric: str) -> None:
    model, pairs, exact = tiny_lift("llama"), spelled_pairs(seed=3), get_method("exact")
    found = exact(Runner.create(model, pairs, metric=metric, batch_size=2), per_example=True)
    assert found.examples is not None
    for i, pair in enumerate(pairs):
        alone = exact(Runner.create(model, PromptPairs((pair,)), metric=metric)).scores
        expected = alone.values[model.graph.reads]
        np.testing.assert_allclose(found.examples.values[i], expected, rtol=1e-4, atol=1e-6)
