"""Years to exceed: pairs whose answers are all later years of the century, known by a label.

EAP-IG's tables give, for "… from the year 1352 to the year 13", the two digits 52: right are all
two digits above it, wrong are those at or below. Where a tokenizer has a token for each digit, the
first digit decides: right are larger ones, wrong are smaller ones.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from functools import partial

from ....graphs.errors import PromptError
from ..content import Content, Row
from ..json_fields import shorten
from ..keys import fields_of, plain
from ..row_context import RowContext
from ._registry import Fields, Rows, shape

LABELS = ("label", "start_year", "year", "yy", "correct_idx")
TWO_DIGITS = [f"{number:02}" for number in range(100)]
DIGITS = list("0123456789")


def _label(row: Row) -> tuple[str, int] | None:
    """Return under which key a row has its year's two digits, if its prompt holds that year."""
    for key, value in row.fields.items():
        if plain(key) not in LABELS or isinstance(value, bool):
            continue
        text = re.sub(r"\.0+$", "", str(value).strip())
        prompt = next((text for name, text in row.fields.items() if _is_clean(name)), None)
        if not re.fullmatch(r"\d{1,4}", text) or not isinstance(prompt, str):
            continue
        ends = re.search(r"(?<!\d)(\d\d)$", prompt)
        if ends and (len(text) <= 2 or text.startswith(ends[1])):
            digits = f"{int(text) % 100:02}"
            if re.search(rf"(?<!\d){ends[1]}{digits}(?!\d)", prompt[: ends.start()]):
                return key, int(digits)
    return None


def _is_clean(key: str) -> bool:
    field = fields_of([key]).get(key)
    return field is not None and field.name == "clean"


def _fits(content: Content) -> bool:
    """Tell whether every row names its year, and none gives its answers otherwise."""
    rows = list(content.good())
    names = {
        field.name for key, field in fields_of(content.names()).items() if plain(key) not in LABELS
    }
    if not rows or names & {"answers", "answer_ids", "distractors", "distractor_ids"}:
        return False
    return all(_label(row) for row in rows)


@shape(
    "years",
    summary="years to exceed: prompts that end within a year, and the two digits it must exceed",
    keys={
        "clean": "the prompt, which ends with a century, as in: from the year 1352 to the year 13",
        "corrupted": "the prompt with an earlier year",
        "label": "the last two digits of the clean prompt's year; also start_year, or correct_idx "
        "if every clean prompt holds that year",
    },
    example=(
        ".csv",
        "clean,corrupted_hard,label\n"
        "The siege lasted from the year 1352 to the year 13,"
        "The siege lasted from the year 1301 to the year 13,52\n",
    ),
    fits=_fits,
    order=5,
)
def years(content: Content, context: RowContext) -> Rows:
    """Return the rows with all right and wrong continuations of their year."""
    known = fields_of(content.names())
    rows: list[tuple[str, Fields | PromptError]] = []
    left_out: Counter[str] = Counter()
    form, key = "", ""
    for row in content.rows:
        if row.error is not None:
            rows.append((row.place, row.error))
            continue
        found = _label(row)
        assert found is not None  # `_fits` has looked
        key, year = found
        fields = {known[name].name: row.fields[name] for name in _prompts(row.fields, known)}
        if "corrupted" not in fields:
            line = '{"clean": "…", "corrupted": "…", "answers": ["53", "54"]}'
            why = f"the key 'corrupted' is missing; found: {', '.join(row.fields)}. Write {line}"
            rows.append((row.place, PromptError(why)))
            continue
        form = form or _form(str(fields["clean"]), context)
        digits = TWO_DIGITS if form == "two digits" else DIGITS
        least = f"{year:02}" if form == "two digits" else f"{year:02}"[0]
        right = [one for one in digits if one > least]
        wrong = [one for one in digits if one < least or (one == least and form == "two digits")]
        if not right or not wrong:
            bound = "larger" if not right else "smaller"
            left_out[f"no {bound} {form.removesuffix('s')} than {least}"] += 1
            continue
        rows.append((row.place, {**fields, "answers": right, "distractors": wrong}))
    other = next((name for name in known if known[name].name == "corrupted"), "corrupted")
    named = "corrupted" if other == "corrupted" else f"corrupted ({other})"
    at_or = "at or below" if form == "two digits" else "below"
    said = (
        f"years to exceed: clean, {named}, the year's two digits ({key}); answers are all {form} "
        f"above the year's, distractors those {at_or}"
    )
    missing = "every year is the first or the last of its century. Add years between them."
    unused = [
        name for name in content.names() if name.strip() and name not in known and name != key
    ]
    return Rows(rows, said, left_out, unused, missing)


def _prompts(fields: Fields, known: Mapping[str, object]) -> list[str]:
    """List the keys of a row's two prompts; of several corrupted ones the plain name counts."""
    names = fields_of(fields)
    found: dict[str, str] = {}
    for key, field in names.items():
        if field.name in ("clean", "corrupted", "group") and (
            field.name not in found or plain(key) == field.name
        ):
            found[field.name] = key
    return list(found.values())


def _form(prompt: str, context: RowContext) -> str:
    """Return how many digits of a year are one token behind a prompt."""
    if all(map(partial(context.fits, prompt), TWO_DIGITS)):
        return "two digits"
    if all(map(partial(context.fits, prompt), DIGITS)):
        return "first digits"
    raise PromptError(
        "the tokenizer has no token for each two digits, nor for each digit, behind "
        f"{shorten(prompt)!r}; accepted: a tokenizer that has, or pairs with the answers written "
        'out, such as {"clean": "…", "corrupted": "…", "answers": ["53", "54"]}.'
    )
