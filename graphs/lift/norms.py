"""Norms, as data. Shape letters: N any leading axes, D the features normalised together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .devices import place


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the type that norms and softmax compute in: at least float32."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


@dataclass(frozen=True)
class Norm:
    """How the last axis is normalised: by mean and variance (`centred`) or root mean square.

    `weight`, `bias`: [D], or None. `offset` is added to the weight (1 in models that store
    weight − 1), in float32 at least: near 1, bfloat16 has steps of 1/128. What a norm with a weight
    gives is multiplied by `factor` (1 but in models that scale what is added to the stream).
    `constant`: a backward pass takes the factor 1/std for a constant (a gradient rule does so).
    """

    weight: Tensor | None
    bias: Tensor | None
    eps: float
    centred: bool
    offset: float = 0.0
    factor: float = 1.0
    constant: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        """Return the normalised x, [N, D]."""
        unit, _ = self.unit(x)
        scale, y = self._own_scale, unit if self.offset else unit.to(x.dtype)
        if scale is not None:
            y = scaled(y, place(scale, x.device))
        y = y if self.bias is None else y.to(x.dtype) + place(self.bias, x.device)
        y = y.to(x.dtype)  # some models keep their norms' weights in float32
        return y if self.factor == 1 else y * self.factor

    @property
    def scale(self) -> Tensor | None:
        """Return the factor of each feature, [D]; None stands for 1."""
        own = self._own_scale
        return own if own is None or self.factor == 1 else own * self.factor

    @property
    def _own_scale(self) -> Tensor | None:
        if self.weight is None or not self.offset:
            return self.weight
        return self.weight.to(working_dtype(self.weight.dtype)) + self.offset

    def unit(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return x without scale and bias, [N, D], and the factor 1/std that made it so, [N, 1]."""
        x = x.to(working_dtype(x.dtype))
        if self.centred:
            x = x - x.mean(-1, keepdim=True)
        if torch.is_grad_enabled():
            square = x.square().mean(-1, keepdim=True)
        else:  # reads x once
            square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1])
        rate = torch.rsqrt(square + self.eps)
        rate = rate.detach() if self.constant else rate
        return x * rate, rate

    def back(self, g: Tensor, unit: Tensor, rate: Tensor) -> Tensor:
        """Return the gradient at x, but for its mean, of one at the unit that x gave, [N, D]."""
        return rate * (g if self.constant else g - unit * (unit * g).mean(-1, keepdim=True))


def scaled(unit: Tensor, scale: Tensor) -> Tensor:
    """Multiply the features of a tensor that nobody else holds, in place where it can be."""
    in_place = not torch.is_grad_enabled() and unit.dtype == scale.dtype
    return unit.mul_(scale) if in_place else unit * scale


def normalise(norm: Callable[[Tensor], Tensor] | None, x: Tensor) -> Tensor:
    """Apply a norm to x, [N, D]; None leaves x as it is."""
    return x if norm is None else norm(x)


def normalise_heads(
    norm: Norm | tuple[Norm, ...] | None, x: Tensor, heads: Sequence[int]
) -> Tensor:
    """Normalise the features of these heads, x [N, h, K], by one norm or each by its own."""
    if not isinstance(norm, tuple):
        return normalise(norm, x)
    first = norm[0]
    weight, bias = (
        None
        if getattr(first, name) is None
        else torch.stack([getattr(norm[h], name) for h in heads])
        for name in ("weight", "bias")
    )
    return replace(first, weight=weight, bias=bias)(x)
