"""GLM-4: RMSNorm, interleaved partial rotary, gate and up packed; later also norms after each part.

`glm` is the first release of GLM-4-9B, `glm4` that of April 2025.
"""

from __future__ import annotations

from typing import Any

from ..lifted import LiftedModel
from ..lifting import family
from ._parts import assemble, describe_blocks, packed_gated, rms_norm, rotary, rotary_heads


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
    config, body = model.config, model.model
    table = rotary(config, body.rotary_emb, interleaved=True)
    norms = ["input_layernorm", "post_attention_layernorm"]
    if config.model_type == "glm4":
        norms += ["post_self_attn_layernorm", "post_mlp_layernorm"]
    blocks = describe_blocks(
        body.layers,
        rms_norm,
        lambda block, _: rotary_heads(config, block.self_attn, table),
        lambda block: packed_gated(block.mlp, config.hidden_act),
        norms,
    )
    return assemble("glm", model, body.embed_tokens, blocks, rms_norm(body.norm), table)
