"""GPT-NeoX and Pythia: LayerNorm, partial rotary, q/k/v packed by head, parallel or sequential."""

from __future__ import annotations

from typing import Any

from ..lifted import Attention, Block, LiftedModel, Rotary
from ..lifting import family, frozen, head_rows, optional
from ._parts import assemble, layer_norm, plain, rotary, rotary_words


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
            attention=_attention(block.attention, heads, table),
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


def _attention(module: Any, heads: int, table: Rotary) -> Attention:
    weight = head_rows(module.query_key_value.weight, heads)  # [H, 3·K, D]: q, k, v of each head
    size = weight.shape[1] // 3
    q, k, v = weight.split(size, 1)
    bias = module.query_key_value.bias
    bq, bk, bv = (
        (None, None, None)
        if bias is None
        else frozen(bias).unflatten(0, (heads, -1)).split(size, 1)
    )
    return Attention(
        wq=q, wk=k, wv=v, wo=head_rows(module.dense.weight.t(), heads),
        bq=bq, bk=bk, bv=bv, bo=optional(module.dense.bias), scale=size**-0.5, rotary=table,
    )  # fmt: skip
