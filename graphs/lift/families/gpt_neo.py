"""GPT-Neo: LayerNorm, learned positions, unscaled attention, every other layer sees a window."""

from __future__ import annotations

from typing import Any

from ..lifted import Attention, LiftedModel
from ..lifting import family
from ._parts import assemble, describe_blocks, layer_norm, separate


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

    def attention(block: Any, layer: int) -> Attention:
        module = block.attn.attention
        seen = _window(module, layer, config)
        return separate(module, module.out_proj, config.num_heads, scale=1.0, window=seen)

    names, activation = ("ln_1", "ln_2"), config.activation_function
    blocks = describe_blocks(body.h, layer_norm, attention, activation, names)
    last, words = layer_norm(body.ln_f), f"learned, {config.max_position_embeddings}"
    return assemble("gpt-neo", model, body.wte, blocks, last, words, table=body.wpe.weight.detach())


def _window(module: Any, layer: int, config: Any) -> int | None:
    """Return how far a layer sees, by the mask made when it was built, whatever the config says."""
    mask = getattr(module, "bias", None)  # [1, 1, positions, positions]
    if mask is None:
        return config.window_size if config.attention_layers[layer] == "local" else None
    seen = int(mask[0, 0, -1].sum())  # by the last position
    return None if seen == mask.shape[-1] else seen
