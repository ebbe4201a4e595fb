"""For every type one more configuration: whatever it handles, set otherwise than in the others."""

from __future__ import annotations

import copy
from typing import Any

import transformers

from tests.shapes import BLOOM, FALCON, GPT_NEO, LLAMA, NEOX, OPT, PADDED

SIZES = {
    "vocab_size": 37, "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 1,
    "num_attention_heads": 6, "num_key_value_heads": 3,
}  # fmt: skip
GPT2_SIZES = {"vocab_size": 37, "n_positions": 20, "n_embd": 24, "n_layer": 1, "n_head": 3}
LINEAR = {"rope_type": "linear", "factor": 3.0, "rope_theta": 1e3}
ACT = {"hidden_act": "gelu_new"}
EPS = {"rms_norm_eps": 0.05}
ROPE = {"rope_parameters": LINEAR}
UNTIED = {"tie_word_embeddings": False}
TIED = {"tie_word_embeddings": True}
WIDE = {"head_dim": 8}
MOE = {"experts_implementation": "eager"}
BOTH = {"sliding_attention": LINEAR, "full_attention": {**LINEAR, "rope_theta": 50.0}}

_SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "arcee": ("Arcee", {**PADDED, **SIZES, **EPS, **ROPE, **TIED}),
    "bloom": ("Bloom", {**BLOOM, "vocab_size": 37, "hidden_size": 24, "n_layer": 1, "n_head": 3}),
    "cohere": ("Cohere", {**PADDED, **SIZES, **ACT, **ROPE}),
    "cohere2": (
        "Cohere2",
        {**PADDED, **SIZES, **ACT, **ROPE, **WIDE, "layer_norm_eps": 0.05},
    ),
    "ernie": ("Ernie4_5", {**PADDED, **SIZES, **ACT, **EPS, **ROPE}),
    "exaone4": (
        "Exaone4",
        {**LLAMA, **SIZES, **ACT, **EPS, **ROPE, **TIED, **WIDE, "sliding_window": 2,
         "layer_types": ["sliding_attention"]},
    ),
    "falcon": (
        "Falcon",
        {**FALCON, "vocab_size": 37, "hidden_size": 24, "ffn_hidden_size": 20,
         "num_hidden_layers": 1, "num_attention_heads": 6},
    ),
    "gemma": ("Gemma", {**LLAMA, **SIZES, **ACT, **EPS, **ROPE, **WIDE}),
    "gemma2": (
        "Gemma2",
        {**LLAMA, **SIZES, **EPS, **ROPE, **UNTIED, "head_dim": 8, "sliding_window": 3,
         "hidden_activation": "gelu", "layer_types": ["full_attention"],
         "attn_implementation": "eager"},
    ),
    "gemma3": (
        "Gemma3Text",
        {**LLAMA, **SIZES, **UNTIED, "head_dim": 8, "attention_bias": True, "sliding_window": 3,
         "attn_logit_softcapping": 1.5, "hidden_activation": "gelu",
         "layer_types": ["sliding_attention"], "rope_parameters": BOTH},
    ),
    "glm": ("Glm", {**PADDED, **SIZES, **ACT, **EPS, "head_dim": 8, "attention_bias": False}),
    "glm4": (
        "Glm4",
        {**PADDED, **SIZES, **ACT, **ROPE, **TIED, "head_dim": 4, "attention_bias": False},
    ),
    "gpt2": ("GPT2", GPT2_SIZES),
    "gpt-bigcode": ("GPTBigCode", GPT2_SIZES),
    "gptj": ("GPTJ", {**GPT2_SIZES, "rotary_dim": 4}),
    "gpt-neo": (
        "GPTNeo",
        {**GPT_NEO, "vocab_size": 37, "hidden_size": 24, "num_layers": 1, "num_heads": 3,
         "attention_types": [[["local"], 1]], "max_position_embeddings": 20,
         "activation_function": "relu", "layer_norm_epsilon": 0.05},
    ),
    "gpt-neox": (
        "GPTNeoX",
        {**NEOX, "vocab_size": 37, "hidden_size": 24, "intermediate_size": 20,
         "num_hidden_layers": 1, "num_attention_heads": 3, "layer_norm_eps": 0.05},
    ),
    "granite": ("Granite", {**LLAMA, **SIZES, **ACT, **EPS, **ROPE, **TIED}),
    "helium": (
        "Helium",
        {**PADDED, **SIZES, **ACT, **EPS, **ROPE, **WIDE, "num_attention_heads": 3},
    ),
    "llama": ("Llama", {**LLAMA, **SIZES}),
    "mistral": (
        "Mistral",
        {**LLAMA, **SIZES, **ACT, **EPS, **ROPE, **TIED, "head_dim": 8, "sliding_window": 2},
    ),
    "mixtral": (
        "Mixtral",
        {**LLAMA, **SIZES, **MOE, "num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "mpt": (
        "Mpt",
        {"vocab_size": 37, "d_model": 24, "n_heads": 3, "n_layers": 1, "max_seq_len": 20},
    ),
    "nemotron": ("Nemotron", {**LLAMA, **SIZES, **WIDE}),
    "olmo": ("Olmo", {**PADDED, **SIZES, **ACT, **ROPE}),
    "olmo2": ("Olmo2", {**PADDED, **SIZES}),
    "olmo3": (
        "Olmo3",
        {**PADDED, **SIZES, **ACT, **EPS, **TIED, "sliding_window": 3,
         "layer_types": ["sliding_attention"]},
    ),
    "olmoe": (
        "Olmoe",
        {**PADDED, **SIZES, **MOE, "num_experts": 4, "num_experts_per_tok": 2},
    ),
    "opt": (
        "OPT",
        {**OPT, "vocab_size": 37, "hidden_size": 24, "word_embed_proj_dim": 24, "ffn_dim": 20,
         "num_hidden_layers": 1, "num_attention_heads": 3, "max_position_embeddings": 20},
    ),
    "phi": ("Phi", {**PADDED, **SIZES, **TIED, "layer_norm_eps": 0.05}),
    "phi3": ("Phi3", {**PADDED, **SIZES, **ACT, **EPS}),
    "qwen2": ("Qwen2", {**LLAMA, **SIZES, **ACT, **EPS, **ROPE, **TIED}),
    "qwen2-moe": (
        "Qwen2Moe",
        {**LLAMA, **SIZES, **MOE, "num_experts": 4, "num_experts_per_tok": 2,
         "mlp_only_layers": [0], "moe_intermediate_size": 12},
    ),
    "qwen3": ("Qwen3", {**LLAMA, **SIZES, **ACT, **EPS, **ROPE, **TIED, **WIDE}),
    "qwen3-moe": (
        "Qwen3Moe",
        {**LLAMA, **SIZES, **MOE, **ROPE, "head_dim": 8, "num_experts": 4,
         "num_experts_per_tok": 2, "moe_intermediate_size": 8},
    ),
    "seed-oss": ("SeedOss", {**PADDED, **SIZES, **ACT, **EPS, **ROPE}),
    "smollm3": (
        "SmolLM3",
        {**PADDED, **SIZES, **ACT, **EPS, **ROPE, "no_rope_layers": [1], "mlp_bias": True},
    ),
    "stablelm": ("StableLm", {**PADDED, **SIZES, **ACT, "hidden_size": 48}),
    "starcoder2": ("Starcoder2", {**PADDED, **SIZES, **ROPE}),
}  # fmt: skip

_MODELS = {"GPT2": "GPT2LMHeadModel", "Gemma3Text": "Gemma3ForCausalLM"}

OTHER: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    f"{name}-other": (
        getattr(transformers, f"{kind}Config"),
        getattr(transformers, _MODELS.get(kind, f"{kind}ForCausalLM")),
        copy.deepcopy(options),  # configurations write into what they are given
    )
    for name, (kind, options) in _SETTINGS.items()
}
"""Configurations by the names of tests, each with its classes."""
