"""OLMo 1 to 3: norms without weights; from 2 on only behind attention, MLP, queries and keys.

The norms of OLMo 2's and 3's queries, and of its keys, take all heads together. OLMo 3 has windows
in most layers, with rotary positions of their own. FlexOlmo is OLMo 2 with experts; their sum is
normalised, so that they are one sender.
"""

from __future__ import annotations

from typing import Any

from ..experts import Experts
from ..lifted import LiftedModel, Norm
from ..lifting import UNREAD, USUAL, family
from ._parts import (
    ROUTER_LOSS,
    assemble,
    mixture,
    normed_behind,
    rms_norm,
    rotary_decoder,
    rotary_tables,
)

HANDLED = f"{USUAL} attention_bias head_dim"
UNWEIGHTED = Norm(None, None, 1e-5, centred=True)  # its eps is fixed in the model's code


@family("olmo", ["olmo"], f"{HANDLED} clip_qkv", UNREAD)
def describe(model: Any) -> LiftedModel:
    """Describe an `OlmoForCausalLM`."""
    return rotary_decoder("olmo", model, lambda _: UNWEIGHTED, clip=model.config.clip_qkv)


@family("olmo", ["olmo2"], f"{HANDLED} rms_norm_eps", UNREAD)
@family("olmo", ["olmo3"], f"{HANDLED} rms_norm_eps sliding_window layer_types", UNREAD)
@family(
    "olmo",
    ["flex_olmo"],
    f"{HANDLED} rms_norm_eps num_experts num_experts_per_tok norm_topk_prob",
    f"{UNREAD} {ROUTER_LOSS}",
)
def describe_2(model: Any) -> LiftedModel:
    """Describe an `Olmo2ForCausalLM`, an `Olmo3ForCausalLM` or a `FlexOlmoForCausalLM`."""
    config, body, tables = model.config, model.model, rotary_tables(model.config, model.model)

    def experts(block: Any) -> Experts:
        chosen, renormalise = config.num_experts_per_tok, config.norm_topk_prob
        return mixture(block.mlp, config.hidden_act, chosen, renormalise, together=True)

    mlp = experts if config.model_type == "flex_olmo" else None
    blocks = normed_behind(model, tables, mlp, norm_together=True)
    return assemble("olmo", model, body.embed_tokens, blocks, rms_norm(body.norm), tables[0])
