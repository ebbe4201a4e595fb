"""GLM-4: RMSNorm, interleaved partial rotary, gate and up packed; later also norms after each part.

`glm` is the first release of GLM-4-9B, `glm4` that of April 2025.
"""

from __future__ import annotations

from typing import Any

from ..lifted import LiftedModel
from ..lifting import family
from ._parts import rms_norm, rotary_decoder


@family(
    "glm",
    model_types=["glm", "glm4"],
    handled="""
        vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads
        num_key_value_heads head_dim hidden_act rms_norm_eps rope_parameters attention_bias
        tie_word_embeddings partial_rotary_factor
    """,
    ignored="attention_dropout max_position_embeddings",
)
def describe(model: Any) -> LiftedModel:
    """Describe a `GlmForCausalLM` or a `Glm4ForCausalLM`."""
    norms = ["input_layernorm", "post_attention_layernorm"]
    if model.config.model_type == "glm4":
        norms += ["post_self_attn_layernorm", "post_mlp_layernorm"]
    return rotary_decoder("glm", model, rms_norm, *norms, interleaved=True)
