"""nanochat: RMSNorm without weights, also behind the embedding and the rotation; squared ReLU.

Queries and keys turn the other way round than in Llama: by −position · frequency.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..lifted import LiftedModel, Norm
from ..lifting import UNREAD, USUAL, family
from ._parts import assemble, describe_blocks, rotary, rotary_heads


@family(
    "nanochat",
    model_types=["nanochat"],
    handled=f"{USUAL} head_dim rms_norm_eps attention_bias final_logit_softcapping",
    ignored=UNREAD,
)
def describe(model: Any) -> LiftedModel:
    """Describe a `NanoChatForCausalLM`."""
    config, body = model.config, model.model
    forward = rotary(config, body.rotary_emb)
    table = replace(forward, frequencies=-forward.frequencies)
    blocks = describe_blocks(
        body.layers,
        _norm,
        lambda block, _: rotary_heads(config, block.self_attn, table, _norm, norm_after=True),
        config.hidden_act,
    )
    return assemble(
        "nanochat", model, body.embed_tokens, blocks, _norm(body.norm), table,
        embed_norm=_norm(body.norm), logit_softcap=config.final_logit_softcapping,
    )  # fmt: skip


def _norm(module: Any) -> Norm:
    return Norm(None, None, module.eps, centred=False)
