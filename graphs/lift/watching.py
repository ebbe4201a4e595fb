"""Notice that a model no longer computes what it did when it was described."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.nn import Module, Parameter

from .lifting import ALWAYS_IGNORED
from .live.guards import records
from .live.untouched import untouched

_WHOLE, _SAMPLE = 4096, 64
_UNREAD = {*ALWAYS_IGNORED, "training"}


class _Weight(NamedTuple):
    """What changes with a parameter, or a large buffer."""

    values: bytes
    identity: int
    place: int
    writes: int


class Watch:
    """A model as it was, or the tensors by which alone it is known.

    Noticed are changes of all tensors, saved or not, and of what modules compute with beside them:
    numbers, functions, classes, configs, submodules, and hooks but those by which transformers
    records hidden states. torch counts writes to tensors, but not those through `.data` or numpy's
    views: of these, all values of small tensors tell, and 64 of each large one.
    """

    def __init__(self, watched: Module | Sequence[Tensor]) -> None:
        self._model = watched if isinstance(watched, Module) else None
        self._given = [] if isinstance(watched, Module) else list(watched)
        self._look()

    @staticmethod
    def over(model: Module) -> Watch:
        """Return a watch over a model as it is now: one that is kept, if nothing has changed."""
        kept = _KEPT.get(id(model))
        if kept is None or kept.changed():
            kept = _KEPT[id(model)] = Watch(model)
        return kept

    def changed(self) -> str:
        """Name what has changed since; empty if nothing has. 538 MB take 0.3 milliseconds."""
        try:
            if self._quick() == self._known:
                return ""
        except (RuntimeError, ValueError):  # an attribute is another tensor, or array, now
            pass
        old, new = self._detailed, self._details()
        names = [key for key in {**old, **new} if old.get(key) != new.get(key)]
        if self._model is None or any(isinstance(new.get(n, old.get(n)), _Weight) for n in names):
            return "weights"
        if not names:
            self._look()  # what has changed has no influence
        return ", ".join(names[:3])

    def _look(self) -> None:
        """Note where everything stands, so that no name is looked up again while it stays."""
        self._detailed = self._details()
        self._modules = [] if self._model is None else list(self._model.modules())
        self._holders: list[Iterable[object]] = [c.values() for c in _configs(self._modules)]
        for module in self._modules:
            held: list[Mapping[Any, Any]] = [vars(module)]
            held += filter(None, (module._parameters, module._buffers, module._modules))
            held += [module._forward_hooks, module._forward_pre_hooks]
            self._holders += [one.values() for one in held]
        every = [*self._given, *chain.from_iterable(self._holders)]
        self._tensors = list({id(one): one for one in every if isinstance(one, Tensor)}.values())
        self._counted = [one for one in self._tensors if not one.is_inference()]
        samples: dict[object, list[Tensor]] = {}
        for one in self._tensors:
            samples.setdefault((one.dtype, one.device), []).append(_sample(one))
        self._samples = list(samples.values())
        self._known = self._quick()

    def _quick(self) -> list[object]:
        """Return what differs after any change, and after some that have no influence."""
        counts = [one._version for one in self._counted]
        places = [one.data_ptr() for one in self._tensors]
        values = [_bytes(torch.cat(parts)) for parts in self._samples]
        classes = [type(module).forward for module in self._modules]
        return [counts, places, values, classes, list(chain.from_iterable(self._holders))]

    def _details(self) -> dict[str, object]:
        """Return by name what has influence."""
        if self._model is None:
            return {}
        with untouched(self._model):
            start_afresh(self._model)
            return self._named(self._model)

    def _named(self, model: Module) -> dict[str, object]:
        modules = dict(model.named_modules())
        found: dict[str, object] = {}
        for name, module in modules.items():
            hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
            found[f"{name}()"] = type(module).forward, [h for h in hooks if not records(h)]
            parts = {**vars(module), **module._parameters, **module._buffers}
            found |= {f"{name}.{key}": _frozen(key, value) for key, value in parts.items()}
        for i, config in enumerate(_configs(modules.values())):
            found |= {f"{i} {key}": _frozen(key, value) for key, value in config.items()}
        return found


_KEPT: WeakValueDictionary[int, Watch] = WeakValueDictionary()
"""By the model's identity, which stays its own as long as the watch, which holds it, is kept."""


@torch.no_grad()
def start_afresh(model: Module | None) -> None:
    """Run one token: models with dynamic rotary scaling then forget the longer prompts they ran."""
    kinds = [] if model is None else [getattr(one, "rope_type", "") for one in model.modules()]
    if model is not None and re.search("dynamic|longrope", str(kinds)):
        device = next(model.parameters()).device
        model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=device), use_cache=False)


def _configs(modules: Iterable[Module]) -> list[dict[str, object]]:
    found = {id(one): one for m in modules if hasattr(one := getattr(m, "config", 0), "model_type")}
    return [vars(config) for config in found.values()]


def _frozen(key: str, value: Any) -> object:
    """Return what can be compared with an attribute's value later on."""
    if key.startswith("_") or key in _UNREAD:
        return None
    if isinstance(value, Tensor):
        values = _bytes(_sample(value))
        if value.numel() <= _WHOLE and not isinstance(value, Parameter):
            return value.dtype, value.shape, values
        count = 0 if value.is_inference() else value._version
        return _Weight(values, id(value), value.data_ptr(), count)
    if isinstance(value, (list, tuple, set, dict)):
        return repr(value)
    simple = value is None or isinstance(value, (bool, int, float, str, torch.dtype))
    return value if simple or callable(value) else type(value)


def _sample(tensor: Tensor) -> Tensor:
    """View some values of a tensor, [n], wherever they lie in its memory."""
    if not tensor.numel():
        return tensor.detach().reshape(-1)
    span = 1 + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    every = 1 if tensor.numel() <= _WHOLE else tensor.numel() // _SAMPLE
    return tensor.detach().as_strided((span,), (1,))[::every]


def _bytes(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).cpu().numpy().tobytes()
