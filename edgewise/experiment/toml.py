"""Read the tables of a TOML document so that every problem in it is found at once.

A `Table` is asked for its keys one by one; each question declares a key, its type and what is
accepted. What is wrong is noted, with the key's full path, and a stand-in is returned, so that
reading goes on. Keys nobody asked for are noted at the end, with the nearest key that was.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from ..graphs.errors import EdgewiseError, SpecError, unknown

T = TypeVar("T")
Default = TypeVar("Default")


@dataclass
class Problems:
    """Collect what is wrong with one file."""

    source: str
    found: list[str] = field(default_factory=list)

    def add(self, problem: str | EdgewiseError) -> None:
        """Note a problem."""
        self.found.append(str(problem))

    def attempt(
        self, where: str, stand_in: Default, question: Callable[..., T], *arguments: Any
    ) -> T | Default:
        """Return the answer to a question, or note its refusal under a place, and the stand-in."""
        try:
            return question(*arguments)
        except EdgewiseError as error:
            self.add(f"{where}: {error}")
            return stand_in

    def require_none(self) -> None:
        """Refuse the file if anything was noted.

        Raises:
            SpecError: lists all problems.
        """
        if len(self.found) == 1:
            raise SpecError(f"{self.source}: {self.found[0]}")
        if self.found:
            lines = ["\n    ".join(problem.split("\n")) for problem in self.found]
            listing = "\n  - ".join(["", *lines])
            raise SpecError(f"{self.source} has {len(lines)} problems:{listing}")


class Table:
    """Answer questions about one table; `path` is where it stands, as in `models[2]`.

    >>> problems = Problems("my.toml")
    >>> table = Table(problems, "task", {"nam": "ioi", "seed": "zero"})
    >>> table.text("name", "none"), table.whole("seed", 0, minimum=0)
    ('none', 0)
    >>> table.finish()
    >>> print(*problems.found, sep="\\n")
    task.seed is "zero"; accepted: a whole number from 0 up.
    unknown key of [task] 'nam'; did you mean 'name'? Accepted: name, seed.
    """

    def __init__(self, problems: Problems, path: str, values: Mapping[str, Any]) -> None:
        self.problems, self.path, self._values = problems, path, values
        self._asked: list[str] = []

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def where(self, key: str) -> str:
        """Return a key's full path."""
        return f"{self.path}.{key}" if self.path else key

    def take(self, key: str) -> Any:
        """Return a value as it is, None if it is not there, and declare the key."""
        self._asked.append(key)
        return self._values.get(key)

    def text(self, key: str, default: Default, *, choices: Collection[str] = ()) -> str | Default:
        """Read a text, not blank, of a closed list if `choices` are given."""
        value = self._typed(key, str, "a text")
        if value is None:
            return default
        if not value.strip():
            return self._refuse(key, "a text that is not blank", default)
        if choices and value not in choices:
            self.problems.add(unknown(self.where(key), value, choices))
            return default
        return str(value)

    def whole(
        self, key: str, default: Default, *, minimum: int, maximum: int | None = None
    ) -> int | Default:
        """Read a whole number."""
        accepted = f"a whole number from {minimum} {'up' if maximum is None else f'to {maximum}'}"
        value = self._typed(key, int, accepted)
        if value is not None and not minimum <= value <= (value if maximum is None else maximum):
            return self._refuse(key, accepted, default)
        return default if value is None else int(value)

    def number(self, key: str, default: Default, accepted: str) -> float | Default:
        """Read a number; `accepted` describes which."""
        value = self._typed(key, (int, float), accepted)
        return default if value is None else float(value)

    def flag(self, key: str, default: Default) -> bool | Default:
        """Read true or false."""
        value = self._typed(key, bool, "true or false")
        return default if value is None else bool(value)

    def texts(self, key: str, default: Sequence[str], accepted: str) -> tuple[str, ...]:
        """Read a list of texts, without repetition, not empty."""
        value = self.take(key)
        if value is None:
            return tuple(default)
        listed = isinstance(value, list) and all(isinstance(item, str) for item in value)
        if not listed or not value or len(set(value)) < len(value):
            return self._refuse(key, f"a list of {accepted}, each once", tuple(default))
        return tuple(value)

    def table(self, key: str) -> Table:
        """Read a table within; a missing one is empty."""
        value = self._typed(key, dict, f"a table, [{self.where(key)}]")
        return Table(self.problems, self.where(key), value or {})

    def tables(self, key: str) -> list[Table]:
        """Read a list of tables, written `[[key]]`."""
        value = self.take(key)
        if isinstance(value, list) and all(isinstance(item, dict) for item in value):
            paths = [f"{self.where(key)}[{i}]" for i in range(1, len(value) + 1)]
            return [Table(self.problems, *pair) for pair in zip(paths, value, strict=True)]
        if value is not None:
            self._refuse(key, f"tables, each headed [[{self.where(key)}]]", None)
        return []

    def finish(self, hint: Callable[[str], str | None] = lambda key: None) -> None:
        """Note every key that nobody asked for; `hint` may know more about one."""
        for key in self._values:
            if key in self._asked:
                continue
            what = f"key of [{self.path}]" if self.path else "table"
            known = hint(key)
            self.problems.add(known or unknown(what, key, dict.fromkeys(self._asked)))

    def _typed(self, key: str, kinds: type | tuple[type, ...], accepted: str) -> Any:
        value = self.take(key)
        if value is None:
            return None
        if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
            return self._refuse(key, accepted, None)
        return value

    def _refuse(self, key: str, accepted: str, stand_in: Default) -> Default:
        found = shown(self._values[key])
        self.problems.add(f"{self.where(key)} is {found}; accepted: {accepted}.")
        return stand_in


def shown(value: Any) -> str:
    """Show a value much as TOML writes it.

    >>> shown(True), shown([1, "a"])
    ('true', '[1, "a"]')
    """
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:79] + "…"


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        SpecError: it is missing, no text, or no TOML; says where.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise SpecError(f"{path} does not exist; expected an experiment's TOML file.") from None
    except UnicodeDecodeError:
        raise SpecError(
            f"{path} is not text (UTF-8); expected an experiment's TOML file."
        ) from None
    except OSError as error:
        raise SpecError(f"cannot read {path}: {error.strerror or error}.") from error
    return parse_toml(text, str(path))


def parse_toml(text: str, source: str) -> dict[str, Any]:
    """Parse TOML; `source` names the text in messages.

    Raises:
        SpecError: a syntax error, with its line shown and the column marked.
    """
    tomllib = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        found: dict[str, Any] = tomllib.loads(text)
        return found
    except tomllib.TOMLDecodeError as error:
        message = str(error)
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


def dump_toml(document: Mapping[str, Any]) -> str:
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
