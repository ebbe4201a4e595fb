"""Tiny configurations of models with parts that are taken whole."""

from __future__ import annotations

from typing import Any

from transformers import (
    FalconMambaConfig,
    FalconMambaForCausalLM,
    Gemma3nForCausalLM,
    Gemma3nTextConfig,
    Mamba2Config,
    Mamba2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    Zamba2Config,
    Zamba2ForCausalLM,
    ZambaConfig,
    ZambaForCausalLM,
)

from tests.configs_hybrid import HYBRID_CONFIGS

MAMBA = {
    "vocab_size": 31, "hidden_size": 12, "num_hidden_layers": 2, "state_size": 4, "expand": 2,
    "time_step_rank": 3, "conv_kernel": 3,
}  # fmt: skip
MAMBA_2 = {
    "vocab_size": 31, "hidden_size": 12, "num_hidden_layers": 2, "state_size": 4, "expand": 2,
    "num_heads": 6, "head_dim": 4, "n_groups": 2, "chunk_size": 4, "conv_kernel": 3,
}  # fmt: skip
OTHER = {"layer_norm_epsilon": 1e-3, "num_hidden_layers": 3, "vocab_size": 37, "hidden_size": 16}

SLIDING, FULL = "sliding_attention", "full_attention"
GEMMA_3N = {
    "vocab_size": 31, "hidden_size": 12, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 4, "intermediate_size": 14, "sliding_window": 3,
    "layer_types": [SLIDING, FULL, SLIDING, FULL], "num_kv_shared_layers": 2,
    "vocab_size_per_layer_input": 29, "hidden_size_per_layer_input": 5, "altup_num_inputs": 3,
    "laurel_rank": 3, "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0],
    "max_position_embeddings": 64,
}  # fmt: skip
OTHER_GEMMA_3N = {
    "vocab_size": 37, "hidden_size": 10, "num_hidden_layers": 3, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 6, "layer_types": [FULL, SLIDING, FULL],
    "num_kv_shared_layers": 0, "vocab_size_per_layer_input": 37, "hidden_size_per_layer_input": 3,
    "altup_num_inputs": 2, "altup_active_idx": 1, "altup_correct_scale": False,
    "activation_sparsity_pattern": [0.0, 0.9, 0.0], "rms_norm_eps": 0.05,
    "final_logit_softcapping": 2.0, "tie_word_embeddings": False,
}  # fmt: skip
ZAMBA = {
    "vocab_size": 31, "hidden_size": 12, "num_hidden_layers": 3, "num_attention_heads": 2,
    "num_key_value_heads": 2, "intermediate_size": 16, "n_mamba_heads": 2, "mamba_d_state": 4,
    "mamba_d_conv": 3, "mamba_dt_rank": 3, "layers_block_type": ["mamba", "hybrid", "hybrid"],
    "pad_token_id": 0,
}  # fmt: skip
ZAMBA_2 = {
    **{key: value for key, value in ZAMBA.items() if key != "mamba_dt_rank"},
    "num_attention_heads": 4, "num_key_value_heads": 4, "n_mamba_heads": 4, "chunk_size": 4,
    "num_mem_blocks": 2, "use_shared_attention_adapter": True, "adapter_rank": 3,
    "use_mem_rope": True,
}  # fmt: skip
OTHER_ZAMBA = {
    "vocab_size": 37, "hidden_size": 16, "num_hidden_layers": 2, "rms_norm_eps": 0.05,
    "layers_block_type": ["hybrid", "mamba"], "tie_word_embeddings": False,
}  # fmt: skip

WHOLE_CONFIGS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "mamba": (MambaConfig, MambaForCausalLM, MAMBA),
    "mamba-others": (
        MambaConfig,
        MambaForCausalLM,
        {**MAMBA, **OTHER, "tie_word_embeddings": False, "use_bias": True, "state_size": 3},
    ),
    "falcon-mamba": (FalconMambaConfig, FalconMambaForCausalLM, MAMBA),
    "falcon-mamba-others": (
        FalconMambaConfig,
        FalconMambaForCausalLM,
        {**MAMBA, **OTHER, "tie_word_embeddings": False, "use_conv_bias": False},
    ),
    "mamba2": (Mamba2Config, Mamba2ForCausalLM, MAMBA_2),
    "mamba2-others": (
        Mamba2Config,
        Mamba2ForCausalLM,
        {**MAMBA_2, **OTHER, "num_heads": 8, "tie_word_embeddings": True, "use_bias": True},
    ),
    "gemma3n": (Gemma3nTextConfig, Gemma3nForCausalLM, GEMMA_3N),
    "gemma3n-others": (Gemma3nTextConfig, Gemma3nForCausalLM, {**GEMMA_3N, **OTHER_GEMMA_3N}),
    "zamba": (ZambaConfig, ZambaForCausalLM, ZAMBA),
    "zamba-others": (ZambaConfig, ZambaForCausalLM, {**ZAMBA, **OTHER_ZAMBA}),
    "zamba2": (Zamba2Config, Zamba2ForCausalLM, ZAMBA_2),
    "zamba2-others": (Zamba2Config, Zamba2ForCausalLM, {**ZAMBA_2, **OTHER_ZAMBA}),
    "qwen3-next": HYBRID_CONFIGS["qwen3-next"],  # of the hybrids, one that all tests take
}
