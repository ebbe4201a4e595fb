"""Watch a live model's own code run: what its modules are given and return; leave nothing behind.

Shapes: B examples, T positions, n prompts, D d_model.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor
from torch.nn import Module, ModuleList

from ...errors import UnsupportedModel
from ..devices import place
from ..live.untouched import untouched

if TYPE_CHECKING:
    from ..attention import AttentionContext

LENGTHS_KEPT = 8  # prompts' lengths of which it is known how modules are called


@dataclass(frozen=True)
class OwnCall:
    """With what the model's own code calls a module: its inputs, but what it reads of the stream.

    `reads`: the place of the hidden states among the positional inputs, or their name.
    """

    args: tuple[object, ...]
    kwargs: Mapping[str, object]
    reads: int | str

    def __call__(self, function: Callable[..., Any], x: Tensor, **given: object) -> Any:
        """Call a module, or what stands for it, on hidden states x [n, T, D].

        `given`: inputs in the place of those that were noted.
        """
        args = [_fitted(one, x) for one in self.args]
        kwargs = {key: _fitted(one, x) for key, one in self.kwargs.items()} | given
        if isinstance(self.reads, int):
            args[self.reads] = x
        else:
            kwargs[self.reads] = x
        return function(*args, **kwargs)


class OwnCalls:
    """How a live model calls some of its modules, by their names; noted once for each length.

    `given`: the inputs that whoever calls them anew gives himself, the hidden states first.
    """

    def __init__(self, model: Module, names: Sequence[str], given: Sequence[str] = ()) -> None:
        self._model, self._names, self._given = model, tuple(names), tuple(given)
        self._known: dict[tuple[int, torch.dtype], dict[str, OwnCall]] = {}

    def of(self, name: str, context: AttentionContext, dtype: torch.dtype) -> OwnCall:
        """Return how a module is called in prompts of the context's length, padded on the right.

        `dtype`: that of the hidden states, in which tables are computed anew.
        """
        if not bool(context.mask[:, 0].all()):
            raise UnsupportedModel(
                f"{name} is taken whole, so prompts must be padded on the right, if at all."
            )
        key = (context.mask.shape[1], dtype)
        if key not in self._known:
            if len(self._known) >= LENGTHS_KEPT:
                self._known.pop(next(iter(self._known)))
            self._known[key] = self._note(key[0])
        return self._known[key][name]

    def _note(self, length: int) -> dict[str, OwnCall]:
        found: dict[str, OwnCall] = {}
        modules = {name: self._model.get_submodule(name) for name in self._names}
        with untouched(self._model), observed(modules) as calls:
            experts_one_by_one(self._model)
            run_own(self._model, torch.zeros(1, length, dtype=torch.long))
        for call in calls:
            if call.name in found:
                raise UnsupportedModel(
                    f"{call.name} runs more than once in a forward pass, so it is no layer's own "
                    "part and cannot be taken whole."
                )
            if self._given:
                found[call.name] = call.without(modules[call.name], self._given)
            else:
                found[call.name] = call.without_stream(length)
        if missing := [name for name in self._names if name not in found]:
            raise UnsupportedModel(f"the model's own code does not run {', '.join(missing[:3])}.")
        return found


@dataclass(frozen=True)
class Observed:
    """One call of a module that was watched: what it was given and what it returned."""

    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Tensor

    def without_stream(self, length: int) -> OwnCall:
        """Return how to call the module again on other hidden states, [1, length, D]."""
        places: list[tuple[int | str, object]] = [*enumerate(self.args), *self.kwargs.items()]
        width = self.output.shape[-1]
        reads = [k for k, x in places if is_stream(x, length) and x.shape[-1] == width]
        if len(reads) != 1:
            raise UnsupportedModel(
                f"{self.name} is given {len(reads)} inputs of the stream's shape; a part that is "
                "taken whole must read it once."
            )
        caches = [str(key) for key, one in places if _gathers(one)]
        if caches:
            raise UnsupportedModel(
                f"{self.name} is given a cache ({', '.join(caches)}) although none was asked for; "
                "what it gathers would leak between runs."
            )
        args = tuple(None if key == reads[0] else one for key, one in enumerate(self.args))
        kwargs = {key: one for key, one in self.kwargs.items() if key != reads[0]}
        return OwnCall(args, kwargs, reads[0])

    def without(self, module: Module, given: Sequence[str]) -> OwnCall:
        """Return how to call the module again with some inputs given, the hidden states first."""
        takes = inspect.signature(module.forward)
        named = takes.bind(*self.args, **self.kwargs).arguments
        for key, one in takes.parameters.items():
            if one.kind is inspect.Parameter.VAR_KEYWORD:
                named |= named.pop(key, {})
        kwargs = {key: value for key, value in named.items() if key not in given}
        return OwnCall((), kwargs, given[0])

    @property
    def reads_stream(self) -> bool:
        """Tell whether it was given hidden states, [B, T, D]."""
        return any(is_stream(x, None) for x in (*self.args, *self.kwargs.values()))

    @property
    def given(self) -> Tensor:
        """Return the first tensor that it was given, which for parts of a layer is the stream's."""
        found: Tensor = next(x for x in (*self.args, *self.kwargs.values()) if is_stream(x, None))
        return found


