"""GPT-NeoX and Pythia: LayerNorm, partial rotary, q/k/v packed by head, parallel or sequential."""

from __future__ import annotations

from typing import Any

from ..lifted import Block, LiftedModel
from ..lifting import family
from ._parts import assemble, fused_heads, layer_norm, plain, rotary, rotary_words


@family(
    "gpt-neox",
    model_types=["gpt_neox"],
    handled="""
        vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_act
        layer_norm_eps tie_word_embeddings use_parallel_residual rope_parameters attention_bias
    """,
    ignored="""
        attention_dropout hidden_dropout classifier_dropout max_position_embeddings is_decoder
    """,
)
def describe(model: Any) -> LiftedModel:
    """Describe a `GPTNeoXForCausalLM`."""
    config, body = model.config, model.gpt_neox
    table, heads = rotary(config, body.rotary_emb), config.num_attention_heads
    blocks = tuple(
        Block(
            attention_norm=layer_norm(block.input_layernorm),
            attention=fused_heads(
                block.attention.query_key_value, block.attention.dense, heads, rotary=table
            ),
            mlp_norm=layer_norm(block.post_attention_layernorm),
            mlp=plain(block.mlp.dense_h_to_4h, block.mlp.dense_4h_to_h, config.hidden_act),
        )
        for block in body.layers
    )
    return assemble(
        "gpt-neox",
        model,
        body.embed_in,
        blocks,
        layer_norm(body.final_layer_norm),
        positions=rotary_words(config, table, blocks[0].attention.size),
        parallel=config.use_parallel_residual,
    )
