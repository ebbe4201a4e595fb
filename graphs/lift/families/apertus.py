"""Apertus: RMSNorm, norms of queries and keys, an MLP without gate whose activation is learned."""

from __future__ import annotations

from typing import Any

from ..lifted import MLP, LiftedModel
from ..lifting import UNREAD, USUAL, family
from ..mlp import Xielu
from ._parts import assemble, describe_blocks, feed_forward, linear, rms_norm, rotary, rotary_heads


@family(
    "apertus",
    model_types=["apertus"],
    handled=f"{USUAL} head_dim rms_norm_eps attention_bias",
    ignored=UNREAD,
)
def describe(model: Any) -> LiftedModel:
    """Describe an `ApertusForCausalLM`."""
    config, body = model.config, model.model
    table = rotary(config, body.rotary_emb)

    def mlp(block: Any) -> MLP:
        module = block.mlp
        if config.hidden_act != "xielu":
            return feed_forward(module, config.hidden_act)
        act, up, down = module.act_fn, linear(module.up_proj), linear(module.down_proj)
        curve = Xielu(act.alpha_p.detach(), act.alpha_n.detach(), act.beta, act.eps)
        return MLP(up, down, "xielu", curve=curve)

    blocks = describe_blocks(
        body.layers,
        rms_norm,
        lambda block, _: rotary_heads(config, block.self_attn, table),
        mlp,
        ("attention_layernorm", "feedforward_layernorm"),
    )
    return assemble("apertus", model, body.embed_tokens, blocks, rms_norm(body.norm), table)
