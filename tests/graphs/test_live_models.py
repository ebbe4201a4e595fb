"""Live models: what is wrong with one is named with its place, and one is left as it was found."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from edgewise.graphs.errors import EdgewiseError, UnsupportedModel
from edgewise.graphs.lift.lifting import describe
from edgewise.graphs.lift.live.untouched import untouched
from edgewise.graphs.load.loading import from_module
from edgewise.patching.run.certificate import certify
from edgewise.session import open_model
from tests.engine import tiny_model, tiny_pairs

FAMILIES = ("llama", "gpt2", "gpt-neox", "falcon", "gemma3", "qwen3-moe")


def small(name: str) -> Any:
    return tiny_model(name, dtype=torch.float32)


def refused(model: Any, *words: str) -> str:
    with pytest.raises(UnsupportedModel) as caught:
        open_model(model)
    for word in words:
        assert word in str(caught.value)
    return str(caught.value)


# -- parts that were replaced --------------------------------------------------------------------


class Adapted(nn.Module):
    """A handmade LoRA."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.down = inner, nn.Linear(3, 3)

    def forward(self, *args: Any, **options: Any) -> Any:
        return self.inner(*args, **options)


class Packed(nn.Module):
    """A linear map of whole numbers of eight bits and a scale."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 4, dtype=torch.int8), requires_grad=False)
        self.scale = nn.Parameter(torch.ones(4))


class Cast(nn.Module):
    """Another module in another type."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner.bfloat16()

    def forward(self, x: Any, *args: Any, **options: Any) -> Any:
        return self.inner(x.bfloat16(), *args, **options).float()


WRONG: dict[str, Callable[[nn.Module], nn.Module]] = {
    "Identity": lambda _: nn.Identity(),
    "Sequential": nn.Sequential,
    "Adapted": Adapted,
    "Packed": Packed,
    "Cast": Cast,
    "MultiheadAttention": lambda _: nn.MultiheadAttention(4, 2),
    "Bilinear": lambda _: nn.Bilinear(2, 2, 2),
}


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data(), st.sampled_from(FAMILIES), st.sampled_from(sorted(WRONG)), st.booleans())
def test_a_replaced_part_is_named(
    data: st.DataObject, family: str, kind: str, evaluation: bool
) -> None:
    model = small(family)
    parts = [
        (n, m)
        for n, m in model.named_modules()
        if n and not isinstance(m, nn.Dropout | nn.Identity)
    ]
    path, part = data.draw(st.sampled_from(parts))
    model.set_submodule(path, WRONG[kind](part).train(not evaluation))
    for one in (open_model, describe):
        with pytest.raises(UnsupportedModel) as caught:
            one(model)
        assert f"the module {path} of the model is a " in str(caught.value)
        assert f".{kind}, where {type(model).__name__}" in str(caught.value)


def test_dynamic_quantisation_is_named() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.ao.quantization.quantize_dynamic(small("llama"), {nn.Linear})
    refused(model, "model.layers.0.self_attn.q_proj", "quantized.dynamic", "14 more modules")


def test_a_parametrised_weight_is_named() -> None:
    model = small("llama")
    nn.utils.parametrizations.orthogonal(model.model.layers[1].mlp.up_proj)
    refused(model, "model.layers.1.mlp.up_proj", "ParametrizedLinear")


def test_what_computes_the_same_is_taken() -> None:
    class Mine(nn.Linear):
        """A linear map that does nothing else."""

    model = small("gpt2")
    model.transformer.drop = nn.Identity()
    certify(describe(model)).require()
    model = small("llama")
    model.lm_head.__class__ = Mine
    certify(describe(model)).require()


# -- weights and configurations ------------------------------------------------------------------


