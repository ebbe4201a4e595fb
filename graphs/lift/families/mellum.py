"""Mellum: Qwen3-MoE with windows, and a rotary base of its own for each kind of layer."""

from __future__ import annotations

from typing import Any

from ..experts import Routing
from ..lifted import LiftedModel
from ..lifting import USUAL, family
from ._parts import (
    assemble,
    describe_blocks,
    rms_norm,
    rotary_heads,
    rotary_tables,
    sparse_or_dense,
    window,
)
from .glm_moe import UNUSED

HANDLED = f"""
    {USUAL} head_dim rms_norm_eps attention_bias sliding_window layer_types mlp_layer_types
    num_experts num_local_experts num_experts_per_tok moe_intermediate_size norm_topk_prob
"""


@family(
    "mellum",
    model_types=["mellum"],
    handled=HANDLED,
    ignored=f"{UNUSED} router_aux_loss_coef mtp_layer_types mtp_mlp_layer_types",
)
def describe(model: Any) -> LiftedModel:
    """Describe a `MellumForCausalLM`."""
    config, body = model.config, model.model
    tables = rotary_tables(config, body)
    blocks = describe_blocks(
        body.layers, rms_norm,
        lambda block, layer: rotary_heads(
            config, block.self_attn, tables[layer], window=window(config, layer)
        ),
        lambda block: sparse_or_dense(config, block.mlp, Routing, round_weights=True),
    )  # fmt: skip
    return assemble("mellum", model, body.embed_tokens, blocks, rms_norm(body.norm), tables[0])
