"""Llama 4 (text): attention in chunks, layers without rotary positions, experts and a shared one.

Queries and keys are normalised behind the rotation; where there is none, queries can grow with the
position instead. Weights of experts multiply what these read.
"""

from __future__ import annotations

from typing import Any

from ..attention import Temperature
from ..experts import Experts, Routing
from ..lifted import MLP, Attention, LiftedModel, Norm
from ..lifting import UNREAD, USUAL, family
from ._parts import assemble, describe_blocks, feed_forward, mixture, rotary, rotary_heads

HANDLED = f"""
    {USUAL} head_dim rms_norm_eps attention_bias intermediate_size_mlp num_local_experts
    num_experts_per_tok moe_layers no_rope_layers use_qk_norm attention_chunk_size
    attn_temperature_tuning floor_scale attn_scale layer_types
"""
KINDS = ("chunked_attention", "full_attention")


@family(
    "llama4",
    model_types=["llama4_text"],
    handled=HANDLED,
    ignored=f"{UNREAD} output_router_logits router_aux_loss_coef router_jitter_noise "
    "interleave_moe_layer_step no_rope_layer_interval",
    layer_types=KINDS,
)
def describe(model: Any) -> LiftedModel:
    """Describe a `Llama4ForCausalLM`."""
    config, body = model.config, model.model
    table = rotary(config, body.rotary_emb, interleaved=True)
    length = Norm(None, None, config.rms_norm_eps, centred=False)

    def attention(block: Any, layer: int) -> Attention:
        module, own = block.self_attn, {}
        if config.layer_types[layer] == "chunked_attention":
            own["chunk"] = config.attention_chunk_size
        if not module.use_rope:
            if config.attn_temperature_tuning:
                own["temperature"] = Temperature(config.attn_scale, config.floor_scale, ahead=1)
            return rotary_heads(config, module, None, **own)
        if config.use_qk_norm:
            own.update(q_norm=length, k_norm=length, norm_after=True)
        return rotary_heads(config, module, table, **own)

    def mlp(block: Any) -> MLP | Experts:
        module = block.feed_forward
        if not hasattr(module, "experts"):
            return feed_forward(module, config.hidden_act)
        routing = Routing(score="sigmoid")
        return mixture(
            module, config.hidden_act, config.num_experts_per_tok,
            routing=routing, weigh_input=True,
        )  # fmt: skip

    blocks = describe_blocks(body.layers, _norm, attention, mlp)
    return assemble("llama4", model, body.embed_tokens, blocks, _norm(body.norm), table)


def _norm(module: Any) -> Norm:
    return Norm(module.weight.detach(), None, module.eps, centred=False)
