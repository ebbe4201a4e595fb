"""Subject-verb agreement (Linzen et al. 2016): with the subject, not the nearest noun."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import product

from ._registry import task
from ._space import Candidate, Pick, Space, located
from ._vocabulary import Vocabulary, words

_TEMPLATES = (
    "The {subject} near the {other}",
    "The {subject} behind the {other}",
    "The {subject} beside the {other}",
    "The {subject} next to the {other}",
    "The {subject} described by the {other}",
    "The {subject} seen by the {other}",
)
_VERBS = (("is", "are"), ("was", "were"), ("has", "have"))


@task(
    "subject-verb-agreement",
    summary="singular or plural verb after a subject and another noun",
    spans=("subject",),
)
def subject_verb_agreement(vocabulary: Vocabulary) -> Iterator[Space]:
    """Yield all combinations of numbers (groups by S, P); the twin changes the subject's number."""
    verbs = vocabulary.keep("verbs", _VERBS, _spaced)
    if not verbs:
        return
    nouns = Pick(vocabulary.keep("nouns", words("nouns"), _spaced), 2)
    for (number, template), subject, other in product(enumerate(_TEMPLATES), (0, 1), (0, 1)):
        build = partial(_pair, template, verbs, subject, other)
        yield Space(f"{'SP'[subject]}{'SP'[other]}{number}", (nouns,), build)


def _pair(
    template: str,
    verbs: tuple[tuple[str, str], ...],
    subject: int,
    other: int,
    nouns: tuple[tuple[str, str], tuple[str, str]],
) -> Candidate:
    chosen, nearest = nouns
    fill = partial(template.format, other=nearest[other])
    right, wrong = (
        tuple(f" {verb[number]}" for verb in verbs) for number in (subject, 1 - subject)
    )
    clean, corrupted = fill(subject=chosen[subject]), fill(subject=chosen[1 - subject])
    where = located(template, subject=chosen[subject], other=nearest[other])
    spans = tuple(one for one in where if one[0] == "subject")
    return Candidate(clean, corrupted, right, wrong, spans)


def _spaced(forms: tuple[str, str]) -> tuple[str, ...]:
    return tuple(f" {form}" for form in forms)
