"""Tensors that JAX shares with torch though they are no rows of numbers one after the other.

A layer's weights may be stored together with others (queries, keys and values in one matrix), or
transposed, and stacks of layers may be views of what lies side by side. JAX knows arrays alone
whose numbers follow one another. So it is handed the whole that a view is of, and what is cut out
of it, and how axes are turned, is done where the numbers are read: in the step of a scan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import torch
from jax import Array
from torch import Tensor

ALIGNED = 64
"""Bytes at whose multiples shared arrays begin, as JAX wants them."""


class Slices(NamedTuple):
    """What is read of a whole, for each of its axes: from where, how many; then `order` of axes.

    The first axis, of layers, is read whole, and is not counted here. `shape`: that of the view.
    """

    starts: tuple[int, ...]
    sizes: tuple[int, ...]
    order: tuple[int, ...]
    shape: tuple[int, ...]


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True, eq=False)
class CutOut:
    """Layers' tensors as what is cut out of a whole, [layers, …]."""

    whole: Array
    slices: Slices

    def tree_flatten(self) -> tuple[tuple[Array], Slices]:
        """Give the array, and apart from it what is cut out."""
        return (self.whole,), self.slices

    @classmethod
    def tree_unflatten(cls, slices: Slices, arrays: Sequence[Array]) -> CutOut:
        """Put together what `tree_flatten` gave."""
        return cls(arrays[0], slices)

    @property
    def own(self) -> Array:
        """Return one layer's tensor, where the first axis is gone."""
        cut = self.slices
        ends = [start + size for start, size in zip(cut.starts, cut.sizes, strict=True)]
        found = jax.lax.slice(self.whole, cut.starts, ends)
        return jnp.transpose(found, cut.order).reshape(cut.shape)


def whole(tree: Any) -> Any:
    """Return a tree of one layer's values with all that is cut out as arrays."""
    return jax.tree_util.tree_map(
        lambda x: x.own if isinstance(x, CutOut) else x,
        tree,
        is_leaf=lambda x: isinstance(x, CutOut),
    )


def in_one(each: Sequence[Tensor]) -> Tensor | None:
    """Return a view of some tensors as one stack, [n, …]; None if they do not lie side by side.

    >>> rows = torch.arange(12.0).view(3, 4)
    >>> in_one([rows[0], rows[2]])
    tensor([[ 0.,  1.,  2.,  3.],
            [ 8.,  9., 10., 11.]])
    >>> in_one([rows[0], rows[1].clone()])
    """
    first = each[0]
    alike = _layout(first)
    if any(_layout(x) != alike for x in each):
        return None
    if len(each) == 1 or first.dim() == 0:
        return first[None] if len(each) == 1 else None
    offsets = [x.storage_offset() for x in each]
    step = offsets[1] - offsets[0]
    if step <= 0 or offsets != list(range(offsets[0], offsets[0] + step * len(each), step)):
        return None
    return torch.as_strided(first, (len(each), *first.shape), (step, *first.stride()), offsets[0])


def _layout(x: Tensor) -> tuple[object, ...]:
    return x.shape, x.stride(), x.dtype, x.device, x.untyped_storage().data_ptr()


def as_cut(x: Tensor) -> tuple[Tensor, Slices] | None:
    """Return the whole, without gaps, that a view [layers, …] is of, and what it is of that.

    None if there is none: numbers that stand for several, steps that do not fit into one another.
    """
    axes = [axis for axis in range(1, x.dim()) if x.shape[axis] > 1]
    axes.sort(key=x.stride, reverse=True)
    strides, own = [x.stride(axis) for axis in axes], [x.shape[axis] for axis in axes]
    if not axes or not x.numel() or strides[-1] != 1:
        return None
    outer = x.stride(0) if len(x) > 1 else strides[0] * own[0]
    above = list(zip([outer, *strides], strides, strict=False))
    rooms = [high // low for high, low in above]
    fits = all(size <= room for size, room in zip(own, rooms, strict=True))
    if not fits or any(high % low for high, low in above):
        return None
    starts, offset = list[int](), x.storage_offset()
    for size, room, stride in zip(own, rooms, strides, strict=True):
        start = (offset // stride) % room
        starts.append(start if start + size <= room else 0)
        offset -= starts[-1] * stride
    if (offset + len(x) * outer) * x.itemsize > x.untyped_storage().nbytes():
        return None
    found = torch.as_strided(x, (len(x), *rooms), (outer, *strides), offset)
    if not found.is_contiguous() or found.data_ptr() % ALIGNED:
        return None
    order = tuple(axes.index(axis) for axis in sorted(axes))
    return found, Slices(tuple(starts), tuple(own), order, tuple(x.shape[1:]))
