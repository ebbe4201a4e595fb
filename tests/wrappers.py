"""Tiny random multimodal models of many types, and what they compute on text."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch

from edgewise.graphs.load.classes import only_text
from tests.configs_sparse import GEMMA4_E
from tests.configs_whole import GEMMA_3N

TEXT = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
LONE = {key: value for key, value in TEXT.items() if key != "num_key_value_heads"}
SIGLIP = {
    "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2,
    "image_size": 4, "patch_size": 2,
}  # fmt: skip
CLIP = {**SIGLIP, "model_type": "clip_vision_model", "projection_dim": 8}
QWEN_VISION = {
    "depth": 1, "embed_dim": 8, "hidden_size": 16, "num_heads": 2, "mlp_ratio": 2, "patch_size": 2,
    "in_channels": 3, "spatial_merge_size": 2, "temporal_patch_size": 1,
}  # fmt: skip
QWEN25_VISION = {
    **QWEN_VISION, "hidden_size": 8, "out_hidden_size": 16, "intermediate_size": 12,
    "fullatt_block_indexes": [0], "window_size": 8,
}  # fmt: skip
QWEN3_VISION = {
    "depth": 2, "hidden_size": 8, "out_hidden_size": 16, "intermediate_size": 12, "num_heads": 2,
    "patch_size": 2, "in_channels": 3, "spatial_merge_size": 2, "temporal_patch_size": 1,
    "num_position_embeddings": 16, "deepstack_visual_indexes": [0],
}  # fmt: skip
QWEN35_VISION = {key: one for key, one in QWEN3_VISION.items() if "deepstack" not in key}
GLM_VISION = {
    "depth": 1, "hidden_size": 8, "out_hidden_size": 16, "intermediate_size": 12, "num_heads": 2,
    "patch_size": 2, "image_size": 4, "in_channels": 3, "spatial_merge_size": 2,
    "temporal_patch_size": 1,
}  # fmt: skip
PIXTRAL = {**SIGLIP, "model_type": "pixtral", "head_dim": 4}
AUDIO = {
    "d_model": 8, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 8,
    "num_mel_bins": 4, "max_source_positions": 8,
}  # fmt: skip
QFORMER = {
    "model_type": "blip_2_qformer", "hidden_size": 8, "num_hidden_layers": 1,
    "num_attention_heads": 2, "intermediate_size": 8, "encoder_hidden_size": 8,
}  # fmt: skip
MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1]}
GEMMA4_VISION = {
    "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 4, "patch_size": 2, "position_embedding_size": 16,
    "mm_embed_dim": 8, "mm_posemb_size": 16, "num_soft_tokens": 4,
}  # fmt: skip
IMAGE = {"image_token_index": 39, "image_token_id": 39}


DELTA = {
    "head_dim": 8, "layer_types": ["linear_attention", "full_attention"],
    "linear_conv_kernel_dim": 3, "linear_key_head_dim": 4, "linear_value_head_dim": 3,
    "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "rope_parameters": {**MROPE, "mrope_section": [1, 1, 1], "partial_rotary_factor": 0.75},
}  # fmt: skip
EXPERTS = {
    "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}  # fmt: skip


def gemma(**more: Any) -> dict[str, Any]:
    return {**TEXT, "model_type": "gemma3_text", "head_dim": 4, "query_pre_attn_scalar": 6,
            "sliding_window": 3, "layer_types": ["sliding_attention", "full_attention"],
            **more}  # fmt: skip


def gemma4(kind: str) -> dict[str, Any]:
    return {**TEXT, "model_type": kind, "head_dim": 4, "global_head_dim": 4, "sliding_window": 3,
            "layer_types": ["sliding_attention", "full_attention"], "enable_moe_block": False,
            "hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0}  # fmt: skip


def llama(kind: str = "llama", **more: Any) -> dict[str, Any]:
    return {**TEXT, "model_type": kind, **more}


WRAPPERS: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma3": ("Gemma3", {"text_config": gemma(), "vision_config": SIGLIP,
                          "mm_tokens_per_image": 4, "image_token_index": 39, "boi_token_index": 38,
                          "eoi_token_index": 37}),
    "qwen2_vl": ("Qwen2VL", {"text_config": llama("qwen2_vl_text", rope_parameters=MROPE),
                             "vision_config": QWEN_VISION}),
    "qwen2_vl-windows": ("Qwen2VL", {"vision_config": QWEN_VISION, "text_config": llama(
        "qwen2_vl_text", rope_parameters=MROPE, use_sliding_window=True, sliding_window=3,
        max_window_layers=1, tie_word_embeddings=True), "tie_word_embeddings": True}),
    "qwen2_5_vl": ("Qwen2_5_VL", {"text_config": llama("qwen2_5_vl_text", rope_parameters=MROPE),
                                  "vision_config": QWEN25_VISION}),
    "qwen3_vl": ("Qwen3VL", {"text_config": llama("qwen3_vl_text", head_dim=4, rope_parameters={
        **MROPE, "mrope_section": [1, 1, 0]}),
                             "vision_config": QWEN3_VISION}),
    "qwen3_5": ("Qwen3_5", {"text_config": llama("qwen3_5_text", **DELTA),
                            "vision_config": QWEN35_VISION}),
    "qwen3_5_moe": ("Qwen3_5Moe", {"text_config": llama("qwen3_5_moe_text", **DELTA, **EXPERTS),
                                   "vision_config": QWEN35_VISION}),
    "glm4v": ("Glm4v", {"vision_config": GLM_VISION, "text_config": llama(
        "glm4v_text",
        rope_parameters={**MROPE, "partial_rotary_factor": 0.5, "mrope_section": [1]})}),
    "glm_ocr": ("GlmOcr", {"text_config": llama("glm_ocr_text", head_dim=4, rope_parameters={
        **MROPE, "mrope_section": [1, 1]}), "vision_config": GLM_VISION}),
    "emu3": ("Emu3", {"text_config": llama("emu3_text_model", rope_parameters={
        "rope_type": "default", "rope_theta": 1e4}), "vocabulary_map": {"<image>": 39},
                      "vq_config": {"base_channels": 32, "channel_multiplier": [1],
                                    "num_res_blocks": 1, "embed_dim": 4, "latent_channels": 4,
                                    "codebook_size": 8, "attn_resolutions": []}}),
    "mistral3": ("Mistral3", {"text_config": llama("mistral", head_dim=4), **IMAGE,
                              "vision_config": PIXTRAL, "spatial_merge_size": 1}),
    "llava": ("Llava", {"text_config": llama(), "vision_config": CLIP, **IMAGE}),
    "llava-qwen2": ("Llava", {"text_config": llama("qwen2"), "vision_config": CLIP, **IMAGE}),
    "llava_next": ("LlavaNext", {"text_config": llama("mistral"), "vision_config": CLIP, **IMAGE,
                                 "image_grid_pinpoints": [[4, 4]]}),
    "llava_onevision": ("LlavaOnevision", {"text_config": llama("qwen2"), **IMAGE,
                                           "vision_config": {**SIGLIP,
                                                             "model_type": "siglip_vision_model"},
                                           "image_grid_pinpoints": [[4, 4]]}),
    "idefics3": ("Idefics3", {"text_config": llama(), "vision_config": SIGLIP, **IMAGE,
                              "scale_factor": 2}),
    "smolvlm": ("SmolVLM", {"text_config": llama(), "vision_config": SIGLIP, **IMAGE,
                            "scale_factor": 2}),
    "internvl": ("InternVL", {"text_config": llama("qwen2"), **IMAGE, "vision_config": {
        **SIGLIP, "image_size": [4, 4], "patch_size": [2, 2]}}),
    "aya_vision": ("AyaVision", {"text_config": llama("cohere2", logit_scale=0.3, sliding_window=3),
                                 **IMAGE, "vision_config": SIGLIP, "downsample_factor": 1}),
    "qwen2_audio": ("Qwen2Audio", {"text_config": llama("qwen2"), "audio_config": AUDIO,
                                   "audio_token_index": 39}),
    "granite_speech": ("GraniteSpeech", {
        "text_config": llama("granite", logits_scaling=2.0), "audio_token_index": 39,
        "window_size": 2, "downsample_rate": 1, "projector_config": QFORMER, "encoder_config": {
            "hidden_dim": 8, "num_layers": 1, "num_heads": 2, "dim_head": 4, "input_dim": 4,
            "output_dim": 6, "context_size": 4, "max_pos_emb": 4}}),
    "llama4": ("Llama4", {"text_config": llama(
        "llama4_text", head_dim=4, intermediate_size_mlp=20, num_local_experts=2,
        num_experts_per_tok=1), "vision_config": {**SIGLIP, "vision_output_dim": 8,
                                                  "projector_input_dim": 8,
                                                  "projector_output_dim": 8}, **IMAGE}),
    "got_ocr2": ("GotOcr2", {"text_config": llama("qwen2"), **IMAGE, "vision_config": {
        **SIGLIP, "output_channels": 4, "mlp_dim": 8, "window_size": 2,
        "global_attn_indexes": [0]}}),
    "moss_transcribe_diarize": ("MossTranscribeDiarize", {
        "text_config": llama("qwen3", head_dim=4), "audio_config": AUDIO, "audio_token_id": 39}),
    "gemma4": ("Gemma4", {"text_config": gemma4("gemma4_text"), "vision_config": GEMMA4_VISION,
                          "audio_config": None, **IMAGE}),
    "gemma4-e": ("Gemma4", {
        "text_config": {**GEMMA4_E, "model_type": "gemma4_text", "vocab_size": 40,
                        "vocab_size_per_layer_input": 40},
        "vision_config": GEMMA4_VISION, "audio_config": None, **IMAGE}),
    "gemma4_unified": ("Gemma4Unified", {
        "text_config": gemma4("gemma4_unified_text"), "vision_config": GEMMA4_VISION,
        "audio_config": None, **IMAGE}),
    "gemma3n": ("Gemma3n", {
        "text_config": {**GEMMA_3N, "model_type": "gemma3n_text", "vocab_size": 40},
        "vision_config": {"hidden_size": 8, "vocab_offset": 37, "vocab_size": 2},
        "audio_config": {
            "hidden_size": 8, "conf_num_attention_heads": 2, "conf_num_hidden_layers": 1,
            "conf_conv_kernel_size": 3, "sscp_conv_channel_size": (4, 4), "input_feat_size": 8,
            "vocab_offset": 39, "vocab_size": 1,
        },
        "image_token_id": 37, "audio_token_id": 39}),
    "fuyu": ("Fuyu", {**TEXT, "text_config": {**LONE, "model_type": "persimmon"},
                      "patch_size": 2, "image_size": 4}),
    "cohere2_vision": ("Cohere2Vision", {"text_config": llama("cohere2", logit_scale=0.3), **IMAGE,
                                         "vision_config": SIGLIP, "downsample_factor": 1}),
}  # fmt: skip


def tiny_wrapper(name: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """Make a random multimodal model whose every parameter is far from its default."""
    import transformers

    prefix, options = WRAPPERS[name]
    config = getattr(transformers, f"{prefix}Config")(**options)
    torch.manual_seed(seed)
    kind = "CausalLM" if name == "fuyu" else "ConditionalGeneration"
    with only_text(config) if name == "gemma3n" else nullcontext():  # images need a library
        model = getattr(transformers, f"{prefix}For{kind}")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.3 if parameter.dim() > 1 else 0.5))
    return model if model.dtype == dtype else model.to(dtype)


def on_text(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=ids).logits
    return logits


Make = Callable[[str], Any]
