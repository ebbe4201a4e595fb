"""Heads built by hand have exactly the scores that their construction says.

Features: a token's own (V), its position's (P), and a place for what heads write (V). Attention
scores differ by 1000 or more, so that softmax gives 1 and 0 without rounding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from edgewise import Pair, PromptPairs, plain_block, plain_model
from edgewise.graphs.errors import GraphMismatch, PromptError
from edgewise.graphs.lift.lifted import AttentionContext, Block, LiftedModel, Norm
from edgewise.graphs.names import Node
from edgewise.graphs.roles import ON_TOKENS, SPANS
from edgewise.patching.heads.direct import frozen
from edgewise.patching.heads.random_tokens import model_blocks, random_blocks
from edgewise.patching.heads.roles import _extreme, measure, spans_of, token_scores
from edgewise.patching.trace import of_keys, project_all, repeat_kv, run_plain
from tests.engine import tiny_lift, tiny_pairs

V, P = 12, 24
TOKEN, PLACE, FREE = slice(0, V), slice(V, V + P), slice(V + P, V + P + V)
WIDTH = V + P + V
STRONG = 1e5


def zeros(*shape: int) -> Tensor:
    return torch.zeros(*shape, dtype=torch.float64)


def features(what: slice, scale: float = 1.0) -> Tensor:
    """Return the projection that reads (or writes) some features, padded to P of them."""
    size = what.stop - what.start
    found = zeros(P, WIDTH)
    found[:size, what] = torch.eye(size, dtype=torch.float64) * scale
    return found


def head(
    q: Tensor, k: Tensor, v: Tensor | None = None, o: Tensor | None = None
) -> dict[str, Tensor]:
    """Hold one head's matrices [P, WIDTH]; by default it writes nothing."""
    return {"wq": q, "wk": k, "wv": features(TOKEN) if v is None else v,
            "wo": zeros(P, WIDTH) if o is None else o}  # fmt: skip


def layer(*heads: dict[str, Tensor], **more: Any) -> Block:
    stacked = {key: torch.stack([one[key] for one in heads]) for key in heads[0]}
    return plain_block(**stacked, scale=1.0, **more)


def model(*blocks: Block, unembed: Tensor | None = None, norm: Norm | None = None) -> LiftedModel:
    tokens, positions, out = zeros(V, WIDTH), zeros(P, WIDTH), zeros(V, WIDTH)
    tokens[:, TOKEN] = torch.eye(V, dtype=torch.float64)
    positions[:, PLACE] = torch.eye(P, dtype=torch.float64)
    out[:, FREE] = torch.eye(V, dtype=torch.float64)
    return plain_model(
        tokens=tokens, positions=positions, blocks=blocks, final_norm=norm,
        unembed=out if unembed is None else unembed,
    )  # fmt: skip


def back(distance: int) -> tuple[Tensor, Tensor]:
    """Query and key of a head that attends so many positions back, or to the first."""
    keys = zeros(P, WIDTH)
    keys[:distance, V] = STRONG
    for position in range(P - distance):
        keys[position + distance, V + position] = STRONG
    return features(PLACE), keys


def same_token(what: slice = TOKEN) -> tuple[Tensor, Tensor]:
    """Query and key of a head that attends to the first position whose feature is its token."""
    q, k = features(TOKEN, STRONG), features(what)
    k[-1, PLACE] = -torch.arange(P, dtype=torch.float64)  # the earlier, the better
    q[-1] = 0
    q[-1, PLACE] = 1000.0
    return q, k


PREVIOUS = head(*back(1), o=features(FREE))
NOTHING = head(zeros(P, WIDTH), zeros(P, WIDTH))


def scores(lifted: LiftedModel, **options: Any) -> dict[str, dict[str, float]]:
    found = measure(lifted, model_blocks(lifted, **options))
    return {
        str(one.node): {key: one.scores[key] or 0.0 for key in ON_TOKENS} for one in found.heads
    }


def test_previous_duplicate_and_induction_heads_score_one() -> None:
    found = scores(
        model(
            layer(PREVIOUS, head(*same_token())),
            layer(head(*same_token(FREE)), head(*back(2))),
        )
    )
    assert found["a0.h0"] == {"previous": 1.0, "duplicate": 0.0, "induction": 0.0}
    assert found["a0.h1"] == {"previous": 0.0, "duplicate": 1.0, "induction": 0.0}
    assert found["a1.h0"] == {"previous": 0.0, "duplicate": 0.0, "induction": 1.0}
    assert found["a1.h1"] == {"previous": 0.0, "duplicate": 0.0, "induction": 0.0}


