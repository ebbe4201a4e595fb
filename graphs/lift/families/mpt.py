"""MPT: LayerNorm without bias, ALiBi with slopes of its own, q/k/v packed, no biases.

Of its many settings transformers' code reads few; what it does not read is ignored here too.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..lifted import Attention, LiftedModel
from ..lifting import family
from ._parts import assemble, describe_blocks, layer_norm, matrices


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
    heads, settings = config.n_heads, config.attn_config
    usual = (config.d_model // heads) ** -0.5
    scale = usual if settings.softmax_scale is None else settings.softmax_scale
    own = {"scale": scale, "clip": settings.clip_qkv or None, "slopes": slopes}

    def attention(block: Any, _: int) -> Attention:
        return matrices(block.attn.Wqkv.weight.chunk(3), None, block.attn.out_proj, heads, **own)

    blocks = describe_blocks(body.blocks, layer_norm, attention, "gelu", ("norm_1", "norm_2"))
    last, most = layer_norm(body.norm_f), config.max_seq_len
    return assemble("mpt", model, body.wte, blocks, last, "ALiBi", max_positions=most)


def _slopes(heads: int) -> Tensor:
    """Return each head's slope, powers of 2; of more than are needed, every other one first."""
    power = 2 ** math.ceil(math.log2(heads))
    slopes = 1.0 / torch.pow(2, torch.arange(1, power + 1).float() * (8 / power))
    return slopes if power == heads else torch.cat((slopes[1::2], slopes[::2]))[:heads]
