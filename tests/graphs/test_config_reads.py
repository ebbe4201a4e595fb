"""Config keys that no code reads are ignored; every handled one is read by its type's own code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from edgewise.graphs.errors import UnsupportedModel
from edgewise.graphs.lift import config_reads
from edgewise.graphs.lift.config_reads import reads_in, reads_of, shared_modules
from edgewise.graphs.lift.lifting import ALWAYS_IGNORED, describe, families
from edgewise.patching.run.certificate import certify
from tests.engine import tiny_model

PUBLISHED: dict[str, dict[str, Any]] = {
    "llama": {  # SmolLM2, CodeLlama, copies by Unsloth
        "is_llama_config": True, "rope_interleaved": False, "max_sequence_length": 2048,
        "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}},
        "unsloth_version": "2024.9", "unsloth_fixed": True,
    },
    "gptj": {"rotary": True, "scale_attn_weights": True, "gradient_checkpointing": False},
    "gpt-neo": {"gradient_checkpointing": False},
    "opt": {"activation_dropout": 0.0, "prefix": "</s>"},
    "bloom": {
        "attention_softmax_in_fp32": True, "bias_dropout_fusion": True, "offset_alibi": 100,
        "masked_softmax_fusion": True, "skip_bias_add": True, "skip_bias_add_qkv": False,
        "seq_length": 2048,
    },
    "gpt-bigcode": {
        "inference_runner": 0, "pad_key_length": True, "pre_allocate_kv_cache": False,
        "validate_runner_input": True,
    },
    "starcoder2": {"mlp_type": "default", "norm_type": "layer_norm", "activation_function": "gelu"},
    "gemma2": {
        "cache_implementation": "hybrid", "hidden_act": "gelu_pytorch_tanh",
        "sliding_window_size": 4096,
    },
    "gemma3": {"sliding_window_pattern": 6},
    "falcon": {
        "apply_residual_connection_post_layernorm": False,
        "auto_map": {"AutoConfig": "configuration_falcon.FalconConfig"},
    },
    "phi3": {
        "attention_bias": False, "full_attn_mod": 1, "interpolate_factor": 1,
        "lm_head_bias": False, "mlp_bias": False,
    },
    "stablelm": {"rope_pct": 0.25, "norm_eps": 1e-5, "rotary_scaling_factor": 1.0},
    "qwen2": {"use_mrope": False},
    "gpt-neox": {"attention_probs_dropout_prob": 0, "hidden_dropout_prob": 0},
    "cohere": {"model_max_length": 131072, "pool": "last"},
    "cohere2": {
        "cache_implementation": "hybrid", "order_of_interleaved_layers": "local_attn_first",
        "position_embedding_type": "rope_gptj", "rotary_pct": 1.0, "use_embedding_sharing": True,
        "use_gated_activation": True, "use_parallel_block": True, "use_parallel_embedding": False,
    },
    "nemotron": {"rotary_percentage": 0.5},
    "gpt-oss": {"experts_per_token": 4, "initial_context_length": 4096},
    "deepseek2": {
        "aux_loss_alpha": 0.001, "ep_size": 1, "moe_layer_freq": 1, "scoring_func": "softmax",
        "seq_aux": True,
    },
    "deepseek3": {
        "aux_loss_alpha": 0.001, "ep_size": 1, "moe_layer_freq": 1, "scoring_func": "sigmoid",
        "seq_aux": True, "topk_method": "noaux_tc",
    },
    "glm4-moe": {"partial_rotary_factor": 0.5},
    "llama4": {"cache_implementation": "hybrid", "for_llm_compressor": False},
    "dots1": {"ep_size": 1, "moe_layer_freq": 1, "scoring_func": "noaux_tc", "seq_aux": True},
    "minimax-m2": {
        "mtp_transformer_layers": 1, "num_mtp_modules": 3, "scoring_func": "sigmoid",
        "shared_intermediate_size": 0, "use_mtp": True, "use_qk_norm": True,
        "use_routing_bias": True, "qk_norm_type": "per_layer", "attn_type_list": [1, 1],
        "layernorm_full_attention_beta": 1.0, "shared_moe_mode": "sigmoid",
    },
    "mimo": {
        "add_full_attention_sink_bias": False, "add_swa_attention_sink_bias": True,
        "attention_chunk_size": 128, "hybrid_layer_pattern": [0, 1],
        "layernorm_epsilon": 1e-5, "moe_layer_freq": [0, 1],
        "scoring_func": "sigmoid", "sliding_window_size": 128, "swa_head_dim": 192,
        "swa_num_key_value_heads": 8, "swa_rope_theta": 10000, "topk_method": "noaux_tc",
    },
    "afmoe": {
        "load_balance_coeff": 5e-5, "n_group": 1, "num_expert_groups": 1, "route_norm": True,
        "score_func": "sigmoid", "topk_group": 1, "use_grouped_mm": True,
    },
    "glm4-moe-lite": {"first_k_dense_replace": 1, "moe_layer_freq": 1, "topk_method": "noaux_tc"},
    "minicpm3": {"mup_denominator": 32},
    "kimi-linear": {
        "first_k_dense_replace": 1, "linear_attn_config": {"head_dim": 3, "num_heads": 2},
        "mla_use_nope": True, "moe_layer_freq": 1, "moe_router_activation_func": "sigmoid",
        "num_nextn_predict_layers": 0, "rope_theta": 1e4,
        "use_grouped_topk": True,
    },
    "olmo-hybrid": {"fla_hybrid_attention_indices": [1], "linear_use_gate": True},
    "qwen3.5-moe": {
        "attn_output_gate": True, "full_attention_interval": 4, "mamba_ssm_dtype": "float32",
        "mlp_only_layers": [], "mtp_num_hidden_layers": 1, "mtp_use_dedicated_embeddings": False,
    },
}  # fmt: skip
"""Keys of published config.json files that the model's code does not read."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_keys_that_no_code_reads_are_ignored(name: str) -> None:
    plain, model = tiny_model(name), tiny_model(name)
    for key, value in PUBLISHED[name].items():
        setattr(model.config, key, value)
    lifted = describe(model)
    certify(lifted).require()
    tokens = torch.tensor([[1, 5, 2, 7, 3]])
    assert torch.equal(model(tokens).logits, plain(tokens).logits)
    entry = families()[model.config.model_type]
    shown = lifted.variants.get("ignored config keys", "")
    known = entry.ignored | ALWAYS_IGNORED
    assert shown == ", ".join(sorted(set(PUBLISHED[name]) - known))


