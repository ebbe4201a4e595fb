"""A layer's MLP: its activation functions, its projections, and what it writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .devices import projected, taken
from .norms import Norm


@dataclass(frozen=True)
class Activation:
    """An activation function; `secant`: value(t)/t, right near 0; None where that has no bound."""

    value: Callable[[Tensor], Tensor]
    secant: Callable[[Tensor], Tensor] | None

    def __call__(self, x: Tensor) -> Tensor:
        """Return the activation of each number of x."""
        return self.value(x)


def ratio(value: Tensor, x: Tensor) -> Tensor:
    """Divide a function's values by x where the function has slope 1 at 0."""
    return torch.where(x == 0, 1.0, value / x)


_GELU = Activation(functional.gelu, lambda x: 0.5 * torch.erfc(x * -(0.5**0.5)))
_TANH_GELU = Activation(
    lambda x: functional.gelu(x, approximate="tanh"),
    lambda x: torch.sigmoid((8 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)),
)
_SILU = Activation(functional.silu, torch.sigmoid)

ACTIVATIONS: dict[str, Activation] = {
    "gelu": _GELU,
    "gelu_new": _TANH_GELU,
    "gelu_pytorch_tanh": _TANH_GELU,
    "gelu_fast": _TANH_GELU,
    "relu": Activation(functional.relu, lambda x: (x > 0).to(x)),
    "silu": _SILU,
    "swish": _SILU,
    "quick_gelu": Activation(
        lambda x: x * torch.sigmoid(1.702 * x), lambda x: torch.sigmoid(1.702 * x)
    ),
    "relu2": Activation(lambda x: functional.relu(x).square(), functional.relu),
    "tanh": Activation(torch.tanh, lambda x: ratio(x.tanh(), x)),
    "sigmoid": Activation(torch.sigmoid, None),
}
"""Activation functions by the names that model configurations use."""


class Functions:
    """What parts compute with beside linear maps and norms.

    A gradient rule has other functions in their place, of the same values and other slopes.
    """

    def activate(self, function: Activation | Xielu, x: Tensor) -> Tensor:
        """Return what an MLP's activation makes of x."""
        return function(x)

    def multiply(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the product of two factors that both are computed of the stream."""
        return a * b

    def softmax(self, scores: Tensor) -> Tensor:
        """Return the attention pattern of scores, [..., queries, keys]."""
        return scores.softmax(-1)

    def mixed(self, values: Tensor) -> Tensor:
        """Return the values that attention mixes."""
        return values


PLAIN = Functions()


@dataclass(frozen=True)
class Linear:
    """A map of features: `weight` [out, in], `bias` [out]."""

    weight: Tensor
    bias: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Return x · weightᵀ + bias."""
        return projected(x, self.weight, self.bias)


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

    def secant(self, x: Tensor) -> Tensor:
        """Return the activation divided by x, as if `largest` were 0 (it is next to it)."""
        below = (self.slope + functional.softplus(self.fall)) * (ratio(torch.expm1(x), x) - 1)
        return self.slope + torch.where(x > 0, functional.softplus(self.rise) * x, below)


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
    functions: Functions = PLAIN

    def __call__(self, x: Tensor) -> Tensor:
        """Map normalised features [N, D] to what the MLP writes, [N, D]."""
        out = self.down(self.inner(x))
        return out if self.output_scale == 1 else out * self.output_scale

    def inner(self, x: Tensor) -> Tensor:
        """Map normalised features [N, D] to what the last projection reads, [N, I]."""
        return self.combine(*((self.gate(x),) if self.gate is not None else ()), self.up(x))

    def combine(self, *before: Tensor) -> Tensor:
        """Return act(gate)·up, or act(up), of what the first projections gave."""
        use = self.functions
        inner = use.activate(self.curve or ACTIVATIONS[self.activation], before[0])
        if self.gate is None:
            return inner
        up = before[1]
        return use.multiply(inner, up) if torch.is_grad_enabled() else inner.mul_(up)

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
class Neurons(MLP):
    """An MLP whose hidden units each are a sender; what is left, a bias, is one more.

    A hidden unit is what the last projection reads, act(gate)·up of a gated MLP.
    """

    def outputs(self, x: Tensor, only: Sequence[int] | None = None) -> Tensor:
        """Return what each unit writes, and last what is left, [I + 1, N, D] or `only` these."""
        units, inner = self.down.weight.shape[1], self.inner(x)  # [N, I]
        wanted = range(units + 1) if only is None else only
        chosen = [unit for unit in wanted if unit < units]
        every = len(chosen) == units
        hidden, columns = inner, self.down.weight
        if not every:
            hidden, columns = taken(inner, chosen, -1), taken(columns, chosen, 1)
        out = hidden.movedim(-1, 0)[..., None] * columns.T.reshape(
            len(chosen), *[1] * (inner.dim() - 1), -1
        )
        if len(chosen) < len(wanted):
            rest = out.new_zeros(1, *out.shape[1:])
            out = torch.cat([out, rest if self.down.bias is None else rest + self.down.bias])
        return out if self.output_scale == 1 else out * self.output_scale


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
    functions: Functions = PLAIN

    @property
    def width(self) -> int:
        """Count the features that a token gives, P."""
        return self.gate.weight.shape[0]

    def __call__(self, x: Tensor, given: Tensor) -> Tensor:
        """Return what is added to the stream x [N, D], given [N, P]."""
        x = x if self.scale == 1 else x * self.scale
        inner = self.functions.activate(ACTIVATIONS[self.activation], self.gate(x))
        return self.norm(self.project(self.functions.multiply(inner, given)))
