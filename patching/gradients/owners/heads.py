"""One layer's heads of a run, as owners that are recomputed take them.

Shapes: B examples, T positions of the window, D d_model, H heads, K d_head.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ....graphs.lift.attention import AttentionContext
from ....graphs.lift.lifted import Block
from ...trace import Past, past_of, project_all, repeat_kv


@dataclass(frozen=True)
class HeadsRun:
    """What a layer's heads attend with, [B, T, H, K] each, and the gradient at what they mix.

    `k` and `v` stand once for each head. `past`: keys and values before the window, if there are.
    """

    block: Block
    context: AttentionContext
    q: Tensor
    k: Tensor
    v: Tensor
    past: tuple[Tensor, Tensor] | None
    g_z: Tensor

    @staticmethod
    def of(
        block: Block,
        layer: int,
        streams: tuple[Tensor, Tensor],
        context: AttentionContext,
        past: Past | None,
        g_z: Tensor,
    ) -> HeadsRun:
        """Take a layer of a run; `streams`: what queries and keys are made of, [B, T, D] both."""
        q, k, v = project_all(block, *streams)
        k, v = repeat_kv(block, k), repeat_kv(block, v)
        return HeadsRun(block, context, q, k, v, past_of(block, layer, past), g_z)
