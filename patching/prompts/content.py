"""A file of prompts as rows: JSON Lines, one JSON document, or a table with a header.

What kind of file it is, is decided once, by what is in it; its ending decides only where that says
nothing. Rows know where they stand, and nothing is said yet of what their fields mean.
"""

from __future__ import annotations

import ast
import codecs
import csv
import io
import json
import re
import tokenize
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from math import isnan
from pathlib import Path

from ...graphs.errors import FileFormatError, PromptError
from ...graphs.files.reading import PROMPT_BYTES, parse_json, read_bounded
from .json_fields import found, parse_object, shorten
from .keys import SIDES, plain

LISTS = ("prompts", "pairs", "data", "examples", "samples", "train", "rows", "items")
"""Under which keys of a JSON document the list of its entries may stand."""

ENDINGS = (".jsonl", ".json", ".csv", ".tsv")
"""What a file of prompts ends in, if in anything."""

_DELIMITERS = {",": "CSV", "\t": "TSV", ";": "CSV with ';' between cells", "|": "CSV with '|'"}
Known = Callable[[str], bool]
"""Tells whether a name is one that rows of some shape have."""

_LONGEST_LITERAL = 20_000  # characters of a list within a cell
_BLANK = re.compile(r"\s*")
_PREFACE = 50  # lines, at the most, before a file's first one
_EXAMPLE = '{"clean": "…", "corrupted": "…", "answers": [" Mary"]}'


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
    text = _without_preface(_read_text(path), known)
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
        if not any(line.lstrip().startswith("{") for line in text.split("\n")):
            raise _no_kind(path, text)
    return Content(path, "JSON Lines", tuple(_lines(text)))


def _read_text(path: Path) -> str:
    what = "a file of prompt pairs, or the name of a built-in task"
    if path.is_dir() or not path.exists():
        reason = "Is a directory" if path.is_dir() else "No such file or directory"
        raise PromptError(f"cannot read prompt pairs from '{path}': {reason}; accepted: {what}.")
    try:
        content = read_bounded(path, PROMPT_BYTES, what, PromptError)
        _refuse_binary(path, content[:8])
        wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return content.decode("utf-16" if wide else "utf-8-sig")  # wide: Excel's Unicode text
    except UnicodeDecodeError as error:
        if wide:
            raise PromptError(
                f"'{path}' begins as UTF-16, and is none ({error.reason}); accepted: text saved as "
                "UTF-8."
            ) from None
        line = error.object[: error.start].count(b"\n") + 1
        raise PromptError(
            f"'{path}', line {line}: the byte {error.object[error.start]:#04x} is not UTF-8; "
            "accepted: text saved as UTF-8 (Excel calls it CSV UTF-8)."
        ) from None


def _refuse_binary(path: Path, start: bytes) -> None:
    """Refuse tables that are no text, and say how they become one."""
    workbook = start.startswith(b"PK\x03\x04") and path.suffix.lower() in (".xlsx", ".xlsm", ".ods")
    how = {
        b"PAR1": ("a table of Parquet", "df.to_json('pairs.jsonl', orient='records', lines=True)"),
        b"ARROW1": ("a table of Arrow", "dataset.to_json('pairs.jsonl')"),
        b"\x1f\x8b": ("packed by gzip", "gunzip, which unpacks it"),
        b"\xd0\xcf\x11\xe0": ("a workbook of Excel", "saving it as CSV UTF-8"),
    }
    found = next((one for magic, one in how.items() if start.startswith(magic)), None)
    if workbook:
        found = ("a spreadsheet", "saving it as CSV UTF-8")
    if found is not None:
        raise PromptError(
            f"'{path}' is no text, but {found[0]}; accepted: JSON Lines, a JSON document, or a "
            f"table as text, as made by {found[1]}."
        )


def _no_kind(path: Path, text: str) -> PromptError:
    """Say that a file is neither JSON nor a table."""
    first = next(line for line in text.split("\n") if line.strip())
    return PromptError(
        f"'{path}' is no file of prompt pairs: its first line is {shorten(first.strip())!r}, which "
        "is neither JSON nor a header that names columns. Accepted: JSON Lines, a JSON document, "
        "or a table with a header such as clean,corrupted,answers,distractors. Write, for example, "
        f"a line {_EXAMPLE}"
    )


