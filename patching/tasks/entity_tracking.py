"""Entity tracking (Kim and Schuster 2023): which object is in the box that is asked about."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Literal

from ...graphs.errors import PromptError
from ._registry import task
from ._space import Candidate, Pick, Space
from ._vocabulary import Vocabulary, words

Corruption = Literal["question", "contents"]

# One statement, what separates statements, the whole with its question.
_TEMPLATES = (
    ("the {thing} is in Box {box}", ", ", "{facts}. Box {asked} contains the"),
    ("Box {box} holds the {thing}", ", ", "{facts}. Box {asked} holds the"),
    ("a {thing} into Box {box}", ", ", "I put {facts}. When I open Box {asked}, I find the"),
    ("the {thing} went into Box {box}", " and ", "{facts}. So inside Box {asked} there is the"),
)
_BOXES = "ABCDEFGHKLMNPRSTXZ"


@task(
    "entity-tracking",
    summary="boxes and their contents: what is in the box asked about",
    spans=("object", "box", "other-object", "other-box", "asked"),
)
def entity_tracking(
    vocabulary: Vocabulary, *, corruption: Corruption = "question", boxes: int | None = None
) -> Iterator[Space]:
    """Yield 3, 4 and 5 boxes (or `boxes`) with their contents and a question about one.

    Corruptions: `question` asks about another box; `contents` exchanges the contents of the box
    asked about and another.
    """
    if boxes is not None and not 2 <= boxes <= len(_BOXES):
        raise PromptError(
            f"task 'entity-tracking' got boxes={boxes}; accepted: 2 to {len(_BOXES)}."
        )
    objects = [thing for thing in words("objects") if thing != "box"]
    things = vocabulary.keep_words("objects", objects)
    for number, template in enumerate(_TEMPLATES):
        for count in (3, 4, 5) if boxes is None else (boxes,):
            picks = (Pick(things, count), Pick(_BOXES, count), Pick(range(count), 2))
            yield Space(f"t{number}n{count}", picks, partial(_pair, template, corruption))


def _pair(
    template: tuple[str, str, str],
    corruption: Corruption,
    things: tuple[str, ...],
    boxes: tuple[str, ...],
    asked: tuple[int, int],
) -> Candidate:
    def text(things: Sequence[str], box: str) -> str:
        fact, between, whole = template
        pairs = zip(things, boxes, strict=True)
        facts = between.join(fact.format(thing=thing, box=box) for thing, box in pairs)
        text = whole.format(facts=facts, asked=box)
        return text[0].upper() + text[1:]

    right, wrong = asked
    moved = list(things)
    moved[right], moved[wrong] = things[wrong], things[right]
    other = text(things, boxes[wrong]) if corruption == "question" else text(moved, boxes[right])
    answers = (f" {things[right]}",), (f" {things[wrong]}",)
    clean = text(things, boxes[right])
    return Candidate(clean, other, *answers, _spans(clean, things, boxes, asked))


def _spans(
    text: str, things: tuple[str, ...], boxes: tuple[str, ...], asked: tuple[int, int]
) -> tuple[tuple[str, int, int], ...]:
    """Find what is asked about, and its box, where they are told of; and the box in the question.

    `other-object` and `other-box`: those of the wrong answer.
    """
    found = []
    for which, before in zip(asked, ("", "other-"), strict=True):
        for name, word in (("object", things[which]), ("box", f"Box {boxes[which]}")):
            match = re.search(rf"\b{re.escape(word)}\b", text)
            assert match is not None  # it was put there
            skip = len("Box ") * (name == "box")
            found.append((f"{before}{name}", match.start() + skip, match.end()))
    last = text.rindex(f"Box {boxes[asked[0]]}") + len("Box ")
    return (*found, ("asked", last, last + 1))
