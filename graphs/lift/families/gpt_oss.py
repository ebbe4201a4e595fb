"""GPT-OSS: attention with sinks, every second layer with a window, clamped experts with biases."""

from __future__ import annotations

from typing import Any

from ..experts import Clamp, Experts, Routing
from ..lifted import Attention, LiftedModel
from ..lifting import UNREAD, family
from ._parts import assemble, describe_blocks, rms_norm, rotary, rotary_heads, window

HANDLED = """
    vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads
    num_key_value_heads head_dim rms_norm_eps rope_parameters tie_word_embeddings attention_bias
    sliding_window layer_types num_local_experts num_experts_per_tok swiglu_alpha swiglu_limit
"""


@family(
    "gpt-oss",
    model_types=["gpt_oss"],
    handled=HANDLED,
    ignored=f"{UNREAD} hidden_act output_router_logits router_aux_loss_coef",
)
def describe(model: Any) -> LiftedModel:
    """Describe a `GptOssForCausalLM`."""
    config, body = model.config, model.model
    table = rotary(config, body.rotary_emb)

    def attention(block: Any, layer: int) -> Attention:
        module = block.self_attn
        own = {"window": window(config, layer), "sinks": module.sinks.detach()}
        return rotary_heads(config, module, table, **own)

    def experts(block: Any) -> Experts:
        router, packed = block.mlp.router, block.mlp.experts
        both, bias = packed.gate_up_proj.detach().mT, packed.gate_up_proj_bias.detach()
        return Experts(
            router=router.weight.detach(),
            routing=Routing(score="chosen", bias=router.bias.detach()),
            gate=both[:, ::2], gate_bias=bias[:, ::2], up=both[:, 1::2], up_bias=bias[:, 1::2],
            down=packed.down_proj.detach().mT, down_bias=packed.down_proj_bias.detach(),
            chosen=config.num_experts_per_tok, activation="silu", renormalise=False,
            clamp=Clamp(packed.limit, packed.alpha, offset=1.0),
        )  # fmt: skip

    blocks = describe_blocks(body.layers, rms_norm, attention, experts)
    return assemble("gpt-oss", model, body.embed_tokens, blocks, rms_norm(body.norm), table)
