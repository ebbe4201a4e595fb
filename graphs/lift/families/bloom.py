"""BLOOM: LayerNorm also behind the embedding, ALiBi, q/k/v packed by head, biases everywhere."""

from __future__ import annotations

from typing import Any

from ...errors import UnsupportedModel
from ..lifted import Attention, LiftedModel
from ..lifting import family
from ._parts import alibi_slopes, assemble, describe_blocks, fused_heads, layer_norm


@family(
    "bloom",
    model_types=["bloom"],
    handled="""
        vocab_size hidden_size n_embed n_layer n_head layer_norm_epsilon tie_word_embeddings
        apply_residual_connection_post_layernorm pretraining_tp slow_but_exact
    """,
    ignored="hidden_dropout attention_dropout seq_length masked_softmax_fusion offset_alibi",
    refuses=[
        "`apply_residual_connection_post_layernorm=True`: the stream passes through norms",
        "`slow_but_exact=True` with `pretraining_tp` above 1: transformers leaves out biases",
    ],
)
def describe(model: Any) -> LiftedModel:
    """Describe a `BloomForCausalLM`."""
    config, body = model.config, model.transformer
    if config.apply_residual_connection_post_layernorm:
        raise UnsupportedModel(
            "the BLOOM model has apply_residual_connection_post_layernorm=True: its stream passes "
            "through norms, so it is no sum of senders, and the model cannot be lifted."
        )
    if config.pretraining_tp > 1 and config.slow_but_exact:
        raise UnsupportedModel(
            f"the BLOOM model has slow_but_exact=True with pretraining_tp={config.pretraining_tp}, "
            "with which the model's code leaves out biases; set slow_but_exact=False."
        )
    slopes = alibi_slopes(config.n_head, body.word_embeddings.weight)

    def attention(block: Any, _: int) -> Attention:
        module = block.self_attention
        return fused_heads(module.query_key_value, module.dense, config.n_head, slopes=slopes)

    blocks = describe_blocks(body.h, layer_norm, attention, "gelu_new")
    first, last = layer_norm(body.word_embeddings_layernorm), layer_norm(body.ln_f)
    embedding = body.word_embeddings
    return assemble("bloom", model, embedding, blocks, last, "ALiBi", embed_norm=first)
