"""Phi-1 and 2: one LayerNorm before a parallel block, partial rotary, biases everywhere."""

from __future__ import annotations

from typing import Any

from ..lifted import LiftedModel
from ..lifting import UNREAD, USUAL, family
from ._parts import layer_norm, rotary_decoder


@family(
    "phi",
    model_types=["phi"],
    handled=f"{USUAL} layer_norm_eps partial_rotary_factor qk_layernorm head_dim",
    ignored=f"{UNREAD} embd_pdrop resid_pdrop",
)
def describe(model: Any) -> LiftedModel:
    """Describe a `PhiForCausalLM`."""
    norms = ("input_layernorm", "input_layernorm")
    return rotary_decoder("phi", model, layer_norm, *norms, parallel=True, head_norm=layer_norm)