def test_a_fixed_distance_does_not_look_like_finding_a_token() -> None:
    # 11 tokens behind a random one, 24 positions: blocks of 4 to 11, 8 lengths, 4 sequences each
    far = scores(model(layer(head(*back(5)), head(*back(6)))))
    assert far["a0.h0"] == {"previous": 0.0, "duplicate": 1 / 8, "induction": 1 / 8}
    assert far["a0.h1"] == {"previous": 0.0, "duplicate": 1 / 8, "induction": 1 / 8}


def test_uniform_attention_scores_by_the_number_of_positions() -> None:
    blocks = random_blocks(range(V), positions=9, sequences=3)  # one of 4 tokens, twice
    found = token_scores(model(layer(NOTHING)), blocks)
    first, second = np.array([3, 4, 5]), np.array([6, 7, 8, 9])
    assert found["previous"][0, 0] == pytest.approx((1 / first).mean())
    assert found["duplicate"][0, 0] == pytest.approx((1 / second).mean())
    assert found["induction"][0, 0] == pytest.approx((1 / second).mean())


# -- copying ------------------------------------------------------------------------------------

PAIRS = PromptPairs(
    (
        Pair((9, 1, 5, 2), (9, 3, 5, 2), (5,), (1,)),
        Pair((9, 6, 4, 2, 7), (9, 6, 3, 2, 7), (4,), (6,), answer_position=3),
        Pair((9, 8, 5, 8, 2), (9, 3, 5, 3, 2), (8,), (5,)),
    )
)


def on_task(lifted: LiftedModel, pairs: PromptPairs = PAIRS) -> dict[str, Any]:
    found = measure(lifted, model_blocks(lifted), pairs)
    return {str(one.node): one for one in found.heads} | {"difference": found.difference}


def test_a_head_that_copies_and_one_that_suppresses() -> None:
    found = on_task(model(layer(PREVIOUS, head(*back(1), o=features(FREE, -0.25)), NOTHING)))
    copying, against, nothing = (found[f"a0.h{i}"] for i in range(3))
    assert (copying.scores["copy"], copying.scores["anti_copy"]) == (1.0, 0.0)
    assert (against.scores["copy"], against.scores["anti_copy"]) == (0.0, 1.0)
    assert copying.scores["attended"] == against.scores["attended"] == 1.0
    # it writes 1 to tokens 5 (the answer), 4 (the answer) and 8 (the answer): +1 each
    assert copying.scores["direct"] == pytest.approx(1)
    assert against.scores["direct"] == pytest.approx(-0.25)
    assert found["difference"] == pytest.approx(0.75)
    assert copying.scores["direct_share"] == pytest.approx(1 / 0.75)
    assert [name for name, _ in copying.roles] == ["previous token", "copying"]
    assert copying.label == "previous token 1.00, copying 1.00"
    assert "copy suppression" in dict(against.roles) and "copying" not in dict(against.roles)
    assert nothing.scores["direct"] == nothing.scores["copy"] == nothing.scores["anti_copy"] == 0
    assert nothing.role is None


def test_the_first_position_is_not_what_a_head_copies() -> None:
    first = zeros(P, WIDTH)
    first[:, V] = STRONG  # every query meets a large key at position 0
    q = features(PLACE)
    found = on_task(model(layer(head(q, first, o=features(FREE)), PREVIOUS)))["a0.h0"]
    assert found.spans["first"] == 1 and found.scores["attended"] == 0
    assert found.scores["direct"] == 0  # token 9 is neither answer nor distractor


def test_spans_divide_the_attention() -> None:
    found = on_task(model(layer(NOTHING)))["a0.h0"]
    assert list(found.spans) == list(SPANS)
    # uniform over 4, 4 and 5 positions
    expected = {
        "first": (1 / 4 + 1 / 4 + 1 / 5) / 3,
        "answer": (1 / 4 + 1 / 4 + 2 / 5) / 3,
        "distractor": (1 / 4 + 1 / 4 + 1 / 5) / 3,
        "last": (1 / 4 + 1 / 4 + 1 / 5) / 3,
    }
    assert {key: found.spans[key] for key in expected} == pytest.approx(expected)
    assert found.spans["changed"] is None  # what changes are answers and distractors
    assert found.spans["rest"] == 0  # token 7 of the second pair stands behind its answer


