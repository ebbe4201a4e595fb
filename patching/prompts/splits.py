"""Held-out prompt pairs: those that a circuit is found on, and others that it is measured on.

Of a file's pairs a seeded part is held out:

1. Nothing said: half of them, from `LEAST_SPLIT` pairs up; of fewer nothing.
2. So many `examples` alone: the first ones are for discovery, as many of the others are held out,
   as far as there are.
3. So many `test` pairs: they are drawn, and so are the `examples` (default: all others).

Drawn are whole groups where there are `LEAST_GROUPS` or more of them and they can be parted so: the
circuit is then measured on templates that it was not found on. Otherwise each group's pairs are
dealt to both sides. Each side keeps the file's order. The split depends on nothing but the pairs'
groups and places, the numbers and the seed. Two pairs that are the same stand on one side.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from ...graphs.errors import PromptError
from .pairs import Pair, PromptPairs

LEAST_SPLIT = 64
"""From so many pairs up, half of a file is held out if nothing is said: 32 tell .1 logits apart."""

LEAST_GROUPS = 8
"""Of so many groups, whole ones are held out: half of them make an interval."""


class Report(Protocol):
    """What was left out of the pairs that a built-in task made; as text, a sentence."""

    @property
    def left_out(self) -> Mapping[str, int]:
        """Return how many candidates were left out, by reason."""


@dataclass(frozen=True)
class PromptSplit:
    """The prompt pairs of a discovery and others, held out, that share no pair with them.

    `test`: None if nothing is held out. `words`: what was done, in one line, without a full stop.
    `asked`: numbers of examples and test pairs that give the same split again, where it must be
    asked for. `seed`: what the test pairs are made from, or drawn by. `report`: what was left out
    of a built-in task's discovery pairs.
    """

    discovery: PromptPairs
    test: PromptPairs | None = None
    words: str = ""
    asked: tuple[int | None, int | None] = (None, None)
    seed: int | None = None
    report: Report | None = None

    def __post_init__(self) -> None:
        if self.test is not None and (shared := len(seen_in(self.test, self.discovery))):
            raise PromptError(
                f"{shared:,} of the {len(self.test):,} test pairs are discovery pairs too; "
                "accepted: others."
            )

    def at_spans(self, names: tuple[str, ...]) -> PromptSplit:
        """Tell these spans of positions apart on both sides; see `PromptPairs.at_spans`."""
        test = None if self.test is None else self.test.at_spans(names)
        return replace(self, discovery=self.discovery.at_spans(names), test=test)

    @property
    def sides(self) -> tuple[PromptPairs, ...]:
        """Return the sides there are, the held-out one first."""
        return (self.discovery,) if self.test is None else (self.test, self.discovery)


def seen_in(pairs: Iterable[Pair], others: Iterable[Pair]) -> list[int]:
    """List which pairs, by their places, have the prompts of one of the others.

    >>> one, two = Pair((5, 17), (5, 9), (4,)), Pair((5, 17), (5, 8), (4,))
    >>> seen_in([two, one], [one])
    [1]
    """
    known = {(pair.clean, pair.corrupted) for pair in others}
    return [i for i, pair in enumerate(pairs) if (pair.clean, pair.corrupted) in known]


def clean_seen_in(pairs: Iterable[Pair], others: Iterable[Pair]) -> list[int]:
    """List which pairs have the clean prompt of one of the others, whatever it is corrupted to.

    >>> one, two = Pair((5, 17), (5, 9), (4,)), Pair((5, 17), (5, 8), (4,))
    >>> clean_seen_in([two, one], [one])
    [0, 1]
    """
    known = {pair.clean for pair in others}
    return [i for i, pair in enumerate(pairs) if pair.clean in known]


def hold_out(
    pairs: PromptPairs, examples: int | None = None, test: int | None = None, seed: int = 0
) -> PromptSplit:
    """Split a file's pairs; see the module.

    Raises:
        PromptError: the file has fewer pairs than `test`, or both numbers together, ask for.
    """
    total = len(pairs)
    if test == 0:
        return PromptSplit(_some(pairs, range(total)[:examples]), asked=(examples, 0))
    if test is None and examples is None and total < LEAST_SPLIT:
        words = f"nothing is held out: {total:,} pairs are fewer than {LEAST_SPLIT}"
        return PromptSplit(pairs, words=words)
    if test is None and examples is not None:
        return _beside_first(pairs, examples, seed)
    if test is None:
        test = total // 2
    if test + (examples or 1) > total:
        wanted = f"{test:,} test pairs"
        wanted += f" beside {examples:,} examples" if examples else ""
        raise PromptError(
            f"'{pairs.name}' has {total:,} pairs, too few for {wanted}; accepted: together at most "
            f"{total:,}, with one for discovery at least."
        )
    return _drawn(pairs, examples, test, seed)


def _beside_first(pairs: PromptPairs, examples: int, seed: int) -> PromptSplit:
    """Take the first examples for discovery, and hold out as many of the others, if there are."""
    first, others = range(len(pairs))[:examples], range(len(pairs))[examples:]
    known = {_prompts(pairs.pairs[i]) for i in first}
    others_new = [i for i in others if _prompts(pairs.pairs[i]) not in known]
    discovery = _some(pairs, first)
    if not others_new:
        words = "nothing is held out: the file has no other pairs"
        return PromptSplit(discovery, words=words, asked=(examples, None))
    groups = {pair.group for pair in discovery if pair.group}
    unlike = [i for i in others_new if pairs.pairs[i].group not in groups]
    by_group = bool(groups) and len(unlike) >= examples
    among = unlike if by_group else others_new
    number = min(examples, len(among))
    taken = _dealt(pairs, among, number, seed)
    how = "of other groups than theirs" if by_group else "of the others"
    words = f"held out: {number:,} {how}, drawn with seed {seed}"
    return PromptSplit(discovery, _some(pairs, taken), words, (examples, None), seed)


def _drawn(pairs: PromptPairs, examples: int | None, test: int, seed: int) -> PromptSplit:
    """Draw test pairs and, of the others, the examples."""
    total = len(pairs)
    labels = {pair.group for pair in pairs if pair.group}
    parted = None
    if len(labels) >= LEAST_GROUPS:
        parted = _whole_groups(pairs, examples or total - test, test, seed)
    if parted is None:
        held = set(_dealt(pairs, range(total), test, seed))
        known = {_prompts(pairs.pairs[i]) for i in held}
        left = [i for i in range(total) if _prompts(pairs.pairs[i]) not in known]
        if not left:
            raise PromptError(
                f"'{pairs.name}' holds the same pair again and again, so that none is left for "
                "discovery; accepted: fewer test pairs, or different pairs."
            )
        chosen = left if examples is None else _dealt(pairs, left, examples, seed + 1)
        how = "at random"
        if labels:
            few = "" if len(labels) >= LEAST_GROUPS else ", too few to hold whole ones out"
            how = f"from each of the {len(labels):,} groups{few}"
    else:
        chosen, held = parted[0], set(parted[1])
        apart = labels & {pairs.pairs[i].group for i in held}
        how = f"whole groups, {len(apart):,} of {len(labels):,}"
    words = f"held out: {len(held):,} of {total:,} pairs, {how}, with seed {seed}"
    asked = (examples, test)
    return PromptSplit(_some(pairs, chosen), _some(pairs, sorted(held)), words, asked, seed)


def _whole_groups(
    pairs: PromptPairs, examples: int, test: int, seed: int
) -> tuple[list[int], list[int]] | None:
    """Part groups so that both sides have as many pairs as asked for, and cut to that; or None.

    Where the sizes of groups do not allow both numbers, the discovery gets what is left, if that is
    at least nine tenths of what was to be.
    """
    members: dict[object, list[int]] = {}
    for i, pair in enumerate(pairs):  # a pair without a group is one of its own
        members.setdefault(pair.group or _prompts(pair), []).append(i)
    order = list(members.values())
    random.Random(f"held out {seed}").shuffle(order)
    held: list[int] = []
    rest: list[int] = []
    for number, group in enumerate(order):
        left = sum(map(len, order[number + 1 :]))
        fits = len(rest) + left >= 0.9 * examples
        (held if len(held) < test and fits else rest).extend(group)
    if len(held) < test or len(rest) < 0.9 * examples:
        return None
    known = {_prompts(pairs.pairs[i]) for i in held}
    rest = [i for i in rest if _prompts(pairs.pairs[i]) not in known]
    if not rest:
        return None
    cut = _dealt(pairs, sorted(rest), min(examples, len(rest)), seed)
    return cut, _dealt(pairs, sorted(held), test, seed)


def _dealt(pairs: PromptPairs, among: Sequence[int], number: int, seed: int) -> list[int]:
    """Draw so many places, evenly over groups: each group's in a random order, in turns."""
    rng, number = random.Random(f"dealt {seed}"), min(number, len(among))
    queues: dict[str, list[int]] = {}
    for i in among:
        queues.setdefault(pairs.pairs[i].group, []).append(i)
    for queue in queues.values():
        rng.shuffle(queue)
    names = list(queues)
    rng.shuffle(names)
    share = number / max(1, len(among))
    taken: list[int] = []
    for name in names:  # each group in proportion to its size, the rest in turns
        count = int(share * len(queues[name]))
        taken += queues[name][:count]
        queues[name] = queues[name][count:]
    while len(taken) < number:
        for name in names:
            if queues[name] and len(taken) < number:
                taken.append(queues[name].pop())
    return sorted(taken)


def _some(pairs: PromptPairs, places: Iterable[int]) -> PromptPairs:
    return replace(pairs, pairs=tuple(pairs.pairs[i] for i in places))


def _prompts(pair: Pair) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    return pair.clean, pair.corrupted
