"""Cohere (Command R): one LayerNorm before a parallel block, interleaved rotary, scaled logits."""

from __future__ import annotations

from typing import Any

from ...errors import UnsupportedModel
from ..lifted import Block, LiftedModel
from ..lifting import family
from ._parts import assemble, gated, layer_norm, rotary, rotary_heads, rotary_words


@family(
    "cohere",
    model_types=["cohere"],
    handled="""
        vocab_size hidden_size intermediate_size logit_scale num_hidden_layers num_attention_heads
        num_key_value_heads hidden_act layer_norm_eps tie_word_embeddings rope_parameters
        attention_bias use_qk_norm head_dim
    """,
    ignored="attention_dropout max_position_embeddings",
)
def describe(model: Any) -> LiftedModel:
    """Describe a `CohereForCausalLM`."""
    config, body = model.config, model.model
    if config.use_qk_norm:
        raise UnsupportedModel(
            "the Cohere model has use_qk_norm=True, a norm with a weight of its own for every "
            "head, which is not supported."
        )
    table = rotary(config, body.rotary_emb, interleaved=True)
    blocks = tuple(
        Block(
            attention_norm=layer_norm(block.input_layernorm),
            attention=rotary_heads(config, block.self_attn, block.self_attn.o_proj, table),
            mlp_norm=layer_norm(block.input_layernorm),
            mlp=gated(block.mlp, config.hidden_act),
        )
        for block in body.layers
    )
    return assemble(
        "cohere",
        model,
        body.embed_tokens,
        blocks,
        layer_norm(body.norm),
        positions=rotary_words(config, table, blocks[0].attention.size) + ", interleaved",
        parallel=True,
        logit_scale=config.logit_scale,
    )
