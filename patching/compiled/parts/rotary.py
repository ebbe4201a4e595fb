"""Rotary positions; the counterpart of `graphs/lift/rotary.py`."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from ..crossing import ArrayPart


def frequencies_of(rotary: ArrayPart, lengths: Array) -> Array:
    """Return what prompts of these lengths [B] turn by, [R/2] or [B, 1, R/2]."""
    usual = rotary.frequencies.astype(jnp.float32)
    if rotary.limit is None:
        return usual
    if rotary.growth is not None:
        far = _grown(rotary.growth, lengths, 2 * usual.shape[0])
    else:
        far = rotary.long.astype(jnp.float32)
    return jnp.where(lengths[:, None] > rotary.limit, far, usual)[:, None]


def _grown(growth: ArrayPart, lengths: Array, size: int) -> Array:
    """Return the frequencies of prompts of these lengths [B] under "dynamic" scaling."""
    length = jnp.maximum(lengths, growth.limit)
    stretch = (growth.factor * length / growth.limit) - (growth.factor - 1)
    base = growth.base * stretch ** (size / (size - 2))
    steps = jnp.arange(0, size, 2) / size
    return 1.0 / (base[:, None] ** steps)


def tables(rotary: ArrayPart, position_ids: Array) -> tuple[Array, Array]:
    """Return cosine and sine, [B, T, 1, R], of positions [B, T] of whole prompts."""
    if rotary.stored is not None:
        sin, cos = jnp.split(rotary.stored[position_ids], 2, -1)
    else:
        lengths = position_ids.max(-1) + 1
        angle = position_ids[..., None].astype(jnp.float32) * frequencies_of(rotary, lengths)
        cos, sin = jnp.cos(angle) * rotary.factor, jnp.sin(angle) * rotary.factor

    def each(x: Array) -> Array:
        twice = jnp.repeat(x, 2, -1) if rotary.interleaved else jnp.concatenate((x, x), -1)
        return twice[:, :, None]

    return each(cos), each(sin)


def rotate(rotary: ArrayPart, x: Array, cos: Array, sin: Array) -> Array:
    """Rotate x, [..., B, T, H, K], whose tables are those of its positions."""
    start, end = rotary.start, rotary.start + cos.shape[-1]
    turn = x[..., start:end]
    if rotary.interleaved:
        crossed = jnp.stack((-turn[..., 1::2], turn[..., ::2]), -1).reshape(turn.shape)
    else:
        low, high = jnp.split(turn, 2, -1)
        crossed = jnp.concatenate((-high, low), -1)
    turned = turn * cos + crossed * sin
    parts = (x[..., :start], turned, x[..., end:])
    return jnp.concatenate(parts, -1).astype(x.dtype)
