"""Falcon: multi-query or grouped heads, parallel or sequential, rotary positions or ALiBi."""

from __future__ import annotations

from typing import Any

import torch

from ..lifted import Attention, LiftedModel
from ..lifting import family
from ._parts import alibi_slopes, assemble, describe_blocks, fused_heads, layer_norm, rotary


@family(
    "falcon",
    model_types=["falcon"],
    handled="""
        vocab_size hidden_size num_hidden_layers num_attention_heads num_ln_in_parallel_attn
        layer_norm_epsilon num_kv_heads alibi new_decoder_architecture multi_query parallel_attn
        bias rope_parameters ffn_hidden_size activation tie_word_embeddings
    """,
    ignored="hidden_dropout attention_dropout max_position_embeddings",
)
def describe(model: Any) -> LiftedModel:
    """Describe a `FalconForCausalLM`."""
    config, body = model.config, model.transformer
    parallel = config.new_decoder_architecture or config.parallel_attn
    first, second = "input_layernorm", "post_attention_layernorm"
    if parallel:
        found = dict(body.h[0].named_children())
        second = "ln_mlp" if "ln_mlp" in found else first
        first = "ln_attn" if "ln_attn" in found else first
    positions, heads = _positions(config, body), config.num_attention_heads
    groups = config.num_kv_heads if config.new_decoder_architecture else 1
    if not (config.new_decoder_architecture or config.multi_query):
        groups = heads

    def attention(block: Any, _: int) -> Attention:
        module = block.self_attention
        return fused_heads(module.query_key_value, module.dense, heads, groups, **positions)

    blocks = describe_blocks(body.h, layer_norm, attention, config.activation, (first, second))
    last, where = layer_norm(body.ln_f), blocks[0].by_head.rotary or "ALiBi"
    return assemble("falcon", model, body.word_embeddings, blocks, last, where, parallel=parallel)


def _positions(config: Any, body: Any) -> dict[str, Any]:
    """Return how positions enter attention: ALiBi is scaled as the scores are."""
    if not config.alibi:
        return {"rotary": rotary(config, body.rotary_emb)}
    slopes = alibi_slopes(config.num_attention_heads, body.word_embeddings.weight)
    # the eager attention of transformers adds them to the scores and once more with the mask
    times = 2 if config._attn_implementation == "eager" else 1
    scale = (config.hidden_size // config.num_attention_heads) ** -0.5
    return {"slopes": slopes.to(torch.bfloat16), "slope_scale": times * scale}
