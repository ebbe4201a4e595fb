"""Gemma 1 to 3 (text), VaultGemma: scaled embedding, RMSNorm as 1 + w; in 2, 3 norms after parts.

Gemma 2 bends scores and logits with soft caps, as does VaultGemma, which has no norms after
attention and MLP; Gemma 3 normalises queries and keys and gives the layers with a window a rotary
base of their own.
"""

from __future__ import annotations

from typing import Any

from ...errors import UnsupportedModel
from ..lifted import Attention, LiftedModel, Norm
from ..lifting import UNREAD, family
from ._parts import assemble, describe_blocks, rotary_heads, rotary_tables, window

HANDLED = """
    vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads
    num_key_value_heads head_dim rms_norm_eps rope_parameters
    attention_bias tie_word_embeddings
"""
SINCE_2 = f"""
    {HANDLED} hidden_activation query_pre_attn_scalar sliding_window layer_types
    final_logit_softcapping attn_logit_softcapping
"""
WAYS = "use_bidirectional_attention"
IGNORED_IN_1 = f"{UNREAD} hidden_activation num_image_tokens"  # the last of PaliGemma
IGNORED_SINCE_2 = f"{UNREAD} hidden_act sliding_window_pattern num_image_tokens"
BOTH_WAYS = "`use_bidirectional_attention`: attention in both directions"
UNCAPPED = (
    "`attn_logit_softcapping` where attention is not `eager`: other implementations leave it out "
    "(edgewise itself loads such models with `eager`)"
)


@family("gemma", ["gemma"], f"{HANDLED} {WAYS} hidden_act", IGNORED_IN_1, [BOTH_WAYS])
@family("gemma", ["gemma2"], f"{SINCE_2} {WAYS}", IGNORED_SINCE_2, [BOTH_WAYS, UNCAPPED])
@family("gemma", ["vaultgemma"], SINCE_2, IGNORED_SINCE_2, [UNCAPPED])
@family("gemma", ["gemma3_text"], f"{SINCE_2} {WAYS}", IGNORED_SINCE_2, [BOTH_WAYS])
def describe(model: Any) -> LiftedModel:
    """Describe a Gemma model of the first, second or third generation, or a VaultGemma."""
    config, body = model.config, model.model
    if getattr(config, "use_bidirectional_attention", None):
        raise UnsupportedModel("the Gemma model attends in both directions, not supported.")
    # Gemma 3 may have a soft cap on attention scores in its config, but has no use for it
    capped = config.model_type in ("gemma2", "vaultgemma")
    softcap = config.attn_logit_softcapping if capped else None
    if softcap is not None and config._attn_implementation != "eager":
        raise UnsupportedModel(
            "the model's soft cap on attention scores is not applied by attention implementation "
            f"'{config._attn_implementation}'; load it with attn_implementation='eager'."
        )
    first = config.model_type == "gemma"
    activation = config.hidden_act if first else config.hidden_activation
    tables = rotary_tables(config, body)

    def attention(block: Any, layer: int) -> Attention:
        module, size = block.self_attn, block.self_attn.head_dim
        scale = (getattr(config, "query_pre_attn_scalar", None) or size) ** -0.5
        own = {"scale": scale, "window": window(config, layer), "softcap": softcap}
        return rotary_heads(config, module, tables[layer], _norm, **own)

    norms = ["input_layernorm", "post_attention_layernorm"]
    if config.model_type == "vaultgemma":
        norms[1] = "pre_feedforward_layernorm"
    elif not first:
        norms[1:] = ["pre_feedforward_layernorm", norms[1], "post_feedforward_layernorm"]
    blocks = describe_blocks(body.layers, _norm, attention, activation, norms)
    weight = body.embed_tokens.weight  # the scale is rounded to its type, as the models do
    return assemble(
        "gemma", model, body.embed_tokens, blocks, _norm(body.norm), tables[0],
        embed_scale=float(weight.new_tensor(config.hidden_size**0.5)),
        logit_softcap=getattr(config, "final_logit_softcapping", None),
    )  # fmt: skip


def _norm(module: Any) -> Norm:
    return Norm(module.weight.detach(), None, module.eps, centred=False, offset=1.0)
