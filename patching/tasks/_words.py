"""The tasks' word lists, read from `words.json` when first needed."""

from __future__ import annotations

import functools
import json
from importlib import resources
from typing import Any


@functools.cache
def _lists() -> dict[str, Any]:
    return dict(json.loads(resources.files(__package__).joinpath("words.json").read_text("utf-8")))


def words(name: str) -> tuple[str, ...]:
    """Return a list of words.

    >>> words("places")[:2]
    ('store', 'park')
    """
    return tuple(_lists()[name])


def word_pairs(name: str) -> tuple[tuple[str, str], ...]:
    """Return a list of pairs of words.

    >>> word_pairs("country_capitals")[0]
    ('France', 'Paris')
    """
    return tuple((first, second) for first, second in _lists()[name])


def sequence(name: str) -> tuple[str, ...]:
    """Return a list whose order means something.

    >>> sequence("days")[:2]
    ('Monday', 'Tuesday')
    """
    return tuple(_lists()["sequences"][name])
