"""Optimal: ablated edges carry one vector for each sender, that which costs the model least.

The vectors are learned on the reference set, see `learned`, or stand in a file that was learned
before: `optimal:FILE`. A file counts by what is in it: its hash stands behind it in the ablation's
name, `optimal:FILE@HASH`, and another content under the same name is refused.

Of a head the vector is of what it mixes, so what its edges carry lies where the head can write.
Source: Li and Janson 2024.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from ...graphs.errors import EdgewiseError
from .mean import everywhere
from .registry import Ablation, Carried, Reference, Runs, ablation

if TYPE_CHECKING:
    from ..trace import Values

STEPS = 200  # of learning where no file is named
HASHED = 12  # hexadecimal digits of a file's hash in a name


def _given(one: Ablation, argument: str) -> Ablation:
    """Return the ablation by the vectors of a file."""
    from .learned.vectors import content_hash

    path, at, stated = argument.rpartition("@")
    hexadecimal = len(stated) == HASHED and not set(stated) - set("0123456789abcdef")
    path, stated = (path, stated) if at and hexadecimal else (argument, "")
    if not path.strip():
        raise EdgewiseError(
            f"no file stands behind '{one.name}:'; accepted: one that `edgewise optimal` wrote, or "
            f"{one.name} alone, which learns the vectors anew."
        )
    found = content_hash(path)[:HASHED]
    if stated and stated != found:
        raise EdgewiseError(
            f"{path} is not the file of vectors that was meant: its content's hash begins "
            f"{found}, and {stated} is named; accepted: that file, or the name without '@{stated}'."
        )
    return replace(one, name=f"{one.name}:{path}@{found}", prepare=_reading(path), given=None)


@ablation(
    "optimal",
    summary=(
        "one learned vector for each sender, with which the model loses least; learned on the "
        "prompts, or read from a FILE"
    ),
    takes="FILE",
    given=_given,
)
def optimal(reference: Reference) -> Carried:
    """Learn the vectors on the reference pairs, as `edgewise optimal` does by default."""
    from .learned.learning import Descent, learn

    return everywhere(learn(reference, Descent(steps=STEPS)).values)


def _reading(path: str) -> Callable[[Reference], Carried]:
    """Return the ablation that takes the vectors of a file, which must fit the first runs."""

    def prepare(reference: Reference) -> Carried:
        known: list[Values] = []

        def carried(runs: Runs) -> Values:
            from .learned.vectors import read

            if not known:
                known.append(read(path, reference.model.graph, runs.clean.values))
            return everywhere(known[0])(runs)

        return carried

    return prepare
