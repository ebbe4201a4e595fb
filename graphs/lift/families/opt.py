"""OPT, XGLM and BioGPT: LayerNorm, positions that start at row 2 of a table, plain MLP, biases.

XGLM's table is of sines and cosines; XGLM and BioGPT may scale the embedding.
"""

from __future__ import annotations

from typing import Any

from ...errors import UnsupportedModel
from ..lifted import Attention, LiftedModel
from ..lifting import family
from ._parts import assemble, describe_blocks, layer_norm, positions_behind, separate


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
def describe_opt(model: Any) -> LiftedModel:
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
    activation, last = config.activation_function, body.final_layer_norm
    return _describe("opt", model, body, activation, last)


@family(
    "xglm",
    model_types=["xglm"],
    handled="""
        vocab_size d_model num_layers ffn_dim max_position_embeddings attention_heads
        activation_function scale_embedding tie_word_embeddings add_cross_attention
    """,
    ignored="""
        dropout attention_dropout activation_dropout layerdrop init_std decoder_start_token_id
    """,
    refuses=["`add_cross_attention=True`: the graph has no second stream to attend to"],
)
def describe_xglm(model: Any) -> LiftedModel:
    """Describe an `XGLMForCausalLM`."""
    config, body = model.config, model.model
    if config.add_cross_attention:
        raise UnsupportedModel(
            "the XGLM model has cross-attention, which has no place in a decoder."
        )
    scale = {"embed_scale": body.embed_tokens.embed_scale}
    activation, last = config.activation_function, body.layer_norm
    return _describe("xglm", model, body, activation, last, "sines", **scale)


@family(
    "biogpt",
    model_types=["biogpt"],
    handled="""
        vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_act
        max_position_embeddings scale_embedding tie_word_embeddings
    """,
    ignored="""
        hidden_dropout_prob attention_probs_dropout_prob activation_dropout layerdrop layer_norm_eps
    """,
)
def describe_biogpt(model: Any) -> LiftedModel:
    """Describe a `BioGptForCausalLM`."""
    body, scale = model.biogpt, {"embed_scale": model.biogpt.embed_tokens.embed_scale}
    activation = model.config.hidden_act
    return _describe("biogpt", model, body, activation, body.layer_norm, **scale)


def _describe(
    name: str,
    model: Any,
    body: Any,
    activation: str,
    last: Any,
    positions: str = "learned",
    **rest: Any,
) -> LiftedModel:
    """Describe a model; `last`: the final norm's module."""

    def attention(block: Any, _: int) -> Attention:
        module, heads = block.self_attn, block.self_attn.num_heads
        return separate(module, module.out_proj, heads, scale=module.head_dim**-0.5)

    norms = ("self_attn_layer_norm", "final_layer_norm")
    blocks = describe_blocks(body.layers, layer_norm, attention, activation, norms)
    table = positions_behind(body.embed_positions)
    words, rest = f"{positions}, {len(table)}", {"table": table, **rest}
    return assemble(name, model, body.embed_tokens, blocks, layer_norm(last), words, **rest)
