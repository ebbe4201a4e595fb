"""Capitals: a fact recalled from a country's name (knowledge circuit)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from ._registry import task
from ._space import Candidate, Pick, Space, located
from ._vocabulary import Vocabulary, words

_TEMPLATES = (
    "The capital of {country} is the city of",
    "The capital city of {country} is called",
    "Question: What is the capital of {country}? Answer:",
    "In {country}, the government sits in the capital,",
    "The president of {country} spoke in the capital city,",
    "We flew to {country} and landed in its capital,",
)


@task("capitals", summary="factual recall: the capital of a country", spans=("subject",))
def capitals(vocabulary: Vocabulary) -> Iterator[Space]:
    """Yield pairs of countries; the corrupted prompt asks for the other one's capital."""
    known = vocabulary.keep("capitals", words("country_capitals"), lambda pair: (f" {pair[1]}",))
    for number, template in enumerate(_TEMPLATES):
        yield Space(f"t{number}", (Pick(known, 2),), partial(_pair, template))


def _pair(template: str, countries: tuple[tuple[str, str], tuple[str, str]]) -> Candidate:
    (country, capital), (other, wrong) = countries
    prompts = template.format(country=country), template.format(country=other)
    spans = tuple(("subject", a, b) for _, a, b in located(template, country=country))
    return Candidate(*prompts, (f" {capital}",), (f" {wrong}",), spans)
