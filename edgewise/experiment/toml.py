"""TOML, read with errors that show their place, and written."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from ..graphs.errors import SpecError
from ..graphs.files.reading import TOO_DEEP, TOO_LONG, unfit

Table = Mapping[str, object]
Document = Table | list[Table]
"""What stands under one name in a document: a table, or a list of them."""

INSTEAD = (
    "Accepted: a TOML file that declares an experiment's models, task and discovery. Measure a "
    "circuit with `edgewise evaluate`, draw it with `edgewise draw`."
)
"""What an experiment's file is, and what to do with a circuit in its place."""


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def parse_toml(text: str, source: str) -> dict[str, object]:
    """Parse TOML; refuse what is none, with its line shown; `source` names the text."""
    tomllib = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        found: dict[str, object] = tomllib.loads(text)
        problem = unfit(found, allow_nan=True)
        if problem is None:
            return found
    except tomllib.TOMLDecodeError as error:
        if text.lstrip().startswith("{") or _is_json(text):
            raise SpecError(
                f"{source} is not TOML but JSON, as circuits and prompt pairs are. {INSTEAD}"
            ) from None
        message, problem = str(error), None
    except RecursionError:
        problem = TOO_DEEP
    except ValueError:  # Python's own limit for whole numbers
        problem = TOO_LONG
    if problem is not None:
        raise SpecError(f"{source} cannot be read: {problem}.")
    place = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)$", message)
    if place is None:
        raise SpecError(f"{source} is not TOML: {message}.")
    reason = message[: place.start()]
    lines = text.splitlines() or [""]
    if place[1] is None:
        raise SpecError(f"{source} is not TOML: it ends too early, in line {len(lines)}: {reason}.")
    line, column = int(place[1]), int(place[2])
    quoted = lines[line - 1] if line <= len(lines) else ""
    raise SpecError(
        f"{source} is not TOML: line {line}, column {column}: {reason}.\n"
        f"    {quoted}\n    {' ' * (column - 1)}^"
    )


def dump_toml(document: Mapping[str, Document]) -> str:
    """Write tables, lists of tables and plain values as TOML; None is left out.

    >>> print(dump_toml({"task": {"name": "ioi", "bos": None}, "models": [{"name": "a"}]}), end="")
    [task]
    name = "ioi"
    <BLANKLINE>
    [[models]]
    name = "a"
    """
    blocks = []
    for name, value in document.items():
        for table in value if isinstance(value, list) else [value]:
            head = f"[[{name}]]" if isinstance(value, list) else f"[{name}]"
            rows = [f"{key} = {_value(item)}" for key, item in table.items() if item is not None]
            blocks.append("\n".join([head, *rows]) + "\n")
    return "\n".join(blocks)


def _value(value: Any) -> str:
    """Write one value; JSON's texts, numbers and lists are TOML but for a character and 1e400."""
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return "inf" if value > 0 else "-inf"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
