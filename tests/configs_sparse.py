"""Tiny configurations of newer mixtures and of latent attention, by their types."""

from __future__ import annotations

import copy
from typing import Any

import transformers

from tests.shapes import LLAMA, PADDED, YARN

MOE = {
    **PADDED, "experts_implementation": "eager", "num_experts_per_tok": 2,
    "moe_intermediate_size": 12, "n_routed_experts": 4, "n_shared_experts": 1, "n_group": 1,
    "topk_group": 1, "first_k_dense_replace": 1, "routed_scaling_factor": 1.5,
    "norm_topk_prob": True,
}  # fmt: skip
IN_GROUPS = {
    "n_routed_experts": 8, "num_experts_per_tok": 3, "n_group": 4, "topk_group": 2,
    "n_shared_experts": 2, "first_k_dense_replace": 0, "routed_scaling_factor": 0.7,
    "norm_topk_prob": False, "moe_intermediate_size": 10,
}  # fmt: skip
SIZES = {
    "vocab_size": 37, "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 1,
    "num_attention_heads": 6, "num_key_value_heads": 3, "rms_norm_eps": 0.05,
    "tie_word_embeddings": True, "attention_bias": True,
    "rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 1e3},
}  # fmt: skip
ACT = {"hidden_act": "gelu_new"}
LATENT = {
    "num_key_value_heads": 4, "kv_lora_rank": 8, "q_lora_rank": 5, "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 6, "v_head_dim": 5,
}  # fmt: skip
NARROW = {
    "num_key_value_heads": 6, "kv_lora_rank": 6, "q_lora_rank": None, "qk_rope_head_dim": 2,
    "qk_nope_head_dim": 4, "v_head_dim": 3,
}  # fmt: skip
MSCALE = {**YARN, "mscale": 0.7, "mscale_all_dim": 0.9}
STRETCHED = {
    **MSCALE, "original_max_position_embeddings": 4, "llama_4_scaling_beta": 0.5,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "factor": 3.0, "rope_theta": 1e3}
BOTH = {
    "sliding_attention": {**LINEAR, "partial_rotary_factor": 0.5},
    "full_attention": {**LINEAR, "rope_theta": 50.0},
}
FIRST = {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 3}
LATER = {"mlp_layer_types": ["dense", "sparse"]}


def without(options: dict[str, Any], *names: str) -> dict[str, Any]:
    """Leave some settings out, which a configuration of another kind does not have."""
    return {name: value for name, value in options.items() if name not in names}


OPEN = without(MOE, "first_k_dense_replace", "intermediate_size")
OPEN_IN_GROUPS = without(IN_GROUPS, "first_k_dense_replace")
LAYERED = {**without(MOE, "first_k_dense_replace"), **LATER}
INDEX = {"index_topk": 24, "index_head_dim": 8, "index_n_heads": 2, "q_lora_rank": 8}
BY_LAYER = without(LAYERED, "n_routed_experts", "n_shared_experts")
LAYERED_IN_GROUPS = {
    **without(IN_GROUPS, "first_k_dense_replace", "n_routed_experts", "n_shared_experts"),
    "mlp_layer_types": ["sparse"],
}
LLAMA4 = {
    **PADDED, "head_dim": 6, "intermediate_size_mlp": 20, "num_local_experts": 4,
    "num_experts_per_tok": 1, "moe_layers": [1], "no_rope_layers": [1, 0],
    "attention_chunk_size": 3,
}  # fmt: skip
MIMO = {**FIRST, "n_routed_experts": 4, "head_dim": 12, "v_head_dim": 5, "num_key_value_heads": 1}
QWEN = {
    **PADDED, **FIRST, "experts_implementation": "eager", "num_experts": 4,
    "num_experts_per_tok": 2, "moe_intermediate_size": 12, "head_dim": 6,
}  # fmt: skip
FLINT = {
    **QWEN, "mlp_only_layers": [0], "shared_expert_intermediate_size": 10,
    "decoder_sparse_step": 2,
}  # fmt: skip
MELLUM = {"num_experts": 4, "head_dim": 6}
ARIA = {
    "experts_implementation": "eager", "moe_num_experts": 4, "moe_topk": 2,
    "moe_num_shared_experts": 2,
}  # fmt: skip
GEMMA4 = {
    **LLAMA, "experts_implementation": "eager", "hidden_size_per_layer_input": 0, "head_dim": 6,
    "global_head_dim": 12, "num_global_key_value_heads": 2, "sliding_window": 3,
    "layer_types": ["sliding_attention", "full_attention"],
}  # fmt: skip
GEMMA4_E = {
    **GEMMA4, "num_hidden_layers": 4, "hidden_size_per_layer_input": 5, "num_kv_shared_layers": 2,
    "vocab_size_per_layer_input": 31, "use_double_wide_mlp": True, "global_head_dim": 6,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}  # fmt: skip
