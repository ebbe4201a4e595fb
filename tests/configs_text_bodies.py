"""Tiny configurations of text bodies whose types have no class of text alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import transformers

from edgewise.graphs.lift.live.text_body import text_body
from tests.other_settings import ACT, EPS, SIZES
from tests.shapes import LLAMA
from tests.wrappers import GLM_VISION, QWEN3_VISION, QWEN25_VISION, QWEN_VISION

ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e3, "mrope_section": [1, 1, 0]}}
OTHER_ROPE = {
    "rope_parameters": {"rope_type": "linear", "rope_theta": 50.0, "factor": 2.0,
                        "mrope_section": [1, 1, 0]},
}  # fmt: skip
GLM_ROPE = {
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e3, "mrope_section": [1, 0, 0],
                        "partial_rotary_factor": 0.5},
}  # fmt: skip
WIDE_ROPE = {"rope_parameters": {**OTHER_ROPE["rope_parameters"], "mrope_section": [1, 1, 1]}}
AUDIO = {
    "num_mel_bins": 4, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 8,
    "d_model": 8, "n_window": 2, "max_source_positions": 8,
}  # fmt: skip
WINDOWS = {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1}
OTHER = {**LLAMA, **SIZES, **ACT, **EPS, **OTHER_ROPE}


def _body(wrapper: str, vision: dict[str, Any], **more: Any) -> Callable[[Any], Any]:
    def make(config: Any) -> Any:
        """Build the smallest whole model around a text configuration; return its text body."""
        sizes = {
            key: config.hidden_size if key == "out_hidden_size" or wrapper == "Qwen2VL" else 8
            for key in ("out_hidden_size", "hidden_size")
            if key in vision
        }
        kind = getattr(transformers, f"{wrapper}ForConditionalGeneration")
        if "audio_config" in more:
            more["audio_config"]["output_dim"] = config.hidden_size
        own = kind.config_class(
            text_config=config.to_dict(), vision_config={**vision, **sizes}, **more
        )
        body = text_body(kind(own).eval())
        assert body is not None
        return body

    return make


def _entries() -> dict[str, tuple[Any, Any, dict[str, Any]]]:
    kinds: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
        "qwen2-vl": ("Qwen2VL", "Qwen2VLTextConfig", QWEN_VISION, WINDOWS),
        "qwen2.5-vl": ("Qwen2_5_VL", "Qwen2_5_VLTextConfig", QWEN25_VISION, WINDOWS),
        "qwen3-vl": (
            "Qwen3VL", "Qwen3VLTextConfig", QWEN3_VISION, {"head_dim": 6, "attention_bias": True},
        ),
        "glm4v": ("Glm4v", "Glm4vTextConfig", GLM_VISION, GLM_ROPE),
        "glm-ocr": ("GlmOcr", "GlmOcrTextConfig", GLM_VISION, {"head_dim": 6, **WIDE_ROPE}),
    }  # fmt: skip
    found = {}
    for name, (wrapper, config, vision, other) in kinds.items():
        kind = getattr(transformers, config)
        head = {"head_dim": 4} if "head_dim" in other else {}
        found[name] = (kind, _body(wrapper, vision), {**LLAMA, **ROPE, **head})
        found[f"{name}-other"] = (kind, _body(wrapper, vision), {**OTHER, **other})
    thinker = _body("Qwen2_5OmniThinker", QWEN25_VISION, audio_config=AUDIO)
    from transformers.models.qwen2_5_omni import configuration_qwen2_5_omni as omni

    kind = omni.Qwen2_5OmniTextConfig
    found["qwen2.5-omni"] = (kind, thinker, {**LLAMA, **ROPE})
    found["qwen2.5-omni-other"] = (kind, thinker, {**OTHER, **WINDOWS})
    return found


TEXT_BODIES = _entries()
