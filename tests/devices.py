"""Two devices on one processor: tensors with real values that refuse to meet across devices.

A `Distant` tensor says it lies on `meta:0`, `meta:1` … and holds an ordinary tensor. An operation
on tensors of different devices fails as it does between two graphics cards, except for copies,
single numbers, and indices from the processor.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

COPIES = ("aten._to_copy", "aten.copy_")
INDEXED = ("aten.index", "aten.gather", "aten.embedding", "aten._index_put")


class Distant(Tensor):
    """Hold a tensor that seems to lie on another device."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor, device: torch.device) -> Distant:
        made = Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), dtype=inner.dtype, device=device
        )
        made.inner = inner
        return made  # type: ignore[no-any-return]

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def __getitem__(self, index: Any) -> Any:
        """Look up by lists as by tensors; torch would make them on the device, without values."""
        places = index if isinstance(index, tuple) else (index,)
        as_tensors = (torch.tensor(i) if isinstance(i, list) else i for i in places)
        return super().__getitem__(tuple(as_tensors))

    def tolist(self) -> Any:
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


class Machine(TorchDispatchMode):
    """Let tensors be made on the distant devices."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operation on the held tensors, if all lie on one device."""
    distant: list[torch.device] = []
    near: list[Tensor] = []

    def held(x: Any) -> Any:
        if isinstance(x, Distant):
            if x.dim():
                distant.append(x.device)
            return x.inner
        if isinstance(x, Tensor) and x.dim():
            assert not x.is_meta, "a tensor without values"
            near.append(x)
        return x

    plain_args, plain = tree_map(held, args), tree_map(held, kwargs)
    name = str(func)
    copies = name.startswith(COPIES)
    mixed = len(set(distant)) > 1 or (distant and near and not name.startswith(INDEXED))
    if mixed and not copies:
        where = sorted({*map(str, distant), *(["cpu"] if near else [])})
        raise RuntimeError(
            f"{name}: expected all tensors on one device, found {' and '.join(where)}"
        )
    wanted = plain.get("device")
    if wanted is not None and torch.device(wanted).type == "meta":
        plain["device"] = torch.device("cpu")
    scalar = next((x.device for x in _tensors((args, kwargs)) if isinstance(x, Distant)), None)
    target = wanted if wanted is not None else (distant[0] if distant else scalar)
    if name.startswith("aten.copy_"):
        target = args[0].device
    result = func(*plain_args, **plain)
    if name.endswith("_.default") or target is None or torch.device(target).type != "meta":
        in_place = args and isinstance(args[0], Distant) and result is plain_args[0]
        return args[0] if in_place else result
    return tree_map(
        lambda x: Distant(x, torch.device(target)) if isinstance(x, Tensor) else x, result
    )


def _tensors(value: Any) -> list[Tensor]:
    found: list[Tensor] = []
    tree_map(lambda x: found.append(x) if isinstance(x, Tensor) else None, value)
    return found


def moved(value: Any, number: int) -> Any:
    """Return a description with its tensors on a distant device."""
    if isinstance(value, Tensor):
        return Distant(value, torch.device("meta", number))
    if isinstance(value, tuple):
        return tuple(moved(item, number) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        changed = {f.name: moved(getattr(value, f.name), number) for f in fields(value)}
        return replace(value, **changed)
    return value
