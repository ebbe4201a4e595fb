"""Direct logit attribution: what a sender adds to the logits by itself.

Logits are a linear function of what senders write once the final norm's factor (and that of a norm
behind attention) is kept as it was in the run; what the senders and the constants add then sums up
to the logits, before a soft cap. Source: Elhage et al. 2021, A Mathematical Framework for
Transformer Circuits ("direct effect on logits").

Shapes: N any leading axes, h heads, B examples, D d_model, V logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ...graphs.lift.devices import place
from ...graphs.lift.lifted import LiftedModel
from ...graphs.lift.norms import Norm, working_dtype
from ...graphs.lift.own.packed import Gathered
from ..incremental.unembedding import times


def frozen(norm: Norm | Gathered | None, at: Tensor, x: Tensor) -> Tensor:
    """Return what a part x of `at` contributes to the normalised `at`, but its bias, [N, D]."""
    if isinstance(norm, Gathered):
        norm, at, x = norm.frozen(at, x)
    if norm is None:
        return x
    _, rate = norm.unit(at)
    x = x.to(rate.dtype)
    x = (x - x.mean(-1, keepdim=True) if norm.centred else x) * rate
    return x if norm.scale is None else x * place(norm.scale, x.device)


@dataclass(frozen=True)
class Direct:
    """What is written at one position of each example, as logits.

    `final`: the stream at `logits` there, [B, D]. `answers`, `distractors`: ids, [B, A] and
    [B, A'], padded with -1.
    """

    model: LiftedModel
    final: Tensor
    answers: Tensor
    distractors: Tensor

    def normed(self, x: Tensor) -> Tensor:
        """Return what x [h, B, D] contributes to the normalised stream, [h, B, D]."""
        dtype = working_dtype(self.final.dtype)
        x = frozen(self.model.final_norm, self.final.to(dtype), place(x, self.final.device))
        return x.to(dtype)

    def logits(self, normed: Tensor) -> Tensor:
        """Return the logits that contributions [N, D] make, [N, V], before a soft cap."""
        weight = self.model.unembed.weight
        return times(place(normed, weight.device), weight) * self.model.logit_scale

    def difference(self, normed: Tensor) -> Tensor:
        """Return the mean logit of the answers minus that of the distractors, or of all, [h, B]."""
        return torch.einsum("hbd,bd->hb", normed, self._direction)

    @cached_property
    def total(self) -> Tensor:
        """Return the model's own difference, [B], before a soft cap."""
        normed = self.final if self.model.final_norm is None else self.model.final_norm(self.final)
        found = (normed.to(self._direction.dtype) * self._direction).sum(-1)
        if (bias := self.model.unembed.bias) is None:
            return found
        least = _contrast(bias[:, None], self.answers, self.distractors)[:, 0]
        return found + place(least, self.final.device) * self.model.logit_scale

    @cached_property
    def _direction(self) -> Tensor:
        direction = _contrast(self.model.unembed.weight, self.answers, self.distractors)
        dtype = working_dtype(self.final.dtype)
        return place(direction.to(dtype), self.final.device) * self.model.logit_scale


def _contrast(rows: Tensor, answers: Tensor, distractors: Tensor) -> Tensor:
    """Return the mean row of the answers minus that of the distractors: rows [V, D] to [B, D]."""
    lacking = (distractors < 0).all(-1)
    against = _mean_rows(rows, distractors)
    if bool(lacking.any()):
        whole = rows.to(working_dtype(rows.dtype)).mean(0)
        against = torch.where(place(lacking, rows.device)[:, None], whole, against)
    return _mean_rows(rows, answers) - against


def _mean_rows(rows: Tensor, ids: Tensor) -> Tensor:
    """Average rows [V, D] over ids [B, A], of which -1 does not count; [B, D]."""
    ids = place(ids, rows.device)
    chosen = rows[ids.clamp(min=0)].to(working_dtype(rows.dtype))  # [B, A, D]
    real = (ids >= 0).to(chosen.dtype)[..., None]
    return (chosen * real).sum(1) / real.sum(1).clamp(min=1)
