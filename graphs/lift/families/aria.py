"""Aria (text): Llama's attention, experts by the softmax of the chosen, shared experts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..experts import Experts, Routing
from ..lifted import LiftedModel
from ..lifting import USUAL, family
from ._parts import assemble, describe_blocks, mixture, rms_norm, rotary, rotary_heads
from .glm_moe import UNUSED

HANDLED = f"""
    {USUAL} head_dim rms_norm_eps attention_bias mlp_bias moe_num_experts moe_topk
    moe_num_shared_experts
"""


@family("aria", model_types=["aria_text"], handled=HANDLED, ignored=f"{UNUSED} pretraining_tp")
def describe(model: Any) -> LiftedModel:
    """Describe an `AriaTextForCausalLM`."""
    config, body = model.config, model.model
    table = rotary(config, body.rotary_emb)

    def mlp(block: Any) -> Experts:
        routing = Routing(score="chosen")  # the shared experts alone have the config's activation
        own = mixture(block.mlp, config.hidden_act, config.moe_topk, routing=routing)
        return replace(own, activation="silu")

    blocks = describe_blocks(
        body.layers, rms_norm, lambda block, _: rotary_heads(config, block.self_attn, table), mlp
    )
    return assemble("aria", model, body.embed_tokens, blocks, rms_norm(body.norm), table)
