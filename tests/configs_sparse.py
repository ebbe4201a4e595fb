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
FIRST = {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 3}

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
}  # fmt: skip

SPARSE: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    name: (
        getattr(transformers, f"{kind}Config"),
        getattr(transformers, f"{kind}ForCausalLM"),
        copy.deepcopy(options),  # configurations write into what they are given
    )
    for name, (kind, options) in _SETTINGS.items()
}
"""Configurations by the names of tests, each with its classes."""
