"""Gemma 1, 2 and 3 (text): scaled embedding, RMSNorm as 1 + w, from 2 on norms after each part.

Gemma 2 bends scores and logits with soft caps; Gemma 3 normalises queries and keys and gives the
layers with a window a rotary base of their own.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...errors import UnsupportedModel
from ..lifted import Block, LiftedModel, Norm, Rotary
from ..lifting import family, frozen
from ._parts import assemble, gated, rotary, separate, window

HANDLED = """
    vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads
    num_key_value_heads head_dim rms_norm_eps rope_parameters
    attention_bias tie_word_embeddings use_bidirectional_attention
"""
SINCE_2 = f"""
    {HANDLED} hidden_activation query_pre_attn_scalar sliding_window layer_types
    final_logit_softcapping attn_logit_softcapping
"""
IGNORED = "attention_dropout max_position_embeddings"
BOTH_WAYS = "`use_bidirectional_attention`: attention in both directions"
UNCAPPED = (
    "`attn_logit_softcapping` where attention is not `eager`: other implementations leave it out "
    "(edgewise itself loads such models with `eager`)"
)


@family(
    "gemma",
    model_types=["gemma"],
    handled=f"{HANDLED} hidden_act",
    ignored=f"{IGNORED} hidden_activation",
    refuses=[BOTH_WAYS],
)
def describe(model: Any) -> LiftedModel:
    """Describe a first-generation Gemma model."""
    table = rotary(model.config, model.model.rotary_emb)
    layers = len(model.model.layers)
    return _gemma(model, [table] * layers, model.config.hidden_act)


@family(
    "gemma",
    model_types=["gemma2"],
    handled=SINCE_2,
    ignored=f"{IGNORED} hidden_act sliding_window_pattern",
    refuses=[BOTH_WAYS, UNCAPPED],
)
def describe_2(model: Any) -> LiftedModel:
    """Describe a Gemma 2 model."""
    table = rotary(model.config, model.model.rotary_emb)
    layers = len(model.model.layers)
    return _gemma(model, [table] * layers, model.config.hidden_activation)


@family(
    "gemma",
    model_types=["gemma3_text"],
    handled=SINCE_2,
    ignored=f"{IGNORED} hidden_act sliding_window_pattern",
    refuses=[BOTH_WAYS],
)
def describe_3(model: Any) -> LiftedModel:
    """Describe a Gemma 3 text model."""
    config, module = model.config, model.model.rotary_emb
    kinds = sorted(set(config.layer_types))
    tables = {kind: rotary(config, module, layers=kind) for kind in kinds}
    return _gemma(model, [tables[k] for k in config.layer_types], config.hidden_activation)


def _gemma(model: Any, tables: list[Rotary], activation: str) -> LiftedModel:
    config, body = model.config, model.model
    if getattr(config, "use_bidirectional_attention", None):
        raise UnsupportedModel("the Gemma model attends in both directions, not supported.")
    if _softcap(config) is not None and config._attn_implementation != "eager":
        raise UnsupportedModel(
            "the model's soft cap on attention scores is not applied by attention implementation "
            f"'{config._attn_implementation}'; load it with attn_implementation='eager'."
        )
    post = hasattr(body.layers[0], "pre_feedforward_layernorm")
    blocks = tuple(
        _block(config, layer, block, tables[layer], activation, post)
        for layer, block in enumerate(body.layers)
    )
    return assemble(
        "gemma",
        model,
        body.embed_tokens,
        blocks,
        _norm(body.norm),
        tables[0],
        post_norm=post,
        embed_scale=float(_embed_scale(config, body.embed_tokens.weight)),
        logit_softcap=getattr(config, "final_logit_softcapping", None),
    )


def _block(
    config: Any, layer: int, block: Any, table: Rotary, activation: str, post: bool
) -> Block:
    attn = block.self_attn
    scalar = getattr(config, "query_pre_attn_scalar", None) or attn.head_dim
    after = block.pre_feedforward_layernorm if post else block.post_attention_layernorm
    return Block(
        attention_norm=_norm(block.input_layernorm),
        attention=separate(
            attn,
            attn.o_proj,
            config.num_attention_heads,
            config.num_key_value_heads,
            scale=scalar**-0.5,
            rotary=table,
            window=window(config, layer),
            softcap=_softcap(config),
            q_norm=_norm(attn.q_norm) if hasattr(attn, "q_norm") else None,
            k_norm=_norm(attn.k_norm) if hasattr(attn, "k_norm") else None,
        ),
        mlp_norm=_norm(after),
        mlp=gated(block.mlp, activation),
        attention_post_norm=_norm(block.post_attention_layernorm) if post else None,
        mlp_post_norm=_norm(block.post_feedforward_layernorm) if post else None,
    )


def _softcap(config: Any) -> float | None:
    """Return the soft cap on attention scores; Gemma 3 may have one in its config, but no use."""
    cap: float | None = config.attn_logit_softcapping if config.model_type == "gemma2" else None
    return cap


def _norm(module: Any) -> Norm:
    return Norm(frozen(module.weight), None, module.eps, centred=False, offset=1.0)


def _embed_scale(config: Any, weight: Tensor) -> Tensor:
    """Return √d_model rounded to the weights' type, as the models do."""
    return weight.new_tensor(config.hidden_size**0.5)
