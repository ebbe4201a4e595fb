"""GPT-2: LayerNorm, learned positions, packed q/k/v stored [in, out], plain MLP."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...errors import UnsupportedModel
from ..lifted import MLP, Attention, Block, LiftedModel, Linear
from ..lifting import family, frozen, head_bias, head_rows, require_activation
from ._parts import assemble, layer_norm


@family(
    "gpt2",
    model_types=["gpt2"],
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
    blocks = tuple(_block(config, layer, block) for layer, block in enumerate(body.h))
    last, words, table = layer_norm(body.ln_f), f"learned, {config.n_positions}", body.wpe.weight
    return assemble("gpt2", model, body.wte, blocks, last, words, table=frozen(table))


def _block(config: Any, layer: int, block: Any) -> Block:
    heads = config.n_head
    q, k, v = frozen(block.attn.c_attn.weight).t().chunk(3)  # each [D, D], rows are outputs
    bq, bk, bv = frozen(block.attn.c_attn.bias).chunk(3)
    scale = (config.n_embd // heads) ** -0.5 if config.scale_attn_weights else 1.0
    if config.scale_attn_by_inverse_layer_idx:
        scale /= layer + 1
    return Block(
        attention_norm=layer_norm(block.ln_1),
        attention=Attention(
            wq=head_rows(q, heads),
            wk=head_rows(k, heads),
            wv=head_rows(v, heads),
            wo=head_rows(block.attn.c_proj.weight, heads),
            bq=head_bias(bq, heads),
            bk=head_bias(bk, heads),
            bv=head_bias(bv, heads),
            bo=frozen(block.attn.c_proj.bias),
            scale=scale,
        ),
        mlp_norm=layer_norm(block.ln_2),
        mlp=MLP(
            up=_linear(block.mlp.c_fc),
            down=_linear(block.mlp.c_proj),
            activation=require_activation(config.activation_function),
        ),
    )


def _linear(module: Any) -> Linear:
    weight: Tensor = frozen(module.weight).t()
    return Linear(weight, frozen(module.bias))
