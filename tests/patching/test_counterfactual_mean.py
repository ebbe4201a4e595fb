"""Counterfactual mean: what partners are, what is averaged over them, what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from edgewise.experiment.spec import DiscoverySpec
from edgewise.graphs.circuit import Circuit
from edgewise.graphs.errors import EdgewiseError, PromptError
from edgewise.patching.ablations.registry import get_ablation
from edgewise.patching.prompts.pairs import Pair, PromptPairs
from edgewise.patching.run.runner import Runner
from tests.engine import random_mask, tiny_lift, tiny_pairs

NAME = "counterfactual-mean"


def alike(number: int = 5, groups: tuple[str, ...] = ("",)) -> PromptPairs:
    """Make pairs of one length, in turn of some groups."""
    pairs = tiny_pairs(seed=3, lengths=(5,) * number).pairs
    labels = (groups[i % len(groups)] for i in range(number))
    both = zip(pairs, labels, strict=True)
    return PromptPairs(tuple(replace(one, group=label, answer_position=4) for one, label in both))


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3"])
def test_with_one_partner_it_is_resample(family: str) -> None:
    lift, pairs = tiny_lift(family), tiny_pairs(lengths=(6, 4, 5))
    graph = lift.graph
    circuits = [Circuit(graph, random_mask(graph, 0.5, seed)) for seed in range(3)]
    circuits += [Circuit.empty(graph), Circuit.full(graph)]
    found, expected = (
        Runner.create(lift, pairs, ablation=name).logits(circuits)
        for name in (f"{NAME}:1", "resample")
    )
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("groups", [("",), ("a", "b")])
def test_it_is_the_mean_over_the_corrupted_prompts_of_length_and_group(
    groups: tuple[str, ...],
) -> None:
    lift, pairs = tiny_lift("llama"), alike(6, groups)
    runner = Runner.create(lift, pairs, ablation=NAME, batch_size=4)
    resampled = Runner.create(lift, pairs, ablation="resample", batch_size=6)
    ((rows, one),) = resampled.numbered_chunks()
    # resample's window begins at the first difference: without it every position is there
    written = replace(one, ablation=get_ablation("zero")).corrupted.values
    for numbers, chunk in runner.numbered_chunks():
        for place, number in enumerate(numbers):
            own = [
                rows.index(i) for i in range(6) if pairs.pairs[i].group == pairs.pairs[number].group
            ]
            for layer, z in enumerate(chunk.base.values.z):
                expected = written.z[layer][own].mean(0)
                torch.testing.assert_close(z[place], expected, rtol=1e-9, atol=1e-9)
            expected = written.sources[:, own].mean(1)
            torch.testing.assert_close(
                chunk.base.values.sources[:, place], expected, rtol=1e-9, atol=1e-9
            )


def test_partners_follow_from_the_prompt_alone() -> None:
    lift, pairs = tiny_lift("gpt2"), alike(6)
    turned = PromptPairs(tuple(reversed(pairs.pairs)))
    losses = [
        Runner.create(lift, some, ablation=f"{NAME}:3", batch_size=size, reference=pairs).logits(
            [Circuit.empty(lift.graph)]
        )[0]
        for some, size in ((pairs, 6), (pairs, 1), (turned, 4))
    ]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(losses[0], losses[2].flip(0), rtol=1e-10, atol=1e-10)
    every = Runner.create(lift, pairs, ablation=NAME).logits([Circuit.empty(lift.graph)])[0]
    assert (every - losses[0]).abs().max() > 1e-3


def test_answers_of_several_tokens_stand_behind_partners() -> None:
    lift, pairs = tiny_lift("llama"), alike(3)
    spelled = PromptPairs(tuple(p.spelling([(3, 4)], [(5, 6)]) for p in pairs.pairs))
    runner = Runner.create(lift, spelled, metric="nll", ablation=f"{NAME}:1")
    same = Runner.create(lift, spelled, metric="nll", ablation="resample")
    empty = Circuit.empty(lift.graph)
    assert runner.loss(empty) == pytest.approx(same.loss(empty))
    more = Runner.create(lift, spelled, metric="nll", ablation=NAME)
    assert np.isfinite(more.loss(empty)) and more.loss(empty) != pytest.approx(same.loss(empty))


@pytest.mark.parametrize("argument", ["0", "x", "", "1001", "-1", "٣", "9" * 99])
def test_another_number_than_of_partners_is_refused(argument: str) -> None:
    with pytest.raises(EdgewiseError, match="over how many prompts it averages, 1 to 1,000"):
        get_ablation(f"{NAME}:{argument}")


def test_what_stands_behind_a_name_is_part_of_it() -> None:
    assert get_ablation(f"{NAME}:10").name == NAME
    assert DiscoverySpec.of(method="eap", ablation=f"{NAME}:4").ablation == f"{NAME}:4"
    with pytest.raises(EdgewiseError, match="zero ablation takes nothing behind its name"):
        get_ablation("zero:4")
    with pytest.raises(EdgewiseError, match="takes nothing behind its name"):
        DiscoverySpec.of(method="eap", ablation="zero:4")
    with pytest.raises(EdgewiseError, match="did you mean"):
        DiscoverySpec.of(method="eap", ablation="zeros")


def test_pairs_need_corrupted_prompts() -> None:
    lift, pairs = tiny_lift("gpt2"), alike(3)
    first = pairs.pairs[0]
    lone = Pair(first.clean, None, first.answers, first.distractors)
    for some, reference in (((lone,), None), (pairs.pairs, (*pairs.pairs, lone))):
        with pytest.raises(PromptError, match="takes its values from corrupted prompts"):
            Runner.create(
                lift, PromptPairs(some), ablation=NAME,
                reference=None if reference is None else PromptPairs(reference),
            )  # fmt: skip


def test_the_beginning_of_a_longer_prompt_is_no_partner() -> None:
    """Where a prompt goes on behind its answer position, its beginning looks like a shorter one."""
    lift = tiny_lift("gpt2")
    short = Pair((1, 2), (3, 2), (4,), (5,), answer_position=1)
    longer = Pair((6, 7, 8), (9, 10, 8), (4,), (5,), answer_position=1)
    empty = Circuit.empty(lift.graph)
    alone, beside = (
        Runner.create(lift, PromptPairs(some), metric="nll", ablation=NAME)
        for some in ((short,), (short, longer))
    )
    assert beside.mask_losses_each(empty.kept[None])[0][0] == pytest.approx(alone.loss(empty))
