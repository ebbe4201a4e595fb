"""One layer's attention by head; the counterpart of `graphs/lift/attention.py`."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from ..crossing import ArrayPart, widest
from . import rotary as turning
from .norms import linear, normalise, normalise_heads, product, rounded

GATES = {"sigmoid": jax.nn.sigmoid, "softplus": jax.nn.softplus}
"""What the gates of heads' outputs go through."""


class Positions(NamedTuple):
    """What attention needs to know of a batch: bool and int [B, T]; queries stand from `start`."""

    mask: Array
    ids: Array
    start: int = 0


def heads_of(attention: ArrayPart) -> int:
    """Count the query heads."""
    return int(attention.wo.shape[0])


def kv_heads(attention: ArrayPart) -> int:
    """Count the key/value heads."""
    groups = 1
    for size in attention.wk.shape[:-2]:
        groups *= size
    return groups


def group_size(attention: ArrayPart) -> int:
    """Count the query heads of one key/value head."""
    return heads_of(attention) // kv_heads(attention)


def size_of(attention: ArrayPart) -> int:
    """Return the width of a head's queries and keys, without gates."""
    own: int = attention.wk.shape[-2]
    latent = attention.k_latent
    return own if latent is None else own + latent_width(latent, attention.wk)


def latent_width(latent: ArrayPart, weight: Array) -> int:
    """Count the features that heads have behind their own, which weight [h, K, R] makes."""
    return int(latent.down.weight.shape[0] - weight.shape[-1])


def projection(attention: ArrayPart, letter: str) -> tuple[Array, Array | None]:
    """Return weight and bias of `q` (with the gate), `k` or `v`, by head."""
    weight, bias = getattr(attention, f"w{letter}"), getattr(attention, f"b{letter}")
    if weight.ndim == 4:
        weight = weight.reshape(-1, *weight.shape[2:])
        bias = None if bias is None else bias.reshape(-1, bias.shape[-1])
    if letter == "q" and attention.wgate is not None:
        weight = jnp.concatenate((weight, attention.wgate), 1)
        if bias is not None:  # the gate has none
            bias = jnp.pad(bias, ((0, 0), (0, attention.wgate.shape[1])))
    return weight, bias


def latent_of(attention: ArrayPart, letter: str) -> ArrayPart | None:
    """Return what stands before the projection of `q`, `k` or `v`."""
    found: ArrayPart | None = getattr(attention, f"{letter}_latent")
    return found


def norm_of_all(attention: ArrayPart, letter: str) -> ArrayPart | None:
    """Return the norm of all heads' queries, or keys, together; None if there is none."""
    together = attention.norm_together and letter != "v"
    found: ArrayPart | None = getattr(attention, f"{letter}_norm") if together else None
    return found


def project_only(attention: ArrayPart, letter: str, x: Array) -> Array:
    """Project normalised x [..., D] without any norm: [..., H, K], or [..., G, K]."""
    weight, bias = projection(attention, letter)
    latent = latent_of(attention, letter)
    if latent is None:
        out = product("...d,hkd->...hk", x, weight)
        return out if bias is None else out + bias
    size, y = weight.shape[-1], linear(latent.down, x)
    out = product("...d,hkd->...hk", normalise(latent.norm, y[..., :size]), weight)
    out = out if bias is None else out + bias
    shared = jnp.broadcast_to(y[..., None, size:], (*out.shape[:-1], y.shape[-1] - size))
    return jnp.concatenate((out, shared), -1)


def project(attention: ArrayPart, letter: str, x: Array) -> Array:
    """Project normalised x [..., D], with a norm of all heads together."""
    out, norm = project_only(attention, letter, x), norm_of_all(attention, letter)
    if norm is None:
        return out
    return normalise(norm, out.reshape(*out.shape[:-2], -1)).reshape(out.shape)


def repeat_kv(attention: ArrayPart, x: Array) -> Array:
    """Repeat key/value heads [..., G, K] for the query heads that share them, [..., H, K]."""
    size = group_size(attention)
    return x if size == 1 else jnp.repeat(x, size, -2)


