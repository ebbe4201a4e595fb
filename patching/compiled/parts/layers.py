"""One layer of a described model, run on the stream before it; the counterpart of `trace.py`."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from ..crossing import ArrayPart, has_heads
from . import attention as heads
from . import experts, mlp
from .attention import Positions
from .norms import normalise


class BlockShape(NamedTuple):
    """What of a graph decides how a layer is put together."""

    parallel: bool
    grouped_kv: bool


class Past(NamedTuple):
    """A layer's keys and values of the positions before a window, [B, start, G, K] each."""

    k: Array
    v: Array


class RanLayer(NamedTuple):
    """What one layer's parts write on B examples and T positions, and what its ports read.

    `z`: [B, T, H, K], [B, T, 0, 1] where it has no heads; `post`: what `o{l}` writes, or None;
    `writes`: [n, B, T, D], of each sender of `m{l}`. `middle`: the stream behind attention.
    `stream`: that behind the layer.
    """

    z: Array
    post: Array | None
    writes: Array
    middle: Array
    stream: Array


def norm_of(block: ArrayPart, letter: str) -> ArrayPart | None:
    """Return the norm before the projection of `q`, `k` or `v`."""
    elsewhere = block.shared is not None and letter != "q"
    found: ArrayPart | None = block.shared.norm if elsewhere else block.attention_norm
    return found


def project_all(block: ArrayPart, stream: Array, keys: Array) -> tuple[Array, Array, Array]:
    """Return queries [..., H, K], keys and values [..., G, K]; `keys`: the stream of these two."""
    normed = normalise(norm_of(block, "q"), stream)
    other = normed if block.shared is None else normalise(norm_of(block, "k"), keys)
    return (
        heads.project(block.attention, "q", normed),
        heads.project(block.attention, "k", other),
        heads.project(block.attention, "v", other),
    )


def whole_keys(attention: ArrayPart, new: Array, old: Array | None, lead: int) -> Array:
    """Put the keys (or values) before a window in front, one for each query head.

    new: [..., B, T, G or H, K], with `lead` axes before B; old: [B, start, G, K].
    """
    new = new if new.shape[-2] == heads.heads_of(attention) else heads.repeat_kv(attention, new)
    if old is None:
        return new
    old = heads.repeat_kv(attention, old)
    old = jnp.broadcast_to(old, (*new.shape[:lead], *old.shape)).astype(new.dtype)
    return jnp.concatenate((old, new), -3)


def mixed(block: ArrayPart, stream: Array, keys: Array, at: Positions, past: Past | None) -> Array:
    """Return what a layer's heads read from the positions of a stream [..., B, T, D]."""
    own, lead = block.attention, stream.ndim - 3
    q, k, v = project_all(block, stream, keys)
    k = whole_keys(own, k, None if past is None else past.k, lead)
    v = whole_keys(own, v, None if past is None else past.v, lead)
    return heads.mix(own, q, k, v, at)


def written(block: ArrayPart, x: Array, given: Array | None = None) -> Array:
    """Return what the MLP, or all experts together, write when `m{l}` holds x, [N, D]."""
    return _gated(block, x, given, _all_of(block.mlp, normalise(block.mlp_norm, x)))


def writes(block: ArrayPart, x: Array, given: Array | None = None) -> Array:
    """Return what each sender of `m{l}` writes when it holds x [N, D], [n, N, D]."""
    if block.mlp is None:
        return jnp.zeros((0, *x.shape), x.dtype)
    if block.mlp.kind == "Experts" and not block.mlp.together:
        return experts.outputs(block.mlp, normalise(block.mlp_norm, x))
    return written(block, x, given)[None]


def _all_of(part: ArrayPart, x: Array) -> Array:
    if part.kind == "MLP":
        return mlp.plain(part, x)
    return experts.beside(part, x) if part.kind == "Beside" else experts.together(part, x)


def _gated(block: ArrayPart, x: Array, given: Array | None, out: Array) -> Array:
    out = normalise(block.mlp_post_norm, out)
    if block.gate is None or given is None:
        return out
    return out + mlp.gated_tokens(block.gate, x + out, given)


def run_layer(
    block: ArrayPart,
    shape: BlockShape,
    stream: Array,
    keys: Array,
    at: Positions,
    past: Past | None = None,
    given: Array | None = None,
) -> RanLayer:
    """Run one layer on the stream before it, [..., B, T, D]; see `RanLayer`."""
    post, middle = None, stream
    if has_heads(block):
        z = mixed(block, stream, keys, at, past)
        summed = heads.merge(block.attention, z)
        if block.attention_post_norm is not None:
            summed = post = normalise(block.attention_post_norm, summed)
        middle = stream + summed
    else:
        z = jnp.zeros((*stream.shape[:-1], 0, 1), stream.dtype)
    write = writes(block, stream if shape.parallel else middle, given)
    behind = middle + (write[0] if len(write) == 1 else write.sum(0))
    return RanLayer(z, post, write, middle, behind)
