"""Position mean: as the mean, but one vector for each sender and position.

It needs aligned prompts: all of one length, so that no position is padding in some.
"""

from __future__ import annotations

from .mean import averaged, widest
from .registry import Carried, Reference, ablation


@ablation(
    "position-mean",
    summary="what the sender writes on average over all prompts, at each position by itself",
    aligned=True,
)
def position_mean(reference: Reference) -> Carried:
    """Take each sender's mean over the reference set's examples, by position."""
    examples = sum(len(pair.runs) for pair in reference.pairs)
    return averaged(reference, lambda runs, x: widest(x).sum(0, keepdim=True), examples)
