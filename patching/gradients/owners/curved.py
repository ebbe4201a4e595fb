"""What an MLP writes for many small changes of what it reads, times a gradient.

With h the inner features that the last projection reads, n the normalised input and c the gradient
at h, each change n' − n scores  c·(h(n') − h(n)). Written as

    c·∂h/∂n·(n' − n)  +  c·[h(n') − h(n) − ∂h/∂n·(n' − n)],

the first term is one product with a vector of each token. The second is of second order in the
change: so the products with the first projections, which take nearly all of the time, may be of
bfloat16 there, as precise as the product of a change by a change has to be. An error of 1/256 of
each product makes one of about 1/256 of the second term, and less where features add up. It is done
where the device multiplies bfloat16 fast, the model is of float32, and the change is less than an
eighth of what is read; else h is computed as it is.

Shapes: n tokens, s senders, D d_model, I inner features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ....graphs.lift.devices import place
from ....graphs.lift.lifted import MLP, Block
from ....graphs.lift.norms import normalise

SMALL = 1 / 8
"""How large a change may be, of what it changes, for its second order to be taken in bfloat16."""

HALF = torch.bfloat16


def multiplies_fast(device: torch.device) -> bool:
    """Tell whether a device multiplies matrices of bfloat16 much faster than those of float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    told = (getattr(torch.cpu, name, None) for name in FAST)
    return any(known is not None and known() for known in told)


Made = Callable[[Tensor, Tensor], Callable[[Tensor], Tensor]]
"""Makes, of what tokens hold [n, D] and the gradient at what is written [n, D], what scores other
things that they might hold, [s, n, D]: [s, n]."""

FAST = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
"""What torch.cpu calls the instructions that do."""


@dataclass(frozen=True)
class Plain:
    """An MLP at the tokens of a run; `inner`: h, `worth`: c, [n, I] both."""

    mlp: MLP
    inner: Tensor
    worth: Tensor

    @staticmethod
    def of(mlp: MLP, read: Tensor, worth: Tensor) -> Plain:
        """Take an MLP where it reads n, [n, D], with the gradient c, [n, I]."""
        return Plain(mlp, mlp.inner(read), worth)

    def score(self, new: Tensor) -> Tensor:
        """Score changed inputs n', [s, n, D]: [s, n]."""
        return self.mlp.inner(new).sub_(self.inner).mul_(self.worth).sum(-1)


@dataclass(frozen=True)
class Curved:
    """An MLP at the tokens of a run.

    `read`: n, [n, D]; `before`: [n, I] each, of `gate` (if there is one) and `up`; `slopes`: of c·h
    at `before`; `line`: of c·h at n, [n, D]; `weight`: the first projections, one above the other,
    [I or 2·I, D], of bfloat16.
    """

    plain: Plain
    read: Tensor
    before: tuple[Tensor, ...]
    slopes: tuple[Tensor, ...]
    line: Tensor
    weight: Tensor

    @staticmethod
    def of(mlp: MLP, read: Tensor, worth: Tensor) -> Curved:
        """Take an MLP where it reads n, [n, D], with the gradient c, [n, I]."""
        first = [mlp.up] if mlp.gate is None else [mlp.gate, mlp.up]
        before = tuple(linear(read).detach().requires_grad_() for linear in first)
        with torch.enable_grad():
            inner = mlp.combine(*before)
            slopes = torch.autograd.grad((inner * worth).sum(), before)
        line = sum(
            (slope @ linear.weight for slope, linear in zip(slopes, first, strict=True)),
            start=torch.zeros_like(read),
        )
        weight = torch.cat([linear.weight for linear in first]).to(HALF)
        plain, known = Plain(mlp, inner.detach(), worth), tuple(x.detach() for x in before)
        return Curved(plain, read, known, slopes, line, weight)

    def score(self, new: Tensor) -> Tensor:
        """Score changed inputs n', [s, n, D]: [s, n]."""
        moved = new - self.read
        size = self.read.norm(dim=-1).clamp(min=torch.finfo(moved.dtype).tiny)
        small = (moved.norm(dim=-1) / size).amax(-1) < SMALL
        if bool(small.all()):
            return self._bent(moved)
        found = moved.new_empty(moved.shape[:2])
        if bool(small.any()):
            found[small] = self._bent(moved[small])
        found[~small] = self.plain.score(new[~small])
        return found

    def _bent(self, moved: Tensor) -> Tensor:
        """Score small changes n' − n by slope and remainder."""
        plain, straight = self.plain, (moved * self.line).sum(-1)
        products = torch.nn.functional.linear(moved.to(HALF), self.weight).to(moved.dtype)
        steps = products.split(plain.inner.shape[-1], -1)
        new = plain.mlp.combine(*(x + step for x, step in zip(self.before, steps, strict=True)))
        rest = new.sub_(plain.inner).mul_(plain.worth)
        for slope, step in zip(self.slopes, steps, strict=True):
            rest.addcmul_(slope.expand_as(step), step, value=-1)
        return straight + rest.sum(-1)


def of_writes(write: Callable[[Tensor], Tensor]) -> Made:
    """Score by what is written, [..., D] of [..., D]."""

    def made(x: Tensor, g: Tensor) -> Callable[[Tensor], Tensor]:
        now = write(x)
        return lambda held: ((write(held) - now).to(g) * g).sum(-1)

    return made


def of_mlp(block: Block, mlp: MLP) -> Made:
    """Score by the inner features of a layer's MLP, the last projection taken into the gradient."""
    here, down = block.device, mlp.down.weight
    quick = down.dtype == torch.float32 and multiplies_fast(here)

    def read(x: Tensor) -> Tensor:
        return normalise(block.mlp_norm, place(x, here))

    def made(x: Tensor, g: Tensor) -> Callable[[Tensor], Tensor]:
        worth = place(g, here).to(down.dtype) @ down * mlp.output_scale
        score = (Curved.of if quick else Plain.of)(mlp, read(x), worth).score
        return lambda held: place(score(read(held)), g.device)

    return made
