"""Single variants of attention and positions: numbers by hand, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from edgewise.graphs.errors import UnsupportedModel
from edgewise.graphs.lift.families._parts import alibi_slopes
from edgewise.graphs.lift.lifted import Attention, AttentionContext, Growth, Norm, Rotary
from edgewise.graphs.lift.lifting import describe
from edgewise.graphs.lift.mlp import Xielu
from edgewise.graphs.lift.norms import normalise_heads
from edgewise.patching.run.certificate import certify
from tests.engine import tiny_lift, tiny_model
from tests.shapes import LLAMA


@pytest.mark.parametrize(
    ("heads", "exponents"),
    [
        (1, [8]),
        (2, [4, 8]),
        (3, [4, 8, 2]),
        (8, [1, 2, 3, 4, 5, 6, 7, 8]),
        (12, [1, 2, 3, 4, 5, 6, 7, 8, 0.5, 1.5, 2.5, 3.5]),
    ],
)
def test_alibi_slopes_are_powers_of_two(heads: int, exponents: list[float]) -> None:
    found = alibi_slopes(heads, torch.zeros(1))
    torch.testing.assert_close(found, 2.0 ** -torch.tensor(exponents), rtol=1e-6, atol=0)


def test_alibi_adds_slope_times_position() -> None:
    zero, one = torch.zeros(2, 1, 1), torch.ones(2, 1, 1)
    attention = Attention(
        zero, zero, one, one, None, None, None, None, scale=1.0,
        slopes=torch.tensor([0.5, 0.0]), slope_scale=2.0,
    )  # fmt: skip
    context = AttentionContext(torch.tensor([[False, True, True]]), torch.tensor([[0, 0, 1]]))
    nothing = torch.zeros(1, 3, 2, 1)
    value = torch.tensor([9.0, 0.0, 1.0]).view(1, 3, 1, 1).expand(1, 3, 2, 1)
    z = attention.mix(nothing, nothing, value, context)[0, -1, :, 0]
    odds = torch.tensor([1.0, 0.0]).exp()  # the second token's against the first's
    torch.testing.assert_close(z, odds / (1 + odds))
    alone = attention.mix(nothing[..., :1, :], nothing[..., :1, :], value[..., :1, :], context)
    only = attention.mix(
        nothing[..., :1, :], nothing[..., :1, :], value[..., :1, :], context, heads=[1]
    )
    assert float(alone[0, -1, 0, 0]) == pytest.approx(float(z[0]))
    assert float(only[0, -1, 0, 0]) == pytest.approx(0.5)


def test_each_head_takes_its_own_norm() -> None:
    norms = tuple(Norm(torch.full((2,), w), torch.full((2,), b), 0.0, centred=False)
                  for w, b in ((1.0, 0.0), (2.0, 0.5), (3.0, 1.0)))  # fmt: skip
    x = torch.tensor([[3.0, -3.0], [5.0, 5.0]])
    assert normalise_heads(norms, x, [2, 1]).tolist() == [[4, -2], [2.5, 2.5]]
    assert normalise_heads(norms[1], x, [0, 1]).tolist() == [[2.5, -1.5], [2.5, 2.5]]
    assert normalise_heads(None, x, [0, 1]) is x


def test_frequencies_follow_each_prompts_own_length() -> None:
    near, far = torch.tensor([1.0, 0.5]), torch.tensor([0.25, 0.125])
    rotary = Rotary(near, limit=3, long=far)
    places = torch.tensor([[0, 1, 2, 2, 2], [0, 1, 2, 3, 4]])
    cos, sin = rotary.tables(places, torch.float64)
    torch.testing.assert_close(cos[0, 1, 0, :2], near.cos().double())
    torch.testing.assert_close(sin[1, 1, 0, 2:], far.sin().double())


def test_the_base_grows_beyond_the_limit() -> None:
    growth = Growth(base=16.0, factor=2.0, limit=4)
    found = growth.frequencies(torch.tensor([3, 4, 8]), 4)
    # 8 tokens: 2·8/4 − 1 = 3, to the power 4/2: the base is 9·16
    expected = torch.tensor([[1, 1 / 4], [1, 1 / 4], [1, 1 / 12]])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["llama-dynamic", "llama-longrope", "phi3-long"])
def test_what_a_model_ran_before_does_not_matter(name: str) -> None:
    model = tiny_model(name)
    fresh = [b.attention.rotary for b in describe(model).blocks]
    prompt = torch.arange(20)[None]
    with torch.no_grad():
        model(prompt)
        left = model(prompt[:, :7]).logits
    lifted = describe(model)
    for old, new in zip(fresh, (b.attention.rotary for b in lifted.blocks), strict=True):
        assert old is not None
        assert new is not None
        assert torch.equal(old.frequencies, new.frequencies)
    certify(lifted).require()
    with torch.no_grad():  # the model itself is left as it was found
        assert torch.equal(model(prompt[:, :7]).logits, left)


@pytest.mark.parametrize("name", ["llama-dynamic", "phi3-long"])
def test_the_certificate_sees_frequencies_that_do_not_follow(name: str) -> None:
    from dataclasses import replace

    lifted = tiny_lift(name)
    blocks = []
    for block in lifted.blocks:
        assert block.attention.rotary is not None
        still = replace(block.attention.rotary, limit=None)
        blocks.append(replace(block, attention=replace(block.attention, rotary=still)))
    assert not certify(replace(lifted, blocks=tuple(blocks))).passed


def test_an_unknown_rotary_scaling_is_refused_by_name() -> None:
    model = LlamaForCausalLM(LlamaConfig(**LLAMA)).eval()
    model.config.rope_parameters["rope_type"] = "spiral"
    with pytest.raises(
        UnsupportedModel, match=r"'spiral' is not known; known: default, .*longrope"
    ):
        describe(model)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"apply_residual_connection_post_layernorm": True}, "no sum of senders"),
        ({"slow_but_exact": True, "pretraining_tp": 2}, "leaves out biases"),
    ],
)
def test_variants_of_bloom_are_refused(settings: dict[str, object], words: str) -> None:
    model = tiny_model("bloom")
    for name, value in settings.items():
        setattr(model.config, name, value)
    with pytest.raises(UnsupportedModel, match=words):
        describe(model)


@pytest.mark.parametrize(
    ("name", "norm", "heads"),
    [
        ("olmo", "LayerNorm without weight", None),
        ("olmo2", "RMSNorm, only after attention and MLP", "of all heads together"),
        ("exaone4", "RMSNorm, only after attention and MLP", "per head"),
        ("glm4", "RMSNorm, also after attention and MLP", None),
        ("gemma2", "RMSNorm (1 + w), also after attention and MLP", None),
        ("stablelm-norms", "LayerNorm", "per head, with weights of its own"),
        ("phi-norms", "LayerNorm", "per head"),
    ],
)
def test_norms_are_named(name: str, norm: str, heads: str | None) -> None:
    found = tiny_lift(name).variants
    assert found["norm"] == norm
    assert found.get("q/k norms") == heads


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("exaone4", "base 10000, none in 1 layer"),
        ("exaone4-full", "base 10000"),
        ("cohere2", "interleaved, none in 1 layer"),
        ("smollm3", "none in 1 layer"),
    ],
)
def test_layers_without_rotary_positions_are_counted(name: str, end: str) -> None:
    assert tiny_lift(name).variants["positions"].endswith(end)


def test_what_a_norm_gives_is_multiplied_by_its_factor() -> None:
    weight, x = torch.tensor([2.0, 4.0]), torch.tensor([3.0, -3.0])
    norm = Norm(weight, torch.tensor([1.0, 0.0]), 0.0, centred=False, factor=0.5)
    assert norm(x).tolist() == [1.5, -2]  # (1·2 + 1)/2 and (−1·4)/2
    assert norm.scale is not None
    assert norm.scale.tolist() == [1, 2]


def test_the_learned_activation_by_hand() -> None:
    zero, half = torch.tensor(0.0, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    curve = Xielu(zero, zero, half, torch.tensor(-1e-6, dtype=torch.float64))
    x = torch.tensor([2.0, 0.0, -1.0], dtype=torch.float64)
    log2, below = math.log(2), math.exp(-1) - 1 + 1  # softplus(0); exp(x) − 1 − x
    expected = [4 * log2 + 1, 0, below * (0.5 + log2) - 0.5]
    assert curve(x).tolist() == pytest.approx(expected, abs=1e-5)


def test_a_fixed_alpha_stretches_the_base_once() -> None:
    (first, *_) = tiny_lift("hunyuan").blocks
    table = first.by_head.rotary
    assert table is not None
    assert table.limit is None
    base = 1e3 * 50.0 ** (4 / 2)  # rope_theta · alpha^(K/(K − 2))
    torch.testing.assert_close(table.frequencies.float(), torch.tensor([1.0, base**-0.5]))


def test_nanochat_turns_the_other_way() -> None:
    (first, *_) = tiny_lift("nanochat").blocks
    table = first.by_head.rotary
    assert table is not None
    assert (table.frequencies < 0).all()
    assert first.by_head.norm_after


def test_different_factors_of_short_and_long_prompts_are_refused() -> None:
    model = tiny_model("phimoe-long")
    model.config.rope_parameters["long_mscale"] = 1.5
    with pytest.raises(UnsupportedModel, match=r"by 1\.2 in short prompts and by 1\.5 in long"):
        describe(model)


def test_weights_of_experts_divided_by_another_norm_are_refused() -> None:
    model = tiny_model("dbrx")
    model.config.ffn_config.moe_normalize_expert_weights = 2.0
    with pytest.raises(UnsupportedModel, match="norm of order 2; accepted: 1 or none"):
        describe(model)
