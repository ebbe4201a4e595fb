"""How gradients pass the norms before and behind an attention projection, in closed form.

attribution.py says how scores are made of it. Shapes: K points, B examples, T positions,
n tokens, D d_model, H heads, G key/value heads, d d_head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...graphs.lift.attention import Latent
from ...graphs.lift.lifted import Block, Norm
from ..trace import project_only


class Extra(NamedTuple):
    """What a norm of all heads takes off a port's g W': factors of ports by a vector, with x̂."""

    factor: Tensor
    vector: Tensor
    product: Tensor


@dataclass(frozen=True)
class Together:
    """Differentiate a norm of all heads' queries, or keys, together.

    With y all heads' projections, u = y·ρ normalised, s the norm's weight and g the gradient at
    s∘u, the gradient at y is  ρ·(s∘g − u·(s∘g · u)/(H·d)).  A head that is alone in having its
    own input has g = 0 for all others. raw, unit: [K·B, T, H or G, d]; rate: [K·B, T, 1].
    """

    raw: Tensor
    unit: Tensor
    rate: Tensor
    scale: Tensor
    constant: bool = False

    @staticmethod
    def of(block: Block, letter: str, norm: Norm, stream: Tensor) -> Together:
        """Project and normalise again what the forward pass did."""
        with torch.no_grad():
            raw = project_only(block, letter, block.read(stream, letter))
            unit, rate = norm.unit(raw.flatten(-2))
            ones = unit.new_ones(unit.shape[-1])
            scale = ones if norm.scale is None else norm.scale
            scale = scale.view(raw.shape[-2:])
            return Together(raw, unit.view_as(raw), rate, scale, norm.constant)

    def back(self, g: Tensor) -> Tensor:
        """Return the gradient at y of a gradient g of all heads' parts, the same shape."""
        back, shrink = self.parts(g)
        return back - self.unit * shrink.sum(-1)[..., None, None]

    def parts(self, g: Tensor) -> tuple[Tensor, Tensor]:
        """Return ρ·s∘g and, for each head's part of g alone, ρ·(s∘g · u)/(H·d)."""
        group = g.shape[-2] // self.raw.shape[-2]
        unit, scale = (x.repeat_interleave(group, -2) for x in (self.unit, self.scale))
        back = g * scale * self.rate[..., None]
        shrink = (back * unit).sum(-1) / self.scale.numel()
        return back, torch.zeros_like(shrink) if self.constant else shrink


@dataclass(frozen=True)
class Stage:
    """Differentiate what stands before a projection: y = down·x, normalised, projected by head.

    With y the first features of down·x, u = y·ρ normalised, s the norm's weight, W a head's weight
    and g the gradient at what W makes, the gradient at y is  ρ·(gW∘s − u·(gW∘s · u)/R).  Behind
    stands the gradient at the features of down·x that heads have as they are.
    raw: [K·B, T, R + rest]; unit: [K·B, T, R]; rate: [K·B, T, 1]; weight: [H or G, d, R].
    """

    raw: Tensor
    unit: Tensor
    rate: Tensor | None
    weight: Tensor
    norm: Norm | None = None

    @staticmethod
    def of(block: Block, letter: str, latent: Latent, stream: Tensor) -> Stage:
        """Project and normalise again what the forward pass did."""
        with torch.no_grad():
            weight, norm = block.by_head.projection(letter)[0], latent.norm
            raw = latent.down(block.read(stream, letter))
            weight = weight.to(torch.promote_types(weight.dtype, torch.float32))
            y = raw[..., : weight.shape[-1]]
            if norm is None:
                return Stage(raw, y.to(weight), None, weight)
            return Stage(raw, *norm.unit(y), fold(norm, weight), norm)

    def back(self, g: Tensor) -> Tensor:
        """Return the gradient at down·x of each head's part g [K·B, T, h, d] of the projection."""
        heads, size = g.shape[-2], self.weight.shape[1]
        weight = self.weight.repeat_interleave(heads // len(self.weight), 0)
        inner = torch.einsum("...hd,hdr->...hr", g[..., :size], weight)
        if self.norm is not None and self.rate is not None:
            inner = self.norm.back(inner, self.unit[..., None, :], self.rate[..., None])
        return torch.cat((inner, g[..., size:]), -1)


def spread_out(factor: Tensor, vector: Tensor) -> Tensor:
    """Multiply a factor [K, n, ports] by a vector [K, n, D], add up the points: [ports, n, D]."""
    return torch.bmm(factor.permute(1, 2, 0), vector.transpose(0, 1)).transpose(0, 1)


def fold(norm: Norm | None, weight: Tensor) -> Tensor:
    """Fold a norm's scale, and its centring, into the projections that read it, [h, d, D]."""
    weight = weight.to(torch.promote_types(weight.dtype, torch.float32))
    if norm is None:
        return weight
    weight = weight if norm.scale is None else weight * norm.scale
    return weight - weight.mean(-1, keepdim=True) if norm.centred else weight


def constant(block: Block, letter: str, heads: int) -> Tensor:
    """Return what a projection's output always holds: W·(norm's bias) + bias, [H, d].

    Where something stands before the projection, W is its first matrix, and one for all heads.
    """
    latent = block.by_head.latent(letter)
    weight, bias = block.by_head.projection(letter)
    if latent is not None:
        weight, bias = latent.down.weight[None], latent.down.bias
    total, norm = weight.new_zeros(weight.shape[:2]), block.norm_of(letter)
    if norm is not None and norm.bias is not None:
        total = total + weight @ norm.bias
    if bias is not None:
        total = total + bias
    return total.repeat_interleave(heads // len(total), 0)
