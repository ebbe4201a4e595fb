"""StableLM: LayerNorm, partial rotary, gated MLP, parallel or sequential."""

from __future__ import annotations

from typing import Any

from ..lifted import LiftedModel
from ..lifting import UNREAD, USUAL, family
from ._parts import layer_norm, rotary_decoder


@family(
    "stablelm",
    model_types=["stablelm"],
    handled=f"""
        {USUAL} layer_norm_eps partial_rotary_factor use_qkv_bias qk_layernorm
        use_parallel_residual head_dim
    """,
    ignored=f"{UNREAD} hidden_dropout",
)
def describe(model: Any) -> LiftedModel:
    """Describe a `StableLmForCausalLM`."""
    parallel, first = model.config.use_parallel_residual, "input_layernorm"
    second = first if parallel else "post_attention_layernorm"
    own = {"head_norm": lambda module: tuple(map(layer_norm, module.norms)), "parallel": parallel}
    return rotary_decoder("stablelm", model, layer_norm, first, second, **own)
