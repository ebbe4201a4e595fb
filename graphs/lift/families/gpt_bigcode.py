"""GPT-BigCode (SantaCoder, StarCoder): GPT-2 with one key/value head for all queries."""

from __future__ import annotations

from typing import Any

from ...errors import UnsupportedModel
from ..lifted import Attention, Block, LiftedModel
from ..lifting import family, frozen, head_bias, head_rows
from ._parts import assemble, fused_heads, layer_norm, plain


@family(
    "gpt-bigcode",
    model_types=["gpt_bigcode"],
    handled="""
        vocab_size n_positions n_embd n_layer n_head n_inner activation_function layer_norm_epsilon
        scale_attn_weights multi_query add_cross_attention tie_word_embeddings num_key_value_heads
    """,
    ignored="""
        attn_pdrop embd_pdrop resid_pdrop attention_softmax_in_fp32
        scale_attention_softmax_in_fp32
    """,
    refuses=["`add_cross_attention=True`: the graph has no second stream to attend to"],
)
def describe(model: Any) -> LiftedModel:
    """Describe a `GPTBigCodeForCausalLM`."""
    config, body = model.config, model.transformer
    if config.add_cross_attention:
        raise UnsupportedModel(
            "the GPT-BigCode model has cross-attention, which has no place in a decoder."
        )
    blocks = tuple(
        Block(
            attention_norm=layer_norm(block.ln_1),
            attention=_attention(config, block.attn),
            mlp_norm=layer_norm(block.ln_2),
            mlp=plain(block.mlp.c_fc, block.mlp.c_proj, config.activation_function),
        )
        for block in body.h
    )
    return assemble(
        "gpt-bigcode",
        model,
        body.wte,
        blocks,
        layer_norm(body.ln_f),
        positions=f"learned, {config.n_positions}",
        table=frozen(body.wpe.weight),
    )


def _attention(config: Any, module: Any) -> Attention:
    heads, size = config.n_head, module.head_dim
    if not config.multi_query:
        return fused_heads(module.c_attn, module.c_proj, heads, scale=module.scaling)
    cuts = [heads * size, size, size]
    q, k, v = frozen(module.c_attn.weight).split(cuts)
    bq, bk, bv = frozen(module.c_attn.bias).split(cuts)
    return Attention(
        wq=head_rows(q, heads),
        wk=k[None],
        wv=v[None],
        wo=head_rows(module.c_proj.weight.t(), heads),
        bq=head_bias(bq, heads),
        bk=bk[None],
        bv=bv[None],
        bo=frozen(module.c_proj.bias),
        scale=module.scaling,
    )
