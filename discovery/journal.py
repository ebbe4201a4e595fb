"""The journal of a walk: what was decided, step by step, so that a stopped walk can go on.

A training has a state in place of decisions: arrays, of which the latest are kept by a journal that
can keep them.

An entry is written when a step (a port, or a layer's ports as wholes) is decided and the search has
been marked; every later number follows from the entries alone. So a walk that replays them, and
restores the search to its last mark, goes on as if it had never stopped, to the last bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from ..graphs.errors import FileFormatError
from ..patching.incremental.search import BaseKind

if TYPE_CHECKING:
    import numpy as np


class Journal(Protocol):
    """Whatever has the entries of earlier sessions, and takes new ones."""

    @property
    def entries(self) -> Sequence[Entry]:
        """Return what was decided before."""

    def append(self, entry: Entry) -> None:
        """Keep one more entry; it must outlive the process."""


@runtime_checkable
class StateJournal(Journal, Protocol):
    """A journal that keeps the state of a training too."""

    def saved(self) -> Mapping[str, np.ndarray] | None:
        """Return the arrays that were kept last; None if there are none."""

    def save(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep arrays in the place of those kept before; they must outlive the process."""


@dataclass(frozen=True)
class Entry:
    """What one step, named by its port or layer, decided.

    `kept`: the senders whose edges were kept, with the rise of the loss that kept them, as exact
    floats; of ports asked as wholes, those that were kept, with None. `batch`: how many questions
    are asked together next. `mark`: how the search was marked behind the step. `seconds`: so far.
    """

    step: str
    kept: Mapping[str, float | None]
    batch: int
    questions: int
    products: int
    mark: BaseKind
    seconds: float = 0.0

    def as_dict(self) -> dict[str, object]:
        """Return plain values, from which JSON gives back the same floats."""
        return {**vars(self), "kept": list(map(list, self.kept.items())), "mark": self.mark.value}

    @staticmethod
    def read(entry: Any, number: int) -> Entry:
        """Read plain values, or raise FileFormatError; further keys are of no concern."""
        try:
            return Entry(
                step=str(entry["step"]),
                kept={str(name): None if x is None else float(x) for name, x in entry["kept"]},
                batch=int(entry["batch"]),
                questions=int(entry["questions"]),
                products=int(entry["products"]),
                mark=BaseKind(entry["mark"]),
                seconds=float(entry["seconds"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise FileFormatError(
                f"entry {number} of the journal cannot be read ({error!r}), so the walk cannot go "
                "on from it; start anew without `resume`."
            ) from None


def misfit(entry: Entry, expected: str) -> FileFormatError:
    """Build the error for an entry that cannot follow those before it."""
    return FileFormatError(
        f"the journal has '{entry.step}' where the walk reaches '{expected}', or names what is not "
        "there, so the walk cannot go on from it; start anew without `resume`."
    )
