"""Kimi Linear, Bailing Hybrid: latent attention in some layers, in others a delta net, taken whole.

Experts are DeepSeek V3's. Kimi's heads have no positions; Bailing's (Ling 3's) turn, and each
has a gate.
"""

from __future__ import annotations

from typing import Any

from ..lifted import Attention, LiftedModel, Whole
from ..lifting import family
from ._parts import (
    apart,
    assemble,
    describe_blocks,
    latent_heads,
    rms_norm,
    rotary,
    sparse_or_dense,
)
from .qwen3_next import KINDS

HANDLED = """
    vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads hidden_act
    num_key_value_heads rms_norm_eps tie_word_embeddings attention_bias layer_types mlp_layer_types
    kv_lora_rank qk_rope_head_dim qk_nope_head_dim v_head_dim moe_intermediate_size moe_renormalize
    num_experts num_experts_per_token num_shared_experts routed_scaling_factor num_expert_group
    topk_group
"""
IGNORED = """
    attention_dropout model_max_length head_dim qk_head_dim pretraining_tp output_router_logits
    first_k_dense_replace
"""
"""The first layers' number is what `mlp_layer_types` is made of, where that is not given."""

INSIDE = "linear_conv_kernel_dim linear_head_dim linear_num_heads"
UNTURNED = "linear_attn_config rope_theta rope_parameters rope_scaling"
"""What a published configuration says of delta nets, for other keys, and of positions, in vain."""


@family(
    "kimi-linear",
    ["kimi_linear"],
    f"{HANDLED} q_lora_rank",
    f"{IGNORED} {UNTURNED}",
    layer_types=KINDS,
    inside=INSIDE,
)
@family(
    "kimi-linear",
    ["bailing_hybrid"],
    f"{HANDLED} rope_parameters",
    f"""{IGNORED} rope_theta layer_group_size short_conv_kernel_size num_nextn_predict_layers
    mtp_loss_scaling_factor""",
    layer_types=KINDS,
    inside=f"{INSIDE} kda_safe_gate kda_lower_bound",
)
def describe(model: Any) -> LiftedModel:
    """Describe a `KimiLinearForCausalLM` or a `BailingHybridForCausalLM`."""
    config, body = model.config, model.model
    turns = hasattr(body, "rotary_emb")
    table = rotary(config, body.rotary_emb, interleaved=True) if turns else None

    def mixer(block: Any, layer: int) -> Attention | Whole:
        module = block.self_attn
        if config.layer_types[layer] == "linear_attention":
            return Whole.of(model, module)
        gate = {}
        if hasattr(module, "g_proj"):
            gate = apart(module.g_proj, config.num_attention_heads, "sigmoid")
        return latent_heads(config, module, table, **gate)

    blocks = describe_blocks(
        body.layers, rms_norm, mixer, lambda block: sparse_or_dense(config, block.mlp)
    )
    words = table or "none: layers without heads are recurrent"
    return assemble("kimi-linear", model, body.embed_tokens, blocks, rms_norm(body.norm), words)
