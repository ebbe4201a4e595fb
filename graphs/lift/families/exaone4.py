"""EXAONE 4: norms only behind attention, MLP, queries and keys; rotary only beside windows.

Where the model has no windows, all layers have rotary positions. Kolibri has the same attention,
norms before its parts too, and experts whose sum is normalised, so that they are one sender.
"""

from __future__ import annotations

from typing import Any

from ..experts import Experts, Routing
from ..lifted import Attention, LiftedModel, Rotary
from ..lifting import UNREAD, USUAL, family
from ._parts import (
    ROUTER_LOSS,
    assemble,
    describe_blocks,
    mixture,
    normed_behind,
    rms_norm,
    rotary,
    rotary_heads,
    window,
)


@family(
    "exaone4",
    model_types=["exaone4"],
    handled=f"{USUAL} head_dim rms_norm_eps sliding_window layer_types",
    ignored=f"{UNREAD} sliding_window_pattern",
)
def describe(model: Any) -> LiftedModel:
    """Describe an `Exaone4ForCausalLM`."""
    config, body = model.config, model.model
    table = rotary(config, body.rotary_emb)
    blocks = normed_behind(model, _turns(config, table))
    return assemble("exaone4", model, body.embed_tokens, blocks, rms_norm(body.norm), table)


@family(
    "kolibri",
    model_types=["kolibri1"],
    handled="""
        vocab_size hidden_size num_hidden_layers num_attention_heads num_key_value_heads hidden_act
        rope_parameters tie_word_embeddings head_dim rms_norm_eps sliding_window layer_types
        moe_intermediate_size shared_expert_intermediate_size num_experts_per_tok num_experts
        norm_topk_prob num_local_experts
    """,
    ignored=f"{UNREAD} {ROUTER_LOSS}",
)
def describe_kolibri(model: Any) -> LiftedModel:
    """Describe a `Kolibri1ForCausalLM`."""
    config, body = model.config, model.model
    table = rotary(config, body.rotary_emb)
    tables = _turns(config, table)

    def attention(block: Any, layer: int) -> Attention:
        return rotary_heads(config, block.self_attn, tables[layer], window=window(config, layer))

    def experts(block: Any) -> Experts:
        bias = block.mlp.gate.e_score_correction_bias
        return mixture(
            block.mlp, config.hidden_act, config.num_experts_per_tok, config.norm_topk_prob,
            routing=Routing(score="sigmoid", wide=True, correction=bias, early=True),
            round_weights=False, together=True,
        )  # fmt: skip

    norms = ["input_layernorm", "post_attention_layernorm"]
    norms += ["post_self_attn_layernorm", "post_mlp_layernorm"]
    blocks = describe_blocks(body.layers, rms_norm, attention, experts, norms)
    return assemble("kolibri", model, body.embed_tokens, blocks, rms_norm(body.norm), table)


def _turns(config: Any, table: Rotary) -> list[Rotary | None]:
    """Give the rotary table to layers with a window; to all if the model has none."""
    return [
        table if config.sliding_window is None or kind == "sliding_attention" else None
        for kind in config.layer_types
    ]
