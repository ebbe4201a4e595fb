"""Nemotron and Jais 2: LayerNorm (as 1 + w in Nemotron), rotary, an MLP of squared ReLU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..lifted import LiftedModel
from ..lifting import UNREAD, USUAL, family
from ._parts import layer_norm, rotary_decoder


@family(
    "nemotron",
    model_types=["nemotron"],
    handled=f"{USUAL} head_dim norm_eps attention_bias mlp_bias partial_rotary_factor",
    ignored=UNREAD,
)
def describe_nemotron(model: Any) -> LiftedModel:
    """Describe a `NemotronForCausalLM`."""
    return rotary_decoder("nemotron", model, lambda norm: replace(layer_norm(norm), offset=1.0))


@family(
    "nemotron",
    model_types=["jais2"],
    handled=f"{USUAL} head_dim layer_norm_eps attention_bias mlp_bias",
    ignored=UNREAD,
)
def describe_jais(model: Any) -> LiftedModel:
    """Describe a `Jais2ForCausalLM`."""
    return rotary_decoder("nemotron", model, layer_norm)
