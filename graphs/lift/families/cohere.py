"""Cohere (Command R): one LayerNorm before a parallel block, interleaved rotary, scaled logits.

Queries and keys may be normalised with weights of each head's own. In Cohere 2 (Command R7B) most
layers see a window; the others know no positions.
"""

from __future__ import annotations

from typing import Any

from ..lifted import Attention, LiftedModel, Norm
from ..lifting import UNREAD, USUAL, family
from ._parts import assemble, describe_blocks, layer_norm, rotary, rotary_heads, window

HANDLED = f"{USUAL} logit_scale layer_norm_eps attention_bias head_dim"


@family("cohere", ["cohere"], f"{HANDLED} use_qk_norm", UNREAD)
@family("cohere", ["cohere2"], f"{HANDLED} sliding_window layer_types", UNREAD)
def describe(model: Any) -> LiftedModel:
    """Describe a `CohereForCausalLM` or a `Cohere2ForCausalLM`."""
    config, body = model.config, model.model
    table = rotary(config, body.rotary_emb, interleaved=True)
    first = config.model_type == "cohere"

    def attention(block: Any, layer: int) -> Attention:
        size = None if first else window(config, layer)
        turn = table if first or size is not None else None
        return rotary_heads(config, block.self_attn, turn, _head_norms, window=size)

    norms = ("input_layernorm", "input_layernorm")
    blocks = describe_blocks(body.layers, layer_norm, attention, config.hidden_act, norms)
    own = {"parallel": True, "logit_scale": config.logit_scale}
    last = layer_norm(body.norm)
    return assemble("cohere", model, body.embed_tokens, blocks, last, table, **own)


def _head_norms(module: Any) -> tuple[Norm, ...]:
    eps = module.variance_epsilon
    return tuple(Norm(row, None, eps, centred=True) for row in module.weight.detach())
