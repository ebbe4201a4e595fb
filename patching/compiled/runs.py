"""Runs of a whole model: the stream through all layers, and what is kept of each.

Shapes: K points (or none), B examples, T positions of the window, D d_model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from .crossing import has_heads
from .model import ModelPlan, Weights
from .parts.attention import Positions
from .parts.layers import BlockShape, Past, RanLayer, mixed, project_all, run_layer  # noqa: F401
from .segments import over


class Layer(NamedTuple):
    """What a step through one layer is given: its weights and marks, and what it reads beside.

    `store`: at which place the stream before it is kept for later layers; `given`: what tokens give
    it past the stream; `past`: keys and values before the window; `more`: what a caller adds.
    """

    block: Any
    store: Array
    given: Any = None
    past: Any = None
    more: Any = None


Keep = Callable[[Layer, Array, Array, RanLayer], Any]
"""What is kept of a layer, of the stream before it, that of its keys, and its run."""


def layers(
    weights: Weights, given: Any = None, past: Any = None, more: Any = None
) -> list[tuple[Layer, ...]]:
    """List what steps through the layers are given, by run and place."""
    found = []
    for i, (blocks, marks) in enumerate(zip(weights.layers, weights.marks, strict=True)):
        found.append(
            tuple(
                Layer(
                    blocks[at],
                    marks[at],
                    None if given is None else given[i][at],
                    None if past is None else past[i][at],
                    None if more is None else more[i][at],
                )
                for at in range(len(blocks))
            )
        )
    return found


def run(
    plan: ModelPlan, stream: Array, at: Positions, through: list[tuple[Layer, ...]], keep: Keep
) -> tuple[Array, Array | None, list[Any]]:
    """Run a stream [..., B, T, D] through layers.

    Returns the stream behind them, the streams that are kept for later layers, and what `keep`
    keeps of each layer.
    """

    def step(carry: Any, layer: Layer) -> tuple[Any, Any]:
        x, kept = carry
        keys = keys_of(layer.block, x, kept)
        ran = run_layer(layer.block, plan.shape, x, keys, at, layer.past, layer.given)
        if kept is not None:
            kept = kept.at[layer.store].set(x, mode="drop")
        return (ran.stream, kept), keep(layer, x, keys, ran)

    kept = jnp.zeros((plan.kept, *stream.shape), stream.dtype) if plan.kept else None
    (stream, kept), found = over(plan.runs, step, (stream, kept), through)
    return stream, kept, found


def keys_of(block: Any, stream: Array, kept: Array | None) -> Array:
    """Return the stream that a layer's keys and values are made of."""
    return stream if block.shared is None or kept is None else kept[block.shared.source]


def past_before(start: int) -> Callable[[Layer, Array], Past | None]:
    """Return what gives a layer's keys and values before a window, of the stream they are of."""

    def keep(layer: Layer, keys: Array) -> Past | None:
        if not start or not has_heads(layer.block):
            return None
        before = keys[..., :start, :]
        _, k, v = project_all(layer.block, before, before)
        return Past(k, v)

    return keep


def read_at(x: Array, position: Array, row: Array | None) -> Array:
    """Pick where logits are read: x [..., B, T, D], positions [R], gives [..., R, D].

    `row`: the example that each is of; None: one in each, in order.
    """
    rows = jnp.arange(position.shape[0]) if row is None else row
    return x[..., rows, position, :]
