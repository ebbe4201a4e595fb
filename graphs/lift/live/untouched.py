"""Leave a live model as it was found, whatever is called on it.

transformers records hidden states by hooks that it never takes off, and which pickle refuses;
dynamic rotary scaling stores a longer prompt's table. Both would outlive a look at a user's model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.nn import Module


@contextmanager
def untouched(model: Module | None) -> Iterator[None]:
    """Take back, at the end, what the block left on a model: hooks, attributes, flags, buffers.

    What a block writes into tensors themselves stays.
    """
    modules = [] if model is None else [model, *getattr(model, "whole", model).modules()]
    configs = {id(one): one for m in modules if hasattr(one := vars(m).get("config"), "__dict__")}
    found = [_Found(one) for one in (*modules, *configs.values())]
    grads = [
        (one, one.requires_grad)
        for m in modules
        for one in m._parameters.values()
        if one is not None
    ]
    try:
        yield
    finally:
        for one in found:
            one.restore()
        for parameter, required in grads:
            if parameter.requires_grad != required:
                parameter.requires_grad_(required)


class _Found:
    """An object's attributes as they were, and what the dictionaries among them held."""

    def __init__(self, owner: Any) -> None:
        self.held = vars(owner)
        self.was = dict(self.held)
        self.inside = {
            key: (value, value.copy())
            for key, value in self.was.items()
            if key.startswith("_") and isinstance(value, dict)
        }

    def restore(self) -> None:
        """Give every attribute the very value that it had."""
        if not _same(self.held, self.was):
            self.held.clear()
            self.held.update(self.was)
        for held, was in self.inside.values():
            if not _same(held, was):
                held.clear()
                held.update(was)


def _same(held: dict[Any, Any], was: dict[Any, Any]) -> bool:
    """Tell whether a dictionary holds the very objects that it held, under the same keys."""
    return held.keys() == was.keys() and all(held[key] is was[key] for key in was)
