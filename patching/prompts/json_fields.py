"""One line of JSON read as an object, and its fields checked by kind."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

from ...graphs.errors import PromptError

_LONGEST_LINE = 100_000  # characters of a line that Python wrote


def parse_object(line: str) -> dict[str, object]:
    """Read one JSON object; a key given twice is refused."""
    twice: list[str] = []

    def collect(items: list[tuple[str, object]]) -> dict[str, object]:
        row: dict[str, object] = {}
        for key, value in items:
            if key in row:
                twice.append(key)
            row[key] = value
        return row

    try:
        row = json.loads(line.lstrip("\ufeff"), object_pairs_hook=collect)
    except (ValueError, RecursionError) as error:
        if isinstance(written := _as_python_writes_it(line), dict):
            return written
        why = str(error)
        if isinstance(error, json.JSONDecodeError):
            why = f"{error.msg} at column {error.colno}"
        raise PromptError(
            f"is not JSON ({why}): {shorten(line.strip())}; accepted: one JSON object."
        ) from None
    if not isinstance(row, dict):
        raise PromptError(f"is {found(row)}; accepted: one JSON object.")
    if twice:
        raise PromptError(f"the key '{twice[0]}' is given twice; accepted: once.")
    return row


def _as_python_writes_it(line: str) -> object:
    """Return what a line in single quotes says, as `print(row)` leaves it; None if it says none."""
    if not re.match(r"\{\s*'", line) or len(line) > _LONGEST_LINE:
        return None
    try:
        return ast.literal_eval(line.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return None


def list_of(key: str, value: object, kind: type, what: str, *, empty: bool) -> tuple[Any, ...]:
    """Check a field that must be a list of texts or of whole numbers; `empty` allows none."""
    if not isinstance(value, list):
        raise PromptError(f"'{key}' is {found(value)}; accepted: a list of {what}.")
    for item in value:
        if not isinstance(item, kind) or isinstance(item, bool):
            raise PromptError(f"'{key}' holds {found(item)}; accepted: a list of {what}.")
        if isinstance(item, str):
            text_of(key, item)
    if not value and not empty:
        raise PromptError(f"'{key}' is empty; accepted: at least one of its {what}.")
    return tuple(value)


def text_of(key: str, value: object) -> str:
    """Check a field that must be a text."""
    if not isinstance(value, str):
        raise PromptError(f"'{key}' is {found(value)}; accepted: a text.")
    if not value:
        raise PromptError(f"'{key}' holds an empty text; accepted: at least one character.")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise PromptError(
            f"'{key}' holds half of a surrogate pair ({shorten(ascii(value))}); accepted: text "
            "that is valid Unicode."
        ) from None
    return value


def found(value: object) -> str:
    """Name a JSON value as its writer would."""
    kinds: dict[type, str] = {dict: "an object", list: "a list"}
    return kinds.get(type(value)) or shorten(json.dumps(value))


def shorten(text: str, limit: int = 60) -> str:
    """Return a text that is not too long for a message."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
