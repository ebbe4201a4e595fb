"""A layer's heads with changed queries, keys or values, whatever stands in between.

Each letter's new inputs are projected, and the heads attend with them and the run's other inputs,
as the incremental runner has them do. Values are mixed linearly, so the gradient at them does for
all, where nothing bounds or normalises them.

Shapes: B examples, T positions of the window, s senders, D d_model, H heads, K d_head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ....graphs.lift.devices import place
from ....graphs.lift.lifted import Block
from ....graphs.names import LETTERS
from ...trace import project, repeat_kv
from .heads import HeadsRun


@dataclass(frozen=True)
class MixedHeads:
    """One layer of a run, what heads mix, z, and the gradient at values."""

    run: HeadsRun
    z: Tensor
    g_v: Tensor

    @staticmethod
    def of(run: HeadsRun) -> MixedHeads:
        """Take a layer of a run."""
        values = run.v.detach().requires_grad_()
        with torch.enable_grad():
            z = run.block.by_head.mix(run.q, run.k, values, run.context, run.past)
        (g_v,) = torch.autograd.grad(z, values, run.g_z)
        return MixedHeads(run, z.detach(), g_v)

    def numbers(self, width: int) -> int:
        """Count what is made on the way for one token and sender."""
        attention, length = self.run.block.by_head, self.run.context.mask.shape[1]
        return 2 * width + 8 * attention.heads * attention.size + 3 * attention.heads * length

    def changes(self, letters: tuple[str, ...], new: Tensor, now: Tensor) -> dict[str, Tensor]:
        """Score what ports hold behind the norm, n' [s, B, T, D] in place of n: [s, B, H] each."""
        return {letter: self._change(letter, new).sum((-3, -1)) for letter in letters}

    def _change(self, letter: str, new: Tensor) -> Tensor:
        """Return changes times gradients, [s, B, T, H, K]."""
        run, attention = self.run, self.run.block.by_head
        made = project(run.block, letter, new)
        made = made if letter == "q" else repeat_kv(run.block, made)
        if letter == "v" and attention.clip is None and attention.value_norm is None:
            return (made - run.v) * self.g_v
        q, k, v = (made if one == letter else getattr(run, one) for one in LETTERS)
        return (attention.mix(q, k, v, run.context, run.past) - self.z) * run.g_z


def mixture_gradient(block: Block, gradient: Tensor) -> Tensor:
    """Return the gradient at what heads mix, [B, T, H, K], from that at what they write."""
    attention = block.by_head
    here = place(gradient, block.device).to(attention.wo.dtype)
    return attention.scaled(torch.einsum("btd,hkd->bthk", here, attention.wo))
