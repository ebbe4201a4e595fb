"""StarCoder 2: LayerNorm, rotary, grouped heads, a plain MLP, biases, a window."""

from __future__ import annotations

from typing import Any

from ..lifted import LiftedModel
from ..lifting import family
from ._parts import assemble, describe_blocks, layer_norm, plain, rotary, rotary_heads


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
    config, body = model.config, model.model
    table = rotary(config, body.rotary_emb)
    blocks = describe_blocks(
        body.layers,
        layer_norm,
        lambda block, _: rotary_heads(config, block.self_attn, table, window=config.sliding_window),
        lambda block: plain(block.mlp.c_fc, block.mlp.c_proj, config.hidden_act),
    )
    return assemble("starcoder2", model, body.embed_tokens, blocks, layer_norm(body.norm), table)
