"""OPT: LayerNorm, learned positions that start at row 2, plain MLP, biases."""

from __future__ import annotations

from typing import Any

from ...errors import UnsupportedModel
from ..lifted import Attention, LiftedModel
from ..lifting import family
from ._parts import assemble, describe_blocks, layer_norm, separate


@family(
    "opt",
    model_types=["opt"],
    handled="""
        vocab_size hidden_size num_hidden_layers ffn_dim max_position_embeddings
        do_layer_norm_before word_embed_proj_dim num_attention_heads activation_function
        enable_bias layer_norm_elementwise_affine tie_word_embeddings _remove_final_layer_norm
    """,
    ignored="dropout attention_dropout layerdrop init_std",
    refuses=[
        "`do_layer_norm_before=False`, `_remove_final_layer_norm=True`, a `word_embed_proj_dim` "
        "that is not `hidden_size` (OPT-350m): its stream passes through norms and projections",
        "`layer_norm_elementwise_affine=False`: no published model has it",
    ],
)
def describe(model: Any) -> LiftedModel:
    """Describe an `OPTForCausalLM`."""
    config, body = model.config, model.model.decoder
    wrong = {
        "do_layer_norm_before": config.do_layer_norm_before is False,
        "word_embed_proj_dim": config.word_embed_proj_dim != config.hidden_size,
        "layer_norm_elementwise_affine": config.layer_norm_elementwise_affine is False,
        "_remove_final_layer_norm": config._remove_final_layer_norm,
    }
    found = [f"{name}={getattr(config, name)}" for name, is_so in wrong.items() if is_so]
    if found:
        raise UnsupportedModel(
            f"the OPT model has {', '.join(found)}, which is not supported (among the published "
            "models only OPT-350m has such settings)."
        )
    heads = config.num_attention_heads

    def attention(block: Any, _: int) -> Attention:
        module = block.self_attn
        return separate(module, module.out_proj, heads, scale=module.head_dim**-0.5)

    norms, activation = ("self_attn_layer_norm", "final_layer_norm"), config.activation_function
    blocks = describe_blocks(body.layers, layer_norm, attention, activation, norms)
    places = body.embed_positions.weight.detach()[body.embed_positions.offset :]
    last, words = layer_norm(body.final_layer_norm), f"learned, {len(places)}"
    return assemble("opt", model, body.embed_tokens, blocks, last, words, table=places)
