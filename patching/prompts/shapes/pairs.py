"""Pairs as they stand: a clean and a corrupted prompt with answers, by whatever names."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping

from ....graphs.errors import PromptError
from ..content import Content, literal
from ..json_fields import parse_object, shorten
from ..keys import (
    ASIDE,
    BARE,
    FIELDS,
    FLAG,
    FOREIGN,
    IDS,
    NUMBER,
    PLACES,
    TEXTS,
    Field,
    fields_of,
    mistyped,
    plain,
)
from ..row_context import RowContext, WholeFile
from ._registry import SHAPES, Fields, Rows, shape

_ROLES = (("clean", "clean_ids"), ("corrupted", "corrupted_ids"), ("answers", "answer_ids"))
_AS_IDS = {
    "clean": "clean_ids",
    "corrupted": "corrupted_ids",
    "answers": "answer_ids",
    "distractors": "distractor_ids",
}
SCORES = "target_scores"
_BOTH = (("answers", "answer_ids"), ("distractors", "distractor_ids"))


def has_pairs(content: Content) -> bool:
    """Tell whether some row has a prompt under one of its names."""
    names = {field.name for field in fields_of(content.names()).values()}
    return bool(names & {"clean", "clean_ids"})


@shape(
    "pairs",
    summary="pairs as they stand: both prompts and the answers, as text or as token ids",
    keys={
        f"{one.name}": one.meaning + (f"; also {', '.join(one.others)}" if one.others else "")
        for one in FIELDS.values()
    },
    example=(
        ".csv",
        "clean,corrupted,correct_idx,incorrect_idx\n"
        '"When Olga and Piet met, Piet gave the kite to",'
        '"When Olga and Piet met, Hugo gave the kite to",900,901\n',
    ),
    fits=has_pairs,
    order=9,
)
def pairs(content: Content, context: RowContext) -> Rows:
    """Return the rows with their fields under the names that this project has for them."""
    every = [name for name in content.names() if plain(name) != SCORES]
    if len(every) < len(content.names()):  # which answers and distractors are made of
        every += ["answers", "distractors"]
    known = fields_of(every)
    unused: dict[str, None] = {}
    rows: list[tuple[str, Fields | PromptError]] = []
    for row in content.rows:
        made: Fields | PromptError
        try:
            made = row.error or _row(row.fields, known, content.is_table, context, unused)
        except PromptError as error:
            made = error
        rows.append((row.place, made))
    if not has_pairs(content) and any(row.error is None for row in content.rows):
        raise _no_prompts(content, rows)
    fields = list(dict.fromkeys(key for _, one in rows if isinstance(one, dict) for key in one))
    names = {known[key].name: key for key in known if key not in unused}
    words = [_words(names, fields), _joined(rows)]
    if not {"corrupted", "corrupted_ids"} & set(fields):
        words.append("without corrupted prompts")
    if "word_idxs" in content.shared:
        words.append(add_spans(content.shared["word_idxs"], rows, context))
    native = content.kind == "JSON Lines" and not unused and set(names) >= set(names.values())
    mixed = "clean" in fields and "answer_ids" in fields
    said = ", ".join(filter(None, words))
    beside = [key for key in content.shared if key != "word_idxs"] if content.shared else []
    unused |= dict.fromkeys(beside)
    called = {name: key for name, key in names.items() if name not in content.names()}
    return Rows(
        rows, said, unused=list(unused), mixed=mixed, native=native and not mixed, called=called
    )


def _row(
    row: Fields,
    known: Mapping[str, Field],
    is_table: bool,
    context: RowContext,
    unused: dict[str, None],
) -> Fields:
    """Return one row's fields by this project's names; note the keys that are none."""
    keys: dict[str, str] = {}
    row = _without_scores(row)
    for key in row:
        if key not in known:
            unused[key] = None
            continue
        name = known[key].name
        other = keys.get(name)
        if other is None or plain(other) in ASIDE:
            keys[name] = key
        if other is not None:
            aside = [one for one in (key, other) if plain(one) in ASIDE]
            if not aside and row[key] != row[other]:
                raise PromptError(
                    f"'{other}' and '{key}' both say what the {name} are; accepted: one of them."
                )
            unused[aside[0] if aside else key] = None
    if problem := mistyped(row, keys):
        raise problem
    made = {name: _value(known[key], row[key], is_table) for name, key in keys.items()}
    made = _ids_of_prompts(made)
    for text, ids in _BOTH:
        if _are_ids(number := made.get(text)) or isinstance(number, int):
            one = number[0] if isinstance(number, list) else number
            raise PromptError(
                f"'{keys[text]}' holds {one}; accepted: a list of texts, such as [\" {one}\"]; "
                f"token ids stand under '{ids}'."
            )
    for text, ids in _ROLES:
        if text in made and ids in made and text != "answers":
            raise PromptError(f"mixes text and ids ({text}, {ids}); accepted: one of them.")
    for text, ids in _BOTH:
        if text in made and ids in made:
            _refuse_disagreement((keys[text], keys[ids]), (made[text], made[ids]), context)
            del made[text]
    somewhere = {field.name for field in known.values()}
    _refuse_missing(row, made, somewhere, twin=is_table and "corrupted" in somewhere)
    return made


def _without_scores(row: Fields) -> Fields:
    """Return a row with BIG-bench's `target_scores` as what they say: answers and distractors."""
    key = next((key for key in row if plain(key) == SCORES), None)
    scores = None if key is None else row[key]
    if (
        key is None
        or not isinstance(scores, dict)
        or not all(isinstance(score, int | float) for score in scores.values())
    ):
        return row
    best = max(scores.values(), default=0)
    made = {name: value for name, value in row.items() if name != key}
    made["answers"] = [text for text, score in scores.items() if score == best]
    wrong = [text for text, score in scores.items() if score < best]
    return {**made, "distractors": wrong} if wrong else made


