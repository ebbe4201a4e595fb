"""Effects of tokens: the sums that must hold, the plain definitions, and another library's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.discovery.registry import get_method
from edgewise.graphs.errors import EdgewiseError
from edgewise.patching.inputs.tokens import TokenEffects, token_effects
from edgewise.patching.run.runner import Runner
from tests.engine import one_of_each_type, tiny_lift, tiny_model, tiny_pairs

LENGTHS = (6, 4, 6)


def runner_of(name: str, ablation: str = "resample", **how: Any) -> Runner:
    pairs = tiny_pairs(lengths=LENGTHS)
    return Runner.create(tiny_lift(name), pairs, metric="logit_diff", ablation=ablation, **how)


def by_hand(model: Any, runner: Runner, steps: int) -> TokenEffects:
    """Return the effects by the definitions, of a model that takes embeddings, pair by pair."""
    embed = model.get_input_embeddings()

    def loss(pair: Any, x: torch.Tensor) -> torch.Tensor:
        logits = model(inputs_embeds=x[None], use_cache=False).logits[0, pair.answer_position]
        right = logits[list(pair.answers)].mean()
        wrong: torch.Tensor = logits[list(pair.distractors)].mean() - right
        return wrong

    integrated, exact, whole = [], [], []
    for pair in runner.pairs:
        x, b = (embed(torch.tensor(ids)).detach() for ids in (pair.clean, pair.corrupted))
        if runner.ablation.name == "zero":
            b = torch.zeros_like(x)
        tokens = pair.answer_position + 1
        total = torch.zeros(len(x), dtype=x.dtype)
        for k in range(steps):
            at = (b + (k + 0.5) / steps * (x - b)).requires_grad_()
            (gradient,) = torch.autograd.grad(loss(pair, at), at)
            total += ((b - x) * gradient).sum(-1) / steps
        with torch.no_grad():
            now = loss(pair, x)
            alone = []
            for t in range(tokens):
                changed = x.clone()
                changed[t] = b[t]
                alone.append(float(loss(pair, changed) - now))
            whole.append(float(loss(pair, b) - now))
        integrated.append(total[:tokens].numpy())
        exact.append(np.array(alone))
    return TokenEffects(tuple(integrated), tuple(exact), np.array(whole))


ROTATIONS = 1e-5
"""How far transformers' rotary tables, of float32, lie from those of float64."""

OF_SCANS = 1e-6
"""How far equal runs lie apart that a scan in float32 computes in batches of another size."""


def alike(a: TokenEffects, b: TokenEffects, atol: float = 1e-9) -> None:
    for one, other in zip(
        (*a.integrated, *a.exact, a.whole), (*b.integrated, *b.exact, b.whole), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=0, atol=atol)


@pytest.mark.parametrize("name", one_of_each_type(copies=False).values())
def test_integrated_effects_are_those_of_all_edges_out_of_the_embedding(name: str) -> None:
    """EAP-IG takes its points on the same way, so its scores out of `embed` add up to these."""
    runner = runner_of(name)
    found = token_effects(runner, steps=3)
    scores = get_method("eap-ig")(runner, steps=3, midpoint=True).scores
    embedding = [i for i, node in enumerate(runner.graph.senders) if node.layer is None]
    total = np.nansum(scores.values[:, embedding])
    mean = np.mean([one.sum() for one in found.integrated])
    assert mean == pytest.approx(total, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", one_of_each_type(copies=False).values())
def test_one_token_that_differs_alone_has_the_whole_effect(name: str) -> None:
    runner = runner_of(name)
    pairs = [pair for pair in runner.pairs if sum(map(int.__ne__, pair.clean, pair.corrupted)) == 1]
    found = token_effects(runner, steps=2)
    for pair, exact, whole in zip(runner.pairs, found.exact, found.whole, strict=True):
        assert len(exact) == pair.answer_position + 1
        same = [t for t in range(len(exact)) if pair.clean[t] == pair.corrupted[t]]
        np.testing.assert_allclose(exact[same], 0, atol=OF_SCANS)
        if pair in pairs:
            assert exact.sum() == pytest.approx(whole, abs=1e-9)


@pytest.mark.parametrize(
    ("name", "ablation", "atol"),
    [("gpt2", "resample", 1e-9), ("llama", "resample", ROTATIONS), ("llama", "zero", ROTATIONS)],
)
def test_they_are_the_plain_definitions(name: str, ablation: str, atol: float) -> None:
    runner = runner_of(name, ablation)
    alike(token_effects(runner, 4), by_hand(tiny_model(name), runner, 4), atol)


def test_tokens_behind_the_answer_count_in_models_that_look_both_ways() -> None:
    model = tiny_lift("llama")
    blocks = (replace(b, attention=replace(b.by_head, causal=False)) for b in model.blocks)
    model = replace(model, blocks=tuple(blocks))
    assert not model.causal
    runner = Runner.create(model, tiny_pairs(lengths=LENGTHS), metric="logit_diff")
    found = token_effects(runner, steps=100)
    assert [len(one) for one in found.exact] == [len(pair.clean) for pair in runner.pairs]
    behind = [
        one[pair.answer_position + 1 :]
        for one, pair in zip(found.exact, runner.pairs, strict=True)
        if pair.answer_position + 1 < len(pair.clean)
    ]
    assert np.abs(np.concatenate(behind)).max() > 0.01
    np.testing.assert_allclose(found.gap, 0, atol=1e-2 * np.abs(found.whole).max())


@pytest.mark.parametrize("batch_size", [1, 2])
def test_batches_do_not_matter(batch_size: int) -> None:
    alike(
        token_effects(runner_of("llama"), 3),
        token_effects(runner_of("llama", batch_size=batch_size), 3),
    )


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 1000))
def test_the_gap_shrinks_with_the_square_of_the_points(seed: int) -> None:
    pairs = tiny_pairs(seed=seed, lengths=LENGTHS)
    runner = Runner.create(tiny_lift("llama"), pairs, metric="logit_diff")
    gaps = [np.abs(token_effects(runner, steps).gap).max() for steps in (10, 80)]
    assert gaps[1] <= gaps[0] / 4 + 1e-6


def test_captum_finds_the_same() -> None:
    """Captum's `riemann_middle` takes the same points."""
    captum = pytest.importorskip("captum.attr")
    runner, model = runner_of("llama"), tiny_model("llama")
    found = token_effects(runner, steps=7)
    embed = model.get_input_embeddings()
    for number, pair in enumerate(runner.pairs):

        def value(x: torch.Tensor, pair: Any = pair) -> torch.Tensor:
            logits = model(inputs_embeds=x, use_cache=False).logits[:, pair.answer_position]
            return logits[:, list(pair.answers)].mean(-1) - logits[:, list(pair.distractors)].mean(
                -1
            )

        x, b = (embed(torch.tensor([ids])).detach() for ids in (pair.clean, pair.corrupted))
        own = captum.IntegratedGradients(value).attribute(x, b, n_steps=7, method="riemann_middle")
        theirs = own.sum(-1)[0, : pair.answer_position + 1].detach().numpy()
        np.testing.assert_allclose(found.integrated[number], theirs, rtol=0, atol=ROTATIONS)


def test_wrong_requests() -> None:
    with pytest.raises(EdgewiseError, match="steps is 0; accepted: 1 or more"):
        token_effects(runner_of("llama"), 0)
    runner = Runner.create(tiny_lift("llama"), tiny_pairs(), metric="accuracy")
    with pytest.raises(EdgewiseError, match="accuracy"):
        token_effects(runner)
