"""Tiny random models of every lifted family, and the definition of a circuit's run, spelled out."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
    StableLmConfig,
    StableLmForCausalLM,
)

from edgewise.graphs.lifted import AttentionContext, LiftedModel
from edgewise.graphs.lifting import describe
from edgewise.graphs.names import Kind
from edgewise.patching.prompts import Pair, PromptPairs
from edgewise.patching.runner import Chunk

GPT2 = {"vocab_size": 31, "n_positions": 24, "n_embd": 16, "n_layer": 2, "n_head": 2}
LLAMA = {
    "vocab_size": 31, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 24,
}  # fmt: skip
YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 8,
    "rope_theta": 1e4,
}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8, "rope_theta": 1e4,
}  # fmt: skip

GEMMA = {**LLAMA, "head_dim": 6}
NEOX = {
    "vocab_size": 31, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "max_position_embeddings": 24, "rotary_pct": 0.5,
}  # fmt: skip
OPT = {
    "vocab_size": 31, "hidden_size": 16, "ffn_dim": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "max_position_embeddings": 24, "word_embed_proj_dim": 16,
}  # fmt: skip
GPT_NEO = {
    "vocab_size": 31, "hidden_size": 16, "num_layers": 2, "num_heads": 2, "window_size": 3,
    "attention_types": [[["global", "local"], 1]], "max_position_embeddings": 24,
}  # fmt: skip

CONFIGS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "gpt2": (GPT2Config, GPT2LMHeadModel, GPT2),
    "gpt2-one-head": (GPT2Config, GPT2LMHeadModel, {**GPT2, "n_head": 1, "n_layer": 3}),
    "gpt2-untied-relu": (
        GPT2Config,
        GPT2LMHeadModel,
        {**GPT2, "tie_word_embeddings": False, "activation_function": "relu", "n_inner": 20},
    ),
    "gpt2-scales": (
        GPT2Config,
        GPT2LMHeadModel,
        {**GPT2, "scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True},
    ),
    "gpt2-eps": (GPT2Config, GPT2LMHeadModel, {**GPT2, "layer_norm_epsilon": 0.1}),
    "llama": (LlamaConfig, LlamaForCausalLM, LLAMA),
    "llama-ungrouped": (LlamaConfig, LlamaForCausalLM, {**LLAMA, "num_key_value_heads": 4}),
    "llama-multi-query": (LlamaConfig, LlamaForCausalLM, {**LLAMA, "num_key_value_heads": 1}),
    "llama-biases-tied": (
        LlamaConfig,
        LlamaForCausalLM,
        {**LLAMA, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    ),
    "llama-wide-heads": (
        LlamaConfig,
        LlamaForCausalLM,
        {**LLAMA, "head_dim": 6, "hidden_act": "gelu", "rms_norm_eps": 0.1},
    ),
    "llama-linear": (
        LlamaConfig,
        LlamaForCausalLM,
        {**LLAMA, "rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 1e3}},
    ),
    "llama-llama3": (LlamaConfig, LlamaForCausalLM, {**LLAMA, "rope_parameters": LLAMA3}),
    "llama-yarn": (LlamaConfig, LlamaForCausalLM, {**LLAMA, "rope_parameters": YARN}),
    "mistral-window": (MistralConfig, MistralForCausalLM, {**LLAMA, "sliding_window": 3}),
    "mistral-full": (MistralConfig, MistralForCausalLM, {**LLAMA, "sliding_window": None}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, LLAMA),
    "qwen2-some-windows": (
        Qwen2Config,
        Qwen2ForCausalLM,
        {**LLAMA, "use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1},
    ),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {**LLAMA, "head_dim": 6}),
    "qwen3-biases-windows": (
        Qwen3Config,
        Qwen3ForCausalLM,
        {
            **LLAMA,
            "head_dim": 4,
            "attention_bias": True,
            "use_sliding_window": True,
            "sliding_window": 3,
            "max_window_layers": 1,
        },
    ),
    "granite": (
        GraniteConfig,
        GraniteForCausalLM,
        {
            **LLAMA,
            "embedding_multiplier": 3.0,
            "logits_scaling": 0.5,
            "residual_multiplier": 0.3,
            "attention_multiplier": 0.7,
            "attention_bias": True,
        },
    ),
    "granite-plain": (GraniteConfig, GraniteForCausalLM, {**LLAMA, "mlp_bias": True}),
    "smollm3": (
        SmolLM3Config,
        SmolLM3ForCausalLM,
        {**LLAMA, "no_rope_layers": [1, 0], "pad_token_id": 0},
    ),
    "smollm3-windows": (
        SmolLM3Config,
        SmolLM3ForCausalLM,
        {
            **LLAMA,
            "pad_token_id": 0,
            "no_rope_layers": [0, 1],
            "use_sliding_window": True,
            "sliding_window": 2,
            "tie_word_embeddings": False,
            "attention_bias": True,
        },
    ),
    "gpt-neox": (GPTNeoXConfig, GPTNeoXForCausalLM, NEOX),
    "gpt-neox-sequential": (
        GPTNeoXConfig,
        GPTNeoXForCausalLM,
        {
            **NEOX,
            "use_parallel_residual": False,
            "attention_bias": False,
            "rotary_pct": 1.0,
            "tie_word_embeddings": True,
            "hidden_act": "gelu_new",
        },
    ),
    "phi": (PhiConfig, PhiForCausalLM, LLAMA),
    "phi-norms": (
        PhiConfig,
        PhiForCausalLM,
        {
            **LLAMA,
            "num_key_value_heads": 4,
            "qk_layernorm": True,
            "hidden_act": "relu",
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e3,
                "partial_rotary_factor": 1.0,
            },
        },
    ),
    "phi3": (Phi3Config, Phi3ForCausalLM, {**LLAMA, "pad_token_id": 0}),
    "phi3-window": (
        Phi3Config,
        Phi3ForCausalLM,
        {**LLAMA, "pad_token_id": 0, "sliding_window": 3, "tie_word_embeddings": True},
    ),
    "stablelm": (StableLmConfig, StableLmForCausalLM, {**LLAMA, "hidden_size": 32}),
    "stablelm-parallel": (
        StableLmConfig,
        StableLmForCausalLM,
        {**LLAMA, "hidden_size": 32, "use_parallel_residual": True, "use_qkv_bias": True},
    ),
    "cohere": (CohereConfig, CohereForCausalLM, {**LLAMA, "logit_scale": 0.25}),
    "cohere-biases": (
        CohereConfig,
        CohereForCausalLM,
        {**LLAMA, "attention_bias": True, "tie_word_embeddings": False, "layer_norm_eps": 0.1},
    ),
    "opt": (OPTConfig, OPTForCausalLM, OPT),
    "opt-no-biases": (
        OPTConfig,
        OPTForCausalLM,
        {**OPT, "enable_bias": False, "activation_function": "gelu", "tie_word_embeddings": False},
    ),
    "gemma": (GemmaConfig, GemmaForCausalLM, GEMMA),
    "gemma-untied-biases": (
        GemmaConfig,
        GemmaForCausalLM,
        {**GEMMA, "attention_bias": True, "tie_word_embeddings": False, "hidden_act": "gelu"},
    ),
    "gemma2": (
        Gemma2Config,
        Gemma2ForCausalLM,
        {**GEMMA, "sliding_window": 3, "query_pre_attn_scalar": 7, "attn_implementation": "eager"},
    ),
    "gemma2-caps": (
        Gemma2Config,
        Gemma2ForCausalLM,
        {
            **GEMMA,
            "attention_bias": True,
            "final_logit_softcapping": 2.0,
            "attn_logit_softcapping": 1.5,
            "attn_implementation": "eager",
        },
    ),
    "gemma3": (
        Gemma3TextConfig,
        Gemma3ForCausalLM,
        {
            **GEMMA,
            "sliding_window": 3,
            "query_pre_attn_scalar": 9,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "gemma3-one-kind": (
        Gemma3TextConfig,
        Gemma3ForCausalLM,
        {
            **GEMMA,
            "num_key_value_heads": 4,
            "layer_types": ["full_attention"] * 2,
            "final_logit_softcapping": 3.0,
            "rms_norm_eps": 0.01,
        },
    ),
    "gpt-neo": (GPTNeoConfig, GPTNeoForCausalLM, GPT_NEO),
    "gpt-neo-untied": (
        GPTNeoConfig,
        GPTNeoForCausalLM,
        {
            **GPT_NEO,
            "attention_types": [[["local"], 2]],
            "window_size": 2,
            "tie_word_embeddings": False,
            "intermediate_size": 20,
        },
    ),
}


def tiny_model(name: str, seed: int = 0, dtype: torch.dtype = torch.float64) -> Any:
    """Make a random model whose every parameter (biases and norms too) is far from its default."""
    config_class, model_class, options = CONFIGS[name]
    torch.manual_seed(seed)
    model = model_class(config_class(**options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            spread = 0.3 if parameter.dim() > 1 else 0.5
            parameter.add_(torch.randn_like(parameter) * spread)
    return model.to(dtype)


def tiny_lift(
    name: str, seed: int = 0, dtype: torch.dtype = torch.float64, **graph: Any
) -> LiftedModel:
    """Lift a tiny random model."""
    return describe(tiny_model(name, seed, dtype), **graph)


def tiny_pairs(
    seed: int = 0, lengths: tuple[int, ...] = (6, 6, 6), vocabulary: int = 31, shared: bool = True
) -> PromptPairs:
    """Make random pairs that differ in some tokens; answers stand before the end in some."""
    draw = random.Random(seed)
    pairs = []
    for i, length in enumerate(lengths):
        clean = [draw.randrange(vocabulary) for _ in range(length)]
        same = draw.randrange(max(1, length - 1)) if shared else 0  # tokens before the first change
        corrupted = [
            draw.randrange(vocabulary) if t > same and draw.random() < 0.5 else token
            for t, token in enumerate(clean)
        ]
        corrupted[same] = (clean[same] + draw.randrange(1, vocabulary)) % vocabulary
        answer, wrong, other = draw.sample(range(vocabulary), 3)
        position = length - 1 - (i % 2 if length > 2 else 0)
        answers = (answer, other) if i % 3 == 0 else (answer,)
        pairs.append(Pair(tuple(clean), tuple(corrupted), answers, (wrong,), position))
    return PromptPairs(tuple(pairs), name="tiny")


def whole(chunk: Chunk) -> AttentionContext:
    """Return the attention context of a chunk without a window."""
    return AttentionContext(chunk.batch.mask, chunk.batch.position_ids)


def naive_values(model: LiftedModel, ids: Tensor, context: AttentionContext) -> list[Tensor]:
    """Return what every sender writes on token ids, by the plain definition, one at a time."""
    everything = np.ones_like(model.graph.reads, dtype=float)
    zeros = [torch.zeros(())] * len(model.graph.senders)
    return naive_run(model, ids, context, zeros, torch.from_numpy(everything))[0]


def naive_run(
    model: LiftedModel,
    ids: Tensor,
    context: AttentionContext,
    ablated: list[Tensor],
    mask: Tensor,
    offsets: dict[int, Tensor] | None = None,
) -> tuple[list[Tensor], Tensor]:
    """Run a circuit as the definition says: x_p = Σ m o_u + Σ (1 − m) a_u + constants.

    `mask` [ports, senders] may be soft; `offsets` are added to ports, by row. Returns what
    senders wrote and the stream at `logits`.
    """
    graph = model.graph
    wrote: list[Tensor] = list(model.embed(ids, context.position_ids).unbind(0))

    def stream(row: int, layer: int) -> Tensor:
        total = torch.zeros_like(wrote[0])
        if offsets is not None:
            total = total + offsets[row]
        for column in np.flatnonzero(graph.reads[row]):
            m = mask[row, column]
            total = total + m * wrote[column] + (1 - m) * ablated[column]
        if not graph.post_norm:
            for block in model.blocks[:layer]:
                if block.attention.constant is not None:
                    total = total + block.attention.constant
        return total

    rows = {
        (p.node.kind, p.node.layer, p.node.index, p.letter): i for i, p in enumerate(graph.ports)
    }
    for layer, block in enumerate(model.blocks):
        attention = block.attention
        for head in range(graph.heads):
            inputs = []
            for letter in "qkv":
                group = head // attention.share
                grouped = graph.grouped_kv and letter != "q"
                kind, index = (Kind.KV, group) if grouped else (Kind.HEAD, head)
                x = block.attention_norm(stream(rows[kind, layer, index, letter], layer))
                weight, bias = attention.projection(letter)
                at = head if letter == "q" else group
                y = x @ weight[at].t() + (0 if bias is None else bias[at])
                inputs.append(y[..., None, :])
            z = attention.mix(*inputs, context)[..., 0, :]
            wrote.append(z @ attention.wo[head] * attention.output_scale)
        if graph.post_norm:
            summed = stream(rows[Kind.POST, layer, None, None], layer)
            constant = attention.constant
            wrote.append(block.write_post(summed if constant is None else summed + constant))
        after = layer if graph.parallel else layer + 1
        wrote.append(block.write(stream(rows[Kind.MLP, layer, None, None], after)))
    return wrote, stream(len(graph.ports) - 1, len(model.blocks))


def random_mask(graph: Any, density: float, seed: int) -> np.ndarray:
    """Keep each edge with a probability."""
    return graph.reads & (np.random.default_rng(seed).random(graph.reads.shape) < density)
