"""Phi-3: RMSNorm, rotary, q/k/v packed in one projection, gate and up packed in another."""

from __future__ import annotations

from typing import Any

from ..lifted import MLP, Attention, Block, LiftedModel, Linear, Rotary
from ..lifting import family, frozen, head_rows, optional, require_activation
from ._parts import assemble, linear, rms_norm, rotary, rotary_words


@family(
    "phi3",
    model_types=["phi3"],
    handled="""
        vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads
        num_key_value_heads hidden_act rms_norm_eps tie_word_embeddings rope_parameters
        sliding_window head_dim
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
            mlp=_mlp(config, block.mlp),
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


def _mlp(config: Any, module: Any) -> MLP:
    gate, up = frozen(module.gate_up_proj.weight).chunk(2)
    return MLP(
        gate=Linear(gate),
        up=Linear(up),
        down=linear(module.down_proj),
        activation=require_activation(config.hidden_act),
    )
