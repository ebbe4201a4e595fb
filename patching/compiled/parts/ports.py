"""What gradients at a layer's parts are at its ports, in closed form; see `patching.gradients`.

`closed_form.py` there derives it. Shapes: K points, B examples, T positions, n tokens that are
looked at, D d_model, H heads, G key/value heads, d d_head, P ports.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from ..crossing import ArrayPart, widest
from . import attention as heads
from .layers import BlockShape, norm_of
from .norms import bias_of, linear, normalise, product, scale_of, unit

Select = Callable[[Array], Array]
"""What keeps the tokens that are looked at: [K, B, T, …] to [K, n, …]."""


class Read(NamedTuple):
    """A stream that projections read, [K, B, T, D]: normalised, and the factor; see `unit`."""

    stream: Array
    unit: Array
    rate: Array | None


class _Extra(NamedTuple):
    """What a norm of all heads takes off a port's g W': factors of ports by a vector, with x̂."""

    factor: Array
    vector: Array
    product: Array


def attention_ports(
    block: ArrayPart,
    shape: BlockShape,
    streams: tuple[Array, Array],
    grads: dict[str, Array],
    select: Select,
) -> tuple[list[Array], Array, Array]:
    """Return the gradients at a layer's attention ports, [P, n, D] for each letter.

    And what flows back to the stream before the layer, and, if keys and values are of another
    stream, to that one, [K, B, T, D]. `streams`: these two; `grads`: by letter, at what each head
    was given, [K, B, T, H, d].
    """
    found: list[Array] = []
    back = [jnp.zeros_like(streams[0]), jnp.zeros_like(streams[0])]
    both = [("q", "k", "v")] if block.shared is None else [("q",), ("k", "v")]
    for which, letters in enumerate(both):
        norm, stream = norm_of(block, letters[-1]), streams[which]
        read = Read(stream, stream, None) if norm is None else Read(stream, *unit(norm, stream))
        through = jnp.zeros_like(stream)
        for letter in letters:
            own, more = _letter(block, shape, letter, grads[letter], read, select)
            found.append(own)
            through = through + more
        if read.rate is not None:
            along = (read.unit * through).mean(-1, keepdims=True)
            through = read.rate * (through - read.unit * along)
        back[which] = through
    return found, back[0], back[1]


def _letter(
    block: ArrayPart, shape: BlockShape, letter: str, g: Array, read: Read, select: Select
) -> tuple[Array, Array]:
    """Return one letter's ports' gradients, [P, n, D], and what flows back to x̂, [K, B, T, D]."""
    own, norm = block.attention, norm_of(block, letter)
    weight, latent = heads.projection(own, letter)[0], heads.latent_of(own, letter)
    folded = fold(norm, weight if latent is None else latent.down.weight[None])
    size = 1 if letter == "q" else heads.group_size(own)
    merged = g.reshape(*g.shape[:-2], -1, size, g.shape[-1]).sum(-2) if size > 1 else g
    g = merged if shape.grouped_kv else g
    normed, always = normalise(norm, read.stream), constant(block, letter)
    if latent is not None:
        raw, back = _through_latent(latent, weight, g, normed)
        seen = jnp.broadcast_to((raw - always)[..., None, :], back.shape)
        ports = _put(back, seen, folded, read, select)
        return ports, product("...o,od->...d", back.sum(-2), folded[0])
    raw = heads.project_only(own, letter, normed)
    seen = _repeated(raw - always, g.shape[-2], -2)
    together = heads.norm_of_all(own, letter)
    extra = None
    if together is not None:
        flat_unit, rate = unit(together, raw.reshape(*raw.shape[:-2], -1))
        units = flat_unit.reshape(raw.shape)
        scale = jnp.broadcast_to(scale_of(together), units.shape[-2] * units.shape[-1])
        joint = _Together(units, rate, scale.reshape(units.shape[-2:]))
        g, shrink = joint.parts(g)
        extra = _Extra(
            shrink,
            product("...hk,hkd->...d", units, folded),
            shrink * (units * (raw - always)).sum((-2, -1))[..., None],
        )
        merged = joint.back(merged)
    ports = _put(g, seen, folded, read, select, extra)
    return ports, product("...hk,hkd->...d", merged, folded)


class _Together(NamedTuple):
    """A norm of all heads' queries, or keys, together; see `closed_form.Together`."""

    unit: Array
    rate: Array
    scale: Array

    def parts(self, g: Array) -> tuple[Array, Array]:
        """Return ρ·s∘g and, for each head's part of g alone, ρ·(s∘g · u)/(H·d)."""
        scale = _repeated(self.scale, g.shape[-2], -2)
        back = g * scale * self.rate[..., None]
        shrink = (back * _repeated(self.unit, g.shape[-2], -2)).sum(-1) / self.scale.size
        return back, shrink

    def back(self, g: Array) -> Array:
        """Return the gradient at all heads' projections of a gradient g of all their parts."""
        back, shrink = self.parts(g)
        return back - self.unit * shrink.sum(-1)[..., None, None]


