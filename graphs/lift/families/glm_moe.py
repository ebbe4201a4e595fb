"""Llama's attention, DeepSeek V3's experts: GLM-4-MoE, dots.llm1, EXAONE-MoE, Solar, Hunyuan 3.

The first layers, or those that the configuration names, have a plain MLP. Experts are chosen among
groups by corrected sigmoid scores; the shared ones, which every token runs through, are one sender.
Queries and keys can be normalised; EXAONE turns them only in layers with a window.
"""

from __future__ import annotations

from typing import Any

from ..experts import Experts
from ..lifted import MLP, Attention, LiftedModel
from ..lifting import UNREAD, USUAL, family
from ._parts import (
    assemble,
    corrected,
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

NORMS = f"{USUAL} rms_norm_eps"


@family(
    "glm-moe",
    ["glm4_moe"],
    f"{NORMS} head_dim attention_bias use_qk_norm {DEEPSEEK}",
    f"{UNUSED} partial_rotary_factor",
)
@family(
    "glm-moe",
    ["dots1"],
    f"{NORMS} head_dim attention_bias sliding_window layer_types {DEEPSEEK}",
    f"{UNUSED} max_window_layers",
)
@family(
    "glm-moe",
    ["solar_open"],
    f"{NORMS} head_dim attention_bias {ROUTED} n_routed_experts n_shared_experts",
    f"{UNUSED} partial_rotary_factor",
)
@family(
    "glm-moe",
    ["exaone_moe"],
    f"{NORMS} head_dim sliding_window layer_types mlp_layer_types num_experts num_shared_experts "
    f"{ROUTED}",
    f"{UNUSED} sliding_window_pattern first_k_dense_replace",
)
@family(
    "glm-moe",
    ["hy_v3"],
    f"{NORMS} head_dim attention_bias mlp_bias mlp_layer_types num_experts num_shared_experts "
    "num_experts_per_tok moe_intermediate_size router_scaling_factor",
    f"{UNUSED} enable_moe_fp32_combine",
)
def describe(model: Any) -> LiftedModel:
    """Describe a model of one of these types for causal language modelling."""
    config, body = model.config, model.model
    table, kind = rotary(config, body.rotary_emb), config.model_type
    choosy = kind == "exaone_moe" and config.sliding_window is not None

    def attention(block: Any, layer: int) -> Attention:
        seen = window(config, layer) if kind in ("dots1", "exaone_moe") else None
        turns = not choosy or config.layer_types[layer] == "sliding_attention"
        return rotary_heads(config, block.self_attn, table if turns else None, window=seen)

    def mlp(block: Any) -> MLP | Experts:
        module = block.mlp
        if kind != "hy_v3":
            return sparse_or_dense(config, module)
        scale = config.router_scaling_factor
        return sparse_or_dense(config, module, lambda: corrected(module.gate, module, scale=scale))

    blocks = describe_blocks(body.layers, rms_norm, attention, mlp)
    return assemble("glm-moe", model, body.embed_tokens, blocks, rms_norm(body.norm), table)
