"""GPT-BigCode (SantaCoder, StarCoder): GPT-2 with one key/value head for all queries."""

from __future__ import annotations

from typing import Any

from ...errors import UnsupportedModel
from ..lifted import Attention, LiftedModel
from ..lifting import family
from ._parts import assemble, describe_blocks, fused_heads, layer_norm, matrices


@family(
    "gpt-bigcode",
    model_types=["gpt_bigcode"],
    handled="""
        vocab_size n_positions n_embd n_layer n_head n_inner activation_function layer_norm_epsilon
        scale_attn_weights multi_query add_cross_attention tie_word_embeddings num_key_value_heads
    """,
    ignored="""
        attn_pdrop embd_pdrop resid_pdrop attention_softmax_in_fp32
        scale_attention_softmax_in_fp32
    """,
    refuses=["`add_cross_attention=True`: the graph has no second stream to attend to"],
)
def describe(model: Any) -> LiftedModel:
    """Describe a `GPTBigCodeForCausalLM`."""
    config, body = model.config, model.transformer
    if config.add_cross_attention:
        raise UnsupportedModel(
            "the GPT-BigCode model has cross-attention, which has no place in a decoder."
        )
    heads, activation, names = config.n_head, config.activation_function, ("ln_1", "ln_2")

    def attention(block: Any, _: int) -> Attention:
        module, size = block.attn, block.attn.head_dim
        if not config.multi_query:
            return fused_heads(module.c_attn, module.c_proj, heads, scale=module.scaling)
        cuts = [heads * size, size, size]
        weights, biases = module.c_attn.weight.split(cuts), module.c_attn.bias.split(cuts)
        return matrices(weights, biases, module.c_proj, heads, 1, scale=module.scaling)

    blocks = describe_blocks(body.h, layer_norm, attention, activation, names)
    last, words, table = layer_norm(body.ln_f), f"learned, {config.n_positions}", body.wpe.weight
    return assemble("gpt-bigcode", model, body.wte, blocks, last, words, table=table.detach())
