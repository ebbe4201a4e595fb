"""How far rounding alone moves a measured value, and choices that do not turn on less.

Another processor, or another number of threads, adds the same numbers up in another order. *The
floor* of a mean over n examples, whose logits are at most s large (mean over the examples of the
full model's run; at least 1), is

    floor = s · L · (64 · eps(a) + u · eps(m)) / √n

* eps(a): of the type that sums are taken in, float32 at least. Roundings of some hundred sums of
  some thousand terms add up like a random walk: over one to four threads and every instruction set
  from SSE4 to AVX-512, losses of circuits of five families moved by at most 15 · s · eps / √n.
* eps(m): of the model's type, with u = 2 where the values that are compared were computed in unlike
  ways (moved by at most 0.8 of these units); u = 0 within one search, whose state is kept in a.
* L: by how much the metric moves with the logits, in units of a logit difference: half the sum of
  its absolute derivatives, the larger of those at the full and the empty circuit; 1 without any.

*Values nearer than the floor are equal*, and of equal ones the earlier in the graph comes first:
in every choice, order, stop and threshold of `refine`, transplants, ACDC (`beyond_rounding`) and
evaluation. Scores have a floor of their own (see graphs/scores.py). There is none for `accuracy`,
which compares single logits, for overlaps, and for numbers from files.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ...graphs.errors import EdgewiseError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..metrics.metric import Metric
    from .answer_logits import AnswerReader


class Ends(Protocol):
    """A batch's runs of the full and the empty circuit, whichever engine made them."""

    @property
    def reading(self) -> AnswerReader:
        """Return what reads streams at the answers, and has the full model's."""

    @property
    def empty_logits(self) -> Tensor:
        """Return the logits at the answers where every edge is ablated, [R, V]."""


SUM_UNITS, TYPE_UNITS = 64, 2  # of the types of sums and of the model, that a logit may be off


def rounding_floor(chunks: Iterable[Ends], metric: Metric, *, unlike: bool = False) -> float:
    """Return how far rounding moves a metric's mean over all examples; `unlike`: see u above."""
    import torch

    number, size, dtype = 0, 0.0, torch.float32
    for chunk in chunks:
        dtype, target = chunk.reading.model.dtype, chunk.reading.target
        assert target.clean_logits is not None
        steepest = torch.zeros_like(target.clean_logits[:, 0], dtype=torch.float32)
        ends = (target.clean_logits, chunk.empty_logits)
        for end in ends if metric.differentiable else ():
            leaf = end.detach().float().requires_grad_()
            with torch.enable_grad():
                loss = metric.loss(leaf, target).sum()
            if loss.requires_grad:
                (slope,) = torch.autograd.grad(loss, leaf)
                steepest = torch.maximum(steepest, slope.abs().sum(-1).nan_to_num(0.0) / 2)
        steepest = torch.where(steepest > 0, steepest, 1.0)
        largest = target.clean_logits.float().abs().amax(-1).clamp(min=1)
        number += chunk.reading.batch.examples
        size += float((largest * steepest).sum())
    return floor_of(size, number, dtype, unlike=unlike)


def floor_of(size: float, number: int, dtype: torch.dtype, *, unlike: bool = False) -> float:
    """Return the floor of a mean over a number of examples; `size`: s · L summed over them."""
    import torch

    units = SUM_UNITS * torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    units += TYPE_UNITS * torch.finfo(dtype).eps if unlike else 0
    return float(units * size / number**1.5)


def in_order(values: Sequence[float] | np.ndarray, floor: float) -> list[int]:
    """Order values from the smallest; those less than a floor above the first of a group are equal.

    >>> in_order([0.3, 0.1 + 1e-9, 0.1, 0.2], floor=1e-6)
    [1, 2, 3, 0]
    """
    found = np.asarray(values, dtype=np.float64)
    left = np.argsort(found, kind="stable")
    ends = np.searchsorted(found[left], found[left] + floor, side="right").tolist()
    order: list[int] = []
    while len(order) < len(left):
        start = len(order)
        order += sorted(left[start : max(start + 1, ends[start])].tolist())
    return order


def beyond_rounding(threshold: float, floor: float) -> float:
    """Return what a rise is held against so that rises within the floor count as 0.

    Thresholds above the floor stay. Below it a rise counts as soon as it is beyond rounding; at 0
    every edge counts whose loss does not fall by more than rounding. Negative ones are refused.

    >>> beyond_rounding(0.02, 1e-5), beyond_rounding(1e-6, 1e-5), beyond_rounding(0.0, 1e-5)
    (0.02, 1e-05, -1e-05)
    """
    if threshold < 0:  # a search would keep edges that lower the loss
        raise EdgewiseError(f"threshold is {threshold:g}; accepted: a number from 0 up.")
    return max(threshold, floor) if threshold else -floor
