"""Mixtures of experts: a router sends each token to a few of a layer's experts.

Each expert is a sender of its own. It writes its output times the weight that the router gives it,
and zero at tokens where it is not among the chosen. The router and the experts read the same port.

Which experts are chosen is a piecewise constant function of the port: a derivative is that of the
chosen branch, and goes through the router's weights and through the experts.

Shape letters: N any leading axes, D d_model, E experts, I features inside one, n experts wanted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .mlp import ACTIVATIONS, MLP
from .norms import working_dtype


@dataclass(frozen=True)
class SharedExpert:
    """An MLP that every token runs through, times sigmoid(gate · x): `gate` is [1, D]."""

    mlp: MLP
    gate: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Map normalised features [N, D] to what the shared expert writes, [N, D]."""
        return functional.linear(x, self.gate).sigmoid() * self.mlp(x)


@dataclass(frozen=True)
class Experts:
    """One layer's router and experts; each is down(act(gate(x)) · up(x)).

    `router`: [E, D]; `gate`, `up`: [E, I, D]; `down`: [E, D, I]. Each token goes to the `chosen`
    experts of largest softmax(router · x), the expert's weight; `renormalise` divides the chosen
    weights by their sum. They are computed in float32 at least and, if `round_weights`, rounded to
    the type of x before use.
    """

    router: Tensor
    gate: Tensor
    up: Tensor
    down: Tensor
    chosen: int
    activation: str
    renormalise: bool
    round_weights: bool = True
    shared: SharedExpert | None = None
    bias = None  # experts have none

    @property
    def count(self) -> int:
        """Count the experts, without the shared one."""
        return self.router.shape[0]

    @property
    def features(self) -> int:
        """Count the numbers that a backward pass keeps of one token."""
        shared = 0 if self.shared is None else self.shared.mlp.features
        own = self.chosen * (4 * self.up.shape[1] + 2 * self.up.shape[2])
        return 2 * self.count + own + shared

    @property
    def words(self) -> str:
        """Say what this is."""
        scale = ", weights renormalised" if self.renormalise else ""
        shared = " and a shared one" if self.shared is not None else ""
        return (
            f"{self.chosen} of {self.count} experts for each token{scale}{shared}, "
            f"gated, {self.activation}"
        )

    def __call__(self, x: Tensor) -> Tensor:
        """Map normalised features [N, D] to what all experts write together, [N, D]."""
        flat = x.reshape(-1, x.shape[-1])
        _, tokens, parts = zip(*self._parts(flat, range(self.count)), strict=True)
        out = torch.zeros_like(flat).index_add(0, torch.cat(tokens), torch.cat(parts))
        return (out if self.shared is None else out + self.shared(flat)).view_as(x)

    def outputs(self, x: Tensor, only: Sequence[int] | None = None) -> Tensor:
        """Return what each expert (or `only` these, in order) writes of x [N, D], [n, N, D]."""
        flat = x.reshape(-1, x.shape[-1])
        every = self.count + (self.shared is not None)
        wanted = range(every) if only is None else only
        routed = [i for i in wanted if i < self.count]
        found = list(self._parts(flat, routed)) if routed else []
        out = flat.new_zeros(len(routed) * len(flat), flat.shape[-1])
        if found:
            rows = torch.cat([place * len(flat) + token for place, token, _ in found])
            out = out.index_copy(0, rows, torch.cat([part for _, _, part in found]))
        out = out.view(len(routed), *x.shape)
        if self.shared is not None and len(wanted) > len(routed):
            out = torch.cat((out, self.shared(x)[None]))
        return out

    def route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weights of the chosen experts of tokens x [N, D], and which they are."""
        wide = functional.linear(x, self.router).to(working_dtype(x.dtype))
        weight, expert = wide.softmax(-1).topk(self.chosen, -1)
        if self.renormalise:
            weight = weight / weight.sum(-1, keepdim=True)
        return weight.to(x.dtype) if self.round_weights else weight, expert

    def _parts(self, x: Tensor, wanted: Sequence[int]) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield the place in `wanted`, the tokens, and the writes there, of experts with tokens."""
        weight, chosen = self.route(x)
        act = ACTIVATIONS[self.activation]
        for place, expert in enumerate(wanted):
            token, choice = (chosen == expert).nonzero(as_tuple=True)
            if not len(token):
                continue
            here = x[token]
            inner = act(functional.linear(here, self.gate[expert]))
            inner = inner * functional.linear(here, self.up[expert])
            out = functional.linear(inner, self.down[expert]) * weight[token, choice, None]
            yield place, token, out.to(x.dtype)
