"""GLM-4: RMSNorm, interleaved partial rotary, gate and up packed; later also norms after each part.

`glm` is the first release of GLM-4-9B, `glm4` that of April 2025.
"""

from __future__ import annotations

from typing import Any

from ..lifted import LiftedModel
from ..lifting import UNREAD, USUAL, family
from ._parts import rms_norm, rotary_decoder


@family(
    "glm",
    model_types=["glm", "glm4"],
    handled=f"{USUAL} head_dim rms_norm_eps attention_bias partial_rotary_factor",
    ignored=UNREAD,
)
def describe(model: Any) -> LiftedModel:
    """Describe a `GlmForCausalLM` or a `Glm4ForCausalLM`."""
    norms = ["input_layernorm", "post_attention_layernorm"]
    if model.config.model_type == "glm4":
        norms += ["post_self_attn_layernorm", "post_mlp_layernorm"]
    return rotary_decoder("glm", model, rms_norm, *norms, interleaved=True)
