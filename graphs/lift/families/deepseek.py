"""DeepSeek V2 and V3 and their like: latent attention, experts in groups, plain first layers.

Queries are projected through a smaller space, keys and values through another, which both hold a
norm; a part of the keys that turns with the position is the same for all heads. GLM-4-MoE-Lite and
A.X-K1, whose mixtures are one node each because a norm stands behind them, are of DeepSeek V3's
kind; Youtu and MiniCPM 3, which has multipliers, have no experts; Mistral 4 chooses by softmax.
DeepSeek V3.2 and GLM-5 have an indexer that chooses `index_topk` keys for each query: of prompts of
no more tokens it chooses all, so that those are exact, and longer ones are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ...errors import UnsupportedModel
from ..attention import Temperature
from ..experts import Experts, Routing
from ..lifted import MLP, Attention, Block, LiftedModel, Rotary
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
from .glm_moe import DEEPSEEK, ROUTED, UNUSED

LATENT = f"""
    {USUAL} rms_norm_eps attention_bias kv_lora_rank q_lora_rank qk_rope_head_dim qk_nope_head_dim
    v_head_dim
"""
DERIVED = "head_dim qk_head_dim pretraining_tp"
"""What the configuration itself makes of others, or no code reads."""

BY_LAYER = f"{ROUTED} n_routed_experts n_shared_experts mlp_layer_types"
SCALED = "scale_emb scale_depth dim_model_base"
INDEXED = ("deepseek_v32", "glm_moe_dsa")
INDEXER = "index_head_dim index_n_heads indexer_types"
"""What decides which keys are seen, if there are more than `index_topk`."""

GROUPED = "`topk_method` other than `greedy` and `group_limited_greedy`"


@family(
    "deepseek",
    ["deepseek_v2"],
    f"{LATENT} mlp_bias topk_method {DEEPSEEK}".replace("norm_topk_prob", ""),
    f"{UNUSED} {DERIVED} norm_topk_prob",
    [GROUPED],
)
@family(
    "deepseek",
    ["deepseek_v3", "mistral4"],
    f"{LATENT} rope_interleave {DEEPSEEK}",
    f"{UNUSED} {DERIVED}",
)
@family(
    "deepseek",
    ["glm4_moe_lite", "axk1"],
    f"{LATENT} rope_interleave {BY_LAYER}",
    f"{UNUSED} {DERIVED} first_k_dense_replace",  # which layers are dense is said by their types
)
@family(
    "deepseek",
    ["deepseek_v32", "glm_moe_dsa"],
    f"{LATENT} {BY_LAYER} index_topk",
    f"{UNUSED} {DERIVED} first_k_dense_replace layer_types mlp_bias {INDEXER}",
    ["prompts of more than `index_topk` tokens, of which its indexer chooses some"],
    apart=["model.layers.*.self_attn.indexer"],
)
@family(
    "deepseek",
    ["youtu"],
    f"{LATENT} rope_interleave",
    f"{UNUSED} {DERIVED} embedding_initializer_range",
)
@family("deepseek", ["minicpm3"], f"{LATENT} mlp_bias {SCALED}", f"{UNUSED} {DERIVED}")
def describe(model: Any) -> LiftedModel:
    """Describe a model of one of these types for causal language modelling."""
    config, body, kind = model.config, model.model, model.config.model_type
    always = kind in ("deepseek_v2", *INDEXED)
    pairs = always or getattr(config, "rope_interleave", False)
    table = rotary(config, body.rotary_emb, interleaved=pairs)
    scale = config.scale_depth / len(body.layers) ** 0.5 if kind == "minicpm3" else 1.0

    def attention(block: Any, _: int) -> Attention:
        own = {"temperature": _temperature(config, table)} if kind == "mistral4" else {}
        return latent_heads(config, block.self_attn, table, output_scale=scale, **own)

    def mlp(block: Any) -> MLP | Experts:
        module = block.mlp
        if not hasattr(module, "experts"):
            return feed_forward(module, config.hidden_act, scale)
        if kind == "deepseek_v2":
            return _of_v2(config, module)
        return sparse_or_dense(config, module, _softmax(config) if kind == "mistral4" else None)

    blocks = describe_blocks(body.layers, rms_norm, attention, mlp)
    if kind == "axk1":
        blocks = tuple(map(_joint, blocks, body.layers))
    # of prompts of no more tokens an indexer chooses every key that is seen
    most = config.index_topk if kind in INDEXED else None
    lifted = assemble(
        "deepseek", model, body.embed_tokens, blocks, rms_norm(body.norm), table,
        max_positions=most,
    )  # fmt: skip
    if kind != "minicpm3":
        return lifted
    return replace(lifted, embed_scale=config.scale_emb, logit_scale=1 / config.logits_scaling)


def _joint(block: Block, module: Any) -> Block:
    """Put a mixture and the norm behind it in one node."""
    if not isinstance(block.mlp, Experts):
        return block
    norm = rms_norm(module.mlp.post_mlp_layernorm)
    return replace(block, mlp=replace(block.mlp, together=True), mlp_post_norm=norm)


def _temperature(config: Any, table: Rotary) -> Temperature:
    """Describe how Mistral 4 stretches its queries."""
    own = config.rope_parameters
    return Temperature(own["llama_4_scaling_beta"], own["original_max_position_embeddings"])


def _softmax(config: Any) -> Callable[[], Routing]:
    """Describe Mistral 4's routing."""
    return lambda: Routing(
        groups=config.n_group, open_groups=config.topk_group, best=2, epsilon=1e-20,
        scale=config.routed_scaling_factor,
    )  # fmt: skip


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
