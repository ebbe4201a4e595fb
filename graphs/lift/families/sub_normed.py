"""BitNet and DiffLlama: Llama's blocks, with a norm of several heads' outputs; attention is whole.

In BitNet the norm takes all heads together, and the MLP has one inside, so that it is whole too. In
DiffLlama the outputs of two heads are subtracted, then normalised. BitNet's weights must be plain:
where they are packed they are unpacked on loading, or refused.
"""

from __future__ import annotations

from typing import Any

from ..lifted import MLP, LiftedModel
from ..lifting import UNREAD, family
from ..whole import Whole
from ._parts import assemble, describe_blocks, feed_forward, rms_norm, rotary

HANDLED = """
    vocab_size hidden_size intermediate_size num_hidden_layers rms_norm_eps rope_parameters
    tie_word_embeddings hidden_act
"""
INSIDE = "num_attention_heads num_key_value_heads attention_bias head_dim"


@family("bitnet", ["bitnet"], HANDLED, UNREAD, inside=INSIDE)
@family("diffllama", ["diffllama"], HANDLED, UNREAD, inside=f"{INSIDE} lambda_std_dev")
def describe(model: Any) -> LiftedModel:
    """Describe a `BitNetForCausalLM` or a `DiffLlamaForCausalLM`."""
    config, body = model.config, model.model

    def mlp(block: Any) -> MLP | Whole:
        if config.model_type == "bitnet":
            return Whole.of(model, block.mlp, alone=True)
        return feed_forward(block.mlp, config.hidden_act)

    blocks = describe_blocks(
        body.layers, rms_norm, lambda block, _: Whole.of(model, block.self_attn), mlp
    )
    last, table = rms_norm(body.norm), rotary(config, body.rotary_emb)
    return assemble(config.model_type, model, body.embed_tokens, blocks, last, table)
