"""OLMo 1 to 3: norms without weights; from 2 on only behind attention, MLP, queries and keys.

The norms of OLMo 2's and 3's queries, and of its keys, take all heads together. OLMo 3 has windows
in most layers, with rotary positions of their own.
"""

from __future__ import annotations

from typing import Any

from ..lifted import Block, LiftedModel, Norm, Rotary
from ..lifting import family
from ._parts import assemble, gated, normed_behind, rms_norm, rotary, rotary_heads

HANDLED = """
    vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads
    num_key_value_heads hidden_act rope_parameters attention_bias tie_word_embeddings head_dim
"""
IGNORED = "attention_dropout max_position_embeddings"
UNWEIGHTED = Norm(None, None, 1e-5, centred=True)  # its eps is fixed in the model's code


@family("olmo", model_types=["olmo"], handled=f"{HANDLED} clip_qkv", ignored=IGNORED)
def describe(model: Any) -> LiftedModel:
    """Describe an `OlmoForCausalLM`."""
    config, body = model.config, model.model
    table = rotary(config, body.rotary_emb)
    blocks = tuple(
        Block(
            attention_norm=UNWEIGHTED,
            attention=rotary_heads(config, block.self_attn, table, clip=config.clip_qkv),
            mlp_norm=UNWEIGHTED,
            mlp=gated(block.mlp, config.hidden_act),
        )
        for block in body.layers
    )
    return assemble("olmo", model, body.embed_tokens, blocks, UNWEIGHTED, table)


@family("olmo", model_types=["olmo2"], handled=f"{HANDLED} rms_norm_eps", ignored=IGNORED)
def describe_2(model: Any) -> LiftedModel:
    """Describe an `Olmo2ForCausalLM`."""
    table = rotary(model.config, model.model.rotary_emb)
    return _since_2(model, [table] * len(model.model.layers))


@family(
    "olmo",
    model_types=["olmo3"],
    handled=f"{HANDLED} rms_norm_eps sliding_window layer_types",
    ignored=IGNORED,
)
def describe_3(model: Any) -> LiftedModel:
    """Describe an `Olmo3ForCausalLM`."""
    config, module = model.config, model.model.rotary_emb
    kinds = sorted(set(config.layer_types))
    tables = {kind: rotary(config, module, layers=kind) for kind in kinds}
    return _since_2(model, [tables[kind] for kind in config.layer_types])


def _since_2(model: Any, tables: list[Rotary]) -> LiftedModel:
    body, blocks = model.model, normed_behind(model, tables, norm_together=True)
    last = rms_norm(body.norm)
    return assemble("olmo", model, body.embed_tokens, blocks, last, tables[0], post_norm=True)
