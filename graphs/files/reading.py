"""Read files of any origin: regular ones only, to a stated size, JSON of a stated depth and form.

What a file says of itself is believed only after it is checked: `read_bounded` and `parse_json`
bound how much is held, `checked` what is in it. Limits are far beyond real use: a circuit of 1.6
million edges (Llama-3.1-8B, all of them) is 60 MB of JSON, a timeline of 20 such checkpoints 500.
"""

from __future__ import annotations

import functools
import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from ..errors import EdgewiseError, FileFormatError

if TYPE_CHECKING:
    from pydantic import TypeAdapter
    from pydantic_core import ErrorDetails

RESULT_BYTES = 2**30
"""Most bytes of a circuit, diff or other file of results."""

LINES_BYTES = 2**28
"""Most bytes of a file of lines: a journal or edge list of 1.6 million edges is 60 MB."""

PROMPT_BYTES = 2**28
"""Most bytes of a file of prompt pairs: a hundred thousand pairs of a hundred tokens are 120 MB."""

SETTINGS_BYTES = 2**24
"""Most bytes of a spec, or of a model's or an adapter's configuration: in real use a few KB."""

DEEPEST = 64
"""Most levels of lists and objects within each other: files of this project have 8 at most."""

MOST_DIGITS = 20
"""Most digits of a whole number in JSON: a seed has 20 at most, and 10**400 is no float."""

PAIRS_HINT = " Give the file that was meant; prompt pairs are given as `task`."
"""What to do where prompt pairs stand in another file's place."""

NO_TEXT = "it is not text (UTF-8)"
TOO_DEEP = f"it is nested deeper than {DEEPEST} levels"
TOO_LONG = f"it holds a whole number of more than {MOST_DIGITS} digits"

Form = TypeVar("Form")
Take = Callable[[Any], "str | None"]

_AT_ONCE: int = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def at_home(path: str | Path) -> Path:
    """Return a path with `~` as the home it stands for, where there is such a home."""
    return Path(os.path.expanduser(path))


def is_there(path: str | Path) -> bool:
    """Tell whether a path, as it was typed, names something; one that no file can have does not."""
    return os.path.exists(at_home(path))


