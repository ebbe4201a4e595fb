"""A file of prompts as rows: JSON Lines, one JSON document, or a table with a header.

What kind of file it is, is decided once, by what is in it; its ending decides only where that says
nothing. Rows know where they stand, and nothing is said yet of what their fields mean.
"""

from __future__ import annotations

import ast
import csv
import io
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ...graphs.errors import FileFormatError, PromptError
from ...graphs.files.reading import PROMPT_BYTES, parse_json, read_bounded
from .json_fields import found, parse_object, shorten

LISTS = ("prompts", "pairs", "data", "examples", "samples", "train", "rows", "items")
"""Under which keys of a JSON document the list of its entries may stand."""

ENDINGS = (".jsonl", ".json", ".csv", ".tsv")
"""What a file of prompts ends in, if in anything."""

_DELIMITERS = {",": "CSV", "\t": "TSV", ";": "CSV with ';' between cells", "|": "CSV with '|'"}
Known = Callable[[str], bool]
"""Tells whether a name is one that rows of some shape have."""

_LONGEST_LITERAL = 20_000  # characters of a list within a cell


@dataclass(frozen=True)
class Row:
    """The fields of one entry, or why they cannot be read; `place` says where it stands."""

    place: str
    fields: dict[str, object]
    error: PromptError | None = None


@dataclass(frozen=True)
class Content:
    """A file's rows, and what kind of file it is; `shared`: what it says beside its list.

    `header`: the names of a table's columns, all of whose values are texts; a list stands in its
    cell as JSON or Python writes it, and an empty cell is none.
    """

    path: Path
    kind: str
    rows: tuple[Row, ...]
    shared: dict[str, object] = field(default_factory=dict)
    header: tuple[str, ...] = ()

    @property
    def is_table(self) -> bool:
        """Tell whether the rows are those of a table."""
        return bool(self.header)

    def names(self) -> list[str]:
        """List the keys of all rows, or the columns, each once, in their order."""
        every = (key for row in self.rows for key in row.fields)
        return list(dict.fromkeys(self.header or every))

    def good(self) -> Iterator[Row]:
        """Yield the rows that could be read."""
        return (row for row in self.rows if row.error is None)


def read_content(path: str | Path, known: Known) -> Content:
    """Read a file of prompts; `known` tells the names that a header is recognised by.

    A PromptError says what is wrong with the file as a whole.
    """
    path = Path(path)
    text = _read_text(path)
    start = text.lstrip()[:1]
    if not start:
        raise PromptError(
            f"'{path}' holds no prompt pairs: every line is blank; accepted: one JSON object a "
            'line, such as {"clean": "…", "corrupted": "…", "answers": [" Mary"]}.'
        )
    if start == "[" or (start == "{" and not _is_lines(path, text, known)):
        return _document(path, text, known)
    if start != "{":
        delimiter = _delimiter(path, text, known)
        if delimiter:
            return _table(path, text, delimiter)
    return Content(path, "JSON Lines", tuple(_lines(text)))


def _read_text(path: Path) -> str:
    what = "a file of prompt pairs, or the name of a built-in task"
    if path.is_dir() or not path.exists():
        reason = "Is a directory" if path.is_dir() else "No such file or directory"
        raise PromptError(f"cannot read prompt pairs from '{path}': {reason}; accepted: {what}.")
    try:
        return read_bounded(path, PROMPT_BYTES, what, PromptError).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise PromptError(
            f"'{path}', line {line}: the byte {error.object[error.start]:#04x} is not UTF-8; "
            "accepted: text saved as UTF-8."
        ) from None


# -- JSON ---------------------------------------------------------------------------------------


def _is_lines(path: Path, text: str, known: Known) -> bool:
    """Tell whether text that begins with `{` is an object a line, not one over several lines."""
    lines = [line for line in text.split("\n") if line.strip()]
    is_document = path.suffix.lower() == ".json"
    if _parses(lines[0]):
        return len(lines) > 1 or not (is_document or _holds_list(lines[0], known))
    if is_document or len(lines) == 1:
        return not is_document
    return all(line.lstrip().startswith("{") for line in lines[1:3]) and not _parses(text)


