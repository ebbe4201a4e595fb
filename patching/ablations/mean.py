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
    return averaged(reference, over_tokens, real_tokens(reference))


def over_tokens(runs: Runs, x: Tensor) -> Tensor:
    """Add up what is written at real tokens, [B, T, …] to [1, 1, …]."""
    return widest(x[place(runs.batch.mask, x.device)]).sum(0)[None, None]


def real_tokens(reference: Reference) -> int:
    """Count the real tokens of all clean runs."""
    return sum(len(ids) for pair in reference.pairs for ids, _ in pair.runs)


def averaged(reference: Reference, summed: Callable[[Runs, Tensor], Tensor], count: int) -> Carried:
    """Let edges carry a mean of the clean runs: sums over chunks [B, T, …], by what they count."""
    return everywhere(average(reference, summed, count))


def everywhere(values: Values) -> Carried:
    """Let edges carry values [1, 1 or T, …] in every example, in the type of the model's own."""
    return lambda runs: runs.clean.values.map(lambda x, a: a.to(x).expand_as(x), values)


def average(reference: Reference, summed: Callable[[Runs, Tensor], Tensor], count: int) -> Values:
    """Return a mean of what all senders write in the clean runs, of sums over chunks [B, T, …]."""
    total: Values | None = None
    for runs in reference.chunks():
        part = runs.clean.values.map(lambda x, runs=runs: summed(runs, x))
        total = part if total is None else total.map(lambda a, b: a + b, part)
    assert total is not None  # there are pairs
    return total.map(lambda x: x / count)


def widest(x: Tensor) -> Tensor:
    """Return the values in the widest type their device has, so that chunks change no sum."""
    return x.float() if x.device.type == "mps" else x.double()
