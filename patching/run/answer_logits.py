"""What a stream at the answers of a batch says: logits, all or few, and values of metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from torch import Tensor

from ...graphs.lift.devices import place
from ...graphs.lift.lifted import LiftedModel
from ...graphs.lift.norms import normalise, working_dtype
from ..metrics.metric import Metric, Target
from ..prompts.pairs import Batch


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


@dataclass(frozen=True)
class AnswerReader:
    """Read streams where logits are read, [..., R, D], whichever engine they are from.

    `clean`: gives that of the full model's run, [R, D]; asked when a metric compares with it.
    """

    model: LiftedModel
    batch: Batch
    clean: Callable[[], Tensor]

    @cached_property
    @torch.no_grad()
    def target(self) -> Target:
        """Return what metrics compare with."""
        return self.compared_with(self.model.logits(self.clean()))

    def compared_with(self, clean_logits: Tensor | None) -> Target:
        """Return what metrics compare with, and the logits of a full model."""
        batch = self.batch
        return Target(batch.answers, batch.distractors, clean_logits, batch.steps)

    @cached_property
    def answer_logits(self) -> AnswerLogits:
        """Return what maps the stream at the answers to the logits of their tokens alone."""
        return AnswerLogits.of(self.model, Target(self.batch.answers, self.batch.distractors))

    def values(self, answers: Tensor, metrics: Sequence[Metric], losses: bool) -> list[Tensor]:
        """Map the stream at the answers, [..., R, D], to values or losses of metrics, [..., B]."""
        plain = self.batch.steps is None

        @cache
        def logits_and_target(few: bool) -> tuple[Tensor, Target]:
            if few:
                return self.answer_logits.logits(answers), self.answer_logits.target
            return self.model.logits(answers), self.target

        measures = [(m, m.loss if losses else m) for m in metrics]
        return [measure(*logits_and_target(plain and m.reads_few)) for m, measure in measures]
