"""Gendered pronouns: the pronoun that agrees with a name."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from ._registry import task
from ._space import Candidate, Pick, Space, located
from ._vocabulary import Vocabulary, words

_TEMPLATES = (
    "So {name} is a really great friend, isn't",
    "{name} went to the {place} because",
    "When {name} came home from the {place},",
    "{name} is very tired today, so",
    "Everybody likes {name}, because",
    "We waited for {name} at the {place} until",
    "I asked {name} about the {place}, and",
    "Nobody knows where {name} lives or what",
)


@task(
    "gendered-pronoun",
    summary="the pronoun, he or she, that agrees with a name",
    spans=("name", "place"),
)
def gendered_pronoun(vocabulary: Vocabulary) -> Iterator[Space]:
    """Yield a man's and a woman's name in the same sentence, each as the clean one in turn."""
    pronouns = vocabulary.keep_words("pronouns", ("he", "she"))
    if len(pronouns) < 2:
        return
    names = (Pick(words("male_names")), Pick(words("female_names")))
    for number, template in enumerate(_TEMPLATES):
        rest = (Pick(words("places")),) if "{place}" in template else ()
        for swapped in (False, True):
            yield Space(f"t{number}", (*names, *rest), partial(_pair, template, swapped))


def _pair(
    template: str, swapped: bool, man: tuple[str], woman: tuple[str], place: tuple[str] = ("",)
) -> Candidate:
    people = [(man[0], " he"), (woman[0], " she")]
    if swapped:
        people.reverse()
    (name, pronoun), (other, wrong) = people
    fill = partial(template.format, place=place[0])
    spans = located(template, name=name, place=place[0])
    return Candidate(fill(name=name), fill(name=other), (pronoun,), (wrong,), spans)