def hidden(attention: ArrayPart, at: Positions) -> Array:
    """Return bool [B, 1, queries, T], True where a query must not see a key (column)."""
    index = jnp.arange(at.mask.shape[1])
    gap = index[at.start :, None] - index
    seen = gap >= 0 if attention.causal else jnp.ones_like(gap, dtype=bool)
    if attention.window is not None:
        seen = seen & (gap < attention.window)
    seen = seen[None, None]
    if attention.chunk is not None:
        part = at.ids // attention.chunk
        seen = seen & (part[:, None, at.start :, None] == part[:, None, None, :])
    return ~(seen & at.mask[:, None, None, :])


def pattern(attention: ArrayPart, q: Array, k: Array, at: Positions) -> Array:
    """Return how queries weigh keys, [..., B, h, queries, keys]; q and k as projected."""
    q = q[..., : k.shape[-1]]
    if not attention.norm_together and not attention.norm_after:
        q, k = _normalised(attention, q, k)
    if attention.clip is not None:
        q, k = (jnp.clip(x, -attention.clip, attention.clip) for x in (q, k))
    if attention.rotary is not None:
        cos, sin = turning.tables(attention.rotary, at.ids)
        q = turning.rotate(attention.rotary, q, cos[:, at.start :], sin[:, at.start :])
        k = turning.rotate(attention.rotary, k, cos, sin)
    if attention.norm_after:
        q, k = _normalised(attention, q, k)
    if attention.temperature is not None:
        q = q * _stretched(attention.temperature, at.ids[:, at.start :])[..., None, None]
    weight = jnp.einsum("...thd,...shd->...hts", q, k) * attention.scale
    if attention.slopes is not None:
        own = attention.slopes.dtype
        steps = rounded(at.ids[:, None, None].astype(weight.dtype), own)
        bias = rounded(attention.slopes.astype(weight.dtype)[:, None, None] * steps, own)
        weight = weight + bias * attention.slope_scale
    if attention.softcap is not None:
        weight = jnp.tanh(weight / attention.softcap) * attention.softcap
    weight = jnp.where(hidden(attention, at), jnp.finfo(weight.dtype).min, weight)
    if attention.sinks is None:
        return jax.nn.softmax(weight, -1)
    sinks = attention.sinks.astype(weight.dtype)[:, None, None]
    sinks = jnp.broadcast_to(sinks, (*weight.shape[:-1], 1))
    return jax.nn.softmax(jnp.concatenate((weight, sinks), -1), -1)[..., :-1]


def mix(attention: ArrayPart, q: Array, k: Array, v: Array, at: Positions) -> Array:
    """Attend: queries [..., B, t, h, K] to keys and values [..., B, T, h, K] give z.

    As projected, each head's own; z [..., B, t, h, K] is what heads read, before `wo`.
    """
    v = v if attention.clip is None else jnp.clip(v, -attention.clip, attention.clip)
    v = normalise(attention.value_norm, v)
    weight = pattern(attention, q, k, at)
    z = jnp.einsum("...hts,...shd->...thd", weight, v)
    if attention.gate is None:
        return z
    return z * GATES[attention.gate](q[..., size_of(attention) :])


def _normalised(attention: ArrayPart, q: Array, k: Array) -> tuple[Array, Array]:
    heads = q.shape[-2]
    return (
        normalise_heads(attention.q_norm, q, heads),
        normalise_heads(attention.k_norm, k, heads),
    )


def _stretched(temperature: ArrayPart, ids: Array) -> Array:
    """Return the factors of queries at these positions, [B, t] both."""
    wide = widest(temperature.rate.dtype)
    steps = jnp.floor((ids.astype(wide) + temperature.ahead) / temperature.length)
    return jnp.log1p(steps) * temperature.rate + 1


def outputs(attention: ArrayPart, z: Array) -> Array:
    """Return each head's output: z [..., H, K] gives [H, ..., D]."""
    out = product("...hk,hkd->h...d", z, attention.wo)
    return out * attention.output_scale


def merge(attention: ArrayPart, z: Array) -> Array:
    """Sum the heads' outputs and the projection's bias: z [..., H, K] gives [..., D]."""
    out = product("...hk,hkd->...d", z, attention.wo)
    out = out if attention.bo is None else out + attention.bo
    return out * attention.output_scale
