"""GPT-Neo: LayerNorm, learned positions, unscaled attention, every other layer sees a window."""

from __future__ import annotations

from typing import Any

from ..lifted import Block, LiftedModel
from ..lifting import family, frozen
from ._parts import assemble, layer_norm, plain, separate


@family(
    "gpt-neo",
    model_types=["gpt_neo"],
    handled="""
        vocab_size max_position_embeddings hidden_size num_layers attention_types num_heads
        intermediate_size window_size activation_function layer_norm_epsilon tie_word_embeddings
        attention_layers
    """,
    ignored="resid_dropout embed_dropout attention_dropout classifier_dropout",
)
def describe(model: Any) -> LiftedModel:
    """Describe a `GPTNeoForCausalLM`."""
    config, body = model.config, model.transformer
    blocks = tuple(
        Block(
            attention_norm=layer_norm(block.ln_1),
            attention=separate(
                block.attn.attention,
                block.attn.attention.out_proj,
                config.num_heads,
                config.num_heads,
                scale=1.0,
                window=_window(block.attn.attention, layer, config),
            ),
            mlp_norm=layer_norm(block.ln_2),
            mlp=plain(block.mlp.c_fc, block.mlp.c_proj, config.activation_function),
        )
        for layer, block in enumerate(body.h)
    )
    last, words = layer_norm(body.ln_f), f"learned, {config.max_position_embeddings}"
    return assemble("gpt-neo", model, body.wte, blocks, last, words, table=frozen(body.wpe.weight))


def _window(module: Any, layer: int, config: Any) -> int | None:
    """Return how far a layer sees: by the mask it made when it was built, if it has one.

    The config may have been edited since, which alters nothing.
    """
    mask = getattr(module, "bias", None)  # [1, 1, positions, positions]
    if mask is None:
        return config.window_size if config.attention_layers[layer] == "local" else None
    seen = int(mask[0, 0, -1].sum())  # by the last position
    return None if seen == mask.shape[-1] else seen
