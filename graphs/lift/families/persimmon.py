"""Persimmon (and the text model of Fuyu): LayerNorm, partial rotary, q/k/v packed by head."""

from __future__ import annotations

from typing import Any

from ..lifted import Attention, LiftedModel
from ..lifting import UNREAD, family
from ._parts import assemble, describe_blocks, fused_heads, layer_norm, rotary


@family(
    "persimmon",
    model_types=["persimmon"],
    handled="""
        vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads hidden_act
        layer_norm_eps tie_word_embeddings rope_parameters qk_layernorm partial_rotary_factor
    """,
    ignored=f"{UNREAD} hidden_dropout",
)
def describe(model: Any) -> LiftedModel:
    """Describe a `PersimmonForCausalLM`."""
    config, body = model.config, model.model
    table, heads = rotary(config, body.rotary_emb), config.num_attention_heads

    def attention(block: Any, _: int) -> Attention:
        module = block.self_attn
        own: dict[str, Any] = {"rotary": table}
        if config.qk_layernorm:
            own |= {f"{x}_norm": layer_norm(getattr(module, f"{x}_layernorm")) for x in "qk"}
        return fused_heads(module.query_key_value, module.dense, heads, **own)

    blocks = describe_blocks(body.layers, layer_norm, attention, config.hidden_act)
    last = layer_norm(body.final_layernorm)
    return assemble("persimmon", model, body.embed_tokens, blocks, last, table)
