"""What hidden units write: together they are the MLP, and each is a path of its own."""

from __future__ import annotations

import numpy as np
import pytest

from edgewise.graphs.errors import EdgewiseError, UnsupportedModel
from edgewise.patching.heads.direct import Direct
from edgewise.patching.heads.neurons import unit_effects, unit_logits, unit_patches
from edgewise.patching.paths import patch_paths
from edgewise.patching.run.runner import Runner
from edgewise.steps.claims.neurons import neurons_found
from tests.engine import tiny_lift, tiny_pairs

LENGTHS = (5, 6, 4, 6, 5, 6)


def runner_of(name: str, **how: object) -> Runner:
    return Runner.create(
        tiny_lift(name), tiny_pairs(lengths=LENGTHS), **{"metric": "nll", "batch_size": 2, **how}
    )


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("layer", [0, 1])
def test_units_are_patched_as_paths_are(name: str, layer: int) -> None:
    runner = runner_of(name)
    nothing, whole, one, two = unit_patches(runner, layer, [[], None, [3], [3, 5]]).mean(1)
    (mlp,) = patch_paths(runner, [f"m{layer}->logits"])
    split = Runner.create(
        runner.model.with_neurons([layer]), runner.pairs, metric="nll", batch_size=2
    )
    paths = [f"m{layer}.n3->logits", f"m{layer}.n5->logits"]
    assert (nothing, whole) == pytest.approx((mlp.loss_before, mlp.loss_after))
    assert one == pytest.approx(patch_paths(split, paths[:1])[0].loss_after)
    assert two == pytest.approx(patch_paths(split, paths, together=True)[0].loss_after)
    assert len({nothing, whole, one, two}) == 4


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_what_units_add_to_tokens_is_their_direct_effect_and_adds_up_to_the_mlps(name: str) -> None:
    runner = runner_of(name)
    effects = unit_effects(runner, 1)
    units, vocabulary = range(len(effects)), range(len(runner.model.unembed.weight))
    added = unit_logits(runner, 1, units, vocabulary)  # [I, E, V]
    for place, pair in enumerate(runner.pairs):
        answers = added[:, place, list(pair.answers)].mean(-1)
        expected = answers - added[:, place, list(pair.distractors)].mean(-1)
        assert effects[:, place] == pytest.approx(expected)
    (chunk, *_) = Runner.create(runner.model, runner.pairs, metric="nll").chunks()
    batch, last = chunk.batch, chunk.clean.values.mlp[1][0] - chunk.base.values.mlp[1][0]
    final = chunk.at_answers(chunk.clean.streams.final)
    direct = Direct(runner.model, final, batch.answers, batch.distractors)
    mlp = direct.difference(direct.normed(chunk.at_answers(last)[None]))[0]
    rows = next(iter(Runner.create(runner.model, runner.pairs, metric="nll").rows_and_chunks()))[0]
    assert effects.sum(0)[rows] == pytest.approx(mlp.numpy())


def test_the_largest_units_are_chosen_on_some_pairs_and_measured_on_others() -> None:
    runner = runner_of("gpt2", metric="kl")
    others = runner.on(tiny_pairs(seed=5, lengths=LENGTHS))
    found = neurons_found(runner, others, 1, tokens=(0, 1, 2), top=3, draws=4)
    means = np.abs(unit_effects(runner, 1).mean(1))
    assert [one.unit for one in found.units] == np.argsort(-means)[:3].tolist()
    direct = unit_effects(others, 1)[found.units[0].unit].mean()
    assert found.units[0].direct.value == pytest.approx(direct)
    clean, whole, own = unit_patches(others, 1, [[], None, [one.unit for one in found.units]])
    assert found.part.value == pytest.approx((whole - clean).mean())
    assert found.chosen.value == pytest.approx((own - clean).mean() / (whole - clean).mean())
    assert len(found.random) == 4
    assert sum(found.units[0].adds) == pytest.approx(0)
    assert all(sum(values) == pytest.approx(0) for _, values in found.together)
    answers = {ids for ids, _ in found.together}
    assert answers == {tuple(pair.answers) for pair in others.pairs}


def test_batches_do_not_matter() -> None:
    one, three = (unit_effects(runner_of("llama", batch_size=n), 0) for n in (1, 3))
    assert one == pytest.approx(three)


def test_what_has_no_units_to_tell_apart_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="the neurons of m0 cannot be told apart"):
        unit_effects(runner_of("mixtral"), 0)
    with pytest.raises(EdgewiseError, match="there is no m7"):
        unit_effects(runner_of("gpt2"), 7)
    with pytest.raises(EdgewiseError, match="ablation 'zero' takes nothing; accepted: one that"):
        unit_effects(runner_of("gpt2", ablation="zero"), 0)
    runner = runner_of("gpt2")
    with pytest.raises(EdgewiseError, match="top is 0; accepted: 1 to"):
        neurons_found(runner, runner, 0, top=0)
