"""A layer's MLP; the counterpart of `graphs/lift/mlp.py`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from ..crossing import ArrayPart
from .norms import linear, normalise

_tanh_gelu = partial(jax.nn.gelu, approximate=True)

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_new": _tanh_gelu,
    "gelu_pytorch_tanh": _tanh_gelu,
    "gelu_fast": _tanh_gelu,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu2": lambda x: jnp.square(jax.nn.relu(x)),
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
}
"""The activation functions of the description, by the same names."""


def xielu(curve: ArrayPart, x: Array) -> Array:
    """Return the activation with two learned parameters of each number of x."""
    above = jax.nn.softplus(curve.rise) * x * x + curve.slope * x
    small = jnp.expm1(jnp.minimum(x, curve.largest)) - x
    below = small * (curve.slope + jax.nn.softplus(curve.fall)) + curve.slope * x
    return jnp.where(x > 0, above, below)


def plain(mlp: ArrayPart, x: Array) -> Array:
    """Map normalised features [N, D] to what the MLP writes, [N, D]."""
    act = ACTIVATIONS[mlp.activation] if mlp.curve is None else partial(xielu, mlp.curve)
    up = linear(mlp.up, x)
    inner = act(up) if mlp.gate is None else act(linear(mlp.gate, x)) * up
    return linear(mlp.down, inner) * mlp.output_scale


def gated_tokens(gate: ArrayPart, x: Array, given: Array) -> Array:
    """Return what is added to the stream x [N, D], given [N, P] past it."""
    inner = ACTIVATIONS[gate.activation](linear(gate.gate, x * gate.scale))
    return normalise(gate.norm, linear(gate.project, inner * given))
