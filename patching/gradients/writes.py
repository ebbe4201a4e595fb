"""The gradient of the loss at what each part writes, averaged over points.

It is what `attribution` has on its way back, before it goes on into a part: that behind an MLP, at
the sum of a layer's heads (in front of `o{l}` where there is one), behind `o{l}`, and behind a part
that is taken whole.

Shapes: K points, B examples, T positions of the chunk's window, D d_model.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...graphs.lift.lifted import Block
from ...graphs.names import Kind, Port
from ..run.chunk import Chunk
from ..run.runner import Runner
from .attribution import ChunkScores, groups
from .rules import DERIVATIVE, GradientRule
from .tape import Heads

Writes = dict[tuple[Kind, int], Tensor]
"""By kind of part and layer, [B, T, D]; the heads of a layer together are of kind `HEAD`."""


def write_gradients(
    runner: Runner, chunk: Chunk, points: Sequence[float], rule: GradientRule = DERIVATIVE
) -> Writes:
    """Return ∂(summed loss)/∂(what parts write), averaged over points; `rule`: by which."""
    found: Writes = {}
    for group in groups(chunk, points, runner.budget.tape):
        _Noting(runner, chunk, group, rule, found, len(points)).scores()
    return found


class _Noting(ChunkScores):
    """A pass forward and backward that scores no port, and notes what reaches the parts."""

    def __init__(
        self,
        runner: Runner,
        chunk: Chunk,
        points: list[float],
        rule: GradientRule,
        found: Writes,
        of: int,
    ) -> None:
        super().__init__(runner, chunk, points, chunk.delta[:, :0], None, rule)
        self._found, self._of = found, of

    def _note(self, kind: Kind, layer: int, gradient: Tensor) -> None:
        mean = gradient.unflatten(0, (len(self.points), self.batch)).sum(0) / self._of
        held = self._found.get((kind, layer))
        self._found[kind, layer] = mean if held is None else held + mean

    def _through(
        self, kind: Kind, layer: int, write: Tensor, x: Tensor, gradient: Tensor
    ) -> Tensor:
        self._note(kind, layer, gradient)
        (own,) = torch.autograd.grad(write, x, gradient)
        return own[..., : gradient.shape[-1]]

    def _attention(self, layer: int, block: Block, tape: Heads, gradient: Tensor) -> Tensor:
        self._note(Kind.HEAD, layer, gradient)
        return super()._attention(layer, block, tape, gradient)

    def _put(self, first: Port, gradient: Tensor) -> None:
        """Score nothing."""

    def _put_attention(self, first: Port, *_: object, **__: object) -> None:
        """Score nothing."""
