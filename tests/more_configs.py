"""Tiny configurations of further families, and of variants that came later."""

from __future__ import annotations

from typing import Any

from transformers import (
    ArceeConfig,
    ArceeForCausalLM,
    BloomConfig,
    BloomForCausalLM,
    Cohere2Config,
    Cohere2ForCausalLM,
    CohereConfig,
    CohereForCausalLM,
    Ernie4_5Config,
    Ernie4_5ForCausalLM,
    Exaone4Config,
    Exaone4ForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    Glm4Config,
    Glm4ForCausalLM,
    GlmConfig,
    GlmForCausalLM,
    GPTBigCodeConfig,
    GPTBigCodeForCausalLM,
    GPTJConfig,
    GPTJForCausalLM,
    HeliumConfig,
    HeliumForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MptConfig,
    MptForCausalLM,
    NemotronConfig,
    NemotronForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    Olmo3Config,
    Olmo3ForCausalLM,
    OlmoConfig,
    OlmoForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    SeedOssConfig,
    SeedOssForCausalLM,
    StableLmConfig,
    StableLmForCausalLM,
    Starcoder2Config,
    Starcoder2ForCausalLM,
)

from tests.shapes import BLOOM, FALCON, GPT2, LLAMA, LLAMA3, PADDED, YARN

GPTJ = {**GPT2, "rotary_dim": 4}
MPT = {"vocab_size": 31, "d_model": 16, "n_heads": 2, "n_layers": 2, "max_seq_len": 24}
DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e3}
LONG = {
    "rope_type": "longrope", "rope_theta": 1e3, "short_factor": [1.0, 1.5],
    "long_factor": [2.0, 5.0], "original_max_position_embeddings": 5, "factor": 3.0,
}  # fmt: skip
GROWS = {"max_position_embeddings": 5, "rope_parameters": DYNAMIC}
PER_KIND = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e3},
    "full_attention": YARN,
}
KINDS = {"sliding_window": 3, "layer_types": ["sliding_attention", "full_attention"]}

