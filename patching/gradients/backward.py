"""A model whose parts compute what they do, but whose backward pass goes by a gradient rule."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...graphs.errors import EdgewiseError
from ...graphs.lift.lifted import LiftedModel
from ...graphs.lift.mlp import Activation, Functions, Xielu
from ...graphs.lift.norms import Norm
from .rules import DERIVATIVE, GradientRule


def by_rule(model: LiftedModel, rule: GradientRule) -> LiftedModel:
    """Return the model with other slopes and the same values; refuse parts taken whole."""
    if rule == DERIVATIVE:
        return model
    if model.parts_whole:
        raise EdgewiseError(
            f"rule '{rule.name}' does not reach into the {model.parts_whole} token mixers and MLPs "
            "of this model that are taken whole, as its own code has them; accepted: rule "
            f"{DERIVATIVE.name}, or a model all of whose layers have heads and a known MLP."
        )
    functions = RuledFunctions(rule)
    return replace(
        model,
        blocks=_ruled(model.blocks, functions),
        final_norm=_ruled(model.final_norm, functions),
    )


@dataclass(frozen=True)
class RuledFunctions(Functions):
    """Functions of the usual values, with the slopes of a rule."""

    rule: GradientRule

    def activate(self, function: Activation | Xielu, x: Tensor) -> Tensor:
        """Return what an MLP's activation makes of x; the slope may be the secant's."""
        if not self.rule.secant or function.secant is None:
            return function(x)
        return _applied(_Secant, x, function)

    def multiply(self, a: Tensor, b: Tensor) -> Tensor:
        """Return a product; either factor may get half, which is half of what the product gets."""
        return _shared(a * b, 0.5) if self.rule.halves else a * b

    def softmax(self, scores: Tensor) -> Tensor:
        """Return the pattern of scores, with the slope of a softer one, or none."""
        rule = self.rule
        if rule.constant_patterns:
            return scores.softmax(-1).detach()
        # what a rule leaves of a gradient into queries and keys, it leaves of one into scores
        scores = _shared(scores, rule.queries_and_keys)
        if rule.temperature == 1:
            return scores.softmax(-1)
        return _applied(_Softer, scores, rule.temperature)

    def mixed(self, values: Tensor) -> Tensor:
        """Return the values, which may get a part of their gradient alone."""
        return _shared(values, self.rule.values)


def _shared(x: Tensor, share: float) -> Tensor:
    """Return x; it gets a share of the gradient."""
    return x if share == 1 else _applied(_Share, x, share)


def _applied(function: type[torch.autograd.Function], x: Tensor, how: object) -> Tensor:
    out: Tensor = function.apply(x, how)
    return out


def _ruled(part: Any, functions: RuledFunctions) -> Any:
    """Put a rule's functions, and norms, in the place of a part's own."""
    if isinstance(part, tuple):
        return tuple(_ruled(one, functions) for one in part)
    if not is_dataclass(part) or isinstance(part, type):
        return part
    own = {field.name: getattr(part, field.name) for field in fields(part)}
    changed = {name: _ruled(value, functions) for name, value in own.items()}
    if isinstance(part, Norm):
        changed["constant"] = functions.rule.constant_norms
    if "functions" in own:
        changed["functions"] = functions
    changed = {name: value for name, value in changed.items() if value is not own[name]}
    return replace(part, **changed) if changed else part


class _Share(torch.autograd.Function):
    """The identity; a share of the gradient goes back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, share: float) -> Tensor:
        ctx.share = share
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return g * ctx.share, None


class _Secant(torch.autograd.Function):
    """An activation whose slope is that of the straight line from 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Activation | Xielu) -> Tensor:
        ctx.save_for_backward(x)
        ctx.secant = function.secant
        return function(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return g * ctx.secant(x), None


class _Softer(torch.autograd.Function):
    """A softmax whose slope is that of the softmax at a temperature, p̃ ∘ (g − Σ p̃ g)."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, temperature: float) -> Tensor:
        ctx.save_for_backward(scores)
        ctx.temperature = temperature
        return scores.softmax(-1)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (scores,) = ctx.saved_tensors
        soft = (scores / ctx.temperature).softmax(-1)
        return soft * (g - (soft * g).sum(-1, keepdim=True)), None
