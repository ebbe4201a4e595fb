"""Describe a mixture of experts by the shape of its parameters: what routings it can have.

A mixture has two stacks of matrices, the experts' first [E, I or 2I, D] and last [E, D, I], and a
router's matrix [E, D]; what else it has is one shared expert, perhaps with a gate [1, D]. How many
experts a token is sent to, groups of experts, corrections of scores and a factor are stated by
modules, as published code names them. Whether scores are a softmax or a sigmoid, and renormalised,
is tried: what the description computes must be what the module gives, also of random features, so
many that experts which are chosen otherwise are seen.

Shape letters: D d_model, E experts, I features inside one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from ..experts import Experts, Routing, SharedExpert
from ..mlp import ACTIVATIONS, MLP
from ..own.observing import first_tensor

CHOSEN = ("top_k", "num_experts_per_tok", "num_selected_experts", "moe_top_k")
"""What published code calls the number of experts that a token is sent to."""

CORRECTIONS = ("e_score_correction_bias", "expert_bias")
"""What it calls a tensor that corrects the scores by which experts are chosen."""

RANDOM = 200
"""How many random features a mixture is tried with."""

EPSILONS = (0.0, 1e-6, 1e-20)
"""What is added to the sum by which weights are divided."""


@dataclass(frozen=True)
class Stacks:
    """The tensors of a mixture: its experts' first and last matrices, and its router's.

    `shared`: the name of the module in which the rest of its parameters are; `gate`: [1, D].
    """

    first: Tensor
    last: Tensor
    router: Tensor
    shared: str
    gate: Tensor | None


def stacks_of(module: Module, width: int) -> Stacks | None:
    """Find a mixture's tensors by their shapes; None if the module is no such mixture."""
    named = {name: p.detach() for name, p in module.named_parameters()}
    cubes = [p for p in named.values() if p.dim() == 3]
    if len(cubes) != 2 or cubes[0].shape[0] != cubes[1].shape[0]:
        return None
    first, last = cubes
    experts, inner = last.shape[0], last.shape[2]
    if (
        last.shape[1] != width
        or first.shape[2] != width
        or first.shape[1] not in (inner, 2 * inner)
    ):
        return None
    routers = [name for name, p in named.items() if p.shape == (experts, width)]
    if len(routers) != 1:
        return None
    rest = [n for n, p in named.items() if p.dim() != 3 and n != routers[0]]
    gates = [name for name in rest if named[name].shape == (1, width)]
    rest = [name for name in rest if name not in gates]
    shared = tuple(dict.fromkeys(name.split(".")[0] for name in rest))
    if len(gates) > 1 or len(shared) > 1 or (gates and not shared):
        return None
    gate = named[gates[0]] if gates else None
    return Stacks(first, last, named[routers[0]], "".join(shared), gate)


def mixtures(module: Module, stacks: Stacks, config: Any, shared: MLP | None) -> Iterator[Experts]:
    """Yield what a mixture can be; `shared`: what its shared expert is, without the gate."""
    modules: list[Any] = [*module.modules(), config]
    activations = {x for x in vars(config).values() if isinstance(x, str) and x in ACTIVATIONS}
    chosen = _stated(modules, CHOSEN)
    if not isinstance(chosen, int) or not 0 < chosen <= len(stacks.router):
        return
    one = None if shared is None else SharedExpert(shared, stacks.gate)
    inside = stacks.last.shape[2]
    halves = stacks.first.chunk(2, 1) if stacks.first.shape[1] == 2 * inside else (stacks.first,)
    arranged = [halves, halves[::-1]] if len(halves) == 2 else [halves]
    every = itertools.product(_routings(module, modules), arranged, sorted(activations | {"silu"}))
    for (routing, again), parts, activation in every:
        gate, up = parts if len(parts) == 2 else (None, parts[0])
        yield Experts(
            router=stacks.router, gate=gate, up=up, down=stacks.last, chosen=chosen,
            activation=activation, renormalise=again, shared=one, routing=routing,
        )  # fmt: skip


def routed_alike(
    module: Module, every: Sequence[Experts], given: Tensor, order: Sequence[int]
) -> int | None:
    """Return which mixture gives what a module gives; of equally good ones the first in order.

    `given`: features that the module read, [1, T, D]. In 16 bits some tokens stand so near to two
    experts that rounding sends them elsewhere; they are left out.
    """
    draw = torch.Generator().manual_seed(0)
    noise = torch.randn(1, RANDOM, given.shape[-1], generator=draw).to(given)
    size = given.float().std()
    best: tuple[float, int] | None = None
    for x, share in ((given, 1.0), ((noise * size).to(given), 0.97)):
        wanted = first_tensor(module(x))
        if wanted is None:
            return None
        wanted = wanted.view_as(x)
        slack = (3e-2 if x.dtype in (torch.float16, torch.bfloat16) else 1e-4) * wanted.abs().max()
        fits, best = [], None
        for i in order:
            off = (every[i](x) - wanted).abs().amax(-1).flatten()
            if float((off <= slack).float().mean()) >= share:
                fits.append(i)
                error = float(off.double().quantile(0.9))
                best = (error, i) if best is None or error < best[0] else best
        order = fits
    return None if best is None else best[1]


def _routings(module: Module, modules: list[Any]) -> Iterator[tuple[Routing, bool]]:
    """Yield routings, and whether the chosen weights are divided by their sum."""
    buffers = {name.split(".")[-1]: b.detach() for name, b in module.named_buffers()}
    correction = next((buffers[name] for name in CORRECTIONS if name in buffers), None)
    scale = _stated(modules, ("routed_scaling_factor",))
    groups = _stated(modules, ("num_group", "n_group")) or 1
    open_groups = (_stated(modules, ("topk_group",)) or 1) if groups > 1 else 1
    stated = Routing(correction=correction, groups=groups, open_groups=open_groups)
    sums = (1, 2) if groups > 1 else (1,)
    for score, best in itertools.product(("all", "sigmoid"), sums):
        routing = replace(stated, score=score, best=best)
        for factor in dict.fromkeys((1.0, float(scale or 1.0))):
            yield replace(routing, scale=factor), False
            for epsilon in EPSILONS[:2] if score == "all" else EPSILONS:
                yield replace(routing, scale=factor, epsilon=epsilon), True


def _stated(modules: list[Any], names: tuple[str, ...]) -> Any:
    """Return the first number that a module, or the config, states under one of some names."""
    for one, name in itertools.product(modules, names):
        value = getattr(one, name, None)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return value
    return None
