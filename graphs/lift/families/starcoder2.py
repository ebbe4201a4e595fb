"""StarCoder 2: LayerNorm, rotary, grouped heads, a plain MLP, biases, a window."""

from __future__ import annotations

from typing import Any

from ..lifted import LiftedModel
from ..lifting import UNREAD, USUAL, family
from ._parts import layer_norm, rotary_decoder


@family(
    "starcoder2",
    model_types=["starcoder2"],
    handled=f"{USUAL} norm_epsilon sliding_window use_bias head_dim",
    ignored=f"{UNREAD} residual_dropout embedding_dropout",
)
def describe(model: Any) -> LiftedModel:
    """Describe a `Starcoder2ForCausalLM`."""
    return rotary_decoder("starcoder2", model, layer_norm, window=model.config.sliding_window)
