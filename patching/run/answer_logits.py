"""The logits of a batch's answers and distractors alone, for metrics that read no others."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...graphs.lift.devices import place
from ...graphs.lift.lifted import LiftedModel
from ...graphs.lift.norms import normalise, working_dtype
from ..metrics.metric import Target


@dataclass(frozen=True)
class AnswerLogits:
    """The unembedding's rows of each example's answers and distractors, n of them.

    `rows`: [B, n, D], float32 at least; `bias`: [B, n]. `target`: indices into the n.
    """

    model: LiftedModel
    rows: Tensor
    bias: Tensor | None
    target: Target

    @staticmethod
    def of(model: LiftedModel, target: Target) -> AnswerLogits:
        """Take the rows that a target names."""
        unembed, wide = model.unembed, working_dtype(model.unembed.weight.dtype)
        ids = torch.cat((target.answers, target.distractors), -1)
        index = torch.arange(ids.shape[-1], device=ids.device).expand_as(ids)
        index = index.masked_fill(ids < 0, -1)
        answers = target.answers.shape[-1]
        chosen = place(ids.clamp(min=0), unembed.weight.device)
        rows = place(unembed.weight[chosen], model.device).to(wide)
        bias = None if unembed.bias is None else place(unembed.bias[chosen], model.device).to(wide)
        return AnswerLogits(model, rows, bias, Target(index[:, :answers], index[:, answers:]))

    def logits(self, stream: Tensor) -> Tensor:
        """Map the stream at the answer positions, [..., B, D], to logits, [..., B, n]."""
        y = normalise(self.model.final_norm, stream).to(self.rows.dtype)
        logits = torch.einsum("...bd,bad->...ba", y, self.rows)  # copies no rows
        logits = logits if self.bias is None else logits + self.bias
        return self.model.scale_logits(logits.to(stream.dtype))
