"""Tiny configurations of models with heads in some layers and parts taken whole in others."""

from __future__ import annotations

from typing import Any

from transformers import (
    BailingHybridConfig,
    BailingHybridForCausalLM,
    KimiLinearConfig,
    KimiLinearForCausalLM,
    OlmoHybridConfig,
    OlmoHybridForCausalLM,
    Qwen3_5ForCausalLM,
    Qwen3_5MoeForCausalLM,
    Qwen3_5MoeTextConfig,
    Qwen3_5TextConfig,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
)

LINEAR, FULL = "linear_attention", "full_attention"
BASE = {
    "vocab_size": 31, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 12,
    "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    "layer_types": [LINEAR, FULL, LINEAR],
}  # fmt: skip
DELTA = {
    "linear_conv_kernel_dim": 3, "linear_key_head_dim": 4, "linear_value_head_dim": 3,
    "linear_num_key_heads": 2, "linear_num_value_heads": 4,
}  # fmt: skip
SPARSE = {
    "experts_implementation": "eager", "num_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 12, "shared_expert_intermediate_size": 10,
}  # fmt: skip
OTHER = {
    "vocab_size": 37, "hidden_size": 20, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 6, "intermediate_size": 14, "hidden_act": "gelu",
    "rms_norm_eps": 0.05, "attention_bias": True, "layer_types": [FULL, LINEAR],
    "tie_word_embeddings": True, "linear_key_head_dim": 3, "linear_num_value_heads": 2,
    "rope_parameters": {"rope_type": "linear", "rope_theta": 50.0, "factor": 2.0,
                        "partial_rotary_factor": 0.7},
}  # fmt: skip
OTHER_SPARSE = {
    "num_experts": 3, "num_experts_per_tok": 1, "moe_intermediate_size": 8,
    "shared_expert_intermediate_size": 7,
}  # fmt: skip
MROPE = {
    "rope_type": "default", "rope_theta": 1e3, "partial_rotary_factor": 0.75,
    "mrope_section": [1, 1, 1], "mrope_interleaved": True,
}  # fmt: skip

QWEN_NEXT = {**BASE, **DELTA, **SPARSE}
QWEN_35 = {**BASE, **DELTA, "rope_parameters": MROPE}
QWEN_35_MOE = {**QWEN_35, **SPARSE}
OLMO = {**BASE, **DELTA, "linear_num_value_heads": 2, "linear_value_head_dim": 5}
SCALED = {"rope_type": "linear", "rope_theta": 50.0, "factor": 2.0}
YARN = {"rope_type": "yarn", "rope_theta": 50.0, "factor": 4.0, "mscale_all_dim": 0.7,
        "original_max_position_embeddings": 16}  # fmt: skip
LATENT = {
    "vocab_size": 31, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 4, "intermediate_size": 12, "kv_lora_rank": 5, "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 3, "v_head_dim": 6, "moe_intermediate_size": 12, "num_experts": 8,
    "num_experts_per_token": 3, "num_shared_experts": 1, "num_expert_group": 4, "topk_group": 2,
    "experts_implementation": "eager", "layer_types": [LINEAR, FULL, LINEAR],
    "mlp_layer_types": ["dense", "sparse", "sparse"],
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
OTHER_LATENT = {
    "vocab_size": 37, "hidden_size": 20, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "intermediate_size": 14, "kv_lora_rank": 6, "qk_rope_head_dim": 6,
    "qk_nope_head_dim": 4, "v_head_dim": 3, "moe_intermediate_size": 8, "num_experts": 4,
    "num_experts_per_token": 1, "num_shared_experts": 2, "num_expert_group": 1, "topk_group": 1,
    "layer_types": [FULL, LINEAR], "mlp_layer_types": ["sparse", "dense"], "hidden_act": "gelu",
    "rms_norm_eps": 0.05, "attention_bias": True, "tie_word_embeddings": True,
    "routed_scaling_factor": 1.3, "moe_renormalize": False,
}  # fmt: skip
BAILING = {**LATENT, "head_dim": 3, "short_conv_kernel_size": 3}
KIMI = {**LATENT, "linear_head_dim": 3, "linear_num_heads": 2, "linear_conv_kernel_dim": 3}

HYBRID_CONFIGS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "qwen3-next": (Qwen3NextConfig, Qwen3NextForCausalLM, QWEN_NEXT),
    "qwen3-next-others": (
        Qwen3NextConfig,
        Qwen3NextForCausalLM,
        {**QWEN_NEXT, **OTHER, **OTHER_SPARSE, "norm_topk_prob": False, "decoder_sparse_step": 2},
    ),
    "qwen3-next-some-dense": (
        Qwen3NextConfig, Qwen3NextForCausalLM, {**QWEN_NEXT, "mlp_only_layers": [0, 1]},
    ),
    "qwen3.5": (Qwen3_5TextConfig, Qwen3_5ForCausalLM, QWEN_35),
    "qwen3.5-others": (Qwen3_5TextConfig, Qwen3_5ForCausalLM, {**QWEN_35, **OTHER}),
    "qwen3.5-moe": (Qwen3_5MoeTextConfig, Qwen3_5MoeForCausalLM, QWEN_35_MOE),
    "qwen3.5-moe-others": (
        Qwen3_5MoeTextConfig,
        Qwen3_5MoeForCausalLM,
        {**QWEN_35_MOE, **OTHER, **OTHER_SPARSE},
    ),
    "olmo-hybrid": (OlmoHybridConfig, OlmoHybridForCausalLM, OLMO),
    "olmo-hybrid-others": (
        OlmoHybridConfig,
        OlmoHybridForCausalLM,
        {**OLMO, **OTHER, "linear_allow_neg_eigval": False, "rope_parameters": SCALED},
    ),
    "olmo-hybrid-unturned": (
        OlmoHybridConfig, OlmoHybridForCausalLM, {**OLMO, "rope_parameters": {"rope_theta": None}},
    ),
    "kimi-linear": (KimiLinearConfig, KimiLinearForCausalLM, KIMI),
    "kimi-linear-others": (
        KimiLinearConfig, KimiLinearForCausalLM, {**KIMI, **OTHER_LATENT, "q_lora_rank": 7},
    ),
    "bailing-hybrid": (BailingHybridConfig, BailingHybridForCausalLM, BAILING),
    "bailing-hybrid-others": (
        BailingHybridConfig,
        BailingHybridForCausalLM,
        {**BAILING, **OTHER_LATENT, "kda_safe_gate": False, "rope_parameters": YARN},
    ),
}  # fmt: skip
