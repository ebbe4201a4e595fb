"""Mixtures whose heads have gates: AFMoE (Trinity) and Laguna; plain first layers, shared experts.

The gate of what a head writes reads what its query reads. AFMoE has norms behind attention and MLP
too, so that a mixture is one node; there only layers with a window have rotary positions.
"""

from __future__ import annotations

from typing import Any

from ..experts import Experts, Routing
from ..lifted import MLP, Attention, LiftedModel
from ..lifting import USUAL, family
from ._parts import (
    apart,
    assemble,
    corrected,
    describe_blocks,
    rms_norm,
    rotary,
    rotary_heads,
    rotary_tables,
    sparse_or_dense,
    window,
)
from .glm_moe import UNUSED

BOTH = f"""
    {USUAL} head_dim rms_norm_eps attention_bias sliding_window layer_types num_experts
    num_experts_per_tok moe_intermediate_size
"""
SEVERAL = "layers that differ in their number of heads"


@family(
    "gated",
    ["afmoe"],
    f"{BOTH} num_shared_experts num_dense_layers route_scale mup_enabled",
    f"{UNUSED} global_attn_every_n_layers",
)
def describe_afmoe(model: Any) -> LiftedModel:
    """Describe an `AfmoeForCausalLM`."""
    config, body = model.config, model.model
    table = rotary(config, body.rotary_emb)

    def attention(block: Any, layer: int) -> Attention:
        module, seen = block.self_attn, window(config, layer)
        turn = None if config.layer_types[layer] == "full_attention" else table
        gate = apart(module.gate_proj, config.num_attention_heads, "sigmoid")
        return rotary_heads(config, module, turn, window=seen, **gate)

    def mlp(block: Any) -> MLP | Experts:
        module = block.mlp
        return sparse_or_dense(
            config,
            module,
            lambda: Routing(
                score="sigmoid", correction=module.expert_bias.detach(), epsilon=1e-20,
                scale=config.route_scale,
            ),
            together=True,
        )  # fmt: skip

    norms = (
        "input_layernorm", "pre_mlp_layernorm", "post_attention_layernorm", "post_mlp_layernorm",
    )  # fmt: skip
    blocks = describe_blocks(body.layers, rms_norm, attention, mlp, norms)
    return assemble(
        "gated", model, body.embed_tokens, blocks, rms_norm(body.norm), table,
        embed_scale=config.hidden_size**0.5 if config.mup_enabled else 1.0,
    )  # fmt: skip


@family(
    "gated",
    ["laguna"],
    f"{BOTH} gating num_attention_heads_per_layer mlp_layer_types shared_expert_intermediate_size "
    "moe_routed_scaling_factor moe_router_logit_softcapping",
    f"{UNUSED} router_aux_loss_coef moe_apply_router_weight_on_input",
    [SEVERAL],
)
def describe_laguna(model: Any) -> LiftedModel:
    """Describe a `LagunaForCausalLM`."""
    config, body = model.config, model.model
    tables = rotary_tables(config, body)

    def attention(block: Any, layer: int) -> Attention:
        module = block.self_attn
        gate = apart(module.g_proj, module.num_heads, "softplus")
        heads = {"heads": module.num_heads, "window": window(config, layer)}
        return rotary_heads(config, module, tables[layer], **heads, **gate)

    def mlp(block: Any) -> MLP | Experts:
        module, cap = block.mlp, config.moe_router_logit_softcapping
        scale = config.moe_routed_scaling_factor
        own = {"softcap": cap or None, "scale": scale, "wide": False, "epsilon": 0.0}
        return sparse_or_dense(config, module, lambda: corrected(module.gate, **own))

    blocks = describe_blocks(body.layers, rms_norm, attention, mlp)
    return assemble("gated", model, body.embed_tokens, blocks, rms_norm(body.norm), tables[0])
