"""Resample: ablated edges carry what their sender writes on the corrupted prompt."""

from __future__ import annotations

from .registry import Carried, Reference, ablation


@ablation(
    "resample",
    summary="what the sender writes on the corrupted prompt",
    paired=True,
    consistent=True,
    default=True,
)
def resample(reference: Reference) -> Carried:
    """Take each sender's value on the paired corrupted prompt."""
    return lambda runs: runs.corrupted.values
