"""Qwen3-Next and Qwen3.5: in some layers gated heads, in the others a delta net, taken whole.

A head's output is multiplied by the sigmoid of features that stand behind its query; queries and
keys are normalised by 1 + w, as is the stream, and only some of their features turn. The models of
text and images give positions three parts, which are equal on text.
"""

from __future__ import annotations

from typing import Any

from ..experts import Experts, Routing
from ..lifted import MLP, Attention, LiftedModel, Norm, Whole
from ..lifting import UNREAD, USUAL, family
from ._parts import (
    ROUTER_LOSS,
    assemble,
    describe_blocks,
    rotary,
    rotary_heads,
    sparse_or_dense,
)

HANDLED = f"{USUAL} head_dim rms_norm_eps attention_bias layer_types"
IGNORED = f"{UNREAD} partial_rotary_factor full_attention_interval"
"""The interval is what `layer_types` is made of where a configuration does not name those."""

SPARSE = "num_experts num_experts_per_tok moe_intermediate_size shared_expert_intermediate_size"
INSIDE = """
    linear_conv_kernel_dim linear_key_head_dim linear_value_head_dim linear_num_key_heads
    linear_num_value_heads
"""
KINDS = ("full_attention", "linear_attention")


@family(
    "qwen3-next",
    ["qwen3_next"],
    f"{HANDLED} {SPARSE} norm_topk_prob decoder_sparse_step mlp_only_layers",
    f"{IGNORED} {ROUTER_LOSS}",
    layer_types=KINDS,
    inside=INSIDE,
)
@family("qwen3-next", ["qwen3_5_text"], HANDLED, IGNORED, layer_types=KINDS, inside=INSIDE)
@family(
    "qwen3-next",
    ["qwen3_5_moe_text"],
    f"{HANDLED.replace('intermediate_size', '')} {SPARSE}",
    f"{IGNORED} {ROUTER_LOSS} intermediate_size",
    layer_types=KINDS,
    inside=INSIDE,
)
def describe(model: Any) -> LiftedModel:
    """Describe a model of one of these types for causal language modelling."""
    config, body = model.config, model.model
    table = rotary(config, body.rotary_emb)

    def mixer(block: Any, _: int) -> Attention | Whole:
        if hasattr(block, "linear_attn"):
            return Whole.of(model, block.linear_attn)
        return rotary_heads(config, block.self_attn, table, _norm, gate="sigmoid")

    def mlp(block: Any) -> MLP | Experts:
        return sparse_or_dense(config, block.mlp, Routing, round_weights=True)

    blocks = describe_blocks(body.layers, _norm, mixer, mlp)
    last = _norm(body.norm)
    return assemble("qwen3-next", model, body.embed_tokens, blocks, last, table)


def _norm(module: Any) -> Norm:
    return Norm(module.weight.detach(), None, module.eps, centred=False, offset=1.0)