def read_bounded(
    path: str | Path,
    limit: int,
    what: str,
    error: type[EdgewiseError] = FileFormatError,
    text: bool = False,
) -> bytes:
    """Read a whole regular file of at most `limit` bytes; `what` is expected, for an `error`."""
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):  # a pipe may never end, and opening a device may do something
            kind = "a directory" if stat.S_ISDIR(mode) else "a device or pipe, not a file"
            raise error(f"cannot read {path}: it is {kind}; expected {what}.")
        content = bytearray()
        # without waiting for a writer, should a pipe have taken the file's place
        with open(os.open(path, os.O_RDONLY | _AT_ONCE), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            while max(size, len(content)) <= limit and (block := file.read(2**20)):
                content += block
                if text and 0 in block:  # before a gigabyte of zeros, which a disk holds as nothing
                    raise error(f"{path} is not {what}: {NO_TEXT}.")
    except FileNotFoundError:
        raise error(f"{path} does not exist; expected {what}.") from None
    except (OSError, ValueError) as caught:
        reason = getattr(caught, "strerror", None) or caught
        raise error(f"cannot read {path}: {reason}; expected {what}.") from caught
    if max(size, len(content)) > limit:
        raise error(
            f"{path} is too large for {what}: more than {limit / 2**20:g} MB; accepted: at most "
            "that much. Give the file that was meant."
        )
    return bytes(content)


def read_text(
    path: str | Path,
    what: str,
    limit: int = RESULT_BYTES,
    error: type[EdgewiseError] = FileFormatError,
) -> str:
    """Read a whole text file in UTF-8, as `read_bounded` does."""
    try:
        return read_bounded(path, limit, what, error, text=True).decode("utf-8")
    except UnicodeDecodeError:
        raise error(f"{path} is not {what}: {NO_TEXT}.") from None


# -- JSON ---------------------------------------------------------------------------------------


def parse_json(path: str | Path, text: str, what: str, *, allow_nan: bool = False) -> Any:
    """Parse JSON text, read from the path; `allow_nan` takes Python's NaN and Infinity too.

    A FileFormatError says how it is damaged, that a key stands twice, that it is nested too deeply
    or a number too large.
    """

    def refuse_constant(name: str) -> NoReturn:
        raise FileFormatError(f"{path} holds {name}, which JSON does not have; accepted: null.")

    def collect(items: list[tuple[str, Any]]) -> object:
        found = dict(items)
        if len(found) < len(items):
            keys = [key for key, _ in items]
            twice = next(key for i, key in enumerate(keys) if key in keys[:i])
            raise FileFormatError(f"{path} holds the key {twice!r:.60} twice; accepted: once.")
        return found

    constant = float if allow_nan else refuse_constant
    try:
        document = json.loads(text, parse_constant=constant, object_pairs_hook=collect)
    except json.JSONDecodeError as error:
        raise FileFormatError(_diagnose(path, text, what, error)) from None
    except RecursionError:
        problem: str | None = TOO_DEEP
    except ValueError:  # Python's own limit for whole numbers
        problem = TOO_LONG
    else:
        problem = unfit(document, allow_nan=allow_nan)
    if problem:
        raise FileFormatError(f"{path} is damaged: {problem}.")
    return document


def read_json(path: str | Path, what: str = "a file of a run") -> Any:
    """Read JSON without a format of its own; what is in it is checked by who reads it."""
    return parse_json(path, read_text(path, what), what)


def unfit(document: object, *, allow_nan: bool = False) -> str | None:
    """Say what of a parsed document no reader takes: its depth, or a number too large.

    >>> unfit([[1], [10**400]])
    'it holds a whole number of more than 20 digits'
    """
    level, depth, most = [document], 0, 10**MOST_DIGITS
    while level:
        inner: list[object] = []
        for one in level:
            if isinstance(one, str):
                continue
            if isinstance(one, list):
                inner += one
            elif isinstance(one, dict):
                inner += one.values()
            elif isinstance(one, float):
                if one - one != 0 and not allow_nan:
                    return "it holds a number too large for a float"
            elif isinstance(one, int) and not -most < one < most:
                return TOO_LONG
        level, depth = inner, depth + 1
        if depth > DEEPEST + 1:
            return TOO_DEEP
    return None


def _diagnose(path: str | Path, text: str, what: str, error: json.JSONDecodeError) -> str:
    if not text.strip():
        return f"{path} is empty; expected {what}."
    if not text.lstrip().startswith(("{", "[")):
        return f"{path} is not {what}: it is not JSON."
    if error.msg == "Extra data" and "\n" not in text[: error.pos].strip():
        return (
            f"{path} is not {what}: it is JSON Lines, one value a line, as prompt pairs are; "
            f"accepted: one JSON object.{PAIRS_HINT}"
        )
    cut = error.msg.startswith("Unterminated string") or re.fullmatch(
        r"\s*[\w.+-]{0,8}\s*", text[error.pos :]
    )
    if cut:
        last = text.count("\n", 0, len(text.rstrip())) + 1
        return (
            f"{path} is damaged: it was cut off at line {last}, before its end; restore the whole "
            "file or make it again."
        )
    return (
        f"{path} is damaged: line {error.lineno}, column {error.colno} cannot be read as JSON "
        f"({error.msg}); restore the file or make it again."
    )


# -- the form of a document ---------------------------------------------------------------------


def checked(path: str | Path, document: object, form: type[Form]) -> Form:
    """Return a parsed document as a value of its form, a `TypedDict`, itself unchanged.

    Keys the form does not name are let be; bounds stand in annotations. A FileFormatError names all
    keys that are missing, else the first values of another type.

    >>> from typing_extensions import TypedDict
    >>> class Block(TypedDict):
    ...     examples: int
    >>> checked("a.json", {"examples": "many"}, Block)
    Traceback (most recent call last):
    edgewise.graphs.errors.FileFormatError: a.json cannot be read: examples is 'many'; accepted: a \
whole number.
    """
    with form_of(path, document, form) as found:
        return found


@contextmanager
def form_of(path: str | Path, document: object, form: type[Form]) -> Iterator[Form]:
    """Check a document as `checked` does; what is refused inside comes before its wrong values."""
    missing, wrong = problems(document, form)
    if missing:
        raise FileFormatError(f"{path} is incomplete; missing: {', '.join(missing)}.")
    yield document  # type: ignore[misc]
    if wrong:
        raise FileFormatError(f"{path} cannot be read: {listed(wrong)}.")


def problems(document: object, form: Any) -> tuple[list[str], list[str]]:
    """List, as `block.key`, what a document lacks (or has as no object), and its wrong values."""
    from pydantic import ValidationError

    try:
        _adapter(form).validate_python(document, strict=True)
    except ValidationError as error:
        found = error.errors(include_url=False)
        missing = [
            _place(one)
            + (" (an object)" if kind == "dict_type" and one["input"] is not None else "")
            for one in found
            if (kind := one["type"]) in ("missing", "dict_type")
        ]
        wrong = [_wrong(one) for one in found if one["type"] not in ("missing", "dict_type")]
        return missing, wrong
    return [], []


@functools.cache
def _adapter(form: Any) -> TypeAdapter[object]:
    from pydantic import TypeAdapter

    return TypeAdapter(form)


def _place(error: ErrorDetails) -> str:
    """Write where in a document something is, as in `checkpoints[0].model.name`."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"])
    return "".join(parts).removeprefix(".") or "the file"


def _wrong(error: ErrorDetails) -> str:
    accepted = _ACCEPTED.get(error["type"])
    if accepted is None:
        accepted = error["msg"].removeprefix("Input should be ").rstrip(".")
    return f"{_place(error)} is {short(error['input'])}; accepted: {accepted}"


_ACCEPTED = {
    "string_type": "a text",
    "string_unicode": "a text that is valid Unicode",
    "string_too_short": "a text that is not empty",
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true, false",
    "list_type": "a list",
    "too_short": "a list that is not empty",
}


def take_rows(
    path: str | Path, what: str, rows: Iterable[Any], take: Take, entry: str = "entry {}, {}"
) -> None:
    """Hand on rows; `take` returns, or raises, what is wrong. Refuse by number those at fault."""
    wrong = []
    for number, row in enumerate(rows, start=1):
        try:
            problem = take(row)
        except EdgewiseError as error:
            problem = str(error).rstrip(".")
        if problem:
            wrong.append(entry.format(number, problem))
    if wrong:
        raise FileFormatError(f"{path}: {what} cannot be read: {listed(wrong)}.")


def is_number(value: object) -> bool:
    """Tell a number of JSON, which true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def short(value: object) -> str:
    """Return a value as it is written in Python, of 60 characters at most."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def listed(problems: list[str], most: int = 3) -> str:
    """Join the first few problems and count the rest."""
    more = f" (and {len(problems) - most} more)" if len(problems) > most else ""
    return "; ".join(problems[:most]) + more
