"""A described model as arrays on one device, and what it computes before and behind its layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple
from weakref import finalize

import jax
import jax.numpy as jnp
import torch
from jax import Array

from ...graphs.errors import UnsupportedModel
from ...graphs.lift.lifted import Attention, LiftedModel
from ...graphs.lift.mlp import Neurons
from ...graphs.lift.norms import working_dtype
from ...graphs.lift.own.packed import Gathered
from ..run.memory import free_bytes, share_the_card
from .crossing import ArrayPart, crossed, tensors, with_distances
from .parts.layers import BlockShape
from .parts.norms import linear, normalise
from .segments import Run, bytes_to_copy, layer_runs, stack_run


@dataclass(frozen=True)
class ModelPlan:
    """What of a model decides what is compiled, beside the shapes of its arrays.

    `kept`: how many layers' streams later layers make keys and values of.
    """

    runs: tuple[Run, ...]
    shape: BlockShape
    sources: int
    kept: int


class Weights(NamedTuple):
    """A model's arrays; a tree. `layers`: for each run, for each layer of its pattern."""

    tokens: Array
    positions: Array | None
    embed_scale: Array
    embed_norm: ArrayPart | None
    per_layer: ArrayPart | None
    layers: Any
    marks: Any
    final_norm: ArrayPart | None
    unembed: ArrayPart
    logit_scale: Array
    logit_softcap: Array | None


@dataclass(frozen=True, eq=False)
class CompiledModel:
    """A described model, handed over to JAX."""

    plan: ModelPlan
    weights: Weights
    device: Any


_MADE: dict[tuple[int, str], CompiledModel] = {}
"""Models that crossed already, by the identity of their description, as long as that lives."""


def compiled(model: LiftedModel, device: Any = None) -> CompiledModel:
    """Hand a model over, once; UnsupportedModel says what of it runs in torch alone.

    Its weights are stacked by kinds of layers: without a copy if they were laid side by side when
    the model was loaded (`graphs.load.weights`), else in a copy. The model stays as it is.
    """
    share_the_card()
    device = jax.devices()[0] if device is None else device
    key = id(model), str(device)
    if key not in _MADE:
        require_by_head(model)
        require_room(model)
        _MADE[key] = _hand_over(model, device)
        # not when the program ends: a program may still hold what is let go of then
        finalize(model, _MADE.pop, key, None).atexit = False
    return _MADE[key]


def require_by_head(model: LiftedModel) -> None:
    """Refuse a model with parts that only torch can run, in words."""
    problem = whole_part(model)
    if problem:
        raise UnsupportedModel(
            f"engine 'jax' cannot run this {model.family} model: {problem}; accepted: models whose "
            "layers are described, with heads or without a token mixer, on one device; or engine "
            "'torch'."
        )


def whole_part(model: LiftedModel) -> str:
    """Say what of a model runs in torch alone; empty if nothing."""
    for layer, block in enumerate(model.blocks):
        for node, part in ((f"s{layer}", block.attention), (f"m{layer}", block.mlp)):
            if part is not None and hasattr(part, "calls"):
                return f"its node {node} is taken whole and runs the model's own torch module"
            if isinstance(part, Neurons):
                return f"the neurons of {node} are senders of their own"
            if isinstance(part, Attention) and part.wo.dim() != 3:
                return f"layer {layer} has heads of an unknown form"
    if model.spread is not None or isinstance(model.final_norm, Gathered):
        return "its layers read several streams at once"
    if model.on_several_devices:
        return "it lies on several devices"
    return ""


def require_room(model: LiftedModel) -> None:
    """Refuse, before memory runs out, a model whose stacked weights do not fit beside its own."""
    free = free_bytes(model.device)
    if free is None or any(made == id(model) for made, _ in _MADE):
        return
    _, blocks = _blocks(model)
    needed = bytes_to_copy(layer_runs(blocks), blocks)
    if needed > free:
        raise UnsupportedModel(
            f"engine 'jax' needs {needed / 1e9:.1f} GB more on {model.device} and {free / 1e9:.1f} "
            "GB are free: it stacks the weights of equal layers, in a copy where a model was "
            "handed in, which stays as it is. Give the model's name or directory in its place, of "
            "which both engines then share one copy; or free memory, or use engine 'torch'."
        )


