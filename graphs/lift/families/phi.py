"""Phi-1 and 2: one LayerNorm before a parallel block, partial rotary, biases everywhere."""

from __future__ import annotations

from typing import Any

from ..lifted import LiftedModel
from ..lifting import family
from ._parts import layer_norm, rotary_decoder


@family(
    "phi",
    model_types=["phi"],
    handled="""
        vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads
        num_key_value_heads hidden_act layer_norm_eps tie_word_embeddings rope_parameters
        partial_rotary_factor qk_layernorm head_dim
    """,
    ignored="attention_dropout embd_pdrop resid_pdrop max_position_embeddings",
)
def describe(model: Any) -> LiftedModel:
    """Describe a `PhiForCausalLM`."""
    norms = ("input_layernorm", "input_layernorm")
    return rotary_decoder("phi", model, layer_norm, *norms, parallel=True, head_norm=layer_norm)
