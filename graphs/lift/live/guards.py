"""What a live model must not have: hooks, parts of other classes, weights that are not plain.

Each check names the module or parameter and what was found there.
"""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, ModuleDict, ModuleList

from ...errors import EdgewiseError, UnsupportedModel, out_of_memory
from .text_body import TextBody, around

_ONLY_GRADIENTS = "PreTrainedModel.enable_input_require_grads.<locals>.make_inputs_require_grads"
"""What gradient checkpointing hangs on the embedding, and leaves there: it alters no value."""


def check_weights(model: Any) -> None:
    """Refuse a model without layers, or with weights whose values are not there or not plain."""
    _check_layers(model.config)
    try:
        _check_offloaded(model)
        _check_plain(model)
    except UnsupportedModel:
        check_built(model)  # says it best, if a part was replaced
        raise


def check_state(model: Any) -> None:
    """Refuse a model with modules in training mode, or with hooks that may do something."""
    _check_training(model)
    _check_hooks(model)


# -- what is on modules --------------------------------------------------------------------------


def check_evaluation(model: Any) -> None:
    """Refuse a model in training mode."""
    if model.training:
        raise UnsupportedModel(
            "the model is in training mode, where dropout is active; call model.eval() first."
        )


def _check_training(model: Any) -> None:
    """Refuse single modules in training mode, where that may matter."""
    every = [path for path, module in around(model) if module.training and _heeds(module)]
    at = [name for name in every if name.rpartition(".")[0] not in every]
    if at:
        raise UnsupportedModel(
            f"{_some(at)} of the model {'is' if len(at) == 1 else 'are'} in training mode, where "
            "dropout may be active, although the model as a whole is not; call model.eval() first."
        )


def _heeds(module: Module) -> bool:
    """Tell whether a module may do something else in training: it has parts, or drops something."""
    own = (type(module).__name__, *vars(module))
    if isinstance(module, ModuleList | ModuleDict):  # which only hold others
        return False
    return any(True for _ in module.children()) or any("drop" in word.lower() for word in own)


def _check_hooks(model: Any) -> None:
    """Refuse hooks but those that move data, record hidden states or ask for gradients."""
    hooked = [
        path or type(module).__name__
        for path, module in around(model)
        if not all(map(_alters_nothing, module._forward_hooks.values()))
        or module._forward_pre_hooks
        or not _only_moves(getattr(module, "_hf_hook", None))
    ]
    if hooked:
        raise UnsupportedModel(
            f"the model has forward hooks on {_some(hooked)}, whose effect cannot be "
            "lifted; remove the hooks first."
        )


def records(hook: object) -> bool:
    """Tell whether transformers records hidden states by a hook, which changes nothing."""
    return str(getattr(hook, "__module__", "")).startswith("transformers.utils.")


def _alters_nothing(hook: object) -> bool:
    return records(hook) or getattr(hook, "__qualname__", "") == _ONLY_GRADIENTS


def _only_moves(hook: Any) -> bool:
    """Tell whether an accelerate hook does no more than carry a module's inputs to its device."""
    if type(hook).__name__ == "SequentialHook":
        return all(_only_moves(part) for part in hook.hooks)
    return hook is None or type(hook).__name__ == "AlignDevicesHook"


# -- what weights are ----------------------------------------------------------------------------


def _check_layers(config: Any) -> None:
    if getattr(config, "num_hidden_layers", 1) == 0:
        raise UnsupportedModel(
            "the model has no layers: its config says num_hidden_layers is 0; accepted: a decoder "
            "of one layer or more."
        )


def _check_offloaded(model: Any) -> None:
    """Refuse weights that are not in memory but fetched, by a hook, when their module runs."""
    absent = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if absent:
        raise UnsupportedModel(
            f"{len(absent)} parameters of the model are on the device 'meta', without values: "
            f"{_some(absent)}. Parts that a device_map "
            "offloads to the processor's memory or to disk cannot be lifted; load the model so "
            "that all of it is on devices that compute (more of them, or a smaller dtype)."
        )


def _check_plain(model: Any) -> None:
    """Refuse weights that are no dense matrices of one floating-point type."""
    found = dict(model.named_parameters())
    kinds: tuple[tuple[str, str, Callable[[Tensor], bool]], ...] = (
        ("sparse", "call .to_dense() on them", lambda t: t.layout is not torch.strided),
        (
            "no floating-point numbers",
            "use weights that are not packed or quantised",
            lambda t: not t.is_floating_point(),
        ),
    )
    for what, do, wrong in kinds:
        at = [name for name, parameter in found.items() if wrong(parameter)]
        if at:
            kind = found[at[0]]
            raise UnsupportedModel(
                f"{len(at)} parameters of the model are {what}: {_some(at)} "
                f"({_word(kind.dtype)}, {_word(kind.layout)}). Accepted: dense matrices of one "
                f"floating-point type; {do}."
            )
    everything = {**found, **dict(model.named_buffers())}
    at = [name for name, tensor in everything.items() if tensor.is_inference()]
    if at:
        raise UnsupportedModel(
            f"{len(at)} tensors of the model were made in torch.inference_mode(), through which "
            f"no gradient can go: {_some(at)}. Make, load or convert the model outside of it (or "
            "take copy.deepcopy(model) outside of it)."
        )


