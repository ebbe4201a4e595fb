"""Phi-3: RMSNorm, rotary, q/k/v packed in one projection, gate and up packed in another."""

from __future__ import annotations

from typing import Any

from ..lifted import Attention, Block, LiftedModel, Rotary
from ..lifting import family, frozen, head_rows, optional
from ._parts import assemble, packed_gated, rms_norm, rotary, rotary_words


@family(
    "phi3",
    model_types=["phi3"],
    handled="""
        vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads
        num_key_value_heads hidden_act rms_norm_eps tie_word_embeddings rope_parameters
        partial_rotary_factor sliding_window head_dim
    """,
    ignored="""
        attention_dropout embd_pdrop resid_pdrop max_position_embeddings
        original_max_position_embeddings
    """,
)
def describe(model: Any) -> LiftedModel:
    """Describe a `Phi3ForCausalLM`."""
    config, body = model.config, model.model
    table = rotary(config, body.rotary_emb)
    blocks = tuple(
        Block(
            attention_norm=rms_norm(block.input_layernorm),
            attention=_attention(config, block.self_attn, table),
            mlp_norm=rms_norm(block.post_attention_layernorm),
            mlp=packed_gated(block.mlp, config.hidden_act),
        )
        for block in body.layers
    )
    return assemble(
        "phi3",
        model,
        body.embed_tokens,
        blocks,
        rms_norm(body.norm),
        positions=rotary_words(config, table, blocks[0].attention.size),
    )


def _attention(config: Any, module: Any, table: Rotary) -> Attention:
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    size = module.head_dim
    q, k, v = frozen(module.qkv_proj.weight).split([heads * size, groups * size, groups * size])
    return Attention(
        wq=head_rows(q, heads),
        wk=head_rows(k, groups),
        wv=head_rows(v, groups),
        wo=head_rows(module.o_proj.weight.t(), heads),
        bq=None,
        bk=None,
        bv=None,
        bo=optional(module.o_proj.bias),
        scale=size**-0.5,
        rotary=table,
        window=config.sliding_window,
    )
