"""The file of a walk's decisions, from which `discover --resume` goes on after any interruption.

JSON Lines. The first line says of which request the journal is: everything that the decisions, and
the last digits of their numbers, depend on. Each further line is one decided step, given to the
operating system before the next begins: killing the process loses the step it is at. A line ends in
a hash over its own text and the hash before it, so a line that was changed does not follow from the
one before, and is refused. Only the last line can be torn, and then it is ignored. The file goes
when the result is written.

A training decides nothing before its end. Beside its journal, which has the request alone, stands
its latest state (`NAME.state.safetensors`), which names the journal's first seal.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ..discovery.journal import Entry
from ..graphs.errors import EdgewiseError, FileFormatError, JournalMismatch
from ..graphs.files.atomic import unwritable
from ..graphs.files.reading import LINES_BYTES, read_bounded
from .state import State, read_state, state_path, write_state

if TYPE_CHECKING:
    import numpy as np

FORMAT, VERSION = "edgewise/journal", 2
_SEALED = re.compile(rb'(\{.+), "sha256": "([0-9a-f]{64})"\}')


def journal_path(output: str | Path) -> Path:
    """Return where the journal of an output stands.

    >>> journal_path("circuits/ioi.json").name
    'ioi.journal.jsonl'
    """
    path = Path(output)
    return path.with_name(f"{path.name.removesuffix('.json')}.journal.jsonl")


class JournalFile:
    """The decisions of one walk, in a file: `entries` made before, which took so many `seconds`.

    `resume`: go on from what the file holds; otherwise, and where it is of another request or
    version if `or_anew`, it is begun anew.
    """

    def __init__(self, path: str | Path, *, resume: bool = False, or_anew: bool = False) -> None:
        self.path, self._resume, self._or_anew = Path(path), resume, or_anew
        self.entries: tuple[Entry, ...] = ()
        self.seconds = 0.0
        self._start = 0.0
        self._first = self._last = ""
        self._state: State | None = None
        self._file: IO[bytes] | None = None

    @property
    def resumes(self) -> bool:
        """Tell whether what the file holds must be gone on with."""
        return self._resume and not self._or_anew and self.path.exists()

    def begin(self, request: Mapping[str, object]) -> None:
        """Open the file for a request, and read what was decided before.

        Raises:
            JournalMismatch: it is of another request; says what differs.
            FileFormatError: it is no journal, or was changed after it was written; says where.
            EdgewiseError: it cannot be written.
        """
        request = json.loads(json.dumps(request, default=str))
        size = self._read(request) if self._resume and self.path.exists() else 0
        try:
            self._file = self.path.open("r+b" if self.path.exists() else "w+b", buffering=0)
            self._file.truncate(size)
            self._file.seek(0, os.SEEK_END)
            if not size:
                self._add({"format": FORMAT, "version": VERSION, "request": request})
            os.fsync(self._file.fileno())
        except OSError as error:
            self.close()
            raise unwritable(f"the journal {self.path}", error) from error
        self._begin_state(going_on=size > 0)
        self._start = time.perf_counter()

    def _begin_state(self, *, going_on: bool) -> None:
        """Read the state of a training that goes on, or remove that of an earlier one."""
        path = state_path(self.path)
        if not going_on:
            self._first = self._last
            path.unlink(missing_ok=True)
            return
        try:
            self._state = read_state(path, self._first)
        except FileFormatError:
            if not self._or_anew:
                self.close()
                raise
        if self._state is not None:
            self.seconds = self._state.seconds

    @property
    def begun(self) -> bool:
        """Tell whether the file is this walk's."""
        return self._file is not None

    def append(self, entry: Entry) -> None:
        """Add an entry, with the time since the walk began, that of earlier sessions included."""
        try:
            self._add(replace(entry, seconds=self._spent).as_dict())
        except OSError as error:
            raise EdgewiseError(
                f"cannot write the journal {self.path}: {error.strerror or error}; make room, then "
                "go on with `resume`."
            ) from error

    @property
    def _spent(self) -> float:
        return self.seconds + time.perf_counter() - self._start

    def saved(self) -> dict[str, np.ndarray] | None:
        """Return the latest state of a training; None if none was kept."""
        return None if self._state is None else dict(self._state.arrays)

    def save(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep a training's state in the place of the one before, all or nothing."""
        write_state(state_path(self.path), State(arrays, self._first, self._spent))

    def close(self) -> None:
        """Close the file, which stays; a result is not written yet."""
        if self._file is not None:
            self._file.close()

    def remove(self) -> None:
        """Close and delete the file, if a walk has written it, once the result is written."""
        self.close()
        if self.begun:
            for path in (self.path, state_path(self.path)):
                path.unlink(missing_ok=True)

    def _add(self, document: Mapping[str, object]) -> None:
        """Write a line with its seal; one that cannot be written whole is taken back."""
        assert self._file is not None  # begin() comes first
        text = json.dumps(document, ensure_ascii=False).encode("utf-8", "backslashreplace")
        seal = _seal(text, self._last)
        line, end = text[:-1] + f', "sha256": "{seal}"}}\n'.encode(), self._file.tell()
        try:
            while line:  # where a disk fills up, the first part is taken without an error
                line = line[self._file.write(line) :]
        except OSError:
            with suppress(OSError):
                self._file.truncate(end)
            raise
        self._last = seal

    def _read(self, request: Mapping[str, object]) -> int:
        """Read the file; return how many bytes are whole, or 0 if it is to be begun anew."""
        content = read_bounded(self.path, LINES_BYTES, "a journal")
        *lines, _ = content.split(b"\n")  # what follows the last newline is torn
        found = list(self._checked(lines))
        if not found:
            return 0
        written = found[0][0].get("request")
        if not isinstance(written, dict):
            raise self._refused(" says no request; start anew")
        if written != request:
            if self._or_anew:
                return 0
            keys = [key for key in {**written, **request} if written.get(key) != request.get(key)]
            parts = [f"{key} ({written.get(key)} there, {request.get(key)} now)" for key in keys]
            raise JournalMismatch(
                f"the journal {self.path} is of another request; these differ: {', '.join(parts)}. "
                "Repeat the request that was stopped, or start anew without `resume`, which "
                "overwrites the journal."
            )
        self.entries = tuple(Entry.read(step, n) for n, (step, _) in enumerate(found[1:], start=1))
        self.seconds = self.entries[-1].seconds if self.entries else 0.0
        self._first, self._last = found[0][1], found[-1][1]
        return sum(len(line) + 1 for line in lines[: len(found)])

    def _checked(self, lines: Sequence[bytes]) -> Iterator[tuple[Any, str]]:
        """Yield what each line holds, and its seal, as long as it follows from the one before."""
        seal = ""
        for number, line in enumerate(lines, start=1):
            document: Any = None
            with suppress(ValueError, RecursionError):
                document = json.loads(line)
            if not isinstance(document, dict):
                if number == len(lines):
                    return  # torn by a crash, as no other line can be
                raise self._refused(f", line {number}, is damaged; start anew")
            version = (document.get("format"), document.get("version"))
            if number == 1 and version != (FORMAT, VERSION):
                if self._or_anew and version[0] == FORMAT:
                    return
                raise self._refused(
                    f" is no journal of version {VERSION}, whose lines are sealed against changes; "
                    "remove it, or start anew"
                )
            sealed = _SEALED.fullmatch(line)
            if sealed is None or sealed[2].decode() != _seal(sealed[1] + b"}", seal):
                follows = f"does not follow from line {number - 1}: it " if number > 1 else ""
                raise self._refused(
                    f", line {number}, {follows}was changed after it was written; start anew"
                )
            seal = sealed[2].decode()
            yield document, seal

    def _refused(self, why: str) -> FileFormatError:
        return FileFormatError(f"{self.path}{why} without `resume`.")


def _seal(text: bytes, last: str) -> str:
    """Hash a line's text with the seal of the line before."""
    return hashlib.sha256(last.encode() + text).hexdigest()
