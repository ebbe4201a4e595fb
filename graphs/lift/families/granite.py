"""Granite and HyperCLOVA X: Llama with multipliers of embedding, scores, what layers add, logits.

In HyperCLOVA X norms may stand behind attention and MLP, before the multiplier. Granite SWA has
windows, sinks, and a rotary base of each layer's own, or no rotary positions.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..lifted import Attention, Block, LiftedModel, Norm, Rotary
from ..lifting import family
from ._parts import assemble, describe_blocks, feed_forward, rms_norm, rotary, rotary_heads, window
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


@family(
    "granite",
    ["granite_swa"],
    f"{HANDLED} {BIASES} {SCALES} sliding_window layer_types layer_rope_theta",
    f"{IGNORED} use_sliding_window max_window_layers",
)
def describe_with_windows(model: Any) -> LiftedModel:
    """Describe a `GraniteSWAForCausalLM`."""
    config, body = model.config, model.model
    times = config.residual_multiplier
    tables = layer_tables(config, body)

    def attention(block: Any, layer: int) -> Attention:
        return with_sinks(config, block.self_attn, tables[layer], layer)

    blocks = describe_blocks(
        body.layers,
        rms_norm,
        attention,
        lambda block: feed_forward(block.mlp, config.hidden_act, times),
    )
    return assemble(
        "granite", model, body.embed_tokens, blocks, rms_norm(body.norm), table_words(config),
        embed_scale=config.embedding_multiplier, logit_scale=1 / config.logits_scaling,
    )  # fmt: skip


def layer_tables(config: Any, body: Any) -> list[Rotary | None]:
    """Describe each layer's rotary table, by the base that the config gives it: 0 for none."""
    tables = {
        module.config.rope_parameters["rope_theta"]: rotary(module.config, module)
        for module in body.rotary_embs
    }
    return [tables[base] if base else None for base in config.layer_rope_theta]


def table_words(config: Any) -> str:
    """Say in words how positions enter layers that have rotary bases of their own."""
    without = sum(not base for base in config.layer_rope_theta)
    bases = ", ".join(f"{base:g}" for base in sorted({b for b in config.layer_rope_theta if b}))
    words = f"rotary ({config.rope_parameters['rope_type']}), base {bases}"
    return f"{words}, none in {without} layer{'s' * (without > 1)}" if without else words


def with_sinks(config: Any, module: Any, table: Rotary | None, layer: int) -> Attention:
    """Describe attention with sinks, windows and multipliers."""
    return rotary_heads(
        config, module, table, window=window(config, layer), sinks=module.sinks.detach(),
        scale=config.attention_multiplier, output_scale=config.residual_multiplier,
    )  # fmt: skip


def _times(block: Block, factor: float) -> Block:
    """Multiply what the norms behind attention and MLP give."""

    def times(norm: Norm | None) -> Norm | None:
        return None if norm is None else replace(norm, factor=factor)

    return replace(
        block,
        attention_post_norm=times(block.attention_post_norm),
        mlp_post_norm=times(block.mlp_post_norm),
    )
