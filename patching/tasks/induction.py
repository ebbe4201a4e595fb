"""Induction (Olsson et al. 2022): a random sequence is repeated; continue it.

The corrupted twin swaps two tokens of the first copy, so that the prompt's last token was followed
there by another one. Their successors stay where they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import accumulate
from typing import Any

from ...graphs.errors import PromptError
from ._registry import task
from ._space import Candidate, Pick, Space
from ._vocabulary import Vocabulary


@task(
    "induction",
    summary="repeated random tokens: continue the repetition",
    needs_tokenizer=False,
    spans=("first", "match", "next", "again"),
)
def induction(vocabulary: Vocabulary, *, period: int = 10, repeat: int = 7) -> Iterator[Space]:
    """Yield sequences of `period` distinct tokens and the first `repeat` of them once more."""
    if period < 5 or repeat >= period:
        raise PromptError(
            f"task 'induction' got period={period} and repeat={repeat}; accepted: a period from "
            "5 up and a repeat below it."
        )
    items, ids = vocabulary.random_items()
    last = repeat - 1
    for other in range(period - 1):
        if abs(other - last) > 1:
            build = partial(_pair, last, other, ids)
            yield Space(f"swap{other}", (Pick(items, period),), build)


def _pair(last: int, other: int, ids: bool, first: tuple[Any, ...]) -> Candidate:
    changed = list(first)
    changed[last], changed[other] = first[other], first[last]
    again = first[: last + 1]
    clean, corrupted = (*first, *again), (*changed, *again)
    answer, distractor = first[last + 1], first[other + 1]
    # in the first copy, where the prompt's last token stands and what follows it
    names = [
        "match" if i == last else "next" if i == last + 1 else "first" for i in range(len(first))
    ]
    names += ["again"] * len(again)
    if ids:
        spans = tuple((name, i, i + 1) for i, name in enumerate(names))
        return Candidate(clean, corrupted, (answer,), (distractor,), spans)
    ends = list(accumulate(len(word) + 1 for word in clean))
    spans = tuple(
        (name, end - len(word) - 1, end - 1)
        for name, word, end in zip(names, clean, ends, strict=True)
    )
    texts = " ".join(clean), " ".join(corrupted)
    return Candidate(*texts, (f" {answer}",), (f" {distractor}",), spans)
