"""Indirect object identification (Wang et al. 2022): of two names, the one not repeated."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Literal

from ._registry import task
from ._space import Candidate, Pick, Space, located
from ._vocabulary import Vocabulary, words

Corruption = Literal["third-name", "abc", "flip"]

# {a} and {b} are the two names in order, {s} the repeated one.
_TEMPLATES = (
    "When {a} and {b} went to the {place}, {s} gave a {thing} to",
    "When {a} and {b} got a {thing} at the {place}, {s} decided to give it to",
    "Then, {a} and {b} were working at the {place}. {s} decided to give a {thing} to",
    "After {a} and {b} left the {place}, {s} handed the {thing} to",
    "While {a} and {b} were walking to the {place}, {s} passed a {thing} to",
    "Then, {a} and {b} had a long argument at the {place}, and afterwards {s} said to",
    "Last week {a} and {b} met at the {place}, and {s} sold a {thing} to",
    "Once {a} and {b} had found a {thing} near the {place}, {s} offered it to",
    "Because {a} and {b} were friends from the {place}, {s} lent a {thing} to",
    "While {a} and {b} were sitting in the {place}, {s} gave a {thing} to",
    "At the {place}, {a} and {b} had a chat, and then {s} said to",
    "After lunch {a} and {b} went to the {place}. There {s} gave a {thing} to",
)


@task(
    "ioi",
    summary="indirect object identification: which of two names is not repeated",
    spans=("io", "s1", "place", "thing", "s2"),
)
def ioi(vocabulary: Vocabulary, *, corruption: Corruption = "third-name") -> Iterator[Space]:
    """Yield both orders (ABBA, BABA) of every template.

    Corruptions: `third-name` replaces the repeated name's second mention by a third name, so no
    name is the answer; `abc` replaces all three mentions by three other names; `flip` lets the
    other name repeat, so that answer and distractor change places.
    """
    everyone = words("male_names") + words("female_names") + words("other_names")
    names = Pick(vocabulary.keep_words("names", everyone), 6 if corruption == "abc" else 3)
    places, things = Pick(words("places")), Pick(words("objects"))
    for number, template in enumerate(_TEMPLATES):
        rest = (places, things) if "{thing}" in template else (places,)
        for order in ("ABBA", "BABA"):
            build = partial(_pair, template, order, corruption)
            yield Space(f"{order}{number}", (names, *rest), build)


def _pair(
    template: str, order: str, corruption: Corruption, names: tuple[str, ...], *rest: tuple[str]
) -> Candidate:
    place, thing = (*(word for (word,) in rest), "")[:2]
    answer, repeated = names[:2]
    first, second = (answer, repeated) if order == "ABBA" else (repeated, answer)
    fill = partial(template.format, place=place, thing=thing)
    corrupted = {
        "third-name": (first, second, names[2]),
        "abc": names[-3:],
        "flip": (first, second, answer),
    }[corruption]
    a, b, s = corrupted
    prompts = fill(a=first, b=second, s=repeated), fill(a=a, b=b, s=s)
    names_of = {"a": "io", "b": "s1"} if order == "ABBA" else {"a": "s1", "b": "io"}
    where = located(template, a=first, b=second, s=repeated, place=place, thing=thing)
    called = {**names_of, "s": "s2", "place": "place", "thing": "thing"}
    spans = tuple((called[name], start, stop) for name, start, stop in where)
    return Candidate(*prompts, (f" {answer}",), (f" {repeated}",), spans)
