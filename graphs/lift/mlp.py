"""A layer's MLP: its activation functions, its projections, and what it writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .norms import Norm

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_new": lambda x: functional.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "gelu_fast": lambda x: functional.gelu(x, approximate="tanh"),
    "relu": functional.relu,
    "silu": functional.silu,
    "swish": functional.silu,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu2": lambda x: functional.relu(x).square(),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}
"""Activation functions by the names that model configurations use."""


@dataclass(frozen=True)
class Linear:
    """A map of features: `weight` [out, in], `bias` [out]."""

    weight: Tensor
    bias: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Return x · weightᵀ + bias."""
        return functional.linear(x, self.weight, self.bias)


@dataclass(frozen=True)
class Xielu:
    """An activation with two learned parameters (xIELU, Huang et al. 2024); all are numbers.

    With p = softplus(`rise`) and n = `slope` + softplus(`fall`) it is  p·x² + slope·x  above 0, and
    n·(exp(min(x, `largest`)) − 1 − x) + slope·x  below.
    """

    rise: Tensor
    fall: Tensor
    slope: Tensor
    largest: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Return the activation of each number of x."""
        above = functional.softplus(self.rise) * x * x + self.slope * x
        small = torch.expm1(torch.minimum(x, self.largest)) - x
        below = small * (self.slope + functional.softplus(self.fall)) + self.slope * x
        return torch.where(x > 0, above, below)


@dataclass(frozen=True)
class MLP:
    """One layer's MLP: down(act(up(x))), or down(act(gate(x)) · up(x)) if gated.

    `curve`: the activation itself, where it has parameters.
    """

    up: Linear
    down: Linear
    activation: str
    gate: Linear | None = None
    output_scale: float = 1.0
    curve: Xielu | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Map normalised features [N, D] to what the MLP writes, [N, D]."""
        out = self.down(self.inner(x))
        return out if self.output_scale == 1 else out * self.output_scale

    def inner(self, x: Tensor) -> Tensor:
        """Map normalised features [N, D] to what the last projection reads, [N, I]."""
        act = self.curve or ACTIVATIONS[self.activation]
        if self.gate is None:
            return act(self.up(x))
        inner, up = act(self.gate(x)), self.up(x)
        return inner * up if torch.is_grad_enabled() else inner.mul_(up)

    def outputs(self, x: Tensor, only: Sequence[int] | None = None) -> Tensor:
        """Return what each of the layer's senders writes, [1, N, D]; see `Experts.outputs`."""
        return self(x)[None]

    @property
    def features(self) -> int:
        """Count the numbers that a backward pass keeps of one token."""
        return self.up.weight.shape[0] * (4 if self.gate is not None else 3)

    @property
    def words(self) -> str:
        """Say what this is."""
        return f"{'plain' if self.gate is None else 'gated'}, {self.activation}"

    @property
    def bias(self) -> Tensor | None:
        """Return the bias of the first projection."""
        return self.up.bias


@dataclass(frozen=True)
class TokenGate:
    """What a layer adds behind its MLP of what the tokens give it past the stream (Gemma 4, 3n).

    With g the features that it is given, P of them, and x the stream, it is
    norm(project · (act(gate · x · `scale`) ∘ g)).  gate: [P, D]; project: [D, P].
    """

    gate: Linear
    project: Linear
    activation: str
    norm: Norm
    scale: float = 1.0

    @property
    def width(self) -> int:
        """Count the features that a token gives, P."""
        return self.gate.weight.shape[0]

    def __call__(self, x: Tensor, given: Tensor) -> Tensor:
        """Return what is added to the stream x [N, D], given [N, P]."""
        x = x if self.scale == 1 else x * self.scale
        inner = ACTIVATIONS[self.activation](self.gate(x))
        return self.norm(self.project(inner * given))
