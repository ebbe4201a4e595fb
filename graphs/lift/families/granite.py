"""Granite and HyperCLOVA X: Llama with multipliers of embedding, scores, what layers add, logits.

In HyperCLOVA X norms may stand behind attention and MLP, before the multiplier.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..lifted import Block, LiftedModel, Norm
from ..lifting import family
from .llama import BIASES, HANDLED, IGNORED, WINDOWS, llama_like

SCALES = "embedding_multiplier logits_scaling residual_multiplier attention_multiplier"


@family("llama", ["granite"], f"{HANDLED} {BIASES} {SCALES}", f"{IGNORED} {WINDOWS}")
@family(
    "llama", ["hyperclovax"], f"{HANDLED} {BIASES} {SCALES} use_post_norm", f"{IGNORED} {WINDOWS}"
)
def describe(model: Any) -> LiftedModel:
    """Describe a `GraniteForCausalLM` or a `HyperCLOVAXForCausalLM`."""
    config = model.config
    times, norms = config.residual_multiplier, ["input_layernorm", "post_attention_layernorm"]
    behind = getattr(config, "use_post_norm", False)
    if behind:
        norms += ["post_norm1", "post_norm2"]
    scales = {"scale": config.attention_multiplier, "output_scale": 1.0 if behind else times}
    lifted = llama_like(model, norms=norms, **scales)
    divided = config.model_type == "granite"
    return replace(
        lifted,
        blocks=tuple(_times(block, times) for block in lifted.blocks) if behind else lifted.blocks,
        embed_scale=config.embedding_multiplier,
        logit_scale=1 / config.logits_scaling if divided else config.logits_scaling,
    )


def _times(block: Block, factor: float) -> Block:
    """Multiply what the norms behind attention and MLP give."""

    def times(norm: Norm | None) -> Norm | None:
        return None if norm is None else replace(norm, factor=factor)

    return replace(
        block,
        attention_post_norm=times(block.attention_post_norm),
        mlp_post_norm=times(block.mlp_post_norm),
    )
