"""GPT-NeoX and Pythia: LayerNorm, partial rotary, q/k/v packed by head, parallel or sequential."""

from __future__ import annotations

from typing import Any

from ..lifted import Attention, LiftedModel
from ..lifting import family
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