def _parses(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _holds_list(line: str, known: Known) -> bool:
    """Tell whether a file's only object is not itself a pair, but holds a list of them."""
    document = json.loads(line)
    return bool(_lists(document, known)) or _is_columns(document)


def _lists(document: Mapping[str, object], known: Known) -> list[str]:
    """List the keys of an object under which a list of its entries may stand.

    Any will do if it is the only one, and is no key of a pair, as `messages` is.
    """
    found = [key for key, value in document.items() if _is_list_of_rows(value)]
    usual = [key for key in found if key in LISTS]
    if usual:
        return usual
    is_row = any(map(known, document))
    return [] if is_row else found


def _lines(text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield Row(f"line {number}", parse_object(line))
        except PromptError as error:
            yield Row(f"line {number}", {}, error)


def _document(path: Path, text: str, known: Known) -> Content:
    try:
        document = parse_json(f"'{path}'", text, "a file of prompt pairs", allow_nan=True)
    except FileFormatError as error:
        raise PromptError(str(error)) from None
    if not document:
        raise PromptError(
            f"'{path}' holds no prompt pairs: it is empty; accepted: a list with one object for "
            "each pair."
        )
    if isinstance(document, list):
        return Content(path, "a JSON list", _entries(document, ""))
    if _is_columns(document):
        return Content(path, "JSON with a list for each field", _entries(_rows(document), ""))
    lists = _lists(document, known)
    if len(lists) > 1:
        raise PromptError(
            f"'{path}' holds several lists of objects ({', '.join(lists)}), and which one is meant "
            "is not said; accepted: one list in a file."
        )
    if not lists:
        return Content(path, "a JSON object", (Row("the object", dict(document)),))
    shared = {key: value for key, value in document.items() if key != lists[0]}
    rows = _entries(document[lists[0]], f" of '{lists[0]}'")
    return Content(path, f"a JSON object with its list under '{lists[0]}'", rows, shared)


def _entries(items: list[object], where: str) -> tuple[Row, ...]:
    rows = []
    for number, item in enumerate(items, start=1):
        place = f"entry {number}{where}"
        if isinstance(item, dict):
            rows.append(Row(place, item))
        else:
            error = PromptError(f"is {found(item)}; accepted: one JSON object.")
            rows.append(Row(place, {}, error))
    return tuple(rows)


def _is_list_of_rows(value: object) -> bool:
    return isinstance(value, list) and any(isinstance(one, dict) for one in value)


def _is_columns(document: object) -> bool:
    """Tell whether an object holds a list (or pandas' numbered object) of texts for each field."""
    if not isinstance(document, dict) or not document:
        return False
    columns = [_column(value) for value in document.values()]
    return all(column is not None for column in columns) and any(
        column and isinstance(column[0], str) and plain_name in ("clean", "subject", "prompt")
        for column, plain_name in zip(columns, map(str.lower, document), strict=True)
    )


def _column(value: object) -> list[object] | None:
    if isinstance(value, dict) and value and all(str(key).isdigit() for key in value):
        return list(value.values())
    return value if isinstance(value, list) else None


def _rows(document: Mapping[str, object]) -> list[object]:
    columns = {key: _column(value) or [] for key, value in document.items()}
    most = max(map(len, columns.values()))
    return [
        {key: column[at] for key, column in columns.items() if at < len(column)}
        for at in range(most)
    ]


# -- tables -------------------------------------------------------------------------------------


def _delimiter(path: Path, text: str, known: Known) -> str | None:
    """Return what stands between the cells of a table's header; None if there is no header."""
    is_table = path.suffix.lower() in (".csv", ".tsv")
    order = sorted(_DELIMITERS, key=lambda one: one != ("\t" if path.suffix == ".tsv" else ","))
    counts = {one: sum(map(known, _header(text, one))) for one in order}
    best = max(order, key=lambda one: counts[one])
    if counts[best] >= (1 if is_table else 2):
        return best
    if not is_table:
        return None
    header = next(iter(_header(text, best)), "")
    names = _header(text, best)
    listed = ", ".join(map(repr, names[:8])) or repr(header)
    raise PromptError(
        f"'{path}', line 1: no column is called as a field of prompt pairs is; found: "
        f"{shorten(listed, 200)}. Accepted: a header such as clean,corrupted,answers,distractors "
        "or clean,corrupted,correct_idx,incorrect_idx."
    )


def _header(text: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), [])
    except csv.Error:
        return []


def _table(path: Path, text: str, delimiter: str) -> Content:
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    rows: list[Row] = []
    while True:
        number = lines.line_num + 1
        try:
            cells = next(lines)
        except StopIteration:
            break
        except csv.Error as error:
            raise PromptError(
                f"'{path}', line {number}: the cells cannot be told apart ({error}); accepted: "
                'cells with a quotation mark or line end within them in quotation marks, "so", '
                'and a quotation mark within such a cell doubled, "".'
            ) from None
        if not any(cell.strip() for cell in cells):
            continue
        if header is None:
            header = cells
            _refuse_twice(path, header)
        else:
            rows.append(_table_row(f"line {number}", header, cells))
    if not rows:
        raise PromptError(f"'{path}' holds no prompt pairs: there is no line below its header.")
    assert header is not None  # below which rows stand
    kind = f"{_DELIMITERS[delimiter]} with a header"
    return Content(path, kind, tuple(rows), header=tuple(header))


def _refuse_twice(path: Path, header: list[str]) -> None:
    twice = [name for name in header if name.strip() and header.count(name) > 1]
    if twice:
        raise PromptError(
            f"'{path}', line 1: the column '{shorten(twice[0])}' is there twice; accepted: once."
        )


def _table_row(place: str, header: list[str], cells: list[str]) -> Row:
    if len(cells) != len(header):
        few = "fewer" if len(cells) < len(header) else "more"
        why = PromptError(
            f"has {len(cells)} cells, {few} than the {len(header)} of the header "
            f"({shorten(', '.join(header), 120)}); accepted: a cell for each column, and "
            "quotation marks around one that holds what separates cells."
        )
        return Row(place, {}, why)
    named = zip(header, cells, strict=True)
    return Row(place, {key: cell for key, cell in named if key.strip() and cell != ""})


def literal(cell: str) -> list[object] | None:
    """Return the list that a cell holds as JSON or Python writes it; None if it holds none.

    >>> literal("[' Mary', ' Ann']"), literal("[1, 2]"), literal(" Mary")
    ([' Mary', ' Ann'], [1, 2], None)
    """
    text = cell.strip()
    if not (text[:1] in "[(" and text[-1:] in "])") or len(text) > _LONGEST_LITERAL:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                value = ast.literal_eval(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            return None
    return list(value) if isinstance(value, list | tuple) else None
