"""OLMo 1 to 3: norms without weights; from 2 on only behind attention, MLP, queries and keys.

The norms of OLMo 2's and 3's queries, and of its keys, take all heads together. OLMo 3 has windows
in most layers, with rotary positions of their own.
"""

from __future__ import annotations

from typing import Any

from ..lifted import LiftedModel, Norm
from ..lifting import UNREAD, USUAL, family
from ._parts import assemble, normed_behind, rms_norm, rotary_decoder, rotary_tables

HANDLED = f"{USUAL} attention_bias head_dim"
UNWEIGHTED = Norm(None, None, 1e-5, centred=True)  # its eps is fixed in the model's code


@family("olmo", ["olmo"], f"{HANDLED} clip_qkv", UNREAD)
def describe(model: Any) -> LiftedModel:
    """Describe an `OlmoForCausalLM`."""
    return rotary_decoder("olmo", model, lambda _: UNWEIGHTED, clip=model.config.clip_qkv)


@family("olmo", ["olmo2"], f"{HANDLED} rms_norm_eps", UNREAD)
@family("olmo", ["olmo3"], f"{HANDLED} rms_norm_eps sliding_window layer_types", UNREAD)
def describe_2(model: Any) -> LiftedModel:
    """Describe an `Olmo2ForCausalLM` or an `Olmo3ForCausalLM`."""
    body, tables = model.model, rotary_tables(model.config, model.model)
    blocks = normed_behind(model, tables, norm_together=True)
    return assemble("olmo", model, body.embed_tokens, blocks, rms_norm(body.norm), tables[0])