def _through_latent(
    latent: ArrayPart, weight: Array, g: Array, normed: Array
) -> tuple[Array, Array]:
    """Return what stands before the projection, and the gradient there of each head's part g."""
    raw, size = linear(latent.down, normed), weight.shape[-1]
    width, folded = weight.shape[1], fold(latent.norm, weight)
    inner = product("...hd,hdr->...hr", g[..., :width], _repeated(folded, g.shape[-2], 0))
    if latent.norm is not None:
        units, rate = unit(latent.norm, raw[..., :size])
        along = (inner * units[..., None, :]).mean(-1, keepdims=True)
        inner = rate[..., None] * (inner - units[..., None, :] * along)
    return raw, jnp.concatenate((inner, g[..., width:]), -1)


def _put(
    g: Array, seen: Array, folded: Array, read: Read, select: Select, extra: _Extra | None = None
) -> Array:
    """Return one letter's ports' gradients summed over the points, [P, n, D].

    g: [K, B, T, P, d], at their projections; seen: the same shape, W'x̂.
    """
    folded = _repeated(folded, g.shape[-2], 0)
    g, seen, units = select(g), select(seen), select(read.unit)
    rate = None if read.rate is None else select(read.rate)
    scaled = g if rate is None else g * rate[..., None]
    total = product("nhk,hkd->hnd", scaled.sum(0), folded)
    along = (scaled * seen).sum(-1)  # [K, n, P]
    if extra is not None:
        factor, vector, more = (select(x) for x in extra)
        factor, more = (x if rate is None else x * rate for x in (factor, more))
        total, along = total - _spread(factor, vector), along - more
    return total if rate is None else total - _spread(along / units.shape[-1], units)


def _spread(factor: Array, vector: Array) -> Array:
    """Multiply a factor [K, n, P] by a vector [K, n, D], add up the points: [P, n, D]."""
    points: list[Any] = [
        jnp.moveaxis(factor[k], -1, 0)[..., None] * vector[k] for k in range(len(factor))
    ]
    return sum(points[1:], points[0])


def _repeated(x: Array, heads: int, axis: int) -> Array:
    """Repeat what groups of heads have, so that there are so many."""
    own = x.shape[axis]
    return x if own == heads else jnp.repeat(x, heads // own, axis)


def fold(norm: ArrayPart | None, weight: Array) -> Array:
    """Fold a norm's scale, and its centring, into the projections that read it, [h, d, D]."""
    if norm is None:
        return weight
    wide = weight.astype(widest(weight.dtype)) * scale_of(norm)
    wide = wide - wide.mean(-1, keepdims=True) if norm.centred else wide
    return wide.astype(weight.dtype)


def constant(block: ArrayPart, letter: str) -> Array:
    """Return what a projection's output always holds: W·(norm's bias) + bias, [H, d].

    Where something stands before the projection, that of its first matrix, [R + rest].
    """
    own, latent = block.attention, heads.latent_of(block.attention, letter)
    weight, bias = heads.projection(own, letter)
    if latent is not None:
        weight, bias = latent.down.weight, latent.down.bias
    total = jnp.zeros(weight.shape[:-1], widest(weight.dtype))
    always = bias_of(norm_of(block, letter))
    if always is not None:
        total = total + product("...d,d->...", weight, always.astype(weight.dtype))
    return total if bias is None else total + bias