def _blocks(model: LiftedModel) -> tuple[list[int], list[ArrayPart]]:
    """Return the layers whose keys later ones read, and all layers as parts of tensors."""
    sources = sorted({b.shared.source for b in model.blocks if b.shared is not None})
    return sources, with_distances([tensors(_numbered(b, sources)) for b in model.blocks])


@torch.no_grad()
def _hand_over(model: LiftedModel, device: Any) -> CompiledModel:
    wide = working_dtype(model.dtype)
    sources, blocks = _blocks(model)
    runs = layer_runs(blocks)
    layers = tuple(stack_run(run, blocks) for run in runs)
    stores = [sources.index(i) if i in sources else len(sources) for i in range(len(blocks))]
    marks = [torch.tensor(place, dtype=torch.int32) for place in stores]
    tree = Weights(
        tokens=model.tokens.detach(),
        positions=None if model.positions is None else model.positions.detach(),
        embed_scale=tensors(float(model.embed_scale)),
        embed_norm=tensors(model.embed_norm),
        per_layer=tensors(model.per_layer),
        layers=layers,
        marks=tuple(stack_run(run, marks) for run in runs),
        final_norm=tensors(model.final_norm),
        unembed=tensors(model.unembed),
        logit_scale=tensors(float(model.logit_scale)),
        logit_softcap=None if model.logit_softcap is None else tensors(float(model.logit_softcap)),
    )
    shape = BlockShape(model.graph.parallel, model.graph.grouped_kv)
    plan = ModelPlan(runs, shape, model.sources, len(sources))
    own = crossed(tree.layers, wide, device, stacks=True)
    weights = crossed(tree._replace(layers=()), wide, device)._replace(layers=own)
    return CompiledModel(plan, weights, device)


def _numbered(block: Any, sources: Sequence[int]) -> Any:
    """Let a layer name the layer its keys are of by its place among such layers."""
    if block.shared is None:
        return block
    place = torch.tensor(sources.index(block.shared.source), dtype=torch.int32)
    return replace(block, shared=replace(block.shared, source=place))


def embed(weights: Weights, plan: ModelPlan, ids: Array, positions: Array) -> Array:
    """Return what the embedding's senders write, [sources, B, T, D], for ids [B, T]."""
    token = embed_tokens(weights, ids)
    if weights.positions is None:
        if plan.sources == 1:
            return token[None]
        position = jnp.zeros_like(token)
    else:
        position = weights.positions[positions].astype(token.dtype)
    return jnp.stack((token, position)) if plan.sources == 2 else (token + position)[None]


def embed_tokens(weights: Weights, ids: Array) -> Array:
    """Return the embeddings of tokens alone, without learned positions, [B, T, D]."""
    token = weights.tokens[ids].astype(weights.embed_scale.dtype) * weights.embed_scale
    return normalise(weights.embed_norm, token)


def give(weights: Weights, plan: ModelPlan, ids: Array) -> Any:
    """Return what tokens give each layer past the stream, by run, [times, B, T, P]; or None."""
    part = weights.per_layer
    if part is None:
        return None
    known = jnp.where((ids >= 0) & (ids < part.table.shape[0]), ids, 0)
    shape = (*ids.shape, part.layers, -1)
    own = (part.table[known] * part.table_scale).reshape(shape)
    projected = (linear(part.projection, embed_tokens(weights, ids)) * part.scale).reshape(shape)
    given = jnp.moveaxis((normalise(part.norm, projected) + own) * part.factor, -2, 0)
    return split_layers(plan.runs, given)


def layer_sizes(runs: Sequence[Run], each: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Return, for each run and layer of its pattern, what layers have `each` of."""
    return tuple(tuple(each[run.first + at] for at in range(run.period)) for run in runs)


def split_layers(runs: Sequence[Run], x: Array) -> tuple[tuple[Array, ...], ...]:
    """Cut an array [layers, …] as layers are run: for each run and place, [times, …]."""
    return tuple(
        tuple(x[run.first + at : run.layers.stop : run.period] for at in range(run.period))
        for run in runs
    )


def logits(weights: Weights, x: Array) -> Array:
    """Map the stream at `logits`, [N, D], to logits, [N, V]."""
    return scale_logits(weights, linear(weights.unembed, normalise(weights.final_norm, x)))


def scale_logits(weights: Weights, out: Array) -> Array:
    """Apply the scale and the soft cap that come behind the unembedding."""
    out = out * weights.logit_scale
    if weights.logit_softcap is None:
        return out
    return jnp.tanh(out / weights.logit_softcap) * weights.logit_softcap
