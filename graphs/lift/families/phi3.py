"""Phi-3, Phi-4: RMSNorm, rotary, q/k/v packed in one projection, gate and up in another."""

from __future__ import annotations

from typing import Any

from ..lifted import Attention, LiftedModel
from ..lifting import UNREAD, USUAL, family
from ._parts import assemble, describe_blocks, matrices, rms_norm, rotary


@family(
    "phi3",
    model_types=["phi3"],
    handled=f"{USUAL} rms_norm_eps partial_rotary_factor sliding_window head_dim",
    ignored=f"{UNREAD} embd_pdrop resid_pdrop original_max_position_embeddings",
)
@family(
    "phi3",
    model_types=["phi4_multimodal"],
    handled=f"{USUAL} rms_norm_eps partial_rotary_factor sliding_window head_dim",
    ignored=f"""
        {UNREAD} embd_pdrop resid_pdrop original_max_position_embeddings vision_config audio_config
    """,
    apart=["model.embed_tokens_extend"],
)
def describe(model: Any) -> LiftedModel:
    """Describe a `Phi3ForCausalLM`, or the text body of a `Phi4MultimodalForCausalLM`."""
    config, body = model.config, model.model
    table = rotary(config, body.rotary_emb)
    heads, groups = config.num_attention_heads, config.num_key_value_heads

    def attention(block: Any, _: int) -> Attention:
        module, size = block.self_attn, block.self_attn.head_dim
        cuts = [heads * size, groups * size, groups * size]
        own = {"scale": size**-0.5, "rotary": table, "window": config.sliding_window}
        parts = module.qkv_proj.weight.split(cuts)
        return matrices(parts, None, module.o_proj, heads, groups, **own)

    blocks = describe_blocks(body.layers, rms_norm, attention, config.hidden_act)
    return assemble("phi3", model, body.embed_tokens, blocks, rms_norm(body.norm), table)
