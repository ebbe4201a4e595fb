"""Shapes of the tiny configurations, shared by the models of like config classes."""

from __future__ import annotations

GPT2 = {"vocab_size": 31, "n_positions": 24, "n_embd": 16, "n_layer": 2, "n_head": 2}
LLAMA = {
    "vocab_size": 31, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 24,
}  # fmt: skip
PADDED = {**LLAMA, "pad_token_id": 0}  # where the default lies outside so small a vocabulary
YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 8,
    "rope_theta": 1e4,
}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8, "rope_theta": 1e4,
}  # fmt: skip

GEMMA = {**LLAMA, "head_dim": 6}
NEOX = {
    "vocab_size": 31, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "max_position_embeddings": 24, "rotary_pct": 0.5,
}  # fmt: skip
OPT = {
    "vocab_size": 31, "hidden_size": 16, "ffn_dim": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "max_position_embeddings": 24, "word_embed_proj_dim": 16,
}  # fmt: skip
GPT_NEO = {
    "vocab_size": 31, "hidden_size": 16, "num_layers": 2, "num_heads": 2, "window_size": 3,
    "attention_types": [[["global", "local"], 1]], "max_position_embeddings": 24,
}  # fmt: skip
BLOOM = {"vocab_size": 31, "hidden_size": 16, "n_layer": 2, "n_head": 2}
FALCON = {
    "vocab_size": 31, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
    "ffn_hidden_size": 24, "max_position_embeddings": 24,
}  # fmt: skip
