"""Greater-than (Hanna et al. 2023): a span of years must end later than it began.

How much of a year is one token decides the form:

* `two-digits` (GPT-2: 17|32): "… from the year 1732 to the year 17", answers 33 … 99;
* `tens` (a token per digit: 1|7|4|2): "… from the year 1742 to the year 17", answers 5 … 9. The
  equal digit is neither right nor wrong and is left out;
* `units` (three digits a token: 174|2): "… from the year 1742 to the year 174", answers 3 … 9.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import Literal

from ._registry import task
from ._space import Candidate, Pick, Space, located
from ._vocabulary import Vocabulary, words

Form = Literal["auto", "tens", "two-digits", "units"]

_TEMPLATES = (
    "The {event} lasted from the year {year} to the year {start}",
    "The {event} began in the year {year} and ended in the year {start}",
    "Starting in the year {year}, the {event} went on until the year {start}",
    "It was the year {year} when the {event} began, and it ended in the year {start}",
)
_CENTURIES = range(11, 20)
_HIGH, _LOW = "4567", "01"
_DIGITS = "0123456789"


@task(
    "greater-than",
    summary="years: a span must end later than it began",
    spans=("noun", "xx", "yy"),
)
def greater_than(vocabulary: Vocabulary, *, form: Form = "auto") -> Iterator[Space]:
    """Yield spans of years; the corrupted span begins so early that nearly every end is later."""
    chosen = _form(vocabulary) if form == "auto" else form
    years = Pick([years for years in _years(chosen) if _fits(vocabulary, chosen, years)])
    digits = product(_DIGITS, repeat=2 if chosen == "two-digits" else 1)
    ends = vocabulary.keep("numbers", list(map("".join, digits)), lambda end: (end,))
    for number, template in enumerate(_TEMPLATES):
        build = partial(_pair, template, chosen, ends)
        yield Space(f"{chosen}{number}", (Pick(words("events")), years), build)


def _pair(
    template: str,
    form: str,
    ends: tuple[str, ...],
    event: tuple[str],
    years: tuple[tuple[str, str]],
) -> Candidate | None:
    clean, corrupted = years[0]
    start, end = _split(form, clean)
    equal = form == "two-digits"
    later = tuple(e for e in ends if e > end)
    earlier = tuple(e for e in ends if e < end or (equal and e == end))
    if not later or not earlier:
        return None
    fill = partial(template.format, event=event[0], start=start)
    spans: list[tuple[str, int, int]] = []
    for name, begin, stop in located(template, event=event[0], year=clean, start=start):
        if name == "event":
            spans.append(("noun", begin, stop))
        if name == "year":
            middle = begin + len(start)
            spans += [("xx", begin, middle), ("yy", middle, stop)]
    return Candidate(fill(year=clean), fill(year=corrupted), later, earlier, tuple(spans))


def _split(form: str, year: str) -> tuple[str, str]:
    """Split a year where the prompt ends and the answer is compared.

    >>> _split("tens", "1742"), _split("two-digits", "1742"), _split("units", "1742")
    (('17', '4'), ('17', '42'), ('174', '2'))
    """
    start = 3 if form == "units" else 2
    return year[:start], year[start:] if form != "tens" else year[start]


def _years(form: str) -> Iterator[tuple[str, str]]:
    """Yield the clean and the corrupted first year."""
    if form == "two-digits":
        for century, end in product(_CENTURIES, range(2, 99)):
            yield f"{century}{end:02}", f"{century}01"
        return
    for century, other, high, low in product(_CENTURIES, _DIGITS, _HIGH, _LOW):
        ends = (other + high, other + low) if form == "units" else (high + other, low + other)
        yield f"{century}{ends[0]}", f"{century}{ends[1]}"


def _form(vocabulary: Vocabulary) -> Form:
    """Choose the form in which most years split; where none does, the one for single digits."""
    forms: tuple[Form, ...] = ("tens", "two-digits", "units")
    for form in forms:
        sample = list(_years(form))[::17]
        if 2 * sum(_fits(vocabulary, form, years) for years in sample) > len(sample):
            return form
    return "tens"


def _fits(vocabulary: Vocabulary, form: str, years: tuple[str, str]) -> bool:
    """Tell whether both years are the prompt's last tokens and then a token for each part left."""
    for year in years:
        start, end = _split(form, year)
        text = f"the year {start}"
        for part in (end, year[len(start + end) :]):
            if part and not vocabulary.continues(text, part):
                return False
            text += part
    return True
