"""Phi-3.5-MoE: LayerNorm, Llama's attention, two experts of a token, chosen one after the other."""

from __future__ import annotations

from typing import Any

from ...errors import UnsupportedModel
from ..experts import Experts, Routing
from ..lifted import LiftedModel, Rotary
from ..lifting import USUAL, family
from ._parts import (
    ROUTER_LOSS,
    assemble,
    describe_blocks,
    layer_norm,
    mixture,
    rotary,
    rotary_heads,
)

CHOSEN = 2  # fixed in the model's code


@family(
    "phimoe",
    model_types=["phimoe"],
    handled=f"""
        {USUAL} head_dim rms_norm_eps attention_bias sliding_window num_local_experts
        router_jitter_noise lm_head_bias
    """,
    ignored=f"""
        attention_dropout max_position_embeddings {ROUTER_LOSS} input_jitter_noise
        num_experts_per_tok original_max_position_embeddings hidden_dropout
    """,
    refuses=["`short_mscale` that is not `long_mscale`: no published model has it"],
)
def describe(model: Any) -> LiftedModel:
    """Describe a `PhimoeForCausalLM`."""
    config, body = model.config, model.model
    table = _table(config, body.rotary_emb)
    routing = Routing(score="sparsemixer", jitter=config.router_jitter_noise)

    def experts(block: Any) -> Experts:
        return mixture(block.mlp, config.hidden_act, CHOSEN, routing=routing)

    blocks = describe_blocks(
        body.layers,
        layer_norm,
        lambda block, _: rotary_heads(config, block.self_attn, table, window=config.sliding_window),
        experts,
    )
    return assemble("phimoe", model, body.embed_tokens, blocks, layer_norm(body.norm), table)


def _table(config: Any, module: Any) -> Rotary:
    """Describe rotary positions; scaled ones are those of short prompts, however long these are."""
    scaling = config.rope_parameters
    if scaling["rope_type"] == "default":
        return rotary(config, module)
    if scaling["short_mscale"] != scaling["long_mscale"]:
        raise UnsupportedModel(
            f"the model scales rotary positions by {scaling['short_mscale']} in short prompts and "
            f"by {scaling['long_mscale']} in long ones; accepted: one factor for both."
        )
    frequencies, _ = module.rope_init_fn(config)
    return Rotary(frequencies.to(module.inv_freq.device), float(scaling["short_mscale"]))
