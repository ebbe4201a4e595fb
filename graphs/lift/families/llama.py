"""Llama and its like: RMSNorm, rotary positions, gated MLP, shared keys and values.

Covers SmolLM2, Llama 1 to 3, Mistral, Qwen2; with q/k norms per head Qwen3; with multipliers
Granite; with layers without rotary positions SmolLM3; without gate in the MLP Arcee; with a bias
setting of its own for the output Seed-OSS; with interleaved rotary positions Helium and Ernie 4.5.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..experts import Experts
from ..lifted import MLP, Attention, Block, LiftedModel
from ..lifting import family
from ._parts import assemble, gated, plain, rms_norm, rotary, separate, window

HANDLED = """
    vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads
    num_key_value_heads hidden_act rms_norm_eps rope_parameters rope_theta head_dim
    tie_word_embeddings
"""
BIASES = "attention_bias mlp_bias"
WINDOWS = "sliding_window use_sliding_window max_window_layers layer_types"
IGNORED = "attention_dropout max_position_embeddings pretraining_tp"
ONE_WINDOW = "use_sliding_window max_window_layers layer_types"
"""What only the code of other types reads, where every layer has the one window of the config."""


@family(
    "llama",
    model_types=["llama"],
    handled=f"{HANDLED} {BIASES}",
    ignored=f"{IGNORED} {WINDOWS}",
)
@family(
    "llama",
    model_types=["mistral"],
    handled=f"{HANDLED} sliding_window",
    ignored=f"{IGNORED} {ONE_WINDOW}",
)
@family("llama", model_types=["qwen2"], handled=f"{HANDLED} {WINDOWS}", ignored=IGNORED)
@family(
    "llama",
    model_types=["qwen3"],
    handled=f"{HANDLED} attention_bias {WINDOWS}",
    ignored=IGNORED,
)
def describe(model: Any) -> LiftedModel:
    """Describe a Llama, Mistral, Qwen2 or Qwen3 model for causal language modelling."""
    return llama_like(model)


@family(
    "llama",
    model_types=["smollm3"],
    handled=f"{HANDLED} {BIASES} no_rope_layers sliding_window use_sliding_window layer_types",
    ignored=f"{IGNORED} no_rope_layer_interval max_window_layers",
)
def describe_smollm3(model: Any) -> LiftedModel:
    """Describe a SmolLM3 model for causal language modelling."""
    return llama_like(model)


@family(
    "llama",
    model_types=["granite"],
    handled=f"""
        {HANDLED} {BIASES}
        embedding_multiplier logits_scaling residual_multiplier attention_multiplier
    """,
    ignored=f"{IGNORED} {WINDOWS}",
)
def describe_granite(model: Any) -> LiftedModel:
    """Describe a Granite model for causal language modelling."""
    config = model.config
    return llama_like(
        model,
        scale=config.attention_multiplier,
        output_scale=config.residual_multiplier,
        embed_scale=config.embedding_multiplier,
        logit_scale=1 / config.logits_scaling,
    )


@family(
    "llama",
    model_types=["arcee"],
    handled=f"{HANDLED} {BIASES}",
    ignored=f"{IGNORED} {WINDOWS}",
)
@family(
    "llama",
    model_types=["seed_oss"],
    handled=f"{HANDLED} {BIASES} attention_out_bias",
    ignored=f"{IGNORED} {WINDOWS} residual_dropout",
)
def describe_biased(model: Any) -> LiftedModel:
    """Describe an Arcee (MLP without gate) or Seed-OSS model for causal language modelling."""
    return llama_like(model)


@family(
    "llama",
    model_types=["helium"],
    handled=f"{HANDLED} {BIASES}",
    ignored=f"{IGNORED} {WINDOWS}",
)
@family(
    "llama",
    model_types=["ernie4_5"],
    handled=f"{HANDLED} use_bias",
    ignored=f"{IGNORED} {WINDOWS}",
)
def describe_interleaved(model: Any) -> LiftedModel:
    """Describe a Helium or Ernie 4.5 model for causal language modelling."""
    return llama_like(model, interleaved=True)


def llama_like(
    model: Any,
    *,
    name: str = "llama",
    mlp: Callable[[Any], MLP | Experts] | None = None,
    scale: float | None = None,
    output_scale: float = 1.0,
    embed_scale: float = 1.0,
    logit_scale: float = 1.0,
    interleaved: bool = False,
    **rest: Any,
) -> LiftedModel:
    """Describe a model whose modules are named as Llama's.

    Args:
        model: the live model.
        name: of the family.
        mlp: describes a layer's MLP module; default: gated.
        scale: of attention weights; default 1/√d_head.
        output_scale: of what heads and MLPs write.
        embed_scale, logit_scale: of the token embedding and the logits.
        interleaved: neighbouring features turn together.
        rest: further fields of each layer's attention.
    """
    config, body = model.config, model.model
    table = rotary(config, body.rotary_emb, interleaved=interleaved)
    describe_mlp = mlp or (lambda m: _mlp(m, config.hidden_act, output_scale))
    with_rotary = getattr(config, "no_rope_layers", None) or [True] * len(body.layers)

    def attention(layer: int, module: Any) -> Attention:
        q_norm, k_norm = getattr(module, "q_norm", None), getattr(module, "k_norm", None)
        return separate(
            module,
            module.o_proj,
            config.num_attention_heads,
            config.num_key_value_heads,
            scale=module.head_dim**-0.5 if scale is None else scale,
            rotary=table if with_rotary[layer] else None,
            window=_window(config, layer),
            q_norm=None if q_norm is None else rms_norm(q_norm),
            k_norm=None if k_norm is None else rms_norm(k_norm),
            output_scale=output_scale,
            **rest,
        )

    blocks = tuple(
        Block(
            attention_norm=rms_norm(block.input_layernorm),
            attention=attention(layer, block.self_attn),
            mlp_norm=rms_norm(block.post_attention_layernorm),
            mlp=describe_mlp(block.mlp),
        )
        for layer, block in enumerate(body.layers)
    )
    return assemble(
        name, model, body.embed_tokens, blocks, rms_norm(body.norm), table,
        embed_scale=embed_scale, logit_scale=logit_scale,
    )  # fmt: skip


def _mlp(module: Any, activation: str, output_scale: float) -> MLP:
    if hasattr(module, "gate_proj"):
        return gated(module, activation, output_scale=output_scale)
    return plain(module.up_proj, module.down_proj, activation)


def _window(config: Any, layer: int) -> int | None:
    """Return how far a layer sees: what the model's code reads, whatever else its config says."""
    types = ("mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "smollm3")
    if config.model_type not in types:
        return None
    if config.model_type in ("mistral", "mixtral", "qwen3_moe"):
        size: int | None = config.sliding_window
        return size
    return window(config, layer)
