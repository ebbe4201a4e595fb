"""Mixtures of experts with Llama's attention: Mixtral, Qwen2-MoE, Qwen3-MoE, OLMoE.

Each expert is a sender; see ../experts.py. Qwen2-MoE has a shared expert too. Both kinds of Qwen
can have layers with a plain MLP. OLMoE's norms of queries and keys take all heads together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..experts import Experts
from ..lifted import MLP, LiftedModel
from ..lifting import family
from ._parts import feed_forward, mixture
from .llama import HANDLED as LLAMA
from .llama import IGNORED as LLAMA_IGNORED
from .llama import ONE_WINDOW, WINDOWS, llama_like

HANDLED = f"{LLAMA} num_experts num_experts_per_tok"
IGNORED = f"{LLAMA_IGNORED} output_router_logits router_aux_loss_coef"
"""The router's losses and its logits as an output do not alter the logits of the model."""

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


def _describe(
    model: Any, name: str, attention: Mapping[str, Any] | None = None, **rest: Any
) -> LiftedModel:
    """Describe a model; `attention`, `rest`: further fields of its attention and its experts."""
    activation: str = model.config.hidden_act

    def mlp(module: Any) -> MLP | Experts:
        if not hasattr(module, "experts"):
            return feed_forward(module, activation)
        return mixture(module, activation, model.config.num_experts_per_tok, **rest)

    return llama_like(model, name=name, mlp=mlp, **(attention or {}))
