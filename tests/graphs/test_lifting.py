"""Lifting: views of the model's own weights, and refusal by name of what is not understood."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import (
    GPTNeoConfig,
    GPTNeoForCausalLM,
    LlamaConfig,
    LlamaModel,
    OpenAIGPTConfig,
    OpenAIGPTLMHeadModel,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from edgewise.graphs.errors import CertificateFailed, UnsupportedModel
from edgewise.graphs.lift.lifted import Attention, AttentionContext, Norm
from edgewise.graphs.lift.lifting import ALWAYS_IGNORED, describe, families, tensors_of
from edgewise.patching.run.certificate import certify
from edgewise.patching.trace import run_plain
from tests.configs import EVERY, LLAMA
from tests.engine import tiny_lift, tiny_model
from tests.shapes import GPT_NEO


@pytest.mark.parametrize("name", EVERY)
def test_weights_are_views_of_the_models_own(name: str) -> None:
    model = tiny_model(name)
    owned = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    for tensor in tensors_of(describe(model)):
        assert tensor.untyped_storage().data_ptr() in owned
        assert not tensor.requires_grad


def test_the_graph_follows_the_config_and_the_options() -> None:
    lifted = tiny_lift("llama", grouped_kv=True)
    assert (lifted.graph.layers, lifted.graph.heads, lifted.graph.kv_heads) == (2, 4, 2)
    assert lifted.graph.grouped_kv
    assert lifted.graph.edge_count == sum(9 * before + 4 for before in (1, 6)) + 11


def test_variants_are_named() -> None:
    found = tiny_lift("qwen2-some-windows").variants
    assert found["attention"] == "4 heads of 4, 2 key/value heads"
    assert found["window"] == "3, full"
    assert found["biases"] == "q, k, v"


def test_every_family_is_found() -> None:
    assert {"gpt2", "llama", "mistral", "qwen2"} <= set(families())


def refused(model: object, *words: str) -> None:
    with pytest.raises(UnsupportedModel) as error:
        describe(model)
    for word in words:
        assert word in str(error.value)


def test_a_type_that_cannot_be_lifted_is_refused_by_name() -> None:
    config = OpenAIGPTConfig(vocab_size=31, n_embd=16, n_layer=1, n_head=2)
    model = OpenAIGPTLMHeadModel(config).eval()
    refused(model, "'openai-gpt'", "stands on its stream", "supported types:", "gpt2", "llama")
    refused(torch.nn.Linear(2, 2), "'Linear'", "cannot be lifted")


def test_a_model_without_head_is_refused() -> None:
    refused(LlamaModel(LlamaConfig(**LLAMA)).eval(), "LlamaModel has no language-model head")


def test_an_unknown_attribute_is_refused_by_name() -> None:
    model = tiny_model("llama")
    model.config.attention_chunk_size = 16  # Llama declares none, but masks read it
    refused(model, "attention_chunk_size=16", "'llama'")


def test_a_parameter_without_a_place_is_refused_by_name() -> None:
    model = tiny_model("gpt2")
    model.transformer.h[1].adapter = torch.nn.Linear(2, 2)
    refused(model, "transformer.h.1.adapter.weight", "merged")


def test_a_hook_is_refused_by_name() -> None:
    model = tiny_model("gpt2")
    model.transformer.h[0].mlp.register_forward_hook(lambda *_: None)
    refused(model, "transformer.h.0.mlp", "hooks")


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3", "bloom"])
def test_a_model_is_lifted_again_after_its_hidden_states_were_recorded(name: str) -> None:
    model = tiny_model(name, dtype=torch.float32)
    for _ in range(2):
        assert certify(describe(model)).passed
        model(torch.tensor([[1, 2]]), output_hidden_states=True)


def test_training_mode_is_refused() -> None:
    refused(tiny_model("gpt2").train(), "training mode", "model.eval()")


def test_an_unknown_activation_is_refused_by_name() -> None:
    model = tiny_model("llama")
    model.config.hidden_act = "laplace"
    refused(model, "'laplace'", "silu")


def test_the_certificate_sees_a_wrong_window() -> None:
    for right, wrong in ((3, 4), (19, 20)):
        model = tiny_model("mistral-window")
        model.config.sliding_window = right
        lifted = describe(model)
        assert certify(lifted).passed
        blocks = tuple(
            replace(b, attention=replace(b.attention, window=wrong)) for b in lifted.blocks
        )
        assert not certify(replace(lifted, blocks=blocks)).passed


def test_gpt_neos_window_is_the_one_it_was_built_with() -> None:
    config = GPTNeoConfig(**{**GPT_NEO, "window_size": 200, "max_position_embeddings": 260})
    for edits in ({"window_size": 240}, {"attention_layers": ["local", "local"]}):
        torch.manual_seed(0)
        model = GPTNeoForCausalLM(copy.deepcopy(config)).double().eval()
        for name, value in edits.items():  # the certificate's prompts are shorter than the window
            setattr(model.config, name, value)
        lifted = describe(model)
        assert [block.attention.window for block in lifted.blocks] == [None, 200]
        assert certify(lifted).passed
        tokens = torch.randint(0, 31, (1, 230), generator=torch.Generator().manual_seed(3))
        own = AttentionContext(torch.ones_like(tokens).bool(), torch.arange(230)[None])
        logits = lifted.logits(run_plain(lifted, tokens, own).streams.final)
        torch.testing.assert_close(logits, model(tokens).logits)


@pytest.mark.parametrize("edits", [{"max_position_embeddings": 200}, {"rope_type": "default"}])
def test_rotary_settings_edited_after_the_model_was_built_are_refused(
    edits: dict[str, Any],
) -> None:
    model = tiny_model("llama-dynamic")
    if "rope_type" in edits:
        model.config.rope_parameters = {**model.config.rope_parameters, **edits}
    else:
        model.config.max_position_embeddings = edits["max_position_embeddings"]
    refused(model, "but the model was built with 'dynamic' and", "before it is built")


@pytest.mark.parametrize("name", ["qwen2-some-windows", "gemma3", "olmo3", "exaone4", "cohere2"])
def test_an_unknown_layer_type_is_refused_by_name(name: str) -> None:
    model = tiny_model(name)
    model.config.layer_types = ["chunked_attention", *model.config.layer_types[1:]]
    refused(model, "'chunked_attention'", "full_attention, sliding_attention")


@pytest.mark.parametrize("part", ["attention_norm", "mlp", "attention"])
def test_the_certificate_fails_on_a_wrong_lift(part: str) -> None:
    lifted = tiny_lift("llama", dtype=torch.float32)
    block = lifted.blocks[1]
    wrong = {
        "attention_norm": lambda b: replace(b, attention_norm=replace(b.attention_norm, eps=0.5)),
        "mlp": lambda b: replace(b, mlp=replace(b.mlp, activation="gelu")),
        "attention": lambda b: replace(b, attention=replace(b.attention, window=2)),
    }[part](block)
    certificate = certify(replace(lifted, blocks=(lifted.blocks[0], wrong)))
    assert not certificate.passed
    with pytest.raises(CertificateFailed, match="largest error with all edges kept"):
        certificate.require()


@pytest.mark.parametrize("model_type", [k for k, one in families().items() if not one.watched])
def test_every_config_attribute_is_classified(model_type: str) -> None:
    config = CONFIG_MAPPING[model_type]()
    entry = families()[model_type]
    found = {key for key in config.to_dict() if not key.startswith("_")}
    assert not found - entry.handled - entry.ignored - entry.inside - ALWAYS_IGNORED


@pytest.mark.parametrize("model_type", families())
def test_no_attribute_is_both_handled_and_ignored(model_type: str) -> None:
    entry = families()[model_type]
    assert not entry.handled & (entry.ignored | ALWAYS_IGNORED)
    assert not entry.inside & (entry.handled | entry.ignored | ALWAYS_IGNORED)


IGNORED_BY_THE_CODE = {
    "llama": {"sliding_window": 3},
    "granite": {"sliding_window": 3},
    "mistral-window": {"layer_types": ["full_attention", "sliding_attention"]},
    "gemma3": {"attn_logit_softcapping": 1.5, "attn_implementation": "eager"},
}


@pytest.mark.parametrize("name", IGNORED_BY_THE_CODE)
def test_settings_a_models_code_does_not_read_do_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, model, options = EVERY[name]
    changed = (config, model, {**options, **IGNORED_BY_THE_CODE[name]})
    monkeypatch.setitem(EVERY, name, changed)
    certify(tiny_lift(name)).require()


def test_a_nan_of_the_model_fails_the_certificate() -> None:
    lifted = tiny_lift("llama")
    (norm, *_), poison = lifted.blocks, torch.full((16,), float("nan"))
    block = replace(norm, mlp_norm=replace(norm.mlp_norm, weight=poison))
    found = certify(replace(lifted, blocks=(block, *lifted.blocks[1:])))
    assert math.isnan(found.kept_all)
    assert math.isnan(found.stream)
    assert not found.passed


def test_a_norm_with_offset_keeps_the_digits_of_its_small_weight() -> None:
    weight = torch.full((4,), 2.0**-9, dtype=torch.bfloat16)  # 1 + w is 1 in bfloat16
    norm = Norm(weight, None, 0.0, centred=False, offset=1.0)
    assert norm.scale.tolist() == [1 + 2.0**-9] * 4
    out = norm(torch.tensor([3.0, -3.0, 3.0, 3.0], dtype=torch.bfloat16))
    assert out.dtype is torch.bfloat16


def test_attention_scores_beyond_half_precision_are_finite() -> None:
    q = torch.full((1, 2, 1, 4), 200.0, dtype=torch.float16)
    one = torch.ones(1, 1, 4, dtype=torch.float16)
    attention = Attention(one, one, one, one, None, None, None, None, scale=1.0)
    context = AttentionContext(torch.ones(1, 2, dtype=torch.bool), torch.arange(2)[None])
    z = attention.mix(q, q, torch.ones_like(q), context)  # scores of 160,000
    assert torch.equal(z, torch.ones_like(q))