def test_spans_of_a_changed_token() -> None:
    pairs = PromptPairs((Pair((9, 1, 5, 2), (8, 3, 5, 3), (4,), (6,)),))
    spans = spans_of(pairs.batch())[0]
    found = {name: np.flatnonzero(row).tolist() for name, row in zip(SPANS, spans, strict=True)}
    assert found == {
        "first": [0], "answer": [], "distractor": [], "changed": [1], "last": [3], "rest": [2],
    }  # fmt: skip


def test_the_final_norm_is_frozen() -> None:
    weight = torch.linspace(1, 2, WIDTH, dtype=torch.float64)
    norm = Norm(weight, None, 1e-5, centred=True)
    plain, normed = (on_task(model(layer(PREVIOUS), norm=one))["a0.h0"] for one in (None, norm))
    assert normed.scores["copy"] == 1
    expected = []
    for pair, token in zip(PAIRS, (5, 4, 8), strict=True):
        # the stream at the answer: a token's 1, a position's 1 and the copied 1, else 0
        x = torch.zeros(WIDTH, dtype=torch.float64)
        x[[0, 1, 2]] = 1
        rate = float((x - x.mean()).square().mean().add(1e-5).rsqrt())
        mean, part = 1 / WIDTH, weight[FREE]
        against = pair.distractors[0]
        expected.append(rate * float((1 - mean) * part[token] + mean * part[against]))
    assert normed.scores["direct"] == pytest.approx(np.mean(expected))
    assert plain.scores["direct"] == pytest.approx(1)


def test_pairs_of_unequal_length_and_in_other_batches_give_the_same() -> None:
    lifted = tiny_lift("llama")
    pairs = tiny_pairs(lengths=(6, 9, 4, 7))
    blocks = model_blocks(lifted)
    whole = measure(lifted, blocks, pairs).heads
    single = [measure(lifted, blocks, PromptPairs((pair,))).heads for pair in pairs]
    for number, one in enumerate(whole):
        for key in ("copy", "anti_copy", "direct", "attended"):
            mean = np.mean([heads[number].scores[key] for heads in single])
            assert one.scores[key] == pytest.approx(mean, abs=1e-9)
        assert sum(value or 0 for value in one.spans.values()) == pytest.approx(1)


@pytest.mark.parametrize("name", ["gemma2-caps", "gpt2", "gpt-neo-untied", "qwen3-biases-windows"])
def test_scores_of_some_heads_are_those_of_all(name: str) -> None:
    lifted = tiny_lift(name)
    pairs, blocks = tiny_pairs(), model_blocks(lifted)
    every = {one.node: one for one in measure(lifted, blocks, pairs).heads}
    chosen = [Node.parse("a1.h1"), Node.parse("a0.h0")]
    some = measure(lifted, blocks, pairs, heads=chosen).heads
    assert [str(one.node) for one in some] == ["a0.h0", "a1.h1"]
    for one in some:
        assert one.scores == pytest.approx(every[one.node].scores)
        assert one.spans == pytest.approx(every[one.node].spans)


def test_attention_in_both_directions() -> None:
    parts = {"wq": zeros(1, P, WIDTH), "wk": zeros(1, P, WIDTH), "wv": features(TOKEN)[None]}
    block = plain_block(**parts, wo=features(FREE)[None])
    causal = model(block)
    lifted = plain_model(
        tokens=causal.tokens, positions=causal.positions, blocks=[block],
        unembed=causal.unembed.weight, causal=False,
    )  # fmt: skip
    pairs = PromptPairs((Pair((9, 1, 5, 2), (9, 3, 5, 2), (5,), (1,), answer_position=0),))
    found = on_task(lifted, pairs)["a0.h0"]
    assert found.spans == {
        "first": 0.25, "answer": 0.25, "distractor": 0.25, "changed": None, "last": None,
        "rest": 0.25,
    }  # fmt: skip
    assert found.scores["attended"] == 0.25


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_types_give_about_the_same(dtype: torch.dtype) -> None:
    exact, rounded = (
        measure(lifted, model_blocks(lifted), tiny_pairs()).heads
        for lifted in (tiny_lift("gemma2"), tiny_lift("gemma2", dtype=dtype))
    )
    for one, other in zip(rounded, exact, strict=True):
        for key in ON_TOKENS:
            assert one.scores[key] == pytest.approx(other.scores[key], abs=0.05)


