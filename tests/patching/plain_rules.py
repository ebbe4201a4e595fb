"""Gradient rules in plain autograd: parts of the same values, with factors detached.

What a rule takes for a constant is detached, so that autograd itself gives the rule's gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from edgewise.graphs.lift.experts import Experts, SharedExpert
from edgewise.graphs.lift.lifted import LiftedModel
from edgewise.graphs.lift.mlp import ACTIVATIONS, MLP, Functions, TokenGate
from edgewise.graphs.lift.norms import Norm


def plain(model: LiftedModel, name: str) -> LiftedModel:
    """Return a model whose gradients are those of the rule with this name."""
    blocks, final = (_changed(part, name) for part in (model.blocks, model.final_norm))
    return replace(model, blocks=blocks, final_norm=final)


def half(a: Tensor, b: Tensor) -> Tensor:
    """Multiply; each factor gets half of its derivative."""
    return (a.detach() * b + a * b.detach()) / 2


def activated(act: Any, name: str, t: Tensor) -> Tensor:
    """Return act(t), under `relp` as t times a constant, if act(0) is 0."""
    if name != "relp" or act is ACTIVATIONS["sigmoid"]:
        return act(t)
    return t * (act(t) / t).detach()


class PlainNorm(Norm):
    """A norm that divides by a constant."""

    def __call__(self, x: Tensor) -> Tensor:
        x = x - x.mean(-1, keepdim=True) if self.centred else x
        y = x / (x.square().mean(-1, keepdim=True) + self.eps).sqrt().detach()
        y = y if self.weight is None else y * (self.weight + self.offset)
        return (y if self.bias is None else y + self.bias) * self.factor


@dataclass(frozen=True)
class PlainAttention(Functions):
    """What stands in attention: patterns, values, and gates of what heads write."""

    name: str

    def softmax(self, scores: Tensor) -> Tensor:
        if self.name == "relp":
            return scores.softmax(-1)
        if self.name == "relp, zero":
            return scores.softmax(-1).detach()
        soft = (scores / 2).softmax(-1).detach()
        moving = soft * (scores - (soft * scores).sum(-1, keepdim=True))  # its slope is the rule's
        return scores.softmax(-1).detach() + (moving - moving.detach()) / 4

    def multiply(self, a: Tensor, b: Tensor) -> Tensor:
        return half(a, b)

    def mixed(self, values: Tensor) -> Tensor:
        return (values + values.detach()) / 2 if self.name == "gim" else values


@dataclass(frozen=True)
class PlainMLP(MLP):
    name: str = ""

    def __call__(self, x: Tensor) -> Tensor:
        act = self.curve or ACTIVATIONS[self.activation]
        if self.gate is None:
            inner = activated(act, self.name, self.up(x))
        else:
            inner = half(activated(act, self.name, self.gate(x)), self.up(x))
        return self.down(inner) * self.output_scale


@dataclass(frozen=True)
class PlainGate(TokenGate):
    name: str = ""

    def __call__(self, x: Tensor, given: Tensor) -> Tensor:
        inner = activated(ACTIVATIONS[self.activation], self.name, self.gate(x * self.scale))
        return self.norm(self.project(half(inner, given)))


@dataclass(frozen=True)
class PlainShared(SharedExpert):
    name: str = ""

    def __call__(self, x: Tensor) -> Tensor:
        out = self.mlp(x)
        return out if self.gate is None else half((x @ self.gate.T).sigmoid(), out)


@dataclass(frozen=True)
class PlainExperts(Experts):
    name: str = ""

    def __call__(self, x: Tensor) -> Tensor:
        return self.outputs(x).sum(0)

    def outputs(self, x: Tensor, only: Sequence[int] | None = None) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        weights, experts = self.route(rows)
        found = [[torch.zeros_like(row) for row in rows] for _ in range(self.count)]
        for i, row in enumerate(rows):
            for weight, expert in zip(weights[i], experts[i].tolist(), strict=True):
                found[expert][i] = self._one(expert, row, weight)
        if self.shared is not None:
            found.append(list(self.shared(rows)))
        out = torch.stack([torch.stack(one) for one in found]) * self.output_scale
        out = out.view(len(found), *x.shape)
        return out.sum(0, keepdim=True) if self.together else out

    def _one(self, e: int, x: Tensor, weight: Tensor) -> Tensor:
        x = x if self.experts_norm is None else self.experts_norm(x)
        x = half(x, weight) if self.weigh_input else x
        up = self.up[e] @ x + (0 if self.up_bias is None else self.up_bias[e])
        if self.gate is None:
            inner = activated(ACTIVATIONS[self.activation], self.name, up)
        else:
            gate = self.gate[e] @ x + (0 if self.gate_bias is None else self.gate_bias[e])
            act = ACTIVATIONS[self.activation]
            if self.clamp is not None:
                limit, alpha = self.clamp.limit, self.clamp.alpha
                gate, up = gate.clamp(max=limit), up.clamp(-limit, limit) + self.clamp.offset
                if alpha is not None:
                    act = lambda t: t * (alpha * t).sigmoid()  # noqa: E731
            inner = half(activated(act, self.name, gate), up)
        out = self.down[e] @ inner + (0 if self.down_bias is None else self.down_bias[e])
        return out if self.weigh_input else half(out, weight)


PLAIN: dict[type, type] = {
    MLP: PlainMLP, TokenGate: PlainGate, SharedExpert: PlainShared, Experts: PlainExperts,
}  # fmt: skip


def _changed(part: Any, name: str) -> Any:
    if isinstance(part, tuple):
        return tuple(_changed(one, name) for one in part)
    if not is_dataclass(part) or isinstance(part, type):
        return part
    own = {field.name: _changed(getattr(part, field.name), name) for field in fields(part)}
    if isinstance(part, Norm):
        return PlainNorm(**{**own, "constant": True})
    if kind := PLAIN.get(type(part)):
        return kind(**own, name=name.partition(",")[0])
    if "functions" in own:
        own["functions"] = PlainAttention(name)
    return type(part)(**own)
