"""StableLM: LayerNorm, partial rotary, gated MLP, parallel or sequential."""

from __future__ import annotations

from typing import Any

from ..lifted import LiftedModel, Norm
from ..lifting import family
from ._parts import assemble, describe_blocks, gated, layer_norm, rotary, rotary_heads


@family(
    "stablelm",
    model_types=["stablelm"],
    handled="""
        vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads
        num_key_value_heads hidden_act layer_norm_eps tie_word_embeddings rope_parameters
        partial_rotary_factor use_qkv_bias qk_layernorm use_parallel_residual head_dim
    """,
    ignored="attention_dropout hidden_dropout max_position_embeddings",
)
def describe(model: Any) -> LiftedModel:
    """Describe a `StableLmForCausalLM`."""
    config, body = model.config, model.model
    table = rotary(config, body.rotary_emb)

    def head_norms(module: Any) -> tuple[Norm, ...]:
        return tuple(map(layer_norm, module.norms))

    parallel, before = config.use_parallel_residual, "input_layernorm"
    blocks = describe_blocks(
        body.layers,
        layer_norm,
        lambda block, _: rotary_heads(config, block.self_attn, table, head_norms),
        lambda block: gated(block.mlp, config.hidden_act),
        (before, before if parallel else "post_attention_layernorm"),
    )
    last = layer_norm(body.norm)
    return assemble("stablelm", model, body.embed_tokens, blocks, last, table, parallel=parallel)
