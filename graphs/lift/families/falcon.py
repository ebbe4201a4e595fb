"""Falcon: multi-query or grouped heads, parallel or sequential, rotary positions or ALiBi."""

from __future__ import annotations

from typing import Any

import torch

from ..lifted import Attention, Block, LiftedModel
from ..lifting import family, frozen, head_rows, optional
from ._parts import alibi_slopes, assemble, fused_heads, layer_norm, plain, rotary


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
    places = _positions(config, body)
    blocks = tuple(
        Block(
            attention_norm=layer_norm(_first(block, "ln_attn", "input_layernorm")),
            attention=_attention(config, block.self_attention, places),
            mlp_norm=layer_norm(
                _first(block, "ln_mlp", "input_layernorm")
                if parallel
                else block.post_attention_layernorm
            ),
            mlp=plain(block.mlp.dense_h_to_4h, block.mlp.dense_4h_to_h, config.activation),
        )
        for block in body.h
    )
    attention = blocks[0].attention
    last, where = layer_norm(body.ln_f), attention.rotary or "ALiBi"
    return assemble("falcon", model, body.word_embeddings, blocks, last, where, parallel=parallel)


def _positions(config: Any, body: Any) -> dict[str, Any]:
    """Return how positions enter attention: ALiBi is scaled as the scores are.

    Slopes are rounded to bfloat16. The eager attention of transformers adds them to the scores and
    once more with the mask.
    """
    if not config.alibi:
        return {"rotary": rotary(config, body.rotary_emb)}
    slopes = alibi_slopes(config.num_attention_heads, body.word_embeddings.weight)
    times = 2 if config._attn_implementation == "eager" else 1
    scale = (config.hidden_size // config.num_attention_heads) ** -0.5
    return {"slopes": slopes.to(torch.bfloat16), "slope_scale": times * scale}


def _attention(config: Any, module: Any, places: dict[str, Any]) -> Attention:
    heads = config.num_attention_heads
    if not (config.new_decoder_architecture or config.multi_query):
        return fused_heads(module.query_key_value, module.dense, heads, **places)
    groups = config.num_kv_heads if config.new_decoder_architecture else 1
    share = heads // groups  # rows of a group: its query heads, its key, its value
    weight = head_rows(module.query_key_value.weight, groups).unflatten(1, (share + 2, -1))
    bias = module.query_key_value.bias
    apart = None if bias is None else frozen(bias).unflatten(0, (groups, share + 2, -1))
    return Attention(
        wq=weight[:, :-2],
        wk=weight[:, -2],
        wv=weight[:, -1],
        wo=head_rows(module.dense.weight.t(), heads),
        bq=None if apart is None else apart[:, :-2],
        bk=None if apart is None else apart[:, -2],
        bv=None if apart is None else apart[:, -1],
        bo=optional(module.dense.bias),
        scale=(config.hidden_size // heads) ** -0.5,
        **places,
    )


def _first(block: Any, *names: str) -> Any:
    """Return the first of these modules that the block has."""
    return next(getattr(block, name) for name in names if hasattr(block, name))
