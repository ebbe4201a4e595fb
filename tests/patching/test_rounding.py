"""The certificate in every type: right lifts pass, small mistakes of a lift do not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from edgewise.graphs.errors import CertificateFailed
from edgewise.graphs.lift.lifted import LiftedModel
from edgewise.patching.run.certificate import SAMPLE, certify
from edgewise.patching.run.widening import HALF_TYPES, Widening
from tests.configs import CONFIGS
from tests.engine import tiny_lift, tiny_pairs

Change = Callable[[Any], Any]


TYPES = (torch.float64, torch.float32, *HALF_TYPES)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("dtype", TYPES)
def test_a_right_lift_is_as_far_from_the_original_as_rounding_puts_it(
    name: str, dtype: torch.dtype
) -> None:
    found = certify(tiny_lift(name, dtype=dtype)).require()
    assert found.blocks is not None
    assert found.blocks < 0.25
    assert found.blocks > 0.05 or dtype is torch.float64


def attention(**changes: Any) -> Change:
    return lambda b: replace(b, attention=replace(b.attention, **changes))


def rotary(**changes: Any) -> Change:
    return lambda b: attention(rotary=replace(b.attention.rotary, **changes))(b)


def mlp(**changes: Any) -> Change:
    return lambda b: replace(b, mlp=replace(b.mlp, **changes))


MISTAKES: dict[str, tuple[str, Change]] = {
    "query bias left out": ("llama-biases-tied", attention(bq=None)),
    "value bias left out": ("gpt2", attention(bv=None)),
    "output bias left out": ("gpt2", attention(bo=None)),
    "window one too long": ("mistral-window", attention(window=4)),
    "window one too short": ("mistral-window", attention(window=2)),
    "window left out": ("qwen2-some-windows", attention(window=None)),
    "attention scale": ("llama", lambda b: attention(scale=b.attention.scale * 1.5)(b)),
    "rotary left out": ("llama", attention(rotary=None)),
    "rotary base": (
        "llama",
        lambda b: rotary(frequencies=b.attention.rotary.frequencies * 0.8)(b),
    ),
    "rotary interleaved": ("llama", rotary(interleaved=True)),
    "rotary factor": ("llama-yarn", rotary(factor=1.0)),
    "query norm left out": ("qwen3", attention(q_norm=None)),
    "activation": ("llama", mlp(activation="relu")),
    "gelu for its tanh form": ("gpt2", mlp(activation="gelu")),
    "attention multiplier off by 3%": (
        "granite",
        lambda b: attention(scale=b.attention.scale * 1.03)(b),
    ),
    "eps of a norm": (
        "llama-wide-heads",
        lambda b: replace(b, mlp_norm=replace(b.mlp_norm, eps=1e-6)),
    ),
    "offset of a norm": (
        "gemma",
        lambda b: replace(b, mlp_norm=replace(b.mlp_norm, offset=0.0)),
    ),
    "output scale": ("granite", mlp(output_scale=0.33)),
    "norm after attention left out": (
        "gemma2",
        lambda b: replace(b, attention_post_norm=b.mlp_post_norm),
    ),
}


def spoiled(lifted: LiftedModel, change: Change, layer: int) -> LiftedModel:
    blocks = list(lifted.blocks)
    blocks[layer] = change(blocks[layer])
    return replace(lifted, blocks=tuple(blocks))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_in_a_single_block_is_caught(what: str, dtype: torch.dtype) -> None:
    name, change = MISTAKES[what]
    lifted = tiny_lift(name, dtype=dtype)
    layer = next(
        i for i, b in enumerate(lifted.blocks) if b.attention.window or "window" not in what
    )
    found = certify(spoiled(lifted, change, layer))
    assert found.blocks is not None
    assert found.blocks > 30
    with pytest.raises(CertificateFailed, match="of single blocks in parts of what rounding"):
        found.require()


@pytest.mark.parametrize("dtype", TYPES)
def test_a_mistake_behind_the_blocks_is_caught(dtype: torch.dtype) -> None:
    lifted = tiny_lift("gemma2-caps", dtype=dtype)
    assert not certify(replace(lifted, logit_softcap=None)).passed
    lifted = tiny_lift("cohere", dtype=dtype)
    found = certify(replace(lifted, logit_scale=lifted.logit_scale * 1.001))
    assert found.blocks is not None
    assert found.blocks > 30


def test_nan_fails() -> None:
    lifted = tiny_lift("llama", dtype=torch.bfloat16)
    poison = torch.full((16,), float("nan"), dtype=torch.bfloat16)
    change: Change = lambda b: replace(b, mlp_norm=replace(b.mlp_norm, weight=poison))  # noqa: E731
    found = certify(spoiled(lifted, change, 0))
    assert found.blocks != found.blocks
    assert not found.passed


@pytest.mark.parametrize("name", ["bloom", "falcon-alibi-eager", "mpt"])
def test_what_the_originals_type_adds_is_told_apart_at_the_prompts_length(name: str) -> None:
    """ALiBi in bfloat16 moves far positions by whole steps: the original's rounding, not ours."""
    lifted = tiny_lift(name, dtype=torch.bfloat16)
    long = tiny_pairs(lengths=(6, min(300, lifted.max_positions or 300)))
    found = certify(lifted, long).require()
    assert found.prompts == 2
    assert found.longest == max(len(pair.clean) for pair in long)
    assert found.rounding is not None
    assert found.rounding.original > 100 * found.kept_all
    assert certify(tiny_lift(name, dtype=torch.float32), long).rounding is None


