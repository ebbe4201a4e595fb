"""Llama's attention with DeepSeek V3's mixture of experts: GLM-4-MoE, dots.llm1.

The first layers have a plain MLP. Experts are chosen among groups by corrected sigmoid scores; the
shared ones, which every token runs through, are one sender. Queries and keys can be normalised.
"""

from __future__ import annotations

from typing import Any

from ..lifted import Attention, LiftedModel
from ..lifting import UNREAD, USUAL, family
from ._parts import (
    assemble,
    describe_blocks,
    rms_norm,
    rotary,
    rotary_heads,
    sparse_or_dense,
    window,
)

ROUTED = """
    num_experts_per_tok moe_intermediate_size norm_topk_prob routed_scaling_factor n_group
    topk_group
"""
DEEPSEEK = f"{ROUTED} n_routed_experts n_shared_experts first_k_dense_replace"
"""How DeepSeek's configurations say what experts there are, and how they are chosen."""

UNUSED = f"{UNREAD} output_router_logits num_nextn_predict_layers num_mtp_layers"
"""Layers that predict more tokens than the next are not built."""


@family(
    "glm-moe",
    ["glm4_moe"],
    f"{USUAL} rms_norm_eps head_dim attention_bias use_qk_norm {DEEPSEEK}",
    f"{UNUSED} partial_rotary_factor",
)
@family(
    "glm-moe",
    ["dots1"],
    f"{USUAL} rms_norm_eps head_dim attention_bias sliding_window layer_types {DEEPSEEK}",
    f"{UNUSED} max_window_layers",
)
def describe(model: Any) -> LiftedModel:
    """Describe a model of one of these types for causal language modelling."""
    config, body = model.config, model.model
    table = rotary(config, body.rotary_emb)
    mixed = config.model_type == "dots1"

    def attention(block: Any, layer: int) -> Attention:
        seen = window(config, layer) if mixed else None
        return rotary_heads(config, block.self_attn, table, window=seen)

    blocks = describe_blocks(
        body.layers, rms_norm, attention, lambda block: sparse_or_dense(config, block.mlp)
    )
    return assemble("glm-moe", model, body.embed_tokens, blocks, rms_norm(body.norm), table)