MORE: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "gptj": (GPTJConfig, GPTJForCausalLM, GPTJ),
    "gptj-whole-tied": (
        GPTJConfig,
        GPTJForCausalLM,
        {
            **GPTJ,
            "rotary_dim": 8,
            "tie_word_embeddings": True,
            "n_inner": 20,
            "activation_function": "relu",
            "layer_norm_epsilon": 0.1,
        },
    ),
    "bloom": (BloomConfig, BloomForCausalLM, BLOOM),
    "bloom-three-heads": (
        BloomConfig,
        BloomForCausalLM,
        {**BLOOM, "hidden_size": 18, "n_head": 3, "layer_norm_epsilon": 0.1, "n_layer": 3},
    ),
    "bloom-untied": (
        BloomConfig,
        BloomForCausalLM,
        {**BLOOM, "tie_word_embeddings": False, "pretraining_tp": 2},
    ),
    "falcon": (FalconConfig, FalconForCausalLM, FALCON),
    "falcon-sequential": (
        FalconConfig,
        FalconForCausalLM,
        {**FALCON, "multi_query": False, "parallel_attn": False, "bias": True, "alibi": True},
    ),
    "falcon-sequential-multi-query": (
        FalconConfig,
        FalconForCausalLM,
        {
            **FALCON,
            "parallel_attn": False,
            "bias": True,
            "rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 1e3},
            "activation": "relu",
            "tie_word_embeddings": False,
        },
    ),
    "falcon-alibi-eager": (
        FalconConfig,
        FalconForCausalLM,
        {  # of more than 8 slopes some are no powers of 2, and bfloat16 rounds them
            **FALCON,
            "alibi": True,
            "attn_implementation": "eager",
            "hidden_size": 18,
            "num_attention_heads": 9,
        },
    ),
    "falcon-new": (
        FalconConfig,
        FalconForCausalLM,
        {**FALCON, "new_decoder_architecture": True, "num_kv_heads": 2, "bias": True},
    ),
    "falcon-new-one-norm": (
        FalconConfig,
        FalconForCausalLM,
        {
            **FALCON,
            "new_decoder_architecture": True,
            "num_kv_heads": 2,
            "num_ln_in_parallel_attn": 1,
            "alibi": True,
            "layer_norm_epsilon": 0.1,
        },
    ),
    "falcon-new-one-kv": (
        FalconConfig,
        FalconForCausalLM,
        {**FALCON, "new_decoder_architecture": True, "num_kv_heads": 1},
    ),
    "olmo": (OlmoConfig, OlmoForCausalLM, LLAMA),
    "olmo-clip": (
        OlmoConfig,
        OlmoForCausalLM,
        {**LLAMA, "clip_qkv": 0.6, "attention_bias": True, "tie_word_embeddings": True},
    ),
    "olmo2": (Olmo2Config, Olmo2ForCausalLM, LLAMA),
    "olmo2-ungrouped": (
        Olmo2Config,
        Olmo2ForCausalLM,
        {
            **LLAMA,
            "num_key_value_heads": 4,
            "attention_bias": True,
            "tie_word_embeddings": True,
            "rms_norm_eps": 0.1,
            "rope_parameters": YARN,
        },
    ),
    "olmo2-multi-query": (
        Olmo2Config,
        Olmo2ForCausalLM,
        {**LLAMA, "num_key_value_heads": 1, "hidden_act": "gelu"},
    ),
    "olmo3": (
        Olmo3Config,
        Olmo3ForCausalLM,
        {**LLAMA, **KINDS, "rope_parameters": PER_KIND},
    ),
    "olmo3-full": (
        Olmo3Config,
        Olmo3ForCausalLM,
        {**LLAMA, "layer_types": ["full_attention"] * 2, "attention_bias": True},
    ),
    "exaone4": (Exaone4Config, Exaone4ForCausalLM, {**LLAMA, **KINDS}),
    "exaone4-full": (
        Exaone4Config,
        Exaone4ForCausalLM,
        {
            **LLAMA,
            "sliding_window": None,
            "layer_types": ["full_attention"] * 2,
            "rope_parameters": LLAMA3,
            "head_dim": 6,
        },
    ),
    "cohere-norms": (
        CohereConfig,
        CohereForCausalLM,
        {**LLAMA, "use_qk_norm": True},
    ),
    "cohere2": (Cohere2Config, Cohere2ForCausalLM, {**LLAMA, **KINDS}),
    "cohere2-windows": (
        Cohere2Config,
        Cohere2ForCausalLM,
        {
            **LLAMA,
            "sliding_window": 2,
            "layer_types": ["sliding_attention"] * 2,
            "attention_bias": True,
            "tie_word_embeddings": False,
            "logit_scale": 0.5,
        },
    ),
    "stablelm-norms": (
        StableLmConfig,
        StableLmForCausalLM,
        {**LLAMA, "hidden_size": 32, "qk_layernorm": True},
    ),
    "stablelm-dynamic": (
        StableLmConfig,
        StableLmForCausalLM,
        {
            **LLAMA,
            "hidden_size": 64,
            "max_position_embeddings": 5,
            "rope_parameters": {**DYNAMIC, "partial_rotary_factor": 0.5},
            "tie_word_embeddings": True,
            "layer_norm_eps": 0.1,
        },
    ),
    "phi3-long": (
        Phi3Config,
        Phi3ForCausalLM,
        {
            **PADDED,
            "max_position_embeddings": 24,
            "original_max_position_embeddings": 5,
            "rope_parameters": {k: v for k, v in LONG.items() if k != "factor"},
        },
    ),
    "phi3-long-factor": (
        Phi3Config,
        Phi3ForCausalLM,
        {
            **PADDED,
            "hidden_size": 32,
            "original_max_position_embeddings": 6,
            "rope_parameters": {
                **LONG,
                "attention_factor": 1.3,
                "partial_rotary_factor": 0.5,
                "original_max_position_embeddings": 6,
            },
        },
    ),
    "llama-dynamic": (LlamaConfig, LlamaForCausalLM, {**LLAMA, **GROWS}),
    "llama-longrope": (LlamaConfig, LlamaForCausalLM, {**LLAMA, "rope_parameters": LONG}),
    "arcee": (ArceeConfig, ArceeForCausalLM, LLAMA),
    "arcee-biases": (
        ArceeConfig,
        ArceeForCausalLM,
        {**LLAMA, "attention_bias": True, "mlp_bias": True, "head_dim": 6, "hidden_act": "silu"},
    ),
    "seed-oss": (SeedOssConfig, SeedOssForCausalLM, {**PADDED, "head_dim": 6}),
    "seed-oss-biases": (
        SeedOssConfig,
        SeedOssForCausalLM,
        {
            **PADDED,
            "attention_bias": False,
            "attention_out_bias": True,
            "mlp_bias": True,
            "head_dim": 4,
            "tie_word_embeddings": True,
        },
    ),
    "helium": (HeliumConfig, HeliumForCausalLM, {**PADDED, "head_dim": 4}),
    "helium-biases": (
        HeliumConfig,
        HeliumForCausalLM,
        {
            **PADDED,
            "head_dim": 4,
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": True,
            "num_key_value_heads": 1,
        },
    ),
    "ernie": (Ernie4_5Config, Ernie4_5ForCausalLM, {**PADDED, "head_dim": 6}),
    "ernie-biases": (
        Ernie4_5Config,
        Ernie4_5ForCausalLM,
        {**PADDED, "head_dim": 4, "use_bias": True, "tie_word_embeddings": False},
    ),
    "starcoder2": (Starcoder2Config, Starcoder2ForCausalLM, {**LLAMA, "sliding_window": 3}),
    "starcoder2-no-biases": (
        Starcoder2Config,
        Starcoder2ForCausalLM,
        {
            **LLAMA,
            "use_bias": False,
            "norm_epsilon": 0.1,
            "hidden_act": "relu",
            "tie_word_embeddings": False,
        },
    ),
    "glm": (GlmConfig, GlmForCausalLM, {**PADDED, "head_dim": 8}),
    "glm-whole": (
        GlmConfig,
        GlmForCausalLM,
        {
            **PADDED,
            "head_dim": 4,
            "attention_bias": True,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e3,
                "partial_rotary_factor": 1.0,
            },
        },
    ),
    "glm4": (Glm4Config, Glm4ForCausalLM, {**PADDED, "head_dim": 8, "attention_bias": True}),
    "glm4-multi-query": (
        Glm4Config,
        Glm4ForCausalLM,
        {**PADDED, "head_dim": 8, "num_key_value_heads": 1, "rms_norm_eps": 0.1},
    ),
    "mpt": (MptConfig, MptForCausalLM, MPT),
    "mpt-three-heads": (
        MptConfig,
        MptForCausalLM,
        {
            **MPT,
            "d_model": 18,
            "n_heads": 3,
            "attn_config": {"clip_qkv": 0.7, "softmax_scale": 0.4},
            "layer_norm_epsilon": 0.1,
            "tie_word_embeddings": False,
        },
    ),
    "nemotron": (NemotronConfig, NemotronForCausalLM, {**LLAMA, "head_dim": 8}),
    "nemotron-biases": (
        NemotronConfig,
        NemotronForCausalLM,
        {
            **LLAMA,
            "head_dim": 4,
            "num_key_value_heads": 1,
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": True,
            "hidden_act": "silu",
            "norm_eps": 0.1,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e3,
                "partial_rotary_factor": 1.0,
            },
        },
    ),
    "gpt-bigcode": (GPTBigCodeConfig, GPTBigCodeForCausalLM, GPT2),
    "gpt-bigcode-ungrouped": (
        GPTBigCodeConfig,
        GPTBigCodeForCausalLM,
        {
            **GPT2,
            "multi_query": False,
            "scale_attn_weights": False,
            "n_inner": 20,
            "activation_function": "relu",
            "tie_word_embeddings": False,
            "layer_norm_epsilon": 0.1,
        },
    ),
}