def test_the_longest_prompts_and_some_of_each_length_are_compared() -> None:
    lifted = tiny_lift("llama")
    found = certify(lifted, tiny_pairs(lengths=tuple(range(3, 23))))
    assert (found.prompts, found.longest) == (SAMPLE, 22)


def test_the_models_own_tensors_stay_as_they_are() -> None:
    lifted = tiny_lift("gptj", dtype=torch.bfloat16)
    assert lifted.model is not None
    before = {name: (x.data_ptr(), x._version, x.clone()) for name, x in state(lifted.model)}
    certify(lifted)
    after = dict(state(lifted.model))
    assert before.keys() == after.keys()
    for name, (place, writes, values) in before.items():
        assert after[name].dtype is values.dtype, name
        assert torch.equal(after[name], values), name
        assert after[name].data_ptr() == place, name
        assert after[name]._version == writes


def state(model: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


def test_widening_computes_in_the_wide_type_and_writes_in_the_narrow() -> None:
    x = torch.tensor([1 / 3, 2 / 3], dtype=torch.bfloat16)
    table = torch.zeros(2, dtype=torch.bfloat16)
    with Widening(HALF_TYPES, torch.float32):
        assert (x * x).dtype is x.dtype is torch.float32
        assert torch.zeros(2, dtype=torch.bfloat16).dtype is torch.float32
        table.copy_(x)
        table[0] = 0.25
        thirds = x.double()
    assert table.dtype is x.dtype is torch.bfloat16
    assert table.tolist() == [0.25, float(x[1])]
    assert thirds.dtype is torch.float64


@pytest.mark.parametrize("name", ["gemma", "qwen3-next", "kimi-linear"])
def test_float64_is_certified_without_the_float32_that_code_asks_for(name: str) -> None:
    found = certify(tiny_lift(name)).require()
    assert max(found.kept_all, found.kept_none, found.stream) < 1e-9


def test_what_is_asked_for_in_float32_is_computed_in_float64() -> None:
    third = torch.tensor([1 / 3], dtype=torch.float64)
    with Widening([torch.float32], torch.float64):
        asked = third.float(), third.to(torch.float32), third.type(torch.float32)
    assert all(torch.equal(found, third) for found in asked)
