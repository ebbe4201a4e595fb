"""Experts as senders: each one's writes against the original's module, and numbers by hand."""

from __future__ import annotations

from dataclasses import replace
from math import log
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from edgewise.graphs.errors import UnsupportedModel
from edgewise.graphs.lift.experts import Experts
from edgewise.graphs.lift.lifting import describe, tensors_of
from edgewise.graphs.load.loading import load
from edgewise.patching.run.certificate import certify
from tests.configs_experts import EXPERT_CONFIGS
from tests.configs_sparse import EVERY_SPARSE
from tests.engine import tiny_lift, tiny_model

ONE_NODE = (
    "dense",
    "afmoe",
    "axk1",
    "gemma4",
    "youtu",
    "minicpm",
)  # and no experts, or not as senders
MIXTURES = [
    name
    for name in {**EXPERT_CONFIGS, **EVERY_SPARSE}
    if not any(
        word in name.replace("first-dense", "").replace("last-dense", "") for word in ONE_NODE
    )
]


@pytest.mark.parametrize("name", MIXTURES)
@torch.no_grad()
def test_an_expert_writes_what_the_module_writes_when_all_others_are_silent(name: str) -> None:
    model = tiny_model(name, dtype=torch.float64)
    lifted = describe(model)
    x = torch.randn(3, 5, lifted.d_model, dtype=torch.float64)
    sparse = [layer for layer, block in enumerate(lifted.blocks) if hasattr(block.mlp, "router")]
    assert sparse
    assert [count > 0 for count in lifted.graph.experts] == [
        layer in sparse for layer in range(lifted.graph.layers)
    ]
    for layer in sparse:
        module, mlp = mixture_of(model.model.layers[layer]), lifted.blocks[layer].mlp
        found = mlp.outputs(x)
        assert len(found) == len(lifted.graph.mlp_columns[layer])
        torch.testing.assert_close(mlp(x), run(module, x), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found.sum(0), mlp(x))
        packed, shared = module.experts, shared_of(module)
        silenced = [
            part
            for name in ("down_proj", "down_proj_bias")
            if (part := getattr(packed, name, None)) is not None
        ]
        weights = [part.clone() for part in silenced]
        owned = [] if shared is None else list(shared.down_proj.parameters())
        shared_weights = [part.clone() for part in owned]
        for expert, own in enumerate(found):
            for part, weight in zip(silenced, weights, strict=True):
                part.zero_()
                if expert < len(part):
                    part[expert] = weight[expert]
            for part, weight in zip(owned, shared_weights, strict=True):
                part.copy_(weight * (expert == len(packed.down_proj)))
            torch.testing.assert_close(own, run(module, x), rtol=1e-5, atol=1e-6)
        for part, weight in zip(silenced + owned, weights + shared_weights, strict=True):
            part.copy_(weight)


def mixture_of(layer: Any) -> Any:
    """Return a layer's module of a router and experts."""
    return layer.mlp if hasattr(layer, "mlp") else layer.feed_forward


def shared_of(module: Any) -> Any:
    """Return the module of the shared experts; None if there are none."""
    return getattr(module, "shared_expert", getattr(module, "shared_experts", None))


def run(module: Any, x: Tensor) -> Tensor:
    """Return what a mixture writes, without what else some return."""
    out = module(x)
    found: Tensor = out[0] if isinstance(out, tuple) else out
    return found.view_as(x)


def by_hand(**changes: object) -> Experts:
    """Return three experts that write 1, 10 and 100 times relu(x) where they are chosen."""
    eye = torch.eye(2).expand(3, 2, 2)
    options = {"chosen": 2, "activation": "relu", "renormalise": False, **changes}
    return Experts(
        router=torch.tensor([[log(3), 0], [0, log(3)], [0, 0]]),
        gate=eye,
        up=torch.full((3, 2, 2), 0.5),
        down=eye * torch.tensor([1.0, 10.0, 100.0])[:, None, None],
        **options,  # type: ignore[arg-type]
    )


def test_router_weights_by_hand() -> None:
    # at x = (1, 0) the three shares are 3, 1 and 1 of 5
    experts = by_hand(chosen=1)
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    weight, chosen = experts.route(x)
    assert chosen.tolist() == [[0], [1]]
    torch.testing.assert_close(weight, torch.tensor([[0.6], [0.6]]))
    assert by_hand(chosen=1, renormalise=True).route(x)[0].tolist() == [[1.0], [1.0]]
    # each writes weight · scale · relu(x) · (x₀ + x₁) / 2, and zero where it is not chosen
    expected = torch.tensor([[[0.3, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 3.0]], [[0.0, 0.0]] * 2])
    torch.testing.assert_close(experts.outputs(x), expected)
    torch.testing.assert_close(experts(x), expected.sum(0))


