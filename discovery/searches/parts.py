"""Parts of a search of several walks: each with its part of the journal and of the progress."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...patching.run.runner import Progress
    from ..journal import Entry, Journal

BETWEEN = ": "


@dataclass(frozen=True)
class _Part:
    """The entries of one walk in the journal of several, whose steps bear the walk's name."""

    whole: Journal
    name: str

    @property
    def entries(self) -> Sequence[Entry]:
        """Return what this walk decided before."""
        start = self.name + BETWEEN if self.name else ""
        return [
            replace(one, step=one.step.removeprefix(start))
            for one in self.whole.entries
            if (one.step.startswith(start) if start else BETWEEN not in one.step)
        ]

    def append(self, entry: Entry) -> None:
        """Keep one more entry."""
        start = self.name + BETWEEN if self.name else ""
        self.whole.append(replace(entry, step=start + entry.step))


def part_of(journal: Journal | None, name: str) -> Journal | None:
    """Return the part of a journal that is of one walk; of the first the name is empty."""
    return None if journal is None else _Part(journal, name)


def told(progress: Progress | None, number: int, walks: int, name: str) -> Progress | None:
    """Return what tells the progress of one walk of several, by their number, as that of all."""
    if progress is None or walks == 1:
        return progress
    tell = progress  # of its own, for the type checker

    def tell_all(done: int, total: int, words: str) -> None:
        tell(number * total + done, walks * total, f"{words}, {name}")

    return tell_all
