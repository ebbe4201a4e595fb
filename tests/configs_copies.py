"""Tiny configurations of near copies: types whose blocks other configurations test in all ways.

The certificate, the coverage of attributes, loading and a discovery run on these; what takes
longer runs on `tests.configs.CONFIGS`, which has every field of a block in several settings.
"""

from __future__ import annotations

import copy
from typing import Any

import transformers

from tests.more_configs import LONG
from tests.other_settings import ACT, EPS, LINEAR, ROPE, SIZES, TIED, UNTIED, WIDE
from tests.shapes import GEMMA, GPT2, LLAMA, LLAMA3, NEOX, PADDED, YARN

KINDS = {"sliding_window": 3, "layer_types": ["sliding_attention", "full_attention"]}
BIASED = {"attention_bias": True, "mlp_bias": True}
ALL = {**SIZES, **ACT, **EPS, **ROPE, **TIED, **WIDE}
"""Every usual attribute of Llama's configurations in another setting."""

WITHOUT_DENSE = {k: v for k, v in ALL.items() if k != "intermediate_size"}
MULTIPLIED = {
    "embedding_multiplier": 3.0, "logits_scaling": 0.5, "residual_multiplier": 0.3,
    "attention_multiplier": 0.7,
}  # fmt: skip
FAIRSEQ = {
    "vocab_size": 31, "d_model": 16, "ffn_dim": 24, "num_layers": 2, "attention_heads": 2,
    "max_position_embeddings": 24,
}  # fmt: skip
BIOGPT = {
    "vocab_size": 31, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "max_position_embeddings": 24,
}  # fmt: skip
CTRL = {"vocab_size": 31, "n_positions": 24, "n_embd": 16, "n_layer": 2, "n_head": 2, "dff": 24}
# the default implementation of experts, a grouped matrix product, has no float64
EAGER = {"experts_implementation": "eager"}
MIXED = {**LLAMA, **EAGER, "num_local_experts": 4, "num_experts_per_tok": 2}
SCALED = {"short_mscale": 1.2, "long_mscale": 1.2, "original_max_position_embeddings": 5}
FEWER = {"num_local_experts": 3, "num_experts_per_tok": 1}
KOLIBRI = {
    **{k: v for k, v in LLAMA.items() if k != "intermediate_size"}, **EAGER, "head_dim": 4,
    "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12,
    "shared_expert_intermediate_size": 10,
}  # fmt: skip
MOSHI = {
    "vocab_size": 31, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
    "ffn_dim": 24, "max_position_embeddings": 24,
}  # fmt: skip
SECTIONS = {"mrope_section": [1, 1, 1], "mrope_interleaved": True}
SEES_AND_HEARS = {
    "vision_config": {
        "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": 4, "patch_size": 2, "crop_size": 4, "image_token_id": 29,
    },
    "audio_config": {
        "hidden_size": 8, "intermediate_size": 12, "num_blocks": 2, "num_attention_heads": 2,
        "ext_pw_out_channel": 8, "depthwise_separable_out_channel": 8, "input_size": 8,
        "nemo_conv_channels": 4, "audio_token_id": 30,
    },
}  # fmt: skip
JET = {
    "vocab_size": 31, "hidden_size": 16, "num_hidden_layers": 2, "num_key_value_heads": 2,
    "kv_channels": 4, "intermediate_size": 12, "max_position_embeddings": 24,
    "num_local_experts": 4, "num_experts_per_tok": 2,
}  # fmt: skip
HALF = {"rope_type": "linear", "factor": 3.0, "rope_theta": 1e3, "partial_rotary_factor": 0.5}

_SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "ministral": ("Ministral", {**LLAMA, **KINDS, "head_dim": 4}),
    "ministral-other": ("Ministral", {**LLAMA, **ALL, "sliding_window": 2}),
    "cwm": ("Cwm", {**LLAMA, **KINDS, "head_dim": 4, "rope_parameters": LLAMA3}),
    "cwm-other": ("Cwm", {**LLAMA, **ALL, "mlp_bias": True, "sliding_window": 2}),
    "internlm3": ("InternLM3", {**PADDED, "head_dim": 4}),
    "internlm3-other": ("InternLM3", {**PADDED, **ALL, **BIASED}),
    "iquestcoder": ("IQuestCoder", {**LLAMA, "head_dim": 4}),
    "iquestcoder-other": ("IQuestCoder", {**LLAMA, **ALL, **BIASED}),
    "jais2": ("Jais2", {**LLAMA}),
    "jais2-other": (
        "Jais2",
        {**LLAMA, **SIZES, **ACT, **ROPE, **TIED, **WIDE, "attention_bias": False,
         "mlp_bias": False, "layer_norm_eps": 0.1},
    ),
    "vaultgemma": ("VaultGemma", {**GEMMA, "attn_implementation": "eager"}),
    "vaultgemma-other": (
        "VaultGemma",
        {**GEMMA, **SIZES, **EPS, **ROPE, **UNTIED, **WIDE, "attn_implementation": "eager",
         "attention_bias": True, "hidden_activation": "gelu", "query_pre_attn_scalar": 7,
         "sliding_window": 3, "layer_types": ["sliding_attention"],
         "final_logit_softcapping": 2.0, "attn_logit_softcapping": 1.5},
    ),
    "hyperclovax": ("HyperCLOVAX", {**LLAMA, **MULTIPLIED}),
    "hyperclovax-other": (
        "HyperCLOVAX",
        {**LLAMA, **ALL, **BIASED, "use_post_norm": False, "residual_multiplier": 0.5},
    ),
    "gpt-neox-japanese": (
        "GPTNeoXJapanese",
        {**{k: v for k, v in NEOX.items() if k not in ("intermediate_size", "rotary_pct")},
         "intermediate_multiple_size": 2, "rope_parameters": HALF},
    ),
    "gpt-neox-japanese-other": (
        "GPTNeoXJapanese",
        {"vocab_size": 37, "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3,
         "hidden_act": "relu", "layer_norm_eps": 0.1, "tie_word_embeddings": False},
    ),
    "codegen": ("CodeGen", {**GPT2, "n_head": 4, "n_embd": 16, "rotary_dim": 2}),
    "codegen-other": (
        "CodeGen",
        {"vocab_size": 37, "n_positions": 20, "n_embd": 32, "n_layer": 1, "n_head": 8,
         "rotary_dim": 4, "n_inner": 20, "activation_function": "relu", "layer_norm_epsilon": 0.1,
         "tie_word_embeddings": True},
    ),
    "xglm": ("XGLM", FAIRSEQ),
    "xglm-other": (
        "XGLM",
        {"vocab_size": 37, "d_model": 24, "ffn_dim": 20, "num_layers": 1, "attention_heads": 3,
         "max_position_embeddings": 20, "activation_function": "relu", "scale_embedding": False,
         "tie_word_embeddings": False},
    ),
    "biogpt": ("BioGpt", BIOGPT),
    "biogpt-other": (
        "BioGpt",
        {"vocab_size": 37, "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 1,
         "num_attention_heads": 3, "max_position_embeddings": 20, "hidden_act": "relu",
         "scale_embedding": False, "tie_word_embeddings": False},
    ),
    "ministral3-other": (
        "Ministral3",
        {**PADDED, **ALL, "sliding_window": 2,
         "rope_parameters": {**YARN, "factor": 2.0, "llama_4_scaling_beta": 0.3}},
    ),
    "granite-swa": (
        "GraniteSWA",
        {**LLAMA, **KINDS, **MULTIPLIED, "head_dim": 6, "num_hidden_layers": 3,
         "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
         "layer_rope_theta": [0, 1e3, 50.0]},
    ),
    "granite-swa-other": (
        "GraniteSWA",
        {**LLAMA, **ALL, **UNTIED, **BIASED, "sliding_window": 2,
         "num_hidden_layers": 1, "layer_types": ["sliding_attention"]},
    ),
    "apertus-other": ("Apertus", {**PADDED, **ALL, "attention_bias": True}),
    "ctrl": ("CTRL", {**CTRL}),
    "ctrl-other": (
        "CTRL",
        {"vocab_size": 37, "n_positions": 20, "n_embd": 24, "n_layer": 1, "n_head": 3, "dff": 20,
         "layer_norm_epsilon": 0.1, "tie_word_embeddings": False},
    ),
    "granitemoe": ("GraniteMoe", {**MIXED, **MULTIPLIED, "head_dim": 4}),
    "granitemoe-other": ("GraniteMoe", {**MIXED, **ALL, **FEWER, "attention_bias": True}),
    "granitemoeshared": (
        "GraniteMoeShared",
        {**MIXED, "head_dim": 6, "shared_intermediate_size": 12, "attention_multiplier": 0.4},
    ),
    "granitemoeshared-other": (
        "GraniteMoeShared", {**MIXED, **MULTIPLIED, **ALL, **FEWER, "attention_bias": True}
    ),
    "granitemoe-swa": (
        "GraniteMoeSWA",
        {**MIXED, **KINDS, "head_dim": 4, "shared_intermediate_size": 12,
         "layer_rope_theta": [0, 1e3]},
    ),
    "granitemoe-swa-other": (
        "GraniteMoeSWA",
        {**MIXED, **MULTIPLIED, **ALL, **FEWER, "attention_bias": True, "sliding_window": 2,
         "layer_types": ["sliding_attention"]},
    ),
    "ernie-moe": (
        "Ernie4_5_Moe",
        {**PADDED, **EAGER, "moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 12,
         "moe_layer_start_index": 1, "num_hidden_layers": 3, "head_dim": 6, "moe_norm_min": 0.6},
    ),
    "ernie-moe-other": (
        "Ernie4_5_Moe",
        {**PADDED, **EAGER, **ALL, **UNTIED, "num_hidden_layers": 2, "moe_num_experts": 3,
         "moe_k": 1, "moe_intermediate_size": 10, "moe_layer_start_index": 0, "use_bias": True,
         "moe_layer_end_index": 1, "moe_layer_interval": 2, "moe_num_shared_experts": 0},
    ),
    "hunyuan-moe": (
        "HunYuanMoEV1",
        {**LLAMA, **EAGER, "head_dim": 4, "num_experts": 4, "moe_topk": [2, 1]},
    ),
    "hunyuan-moe-other": (
        "HunYuanMoEV1",
        {**LLAMA, **EAGER, **ALL, "attention_bias": True, "num_experts": 3, "moe_topk": 2},
    ),
    "minimax-m2": (
        "MiniMaxM2",
        {**MIXED, "head_dim": 8, "rotary_dim": 4},
    ),
    "minimax-m2-other": ("MiniMaxM2", {**MIXED, **ALL, **FEWER, "head_dim": 4}),
    "cohere2-moe": (
        "Cohere2Moe",
        {**LLAMA, **EAGER, **KINDS, "head_dim": 4, "num_experts": 4},
    ),
    "cohere2-moe-shared": (
        "Cohere2Moe",
        {**LLAMA, **EAGER, "head_dim": 4, "num_experts": 3, "num_experts_per_tok": 1,
         "num_shared_experts": 2, "expert_selection_fn": "sigmoid", "rms_norm_eps": 0.05,
         "sliding_window": 2, "layer_types": ["full_attention", "sliding_attention"],
         "mlp_layer_types": ["dense", "sparse"], "prefix_dense_intermediate_size": 20,
         "attention_bias": True, "logit_scale": 0.3},
    ),
    "cohere2-moe-other": (
        "Cohere2Moe",
        {**LLAMA, **EAGER, **SIZES, **ACT, **ROPE, **UNTIED, **WIDE, "num_experts": 3,
         "num_shared_experts": 1, "expert_selection_fn": "sigmoid", "norm_topk_prob": False,
         "shared_expert_combination_strategy": "sum", "layer_norm_eps": 0.1,
         "prefix_dense_sliding_window_pattern": 2, "layer_types": ["full_attention"]},
    ),
    "flex-olmo-other": (
        "FlexOlmo",
        {**PADDED, **EAGER, **ALL, "attention_bias": True, "num_experts": 3, "head_dim": 4,
         "num_experts_per_tok": 1, "norm_topk_prob": True},
    ),
    "kolibri-other": (
        "Kolibri1",
        {**KOLIBRI, **WITHOUT_DENSE, "moe_intermediate_size": 10,
         "shared_expert_intermediate_size": 8,
         "num_experts": 3, "num_experts_per_tok": 1, "norm_topk_prob": True, "sliding_window": 2,
         "layer_types": ["sliding_attention"]},
    ),
    "phimoe": ("Phimoe", {**MIXED, "head_dim": 4, "router_jitter_noise": 0.2, "sliding_window": 3}),
    "phimoe-other": (
        "Phimoe",
        {**MIXED, **ALL, "attention_bias": True, "num_local_experts": 3, "lm_head_bias": True,
         "sliding_window": 2, "rope_parameters": {**LINEAR, **SCALED}},
    ),
    "phimoe-long": (
        "Phimoe",
        {**MIXED, "rope_parameters": {**LONG, **SCALED}},
    ),
    "dbrx": (
        "Dbrx",
        {"vocab_size": 31, "d_model": 16, "n_heads": 4, "n_layers": 2, "max_seq_len": 24, **EAGER,
         "attn_config": {"kv_n_heads": 2, "clip_qkv": 0.7, "rope_theta": 1e4},
         "ffn_config": {"ffn_hidden_size": 12, "moe_num_experts": 4, "moe_top_k": 2}},
    ),
    "dbrx-other": (
        "Dbrx",
        {"vocab_size": 37, "d_model": 24, "n_heads": 3, "n_layers": 1, "max_seq_len": 20, **EAGER,
         "attn_config": {"kv_n_heads": 1, "rope_theta": 1e4, "clip_qkv": 2.0}, **ROPE,
         "ffn_config": {"ffn_hidden_size": 10, "moe_num_experts": 3, "moe_top_k": 1,
                        "ffn_act_fn": {"name": "gelu"}, "moe_normalize_expert_weights": None}},
    ),
    "emu3": ("Emu3Text", {**PADDED, "head_dim": 4}),
    "emu3-other": ("Emu3Text", {**PADDED, **ALL}),
    "moshi": ("Moshi", {**MOSHI}),
    "moshi-other": (
        "Moshi",
        {**MOSHI, "vocab_size": 37, "hidden_size": 24, "num_hidden_layers": 1, "ffn_dim": 20,
         "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 8, **ACT, **EPS, **ROPE},
    ),
    "compass": (
        "CohereCompassText",
        {**LLAMA, **KINDS, "head_dim": 4, "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e3, **SECTIONS},
            "full_attention": None,
        }},
    ),
    "compass-other": (
        "CohereCompassText",
        {**LLAMA, **SIZES, **ACT, **UNTIED, **WIDE, "layer_norm_eps": 0.1, "attention_bias": True,
         "logit_scale": 0.3, "sliding_window": 2, "layer_types": ["full_attention"],
         "rope_parameters": {"full_attention": {**LINEAR, **SECTIONS}}},
    ),
    "phi4-multimodal": (
        "Phi4Multimodal",
        {**PADDED, **SEES_AND_HEARS, "head_dim": 4, "sliding_window": 3, "rope_parameters": LONG,
         "original_max_position_embeddings": 5},
    ),
    "phi4-multimodal-other": (
        "Phi4Multimodal",
        {**PADDED, **SIZES, **ACT, **EPS, **TIED, **WIDE, **SEES_AND_HEARS, "sliding_window": 2},
    ),
    "hunyuan-other": ("HunYuanDenseV1", {**LLAMA, **ALL}),
    "nanochat-other": (
        "NanoChat",
        {**LLAMA, **SIZES, **ACT, **EPS, **ROPE, **TIED, "final_logit_softcapping": None},
    ),
    "persimmon-other": (
        "Persimmon",
        {"vocab_size": 37, "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 1,
         "num_attention_heads": 3, "hidden_act": "relu", "layer_norm_eps": 0.1,
         "tie_word_embeddings": True, "rope_parameters": HALF, "qk_layernorm": False},
    ),
}  # fmt: skip