def _value(field: Field, value: object, is_table: bool) -> object:
    """Return a value as a line of this project has it: lists as lists, numbers as numbers."""
    if is_table and isinstance(value, str):
        return _cell(field, value)
    if field.kind == TEXTS and isinstance(value, str):
        return [value]
    if field.kind == IDS and isinstance(value, int) and not isinstance(value, bool):
        return [value]
    return value


def _cell(field: Field, cell: str) -> object:
    """Return what a table's cell says for a field."""
    listed = literal(cell)
    if field.kind == TEXTS:
        return [cell] if listed is None else listed
    if field.kind == IDS:
        return [_number(field, cell)] if listed is None else listed
    if field.kind == NUMBER:
        return _number(field, cell)
    if field.kind == PLACES:
        return parse_object(cell)
    if field.kind == FLAG:
        known = {"true": True, "1": True, "false": False, "0": False}
        return known.get(cell.strip().lower(), cell)
    return listed if field.name == "clean" and _are_ids(listed) else cell


def _number(field: Field, cell: str) -> int:
    text = re.sub(r"\.0+$", "", cell.strip())  # as pandas writes whole numbers beside empty cells
    if not re.fullmatch(r"[+-]?\d{1,18}", text):
        accepted = "a list of token ids" if field.kind == IDS else "a whole number"
        either = "a token id, or " if field.kind == IDS else ""
        raise PromptError(f"'{field.name}' is {shorten(cell)!r}; accepted: {either}{accepted}.")
    return int(text)


def _are_ids(value: object) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(one, int) and not isinstance(one, bool) for one in value)
    )


def _ids_of_prompts(row: Fields) -> Fields:
    """Take lists of numbers that stand for prompts, and then those for answers, for token ids."""
    if not _are_ids(row.get("clean")) or "clean_ids" in row:
        return row
    made: Fields = {}
    for key, value in row.items():
        listed = key in _AS_IDS and _are_ids(value)
        made[_AS_IDS[key] if listed else key] = value
    return made


