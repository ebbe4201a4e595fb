"""StableLM: LayerNorm, partial rotary, gated MLP, parallel or sequential."""

from __future__ import annotations

from typing import Any

from ..lifted import Block, LiftedModel, Norm
from ..lifting import family
from ._parts import assemble, gated, layer_norm, rotary, rotary_heads


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

    def norms(module: Any) -> dict[str, tuple[Norm, ...]]:
        if not config.qk_layernorm:
            return {}
        both = {"q_norm": module.q_layernorm, "k_norm": module.k_layernorm}
        return {name: tuple(layer_norm(n) for n in own.norms) for name, own in both.items()}

    parallel = config.use_parallel_residual
    blocks = tuple(
        Block(
            attention_norm=layer_norm(block.input_layernorm),
            attention=rotary_heads(config, block.self_attn, table, **norms(block.self_attn)),
            mlp_norm=layer_norm(
                block.input_layernorm if parallel else block.post_attention_layernorm
            ),
            mlp=gated(block.mlp, config.hidden_act),
        )
        for block in body.layers
    )
    last = layer_norm(body.norm)
    return assemble("stablelm", model, body.embed_tokens, blocks, last, table, parallel=parallel)
