"""Zero: ablated edges carry nothing; the stream's constants stay."""

from __future__ import annotations

from .registry import Carried, Reference, ablation


@ablation("zero", summary="nothing: the sender's share of the stream is 0")
def zero(reference: Reference) -> Carried:
    """Take zero for every sender."""
    return lambda runs: runs.clean.values.zeros()
