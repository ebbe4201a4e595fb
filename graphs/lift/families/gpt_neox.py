"""GPT-NeoX and Pythia: LayerNorm, partial rotary, q/k/v packed by head, parallel or sequential.

GPT-NeoX Japanese is sequential and has one bias: of the last layer's attention.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..lifted import Attention, LiftedModel
from ..lifting import family, optional
from ._parts import assemble, describe_blocks, fused_heads, layer_norm, rotary


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

    def attention(block: Any, _: int) -> Attention:
        module = block.attention
        return fused_heads(module.query_key_value, module.dense, heads, rotary=table)

    blocks = describe_blocks(body.layers, layer_norm, attention, config.hidden_act)
    last, parallel = layer_norm(body.final_layer_norm), config.use_parallel_residual
    return assemble("gpt-neox", model, body.embed_in, blocks, last, table, parallel=parallel)


@family(
    "gpt-neox",
    model_types=["gpt_neox_japanese"],
    handled="""
        vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_multiple_size
        hidden_act layer_norm_eps tie_word_embeddings rope_parameters
    """,
    ignored="attention_dropout hidden_dropout max_position_embeddings is_decoder",
)
def describe_japanese(model: Any) -> LiftedModel:
    """Describe a `GPTNeoXJapaneseForCausalLM`."""
    config, body = model.config, model.gpt_neox_japanese
    table, heads = rotary(config, body.rotary_emb), config.num_attention_heads

    def attention(block: Any, _: int) -> Attention:
        module = block.attention
        own = fused_heads(module.query_key_value, module.dense, heads, rotary=table)
        return replace(own, bo=optional(module.dense_bias))

    blocks = describe_blocks(body.layers, layer_norm, attention, config.hidden_act)
    return assemble(
        "gpt-neox", model, body.embed_in, blocks, layer_norm(body.final_layer_norm), table
    )
