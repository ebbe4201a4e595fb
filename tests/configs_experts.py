"""Tiny configurations of mixtures of experts: each attribute in at least two settings."""

from __future__ import annotations

from typing import Any

from transformers import (
    MixtralConfig,
    MixtralForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from tests.shapes import LLAMA

# the default implementation of experts, a grouped matrix product, has no float64
MIXTRAL = {
    **LLAMA,
    "experts_implementation": "eager",
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
}
QWEN = {
    **LLAMA, "experts_implementation": "eager", "num_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 12,
}  # fmt: skip
QWEN2 = {**QWEN, "shared_expert_intermediate_size": 20}
OLMOE = {
    **LLAMA, "experts_implementation": "eager", "num_experts": 4, "num_experts_per_tok": 2,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "factor": 3.0, "rope_theta": 1e3}

EXPERT_CONFIGS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "mixtral": (MixtralConfig, MixtralForCausalLM, MIXTRAL),
    "mixtral-window-tied": (
        MixtralConfig,
        MixtralForCausalLM,
        {
            **MIXTRAL,
            "num_key_value_heads": 1,
            "num_local_experts": 3,
            "num_experts_per_tok": 1,
            "sliding_window": 3,
            "tie_word_embeddings": True,
            "head_dim": 6,
            "hidden_act": "gelu",
            "rms_norm_eps": 0.1,
            "router_jitter_noise": 0.5,
            "router_aux_loss_coef": 0.5,
        },
    ),
    "mixtral-all-chosen": (
        MixtralConfig,
        MixtralForCausalLM,
        {**MIXTRAL, "num_experts_per_tok": 4, "rope_parameters": LINEAR},
    ),
    "qwen2-moe": (Qwen2MoeConfig, Qwen2MoeForCausalLM, QWEN2),
    "qwen2-moe-first-dense": (
        Qwen2MoeConfig,
        Qwen2MoeForCausalLM,
        {
            **QWEN2,
            "num_hidden_layers": 3,
            "mlp_only_layers": [0],
            "norm_topk_prob": True,
            "qkv_bias": False,
            "num_experts": 3,
            "shared_expert_intermediate_size": 8,
            "tie_word_embeddings": True,
        },
    ),
    "qwen2-moe-windows": (
        Qwen2MoeConfig,
        Qwen2MoeForCausalLM,
        {
            **QWEN2,
            "decoder_sparse_step": 2,
            "use_sliding_window": True,
            "sliding_window": 3,
            "max_window_layers": 1,
            "num_experts_per_tok": 1,
            "num_key_value_heads": 1,
            "hidden_act": "gelu",
        },
    ),
    "qwen2-moe-layer-types": (
        Qwen2MoeConfig,
        Qwen2MoeForCausalLM,
        {
            **QWEN2,
            "use_sliding_window": True,
            "sliding_window": 2,
            "layer_types": ["full_attention", "sliding_attention"],
            "moe_intermediate_size": 10,
            "rms_norm_eps": 0.1,
            "rope_parameters": LINEAR,
        },
    ),
    "qwen2-moe-all-dense": (
        Qwen2MoeConfig,
        Qwen2MoeForCausalLM,
        {**QWEN2, "mlp_only_layers": [0, 1]},
    ),
    "qwen3-moe": (Qwen3MoeConfig, Qwen3MoeForCausalLM, {**QWEN, "head_dim": 6}),
    "qwen3-moe-last-dense": (
        Qwen3MoeConfig,
        Qwen3MoeForCausalLM,
        {
            **QWEN,
            "mlp_only_layers": [1],
            "norm_topk_prob": True,
            "attention_bias": True,
            "num_experts_per_tok": 3,
            "output_router_logits": True,
            "rms_norm_eps": 0.1,
        },
    ),
    "qwen3-moe-window": (
        Qwen3MoeConfig,
        Qwen3MoeForCausalLM,
        {
            **QWEN,
            "num_hidden_layers": 3,
            "decoder_sparse_step": 2,
            "use_sliding_window": True,
            "sliding_window": 3,
            "tie_word_embeddings": True,
            "num_key_value_heads": 1,
            "num_experts": 5,
            "hidden_act": "gelu",
        },
    ),
    "olmoe": (OlmoeConfig, OlmoeForCausalLM, OLMOE),
    "olmoe-clip-biases": (
        OlmoeConfig,
        OlmoeForCausalLM,
        {
            **OLMOE,
            "num_key_value_heads": 1,
            "clip_qkv": 0.4,
            "attention_bias": True,
            "norm_topk_prob": True,
            "num_experts": 3,
            "num_experts_per_tok": 1,
            "tie_word_embeddings": True,
            "rms_norm_eps": 0.1,
            "hidden_act": "gelu",
            "intermediate_size": 12,
        },
    ),
    "olmoe-ungrouped": (
        OlmoeConfig,
        OlmoeForCausalLM,
        {**OLMOE, "num_key_value_heads": 4, "num_hidden_layers": 3, "rope_parameters": LINEAR},
    ),
}
