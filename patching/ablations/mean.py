"""Mean: ablated edges carry the mean of what their sender writes, one vector for each sender.

The mean is over the examples of the reference set and their positions, without padding; of answers
of several tokens over every run, with the answer's tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ...graphs.lift.devices import place
from .registry import Carried, Reference, Runs, ablation

if TYPE_CHECKING:
    from torch import Tensor

    from ..trace import Values


@ablation("mean", summary="what the sender writes on average over all prompts and positions")
def mean(reference: Reference) -> Carried:
    """Take each sender's mean over the reference set's real tokens."""
    tokens = sum(len(ids) for pair in reference.pairs for ids, _ in pair.runs)

    def summed(runs: Runs, x: Tensor) -> Tensor:  # [B, T, …] to [1, 1, …]
        return widest(x[place(runs.batch.mask, x.device)]).sum(0)[None, None]

    return averaged(reference, summed, tokens)


def averaged(reference: Reference, summed: Callable[[Runs, Tensor], Tensor], count: int) -> Carried:
    """Let edges carry a mean of the clean runs: sums over chunks [B, T, …], by what they count."""
    total: Values | None = None
    for runs in reference.chunks():
        part = runs.clean.values.map(lambda x, runs=runs: summed(runs, x))
        total = part if total is None else total.map(lambda a, b: a + b, part)
    assert total is not None  # there are pairs
    average = total.map(lambda x: x / count)
    return lambda runs: runs.clean.values.map(lambda x, a: a.to(x.dtype).expand_as(x), average)


def widest(x: Tensor) -> Tensor:
    """Return the values in the widest type their device has, so that chunks change no sum."""
    return x.float() if x.device.type == "mps" else x.double()
