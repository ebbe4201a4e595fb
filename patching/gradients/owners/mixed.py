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

from ....graphs.lift.attention import AttentionContext
from ....graphs.lift.devices import place
from ....graphs.lift.lifted import Block
from ....graphs.names import LETTERS
from ...trace import Past, past_of, project, project_all, repeat_kv


@dataclass(frozen=True)
class MixedHeads:
    """One layer's inputs of a run, what heads mix, z, and the gradients at z and values."""

    block: Block
    context: AttentionContext
    past: tuple[Tensor, Tensor] | None
    inputs: dict[str, Tensor]
    z: Tensor
    g_z: Tensor
    g_v: Tensor

    @staticmethod
    def of(
        block: Block,
        layer: int,
        streams: tuple[Tensor, Tensor],
        context: AttentionContext,
        past: Past | None,
        g_z: Tensor,
    ) -> MixedHeads:
        """Take a layer of a run; `streams`: what queries and keys are made of, [B, T, D] both.

        g_z: [B, T, H, K].
        """
        attention = block.by_head
        q, k, v = project_all(block, *streams)
        k, v = repeat_kv(block, k), repeat_kv(block, v)
        before = past_of(block, layer, past)
        values = v.detach().requires_grad_()
        with torch.enable_grad():
            z = attention.mix(q, k, values, context, before)
        (g_v,) = torch.autograd.grad(z, values, g_z)
        return MixedHeads(block, context, before, {"q": q, "k": k, "v": v}, z.detach(), g_z, g_v)

    def numbers(self, width: int) -> int:
        """Count what is made on the way for one token and sender."""
        attention, length = self.block.by_head, self.context.mask.shape[1]
        return 2 * width + 8 * attention.heads * attention.size + 3 * attention.heads * length

    def changes(self, letters: tuple[str, ...], new: Tensor, now: Tensor) -> dict[str, Tensor]:
        """Score what ports hold behind the norm, n' [s, B, T, D] in place of n: [s, B, H] each."""
        return {letter: self._change(letter, new).sum((-3, -1)) for letter in letters}

    def _change(self, letter: str, new: Tensor) -> Tensor:
        """Return changes times gradients, [s, B, T, H, K]."""
        attention, made = self.block.by_head, project(self.block, letter, new)
        made = made if letter == "q" else repeat_kv(self.block, made)
        if letter == "v" and attention.clip is None and attention.value_norm is None:
            return (made - self.inputs["v"]) * self.g_v
        q, k, v = ((self.inputs | {letter: made})[one] for one in LETTERS)
        return (attention.mix(q, k, v, self.context, self.past) - self.z) * self.g_z


def mixture_gradient(block: Block, gradient: Tensor) -> Tensor:
    """Return the gradient at what heads mix, [B, T, H, K], from that at what they write."""
    attention = block.by_head
    here = place(gradient, block.device).to(attention.wo.dtype)
    return attention.scaled(torch.einsum("btd,hkd->bthk", here, attention.wo))