def _refuse_disagreement(
    keys: tuple[str, str], values: tuple[object, object], context: RowContext
) -> None:
    """Refuse answers as text and as ids that are not the same to the model's tokenizer."""
    texts, ids = values
    if context.tokenizer is None or not isinstance(texts, list) or not _are_ids(ids):
        return
    assert isinstance(ids, list)
    try:
        read = [context.tokens().text([one]).strip() for one in ids]
    except (IndexError, OverflowError, TypeError, ValueError):
        read = []
    if read != [str(text).strip() for text in texts]:
        raise WholeFile(
            f"'{keys[1]}' is {shorten(json.dumps(ids))}, which to this model's tokenizer is "
            f"{shorten(', '.join(map(repr, read)) or 'nothing')}, but '{keys[0]}' says "
            f"{shorten(', '.join(map(repr, texts)))}: the ids are those of another tokenizer. "
            f"Accepted: one of the two; leave out '{keys[1]}' to use the text."
        )


# -- what is missing ------------------------------------------------------------------------------


def _refuse_missing(row: Fields, made: Fields, somewhere: set[str], *, twin: bool) -> None:
    """Refuse a row without a prompt or an answer; show the line to write.

    `somewhere`: the fields that some row of the file has; what none has is missing in all. Some
    ablations need no corrupted twin; an empty cell where others have one is refused all the same.
    """
    lacks = [pair for pair in _ROLES if not set(pair) & set(made)]
    if not twin:
        lacks = [pair for pair in lacks if "corrupted" not in pair]
    if not lacks:
        return
    if not {key for pair in _ROLES for key in pair} & set(made):
        either = ", or ".join(", ".join(pair[form] for pair in _ROLES) for form in (0, 1))
        raise PromptError(f"no prompt is given; needed: {either}.")
    form = int("clean_ids" in made or ("clean" not in made and "answer_ids" in made))
    needed = ", ".join(pair[form] for pair in _ROLES)
    about = [f"'{key}' is {FOREIGN[plain(key)]}" for key in row if plain(key) in FOREIGN]
    more = f" ({'; '.join(about)})" if about else ""
    error = PromptError if set(lacks[0]) & somewhere else WholeFile
    raise error(
        f"the key '{lacks[0][form]}' is missing; found: {', '.join(row)}{more}; needed: {needed}. "
        f"Write, for example, {line_to_write(made)}"
    )


def line_to_write(row: Mapping[str, object]) -> str:
    """Write a row as a line of JSON Lines, with an ellipsis for what only a person can say."""
    form = int("clean_ids" in row)
    line: Fields = {}
    for pair in _ROLES:
        given = next((key for key in pair if key in row), None)
        empty: object = "…" if pair[0] in ("clean", "corrupted") else ["…"]
        line[given or pair[form]] = _short(row[given]) if given else (["…"] if form else empty)
    line |= {key: _short(row[key]) for pair in _BOTH for key in pair if key in row}
    return json.dumps(line, ensure_ascii=False)


def _short(value: object) -> object:
    return shorten(value, 200) if isinstance(value, str) else value


def _no_prompts(content: Content, rows: list[tuple[str, Fields | PromptError]]) -> PromptError:
    """Say that a file is of no known shape."""
    first = next(row for row in content.rows if row.error is None)
    given = {field.name: key for key, field in fields_of(first.fields).items()}
    if problem := mistyped(first.fields, given):
        return PromptError(f"'{content.path}', {first.place}: {problem}")
    keys = content.names()
    about = [f"'{key}' is {FOREIGN[plain(key)]}" for key in keys if plain(key) in FOREIGN]
    more = f" ({'; '.join(about)})" if about else ""
    found = ", ".join(f"'{shorten(key, 40)}'" for key in keys[:12]) or "none"
    bare = [key for key in keys if plain(key) in BARE["clean"]]
    if len(bare) > 1:  # one alone would have been the prompt
        more += f", of which {' and '.join(map(repr, bare[:4]))} could each be the prompt"
    kinds = "; ".join(f"{one.summary}" for one in SHAPES.values())
    return PromptError(
        f"'{content.path}' holds no prompt pairs of a shape that is known: it is {content.kind} "
        f"with the keys {found}{more}, and none names a prompt. Accepted: {kinds}. Write, for "
        "example, " + line_to_write({})
    )