def check_types(model: Any, dtype: torch.dtype, apart: Iterable[Tensor] = ()) -> None:
    """Refuse weights of another type than the embedding's, but those a model's class keeps wide.

    `apart`: weights of parts that run the model's own modules, whatever their types.
    """
    whole = model.whole if isinstance(model, TextBody) else model
    kept = {
        *(getattr(whole, "_keep_in_fp32_modules", None) or ()),
        *(getattr(whole, "_keep_in_fp32_modules_strict", None) or ()),
    }
    wide = re.compile("|".join(rf"(^|\.){re.escape(name)}(\.|$)" for name in kept) or "$.")
    own = {tensor.untyped_storage().data_ptr() for tensor in apart}
    built = _built(whole).types
    at = {
        name: parameter.dtype
        for path, module in around(model)
        for leaf, parameter in module._parameters.items()
        if parameter is not None
        and (name := f"{path}.{leaf}" if path else leaf)
        and parameter.dtype not in (dtype, built.get(name))
        and parameter.untyped_storage().data_ptr() not in own
        and not (parameter.dtype == torch.float32 and wide.search(name))
        and (whole is model or model.inside(path))
    }
    if at:
        raise UnsupportedModel(
            f"the model's weights are of several types: {len(at)} are not {_word(dtype)}, the "
            f"embedding's type: {_some([f'{n} ({_word(d)})' for n, d in at.items()])}. "
            "Accepted: one type; convert the model with model.to(dtype)."
        )


# -- what modules are ----------------------------------------------------------------------------


def check_built(model: Any) -> None:
    """Refuse a model in which a module is of another class than its own class puts there.

    So a packed, cast, adapted or left out part is named, whatever its class would compute.
    """
    whole = model.whole if isinstance(model, TextBody) else model
    expected, at = _built(whole).kinds, list[str]()
    for path, module in around(model):
        kind = expected.get(path) if path else None
        if kind is None or _runs_as(module, kind) or any(path.startswith(f"{n}.") for n in at):
            continue
        at.append(path)
    if at:
        kind, found = expected[at[0]], type(whole.get_submodule(at[0]))
        more = f", and {len(at) - 1} more modules are others too" if len(at) > 1 else ""
        raise UnsupportedModel(
            f"the module {at[0]} of the model is a {found.__module__}.{found.__qualname__}, where "
            f"{type(whole).__name__} with this configuration has a {kind.__name__}{more}. A "
            "replaced part (packed, cast, adapted or left out) cannot be lifted; accepted: the "
            "modules as transformers builds them. Merge adapters, and use weights that are not "
            "quantised."
        )


def _runs_as(module: Module, kind: type[Module]) -> bool:
    """Tell whether a module runs the code of a class: it is of it, or inherits all it does."""
    own = type(module)
    if own is kind or (issubclass(kind, torch.nn.Dropout) and own is torch.nn.Identity):
        return True
    same = all(getattr(own, n) is getattr(kind, n) for n in ("forward", "__call__"))
    return issubclass(own, kind) and same and not hasattr(module, "parametrizations")


@dataclass(frozen=True)
class _Built:
    """What a model's class builds by a config: the class of every module, by path, and types."""

    kinds: dict[str, type[Module]]
    types: dict[str, torch.dtype]


@dataclass(frozen=True)
class _Config:
    """A model's class, a config for it, which its settings tell from others, and its type."""

    kind: Any
    config: Any = field(compare=False)
    settings: str
    dtype: torch.dtype


def _built(model: Any) -> _Built:
    """Build a model of the same class, config and type of numbers, without memory."""
    config, kind = model.config, type(model)
    if not kind.__module__.startswith("transformers."):
        return _Built({}, {})
    settings = repr((config.to_dict(), getattr(config, "_attn_implementation", None)))
    types = (parameter.dtype for parameter in model.parameters())
    dtype = next((one for one in types if one in _USUAL), torch.float32)
    return _built_by(_Config(kind, config, settings, dtype))


_USUAL = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@functools.lru_cache(maxsize=512)
def _built_by(asked: _Config) -> _Built:
    usual = torch.get_default_dtype()
    torch.set_default_dtype(asked.dtype)
    try:
        with torch.device("meta"):
            built = asked.kind(copy.deepcopy(asked.config))
    except Exception:  # a config that was edited after the model was built
        return _Built({}, {})
    finally:
        torch.set_default_dtype(usual)
    return _Built(
        {name: type(module) for name, module in built.named_modules()},
        {name: parameter.dtype for name, parameter in built.named_parameters()},
    )


# -- what goes wrong all the same ----------------------------------------------------------------


@contextmanager
def naming_modules(model: Any, what: str) -> Iterator[None]:
    """Say at which module of a model any error but our own came up, and `what` cannot be done."""
    try:
        yield
    except EdgewiseError:
        raise
    except Exception as error:
        if told := out_of_memory(error):
            raise told from error
        at = _place(model, error.__traceback__)
        text = " ".join(str(error).split())[:200] or type(error).__name__
        raise UnsupportedModel(
            f"{what}: at {at}, {type(error).__name__}: {text.rstrip('.')}. Accepted: a model as "
            "transformers builds it by its configuration; a part that was replaced, or a "
            "configuration that was edited afterwards, cannot be lifted."
        ) from error


def _place(model: Any, trace: TracebackType | None) -> str:
    """Return the path and class of the innermost module that code was at work on at an error."""
    names = {id(module): path for path, module in around(model) if path}
    at = ("", model)
    while trace is not None:
        held = [one for one in trace.tb_frame.f_locals.values() if isinstance(one, Module)]
        here = [(names[id(one)], one) for one in held if id(one) in names]
        at = max(here, key=lambda found: len(found[0]), default=at)
        trace = trace.tb_next
    return f"{at[0]} ({type(at[1]).__name__})" if at[0] else f"the {type(at[1]).__name__} itself"


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (" …" if len(names) > 5 else "")


def _word(kind: object) -> str:
    return str(kind).removeprefix("torch.")