def _without_preface(text: str, known: Known) -> str:
    """Blank what stands before a file's first line: comments, and Excel's `sep=;`."""
    lines = text.split("\n", _PREFACE)
    for at, line in enumerate(lines[:_PREFACE]):
        bare = line.strip()
        if bare and not re.fullmatch(r'"?sep=.?"?', bare, re.IGNORECASE):
            if not bare.startswith("#"):
                break
            if any(sum(map(known, _header(bare.lstrip("# "), one))) > 1 for one in _DELIMITERS):
                lines[at] = line.replace("#", "", 1)
                break
        lines[at] = ""
    return "\n".join(lines)


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
            yield Row(f"line {number}", _given(parse_object(line)))
        except PromptError as error:
            yield Row(f"line {number}", {}, error)


def _document(path: Path, text: str, known: Known) -> Content:
    try:
        document = parse_json(f"'{path}'", text, "a file of prompt pairs", allow_nan=True)
    except FileFormatError as error:
        if several := _one_after_another(text):
            return Content(path, "JSON objects one after another", _entries(several, ""))
        raise PromptError(str(error)) from None
    while isinstance(document, dict) and len(document) == 1:
        (inner,) = document.values()
        if not isinstance(inner, dict) or any(map(known, document)):
            break
        if not (_is_columns(inner) or _lists(inner, known)):
            break
        document = inner  # as {"dataset": {"prompts": […]}}
    if not document:
        raise PromptError(
            f"'{path}' holds no prompt pairs: it is empty; accepted: a list with one object for "
            "each pair."
        )
    if isinstance(document, list):
        named = _named_columns(document[0], document[1:], known)
        kind = "a JSON list, the first of names" if named else "a JSON list"
        return Content(path, kind, _entries(named or _unwrapped(document), ""))
    return _rows_by_key(path, document, known) or _object(path, document, known)


def _rows_by_key(path: Path, document: dict[str, object], known: Known) -> Content | None:
    """Read an object that is a table: by fields, by rows under `columns`, or by row numbers."""
    if _is_columns(document):
        return Content(path, "JSON with a list for each field", _entries(_rows(document), ""))
    if named := _named_columns(document.get("columns"), document.get("data"), known):
        return Content(path, "JSON of rows, their names under 'columns'", _entries(named, ""))
    if _is_keyed(document, known):
        entries = ((key, value) for key, value in document.items() if isinstance(value, dict))
        keyed = (Row(f"entry '{shorten(key)}'", _given(value)) for key, value in entries)
        return Content(path, "a JSON object of entries", tuple(keyed))
    return None


def _object(path: Path, document: dict[str, object], known: Known) -> Content:
    lists = _lists(document, known)
    if len(lists) > 1:
        raise PromptError(
            f"'{path}' holds several lists of objects ({', '.join(lists)}), and which one is meant "
            "is not said; accepted: one list in a file."
        )
    if not lists:
        return Content(path, "a JSON object", (Row("the object", dict(document)),))
    shared = {key: value for key, value in document.items() if key != lists[0]}
    items = document[lists[0]]
    assert isinstance(items, list)  # of `_lists`
    rows = _entries(_unwrapped(items), f" of '{lists[0]}'")
    return Content(path, f"a JSON object with its list under '{lists[0]}'", rows, shared)


def _given(fields: Mapping[str, object]) -> dict[str, object]:
    """Return what is given of fields: null, or pandas' NaN, says that there is nothing.

    An object under the name of a prompt holds fields of that side: `clean_prompt`, `clean_answer`.
    """
    given: dict[str, object] = {}
    for key, value in fields.items():
        if isinstance(value, dict) and plain(key) in SIDES:
            given |= _given({f"{key}_{name}": inner for name, inner in value.items()})
        elif value is not None and not (isinstance(value, float) and isnan(value)):
            given[key] = value
    return given