_FULL: dict[str, tuple[str, dict[str, Any]]] = {
    "hunyuan": (
        "HunYuanDenseV1",
        {**LLAMA, "head_dim": 4, "attention_bias": True,
         "rope_parameters": {"rope_type": "dynamic", "alpha": 50.0, "rope_theta": 1e3,
                             "factor": 1.0}},
    ),
    "nanochat": ("NanoChat", {**LLAMA, "attention_bias": True, "final_logit_softcapping": 3.0}),
    "ministral3": (
        "Ministral3",
        {**PADDED, "head_dim": 4, "rope_parameters": {**YARN, "original_max_position_embeddings": 3,
                                                      "llama_4_scaling_beta": 0.7}},
    ),
    "apertus": ("Apertus", {**PADDED, "head_dim": 4}),
    "flex-olmo": (
        "FlexOlmo",
        {**PADDED, **EAGER, "head_dim": 6, "num_experts": 4, "num_experts_per_tok": 2},
    ),
    "kolibri": ("Kolibri1", {**KOLIBRI, **KINDS}),
    "persimmon": (
        "Persimmon",
        {"vocab_size": 31, "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2,
         "num_attention_heads": 4, "max_position_embeddings": 24},
    ),
}  # fmt: skip

_WHOLE: dict[str, tuple[str, dict[str, Any]]] = {
    "bitnet": ("BitNet", {**LLAMA}),
    "bitnet-other": (
        "BitNet",
        {**LLAMA, **SIZES, **ACT, **EPS, **ROPE, **TIED, "attention_bias": True},
    ),
    "diffllama": ("DiffLlama", {**LLAMA}),
    "diffllama-other": (
        "DiffLlama",
        {**LLAMA, **SIZES, **ACT, **EPS, **ROPE, **TIED, "attention_bias": True,
         "num_key_value_heads": 2, "num_attention_heads": 4, "lambda_std_dev": 0.3},
    ),
    "jetmoe": ("JetMoe", {**JET}),
    "jetmoe-other": (
        "JetMoe",
        {**JET, **EPS, **ROPE, **UNTIED, "vocab_size": 37, "hidden_size": 24, "kv_channels": 8,
         "intermediate_size": 20, "num_hidden_layers": 1, "num_key_value_heads": 3,
         "activation_function": "gelu", "num_local_experts": 3, "num_experts_per_tok": 1},
    ),
}  # fmt: skip

