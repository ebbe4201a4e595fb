"""Attention knockout: the definition spelled out, heads that copy by hand, the attributes rate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from edgewise.graphs.errors import EdgewiseError, PromptError, UnsupportedModel
from edgewise.graphs.lift.lifted import Attention, AttentionContext, LiftedModel
from edgewise.graphs.lift.plain import plain_block, plain_model
from edgewise.patching.facts.attributes import attribute_rates, token_words, words_in
from edgewise.patching.facts.knockout import knock_out, span_places
from edgewise.patching.facts.names import SPANS, USUAL
from edgewise.patching.facts.prompts import FactPrompt, fact_prompts, windows
from edgewise.patching.prompts.pairs import Pair, PromptPairs
from edgewise.patching.run import memory
from edgewise.patching.trace import of_keys, project_all, repeat_kv, sum_heads, with_given
from tests.configs import ALL
from tests.engine import tiny_lift

FAMILIES = [
    "gpt2", "llama", "qwen2-some-windows", "olmo2", "falcon-new-one-norm", "gemma4-e", "bloom",
    "qwen3-next", "deepseek3", "gpt-oss",
]  # fmt: skip


def naive(
    model: LiftedModel, prompt: FactPrompt, queries: tuple[int, ...], keys: tuple[int, ...],
    window: tuple[int, int],
) -> float:  # fmt: skip
    """Run whole, with attention weights from queries to keys taken away and the rest made 1."""
    ids = torch.tensor([prompt.pair.clean])
    length = ids.shape[1]
    context = AttentionContext(torch.ones_like(ids, dtype=torch.bool), torch.arange(length)[None])
    before, given = [model.embed(ids, context.position_ids).sum(0)], model.give(ids)
    for layer, block in enumerate(model.blocks):
        x = before[-1]
        if isinstance(block.attention, Attention):
            attention = block.attention
            q, k, v = project_all(block, x, of_keys(block, before, layer))
            k, v = repeat_kv(block, k), repeat_kv(block, v)
            if window[0] <= layer <= window[1]:
                turned, held = attention.turned(q[..., : k.shape[-1]], k, context)
                scores = torch.einsum("bqhk,bshk->bhqs", turned, held) * attention.scale
                for at in queries:
                    scores[:, :, at, list(keys)] = -torch.inf  # before slopes and masks
                weight = attention.weigh(scores, context)
                z = torch.einsum("bhqs,bshk->bqhk", weight, attention.values(v))
                mixed = sum_heads(block, attention.gated(z, q))
            else:
                mixed = sum_heads(block, attention.mix(q, k, v, context))
        elif block.attention is not None:
            mixed = block.write_whole(x, context)
        else:
            mixed = torch.zeros_like(x)
        mixed = block.write_post(mixed) if model.graph.has_post(layer) else mixed
        middle = x + mixed
        read = with_given(x if model.graph.parallel else middle, given, layer)
        before.append(middle + block.write(read))
    probs = model.logits(before[-1][0, prompt.last]).softmax(-1)
    return float(probs[list(prompt.pair.answers)].sum())


def one_prompt(model: LiftedModel, spans: tuple[tuple[str, int], ...] = ()) -> FactPrompt:
    subject = (("subject", 1), ("subject", 2))
    pair = Pair((3, 7, 11, 5, 9), None, (4, 8), spans=(*subject, *spans))
    (prompt,) = fact_prompts(model, PromptPairs((pair,)))
    return prompt


@pytest.mark.parametrize("name", FAMILIES)
def test_every_cut_is_that_of_a_whole_run(name: str) -> None:
    assert name in ALL
    model = tiny_lift(name)
    prompt = one_prompt(model)
    layers = len(model.blocks)
    found = knock_out(model, prompt, ("subject", "first", "relation"), window=2)
    for source, values in found.cut.items():
        keys = span_places(prompt, source)
        for value, window in zip(values, [*windows(layers, 2), (0, layers - 1)], strict=True):
            plain = naive(model, prompt, (4,), keys, window)
            assert value == pytest.approx(plain, rel=1e-5, abs=1e-9), (source, window)


def test_to_another_span_and_in_parts(monkeypatch: Any) -> None:
    model = tiny_lift("llama")
    prompt = one_prompt(model, (("verb", 3),))
    found = knock_out(model, prompt, ("first", "subject"), to="verb")
    for source in ("first", "subject"):
        keys = span_places(prompt, source)
        plain = [naive(model, prompt, (3,), keys, one) for one in windows(len(model.blocks), 1)]
        assert np.allclose(found.cut[source][:-1], plain, rtol=1e-6)
    back = knock_out(model, prompt, ("verb",), to="subject")
    assert back.cut == {}  # in a causal model the subject reads nothing behind it
    monkeypatch.setattr(memory, "LAPTOP", replace(memory.LAPTOP, run=1 << 12, logits=1 << 8))
    again = knock_out(model, prompt, ("first", "subject"), to="verb")
    assert all(np.allclose(found.cut[name], again.cut[name]) for name in found.cut)


def copying() -> LiftedModel:
    """Make a model whose second layer copies, to every token, what it reads at all before it.

    Coordinates: 0 to 4 the tokens; 5 what is copied, which only token 1 has.
    """
    width = 7
    tokens = torch.eye(5, width)
    tokens[1, 5] = 1.0
    unembed = torch.zeros(5, width)
    unembed[2, 6] = 1.0
    blocks = []
    for layer in range(3):
        weights = {name: torch.zeros(1, 1, width) for name in ("wq", "wk", "wv", "wo")}
        if layer == 1:
            weights["wv"][0, 0, 5], weights["wo"][0, 0, 6] = 1.0, 40.0
        blocks.append(plain_block(**weights))
    return plain_model(tokens=tokens, blocks=blocks, unembed=unembed)


def test_numbers_by_hand() -> None:
    model = copying()
    pair = Pair((0, 1, 3, 4), None, (2,), spans=(("subject", 1),))
    (prompt,) = fact_prompts(model, PromptPairs((pair,)))

    def p(share: float) -> float:  # of the weight that is on the subject
        return float(1 / (1 + 4 * np.exp(-40 * share)))

    found = knock_out(model, prompt, USUAL)
    assert found.clean == pytest.approx(p(1 / 4), rel=1e-5) and found.right
    uncut, gone, more = p(1 / 4), p(0), p(1 / 3)
    assert found.cut["subject"] == pytest.approx([uncut, gone, uncut, gone], rel=1e-5)
    assert found.cut["last subject"] == pytest.approx([uncut, gone, uncut, gone], rel=1e-5)
    # the weight of what is cut goes to the other tokens, the subject among them
    assert found.cut["first"] == pytest.approx([uncut, more, uncut, more], rel=1e-5)
    assert found.cut["relation"] == pytest.approx([uncut, more, uncut, more], rel=1e-5)
    at_start = Pair((1, 3, 4), None, (2,), spans=(("subject", 0),))
    (other,) = fact_prompts(model, PromptPairs((at_start,)))
    assert set(knock_out(model, other, USUAL).cut) == {"first", "relation"}  # the sink is apart


def test_answers_of_several_tokens_are_cut_wherever_they_are_read() -> None:
    model = tiny_lift("llama")
    pair = Pair((3, 7, 11, 5), None, (4,), spans=(("subject", 1),)).spelling([(4, 8)])
    (prompt,) = fact_prompts(model, PromptPairs((pair,)))
    assert span_places(prompt, "last") == (3, 4)
    found = knock_out(model, prompt, ("subject",))
    parts = []
    for ids, answer, queries in (((3, 7, 11, 5), 4, (3,)), ((3, 7, 11, 5, 4), 8, (3, 4))):
        one = FactPrompt(Pair(ids, None, (answer,)), (1,))
        parts.append(naive(model, one, queries, (1,), (0, len(model.blocks) - 1)))
    assert found.cut["subject"][-1] == pytest.approx(parts[0] * parts[1], rel=1e-6)


def test_what_is_wrong_is_said() -> None:
    model = tiny_lift("gpt2")
    prompt = one_prompt(model)
    with pytest.raises(PromptError, match=r"unknown span 'subjct'; did you mean 'subject'"):
        knock_out(model, prompt, ("subjct",))
    with pytest.raises(PromptError, match="a window of 7 layers does not fit a model of 2"):
        knock_out(model, prompt, window=7)
    with pytest.raises(EdgewiseError, match="no span is named to cut from"):
        knock_out(model, prompt, ())
    with pytest.raises(EdgewiseError, match="would see nothing at all"):
        knock_out(model, prompt, ("first",), to="first")
    mamba = tiny_lift("mamba")
    with pytest.raises(UnsupportedModel, match="no attention that could be cut"):
        knock_out(mamba, one_prompt(mamba))
    assert set(USUAL) <= set(SPANS)


def test_attribute_rates_by_hand() -> None:
    words = token_words(["Ġpa", "Ġparis", "Ġcity", "Ġand", "ris"])
    assert words == ("", "paris", "city", "", "")  # short, no word's beginning, says nothing
    assert words_in(["The City, and Paris 7"]) == {"city", "paris"}
    weights = {name: torch.zeros(1, 1, 5) for name in ("wq", "wk", "wv", "wo")}
    unembed = torch.eye(5)
    unembed[2, 1] = 0.5  # token 1 says itself, then 2
    unembed[0, 4] = 0.5  # token 4 itself, then 0, which is no word
    model = plain_model(tokens=torch.eye(5), blocks=[plain_block(**weights)] * 2, unembed=unembed)
    prompts = {
        name: [FactPrompt(Pair((0, at, 3), None, (2,)), (1,))]
        for name, at in (("france", 1), ("rome", 4))
    }
    attributes = {"france": frozenset({"paris", "city"}), "rome": frozenset({"city"})}
    first, second = attribute_rates(model, prompts, attributes, words, top=2)
    assert first.own.tolist() == [1.0, 1.0] and first.others.tolist() == [0.5, 0.5]
    assert second.own.tolist() == [0.0, 0.0]  # neither is a word