# -- what is said ---------------------------------------------------------------------------------


def _words(names: Mapping[str, str], fields: list[str]) -> str:
    """Say which fields were found, under which names."""
    words = []
    for name in ("clean", "corrupted", "answers", "distractors", "group", "answer_position"):
        if name in names and name in fields:
            words.append(_called(name, name, names))
    ids = {
        "clean_ids": "the clean prompt",
        "corrupted_ids": "the corrupted prompt",
        "answer_ids": "the answer",
        "distractor_ids": "the distractor",
    }
    listed = [_called(what, name, names) for name, what in ids.items() if name in fields]
    if listed:
        *most, last = listed
        words.append("token ids of " + (f"{', '.join(most)} and {last}" if most else last))
    if "spans" in names:
        words.append("spans")
    return ", ".join(words)


def _joined(rows: list[tuple[str, Fields | PromptError]]) -> str:
    """Say if words that are answers stand behind words of prompts without a space between them."""
    for _, row in rows:
        if isinstance(row, dict):
            clean, answers = row.get("clean"), row.get("answers")
            first = answers[0] if isinstance(answers, list) and answers else ""
            if not isinstance(clean, str) or not isinstance(first, str):
                continue
            if clean[-1:].isalpha() and first[:1].isalpha():
                last = clean.split()[-1]
                return f"answers without a space before them ({shorten(last + first, 40)!r})"
    return ""


def _called(what: str, name: str, names: Mapping[str, str]) -> str:
    """Say what something is, and its name in the file if that is another."""
    key = names.get(name, name)
    return what if key == what else f"{what} ({key})"


def add_spans(
    named: object, rows: list[tuple[str, Fields | PromptError]], context: RowContext
) -> str:
    """Give every row the positions that a file names for all of them; say which do not fit.

    Such positions count the tokens of the text; the special tokens before it are not counted. They
    are of prompts of one length: those of another than most have get none.
    """
    if not isinstance(named, dict) or not all(
        isinstance(at, int) and not isinstance(at, bool) for at in named.values()
    ):
        return "word_idxs left out, which are no whole numbers by name"
    good = [row for _, row in rows if isinstance(row, dict)]
    text = [row for row in good if isinstance(row.get("clean"), str)]
    reach: list[tuple[Fields, int, int]] = []  # where a row's text begins and ends
    if text and context.tokenizer is not None:
        tokens = context.tokens()
        every = context.prompts([str(row["clean"]) for row in text])
        first = len(tokens.prefix)
        reach += [(row, first, tokens.last(ids)) for row, ids in zip(text, every, strict=True)]
    for row in good:
        if isinstance(ids := row.get("clean_ids"), list):
            reach.append((row, 0, len(ids) - 1))
    outside = dict.fromkeys(named, 0)
    lengths = Counter(last - first for _, first, last in reach)
    usual = max(lengths, key=lambda length: (lengths[length], length), default=0)
    for row, first, last in reach:
        if last - first != usual:
            continue
        inside = {name: at + first for name, at in named.items() if 0 <= at <= last - first}
        row.setdefault("spans", inside)
        for name in named:
            outside[name] += name not in inside
    said = f"spans {', '.join(named)} (word_idxs)"
    if len(lengths) > 1:
        said += f" of the {lengths[usual]:,} prompts of {usual + 1} tokens"
    beyond = [f"'{name}' ({named[name]})" for name, count in outside.items() if count]
    return said + (f", without {', '.join(beyond)} outside a prompt" if beyond else "")
