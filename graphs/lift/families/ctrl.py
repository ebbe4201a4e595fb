"""CTRL: LayerNorm, sines and cosines of positions added to a scaled embedding, a bias of logits."""

from __future__ import annotations

from typing import Any

from ..lifted import MLP, Attention, LiftedModel
from ..lifting import family
from ._parts import assemble, describe_blocks, layer_norm, linear, matrices


@family(
    "ctrl",
    model_types=["ctrl"],
    handled="""
        vocab_size n_positions n_embd dff n_layer n_head layer_norm_epsilon tie_word_embeddings
    """,
    ignored="resid_pdrop embd_pdrop",
)
def describe(model: Any) -> LiftedModel:
    """Describe a `CTRLLMHeadModel`."""
    config, body = model.config, model.transformer

    def attention(block: Any, _: int) -> Attention:
        module = block.multi_head_attention
        parts = (module.Wq, module.Wk, module.Wv)
        weights, biases = [part.weight for part in parts], [part.bias for part in parts]
        return matrices(weights, biases, module.dense, config.n_head, scale=module.head_dim**-0.5)

    blocks = describe_blocks(
        body.h,
        layer_norm,
        attention,
        lambda block: MLP(linear(block.ffn[0]), linear(block.ffn[2]), "relu"),
        ("layernorm1", "layernorm2"),
    )
    table = body.pos_encoding.to(body.w.weight.dtype)  # it takes this type in the first run
    return assemble(
        "ctrl", model, body.w, blocks, layer_norm(body.layernorm), f"sines, {config.n_positions}",
        table=table, embed_scale=config.n_embd**0.5,
    )  # fmt: skip
