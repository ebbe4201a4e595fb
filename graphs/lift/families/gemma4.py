"""Gemma 4 (text): layers of two kinds of heads, normalised values, a factor behind each layer.

The factor multiplies the whole stream. Here the stream is kept without it: what a layer adds is
divided by the factors of the layers before, and norms have their `eps` in the same units, which is
the same function. A mixture stands beside a plain MLP, between norms of its own, in one node.

E2B and E4B: `m{l}` includes the gate behind the MLP, which reads what the tokens give each layer
past the stream; the embedding sends it along its edge to `m{l}`. The last layers have no keys and
values of their own: their heads' ports for these read the stream where an earlier layer's do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from operator import mul
from typing import Any

import torch

from ...errors import UnsupportedModel
from ..devices import place
from ..experts import Beside, Routing
from ..lifted import MLP, Attention, Block, LiftedModel, Norm, SharedKeys
from ..lifting import UNREAD, family, require_activation
from ..mlp import TokenGate
from ._parts import (
    assemble,
    describe_blocks,
    feed_forward,
    linear,
    matrices,
    mixture,
    rotary_tables,
    window,
)
from .gemma import BOTH_WAYS
from .gemma3n import embeddings_per_layer, shared_sources

BOTH = """
    vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads
    num_key_value_heads head_dim rms_norm_eps rope_parameters attention_bias tie_word_embeddings
    hidden_activation sliding_window layer_types final_logit_softcapping attention_k_eq_v
    per_layer_config use_bidirectional_attention num_kv_shared_layers use_double_wide_mlp
"""
UNUSED = f"{UNREAD} hidden_act is_causal"
MIXED = f"""
    {BOTH} hidden_size_per_layer_input vocab_size_per_layer_input enable_moe_block num_experts
    top_k_experts moe_intermediate_size
"""


@family("gemma4", ["gemma4_text"], MIXED, UNUSED, [f"{BOTH_WAYS} (`all`)"])
@family("gemma4", ["gemma4_unified_text"], BOTH, UNUSED, [f"{BOTH_WAYS} (`all`)"])
def describe(model: Any) -> LiftedModel:
    """Describe a model of one of these types for causal language modelling."""
    config, body = model.config, model.model
    if config.use_bidirectional_attention == "all":
        raise UnsupportedModel("the Gemma model attends in both directions, not supported.")
    tables, sources = rotary_tables(config, body), shared_sources(config, body.layers)
    plain = Norm(None, None, config.rms_norm_eps, centred=False)

    def attention(block: Any, layer: int) -> Attention:
        module, source = block.self_attn, sources[layer]
        maker = module if source is None else body.layers[source].self_attn
        parts = [module.q_proj, maker.k_proj, maker.v_proj or maker.k_proj]
        heads, here = config.num_attention_heads, module.q_proj.weight.device
        biases = [part.bias for part in parts]
        return matrices(
            [place(part.weight, here) for part in parts],
            [None if bias is None else place(bias, here) for bias in biases], module.o_proj, heads,
            heads // module.num_key_value_groups, scale=module.scaling, rotary=tables[layer],
            window=window(config, layer), q_norm=_norm(module.q_norm),
            k_norm=_placed(_norm(maker.k_norm), here), value_norm=plain,
        )  # fmt: skip

    def mlp(block: Any) -> MLP | Beside:
        own = feed_forward(block.mlp, config.hidden_activation)
        if not getattr(block, "enable_moe_block", False):
            return own
        router, norms = block.router, (_norm(block.pre_feedforward_layernorm),)
        before = Norm(
            router.scale.detach(), None, router.eps, False, factor=router.scalar_root_size
        )
        experts = mixture(
            block, config.hidden_activation, config.top_k_experts, renormalise=True,
            router=router.proj.weight.detach(), router_norm=before,
            routing=Routing(scales=router.per_expert_scale.detach()), round_weights=False,
            experts_norm=_norm(block.pre_feedforward_layernorm_2),
        )  # fmt: skip
        return Beside(
            own, *norms, _norm(block.post_feedforward_layernorm_1), experts,
            _norm(block.post_feedforward_layernorm_2),
        )  # fmt: skip

    norms = (
        "input_layernorm", "pre_feedforward_layernorm", "post_attention_layernorm",
        "post_feedforward_layernorm",
    )  # fmt: skip
    scales = _scales(body.layers)
    blocks = describe_blocks(body.layers, _norm, attention, mlp, norms)
    blocks = tuple(
        replace(block, gate=_gate(layer, config))
        for block, layer in zip(blocks, body.layers, strict=True)
    )
    blocks = tuple(map(_in_units, blocks, scales))
    blocks = tuple(
        block if source is None else replace(
            block,
            shared=SharedKeys(source, _placed(blocks[source].attention_norm, block.device)),
        )
        for block, source in zip(blocks, sources, strict=True)
    )  # fmt: skip
    per_layer = None
    if getattr(config, "hidden_size_per_layer_input", 0):
        sizes = body.per_layer_model_projection_scale, body.per_layer_input_scale
        per_layer = embeddings_per_layer(body, *sizes)
    weight = body.embed_tokens.weight  # the scale is rounded to its type, as the models do
    return assemble(
        "gemma4", model, body.embed_tokens, blocks, _read(_norm(body.norm), scales[-1]), tables[0],
        embed_scale=float(weight.new_tensor(config.hidden_size**0.5)),
        logit_softcap=config.final_logit_softcapping, stream_scales=scales, per_layer=per_layer,
    )  # fmt: skip


def _norm(module: Any) -> Norm:
    return Norm(module.weight.detach(), None, module.eps, centred=False)


def _placed(norm: Norm | None, device: torch.device) -> Norm | None:
    """Describe an earlier layer's norm where a layer lies that reads its keys and values."""
    if norm is None or norm.weight is None:
        return norm
    return replace(norm, weight=place(norm.weight, device))