def change(model: Any, to: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    part = model.model.layers[1].mlp.up_proj
    part.weight = nn.Parameter(to(part.weight.detach()), requires_grad=False)
    return model


AT = "model.layers.1.mlp.up_proj.weight"


def test_weights_that_are_no_plain_matrices_are_named() -> None:
    refused(change(small("llama"), lambda w: w.to_sparse()), f"sparse: {AT}", "to_dense()")
    refused(change(small("llama"), lambda w: w.to("meta")), f"'meta', without values: {AT}")
    refused(change(small("llama"), torch.Tensor.bfloat16), f"{AT} (bfloat16)", "several types")
    model = change(small("llama"), lambda w: w.to(torch.int8))
    with pytest.raises(EdgewiseError, match=r"quantised weights \(int8\)"):
        open_model(model)
    with pytest.raises(UnsupportedModel, match=r"no floating-point numbers: .*up_proj\.weight"):
        describe(model)


def test_a_weight_of_another_shape_is_named_where_the_model_itself_fails() -> None:
    words = ("cannot be run on token ids: at model.layers.1.mlp", "RuntimeError: ")
    refused(change(small("llama"), lambda w: w[:5]), *words)


def test_weights_made_in_inference_mode_are_named() -> None:
    with torch.inference_mode():
        model = small("llama")
    refused(model, "made in torch.inference_mode()", "model.embed_tokens.weight")
    certify(describe(copy.deepcopy(model))).require()


def test_a_model_without_layers_is_refused() -> None:
    model = small("llama")
    model.config.num_hidden_layers = 0
    refused(model, "num_hidden_layers is 0")
    for name in ("llama", "gpt2"):
        model = small(name)
        body = model.base_model
        setattr(body, "layers" if name == "llama" else "h", nn.ModuleList().eval())
        refused(model, "the model has no layers")


@pytest.mark.parametrize(("key", "words"), [("num_attention_heads", "3 query"),
                                            ("num_key_value_heads", "3 key/value")])  # fmt: skip
def test_numbers_of_heads_that_do_not_divide_are_refused(key: str, words: str) -> None:
    model = small("llama")
    setattr(model.config, key, 3)
    refused(model, "model.layers.0.self_attn", words)


EDITED: dict[str, tuple[str, dict[str, Any]]] = {
    "layers": ("llama", {"num_hidden_layers": 1}),
    "experts": ("qwen3-moe", {"num_experts_per_tok": 99}),
    "rotary": ("llama", {"rope_parameters": None}),
    "kinds": ("gemma3", {"layer_types": None}),
    "heads": ("falcon", {"num_attention_heads": 3}),
    "packed": ("gpt-neox", {"num_attention_heads": 5}),
}


@pytest.mark.parametrize("case", EDITED)
def test_a_configuration_edited_afterwards_is_refused_in_a_paragraph(case: str) -> None:
    name, changes = EDITED[case]
    model = small(name)
    for key, value in changes.items():
        setattr(model.config, key, value)
    assert "\n" not in refused(model, "cannot be", "configuration that was edited afterwards")


# -- training mode, gradients and hooks ----------------------------------------------------------


@pytest.mark.parametrize(("name", "path"), [("gpt2", "transformer.h.1.mlp"),
                                            ("llama", "model.layers.1.self_attn")])  # fmt: skip
def test_a_module_left_in_training_mode_is_named(name: str, path: str) -> None:
    model = small(name)
    model.get_submodule(path).train()
    assert refused(model, "in training mode", "model.eval()").startswith(f"{path} of the model is")


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing")
def test_a_model_is_taken_after_gradient_checkpointing() -> None:
    model = small("llama")
    model.gradient_checkpointing_enable()
    open_model(model)
    model.train()
    tokens = torch.tensor([[1, 2, 3]])
    model(tokens, labels=tokens).loss.backward()
    model.gradient_checkpointing_disable()
    open_model(model.eval())


Look = dict[str, tuple[object, ...]]


def look(model: Any) -> Look:
    """Note all that hangs on a model, by name and identity."""
    found: Look = {}
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            inside = tuple(value.items()) if isinstance(value, dict) else ()
            found[f"{name}.{key}"] = (id(value), *((k, id(v)) for k, v in inside))
    for name, parameter in model.named_parameters():
        found[name] = (id(parameter), parameter.requires_grad, parameter._version)
    found["config"] = tuple(sorted((k, repr(v)) for k, v in vars(model.config).items()))
    return found


@pytest.mark.parametrize("name", ["gpt2", "llama-dynamic", "gemma3", "bloom", "qwen3-moe"])
def test_opening_leaves_a_model_as_it_was(name: str) -> None:
    model = small(name)
    before = look(model)
    session = open_model(model)
    _ = session.loaded.weights_sha256, session.lifted
    assert look(model) == before
    pickle.dumps(model)
    copy.deepcopy(model)


def test_hooks_that_were_there_stay() -> None:
    model = small("llama")
    model(torch.tensor([[1, 2]]), output_hidden_states=True)
    before = look(model)
    open_model(model)
    assert look(model) == before


def test_a_longer_prompts_rotary_table_is_left_as_it_was_found() -> None:
    model = small("llama-dynamic")
    model(torch.randint(0, 31, (1, 60)))
    table, before = model.model.rotary_emb.inv_freq, look(model)
    open_model(model)
    assert model.model.rotary_emb.inv_freq is table
    assert look(model) == before


def test_a_model_is_left_as_it_was_after_an_error_too() -> None:
    model = change(small("llama"), lambda w: w[:5])
    before = look(model)
    refused(model, "cannot be run")
    assert look(model) == before
    with pytest.raises(KeyError), untouched(model):
        model.new, model.model.layers[0].training = 1, True
        model.lm_head.register_forward_hook(lambda *_: None)
        model.lm_head.weight.requires_grad_(False)
        raise KeyError
    assert look(model) == before


def test_a_discovery_leaves_a_model_as_it_was() -> None:
    from edgewise import discover

    model = small("llama")
    before = look(model)
    session = open_model(model)
    for method in ("eap", "acdc"):
        discover(session, tiny_pairs(), method=method, metric="logit_diff")
    assert look(model) == before
    pickle.dumps(model)


def test_a_session_within_inference_mode_reads_a_plain_model() -> None:
    model = small("llama")
    with torch.inference_mode():
        open_model(from_module(model))
