"""Text bodies with positions of their own for images: Qwen2-VL, 2.5-VL and 3-VL, GLM-4V, GLM-OCR.

Their rotary positions have three parts (time, height, width), of which each turns some features.
On text the three are equal, so that they are ordinary rotary positions.
"""

from __future__ import annotations

from typing import Any

from ..lifted import LiftedModel
from ..lifting import UNREAD, USUAL, family
from ._parts import rms_norm, rotary_decoder
from .llama import WINDOWS, llama_like

TEXT = f"{USUAL.replace('tie_word_embeddings', '')} rms_norm_eps"
IGNORED = f"{UNREAD} tie_word_embeddings"
"""Whether the two embeddings are one, their whole model says, and the weights themselves show."""


@family(
    "llama",
    ["qwen2_vl_text", "qwen2_5_vl_text", "qwen2_5_omni_text"],
    f"{TEXT} {WINDOWS}",
    IGNORED,
)
@family("llama", ["qwen3_vl_text"], f"{TEXT} head_dim attention_bias", IGNORED)
def describe_qwen(model: Any) -> LiftedModel:
    """Describe the text body of one of Qwen's models of text and images."""
    return llama_like(model)


@family("glm", ["glm4v_text"], f"{TEXT} partial_rotary_factor", IGNORED)
@family("glm", ["glm_ocr_text"], f"{TEXT} head_dim partial_rotary_factor", IGNORED)
def describe_glm(model: Any) -> LiftedModel:
    """Describe the text body of one of GLM's models of text and images."""
    norms = ["input_layernorm", "post_attention_layernorm"]
    norms += ["post_self_attn_layernorm", "post_mlp_layernorm"]
    return rotary_decoder("glm", model, rms_norm, *norms, interleaved=True)
