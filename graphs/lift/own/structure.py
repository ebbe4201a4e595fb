"""How a decoder layer is built, seen from what flows through it in one run of its own code.

A layer's parts are found by what they are given and return, not by their names:

1. *Calls*: the modules that the layer's own code calls, in order; a module that such a module calls
   is its own affair, and one that returns what it was given (a dropout) is none.
2. *A section*: a call that gives its input normalised is a norm if it reads the stream. Calls that
   read what it gives, perhaps scaled, are the section's cores. A norm of their sum stands behind.
3. *The sum*: what the next section reads, or the layer returns, minus the stream before must be a
   sum of what the sections' cores (or the norms behind them) gave, each with one factor. Sections
   that read the same stream are added up together.

Whatever is not so has no place in a graph, and is refused.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import Module

from ...errors import UnsupportedModel
from ..norms import Norm
from .observing import Observed

T = TypeVar("T")

CLOSE, CLOSE_IN_HALF = 1e-4, 3e-2  # how far numbers may be apart, in parts of the largest


@dataclass(frozen=True)
class Core:
    """A part's module, what it was given and returned, and by what both are multiplied."""

    name: str
    module: Module
    given: Tensor
    output: Tensor
    input_scale: float
    output_scale: float = 1.0


@dataclass(frozen=True)
class Section:
    """Cores that read one norm of the stream, and a norm behind their sum."""

    norm: Norm | None
    normed: Tensor
    cores: tuple[Core, ...]
    post_norm: Norm | None = None


def close(a: Tensor, b: Tensor) -> bool:
    """Tell whether two tensors hold the same, but for rounding."""
    if a.shape != b.shape:
        return False
    return bool((a - b).abs().max() <= _slack(a) * max(float(b.abs().max()), 1e-30))


def nearest(found: Iterable[tuple[T, Tensor]], wanted: Tensor) -> T | None:
    """Return the description whose output is nearest to what a module gave, if it is close.

    Where inputs are small, others come close too: the two forms of gelu, or norms of unlike eps.
    """
    best, least = None, float("inf")
    for one, output in found:
        if output.shape == wanted.shape and close(output, wanted):
            error = float((output - wanted).abs().max())
            if error < least:
                best, least = one, error
    return best


def _slack(x: Tensor) -> float:
    return CLOSE_IN_HALF if x.dtype in (torch.float16, torch.bfloat16) else CLOSE


def factors(total: Tensor, parts: Sequence[Tensor], known: Sequence[float]) -> list[float] | None:
    """Return by which factors the parts add up to a total; None if they do not.

    Factors that are near 1 or one of the `known` are that.
    """
    if any(part.shape != total.shape for part in parts):
        return None
    # on the processor: a graphics card has no driver for columns that depend on each other
    columns = torch.stack([part.cpu().double().flatten() for part in parts], 1)
    wanted = total.cpu().double().flatten()
    found = torch.linalg.lstsq(columns, wanted[:, None], driver="gelsd").solution[:, 0]
    slack, size = _slack(total), max(float(wanted.abs().max()), 1e-30)
    if float((columns @ found - wanted).abs().max()) > slack * size:
        return None
    exact = []
    for value in found.tolist():
        near = min((1.0, *known), key=lambda one: abs(one - value))
        exact.append(near if abs(near - value) <= 10 * slack * abs(value) else value)
    return exact


def norm_of(module: Module, given: Tensor, output: Tensor, eps: Iterable[float]) -> Norm | None:
    """Describe a module that normalises its input; None if it does something else."""
    own = dict(module.named_parameters())
    width = given.shape[-1]
    if set(own) - {"weight", "bias"} or any(p.shape != (width,) for p in own.values()):
        return None
    weight, bias = (None if p is None else p.detach() for p in map(own.get, ("weight", "bias")))
    stated = [getattr(module, name, None) for name in ("variance_epsilon", "eps", "epsilon")]
    offsets = (0.0, 1.0) if weight is not None else (0.0,)
    numbers = dict.fromkeys(e for e in (*stated, *eps) if isinstance(e, float))
    every = itertools.product(numbers, (False, True), offsets)
    norms = (Norm(weight, bias, *one) for one in every)
    return nearest(((norm, norm(given)) for norm in norms), output)