@contextmanager
def observed(modules: Mapping[str, Module]) -> Iterator[list[Observed]]:
    """Note every call of some modules, by their names, in order; leave nothing behind."""
    calls: list[Observed] = []
    names = {id(module): name for name, module in modules.items()}

    def note(module: Module, args: Any, kwargs: Any, output: Any) -> None:
        if (first := first_tensor(output)) is not None:
            calls.append(Observed(names[id(module)], tuple(args), dict(kwargs), first))

    handles = [one.register_forward_hook(note, with_kwargs=True) for one in modules.values()]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def run_own(model: Module, ids: Tensor) -> Any:
    """Run a live model's own code on ids [B, T] without padding, as certificates do; no cache."""
    device = next(model.parameters()).device
    ids = place(ids, device)
    where: dict[str, object] = {
        "attention_mask": torch.ones_like(ids),
        "position_ids": torch.arange(ids.shape[1], device=device).expand_as(ids),
    }
    takes = inspect.signature(model.forward).parameters
    every = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in takes.values())
    where = {key: one for key, one in where.items() if every or key in takes}
    return model(input_ids=ids, use_cache=False, **where)


def experts_one_by_one(model: Module) -> None:
    """Let experts run one by one: their default, a grouped product, has no float64.

    To be called where the model is kept as it was found.
    """
    for module in model.modules():
        config: Any = vars(module).get("config")
        if getattr(config, "_experts_implementation", None) is not None:
            config._experts_implementation_internal = "eager"


def decoder_layers(model: Module, count: int) -> list[Module] | None:
    """Return a live model's layers: of its lists of so many modules, the one with most weights."""
    lists = [one for one in model.modules() if isinstance(one, ModuleList) and len(one) == count]
    sizes = [sum(p.numel() for p in one.parameters()) for one in lists]
    return [*lists[sizes.index(max(sizes))]] if lists else None


@contextmanager
def layer_inputs(layers: Sequence[Module], streams: int = 1) -> Iterator[list[Tensor]]:
    """Note what each layer is given, [B, T, D], in the order in which they run.

    Of layers that read several streams, [streams, B, T, D], these side by side.
    """
    found: list[Tensor] = []

    def note(_: Module, args: Any, kwargs: Any) -> None:
        every = (*args, *kwargs.values())
        if streams > 1:
            found.append(next(x for x in every if isinstance(x, Tensor) and x.dim() == 4))
            found[-1] = found[-1].movedim(0, -2).flatten(-2)
        else:
            found.append(next(x for x in every if is_stream(x, None)))

    handles = [one.register_forward_pre_hook(note, with_kwargs=True) for one in layers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def name_in(model: Module, module: Module) -> str:
    """Return a module's name in a model."""
    return next(str(name) for name, one in model.named_modules() if one is module)


def first_tensor(output: Any) -> Tensor | None:
    """Return what a module's output begins with."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, (tuple, list)):
        return next((one for one in output if isinstance(one, Tensor)), None)
    return None


def _fitted(value: Any, x: Tensor) -> Any:
    """Return what was recorded of one prompt for hidden states x: where they lie, of their type."""
    if isinstance(value, Tensor):
        value = place(value, x.device)
        return value.to(x.dtype) if value.is_floating_point() else value
    if isinstance(value, (tuple, list)):
        return type(value)(_fitted(one, x) for one in value)
    if isinstance(value, dict):
        return {key: _fitted(one, x) for key, one in value.items()}
    return value


def is_stream(value: object, length: int | None) -> TypeGuard[Tensor]:
    """Tell whether an input of a module is hidden states, [B, length, D]."""
    if not isinstance(value, Tensor) or value.dim() != 3 or not value.is_floating_point():
        return False
    return length is None or value.shape[1] == length


def _gathers(value: object) -> bool:
    """Tell whether an input of a module is a cache."""
    return any(kind.__name__.endswith("Cache") for kind in type(value).__mro__)
