"""Parts taken whole: a token mixer or an MLP that runs the model's own module.

What nobody has described (a state space, a gated delta net, a short convolution) is one node that
calls the module as the model does. What else the model's own code gives its modules (rotary tables,
masks, positions) is recorded: from one forward pass of one prompt of each length, by hooks that are
removed behind it. Nothing of it may depend on the tokens, and no cache is kept.

Such a mixer must be causal: prompts are padded on the right, and it is called without their mask.
Gradients go through it by autograd; its parameters are constants, whatever they require.

Shape letters: N any leading axes, B examples, T positions, D d_model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import Module

from ..errors import UnsupportedModel
from .live.untouched import untouched
from .own.observing import OwnCalls, first_tensor, name_in

if TYPE_CHECKING:
    from .attention import AttentionContext

MODULE_BYTES = 1 << 28  # memory that one call of a module may take, without gradients
PER_WIDTH = 24  # numbers that a module keeps of one token, in units of its parameters / d_model


@dataclass(frozen=True)
class WholePart:
    """A module of the model: its name there, and by what its input and output are multiplied."""

    name: str
    module: Module = field(repr=False)
    input_scale: float = 1.0
    output_scale: float = 1.0


@dataclass(frozen=True)
class Whole:
    """A token mixer or MLP that is run as it is: the sum of what some modules make of one input.

    `calls`: how the model calls them; None: with their input alone, as most MLPs. What they write
    is multiplied by `output_scale`. `label`: what this is, for people.
    """

    parts: tuple[WholePart, ...]
    calls: OwnCalls | None = field(default=None, repr=False, compare=False)
    output_scale: float = 1.0
    label: str = ""

    @staticmethod
    def of(model: Module, module: Module, *, alone: bool = False, scale: float = 1.0) -> Whole:
        """Take a module of a live model whole; `alone`: it is given nothing but its input."""
        name = name_in(model, module)
        calls = None if alone else OwnCalls(model, [name])
        return Whole((WholePart(name, module),), calls, scale, type(module).__name__)

    bias = None  # what it adds is its own affair

    @property
    def device(self) -> torch.device:
        """Return where the modules lie."""
        return next(self.parts[0].module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Return the type in which the modules read the stream: of most of their weights."""
        counts: Counter[torch.dtype] = Counter()
        for parameter in (p for part in self.parts for p in part.module.parameters()):
            counts[parameter.dtype] += parameter.numel()
        return max(counts, key=lambda dtype: counts[dtype])

    @property
    def features(self) -> int:
        """Estimate the numbers that a run of one token keeps."""
        sizes = [p.numel() / max(p.shape) for one in self.parts for p in one.module.parameters()]
        return PER_WIDTH * int(sum(sizes))

    @property
    def words(self) -> str:
        """Say what this is."""
        return f"taken whole ({self.label or ' + '.join(part.name for part in self.parts)})"

    def __call__(self, x: Tensor, context: AttentionContext | None = None) -> Tensor:
        """Map normalised features [N, B, T, D] (an MLP: [N, D]) to what is written, same shape."""
        if context is None:
            flat, tokens = x.reshape(1, -1, x.shape[-1]), 1
        else:
            flat, tokens = x.reshape(-1, *x.shape[-2:]), x.shape[-2]
        if torch.is_grad_enabled():
            return self._run(flat, context).view_as(x)
        # a state space takes far more room inside than at its ends
        most = max(1, MODULE_BYTES // (self.features * tokens * x.element_size()))
        axis = 1 if context is None else 0
        some = [self._run(part, context) for part in flat.split(most, axis)]
        return (some[0] if len(some) == 1 else torch.cat(some, axis)).reshape(x.shape)

    def outputs(self, x: Tensor, only: Sequence[int] | None = None) -> Tensor:
        """Return what each of the layer's senders writes, [1, N, D]; see `Experts.outputs`."""
        return self(x)[None]

    def _run(self, x: Tensor, context: AttentionContext | None) -> Tensor:
        total: Tensor | None = None
        read = x.to(self.dtype)
        for part in self.parts:
            given = read if part.input_scale == 1 else read * part.input_scale
            function = constant_function(part.module)
            if self.calls is not None and context is not None:
                function = partial(self.calls.of(part.name, context, given.dtype), function)
            with untouched(part.module):  # a module that gathers state begins anew in each call
                out = function(given)
            first = first_tensor(out)
            if first is None or first.numel() != x.numel():
                raise UnsupportedModel(
                    f"{part.name} does not return what it adds to the stream, so it cannot be "
                    "taken whole."
                )
            scale = part.output_scale * self.output_scale
            first = first if scale == 1 else first * scale
            total = first if total is None else total + first
        assert total is not None
        return total.to(x.dtype).view_as(x)


def constant_function(module: Module) -> Callable[..., Any]:
    """Return a module's function with its parameters as constants, and the module as it was."""
    if not torch.is_grad_enabled() or not any(p.requires_grad for p in module.parameters()):
        return module
    constants = {name: p.detach() for name, p in module.named_parameters(remove_duplicate=False)}

    def run(*args: Any, **kwargs: Any) -> Any:
        return torch.func.functional_call(module, constants, args, kwargs)

    return run
