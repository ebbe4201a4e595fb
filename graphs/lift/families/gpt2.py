"""GPT-2, GPT-SW3: LayerNorm, learned positions, packed q/k/v stored [in, out], plain MLP."""

from __future__ import annotations

from typing import Any

from ...errors import UnsupportedModel
from ..lifted import Attention, LiftedModel
from ..lifting import family
from ._parts import assemble, describe_blocks, layer_norm, linear, matrices


@family(
    "gpt2",
    model_types=["gpt2", "gpt-sw3"],
    handled="""
        vocab_size n_positions n_embd n_layer n_head n_inner activation_function layer_norm_epsilon
        scale_attn_weights scale_attn_by_inverse_layer_idx tie_word_embeddings add_cross_attention
    """,
    ignored="""
        attn_pdrop embd_pdrop resid_pdrop reorder_and_upcast_attn summary_activation
        summary_first_dropout summary_proj_to_labels summary_type summary_use_proj n_ctx
    """,
    refuses=["`add_cross_attention=True`: the graph has no second stream to attend to"],
)
def describe(model: Any) -> LiftedModel:
    """Describe a `GPT2LMHeadModel`."""
    config, body = model.config, model.transformer
    if config.add_cross_attention:
        raise UnsupportedModel(
            "the GPT-2 model has cross-attention, which has no place in a decoder."
        )

    def attention(block: Any, layer: int) -> Attention:
        packed: Any = linear(block.attn.c_attn)  # rows are outputs: queries, keys, values
        scale = (config.n_embd // config.n_head) ** -0.5 if config.scale_attn_weights else 1.0
        scale /= layer + 1 if config.scale_attn_by_inverse_layer_idx else 1
        weights, biases = packed.weight.chunk(3), packed.bias.chunk(3)
        output = linear(block.attn.c_proj)
        return matrices(weights, biases, output, config.n_head, scale=scale)

    names, activation = ("ln_1", "ln_2"), config.activation_function
    blocks = describe_blocks(body.h, layer_norm, attention, activation, names)
    last, words, table = layer_norm(body.ln_f), f"learned, {config.n_positions}", body.wpe.weight
    return assemble("gpt2", model, body.wte, blocks, last, words, table=table.detach())
