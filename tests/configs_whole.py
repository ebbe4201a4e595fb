"""Tiny configurations of models with parts that are taken whole."""

from __future__ import annotations

from typing import Any

from transformers import (
    FalconMambaConfig,
    FalconMambaForCausalLM,
    Mamba2Config,
    Mamba2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
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
    "qwen3-next": HYBRID_CONFIGS["qwen3-next"],  # of the hybrids, one that all tests take
}