def sections_of(
    layer: str, stream: Tensor, calls: Sequence[tuple[Observed, Module]], behind: Tensor,
    known: Sequence[float], eps: Sequence[float],
) -> list[list[Section]]:  # fmt: skip
    """Part a layer into sections, in the order of the sums that they are added up in.

    `stream`, `behind`: what the layer read and returned; `known`, `eps`: the config's numbers.
    """
    steps: list[list[Section]] = []
    pending: list[Section] = []
    at = 0
    while at < len(calls):
        norm, normed, at = _norm_at(calls, at, stream, eps)
        cores: list[Core] = []
        while at < len(calls):
            call, module = calls[at]
            scale = factors(call.given, [normed], known)
            if scale is None:
                break
            cores.append(Core(call.name, module, call.given, call.output, scale[0]))
            at += 1
        if not cores:
            raise UnsupportedModel(
                f"{calls[at][0].name if at < len(calls) else layer} reads something else than the "
                "stream or a norm of it"
            )
        section = Section(norm, normed, tuple(cores))
        section, at = _with_norm_behind(section, calls, at, known, eps)
        pending.append(section)
        after = behind if at == len(calls) else calls[at][0].given
        if at < len(calls) and close(after, stream):
            continue  # a part beside this one, which reads the same
        steps.append(_summed(layer, stream, pending, after, known))
        stream, pending = after, []
    if not close(stream, behind):
        raise UnsupportedModel(f"{layer} returns something else than its stream")
    return steps


def _norm_at(
    calls: Sequence[tuple[Observed, Module]], at: int, stream: Tensor, eps: Sequence[float]
) -> tuple[Norm | None, Tensor, int]:
    """Return the norm that a section begins with, what it gives, and where its cores begin."""
    call, module = calls[at]
    if close(call.given, stream):
        norm = norm_of(module, call.given, call.output, eps)
        if norm is not None:
            return norm, call.output, at + 1
    return None, stream, at


def _with_norm_behind(
    section: Section, calls: Sequence[tuple[Observed, Module]], at: int,
    known: Sequence[float], eps: Sequence[float],
) -> tuple[Section, int]:  # fmt: skip
    """Take in a norm that reads the sum of a section's cores."""
    if at == len(calls):
        return section, at
    call, module = calls[at]
    found = factors(call.given, [core.output for core in section.cores], known)
    norm = None if found is None else norm_of(module, call.given, call.output, eps)
    if found is None or norm is None:
        return section, at
    cores = [replace(c, output_scale=s) for c, s in zip(section.cores, found, strict=True)]
    return replace(section, cores=tuple(cores), post_norm=norm), at + 1


def _summed(
    layer: str, stream: Tensor, pending: list[Section], after: Tensor, known: Sequence[float]
) -> list[Section]:
    """Find by which factors sections are added to the stream."""
    outputs = [_outputs(section) for section in pending]
    found = factors(after - stream, [one for some in outputs for one in some], known)
    if found is None:
        raise UnsupportedModel(f"{layer} does not add what its parts give to its stream")
    done, weights = [], iter(found)
    for section, some in zip(pending, outputs, strict=True):
        own = [next(weights) for _ in some]
        if section.post_norm is not None:
            done.append(replace(section, post_norm=replace(section.post_norm, factor=own[0])))
        else:
            cores = [replace(c, output_scale=w) for c, w in zip(section.cores, own, strict=True)]
            done.append(replace(section, cores=tuple(cores)))
    return done


def _outputs(section: Section) -> list[Tensor]:
    """Return what a section may add to the stream: each core's output, or the norm's behind."""
    if section.post_norm is None:
        return [core.output for core in section.cores]
    total = sum(core.output * core.output_scale for core in section.cores)
    assert isinstance(total, Tensor)
    return [section.post_norm(total)]


def outermost(layer: str, calls: Iterable[Observed], modules: dict[str, Any]) -> list[Any]:
    """Keep the calls of a layer's code itself that map hidden states to hidden states."""
    inside = [call for call in calls if call.name.startswith(f"{layer}.")]
    names = {call.name for call in inside}

    def is_nested(name: str) -> bool:
        parents = name.split(".")
        return any(".".join(parents[:i]) in names for i in range(1, len(parents)))

    return [
        (call, modules[call.name])
        for call in inside
        if not is_nested(call.name)
        and call.reads_stream
        and call.output.shape == call.given.shape
        and not (call.output is call.given or torch.equal(call.output, call.given))
    ]
