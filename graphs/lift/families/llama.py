"""Llama and its like: RMSNorm, rotary positions, gated MLP, shared keys and values.

Covers SmolLM2, Llama 1 to 3, Mistral, Qwen2, InternLM3, IQuest-Coder, Emu 3 (text); with windows in
some layers Ministral and CWM; with queries stretched in long prompts Ministral 3; with q/k norms
per head Qwen3, and behind the rotation Hunyuan; with layers without rotary positions SmolLM3;
without gate in the MLP Arcee; with a bias setting of its own for the output Seed-OSS; with
interleaved rotary positions Helium and Ernie 4.5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..attention import Temperature
from ..experts import Experts
from ..lifted import MLP, Attention, LiftedModel
from ..lifting import UNREAD, USUAL, family
from ._parts import assemble, describe_blocks, feed_forward, rms_norm, rotary, rotary_heads, window

HANDLED = f"{USUAL} rms_norm_eps rope_theta head_dim"
BIASES = "attention_bias mlp_bias"
WINDOWS = "sliding_window use_sliding_window max_window_layers layer_types"
IGNORED = f"{UNREAD} pretraining_tp"
ONE_WINDOW = "use_sliding_window max_window_layers layer_types"
"""What only the code of other types reads, where every layer has the one window of the config."""


MIXED = (
    "qwen2", "qwen2_moe", "qwen3", "smollm3", "ministral", "cwm",
    "qwen2_vl_text", "qwen2_5_vl_text", "qwen2_5_omni_text",
)  # fmt: skip
"""Types whose layers see a window, or not, as the config's `layer_types` say."""


@family("llama", ["llama", "arcee", "helium"], f"{HANDLED} {BIASES}", f"{IGNORED} {WINDOWS}")
@family("llama", ["mistral"], f"{HANDLED} sliding_window", f"{IGNORED} {ONE_WINDOW}")
@family("llama", ["ministral3"], f"{HANDLED} sliding_window", f"{IGNORED} {ONE_WINDOW}")
@family("llama", ["ministral"], f"{HANDLED} sliding_window layer_types", UNREAD)
@family("llama", ["cwm"], f"{HANDLED} mlp_bias sliding_window layer_types", IGNORED)
@family(
    "llama",
    ["internlm3", "iquestcoder", "emu3_text_model"],
    f"{HANDLED} {BIASES}",
    f"{IGNORED} {WINDOWS}",
)
@family("llama", ["hunyuan_v1_dense"], f"{HANDLED} attention_bias", f"{IGNORED} eod_token_id")
@family("llama", ["qwen2"], f"{HANDLED} {WINDOWS}", IGNORED)
@family("llama", ["qwen3"], f"{HANDLED} attention_bias {WINDOWS}", IGNORED)
@family(
    "llama",
    ["smollm3"],
    f"{HANDLED} {BIASES} no_rope_layers sliding_window use_sliding_window layer_types",
    f"{IGNORED} no_rope_layer_interval max_window_layers",
)
@family(
    "llama",
    ["seed_oss"],
    f"{HANDLED} {BIASES} attention_out_bias",
    f"{IGNORED} {WINDOWS} residual_dropout",
)
@family("llama", ["ernie4_5"], f"{HANDLED} use_bias", f"{IGNORED} {WINDOWS}")
def describe(model: Any) -> LiftedModel:
    """Describe a model of one of these types for causal language modelling."""
    config = model.config
    own: dict[str, Any] = {"norm_after": config.model_type == "hunyuan_v1_dense"}
    if config.model_type == "ministral3":
        scaling = config.rope_parameters
        rate, length = scaling["llama_4_scaling_beta"], scaling["original_max_position_embeddings"]
        own["temperature"] = Temperature(rate, length)
    return llama_like(model, **own)


def llama_like(
    model: Any,
    *,
    name: str = "llama",
    mlp: Callable[[Any], MLP | Experts] | None = None,
    norms: Sequence[str | None] = ("input_layernorm", "post_attention_layernorm"),
    **rest: Any,
) -> LiftedModel:
    """Describe a model whose modules are named as Llama's; `name` is the family's.

    `mlp` describes a layer's MLP module; default: gated, or plain without a gate. `norms`: as of
    `describe_blocks`. `rest`: further fields of each layer's attention; MLPs have its
    `output_scale`.
    """
    config, body = model.config, model.model
    interleaved = config.model_type in ("helium", "ernie4_5", "ernie4_5_moe")
    table = rotary(config, body.rotary_emb, interleaved=interleaved)
    turns = getattr(config, "no_rope_layers", None) or [True] * len(body.layers)

    def attention(block: Any, layer: int) -> Attention:
        turn, seen = table if turns[layer] else None, _window(config, layer)
        return rotary_heads(config, block.self_attn, turn, window=seen, **rest)

    scale = rest.get("output_scale", 1.0)
    inner = mlp or (lambda module: feed_forward(module, config.hidden_act, scale))
    of_block: Callable[[Any], MLP | Experts] = lambda block: inner(block.mlp)  # noqa: E731
    blocks = describe_blocks(body.layers, rms_norm, attention, of_block, norms)
    return assemble(name, model, body.embed_tokens, blocks, rms_norm(body.norm), table)


def _window(config: Any, layer: int) -> int | None:
    """Return how far a layer sees: what the model's code reads, whatever else its config says."""
    if config.model_type in ("mistral", "ministral3", "mixtral", "qwen3_moe"):
        size: int | None = config.sliding_window
        return size
    return window(config, layer) if config.model_type in MIXED else None
