"""Integrated gradients in activations: what they add up to, and where they are other scores."""

from __future__ import annotations

import numpy as np
import pytest

from edgewise.discovery.registry import get_method
from edgewise.graphs.scores import Scores
from edgewise.patching.gradients.layerwise.activations import places
from edgewise.patching.run.runner import Runner
from tests.engine import tiny_lift, tiny_pairs
from tests.patching.test_rules import linear

NAME = "eap-ig-activations"


def made(family: str, **how: object) -> Runner:
    return Runner.create(tiny_lift(family), tiny_pairs(lengths=(6, 4, 5)), **how)  # type: ignore[arg-type]


def scored(runner: Runner, **options: object) -> Scores:
    return get_method(NAME)(runner, **options).scores


@pytest.mark.parametrize(
    ("family", "ablation"),
    [("gpt2", "resample"), ("llama", "mean"), ("gptj", "resample"), ("gemma3", "mean")],
)
def test_edges_out_of_a_place_add_up_to_the_effect_of_ablating_all_of_it(
    family: str, ablation: str
) -> None:
    runner = made(family, metric="logit_diff", ablation=ablation)
    graph = runner.graph
    values = scored(runner, steps=60, midpoint=True).values
    every = list(places(graph).values())
    assert sorted(column for some in every for column in some) == list(range(len(graph.senders)))
    masks = np.repeat(graph.reads[None], len(every), 0)
    for mask, columns in zip(masks, every, strict=True):
        mask[:, columns] = False
    effects = runner.mask_losses(masks) - runner.mask_losses(graph.reads[None])
    found = [np.nansum(values[:, columns]) for columns in every]
    np.testing.assert_allclose(found, effects, rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("family", ["gpt2", "gemma3", "mixtral", "mamba", "gemma3n"])
def test_one_step_is_the_gradient_at_the_clean_run(family: str) -> None:
    runner = made(family, metric="logit_diff")
    expected = get_method("eap")(runner).scores.values
    np.testing.assert_allclose(scored(runner, steps=1).values, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", ["gpt2", "mixtral", "gemma3n"])
def test_scores_on_each_example_are_those_of_its_pair_alone(family: str) -> None:
    runner = made(family, metric="logit_diff", batch_size=2)
    found = get_method(NAME)(runner, steps=2, per_example=True)
    assert found.examples is not None
    np.testing.assert_allclose(
        found.examples.mean().values, found.scores.values, rtol=1e-4, atol=1e-6
    )
    pairs = runner.pairs
    first = Runner.create(runner.model, type(pairs)(pairs.pairs[:1]), metric="logit_diff")
    alone = scored(first, steps=2).values[runner.graph.reads]
    np.testing.assert_allclose(found.examples.values[0], alone, rtol=1e-4, atol=1e-6)


def test_neurons_of_an_mlp_write_at_its_place() -> None:
    plain = made("llama", metric="logit_diff")
    model = plain.model.with_neurons([1])
    runner = Runner.create(model, plain.pairs, metric="logit_diff")
    expected = get_method("eap")(runner).scores.values
    np.testing.assert_allclose(scored(runner, steps=1).values, expected, rtol=1e-4, atol=1e-6)
    assert len(places(model.graph)) == len(places(plain.graph))


def test_memory_for_tapes_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgewise.patching.gradients.layerwise import activations

    runner = made("llama", metric="nll")
    expected = scored(runner, steps=3, midpoint=True).values
    monkeypatch.setattr(activations, "groups", lambda chunk, shares, _: [[x] for x in shares])
    found = scored(runner, steps=3, midpoint=True).values
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_where_all_is_linear_it_is_exact() -> None:
    runner = Runner.create(linear(), tiny_pairs(lengths=(5, 5)), metric="logit_diff")
    exact = get_method("exact")(runner).scores.values
    for steps in (1, 3):
        found = scored(runner, steps=steps).values
        np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-5)