def _gate(layer: Any, config: Any) -> TokenGate | None:
    """Describe what a layer makes of what the tokens give it past the stream."""
    if not getattr(layer, "hidden_size_per_layer_input", 0):
        return None
    return TokenGate(
        linear(layer.per_layer_input_gate), linear(layer.per_layer_projection),
        require_activation(config.hidden_activation), _norm(layer.post_per_layer_input_norm),
    )  # fmt: skip


def _scales(layers: Sequence[Any]) -> tuple[float, ...]:
    """Return what the stream is multiplied by before each layer, and behind the last."""
    own = [float(layer.layer_scalar) for layer in layers]
    if min(own) <= 0:
        raise UnsupportedModel(
            f"a layer multiplies the stream by {min(own):g} (layer_scalar); accepted: above 0."
        )
    return tuple(accumulate(own, mul, initial=1.0))


def _read(norm: Norm | None, scale: float) -> Norm | None:
    """Describe a norm of the stream times a scale as one of the stream."""
    return None if norm is None else replace(norm, eps=norm.eps / scale**2)


def _written(norm: Norm | None, scale: float) -> Norm | None:
    """Describe a norm of what is added to the stream times a scale, in units of the stream."""
    return None if norm is None else replace(norm, factor=1 / scale)


def _in_units(block: Block, scale: float) -> Block:
    """Describe a block whose stream is multiplied by a scale as one that reads it without."""
    part = block.mlp
    if isinstance(part, Beside):
        experts = replace(
            part.experts,
            router_norm=_read(part.experts.router_norm, scale),
            experts_norm=_read(part.experts.experts_norm, scale),
        )
        part = replace(part, mlp_norm=_read(part.mlp_norm, scale), experts=experts)
    return replace(
        block,
        attention_norm=_read(block.attention_norm, scale),
        attention_post_norm=_written(block.attention_post_norm, scale),
        mlp_norm=None if isinstance(part, Beside) else _read(block.mlp_norm, scale),
        mlp=part,
        mlp_post_norm=_written(block.mlp_post_norm, scale),
        gate=None if block.gate is None else replace(
            block.gate, scale=scale, norm=replace(block.gate.norm, factor=1 / scale)
        ),
    )  # fmt: skip
