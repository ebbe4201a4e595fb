"""Form pairs from prompts without a twin: each gets another entry's prompt of equal length.

The twin is a prompt of the same family (as of one template), of equally many tokens, with another
answer, which becomes the distractor. Which of several is decided by the seed. What gets no twin is
left out and counted, by reason.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ....graphs.errors import PromptError
from ..answers import EITHER
from ..row_context import RowContext
from ._registry import Fields
from .pairs import line_to_write

NOT_ONE_TOKEN = "the answer is not one token"
NO_TWIN = "no other entry of equally many tokens has another answer"
TWICE = "the entry is there twice"

_TRIES = 40  # among neighbours in a drawn order, for a twin that fits better, or fits at all


@dataclass(frozen=True)
class Single:
    """A prompt that looks for a twin.

    `family`: only prompts of one family are exchanged. `subject`: what it is about; another
    entry about the same is no twin. `wanted`: the answer that the twin should have, if one has.
    """

    place: str
    family: str
    prompt: str
    answer: str
    subject: str = ""
    wanted: str = ""
    group: str = ""


@dataclass
class Exchange:
    """Pairs formed from entries, in a drawn order, and why some entries are in none."""

    rows: list[tuple[str, Fields | PromptError]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def missing(self, twin: str, add: str, entries: Sequence[Single]) -> str:
        """Say what a pair is formed of, and show the line to write instead of the first entry."""
        first = entries[0] if entries else Single("", "", "…", "…")
        line = line_to_write({"clean": first.prompt, "answers": [first.answer]})
        several = (
            f"; answers of several tokens need {EITHER}" if NOT_ONE_TOKEN in self.left_out else ""
        )
        return (
            f"{twin}{several}. Add such {add}, or write pairs, such as {line}, or without the "
            "corrupted prompt, for an ablation that needs none."
        )


Elsewhere = Callable[[Single, random.Random], Sequence[Single]]
"""Gives, for an entry without a twin in its family, others' subjects in its own words."""


def exchange(
    entries: Sequence[Single], context: RowContext, elsewhere: Elsewhere | None = None
) -> Exchange:
    """Give every entry a twin, where there is one."""
    draw, made = random.Random(context.seed), Exchange()
    kept: dict[tuple[str, str, str], Single] = {}
    ends: Ids = {}
    if entries:
        context.tokens().prepare((entry.prompt, [entry.answer]) for entry in entries)
    for entry in entries:
        key = (entry.family, entry.prompt, entry.answer)
        if key in kept:
            made.left_out[TWICE] += 1
        elif not (end := context.end(entry.prompt, entry.answer)):
            made.left_out[NOT_ONE_TOKEN] += 1
        else:
            kept[key] = entry
            ends[entry.answer] = end
    good = list(kept.values())
    ids = dict(
        zip(
            (one.prompt for one in good), context.prompts([one.prompt for one in good]), strict=True
        )
    )
    answers = defaultdict(set)  # of a subject in its family: an entity may have several
    for one in good:
        answers[one.family, one.subject or one.prompt].add(one.answer)
    groups: dict[tuple[str, int], list[Single]] = defaultdict(list)
    for one in good:
        groups[one.family, len(ids[one.prompt])].append(one)
    pairs: list[tuple[Single, Single]] = []
    for group in groups.values():
        draw.shuffle(group)
        pairs += _twins(group, answers, (ids, ends), draw)
    paired = {one for one, _ in pairs}
    for one in good:
        if one in paired:
            continue
        twin = _from_elsewhere(one, elsewhere, context, draw) if elsewhere else None
        if twin is None:
            made.left_out[NO_TWIN] += 1
        else:
            pairs.append((one, twin))
    pairs.sort(key=lambda pair: (pair[0].place, pair[0].family, pair[0].prompt))
    draw.shuffle(pairs)
    made.rows = [(one.place, _row(one, twin)) for one, twin in pairs]
    return made


def _row(one: Single, twin: Single) -> Fields:
    row: Fields = {
        "clean": one.prompt,
        "corrupted": twin.prompt,
        "answers": [one.answer],
        "distractors": [twin.answer],
    }
    return {**row, "group": one.group} if one.group else row


Ids = dict[str, tuple[int, ...]]
Answers = dict[tuple[str, str], set[str]]


def _twins(
    group: list[Single], answers: Answers, tokens: tuple[Ids, Ids], draw: random.Random
) -> list[tuple[Single, Single]]:
    """Pair the entries of one family and length, each with one that stands after it in the order.

    The nearest that differs in its answer is found from the end, in one pass; of the next few the
    one of fewest differing tokens is taken.
    """
    size, (ids, ends) = len(group), tokens
    by_answer = defaultdict(list)
    for one in group:
        by_answer[one.answer].append(one)
    if len(by_answer) < 2:
        return []
    differing = list(range(1, 2 * size + 1))  # of each place in the doubled order
    for at in range(2 * size - 2, -1, -1):
        same = group[(at + 1) % size].answer == group[at % size].answer
        differing[at] = differing[at + 1] if same else at + 1

    def fits(one: Single, other: Single) -> bool:
        mine = answers[one.family, one.subject or one.prompt]
        theirs = answers[other.family, other.subject or other.prompt]
        both = zip(ends[one.answer], ends[other.answer], strict=False)
        apart = any(a != b for a, b in both)  # none begins the other
        return one.prompt != other.prompt and apart and not mine & theirs

    def distance(one: Single, other: Single) -> int:
        return sum(a != b for a, b in zip(ids[one.prompt], ids[other.prompt], strict=True))

    pairs = []
    for at, one in enumerate(group):
        wanted = [other for other in by_answer.get(one.wanted, ()) if fits(one, other)]
        if wanted:
            pairs.append((one, draw.choice(wanted)))
            continue
        start = differing[at]
        places = range(start, min(start + _TRIES, at + size))
        near = [other for place in places if fits(one, other := group[place % size])]
        if near:
            pairs.append((one, min(near, key=lambda other: distance(one, other))))
    return pairs


def _from_elsewhere(
    one: Single, elsewhere: Elsewhere, context: RowContext, draw: random.Random
) -> Single | None:
    """Return the first of others' prompts in an entry's own words that is of its length."""
    others = [other for other in elsewhere(one, draw)[:_TRIES] if other.answer != one.answer]
    prompts = context.prompts([one.prompt, *(other.prompt for other in others)])
    for other, ids in zip(others, prompts[1:], strict=True):
        same = len(ids) == len(prompts[0]) and ids != prompts[0]
        if same and context.fits(one.prompt, other.answer):
            return other
    return None
