"""Facts about countries, words, places and elements, in several wordings each.

Models know some of them and not others: commands about facts keep those alone that a model answers
rightly, with `--known`. Of an answer of several tokens the first is asked for.

Source: the wordings of which SmolLM2-135M knows most; Meng et al. 2022 for prompts about a subject.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from ._registry import task
from ._space import Candidate, Pick, Space, located
from ._vocabulary import Vocabulary, words

Fact = tuple[str, str]

_OF_COUNTRIES = "country_capitals"
"""The list of what the first relation holds, which is another task's too."""


@task(
    "facts",
    summary="facts: capitals, languages, opposites, landmarks, elements",
    spans=("relation", "subject"),
)
def facts(vocabulary: Vocabulary) -> Iterator[Space]:
    """Yield pairs of subjects of one relation; the corrupted prompt asks about the other one."""
    for name, templates, listed in words("facts"):
        every = [(one, other) for one, other in listed or words(_OF_COUNTRIES)]
        for number, template in enumerate(templates):
            space = "" if template.endswith('"') else " "
            known = vocabulary.keep(f"{name} answers", every, partial(_asked, vocabulary, space))
            build = partial(_pair, template, space, vocabulary)
            yield Space(f"{name}{number}", (Pick(known, 2),), build)


def _asked(vocabulary: Vocabulary, space: str, fact: Fact) -> tuple[str]:
    """Return what is to be answered of a fact."""
    return (vocabulary.first(space + fact[1]),)


def _pair(
    template: str, space: str, vocabulary: Vocabulary, both: tuple[Fact, Fact]
) -> Candidate | None:
    (subject, _), (other, _) = both
    (answer,), (wrong,) = (_asked(vocabulary, space, one) for one in both)
    if answer == wrong:
        return None
    prompts = template.format(subject=subject), template.format(subject=other)
    (where,) = located(template, subject=subject)
    _, start, stop = where
    rest = ("relation", 0, start), ("relation", stop, len(prompts[0]))
    return Candidate(*prompts, (answer,), (wrong,), (*rest, where))
