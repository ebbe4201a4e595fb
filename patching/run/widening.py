"""Compute in a wider type than a model's weights have, without a copy of the model.

Every operation widens the narrow tensors that it is given, one weight at a time, and what code asks
for in the narrow type it gets in the wide one. So the model's own code and a lift's, run this way,
can be compared without the rounding of their type.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

HALF_TYPES = (torch.bfloat16, torch.float16)
_OF_ITSELF = ("data_ptr", "untyped_storage")
"""What is asked of a tensor itself, by what knows it again, and not of its values."""


class Widening(TorchFunctionMode):
    """Compute in `wide` wherever one of the types `narrow` stands.

    >>> x = torch.tensor([1.0, 1 / 3], dtype=torch.bfloat16)
    >>> with Widening([torch.bfloat16], torch.float32):
    ...     print((x * x).dtype, x.to(torch.bfloat16).dtype)
    torch.float32 torch.float32
    """

    def __init__(self, narrow: Iterable[torch.dtype], wide: torch.dtype) -> None:
        super().__init__()
        self.narrow, self.wide = frozenset(narrow), wide

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if name == "__get__":  # an attribute, such as x.dtype
            found = func(*args)
            return self.wide if isinstance(found, torch.dtype) and found in self.narrow else found
        if func is torch.nn.functional.embedding:  # widens the rows that are read, not the table
            return self._given(func(*args, **kwargs))
        if name in _OF_ITSELF:
            return func(*args, **kwargs)
        if func is Tensor.float and torch.float32 in self.narrow:  # names no type among its inputs
            return args[0].to(self.wide)
        if _writes(name) and args and self._given(args[0]) is not args[0]:
            return func(*args, **kwargs)  # into a tensor of the model's, which keeps its type
        return self._given(func(*self._given(tuple(args)), **self._given(kwargs)))

    def _given(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(self.wide) if value.dtype in self.narrow else value
        if isinstance(value, torch.dtype):
            return self.wide if value in self.narrow else value
        if type(value) in (tuple, list):
            return type(value)(map(self._given, value))
        if type(value) is dict:
            return {key: self._given(part) for key, part in value.items()}
        return value


def _writes(name: str) -> bool:
    """Tell whether a function of this name writes to its first argument.

    >>> [_writes(name) for name in ("copy_", "__setitem__", "__add__", "add")]
    [True, True, False, False]
    """
    inner = name.startswith("__") and name.endswith("__")
    return name.startswith(("__i", "__set")) if inner else name.endswith("_")
