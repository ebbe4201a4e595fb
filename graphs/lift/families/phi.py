"""Phi-1 and 2: one LayerNorm before a parallel block, partial rotary, biases everywhere."""

from __future__ import annotations

from typing import Any

from ..lifted import LiftedModel
from ..lifting import family
from ._parts import assemble, describe_blocks, layer_norm, plain, rotary, rotary_heads


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
    config, body = model.config, model.model
    table = rotary(config, body.rotary_emb)

    blocks = describe_blocks(
        body.layers,
        layer_norm,
        lambda block, _: rotary_heads(config, block.self_attn, table, layer_norm),
        lambda block: plain(block.mlp.fc1, block.mlp.fc2, config.hidden_act),
        ("input_layernorm", "input_layernorm"),
    )
    last = layer_norm(body.final_layernorm)
    return assemble("phi", model, body.embed_tokens, blocks, last, table, parallel=True)