@pytest.mark.parametrize("name", ["qwen2-moe", "qwen3-moe-last-dense"])
def test_some_experts_alone_are_those_among_all(name: str) -> None:
    lifted = tiny_lift(name)
    mlp = lifted.blocks[0].mlp
    x = torch.randn(7, lifted.d_model, dtype=torch.float64)
    every = mlp.outputs(x)
    for only in ([2], [0, 3], list(range(len(every))), [len(every) - 1]):
        torch.testing.assert_close(mlp.outputs(x, only), every[only])


def test_an_expert_no_token_is_sent_to_writes_nothing() -> None:
    x = torch.tensor([[1.0, 0.5]])
    found = by_hand().outputs(x)
    assert (found != 0).any((1, 2)).sum() == 2
    assert by_hand(chosen=1).outputs(x, [2]).tolist() == [[[0.0, 0.0]]]


def test_the_derivative_goes_through_the_routers_weights() -> None:
    lifted = tiny_lift("qwen2-moe")
    x = torch.randn(6, lifted.d_model, dtype=torch.float64, requires_grad=True)
    mlp = lifted.blocks[1].mlp
    assert torch.autograd.gradcheck(mlp.outputs, x)  # no token is so near a tie
    assert torch.autograd.gradcheck(mlp, x)


def test_weights_are_rounded_as_the_original_does() -> None:
    x = torch.tensor([[1.0, 0.3]], dtype=torch.bfloat16)
    eye = torch.eye(2, dtype=torch.bfloat16)
    parts = {"router": eye, "gate": eye[None], "up": eye[None], "down": eye[None]}
    rest = {"chosen": 1, "activation": "relu", "renormalise": False}
    for rounded, kind in ((True, torch.bfloat16), (False, torch.float32)):
        experts = Experts(**parts, **rest, round_weights=rounded)  # type: ignore[arg-type]
        weight, _ = experts.route(x)
        assert weight.dtype is kind
        assert weight.item() == pytest.approx(0.668, abs=2e-3)


@pytest.mark.parametrize("name", ["mixtral", "qwen2-moe", "qwen3-moe"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_certificate_follows_the_type(name: str, dtype: torch.dtype) -> None:
    certify(tiny_lift(name, dtype=dtype)).require()


def test_variants_are_named() -> None:
    found = tiny_lift("qwen2-moe-first-dense")
    assert found.variants["MLP"] == (
        "gated, silu (1 layer); 2 of 3 experts for each token, weights renormalised and a shared "
        "one, gated, silu (2 layers)"
    )
    assert found.graph.describe().endswith("0, 3, 3 experts and a shared one")


@pytest.mark.parametrize(
    ("change", "passes"), [("chosen", False), ("renormalise", False), (None, True)]
)
def test_the_certificate_sees_a_wrong_router(change: str | None, passes: bool) -> None:
    lifted = tiny_lift("qwen3-moe")
    block = lifted.blocks[1]
    wrong = {"chosen": {"chosen": 3}, "renormalise": {"renormalise": True}, None: {}}[change]
    block = replace(block, mlp=replace(block.mlp, **wrong))  # type: ignore[arg-type]
    assert certify(replace(lifted, blocks=(lifted.blocks[0], block))).passed is passes


def test_an_unknown_activation_is_refused_by_name() -> None:
    model = tiny_model("mixtral")
    model.config.hidden_act = "laplace"
    with pytest.raises(UnsupportedModel, match="'laplace'"):
        describe(model)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["mixtral", "qwen2-moe-first-dense", "olmoe"])
def test_a_saved_mixture_opens_as_it_was(name: str, dtype: str, tmp_path: Path) -> None:
    model = tiny_model(name)  # files hold one tensor for each expert; loading packs them
    model.save_pretrained(tmp_path)
    loaded = describe(load(tmp_path, dtype=dtype).model)
    certify(loaded).require()
    for old, new in zip(tensors_of(describe(model)), tensors_of(loaded), strict=True):
        torch.testing.assert_close(new, old.to(new.dtype))
