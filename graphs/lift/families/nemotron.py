"""Nemotron: LayerNorm as 1 + w, partial rotary, grouped heads, an MLP of squared ReLU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..lifted import LiftedModel, Norm
from ..lifting import family
from ._parts import assemble, describe_blocks, layer_norm, plain, rotary, rotary_heads


@family(
    "nemotron",
    model_types=["nemotron"],
    handled="""
        vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads head_dim
        num_key_value_heads hidden_act norm_eps rope_parameters attention_bias mlp_bias
        tie_word_embeddings partial_rotary_factor
    """,
    ignored="attention_dropout max_position_embeddings",
)
def describe(model: Any) -> LiftedModel:
    """Describe a `NemotronForCausalLM`."""
    config, body = model.config, model.model
    table = rotary(config, body.rotary_emb)
    blocks = describe_blocks(
        body.layers,
        _norm,
        lambda block, _: rotary_heads(config, block.self_attn, table),
        lambda block: plain(block.mlp.up_proj, block.mlp.down_proj, config.hidden_act),
    )
    return assemble("nemotron", model, body.embed_tokens, blocks, _norm(body.norm), table)


def _norm(module: Any) -> Norm:
    return replace(layer_norm(module), offset=1.0)