AFMOE = {**QWEN, "num_shared_experts": 1, "route_scale": 1.5, "num_dense_layers": 1}
LAGUNA = {**QWEN, **LATER, "shared_expert_intermediate_size": 10, "moe_routed_scaling_factor": 1.5}

_SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt-oss": (
        "GptOss",
        {**LLAMA, "head_dim": 6, "num_local_experts": 4, "num_experts_per_tok": 2,
         "sliding_window": 3, "experts_implementation": "eager", "swiglu_limit": 0.5},
    ),
    "gpt-oss-other": (
        "GptOss",
        {**PADDED, **SIZES, "head_dim": 4, "num_local_experts": 3, "num_experts_per_tok": 1,
         "sliding_window": 2, "layer_types": ["full_attention"], "attention_bias": False,
         "experts_implementation": "eager", "swiglu_alpha": 0.9, "num_hidden_layers": 1},
    ),
    "glm4-moe": ("Glm4Moe", {**MOE, "head_dim": 6, "use_qk_norm": True}),
    "glm4-moe-other": ("Glm4Moe", {**MOE, **SIZES, **ACT, **IN_GROUPS, "head_dim": 4}),
    "dots1": ("Dots1", {**MOE, **FIRST, "head_dim": 6}),
    "dots1-other": (
        "Dots1",
        {**MOE, **SIZES, **ACT, **IN_GROUPS, "head_dim": 4, "sliding_window": 2,
         "layer_types": ["sliding_attention"]},
    ),
    "deepseek2": ("DeepseekV2", {**MOE, **LATENT, "rope_parameters": MSCALE}),
    "deepseek2-other": (
        "DeepseekV2",
        {**MOE, **SIZES, **ACT, **IN_GROUPS, **NARROW, "topk_method": "group_limited_greedy"},
    ),
    "deepseek2-dense": (
        "DeepseekV2",
        {**MOE, **LATENT, "first_k_dense_replace": 2, "mlp_bias": True, "attention_bias": True},
    ),
    "deepseek3": ("DeepseekV3", {**MOE, **LATENT, "rope_parameters": MSCALE}),
    "deepseek3-other": (
        "DeepseekV3",
        {**MOE, **SIZES, **ACT, **IN_GROUPS, **NARROW, "rope_interleave": False},
    ),
    "solar-open": ("SolarOpen", {**OPEN, "head_dim": 6}),
    "solar-open-other": (
        "SolarOpen",
        {**OPEN, **without(SIZES, "intermediate_size"), **ACT, **OPEN_IN_GROUPS, "head_dim": 4},
    ),
    "exaone-moe": (
        "ExaoneMoe",
        {**BY_LAYER, **FIRST, "head_dim": 6, "num_experts": 4, "num_shared_experts": 1},
    ),
    "exaone-moe-other": (
        "ExaoneMoe",
        {**BY_LAYER, **SIZES, **ACT, **LAYERED_IN_GROUPS, "head_dim": 4, "num_experts": 8,
         "num_shared_experts": 2, "sliding_window": 2, "layer_types": ["sliding_attention"]},
    ),
    "hunyuan3": (
        "HYV3",
        {**BY_LAYER, "head_dim": 6, "num_experts": 4, "num_shared_experts": 1,
         "mlp_bias": False, "router_scaling_factor": 1.5},
    ),
    "hunyuan3-other": (
        "HYV3",
        {**BY_LAYER, **SIZES, **ACT, **LAYERED_IN_GROUPS, "head_dim": 4, "num_experts": 8,
         "num_shared_experts": 2, "mlp_bias": True, "router_scaling_factor": 0.7},
    ),
    "llama4": ("Llama4Text", {**LLAMA4, "attn_temperature_tuning": True, "floor_scale": 3}),
    "llama4-other": (
        "Llama4Text",
        {**LLAMA4, **SIZES, **ACT, "head_dim": 4, "attention_chunk_size": 4, "attn_scale": 0.7,
         "use_qk_norm": False, "intermediate_size_mlp": 18, "num_local_experts": 3,
         "num_experts_per_tok": 2, "moe_layers": [0], "no_rope_layers": [1],
         "attn_temperature_tuning": False},
    ),
    "mimo": ("MiMoV2Flash", {**BY_LAYER, **MIMO}),
    "mimo-other": (
        "MiMoV2Flash",
        {**BY_LAYER, **SIZES, **ACT, **LAYERED_IN_GROUPS, **MIMO, "n_routed_experts": 8,
         "head_dim": 4, "v_head_dim": 6, "num_key_value_heads": 3, "attention_value_scale": None,
         "sliding_window": 2,
         "layer_types": ["sliding_attention"], "rope_parameters": BOTH},
    ),
    "flint": ("Flint", FLINT),
    "flint-other": (
        "Flint",
        {**FLINT, **SIZES, **ACT, "head_dim": 4, "mlp_only_layers": [], "decoder_sparse_step": 1,
         "num_experts": 3, "num_experts_per_tok": 1, "moe_intermediate_size": 10,
         "norm_topk_prob": False, "shared_expert_intermediate_size": 14, "sliding_window": 2,
         "layer_types": ["sliding_attention"]},
    ),
    "mellum": ("Mellum", {**BY_LAYER, **FIRST, **MELLUM}),
    "mellum-other": (
        "Mellum",
        {**BY_LAYER, **SIZES, **ACT, **LAYERED_IN_GROUPS, **MELLUM, "num_experts": 8,
         "head_dim": 4, "sliding_window": 2, "layer_types": ["sliding_attention"],
         "rope_parameters": dict.fromkeys(BOTH, LINEAR)},
    ),
    "aria": ("AriaText", {**LLAMA, **ARIA}),
    "aria-other": (
        "AriaText",
        {**PADDED, **ARIA, **SIZES, **ACT, "head_dim": 6, "moe_num_experts": 3, "moe_topk": 1,
         "moe_num_shared_experts": 1, "mlp_bias": True},
    ),
    "afmoe": ("Afmoe", AFMOE),
    "afmoe-other": (
        "Afmoe",
        {**AFMOE, **SIZES, **ACT, "head_dim": 4, "num_dense_layers": 0, "num_experts": 3,
         "num_experts_per_tok": 1, "num_shared_experts": 2, "route_scale": 0.7,
         "moe_intermediate_size": 10, "mup_enabled": True, "sliding_window": 2,
         "layer_types": ["sliding_attention"]},
    ),
    "laguna": ("Laguna", LAGUNA),
    "laguna-other": (
        "Laguna",
        {**LAGUNA, **SIZES, **ACT, "head_dim": 4, "num_experts": 3, "num_experts_per_tok": 1,
         "gating": "per-element", "num_attention_heads_per_layer": [6],
         "mlp_layer_types": ["sparse"], "moe_intermediate_size": 10, "sliding_window": 2,
         "shared_expert_intermediate_size": 14, "moe_routed_scaling_factor": 0.7,
         "moe_router_logit_softcapping": 0.6, "layer_types": ["sliding_attention"],
         "rope_parameters": BOTH},
    ),
    "glm4-moe-lite": ("Glm4MoeLite", {**LAYERED, **LATENT}),
    "glm4-moe-lite-other": (
        "Glm4MoeLite",
        {**LAYERED, **SIZES, **ACT, **LAYERED_IN_GROUPS, **NARROW, "n_routed_experts": 8,
         "n_shared_experts": 2, "rope_interleave": False},
    ),
    "axk1": ("AXK1", {**LAYERED, **LATENT}),
    "axk1-other": (
        "AXK1",
        {**LAYERED, **SIZES, **ACT, **LAYERED_IN_GROUPS, **NARROW, "n_routed_experts": 8,
         "q_lora_rank": 7, "n_shared_experts": 2, "rope_interleave": False},
    ),
    "deepseek32": ("DeepseekV32", {**LAYERED, **LATENT, **INDEX}),
    "deepseek32-other": (
        "DeepseekV32",
        {**LAYERED, **SIZES, **ACT, **LAYERED_IN_GROUPS, **NARROW, **INDEX, "mlp_bias": True,
         "n_routed_experts": 8, "n_shared_experts": 2, "q_lora_rank": 6, "index_topk": 22,
         "index_head_dim": 6},
    ),
    "glm5": ("GlmMoeDsa", {**LAYERED, **LATENT, **INDEX, "indexer_types": ["full", "shared"]}),
    "glm5-other": (
        "GlmMoeDsa",
        {**LAYERED, **SIZES, **ACT, **LAYERED_IN_GROUPS, **NARROW, **INDEX, "mlp_bias": True,
         "n_routed_experts": 8, "n_shared_experts": 2, "q_lora_rank": 6, "index_topk": 22,
         "index_head_dim": 6, "indexer_types": ["full"]},
    ),
    "youtu": ("Youtu", {**PADDED, **LATENT}),
    "youtu-other": (
        "Youtu",
        {**PADDED, **SIZES, **ACT, **NARROW, "rope_interleave": False,
         "tie_word_embeddings": False},
    ),
    "minicpm3": ("MiniCPM3", {**PADDED, **LATENT, "scale_emb": 3, "dim_model_base": 10}),
    "minicpm3-other": (
        "MiniCPM3",
        {**PADDED, **SIZES, **ACT, **NARROW, "mlp_bias": True, "scale_depth": 0.7,
         "dim_model_base": None, "tie_word_embeddings": False},
    ),
    "gemma4": ("Gemma4Text", {**GEMMA4, "num_key_value_heads": 1, "attention_k_eq_v": True}),
    "gemma4-mixture": (
        "Gemma4Text",
        {**GEMMA4, "enable_moe_block": True, "num_experts": 4, "top_k_experts": 2,
         "moe_intermediate_size": 12, "layer_types": ["full_attention"] * 2,
         "final_logit_softcapping": 2.0},
    ),
    "gemma4-other": (
        "Gemma4Text",
        {**GEMMA4, **SIZES, "layer_types": ["full_attention"], "head_dim": 4, "global_head_dim": 8,
         "enable_moe_block": True, "num_experts": 3, "top_k_experts": 1,
         "moe_intermediate_size": 10, "hidden_activation": "gelu", "sliding_window": 2,
         "use_bidirectional_attention": "vision", "tie_word_embeddings": False,
         "rope_parameters": {**dict.fromkeys(BOTH, LINEAR)}},
    ),
    "gemma4-e": ("Gemma4Text", GEMMA4_E),
    "gemma4-e-mixture": (
        "Gemma4Text",
        {**GEMMA4_E, "enable_moe_block": True, "num_experts": 4, "top_k_experts": 2,
         "moe_intermediate_size": 12, "use_double_wide_mlp": False, "num_kv_shared_layers": 0,
         "vocab_size_per_layer_input": 33, "hidden_size_per_layer_input": 4},
    ),
    "gemma4-unified": ("Gemma4UnifiedText", {**GEMMA4, "attention_k_eq_v": True}),
    "gemma4-unified-other": (
        "Gemma4UnifiedText",
        {**GEMMA4, **SIZES, "layer_types": ["full_attention"], "head_dim": 4,
         "hidden_activation": "gelu", "sliding_window": 2, "final_logit_softcapping": 2.0,
         "use_bidirectional_attention": None, "tie_word_embeddings": False,
         "rope_parameters": {**dict.fromkeys(BOTH, LINEAR)}},
    ),
    "gemma4-unified-shared": (
        "Gemma4UnifiedText",
        {**GEMMA4, "num_hidden_layers": 4, "layer_types": [*BOTH, *BOTH],
         "num_kv_shared_layers": 2, "use_double_wide_mlp": True},
    ),
    "mistral4": ("Mistral4", {**MOE, **LATENT, "rope_parameters": STRETCHED}),
    "mistral4-other": (
        "Mistral4",
        {**MOE, **SIZES, **ACT, **IN_GROUPS, **NARROW, "rope_interleave": False,
         "rope_parameters": {**STRETCHED, "rope_theta": 1e3, "llama_4_scaling_beta": 0.3}},
    ),
}  # fmt: skip

_MODELS = {"Llama4Text": "Llama4", "Gemma4Text": "Gemma4", "Gemma4UnifiedText": "Gemma4Unified"}

EVERY_SPARSE: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    name: (
        getattr(transformers, f"{kind}Config"),
        getattr(transformers, f"{_MODELS.get(kind, kind)}ForCausalLM"),
        copy.deepcopy(options),  # configurations write into what they are given
    )
    for name, (kind, options) in _SETTINGS.items()
}
"""Configurations by the names of tests, each with its classes."""

IN_FULL = [
    "gpt-oss", "glm4-moe", "deepseek2-other", "deepseek3", "llama4", "mimo", "laguna", "afmoe",
    "axk1", "mistral4", "gemma4", "gemma4-mixture", "gemma4-e",
]  # fmt: skip
SPARSE = {name: EVERY_SPARSE[name] for name in IN_FULL}
"""Those whose blocks have what no other configuration has; see tests/configs_copies.py."""
