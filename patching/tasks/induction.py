"""Induction (Olsson et al. 2022): a random sequence is repeated; continue it.

The corrupted twin swaps two tokens of the first copy, so that the prompt's last token was followed
there by another one. Their successors stay where they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from ...graphs.errors import PromptError
from ._registry import task
from ._space import Candidate, Pick, Space
from ._vocabulary import Vocabulary


@task("induction", summary="repeated random tokens: continue the repetition", needs_tokenizer=False)
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
    if ids:
        return Candidate(clean, corrupted, (answer,), (distractor,))
    return Candidate(" ".join(clean), " ".join(corrupted), (f" {answer}",), (f" {distractor}",))
