"""Nemotron: LayerNorm as 1 + w, partial rotary, grouped heads, an MLP of squared ReLU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..lifted import LiftedModel
from ..lifting import family
from ._parts import layer_norm, rotary_decoder


@family(
    "nemotron",
    model_types=["nemotron"],
    handled="""
        vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads head_dim
        num_key_value_heads hidden_act norm_eps rope_parameters attention_bias mlp_bias
        tie_word_embeddings partial_rotary_factor
    """,
    ignored="attention_dropout max_position_embeddings",
)
def describe(model: Any) -> LiftedModel:
    """Describe a `NemotronForCausalLM`."""
    return rotary_decoder("nemotron", model, lambda norm: replace(layer_norm(norm), offset=1.0))
