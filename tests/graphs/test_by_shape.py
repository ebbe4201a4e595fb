"""Models that are described by what their modules do: hybrids, and types nobody registered."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from edgewise.graphs.circuit import Circuit
from edgewise.graphs.errors import UnknownName, UnsupportedModel
from edgewise.graphs.lift import lifting
from edgewise.graphs.lift.experts import Experts
from edgewise.graphs.lift.lifted import MLP, Attention, Whole
from edgewise.graphs.lift.lifting import TRIED, TRUSTED, describe
from edgewise.patching.run.certificate import certify
from edgewise.patching.run.runner import Runner
from edgewise.session import open_model
from tests.configs_watched import WATCHED
from tests.engine import random_mask, tiny_model, tiny_pairs
from tests.shapes import LLAMA


@pytest.mark.parametrize("name", WATCHED)
def test_a_type_is_lifted_exactly(name: str) -> None:
    model = tiny_model(name, dtype=torch.float32)
    lifted = describe(model)
    certify(lifted).require()
    runner = Runner.create(lifted, tiny_pairs(lengths=(5, 4)), metric="nll")
    masks = np.stack([random_mask(lifted.graph, 0.5, 0), Circuit.full(lifted.graph).kept])
    losses = runner.mask_losses(masks)
    assert np.isfinite(losses).all() and losses[0] != losses[1]


def test_settings_of_watched_types_are_listed_as_trusted() -> None:
    trusted = describe(tiny_model("jamba", dtype=torch.float32)).variants[TRUSTED].split(", ")
    assert {"num_experts", "attn_layer_period", "mamba_d_state"} <= set(trusted)


KINDS = {
    "bamba": (["s", "h"], ["mlp", "mlp"]),
    "jamba": (["s", "h"], ["mlp", "experts"]),
    "nemotron-h": (["s", "h", "", ""], ["", "", "mlp", "experts"]),
    "granitemoehybrid": (["s", "h"], ["experts", "experts"]),
    "lfm2-moe": (["s", "h"], ["mlp", "experts"]),
    "falcon-h1": (["s", "s"], ["whole", "whole"]),
    "lfm2": (["s", "h"], ["mlp", "mlp"]),
    "rwkv": (["s"] * 4, [""] * 4),
}


@pytest.mark.parametrize("name", KINDS)
def test_what_is_split_and_what_is_taken_whole(name: str) -> None:
    lifted = describe(tiny_model(name, dtype=torch.float32))
    words = {Attention: "h", Whole: "s", type(None): ""}
    assert [words[type(block.attention)] for block in lifted.blocks] == KINDS[name][0]
    names = {MLP: "mlp", Experts: "experts", Whole: "whole", type(None): ""}
    assert [names[type(block.mlp)] for block in lifted.blocks] == KINDS[name][1]


@pytest.mark.parametrize(
    "name",
    ["mixtral", "qwen2-moe", "olmoe-clip-biases", "deepseek2-other", "glm4-moe-other", "granitemoe",
     "minimax-m2-other", "hunyuan-moe"],
)  # fmt: skip
def test_experts_found_by_shape_are_those_that_a_family_describes(name: str) -> None:
    model = tiny_model(name, dtype=torch.float32)
    own, found = describe(model), describe(model, try_family="shape")
    assert (found.graph.experts, found.graph.shared_experts) == (
        own.graph.experts, own.graph.shared_experts,
    )  # fmt: skip
    x = torch.randn(50, own.d_model, generator=torch.Generator().manual_seed(5))
    for mine, theirs in zip(found.blocks, own.blocks, strict=True):
        assert mine.mlp is not None and theirs.mlp is not None
        assert type(mine.mlp) is type(theirs.mlp)
        torch.testing.assert_close(mine.mlp.outputs(x), theirs.mlp.outputs(x), atol=1e-4, rtol=1e-4)
    certify(found).require()


@pytest.mark.parametrize("name", ["laguna", "phimoe", "gpt-oss"])
def test_a_mixture_with_something_else_in_it_is_taken_whole(name: str) -> None:
    model = tiny_model(name, dtype=torch.float32)
    found = describe(model, try_family="shape")
    assert not found.graph.experts and isinstance(found.blocks[-1].mlp, Whole)
    certify(found).require()


@pytest.fixture
def new_type(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make a Llama whose type nobody knows."""

    class NewConfig(LlamaConfig):
        model_type = "brand_new"

    known = dict(lifting.families())
    monkeypatch.setattr(lifting, "families", lambda: known)
    torch.manual_seed(0)
    return LlamaForCausalLM(NewConfig(**LLAMA, pretraining_tp=3)).eval()


