"""Tiny configurations of hybrids and other types that are described by what their modules do."""

from __future__ import annotations

from typing import Any

from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

BASE = {
    "vocab_size": 31, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
MAMBA = {
    "mamba_d_state": 4, "mamba_d_conv": 3, "mamba_expand": 2, "mamba_n_heads": 4,
    "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_chunk_size": 4,
}  # fmt: skip
SPARSE = {"num_experts": 3, "num_experts_per_tok": 2}
EAGER = {"experts_implementation": "eager"}  # the usual one knows no float64
OPTIONS: dict[str, dict[str, Any]] = {
    "bamba": {**BASE, **MAMBA, "attn_layer_indices": [1], "attn_rotary_emb": 4},
    "jamba": {
        **BASE, **SPARSE, "attn_layer_period": 2, "attn_layer_offset": 1,
        "expert_layer_period": 2, "expert_layer_offset": 1, "mamba_d_state": 4,
        "mamba_d_conv": 3, "mamba_expand": 2, "mamba_dt_rank": 3, "use_mamba_kernels": False,
    },
    "granitemoehybrid": {
        **BASE, **MAMBA, "layer_types": ["mamba", "attention"], "num_local_experts": 3,
        "num_experts_per_tok": 2, "shared_intermediate_size": 12, "residual_multiplier": 0.3,
        "embedding_multiplier": 2.0, "logits_scaling": 3.0, "attention_multiplier": 0.2,
    },
    "falcon_h1": {
        **BASE, **MAMBA, "mamba_d_ssm": 32, "head_dim": 4, "ssm_in_multiplier": 0.7,
        "ssm_out_multiplier": 0.6, "attention_in_multiplier": 0.9,
        "attention_out_multiplier": 0.8, "key_multiplier": 0.5, "embedding_multiplier": 1.5,
        "lm_head_multiplier": 0.4, "mlp_multipliers": [0.9, 0.8],
    },
    "lfm2": {**BASE, "layer_types": ["conv", "full_attention"], "conv_L_cache": 3},
    "lfm2_moe": {
        **BASE, **SPARSE, "layer_types": ["conv", "full_attention"], "conv_L_cache": 3,
        "num_dense_layers": 1, "moe_intermediate_size": 8,
    },
    "lfm3": dict(BASE),
    "nemotron_h": {
        **BASE, "num_hidden_layers": 4, "layers_block_type": ["mamba", "attention", "mlp", "moe"],
        "mamba_num_heads": 4, "mamba_head_dim": 8, "ssm_state_size": 4, "n_groups": 1,
        "chunk_size": 4, "conv_kernel": 3, "head_dim": 4, "n_routed_experts": 4,
        "num_experts_per_tok": 2, "moe_intermediate_size": 8,
        "moe_shared_expert_intermediate_size": 8,
    },
    "recurrent_gemma": {
        **BASE, "num_hidden_layers": 3, "lru_width": 16, "attention_window_size": 4, "head_dim": 4,
    },
    "rwkv": {**BASE, "rescale_every": 0, "attention_hidden_size": 16, "context_length": 64},
    "xlstm": {
        "vocab_size": 31, "hidden_size": 16, "num_hidden_layers": 2, "num_heads": 2,
        "chunk_size": 4, "pad_token_id": 0,
    },
}  # fmt: skip

WATCHED: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    kind.replace("_", "-"): (
        CONFIG_MAPPING[kind],
        MODEL_FOR_CAUSAL_LM_MAPPING[CONFIG_MAPPING[kind]],
        {**options, **EAGER},
    )
    for kind, options in OPTIONS.items()
}
