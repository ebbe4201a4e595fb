"""StarCoder 2: LayerNorm, rotary, grouped heads, a plain MLP, biases, a window."""

from __future__ import annotations

from typing import Any

from ..lifted import LiftedModel
from ..lifting import family
from ._parts import layer_norm, rotary_decoder


@family(
    "starcoder2",
    model_types=["starcoder2"],
    handled="""
        vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads
        num_key_value_heads hidden_act norm_epsilon rope_parameters sliding_window use_bias
        tie_word_embeddings head_dim
    """,
    ignored="attention_dropout residual_dropout embedding_dropout max_position_embeddings",
)
def describe(model: Any) -> LiftedModel:
    """Describe a `Starcoder2ForCausalLM`."""
    return rotary_decoder("starcoder2", model, layer_norm, window=model.config.sliding_window)