def _entries(items: list[object], where: str) -> tuple[Row, ...]:
    rows = []
    for number, item in enumerate(items, start=1):
        place = f"entry {number}{where}"
        if isinstance(item, dict):
            rows.append(Row(place, _given(item)))
        else:
            error = PromptError(f"is {found(item)}; accepted: one JSON object, such as {_EXAMPLE}.")
            rows.append(Row(place, {}, error))
    return tuple(rows)


def _one_after_another(text: str) -> list[object]:
    """Read objects that stand one after another over several lines; none if that fails."""
    reader, at, several = json.JSONDecoder(object_pairs_hook=_each_once), 0, list[object]()
    try:
        while at < len(text):
            value, end = reader.raw_decode(text, at)
            if not isinstance(value, dict):
                return []
            several.append(value)
            blank = _BLANK.match(text, end)
            at = blank.end() if blank else end
    except (ValueError, RecursionError):
        return []
    return several if len(several) > 1 else []


def _each_once(items: list[tuple[str, object]]) -> dict[str, object]:
    if len(dict(items)) < len(items):
        raise ValueError("a key is given twice")
    return dict(items)


def _unwrapped(items: list[object]) -> list[object]:
    """Return the rows within entries that number them, as the Hugging Face data server does."""
    inner = [item.get("row") if isinstance(item, dict) else None for item in items]
    return list(inner) if all(isinstance(one, dict) for one in inner) else items


def _named_columns(names: object, rows: object, known: Known) -> list[object]:
    """Return rows that are lists with the names that stand apart; none if it is not so."""
    if not isinstance(names, list) or not isinstance(rows, list) or not rows:
        return []
    texts = [name for name in names if isinstance(name, str)]
    fit = all(isinstance(row, list) and len(row) == len(names) for row in rows)
    if len(texts) < len(names) or sum(map(known, texts)) < 2 or not fit:
        return []
    return [dict(zip(texts, row, strict=True)) for row in rows]


def _is_keyed(document: Mapping[str, object], known: Known) -> bool:
    """Tell whether an object holds an entry under each of its keys, as by a number or a name."""
    if any(map(known, document)):
        return False
    return all(isinstance(value, dict) and any(map(known, value)) for value in document.values())


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
        text = text.lstrip("\r\n")  # a comment may have stood there
        return next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), [])
    except csv.Error:
        return []


def _table(path: Path, text: str, delimiter: str) -> Content:
    if all(name.startswith(" ") for name in _header(text, delimiter)[1:]):
        text = _without_spaces_before_quotes(text, delimiter)
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


def _without_spaces_before_quotes(text: str, delimiter: str) -> str:
    """Drop spaces between a separator and a quoted cell, as `a, "b, c"` has; other cells stay."""
    mark = re.escape(delimiter)
    quoted = re.compile(rf'(^|{mark}) *("(?:[^"]|"")*")(?= *(?:{mark}|\r?$)) *', re.MULTILINE)
    return quoted.sub(r"\1\2", text)


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

    So does numpy, without commas.

    >>> literal("[' Mary', ' Ann']"), literal("[1, 2]"), literal(" Mary")
    ([' Mary', ' Ann'], [1, 2], None)
    >>> literal("[' Mary' ' Ann']"), literal("[1 2]")
    ([' Mary', ' Ann'], [1, 2])
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
                value = ast.literal_eval(_with_commas(text))
        except (
            ValueError,
            SyntaxError,
            RecursionError,
            MemoryError,
            TypeError,
            tokenize.TokenError,
        ):
            return None
    return list(value) if isinstance(value, list | tuple) else None


def _with_commas(text: str) -> str:
    """Put a comma between neighbours in a list that have none: Python would join two texts."""
    value = tokenize.STRING, tokenize.NUMBER
    parts = [one for one in tokenize.generate_tokens(io.StringIO(text).readline) if one.string]
    lines, ends = text.split("\n"), list[tuple[int, int]]()
    for one, other in pairwise(parts):
        negative = other.type == tokenize.OP and other.string == "-" and one.type == tokenize.NUMBER
        if one.type in value and (other.type in value or negative):
            ends.append(one.end)
    for row, column in reversed(ends):
        line = lines[row - 1]
        lines[row - 1] = f"{line[:column]},{line[column:]}"
    return "\n".join(lines)
