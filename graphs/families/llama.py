"""Llama and its like (SmolLM2, Mistral, Qwen2): RMSNorm, rotary, gated MLP, grouped k/v."""

from __future__ import annotations

from typing import Any

from ...errors import UnsupportedModel
from ..graph import ComputationGraph
from ..lifted import MLP, Attention, Block, LiftedModel, Linear, Norm, Rotary
from ..lifting import family, frozen, head_bias, head_rows, optional, require_activation

STATIC_ROTARY = ("default", "linear", "llama3", "yarn")
"""Rotary variants whose frequencies do not depend on the prompt's length."""


@family(
    "llama",
    model_types=["llama", "mistral", "qwen2"],
    handled="""
        vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads
        num_key_value_heads hidden_act rms_norm_eps rope_parameters rope_theta rope_scaling head_dim
        attention_bias mlp_bias tie_word_embeddings sliding_window use_sliding_window
        max_window_layers layer_types
    """,
    ignored="attention_dropout max_position_embeddings pretraining_tp",
)
def describe(model: Any) -> LiftedModel:
    """Describe a Llama, Mistral or Qwen2 model for causal language modelling."""
    config, body = model.config, model.model
    rotary = _rotary(config, body.rotary_emb)
    blocks = tuple(
        _block(config, block, rotary, _window(config, layer))
        for layer, block in enumerate(body.layers)
    )
    attention = blocks[0].attention
    tied = model.lm_head.weight.data_ptr() == body.embed_tokens.weight.data_ptr()
    windows = sorted({str(b.attention.window or "full") for b in blocks})
    return LiftedModel(
        family="llama",
        tokens=frozen(body.embed_tokens.weight),
        positions=None,
        blocks=blocks,
        final_norm=_norm(body.norm),
        unembed=Linear(frozen(model.lm_head.weight), optional(model.lm_head.bias)),
        graph=ComputationGraph(
            layers=len(blocks), heads=attention.heads, kv_heads=attention.kv_heads
        ),
        variants={
            "norm": "RMSNorm",
            "positions": f"rotary ({config.rope_parameters['rope_type']}), "
            f"base {config.rope_parameters['rope_theta']:g}",
            "attention": f"{attention.heads} heads of {attention.wq.shape[1]}, "
            f"{attention.kv_heads} key/value heads",
            "window": ", ".join(windows),
            "biases": _biases(attention, blocks[0].mlp),
            "MLP": f"gated, {config.hidden_act}",
            "unembedding": "tied" if tied else "untied",
        },
    )


def _block(config: Any, block: Any, rotary: Rotary, window: int | None) -> Block:
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    attn = block.self_attn
    return Block(
        attention_norm=_norm(block.input_layernorm),
        attention=Attention(
            wq=head_rows(attn.q_proj.weight, heads),
            wk=head_rows(attn.k_proj.weight, groups),
            wv=head_rows(attn.v_proj.weight, groups),
            wo=head_rows(attn.o_proj.weight.t(), heads),
            bq=head_bias(attn.q_proj.bias, heads),
            bk=head_bias(attn.k_proj.bias, groups),
            bv=head_bias(attn.v_proj.bias, groups),
            bo=optional(attn.o_proj.bias),
            scale=attn.head_dim**-0.5,
            rotary=rotary,
            window=window,
        ),
        mlp_norm=_norm(block.post_attention_layernorm),
        mlp=MLP(
            gate=_linear(block.mlp.gate_proj),
            up=_linear(block.mlp.up_proj),
            down=_linear(block.mlp.down_proj),
            activation=require_activation(config.hidden_act),
        ),
    )


def _rotary(config: Any, module: Any) -> Rotary:
    kind = config.rope_parameters["rope_type"]
    if kind not in STATIC_ROTARY:
        raise UnsupportedModel(
            f"rotary scaling '{kind}' changes with the prompt's length and is not supported; "
            f"supported: {', '.join(STATIC_ROTARY)}."
        )
    return Rotary(frozen(module.inv_freq), float(module.attention_scaling))


def _window(config: Any, layer: int) -> int | None:
    window: int | None = getattr(config, "sliding_window", None)
    types = getattr(config, "layer_types", None)
    if window is None or (types is not None and types[layer] == "full_attention"):
        return None
    return window


def _norm(module: Any) -> Norm:
    return Norm(frozen(module.weight), None, module.variance_epsilon, centred=False)


def _linear(module: Any) -> Linear:
    return Linear(frozen(module.weight), optional(module.bias))


def _biases(attention: Attention, mlp: MLP) -> str:
    parts = {
        "q": attention.bq, "k": attention.bk, "v": attention.bv, "o": attention.bo,
        "mlp": mlp.up.bias,
    }  # fmt: skip
    return ", ".join(name for name, bias in parts.items() if bias is not None) or "none"
