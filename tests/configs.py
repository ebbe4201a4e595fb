"""Tiny configurations of every lifted family: each attribute in at least two settings."""

from __future__ import annotations

from typing import Any

from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
    StableLmConfig,
    StableLmForCausalLM,
)

from tests.configs_copies import COPIES, COPIES_IN_FULL, COPIES_WHOLE
from tests.configs_experts import EXPERT_CONFIGS
from tests.configs_hybrid import HYBRID_CONFIGS
from tests.configs_sparse import EVERY_SPARSE, SPARSE
from tests.configs_text_bodies import TEXT_BODIES
from tests.configs_watched import WATCHED
from tests.configs_whole import WHOLE_CONFIGS
from tests.more_configs import MORE
from tests.other_settings import OTHER
from tests.shapes import GEMMA, GPT2, GPT_NEO, LLAMA, LLAMA3, NEOX, OPT, PADDED, YARN

CONFIGS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "gpt2": (GPT2Config, GPT2LMHeadModel, GPT2),
    "gpt2-one-head": (GPT2Config, GPT2LMHeadModel, {**GPT2, "n_head": 1, "n_layer": 3}),
    "gpt2-untied-relu": (
        GPT2Config,
        GPT2LMHeadModel,
        {**GPT2, "tie_word_embeddings": False, "activation_function": "relu", "n_inner": 20},
    ),
    "gpt2-scales": (
        GPT2Config,
        GPT2LMHeadModel,
        {**GPT2, "scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True},
    ),
    "gpt2-eps": (GPT2Config, GPT2LMHeadModel, {**GPT2, "layer_norm_epsilon": 0.1}),
    "llama": (LlamaConfig, LlamaForCausalLM, LLAMA),
    "llama-ungrouped": (LlamaConfig, LlamaForCausalLM, {**LLAMA, "num_key_value_heads": 4}),
    "llama-multi-query": (LlamaConfig, LlamaForCausalLM, {**LLAMA, "num_key_value_heads": 1}),
    "llama-biases-tied": (
        LlamaConfig,
        LlamaForCausalLM,
        {**LLAMA, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    ),
    "llama-wide-heads": (
        LlamaConfig,
        LlamaForCausalLM,
        {**LLAMA, "head_dim": 6, "hidden_act": "gelu", "rms_norm_eps": 0.1},
    ),
    "llama-linear": (
        LlamaConfig,
        LlamaForCausalLM,
        {**LLAMA, "rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 1e3}},
    ),
    "llama-llama3": (LlamaConfig, LlamaForCausalLM, {**LLAMA, "rope_parameters": LLAMA3}),
    "llama-yarn": (LlamaConfig, LlamaForCausalLM, {**LLAMA, "rope_parameters": YARN}),
    "mistral-window": (MistralConfig, MistralForCausalLM, {**LLAMA, "sliding_window": 3}),
    "mistral-full": (MistralConfig, MistralForCausalLM, {**LLAMA, "sliding_window": None}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, LLAMA),
    "qwen2-some-windows": (
        Qwen2Config,
        Qwen2ForCausalLM,
        {**LLAMA, "use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1},
    ),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {**LLAMA, "head_dim": 6}),
    "qwen3-biases-windows": (
        Qwen3Config,
        Qwen3ForCausalLM,
        {
            **LLAMA,
            "head_dim": 4,
            "attention_bias": True,
            "use_sliding_window": True,
            "sliding_window": 3,
            "max_window_layers": 1,
        },
    ),
    "granite": (
        GraniteConfig,
        GraniteForCausalLM,
        {
            **LLAMA,
            "embedding_multiplier": 3.0,
            "logits_scaling": 0.5,
            "residual_multiplier": 0.3,
            "attention_multiplier": 0.7,
            "attention_bias": True,
        },
    ),
    "granite-plain": (GraniteConfig, GraniteForCausalLM, {**LLAMA, "mlp_bias": True}),
    "smollm3": (
        SmolLM3Config,
        SmolLM3ForCausalLM,
        {**PADDED, "no_rope_layers": [1, 0]},
    ),
    "smollm3-windows": (
        SmolLM3Config,
        SmolLM3ForCausalLM,
        {
            **PADDED,
            "no_rope_layers": [0, 1],
            "use_sliding_window": True,
            "sliding_window": 2,
            "tie_word_embeddings": False,
            "attention_bias": True,
        },
    ),
    "gpt-neox": (GPTNeoXConfig, GPTNeoXForCausalLM, NEOX),
    "gpt-neox-sequential": (
        GPTNeoXConfig,
        GPTNeoXForCausalLM,
        {
            **NEOX,
            "use_parallel_residual": False,
            "attention_bias": False,
            "rotary_pct": 1.0,
            "tie_word_embeddings": True,
            "hidden_act": "gelu_new",
        },
    ),
    "phi": (PhiConfig, PhiForCausalLM, PADDED),
    "phi-norms": (
        PhiConfig,
        PhiForCausalLM,
        {
            **PADDED,
            "num_key_value_heads": 4,
            "qk_layernorm": True,
            "hidden_act": "relu",
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e3,
                "partial_rotary_factor": 1.0,
            },
        },
    ),
    "phi3": (Phi3Config, Phi3ForCausalLM, {**PADDED}),
    "phi3-window": (
        Phi3Config,
        Phi3ForCausalLM,
        {**PADDED, "sliding_window": 3, "tie_word_embeddings": True},
    ),
    "stablelm": (StableLmConfig, StableLmForCausalLM, {**PADDED, "hidden_size": 32}),
    "stablelm-parallel": (
        StableLmConfig,
        StableLmForCausalLM,
        {**PADDED, "hidden_size": 32, "use_parallel_residual": True, "use_qkv_bias": True},
    ),
    "cohere": (CohereConfig, CohereForCausalLM, {**LLAMA, "logit_scale": 0.25}),
    "cohere-biases": (
        CohereConfig,
        CohereForCausalLM,
        {**LLAMA, "attention_bias": True, "tie_word_embeddings": False, "layer_norm_eps": 0.1},
    ),
    "opt": (OPTConfig, OPTForCausalLM, OPT),
    "opt-no-biases": (
        OPTConfig,
        OPTForCausalLM,
        {**OPT, "enable_bias": False, "activation_function": "gelu", "tie_word_embeddings": False},
    ),
    "gemma": (GemmaConfig, GemmaForCausalLM, GEMMA),
    "gemma-untied-biases": (
        GemmaConfig,
        GemmaForCausalLM,
        {**GEMMA, "attention_bias": True, "tie_word_embeddings": False, "hidden_act": "gelu"},
    ),
    "gemma2": (
        Gemma2Config,
        Gemma2ForCausalLM,
        {**GEMMA, "sliding_window": 3, "query_pre_attn_scalar": 7, "attn_implementation": "eager"},
    ),
    "gemma2-caps": (
        Gemma2Config,
        Gemma2ForCausalLM,
        {
            **GEMMA,
            "attention_bias": True,
            "final_logit_softcapping": 2.0,
            "attn_logit_softcapping": 1.5,
            "attn_implementation": "eager",
        },
    ),
    "gemma3": (
        Gemma3TextConfig,
        Gemma3ForCausalLM,
        {
            **GEMMA,
            "sliding_window": 3,
            "query_pre_attn_scalar": 9,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "gemma3-one-kind": (
        Gemma3TextConfig,
        Gemma3ForCausalLM,
        {
            **GEMMA,
            "num_key_value_heads": 4,
            "layer_types": ["full_attention"] * 2,
            "final_logit_softcapping": 3.0,
            "rms_norm_eps": 0.01,
        },
    ),
    "gpt-neo": (GPTNeoConfig, GPTNeoForCausalLM, GPT_NEO),
    "gpt-neo-untied": (
        GPTNeoConfig,
        GPTNeoForCausalLM,
        {
            **GPT_NEO,
            "attention_types": [[["local"], 2]],
            "window_size": 2,
            "tie_word_embeddings": False,
            "intermediate_size": 20,
        },
    ),
    **MORE,
    **OTHER,
    **EXPERT_CONFIGS,
    **COPIES_IN_FULL,
    **SPARSE,
}

EVERY = {**CONFIGS, **COPIES, **EVERY_SPARSE, **TEXT_BODIES}
"""Also the near copies and text bodies, of which little new can be learnt by what takes long."""

ALL = {**EVERY, **WHOLE_CONFIGS, **COPIES_WHOLE, **HYBRID_CONFIGS, **WATCHED}
"""Also those with parts that are taken whole, which have no heads there."""
