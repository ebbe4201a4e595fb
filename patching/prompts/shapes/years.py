"""Years to exceed: pairs whose answers are all later years of the century, known by a label.

EAP-IG's tables give, for "… from the year 1352 to the year 13", the two digits 52: right are all
two digits above it, wrong are those at or below. Where a tokenizer has a token for each digit, the
first digit decides: right are larger ones, wrong are smaller ones.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial

from ....graphs.errors import PromptError
from ..content import Content, Row
from ..json_fields import shorten
from ..keys import FIELDS, Field, fields_of, plain
from ..row_context import RowContext
from ._registry import Fields, Rows, shape

LABELS = ("label", "labels", "y", "yy", "correct_idx", "digits", "two_digits")
TWO_DIGITS = [f"{number:02}" for number in range(100)]
DIGITS = list("0123456789")


def _label(row: Row) -> tuple[str, int] | None:
    """Return under which key a row has its year's two digits, if its prompt holds that year."""
    for key, value in row.fields.items():
        named = plain(key) in LABELS or {"year", "yy"} & set(plain(key).split("_"))
        if not named or isinstance(value, bool):
            continue
        text = re.sub(r"\.0+$", "", str(value).strip())
        prompt = _clean(row)
        if not re.fullmatch(r"\d{1,4}", text) or not isinstance(prompt, str):
            continue
        ends = re.search(r"(?<!\d)(\d\d)$", prompt)
        if ends and (len(text) <= 2 or text.startswith(ends[1])):
            digits = f"{int(text) % 100:02}"
            if re.search(rf"(?<!\d){ends[1]}{digits}(?!\d)", prompt[: ends.start()]):
                return key, int(digits)
    return None


def _clean(row: Row) -> object:
    """Return a row's clean prompt."""
    known = fields_of(row.fields)
    return next((row.fields[key] for key, one in known.items() if one.name == "clean"), None)


def _other_prompt(rows: Sequence[Row], known: Mapping[str, Field]) -> dict[str, Field]:
    """Find the corrupted prompt by what it says: in each row it ends within the same century."""
    if any(field.name == "corrupted" for field in known.values()):
        return {}

    def fits(key: str, row: Row) -> bool:
        one, clean = row.fields.get(key), _clean(row)
        both = isinstance(one, str) and isinstance(clean, str) and one != clean
        return (
            both and bool(re.search(r"(?<!\d)\d\d$", str(one))) and str(one)[-2:] == str(clean)[-2:]
        )

    names = dict.fromkeys(key for row in rows for key in row.fields if key not in known)
    found = [key for key in names if rows and all(fits(key, row) for row in rows)]
    return {found[0]: FIELDS["corrupted"]} if len(found) == 1 else {}


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
        "label": "the last two digits of the clean prompt's year, or all four, if every clean "
        "prompt holds that year; also year, yy, y, digits, correct_idx",
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
    known |= _other_prompt([*content.good()], known)
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
            why = (
                f"the key 'corrupted' is missing, a prompt with an earlier year; found: "
                f"{', '.join(row.fields)}. Write, for example, "
                f'{{"clean": "{shorten(str(fields["clean"]), 100)}", "corrupted": "…", "answers": '
                '["53", "54"]}'
            )
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


def _prompts(fields: Fields, known: Mapping[str, Field]) -> list[str]:
    """List the keys of a row's two prompts; of several corrupted ones the plain name counts."""
    names = {key: known[key] for key in fields if key in known}
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
