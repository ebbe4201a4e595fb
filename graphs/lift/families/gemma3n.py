"""Gemma 3n (text): streams side by side that each layer mixes, and so each layer taken whole.

A layer reads and writes all of the streams at once (alternating updates), so that no part of it
adds to a stream by itself: the whole layer is the node `s{l}`, and there is no MLP beside it. What
tokens give each layer past the streams (embeddings per layer), and the keys and values that some
layers make for later ones, have features of their own in the stream here: see lift/own/packed.py.
"""

from __future__ import annotations

from typing import Any

from ..lifted import LiftedModel, Linear, Norm
from ..lifting import UNREAD, family
from ..own.observing import name_in
from ..own.packed import PER_LAYER, Gathered, PackedLayer, Packing, PerLayer, Spread
from ..whole import WholePart
from ._parts import assemble, describe_blocks, linear

HANDLED = """
    vocab_size hidden_size num_hidden_layers num_key_value_heads head_dim rms_norm_eps
    tie_word_embeddings layer_types final_logit_softcapping vocab_size_per_layer_input
    hidden_size_per_layer_input altup_num_inputs num_kv_shared_layers
"""
INSIDE = """
    intermediate_size num_attention_heads hidden_activation rope_parameters attention_bias
    sliding_window altup_active_idx altup_correct_scale laurel_rank activation_sparsity_pattern
"""


@family("gemma3n", ["gemma3n_text"], HANDLED, f"{UNREAD} altup_coef_clip hidden_act", inside=INSIDE)
def describe(model: Any) -> LiftedModel:
    """Describe a Gemma 3n model for causal language modelling."""
    config, body = model.config, model.model
    sources = shared_sources(config, body.layers)
    packing = Packing(
        config.altup_num_inputs, config.hidden_size, config.hidden_size_per_layer_input,
        config.num_hidden_layers, tuple(sorted({one for one in sources if one is not None})),
        2 * config.num_key_value_heads * config.head_dim,
    )  # fmt: skip
    names = [name_in(model, layer) for layer in body.layers]
    calls = PackedLayer.calls_of(model, names, PER_LAYER)

    def whole(block: Any, layer: int) -> PackedLayer:
        return PackedLayer(
            (WholePart(names[layer], block),), calls, label=type(block).__name__, packing=packing,
            layer=layer, kind=config.layer_types[layer], source=sources[layer],
            groups=config.num_key_value_heads,
        )  # fmt: skip

    blocks = describe_blocks(body.layers, _norm, whole, lambda _: None, (None, None))
    per_layer = embeddings_per_layer(
        body, float(body.per_layer_projection_scale), float(body.per_layer_input_scale)
    )
    lifted = assemble(
        "gemma3n", model, body.embed_tokens, blocks,
        Gathered(packing, _linears(body.altup_unembed_projections), _norm(body.norm)),
        "rotary, within the layers", embed_scale=scale_of(body.embed_tokens),
        logit_softcap=config.final_logit_softcapping,
        spread=Spread(packing, _linears(body.altup_projections), per_layer),
    )  # fmt: skip
    lifted.variants["streams"] = f"{packing.count} of {packing.width} features, side by side"
    if shared := sum(one is not None for one in sources):
        lifted.variants["keys and values"] = f"of an earlier layer in {shared} layers"
    return lifted


def shared_sources(config: Any, layers: Any) -> list[int | None]:
    """Tell, for each layer, the earlier one whose keys and values it reads; None: its own.

    That is the last of its kind which has its own.
    """
    shares = [layer.self_attn.is_kv_shared_layer for layer in layers]
    makers = {kind: i for i, kind in enumerate(config.layer_types) if not shares[i]}
    kinds = zip(config.layer_types, shares, strict=False)
    return [makers[kind] if shared else None for kind, shared in kinds]


def embeddings_per_layer(body: Any, scale: float, factor: float) -> PerLayer:
    """Describe what the tokens give each layer past the stream.

    `scale`: of the projected embedding; `factor`: of the sum with the table's.
    """
    table = body.embed_tokens_per_layer
    return PerLayer(
        table.weight.detach(), scale_of(table), linear(body.per_layer_model_projection),
        scale, _norm(body.per_layer_projection_norm), factor, len(body.layers),
    )  # fmt: skip


def scale_of(embedding: Any) -> float:
    """Return what an embedding is multiplied by, rounded to its type as the models do."""
    return float(embedding.embed_scale.to(embedding.weight.dtype))


def _linears(modules: Any) -> tuple[Linear, ...]:
    return tuple(linear(module) for module in modules)


def _norm(module: Any) -> Norm:
    return Norm(module.weight.detach(), None, module.eps, centred=False)