_MODELS = {
    "Emu3Text": "Emu3ForCausalLM",
    "CohereCompassText": "CohereCompassForCausalLM",
    "CTRL": "CTRLLMHeadModel",
    "InternLM3": "LlamaForCausalLM",
    "IQuestCoder": "LlamaForCausalLM",
}


def _entries(
    settings: dict[str, tuple[str, dict[str, Any]]],
) -> dict[str, tuple[Any, Any, dict[str, Any]]]:
    return {
        name: (
            getattr(transformers, f"{kind}Config"),
            getattr(transformers, _MODELS.get(kind, f"{kind}ForCausalLM")),
            copy.deepcopy(options),  # configurations write into what they are given
        )
        for name, (kind, options) in settings.items()
    }


class SW3Config(transformers.GPT2Config):
    """GPT-2's configuration under the other name that transformers has for it."""

    model_type = "gpt-sw3"


SW3 = {
    "gpt-sw3": (SW3Config, transformers.GPT2LMHeadModel, GPT2),
    "gpt-sw3-other": (
        SW3Config,
        transformers.GPT2LMHeadModel,
        {"vocab_size": 37, "n_positions": 20, "n_embd": 24, "n_layer": 1, "n_head": 3,
         "n_inner": 20, "activation_function": "relu", "layer_norm_epsilon": 0.1,
         "scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True,
         "tie_word_embeddings": False},
    ),
}  # fmt: skip
COPIES = {**_entries(_SETTINGS), **SW3}
"""Configurations by the names of tests, each with its classes."""

COPIES_IN_FULL = _entries(_FULL)
"""Those whose blocks have what no other configuration's have."""

COPIES_WHOLE = _entries(_WHOLE)
"""Those with parts that are taken whole."""
