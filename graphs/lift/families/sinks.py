"""Mixtures whose attention has sinks: MiMo-V2-Flash and Flint, with windows in most layers.

MiMo has sinks only in layers with a window, whose keys and values are shared by fewer heads, and
values smaller than keys; Flint has rotary positions only there.
"""

from __future__ import annotations

from typing import Any

from ..experts import Routing
from ..lifted import Attention, LiftedModel
from ..lifting import UNREAD, USUAL, family, optional
from ._parts import (
    assemble,
    describe_blocks,
    rms_norm,
    rotary,
    rotary_heads,
    rotary_tables,
    separate,
    sparse_or_dense,
    window,
)
from .glm_moe import ROUTED, UNUSED
from .mixtures import QWEN

BOTH = f"{USUAL} head_dim rms_norm_eps attention_bias sliding_window layer_types"


@family(
    "sinks",
    ["mimo_v2_flash"],
    f"{BOTH} v_head_dim mlp_layer_types attention_value_scale n_routed_experts {ROUTED}",
    # no layer attends in chunks; the configuration makes `sliding_window` of its size
    f"{UNUSED} attention_chunk_size sliding_window_size",
)
def describe_mimo(model: Any) -> LiftedModel:
    """Describe a `MiMoV2FlashForCausalLM`."""
    config, body = model.config, model.model
    tables = rotary_tables(config, body)

    def attention(block: Any, layer: int) -> Attention:
        module = block.self_attn
        return separate(
            module, module.o_proj, config.num_attention_heads,
            config.num_attention_heads // module.num_key_value_groups, rotary=tables[layer],
            scale=module.scaling, window=window(config, layer), sinks=optional(module.sinks),
            output_scale=module.v_scale,
        )  # fmt: skip

    blocks = describe_blocks(
        body.layers, rms_norm, attention, lambda block: sparse_or_dense(config, block.mlp)
    )
    return assemble("sinks", model, body.embed_tokens, blocks, rms_norm(body.norm), tables[0])


@family(
    "sinks",
    ["flint"],
    f"{QWEN} attention_bias sliding_window layer_types shared_expert_intermediate_size",
    f"{UNREAD} output_router_logits router_aux_loss_coef",
)
def describe_flint(model: Any) -> LiftedModel:
    """Describe a `FlintForCausalLM`."""
    config, body = model.config, model.model
    table = rotary(config, body.rotary_emb)

    def attention(block: Any, layer: int) -> Attention:
        seen, sinks = window(config, layer), block.self_attn.sinks.detach()
        turn = None if seen is None else table
        return rotary_heads(config, block.self_attn, turn, window=seen, sinks=sinks)

    routing = Routing(score="sigmoid", wide=True)
    blocks = describe_blocks(
        body.layers, rms_norm, attention,
        lambda block: sparse_or_dense(config, block.mlp, lambda: routing),
    )  # fmt: skip
    return assemble("sinks", model, body.embed_tokens, blocks, rms_norm(body.norm), table)
