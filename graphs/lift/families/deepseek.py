"""DeepSeek V2 and V3: latent attention, experts in groups, shared experts, plain first layers.

Queries are projected through a smaller space, keys and values through another, which both hold a
norm; a part of the keys that turns with the position is the same for all heads.
"""

from __future__ import annotations

from typing import Any

from ...errors import UnsupportedModel
from ..experts import Experts, Routing
from ..lifted import MLP, LiftedModel
from ..lifting import USUAL, family
from ._parts import (
    assemble,
    describe_blocks,
    feed_forward,
    latent_heads,
    mixture,
    rms_norm,
    rotary,
    sparse_or_dense,
)
from .glm_moe import DEEPSEEK, UNUSED

LATENT = f"""
    {USUAL} rms_norm_eps attention_bias kv_lora_rank q_lora_rank qk_rope_head_dim qk_nope_head_dim
    v_head_dim
"""
DERIVED = "head_dim qk_head_dim"
"""What the configuration itself makes of others."""

GROUPED = "`topk_method` of DeepSeek V2 other than `greedy` and `group_limited_greedy`"


@family(
    "deepseek",
    ["deepseek_v2"],
    f"{LATENT} mlp_bias topk_method {DEEPSEEK}".replace("norm_topk_prob", ""),
    f"{UNUSED} {DERIVED} pretraining_tp norm_topk_prob",
    [GROUPED],
)
@family(
    "deepseek",
    ["deepseek_v3"],
    f"{LATENT} rope_interleave {DEEPSEEK}",
    f"{UNUSED} {DERIVED} pretraining_tp",
)
def describe(model: Any) -> LiftedModel:
    """Describe a model of one of these types for causal language modelling."""
    config, body = model.config, model.model
    second = config.model_type == "deepseek_v2"
    table = rotary(
        config, body.rotary_emb, interleaved=second or getattr(config, "rope_interleave", True)
    )

    def mlp(block: Any) -> MLP | Experts:
        return _of_v2(config, block.mlp) if second else sparse_or_dense(config, block.mlp)

    blocks = describe_blocks(
        body.layers, rms_norm, lambda b, _: latent_heads(config, b.self_attn, table), mlp
    )
    return assemble("deepseek", model, body.embed_tokens, blocks, rms_norm(body.norm), table)


def _of_v2(config: Any, module: Any) -> MLP | Experts:
    """Describe a layer's MLP module of DeepSeek V2: softmax scores, best groups by their best."""
    if not hasattr(module, "experts"):
        return feed_forward(module, config.hidden_act)
    if config.topk_method not in ("greedy", "group_limited_greedy"):
        raise UnsupportedModel(
            f"the configuration chooses experts by topk_method '{config.topk_method}'; accepted: "
            "'greedy' and 'group_limited_greedy'."
        )
    routing = Routing(wide=True, scale=config.routed_scaling_factor)
    if config.topk_method != "greedy":
        groups = {"groups": config.n_group, "open_groups": config.topk_group}
        routing = Routing(wide=True, scale=config.routed_scaling_factor, **groups)
    return mixture(
        module, config.hidden_act, config.num_experts_per_tok, routing=routing, round_weights=False
    )
