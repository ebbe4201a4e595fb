"""Mixtures of experts with Llama's attention: Mixtral, both Qwens, OLMoE, Ernie, Hunyuan, MiniMax.

Each expert is a sender; see ../experts.py. Qwen2-MoE has a shared expert too. Both kinds of Qwen
can have layers with a plain MLP. OLMoE's norms of queries and keys take all heads together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from ..experts import Experts, Routing, SharedExpert
from ..lifted import MLP, LiftedModel
from ..lifting import family
from ._parts import ROUTER_LOSS, feed_forward, mixture
from .llama import HANDLED as LLAMA
from .llama import IGNORED as LLAMA_IGNORED
from .llama import ONE_WINDOW, WINDOWS, llama_like

HANDLED = f"{LLAMA} num_experts num_experts_per_tok"
IGNORED = f"{LLAMA_IGNORED} {ROUTER_LOSS}"

QWEN = f"{HANDLED} moe_intermediate_size norm_topk_prob mlp_only_layers decoder_sparse_step"
QWEN_2 = f"{QWEN} {WINDOWS} qkv_bias shared_expert_intermediate_size"
QWEN_3 = f"{QWEN} attention_bias sliding_window use_sliding_window num_local_experts"


@family(
    "mixtral",
    ["mixtral"],
    f"{LLAMA} num_local_experts num_experts_per_tok sliding_window",
    f"{IGNORED} {ONE_WINDOW} router_jitter_noise",  # the jitter: in training only
)
def describe_mixtral(model: Any) -> LiftedModel:
    """Describe a Mixtral model for causal language modelling."""
    return _describe(model, "mixtral", renormalise=True, round_weights=False)


@family("qwen-moe", ["qwen2_moe"], QWEN_2, IGNORED)
@family("qwen-moe", ["qwen3_moe"], QWEN_3, f"{IGNORED} max_window_layers layer_types")
def describe_qwen(model: Any) -> LiftedModel:
    """Describe a Qwen2-MoE or Qwen3-MoE model for causal language modelling."""
    return _describe(model, "qwen-moe", renormalise=model.config.norm_topk_prob)


@family(
    "olmoe", ["olmoe"], f"{HANDLED} attention_bias norm_topk_prob clip_qkv", f"{IGNORED} {WINDOWS}"
)
def describe_olmoe(model: Any) -> LiftedModel:
    """Describe an OLMoE model for causal language modelling."""
    attention = {"norm_together": True, "clip": model.config.clip_qkv}
    return _describe(model, "olmoe", attention, renormalise=model.config.norm_topk_prob)


@family(
    "ernie-moe",
    ["ernie4_5_moe"],
    f"""{LLAMA} use_bias moe_intermediate_size moe_k moe_num_experts moe_num_shared_experts
    moe_layer_start_index moe_layer_end_index moe_layer_interval moe_norm_min""",
    f"{IGNORED} {WINDOWS}",
)
def describe_ernie(model: Any) -> LiftedModel:
    """Describe an Ernie 4.5 mixture: corrected scores choose, shared experts without a gate."""

    def routing(module: Any) -> Routing:
        bias = module.gate.moe_statics.e_score_correction_bias.detach()[0]
        return Routing(wide=True, correction=bias, least=model.config.moe_norm_min)

    return _describe(model, "ernie-moe", routing=routing, renormalise=True)


@family(
    "hunyuan-moe",
    ["hunyuan_v1_moe"],
    f"{LLAMA} attention_bias num_experts moe_topk",
    f"{IGNORED} eod_token_id {WINDOWS}",
)
def describe_hunyuan(model: Any) -> LiftedModel:
    """Describe a Hunyuan mixture: a shared MLP, queries and keys normalised behind the rotation."""
    activation: str = model.config.hidden_act

    def mlp(module: Any) -> Experts:
        gate = module.gate
        single = gate.wg.weight.dtype == torch.float32  # whatever the type of the other weights
        return mixture(
            module, activation, gate.top_k, renormalise=True, router=gate.wg.weight.detach(),
            routing=Routing(wide=single), round_weights=not single,
            shared=SharedExpert(feed_forward(module.shared_mlp, activation)),
        )  # fmt: skip

    return llama_like(model, name="hunyuan-moe", mlp=mlp, norm_after=True)


@family(
    "minimax-m2",
    ["minimax_m2"],
    f"{LLAMA} num_local_experts num_experts_per_tok",
    f"{IGNORED} {WINDOWS} router_jitter_noise rotary_dim",
)
def describe_minimax(model: Any) -> LiftedModel:
    """Describe a MiniMax M2 model: sigmoid scores, norms of all queries and keys together."""

    def routing(module: Any) -> Routing:
        return Routing(score="sigmoid", correction=module.e_score_correction_bias)

    return _describe(
        model, "minimax-m2", {"norm_together": True}, routing, renormalise=True, round_weights=False
    )


def _describe(
    model: Any,
    name: str,
    attention: Mapping[str, Any] | None = None,
    routing: Callable[[Any], Routing] | None = None,
    **rest: Any,
) -> LiftedModel:
    """Describe a model; `attention`, `rest`: further fields of its attention and its experts.

    `routing` describes a layer's routing by its module, where it is not as usual.
    """
    activation: str = model.config.hidden_act

    def mlp(module: Any) -> MLP | Experts:
        if not hasattr(module, "experts"):
            return feed_forward(module, activation)
        own = rest if routing is None else {**rest, "routing": routing(module)}
        return mixture(module, activation, model.config.num_experts_per_tok, **own)

    return llama_like(model, name=name, mlp=mlp, **(attention or {}))
