"""Granite and HyperCLOVA X: Llama with multipliers of embedding, scores, what layers add, logits.

Some kinds of Granite have experts, and an MLP beside them that every token runs through.

In HyperCLOVA X norms may stand behind attention and MLP, before the multiplier. Granite SWA has
windows, sinks, and a rotary base of each layer's own, or no rotary positions.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..experts import Experts, Routing, SharedExpert
from ..lifted import MLP, Attention, Block, LiftedModel, Linear, Norm, Rotary
from ..lifting import family, require_activation
from ._parts import (
    ROUTER_LOSS,
    assemble,
    describe_blocks,
    feed_forward,
    linear,
    mixture,
    rms_norm,
    rotary,
    rotary_heads,
    window,
)
from .llama import BIASES, HANDLED, IGNORED, WINDOWS, llama_like

SCALES = "embedding_multiplier logits_scaling residual_multiplier attention_multiplier"
OWN_BASES = "sliding_window layer_types layer_rope_theta"
SPARSE = f"{HANDLED} attention_bias {SCALES} num_local_experts num_experts_per_tok"
SHARED = f"{SPARSE} shared_intermediate_size"


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
    f"{HANDLED} {BIASES} {SCALES} {OWN_BASES}",
    f"{IGNORED} use_sliding_window max_window_layers",
)
@family("granite", ["granitemoe"], SPARSE, f"{IGNORED} {ROUTER_LOSS} {WINDOWS}")
@family("granite", ["granitemoeshared"], SHARED, f"{IGNORED} {ROUTER_LOSS} {WINDOWS}")
@family("granite", ["granitemoe_swa"], f"{SHARED} {OWN_BASES}", f"{IGNORED} {ROUTER_LOSS}")
def describe_newer(model: Any) -> LiftedModel:
    """Describe a Granite model with windows, experts or both."""
    config, body = model.config, model.model
    own = hasattr(config, "layer_rope_theta")
    table = rotary(config, body.rotary_emb)
    tables = layer_tables(config, body) if own else [table] * len(body.layers)

    def attention(block: Any, layer: int) -> Attention:
        module = block.self_attn
        rest: dict[str, Any] = {}
        if own:
            rest = {"window": window(config, layer), "sinks": module.sinks.detach()}
        return rotary_heads(
            config, module, tables[layer], scale=config.attention_multiplier,
            output_scale=config.residual_multiplier, **rest,
        )  # fmt: skip

    def mlp(block: Any) -> MLP | Experts:
        if not hasattr(block, "block_sparse_moe"):
            return feed_forward(block.mlp, config.hidden_act, config.residual_multiplier)
        beside = getattr(block, "shared_mlp", None)
        return mixture(
            block.block_sparse_moe, config.hidden_act, config.num_experts_per_tok,
            routing=Routing(score="chosen"), output_scale=config.residual_multiplier,
            shared=None if beside is None else SharedExpert(packed(beside, config.hidden_act)),
        )  # fmt: skip

    blocks = describe_blocks(body.layers, rms_norm, attention, mlp)
    words = table_words(config) if own else table
    return assemble(
        "granite", model, body.embed_tokens, blocks, rms_norm(body.norm), words,
        embed_scale=config.embedding_multiplier, logit_scale=1 / config.logits_scaling,
    )  # fmt: skip


def packed(module: Any, activation: str) -> MLP:
    """Describe an MLP whose gate and up projection are one module, `input_linear`."""
    gate, up = map(Linear, module.input_linear.weight.detach().chunk(2))
    return MLP(up, linear(module.output_linear), require_activation(activation), gate)


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


def _times(block: Block, factor: float) -> Block:
    """Multiply what the norms behind attention and MLP give."""

    def times(norm: Norm | None) -> Norm | None:
        return None if norm is None else replace(norm, factor=factor)

    return replace(
        block,
        attention_post_norm=times(block.attention_post_norm),
        mlp_post_norm=times(block.mlp_post_norm),
    )
