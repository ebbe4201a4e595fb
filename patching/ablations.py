"""Ablations: the value a_u that an ablated edge carries, for every sender u."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..graphs.errors import unknown

if TYPE_CHECKING:
    from .run.trace import Trace, Values


@dataclass(frozen=True)
class Ablation:
    """Name an ablation.

    Args:
        name: its name in files and on the command line.
        values: from the clean and the corrupted run of the same pairs, what each sender's
            ablated edges carry.
        consistent: a node all of whose inputs are ablated writes exactly its own ablation value.
        paired: the values are those of the corrupted run, token by token.
        summary: one line for help.
    """

    name: str
    values: Callable[[Trace, Trace], Values]
    consistent: bool
    summary: str
    paired: bool = False


ABLATIONS: dict[str, Ablation] = {}


def ablation(
    name: str, *, consistent: bool, summary: str, paired: bool = False
) -> Callable[[Callable[[Trace, Trace], Values]], Callable[[Trace, Trace], Values]]:
    """Register an ablation by name."""

    def register(values: Callable[[Trace, Trace], Values]) -> Callable[[Trace, Trace], Values]:
        ABLATIONS[name] = Ablation(name, values, consistent, summary, paired)
        return values

    return register


def get_ablation(name: str) -> Ablation:
    """Look an ablation up.

    Raises:
        UnknownName: there is none of this name.
    """
    if name not in ABLATIONS:
        raise unknown("ablation", name, ABLATIONS)
    return ABLATIONS[name]


@ablation(
    "resample",
    consistent=True,
    summary="what the sender writes on the corrupted prompt",
    paired=True,
)
def resample(clean: Trace, corrupted: Trace) -> Values:
    """Take each sender's value on the paired corrupted prompt."""
    return corrupted.values


@ablation("zero", consistent=False, summary="nothing: the sender's share of the stream is 0")
def zero(clean: Trace, corrupted: Trace) -> Values:
    """Take zero for every sender; the stream's constants stay."""
    from .run.trace import Values

    old = clean.values
    return Values(
        old.sources.new_zeros(()).expand_as(old.sources),
        tuple(z.new_zeros(()).expand_as(z) for z in old.z),
        tuple(m.new_zeros(()).expand_as(m) for m in old.mlp),
        tuple(o.new_zeros(()).expand_as(o) for o in old.post),
    )
