"""Cohere (Command R): one LayerNorm before a parallel block, interleaved rotary, scaled logits.

Queries and keys may be normalised with weights of each head's own. In Cohere 2 (Command R7B) most
layers see a window; the others know no positions; in Compass each kind may have its own. The
mixture (Command A+) may have RMSNorm, plain first layers, and shared experts whose output is
averaged with that of the others.
"""

from __future__ import annotations

from typing import Any

from ..experts import Experts, Routing
from ..lifted import MLP, Attention, LiftedModel, Norm
from ..lifting import UNREAD, USUAL, family
from ._parts import (
    ROUTER_LOSS,
    assemble,
    describe_blocks,
    feed_forward,
    layer_norm,
    mixture,
    rms_norm,
    rotary,
    rotary_heads,
    window,
)

HANDLED = f"{USUAL} logit_scale layer_norm_eps attention_bias head_dim"


@family("cohere", ["cohere"], f"{HANDLED} use_qk_norm", UNREAD)
@family("cohere", ["cohere2"], f"{HANDLED} sliding_window layer_types", UNREAD)
def describe(model: Any) -> LiftedModel:
    """Describe a `CohereForCausalLM` or a `Cohere2ForCausalLM`."""
    config, body = model.config, model.model
    table = rotary(config, body.rotary_emb, interleaved=True)
    first = config.model_type == "cohere"

    def attention(block: Any, layer: int) -> Attention:
        size = None if first else window(config, layer)
        turn = table if first or size is not None else None
        return rotary_heads(config, block.self_attn, turn, _head_norms, window=size)

    norms = ("input_layernorm", "input_layernorm")
    blocks = describe_blocks(body.layers, layer_norm, attention, config.hidden_act, norms)
    own = {"parallel": True, "logit_scale": config.logit_scale}
    last = layer_norm(body.norm)
    return assemble("cohere", model, body.embed_tokens, blocks, last, table, **own)


@family(
    "cohere",
    ["cohere_compass_text"],
    f"{HANDLED} sliding_window layer_types",
    f"{UNREAD} pooling sliding_window_pattern",
)
def describe_compass(model: Any) -> LiftedModel:
    """Describe a `CohereCompassForCausalLM`: a rotary table, or none, for each kind of layer."""
    config, body = model.config, model.model
    tables = {
        kind: rotary(config, body.rotary_emb, layers=kind)
        for kind in sorted(set(config.layer_types))
        if config.rope_parameters[kind] is not None
    }

    def attention(block: Any, layer: int) -> Attention:
        table, size = tables.get(config.layer_types[layer]), window(config, layer)
        return rotary_heads(config, block.self_attn, table, window=size)

    norms = ("input_layernorm", "input_layernorm")
    blocks = describe_blocks(body.layers, layer_norm, attention, config.hidden_act, norms)
    scale = 1.0 if config.logit_scale is None else config.logit_scale
    where = next(iter(tables.values()), "none")
    return assemble(
        "cohere", model, body.embed_tokens, blocks, layer_norm(body.norm), where,
        parallel=True, logit_scale=scale,
    )  # fmt: skip


@family(
    "cohere",
    ["cohere2_moe"],
    f"""{HANDLED} sliding_window layer_types rms_norm_eps num_experts num_experts_per_tok
    num_shared_experts shared_expert_combination_strategy expert_selection_fn norm_topk_prob
    mlp_layer_types prefix_dense_intermediate_size prefix_dense_sliding_window_pattern""",
    f"{UNREAD} {ROUTER_LOSS} rope_theta rope_scaling sliding_window_pattern first_k_dense_replace",
)
def describe_mixture(model: Any) -> LiftedModel:
    """Describe a `Cohere2MoeForCausalLM`."""
    config, body = model.config, model.model
    table = rotary(config, body.rotary_emb, interleaved=True)
    norm = layer_norm if config.rms_norm_eps is None else rms_norm
    softmax = config.expert_selection_fn == "softmax"

    def attention(block: Any, layer: int) -> Attention:
        module, size = block.self_attn, window(config, layer)
        turn = table if size is not None or module.force_rope else None
        return rotary_heads(config, module, turn, window=size)

    def mlp(block: Any) -> MLP | Experts:
        if not hasattr(block.mlp, "experts"):
            return feed_forward(block.mlp, config.hidden_act)
        halved = config.shared_expert_combination_strategy == "average"
        return mixture(
            block.mlp, config.hidden_act, config.num_experts_per_tok,
            renormalise=config.norm_topk_prob and not softmax,
            routing=Routing(score="chosen" if softmax else "sigmoid"),
            output_scale=0.5 if halved and config.num_shared_experts else 1.0,
        )  # fmt: skip

    blocks = describe_blocks(body.layers, norm, attention, mlp, ("input_layernorm",) * 2)
    own = {"parallel": True, "logit_scale": config.logit_scale}
    return assemble("cohere", model, body.embed_tokens, blocks, norm(body.norm), table, **own)


def _head_norms(module: Any) -> tuple[Norm, ...]:
    eps = module.variance_epsilon
    return tuple(Norm(row, None, eps, centred=True) for row in module.weight.detach())
