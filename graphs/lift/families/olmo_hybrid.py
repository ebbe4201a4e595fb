"""OLMo Hybrid: OLMo 3's heads in some layers, in the others a delta net, taken whole.

Layers with heads have norms only behind attention and MLP, the others only before mixer and MLP.
The published models have no rotary positions.
"""

from __future__ import annotations

from typing import Any

from ..lifted import Attention, LiftedModel, Whole
from ..lifting import UNREAD, USUAL, family
from ._parts import assemble, describe_blocks, rms_norm, rotary, rotary_heads
from .qwen3_next import INSIDE, KINDS

INITIAL = "linear_a_log_min linear_a_log_max linear_dt_min linear_dt_max linear_dt_init_floor"
"""By which weights are initialised."""


@family(
    "olmo-hybrid",
    ["olmo_hybrid"],
    f"{USUAL} head_dim rms_norm_eps attention_bias layer_types",
    f"{UNREAD} {INITIAL}",
    layer_types=KINDS,
    inside=f"{INSIDE} linear_allow_neg_eigval",
)
def describe(model: Any) -> LiftedModel:
    """Describe an `OlmoHybridForCausalLM`."""
    config, body = model.config, model.model
    table = None if body.rotary_emb is None else rotary(config, body.rotary_emb)

    def mixer(block: Any, _: int) -> Attention | Whole:
        if hasattr(block, "linear_attn"):
            return Whole.of(model, block.linear_attn)
        return rotary_heads(config, block.self_attn, table, norm_together=True)

    def norms(block: Any) -> tuple[str | None, ...]:
        if hasattr(block, "linear_attn"):
            return "input_layernorm", "post_attention_layernorm"
        return None, None, "post_attention_layernorm", "post_feedforward_layernorm"

    blocks = describe_blocks(body.layers, rms_norm, mixer, config.hidden_act, norms)
    words = table or "none: layers without heads are recurrent"
    return assemble("olmo-hybrid", model, body.embed_tokens, blocks, rms_norm(body.norm), words)
