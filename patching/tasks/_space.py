"""Finite spaces of candidate pairs, walked in random order without repeats."""

from __future__ import annotations

import math
import random
from bisect import insort
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any


@dataclass(frozen=True)
class Candidate:
    """One clean and corrupted prompt with answers, as text (or, all four, as token ids).

    `spans`: named parts of the clean prompt, as (name, start, stop), in characters (or ids).
    """

    clean: str | tuple[int, ...]
    corrupted: str | tuple[int, ...]
    answers: tuple[str, ...] | tuple[int, ...]
    distractors: tuple[str, ...] | tuple[int, ...]
    spans: tuple[tuple[str, int, int], ...] = ()


def located(template: str, **values: str) -> tuple[tuple[str, int, int], ...]:
    """Tell where a template's values stand once they are filled in, as (name, start, stop).

    >>> located("{a} and {b}, so {a}", a="Mary", b="John")
    (('a', 0, 4), ('b', 9, 13), ('a', 18, 22))
    """
    found, at = [], 0
    for before, name, _, _ in Formatter().parse(template):
        at += len(before)
        if name is not None:
            stop = at + len(values[name])
            found.append((name, at, stop))
            at = stop
    return tuple(found)


@dataclass(frozen=True)
class Pick:
    """Choose `count` different items, in order.

    >>> two = Pick("abc", 2)
    >>> [two[i] for i in range(two.size)]
    [('a', 'b'), ('b', 'a'), ('c', 'a'), ('a', 'c'), ('b', 'c'), ('c', 'b')]
    """

    items: Sequence[Any]
    count: int = 1

    @property
    def size(self) -> int:
        """Return the number of choices."""
        return math.perm(len(self.items), self.count)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        taken: list[int] = []
        chosen: list[Any] = []
        for used in range(self.count):
            index, position = divmod(index, len(self.items) - used)
            for other in taken:
                position += position >= other
            insort(taken, position)
            chosen.append(self.items[position])
        return tuple(chosen)


@dataclass(frozen=True)
class Space:
    """Every candidate of one template: all combinations of its picks.

    `build` receives one tuple per pick and returns the candidate, or None where the combination
    makes no example. `group` is the template's tag.
    """

    group: str
    picks: tuple[Pick, ...]
    build: Callable[..., Candidate | None]

    @property
    def size(self) -> int:
        """Return the number of combinations."""
        return math.prod(pick.size for pick in self.picks)

    def __getitem__(self, index: int) -> Candidate | None:
        values: list[tuple[Any, ...]] = []
        for pick in self.picks:
            index, choice = divmod(index, pick.size)
            values.append(pick[choice])
        return self.build(*values)


def walk(spaces: Sequence[Space], rng: random.Random) -> Iterator[tuple[str, Candidate]]:
    """Yield every candidate once, with its group, in an order that takes all spaces in turn."""
    order = list(spaces)
    rng.shuffle(order)
    active = [(space, shuffled(space.size, rng)) for space in order]
    while active:
        remaining = []
        for space, indices in active:
            candidate = next((c for i in indices if (c := space[i]) is not None), None)
            if candidate is not None:
                yield space.group, candidate
                remaining.append((space, indices))
        active = remaining


def shuffled(size: int, rng: random.Random) -> Iterator[int]:
    """Yield 0 … size-1 in random order; memory grows with what was taken, not with the size.

    >>> sorted(shuffled(5, random.Random(0)))
    [0, 1, 2, 3, 4]
    """
    moved: dict[int, int] = {}
    for position in range(size):
        chosen = rng.randrange(position, size)
        yield moved.get(chosen, chosen)
        moved[chosen] = moved.pop(position, position)
