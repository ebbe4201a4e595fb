"""Successor: what follows in a known order: days, months, numbers, letters, ordinals."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from ...graphs.errors import PromptError
from ._registry import task
from ._space import Candidate, Pick, Space
from ._vocabulary import Vocabulary, words

# What introduces the items, and what stands between them and after the last.
_TEMPLATES = (
    ("The order is", ",", ","),
    ("Next in line:", "", ""),
    ("They are listed in order:", ",", ","),
    ("Keep counting:", "", ""),
)
_CYCLIC = ("days", "months")
_OPEN = ("numbers", "letters", "ordinals")


@task(
    "successor",
    summary="the next of days, months, numbers, letters or ordinals",
    spans=("items", "last"),
)
def successor(vocabulary: Vocabulary, *, shown: int = 3) -> Iterator[Space]:
    """Yield runs of `shown` items; the corrupted run starts elsewhere in the same order."""
    if shown > 5:
        raise PromptError(f"task 'successor' got shown={shown}; accepted: 1 to 5 items.")
    for name in (*_CYCLIC, *_OPEN):
        items = words(name)
        runs = _runs(items, shown + 1, cyclic=name in _CYCLIC)
        runs = [run for run in runs if vocabulary.single(f" {run[-1]}")]
        vocabulary.keep_words(name, items)
        for number, template in enumerate(_TEMPLATES):
            yield Space(f"{name}{number}", (Pick(runs, 2),), partial(_pair, template))


def _pair(template: tuple[str, str, str], runs: tuple[tuple[str, ...], ...]) -> Candidate:
    start, between, after = template
    texts = [f"{start} {f'{between} '.join(run[:-1])}{after}" for run in runs]
    shown, at = list[tuple[str, int, int]](), len(start) + 1
    for item in runs[0][:-1]:
        shown.append(("items", at, at + len(item)))
        at += len(f"{item}{between} ")
    spans = (*shown[:-1], ("last", *shown[-1][1:]))
    return Candidate(texts[0], texts[1], (f" {runs[0][-1]}",), (f" {runs[1][-1]}",), spans)


def _runs(items: tuple[str, ...], length: int, *, cyclic: bool) -> list[tuple[str, ...]]:
    """Return all runs of neighbours.

    >>> _runs(("a", "b", "c"), 2, cyclic=True)
    [('a', 'b'), ('b', 'c'), ('c', 'a')]
    """
    starts = range(len(items) if cyclic else len(items) - length + 1)
    return [tuple(items[(i + k) % len(items)] for k in range(length)) for i in starts]