def test_a_type_that_nobody_knows_is_tried_by_the_shape_of_its_modules(new_type: Any) -> None:
    lifted = describe(new_type)
    certify(lifted).require()
    expected = describe(LlamaForCausalLM(LlamaConfig(**LLAMA)).eval()).graph
    assert lifted.graph == expected  # all heads are split
    assert lifted.variants[TRIED] == "shape"
    assert "num_hidden_layers" in lifted.variants[TRUSTED]


@pytest.mark.parametrize("name", ["llama", "qwen2", "shape"])
def test_a_family_can_be_tried(new_type: Any, name: str) -> None:
    lifted = describe(new_type, try_family=name)
    certify(lifted).require()
    assert lifted.variants[TRIED] == name
    assert lifted.family == ("shape" if name == "shape" else "llama")


def test_a_family_that_does_not_fit_is_refused(new_type: Any) -> None:
    with pytest.raises(UnsupportedModel, match="gpt2"):
        describe(new_type, try_family="gpt2")
    with pytest.raises(UnknownName, match="unknown family 'lama'; did you mean 'llama'"):
        describe(new_type, try_family="lama")


def test_the_file_and_a_warning_say_what_was_tried(new_type: Any) -> None:
    with pytest.warns(UserWarning, match="no family describes models of type 'brand_new'; this"):
        session = open_model(new_type)
    block = session.model_block
    assert block["tried_family"] == "shape"
    assert "hidden_size" in block["trusted_settings"]
    json.dumps(block)
    with pytest.warns(UserWarning, match="this one is lifted as llama, and its certificate"):
        assert open_model(new_type, try_family="llama").model_block["tried_family"] == "llama"


@pytest.fixture
def new_gpt2(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make a GPT-2 whose type nobody knows, with positions that the shape does not tell."""

    class NewConfig(GPT2Config):
        model_type = "brand_newer"

    known = dict(lifting.families())
    monkeypatch.setattr(lifting, "families", lambda: known)
    torch.manual_seed(0)
    sizes = {"vocab_size": 31, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 32}
    return GPT2LMHeadModel(NewConfig(**sizes)).eval()


def test_a_family_that_fits_is_tried_where_the_shape_is_not_enough(new_gpt2: Any) -> None:
    with pytest.raises(UnsupportedModel, match="by the shape of its modules: its first layer"):
        describe(new_gpt2)
    with pytest.warns(UserWarning, match="'brand_newer'; this one is lifted as gpt2, and its cert"):
        session = open_model(new_gpt2)
    assert session.lifted.parts_whole == 0 and session.certificate.passed
    assert session.model_block["tried_family"] == "gpt2"
    assert "trusted_settings" not in session.model_block  # it knows all of them
    with torch.no_grad():  # lifted anew, by the same family
        new_gpt2.transformer.h[0].mlp.c_fc.weight.mul_(2)
    assert session.tried == "gpt2" and session.certificate.passed


def test_a_family_whose_certificate_fails_is_not_taken(new_gpt2: Any) -> None:
    own = type(new_gpt2.transformer.h[0].mlp.act)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(own, "forward", lambda self, x: torch.tanh(x) + 0.3 * x)
        assert "gpt2" in [one.family for one in lifting.families_that_fit(new_gpt2)]
        with pytest.raises(UnsupportedModel, match="by the shape of its modules: its first layer"):
            open_model(new_gpt2)


def test_a_stream_that_is_no_sum_is_refused(new_type: Any) -> None:
    layer = new_type.model.layers[1]
    own = type(layer).forward

    def doubled(*args: Any, **kwargs: Any) -> torch.Tensor:
        return own(layer, *args, **kwargs) * 2

    layer.forward = doubled
    with pytest.raises(UnsupportedModel, match=r"layers\.1 does not add what its parts give to"):
        describe(new_type)


def test_of_many_families_the_nearest_are_told(new_type: Any) -> None:
    with pytest.raises(UnknownName) as caught:
        describe(new_type, try_family="quen3")
    said = str(caught.value)
    assert "did you mean 'qwen3'" in said
    assert "more." in said and len(said) < 300
