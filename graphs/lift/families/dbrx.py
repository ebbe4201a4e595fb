"""DBRX: LayerNorm without bias, rotary, clipped q/k/v packed in one projection, experts."""

from __future__ import annotations

from typing import Any

from ...errors import UnsupportedModel
from ..experts import Experts
from ..lifted import Attention, LiftedModel
from ..lifting import family, require_activation
from ._parts import ROUTER_LOSS, assemble, describe_blocks, layer_norm, matrices, rotary


@family(
    "dbrx",
    model_types=["dbrx"],
    handled="""
        d_model n_heads n_layers vocab_size attn_config ffn_config rope_parameters
        num_key_value_heads
    """,
    ignored=f"max_seq_len resid_pdrop emb_pdrop tie_word_embeddings {ROUTER_LOSS}",
    refuses=["`ffn_config.moe_normalize_expert_weights` other than 1 or none"],
)
def describe(model: Any) -> LiftedModel:
    """Describe a `DbrxForCausalLM`."""
    config, body = model.config, model.transformer
    power = config.ffn_config.moe_normalize_expert_weights
    if power not in (None, 1):
        raise UnsupportedModel(
            f"the model divides the weights of chosen experts by their norm of order {power:g}; "
            "accepted: 1 or none."
        )
    table, own = rotary(config, body.rotary_emb), {"clip": config.attn_config.clip_qkv}
    heads, groups = config.n_heads, config.attn_config.kv_n_heads

    def attention(block: Any, _: int) -> Attention:
        module = block.norm_attn_norm.attn
        cuts = [config.d_model, groups * module.head_dim, groups * module.head_dim]
        parts, scale = module.Wqkv.weight.split(cuts), module.head_dim**-0.5
        return matrices(
            parts, None, module.out_proj, heads, groups, scale=scale, rotary=table, **own
        )

    def experts(block: Any) -> Experts:
        packed, router = block.ffn.experts.mlp, block.ffn.router.layer.weight.detach()
        weights = (packed.w1, packed.v1, packed.w2)  # [E·I, D]
        gate, up, down = (w.detach().unflatten(0, (len(router), -1)) for w in weights)
        return Experts(
            router=router, gate=gate, up=up, down=down.mT, chosen=block.ffn.top_k,
            activation=require_activation(config.ffn_config.ffn_act_fn["name"]),
            renormalise=power is not None,
        )  # fmt: skip

    norms = ("norm_attn_norm.norm_1", "norm_attn_norm.norm_2")
    blocks = describe_blocks(body.blocks, layer_norm, attention, experts, norms)
    return assemble("dbrx", model, body.wte, blocks, layer_norm(body.norm_f), table)
