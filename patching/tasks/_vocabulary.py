"""What a task may ask about the tokenizer, so that it adapts to any, and the tasks' word lists."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Sequence
from importlib import resources
from typing import Any, TypeVar

from ..prompts.tokens import Tokens

T = TypeVar("T")


@functools.cache
def words(name: str) -> tuple[Any, ...]:
    """Return a list of words, or of pairs of words, of `words.json`, which is read when needed.

    >>> words("places")[:2], words("country_capitals")[0]
    (('store', 'park'), ('France', 'Paris'))
    """
    text = resources.files(__package__).joinpath("words.json").read_text("utf-8")
    return tuple(tuple(x) if isinstance(x, list) else x for x in json.loads(text)[name])


class Vocabulary:
    """What is one token for a tokenizer, or all; `left_out` counts the words that lists lost."""

    def __init__(self, tokens: Tokens | None = None, size: int | None = None) -> None:
        self.tokens = tokens
        self.size = size
        self.left_out: dict[str, int] = {}

    def single(self, text: str) -> bool:
        """Tell whether a text is one token."""
        return self.tokens is None or self.tokens.single(text) is not None

    def first(self, text: str) -> str:
        """Return a text that is one token, or of more the first, if it has two characters at least.

        Without a tokenizer, its first word.

        >>> Vocabulary().first(" New York"), Vocabulary().first("cold")
        (' New', 'cold')
        """
        if self.tokens is None:
            words = text.split(" ")
            return " ".join(words[: 2 if text.startswith(" ") else 1])
        if self.single(text):
            return text
        begun = self.tokens.first(text)
        return begun if len(begun.strip()) > 1 else text

    def keep(
        self, what: str, items: Sequence[T], answers: Callable[[T], Iterable[str]]
    ) -> tuple[T, ...]:
        """Keep the items all of whose answers are one token; count the rest under `what`."""
        kept = tuple(item for item in items if all(map(self.single, answers(item))))
        if len(kept) < len(items):
            self.left_out[what] = self.left_out.get(what, 0) + len(items) - len(kept)
        return kept

    def keep_words(self, what: str, items: Sequence[str]) -> tuple[str, ...]:
        """Keep the words that are one token with a space before them."""
        return self.keep(what, items, lambda word: (f" {word}",))

    def continues(self, text: str, ending: str) -> bool:
        """Tell whether a text that goes on with `ending` is its own tokens and one more."""
        if self.tokens is None:
            return True
        start, whole = self.tokens.encode(text), self.tokens.encode(text + ending)
        return whole[:-1] == start and whole[-1:] == (self.tokens.single(ending),)

    def random_items(self) -> tuple[Sequence[int], bool] | tuple[Sequence[str], bool]:
        """Return plain words, all ids, or a list of words, and whether these are token ids."""
        if self.tokens is not None:
            return self.tokens.ordinary(self.size), True
        return (words("words"), False) if self.size is None else (range(self.size), True)