def test_a_head_that_is_not_there() -> None:
    lifted = model(layer(NOTHING))
    with pytest.raises(GraphMismatch, match=r"no head a3\.h0; it has 1 layers"):
        measure(lifted, model_blocks(lifted), heads=[Node.parse("a3.h0")])


def test_prompts_of_another_vocabulary() -> None:
    lifted = model(layer(NOTHING))
    with pytest.raises(PromptError, match="holds token id 40"):
        measure(lifted, model_blocks(lifted), PromptPairs((Pair((40,), (1,), (2,)),)))


def test_the_fifth_counts_and_the_sixth_does_not() -> None:
    logits = torch.tensor([[9.0, 8, 7, 6, 5, 4, 3, 2, 1, 0]]).expand(4, -1)
    hits = _extreme(logits, torch.tensor([4, 5, 0, 10]))
    assert hits.tolist() == [[1, 0, 1, 0], [0, 1, 0, 0]]  # token 10 has no logit
    tied = _extreme(torch.zeros(1, 10), torch.tensor([3]))
    assert tied.tolist() == [[0], [0]]  # as of a head that writes nothing


# -- against the definitions, one prompt and head at a time -------------------------------------


def alone(lifted: LiftedModel, pair: Pair, node: Node) -> dict[str, float]:
    """Measure one head on one prompt: what it copies by hiding every position but one from it."""
    layer, head = node.layer or 0, node.index or 0
    block, t = lifted.blocks[layer], pair.answer_position
    ids, length = torch.tensor([pair.clean]), len(pair.clean)
    positions = torch.arange(length)[None]
    context = AttentionContext(torch.ones(1, length, dtype=torch.bool), positions)
    run = run_plain(lifted, ids, context)
    streams = run.streams.attention
    q, k, v = project_all(block, streams[layer], of_keys(block, streams, layer))
    k, v = repeat_kv(block, k), repeat_kv(block, v)
    weights = block.attention.pattern(q, k, context)[0, head, t]
    s = max(range(1, t + 1), key=lambda i: float(weights[i])) if t else 0
    only = AttentionContext(torch.arange(length)[None] == s, positions)

    def logits(seen: AttentionContext) -> Tensor:
        z = block.attention.mix(q, k, v, seen)[0, t, head]
        x = z @ block.attention.wo[head] * block.attention.output_scale
        if block.attention_post_norm is not None:
            x = frozen(block.attention_post_norm, run.streams.post[layer][0, t], x)
        x = frozen(lifted.final_norm, run.streams.final[0, t], x)
        return lifted.unembed.weight @ x * lifted.logit_scale

    copied, written = logits(only), logits(context)
    order = copied.argsort(descending=True).tolist()
    answers, against = list(pair.answers), list(pair.distractors)
    return {
        "copy": float(pair.clean[s] in order[:5]),
        "anti_copy": float(pair.clean[s] in order[-5:]),
        "attended": float(weights[s]),
        "direct": float(written[answers].mean() - written[against].mean()),
    }


@pytest.mark.parametrize(
    "name",
    [
        "gpt2",
        "llama",
        "llama-multi-query",
        "gemma2-caps",
        "granite",
        "gpt-neo",
        "olmo-clip",
        "gemma4-e",
    ],
)
def test_scores_are_what_their_definitions_say(name: str) -> None:
    lifted = tiny_lift(name, seed=1)
    pairs = tiny_pairs(seed=2, lengths=(6, 9, 4, 7, 8, 5))
    for found in measure(lifted, model_blocks(lifted), pairs).heads:
        each = [alone(lifted, pair, found.node) for pair in pairs]
        for key in each[0]:
            mean = np.mean([one[key] for one in each])
            assert found.scores[key] == pytest.approx(mean, abs=1e-9), (str(found.node), key)


def test_a_head_that_writes_rounding_copies_nothing() -> None:
    logits = torch.full((1, 40), 3.0) + torch.arange(40) * 1e-7
    assert _extreme(logits, torch.tensor([39])).tolist() == [[0.0], [0.0]]
    logits[0, 39] = 4.0
    assert _extreme(logits, torch.tensor([39])).tolist() == [[1.0], [0.0]]
