"""Causal tracing: the definition spelled out, the model's own code, and a planted fact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from edgewise.graphs.errors import EdgewiseError, PromptError, UnknownName
from edgewise.graphs.lift.lifted import AttentionContext, LiftedModel
from edgewise.graphs.lift.plain import plain_block, plain_model
from edgewise.patching.facts import tracing
from edgewise.patching.facts.names import KINDS
from edgewise.patching.facts.prompts import FactPrompt, fact_prompts, windows
from edgewise.patching.facts.tracing import Noise, subject_deviation, trace_prompt
from edgewise.patching.prompts.pairs import Pair, PromptPairs
from edgewise.patching.run import memory
from edgewise.patching.trace import of_keys, run_mixer, sum_heads, with_given
from tests.configs import ALL
from tests.engine import tiny_lift

FAMILIES = [
    "gpt2", "llama", "qwen2-some-windows", "olmo2", "falcon-new-one-norm", "mixtral", "gemma4-e",
    "gemma3n", "bloom", "mamba", "mamba2-others", "qwen3-next", "deepseek3", "gpt-oss",
]  # fmt: skip

Change = Callable[[str, int, Tensor], Tensor]


def as_it_is(kind: str, layer: int, x: Tensor) -> Tensor:
    return x


def run(
    model: LiftedModel, ids: Tensor, noise: Tensor, change: Change
) -> tuple[Tensor, dict[tuple[str, int], Tensor]]:
    """Run on ids [1, T] with noise [T, features], whole and plain; `change` what is written."""
    context = AttentionContext(torch.ones_like(ids, dtype=torch.bool),
                               torch.arange(ids.shape[1])[None])  # fmt: skip
    own, past = noise.split((model.embedded, model.given), -1)
    stream = model.embed(ids, context.position_ids).sum(0)
    stream[..., : model.embedded] += own
    given = model.give(ids)
    more = past.split([x.shape[-1] for x in given], -1) if given else ()
    given = tuple(x + one for x, one in zip(given, more, strict=True))
    before, wrote = [stream], {}
    for layer, block in enumerate(model.blocks):
        x = before[-1]
        z = run_mixer(block, layer, x, of_keys(block, before, layer), context)
        mixed = sum_heads(block, z)
        mixed = block.write_post(mixed) if model.graph.has_post(layer) else mixed
        wrote["attention", layer] = mixed = change("attention", layer, mixed)
        middle = x + mixed
        written = block.write(with_given(x if model.graph.parallel else middle, given, layer))
        wrote["mlp", layer] = written = change("mlp", layer, written)
        wrote["stream", layer] = x = change("stream", layer, middle + written)
        before.append(x)
    return before[-1], wrote


def naive(
    model: LiftedModel, prompt: FactPrompt, noise: Noise, kind: str, window: int
) -> np.ndarray:
    """Restore one cell after the other in whole runs, [L, T, N]; -1 before the subject."""
    ids = torch.tensor([prompt.pair.clean])
    zero = torch.zeros(ids.shape[1], model.embedded + model.given, dtype=model.dtype)
    _, clean = run(model, ids, zero, as_it_is)
    base = tracing.clean_run(model, prompt)
    drawn = tracing._drawn(model, prompt, noise, base)
    answers = list(prompt.pair.answers)
    found = np.full((len(model.blocks), prompt.last + 1, noise.draws), -1.0)
    around = windows(len(model.blocks), 1 if kind == "stream" else window)
    for layer, (first, last) in enumerate(around):
        for at in range(prompt.subject[0], prompt.last + 1):

            def change(what: str, here: int, x: Tensor) -> Tensor:
                if what == kind and first <= here <= last:  # noqa: B023 - called within the loop
                    x = x.clone()
                    x[:, at] = clean[what, here][:, at]  # noqa: B023
                return x

            for draw in range(noise.draws):
                final, _ = run(model, ids, drawn[draw], change)
                probs = model.logits(final[0, prompt.last]).softmax(-1)
                found[layer, at, draw] = probs[answers].sum()
    return found


def one_prompt(model: LiftedModel) -> FactPrompt:
    pair = Pair((3, 7, 11, 5, 9), None, (4, 8), spans=(("subject", 1), ("subject", 2)))
    (prompt,) = fact_prompts(model, PromptPairs((pair,)))
    return prompt


@pytest.mark.parametrize("name", FAMILIES)
def test_every_cell_is_that_of_a_whole_run(name: str) -> None:
    model = tiny_lift(name)
    prompt = one_prompt(model)
    noise = Noise(subject_deviation(model, [prompt]), draws=2, seed=1)
    window = min(2, len(model.blocks))
    found = trace_prompt(model, prompt, noise, window=window)
    for kind in KINDS:
        plain = naive(model, prompt, noise, kind, window)
        measured = found.restored[kind]
        assert np.allclose(measured[:, 1:], plain[:, 1:], rtol=1e-4, atol=1e-7), kind
        if model.causal:  # what stands before the subject never changes
            assert (measured[:, 0] == found.corrupted).all()


def test_a_model_that_attends_both_ways_is_run_whole() -> None:
    model = tiny_lift("gpt2")
    blocks = (replace(b, attention=replace(b.by_head, causal=False)) for b in model.blocks)
    model = replace(model, blocks=tuple(blocks))
    prompt = one_prompt(model)
    noise = Noise(0.3, draws=2)
    found = trace_prompt(model, prompt, noise, ["attention"], window=2)
    plain = naive(model, prompt, noise, "attention", 2)
    assert np.allclose(found.restored["attention"][:, 1:], plain[:, 1:], rtol=1e-5, atol=1e-9)


def test_little_memory_parts_the_work_and_changes_nothing(monkeypatch: Any) -> None:
    model = tiny_lift("llama")
    prompt, noise = one_prompt(model), Noise(0.4, draws=3)
    whole = trace_prompt(model, prompt, noise)
    tiny = replace(memory.LAPTOP, run=1 << 14, logits=1 << 10)
    monkeypatch.setattr(memory, "LAPTOP", tiny)
    parted = trace_prompt(model, prompt, noise)
    for kind in KINDS:
        assert np.allclose(whole.restored[kind], parted.restored[kind], rtol=1e-9, atol=1e-12)


def test_identities() -> None:
    model = tiny_lift("llama")
    prompt = one_prompt(model)
    found = trace_prompt(model, prompt, Noise(0.5, draws=3))
    last = found.restored["stream"][-1]
    assert np.allclose(last[prompt.last], found.clean)  # the answer is read there alone
    assert np.allclose(last[: prompt.last], found.corrupted)
    quiet = trace_prompt(model, prompt, Noise(0.0, draws=2))
    assert np.allclose(quiet.total, 0)
    assert all(np.allclose(quiet.indirect(kind), 0) for kind in KINDS)
    again = trace_prompt(model, prompt, Noise(0.5, draws=3))
    assert all((found.restored[kind] == again.restored[kind]).all() for kind in KINDS)


def test_answers_of_several_tokens_are_read_whole() -> None:
    model = tiny_lift("llama")
    pair = Pair((3, 7, 11, 5), None, (4,), spans=(("subject", 1),)).spelling([(4, 8), (6, 2)])
    (prompt,) = fact_prompts(model, PromptPairs((pair,)))
    found = trace_prompt(model, prompt, Noise(0.4, draws=2), window=1)
    total = 0.0
    for answer in ((4, 8), (6, 2)):
        ids = torch.tensor([[3, 7, 11, 5, *answer]])
        zero = torch.zeros(6, model.embedded, dtype=model.dtype)
        probs = model.logits(run(model, ids, zero, as_it_is)[0][0]).softmax(-1)
        total += float(probs[3, answer[0]] * probs[4, answer[1]])
    assert found.clean == pytest.approx(total)
    assert found.restored["stream"].shape == (len(model.blocks), 4, 2)
    one = replace(pair, spelled=None).spelling([(4, 8)])
    (alone,) = fact_prompts(model, PromptPairs((one,)))
    assert trace_prompt(model, alone, Noise(0.4, draws=2)).clean < found.clean


def planted(layer: int) -> LiftedModel:
    """Make a model in which the MLP of one layer holds one fact: subject 1 has the answer 2.

    Coordinates: 0 to 4 the tokens, 5 the fact's at the subject, 6 at the last token. The MLP writes
    5 where it reads the token 1; above it, the one head copies 5 to 6 from all positions.
    """
    width = 7
    tokens = torch.eye(5, width)
    unembed = torch.zeros(5, width)
    unembed[2, 6] = 12.0
    names = ("wq", "wk", "wv", "wo")
    blocks = []
    for at in range(4):
        up, down = torch.zeros(1, width), torch.zeros(width, 1)
        attention: dict[str, Any] = {name: torch.zeros(1, 1, width) for name in names}
        if at == layer:
            up[0, 1], down[5, 0] = 1.0, 1.0
        if at == 3:
            attention["wv"][0, 0, 5], attention["wo"][0, 0, 6] = 1.0, 3.0
        blocks.append(plain_block(**attention, up=up, down=down))
    return plain_model(tokens=tokens, blocks=blocks, unembed=unembed)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_planted_fact_is_found_in_its_mlp(layer: int) -> None:
    model = planted(layer)
    pair = Pair((0, 1, 3, 4), None, (2,), spans=(("subject", 1),))
    (prompt,) = fact_prompts(model, PromptPairs((pair,)))
    noise = Noise(0.4, draws=10)
    found = trace_prompt(model, prompt, noise)
    drawn = tracing._drawn(model, prompt, noise, tracing.clean_run(model, prompt))[:, 1].numpy()

    def p(fact: Any) -> Any:  # by hand: of four positions one has the fact, the head triples it
        return 1 / (1 + 4 * np.exp(-12 * 3 * fact / 4))

    assert found.right and found.clean == pytest.approx(p(1.0), rel=1e-5)
    noisy = np.maximum(1 + drawn[:, 1], 0) + drawn[:, 5]  # what the MLP writes, and noise beside it
    assert np.allclose(found.corrupted, p(noisy), rtol=1e-4)
    assert np.allclose(found.restored["mlp"][layer, 1], p(1 + drawn[:, 5]), rtol=1e-4)
    effects = {kind: found.indirect(kind).mean(-1) for kind in KINDS}
    mlp = effects["mlp"]
    assert np.unravel_index(mlp.argmax(), mlp.shape) == (layer, 1)
    rest = mlp.copy()
    rest[layer, 1] = 0
    assert np.allclose(rest, 0, atol=1e-6)  # no other MLP says anything
    assert np.allclose(effects["stream"][:3, 1], found.total.mean(), atol=1e-6)
    attention = effects["attention"]
    assert np.unravel_index(attention.argmax(), attention.shape) == (3, 3)
    assert attention[3, 3] == pytest.approx(found.total.mean(), rel=1e-4)


def test_labels_say_what_a_token_is_to_the_subject() -> None:
    pair = Pair(tuple(range(9)), None, (1,))
    one = FactPrompt(pair, (2, 3, 4))
    assert [one.label(at) for at in range(9)] == [
        None, None, "first subject", "middle subject", "last subject", "next", "further", "further",
        "last",
    ]  # fmt: skip
    alone = FactPrompt(Pair((1, 2), None, (1,)), (1,))
    assert [alone.label(at) for at in range(2)] == [None, "last subject"]


def test_equal_prompts_count_once_and_are_cut_at_the_answer() -> None:
    model = tiny_lift("gpt2")
    own = (("subject", 1),)
    pairs = [Pair((1, 2, 3, 4), (1, x, 3, 4), (5,), (6,), 2, spans=own) for x in (7, 8)]
    (prompt,) = fact_prompts(model, PromptPairs(tuple(pairs)))
    assert prompt.pair.clean == (1, 2, 3) and prompt.pair.distractors == ()


def test_what_is_wrong_is_said() -> None:
    model = tiny_lift("gpt2")
    pairs = PromptPairs((Pair((1, 2, 3), None, (4,), spans=(("name", 1),)),), name="mine")
    with pytest.raises(PromptError, match=r"'mine' names no span 'subject'.*its pairs name: name"):
        fact_prompts(model, pairs)
    behind = PromptPairs((Pair((1, 2, 3), None, (4,), (), 1, spans=(("subject", 2),)),))
    with pytest.raises(PromptError, match="at position 2, behind 1, where its answer"):
        fact_prompts(model, behind)
    prompt = one_prompt(model)
    with pytest.raises(PromptError, match=r"a window of 9 layers does not fit a model of 2"):
        trace_prompt(model, prompt, Noise(0.1), window=9)
    with pytest.raises(UnknownName, match="kind 'head'"):
        trace_prompt(model, prompt, Noise(0.1), ["head"])
    with pytest.raises(EdgewiseError, match="0 draws"):
        trace_prompt(model, prompt, Noise(0.1, draws=0))


def test_families_are_configurations() -> None:
    assert set(FAMILIES) <= set(ALL)
