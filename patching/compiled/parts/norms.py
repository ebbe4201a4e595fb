"""Norms; the counterpart of `graphs/lift/norms.py`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from ..crossing import ArrayPart, widest


def product(spec: str, x: Array, weight: Array) -> Array:
    """Multiply by a weight, of the weight's own type, adding up in float32 at least."""
    wide = widest(weight.dtype)
    return jnp.einsum(spec, x.astype(weight.dtype), weight, preferred_element_type=wide)


def linear(part: ArrayPart, x: Array) -> Array:
    """Return x · weightᵀ + bias."""
    out = product("...i,oi->...o", x, part.weight)
    return out if part.bias is None else out + part.bias


def rounded(x: Array, dtype: jnp.dtype) -> Array:
    """Round to a narrower type, which a compiler that sees both conversions leaves out."""
    about = jnp.finfo(dtype)
    if about.nmant >= jnp.finfo(x.dtype).nmant:
        return x
    return jax.lax.reduce_precision(x, about.nexp, about.nmant)


def unit(norm: ArrayPart, x: Array) -> tuple[Array, Array]:
    """Return x without scale and bias, and the factor 1/std that made it so."""
    x = x.astype(widest(x.dtype))
    if norm.centred:
        x = x - x.mean(-1, keepdims=True)
    rate = jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + norm.eps)
    return x * rate, rate


def scale_of(norm: ArrayPart) -> Array:
    """Return the factor of each feature, [D], or of all."""
    if norm.weight is None:
        return jnp.asarray(norm.factor)
    return (norm.weight.astype(widest(norm.weight.dtype)) + norm.offset) * norm.factor


def bias_of(norm: ArrayPart | None) -> Array | None:
    """Return what a norm adds to each feature, [D]; None if nothing."""
    return None if norm is None or norm.bias is None else norm.bias * norm.factor


def normalise(norm: ArrayPart | None, x: Array) -> Array:
    """Apply a norm to x, [N, D]; None leaves x as it is."""
    if norm is None:
        return x
    y, bias = unit(norm, x)[0] * scale_of(norm), bias_of(norm)
    return y if bias is None else y + bias


def normalise_heads(norm: ArrayPart | tuple[ArrayPart, ...] | None, x: Array, heads: int) -> Array:
    """Normalise the features of each head, x [N, h, K], by one norm or each by its own.

    Norms of fewer heads stand for those of groups.
    """
    if not isinstance(norm, tuple):
        return normalise(norm, x)
    each = x.shape[-2] // len(norm)
    own = jax.tree_util.tree_map(lambda *one: jnp.repeat(jnp.stack(one), each, 0), *norm)
    assert heads == x.shape[-2]
    y, weight = unit(_as_last(own), x)[0], own.weight
    if weight is not None:
        y = y * (weight.astype(y.dtype) + own.offset[:, None]) * own.factor[:, None]
    return y if own.bias is None else y + own.bias * own.factor[:, None]


def _as_last(norm: ArrayPart) -> ArrayPart:
    """Let each head have its own eps, [h, 1]."""
    return ArrayPart(norm.kind, {**norm.arrays, "eps": norm.eps[:, None]}, norm.fixed)
