"""MPT: LayerNorm without bias, ALiBi with slopes of its own, q/k/v packed, no biases.

Of its many settings transformers' code reads few; what it does not read is ignored here too.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..lifted import Attention, Block, LiftedModel
from ..lifting import family, frozen, head_rows
from ._parts import assemble, layer_norm, plain


@family(
    "mpt",
    model_types=["mpt"],
    handled="""
        vocab_size d_model n_heads n_layers max_seq_len layer_norm_epsilon attn_config
        tie_word_embeddings
    """,
    ignored="""
        expansion_ratio resid_pdrop emb_pdrop learned_pos_emb init_device logit_scale no_bias
        embedding_fraction norm_type verbose
    """,
)
def describe(model: Any) -> LiftedModel:
    """Describe an `MptForCausalLM`."""
    config, body = model.config, model.transformer
    slopes = _slopes(config.n_heads).to(body.wte.weight.device)
    blocks = tuple(
        Block(
            attention_norm=layer_norm(block.norm_1),
            attention=_attention(config, block.attn, slopes),
            mlp_norm=layer_norm(block.norm_2),
            mlp=plain(block.ffn.up_proj, block.ffn.down_proj, "gelu"),
        )
        for block in body.blocks
    )
    return assemble(
        "mpt",
        model,
        body.wte,
        blocks,
        layer_norm(body.norm_f),
        positions="ALiBi",
        max_positions=config.max_seq_len,
    )


def _attention(config: Any, module: Any, slopes: Tensor) -> Attention:
    heads, settings = config.n_heads, config.attn_config
    q, k, v = frozen(module.Wqkv.weight).chunk(3)
    size = config.d_model // heads
    return Attention(
        wq=head_rows(q, heads),
        wk=head_rows(k, heads),
        wv=head_rows(v, heads),
        wo=head_rows(module.out_proj.weight.t(), heads),
        bq=None,
        bk=None,
        bv=None,
        bo=None,
        scale=size**-0.5 if settings.softmax_scale is None else settings.softmax_scale,
        clip=settings.clip_qkv or None,
        slopes=slopes,
    )


def _slopes(heads: int) -> Tensor:
    """Return each head's slope, powers of 2; of more than are needed, every other one first."""
    power = 2 ** math.ceil(math.log2(heads))
    slopes = 1.0 / torch.pow(2, torch.arange(1, power + 1).float() * (8 / power))
    return slopes if power == heads else torch.cat((slopes[1::2], slopes[::2]))[:heads]
