"""A description's parts as arrays: the same fields by the same names, in a tree that JAX knows.

A number that layers may differ in (a scale, a window) is an array too, so that layers which differ
in nothing else are of one kind and run in one scan. What decides how a part is computed (a name, a
flag, a count, that something is there at all) is part of the tree's structure.

Tensors cross without a copy where they can, once for each model. Those of equal layers are
stacked: as a view where they lie side by side in memory, else as a copy.
"""

from __future__ import annotations

import atexit
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax import Array
from torch import Tensor

from .parts.sharing import CutOut, as_cut, in_one

FAR = 1 << 30
"""A window, or a chunk of positions, that no prompt fills: a layer without one has this."""


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True, eq=False)
class ArrayPart:
    """One part of a description: `kind` is its class; its fields are attributes.

    `arrays`: the fields that hold arrays, or parts; `fixed`: all others.
    """

    kind: str
    arrays: dict[str, Any]
    fixed: tuple[tuple[str, Any], ...]

    def __getattr__(self, name: str) -> Any:
        if name in ("arrays", "fixed"):  # while it is being made
            raise AttributeError(name)
        if name in self.arrays:
            return self.arrays[name]
        for key, value in self.fixed:
            if key == name:
                return value
        raise AttributeError(f"{self.kind} has no {name}")

    def tree_flatten(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Give the arrays, and apart from them what the structure is."""
        return tuple(self.arrays.values()), (self.kind, tuple(self.arrays), self.fixed)

    @classmethod
    def tree_unflatten(cls, structure: tuple[Any, ...], arrays: Sequence[Any]) -> ArrayPart:
        """Put together what `tree_flatten` gave."""
        kind, names, fixed = structure
        return cls(kind, dict(zip(names, arrays, strict=True)), fixed)


_DISTANCES = ("window", "chunk")
_LEFT_OUT = ("model", "original", "calls", "functions")


def tensors(value: Any) -> Any:
    """Turn a description into parts whose leaves are tensors still.

    >>> from edgewise.graphs.lift.lifted import Linear
    >>> part = tensors(Linear(torch.zeros(2, 3)))
    >>> part.kind, part.weight.shape, part.bias
    ('Linear', torch.Size([2, 3]), None)
    """
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, tuple):
        return tuple(map(tensors, value))
    if isinstance(value, float):
        return torch.tensor(value, dtype=torch.float64)
    if not is_dataclass(value) or isinstance(value, type):
        return value
    arrays: dict[str, Any] = {}
    fixed: list[tuple[str, Any]] = []
    for one in fields(value):
        if one.name in _LEFT_OUT:
            continue
        found = getattr(value, one.name)
        if one.name in _DISTANCES and found is not None:
            arrays[one.name] = torch.tensor(min(found, FAR), dtype=torch.int32)
        elif found is None or isinstance(found, bool | str | int):
            fixed.append((one.name, found))
        else:
            arrays[one.name] = tensors(found)
    return ArrayPart(type(value).__name__, arrays, tuple(fixed))


def with_distances(blocks: Sequence[ArrayPart]) -> list[ArrayPart]:
    """Give every layer a window, and a chunk, where some layer has one: what none reaches."""
    for name in _DISTANCES:
        if not any(name in block.attention.arrays for block in blocks if has_heads(block)):
            continue
        blocks = [_with_distance(block, name) if has_heads(block) else block for block in blocks]
    return list(blocks)


def has_heads(block: ArrayPart) -> bool:
    """Tell whether a layer has attention by head."""
    return isinstance(block.attention, ArrayPart) and block.attention.kind == "Attention"


def _with_distance(block: ArrayPart, name: str) -> ArrayPart:
    own = block.attention
    found = own.arrays.get(name, torch.tensor(FAR, dtype=torch.int32))
    arrays = {**{key: x for key, x in own.arrays.items() if key != name}, name: found}
    fixed = tuple((key, value) for key, value in own.fixed if key != name)
    attention = ArrayPart(own.kind, arrays, fixed)
    return ArrayPart(block.kind, {**block.arrays, "attention": attention}, block.fixed)


def crossed(tree: Any, wide: torch.dtype, device: Any, *, stacks: bool = False) -> Any:
    """Turn the tensors of a tree into arrays on a JAX device; numbers become of the wide type.

    `stacks`: they are of layers that run as scans, and may be what is cut out of an array.
    """

    def cross(x: Tensor) -> Any:
        if x.dim() == 0 and x.dtype == torch.float64:
            x = x.to(wide)
        found = as_cut(x) if stacks and not x.is_contiguous() else None
        if found is None:
            return to_array(x, device)
        whole, cut = found
        return CutOut(to_array(whole, device), cut)

    return jax.tree_util.tree_map(cross, tree, is_leaf=lambda x: isinstance(x, Tensor))


def to_array(x: Tensor, device: Any) -> Array:
    """Hand a tensor over to JAX, without a copy where both can see it.

    On a processor as a numpy array: JAX's threads let go of one without asking Python, which they
    must for a tensor that came by dlpack. Where Python is ending then, that aborts the program.
    """
    x = x.detach().contiguous()
    if x.device.type == "cpu":
        return jax.device_put(_as_numpy(x), device)
    if x.numel() == 0 or x.dtype == torch.bool:  # dlpack knows neither
        return jax.device_put(np.asarray(x.cpu()), device)
    _settle_at_the_end()
    found = jax.dlpack.from_dlpack(x)
    return found if device in found.devices() else jax.device_put(found, device)


def _as_numpy(x: Tensor) -> np.ndarray:
    """Return the same memory as a numpy array; numpy itself knows no bfloat16."""
    if x.dtype == torch.bfloat16:
        return x.view(torch.int16).numpy().view(jnp.bfloat16)
    found: np.ndarray = x.numpy()
    return found


@cache
def _settle_at_the_end() -> None:
    """Have Python end only when no program that was given a tensor's memory runs any more."""
    atexit.register(_settle)


def _settle() -> None:
    jax.effects_barrier()
    for one in jax.live_arrays():
        one.block_until_ready()


def to_tensor(x: Array) -> Tensor:
    """Hand an array over to torch."""
    if x.size == 0:
        return torch.from_numpy(np.array(x))
    return torch.utils.dlpack.from_dlpack(x)


def stacked(parts: Sequence[Any]) -> Any:
    """Stack trees of tensors of one structure, leaf by leaf; where they lie so already, a view."""

    def stack(*each: Tensor) -> Tensor:
        found = [one.detach() for one in each]
        view = in_one(found)
        return torch.stack(found) if view is None else view

    return jax.tree_util.tree_map(stack, *parts, is_leaf=lambda x: isinstance(x, Tensor))


def signature(part: Any) -> tuple[Any, ...]:
    """Return what two parts must have in common to run in one scan: structure, shapes, types."""
    leaves, structure = jax.tree_util.tree_flatten(part)
    return structure, tuple((tuple(x.shape), str(x.dtype)) for x in leaves)


def widest(*types: Any) -> Any:
    """Return the type that norms and softmax compute in: at least float32."""
    return jnp.promote_types(jnp.result_type(*types), jnp.float32)
