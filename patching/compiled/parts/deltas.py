"""What senders write on the clean run minus what their ablated edges carry: deltas, [S, n, D].

Shapes: B examples, T positions, n tokens at which something moves, D d_model, S senders.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from ..crossing import ArrayPart, has_heads
from . import attention as heads


class Wrote(NamedTuple):
    """What a layer's senders write on some run, as `RanLayer`."""

    z: Array
    post: Array | None
    writes: Array


@dataclass(frozen=True)
class Deltas:
    """What makes deltas of the tokens that are looked at: `tokens`, `moves` as in `Prompts`."""

    tokens: Array
    moves: Array

    def select(self, x: Array, lead: int) -> Array:
        """Keep the tokens that move: x [..., B, T, …] with `lead` axes before B, [..., n, …]."""
        flat = x.reshape(*x.shape[:lead], -1, *x.shape[lead + 2 :])
        return jnp.take(flat, self.tokens, lead)

    def of(self, block: ArrayPart, clean: Wrote, base: Wrote) -> Array:
        """Return those of one layer, in the order of its senders."""
        dtype, parts = factor_type(block), list[Array]()
        if has_heads(block):
            own = block.attention
            parts.append(heads.outputs(own, self.select(clean.z - base.z, 0)))
        if clean.post is not None and base.post is not None:
            parts.append(self.select(clean.post - base.post, 0)[None])
        if block.mlp is not None:
            parts.append(self.select(clean.writes - base.writes, 1))
        return self._moving(jnp.concatenate([x.astype(dtype) for x in parts]))

    def of_sources(self, delta: Array) -> Array:
        """Return those of the embedding's senders, [sources, n, D]."""
        return self._moving(self.select(delta, 1))

    def _moving(self, x: Array) -> Array:
        return jnp.where(self.moves[:, None] > 0, x, 0)


def factor_type(block: ArrayPart) -> Any:
    """Return the type of the factors of scores: the weights'."""
    if has_heads(block):
        return block.attention.wo.dtype
    part = block.mlp
    return part.up.weight.dtype if part.kind == "MLP" else part.up.dtype