def test_a_model_without_such_keys_shows_none() -> None:
    assert "ignored config keys" not in describe(tiny_model("llama")).variants


READ = [
    ("llama", "is_causal", False),  # by masks
    ("llama", "attention_chunk_size", 16),
    ("cohere", "sliding_window", 200),  # Cohere 1 has none, but masks read one
    ("cohere", "layer_types", ["sliding_attention", "full_attention"]),
    ("phi", "sliding_window", 3),
    ("llama", "quantization_config", {"bits": 4}),
]


@pytest.mark.parametrize(("name", "key", "value"), READ)
def test_what_some_code_reads_is_refused(name: str, key: str, value: object) -> None:
    model = tiny_model(name)
    setattr(model.config, key, value)
    with pytest.raises(UnsupportedModel, match=f"sets {key}="):
        describe(model)


def test_without_source_nothing_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    model.config.is_llama_config = True
    describe(model)
    monkeypatch.setattr(config_reads, "reads_of", lambda module: None)
    with pytest.raises(UnsupportedModel, match="is_llama_config=True"):
        describe(model)


def test_a_model_of_other_code_ignores_nothing() -> None:
    model = tiny_model("llama")
    model.__class__ = type("OwnForCausalLM", (type(model),), {"__module__": "own"})
    model.config.is_llama_config = True
    with pytest.raises(UnsupportedModel, match="is_llama_config=True"):
        describe(model)


def test_names_are_read_as_attributes_strings_and_composed() -> None:
    found = reads_in(
        "x = config.alpha + getattr(config, 'beta') + kwargs.pop('gamma')\n"
        "y = getattr(config, f'{kind}_delta', None)\n"
        "epsilon = 1  # config.zeta\n"
    )
    names = ("alpha", "beta", "gamma", "local_delta", "delta", "epsilon", "zeta")
    assert [name in found for name in names] == [True] * 4 + [False] * 3


@pytest.mark.parametrize("model_type", families())
def test_every_handled_attribute_is_read_by_the_types_own_code(model_type: str) -> None:
    config = CONFIG_MAPPING[model_type]
    kinds = (config, MODEL_FOR_CAUSAL_LM_MAPPING.get(config, config))
    bases = {base.__module__ for kind in kinds for base in kind.__mro__}
    bases |= {name.replace("configuration_", "modeling_") for name in bases if ".models." in name}
    own = [reads_of(name) for name in bases if ".models." in name]
    shared = [reads_of(name) for name in shared_modules()]
    declared = {*config().to_dict(), *config.attribute_map}

    def is_read(name: str) -> bool:
        known = own + shared if name in declared else own
        return any(found is not None and name in found for found in known)

    unread = [name for name in sorted(families()[model_type].handled) if not is_read(name)]
    assert not unread, f"no code of this type reads {', '.join(unread)}"
