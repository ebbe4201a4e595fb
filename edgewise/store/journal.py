"""The file of a walk's decisions, from which `discover --resume` goes on after any interruption.

JSON Lines. The first line says of which request the journal is: everything that the decisions, and
the last digits of their numbers, depend on. Each further line is one decided step, given to the
operating system before the next begins: killing the process loses the step it is at. Only the last
line can be torn, and then it is ignored. The file goes when the result is written.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from ..graphs.errors import EdgewiseError, FileFormatError, JournalMismatch
from .hashes import digest

FORMAT, VERSION = "edgewise/journal", 1


def journal_path(output: str | Path) -> Path:
    """Return where the journal of an output stands.

    >>> journal_path("circuits/ioi.json").name
    'ioi.journal.jsonl'
    """
    path = Path(output)
    return path.with_name(f"{path.name.removesuffix('.json')}.journal.jsonl")


class JournalFile:
    """Keep the decisions of one walk in a file.

    Args:
        path: the file.
        resume: go on from what the file holds; otherwise it is begun anew.
        or_anew: where the file is of another request, begin it anew too, in place of an error.

    `entries`: what was decided before. `seconds`: how long that took.
    """

    def __init__(self, path: str | Path, *, resume: bool = False, or_anew: bool = False) -> None:
        self.path, self._resume, self._or_anew = Path(path), resume, or_anew
        self.entries: tuple[Mapping[str, Any], ...] = ()
        self.seconds = 0.0
        self._start = 0.0
        self._file: IO[bytes] | None = None

    def begin(self, request: Mapping[str, Any]) -> None:
        """Open the file for a request, and read what was decided before.

        Raises:
            JournalMismatch: it is of another request; says what differs.
            FileFormatError: it is no journal.
            EdgewiseError: it cannot be written.
        """
        request = json.loads(json.dumps(request, default=str))
        kept = self._read(request) if self._resume and self.path.exists() else b""
        if not kept:
            header = {"format": FORMAT, "version": VERSION, "sha256": digest(request)}
            kept = _line({**header, "request": request})
        try:
            self._file = self.path.open("r+b" if self.path.exists() else "w+b", buffering=0)
            self._file.truncate(len(kept) if self.entries else 0)
            if not self.entries:
                self._file.write(kept)
            self._file.seek(0, os.SEEK_END)
            os.fsync(self._file.fileno())
        except OSError as error:
            raise EdgewiseError(
                f"cannot write the journal {self.path}: {error.strerror or error}."
            ) from error
        self._start = time.perf_counter()

    @property
    def begun(self) -> bool:
        """Tell whether the file is this walk's."""
        return self._file is not None

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add an entry, with the time since the walk began, that of earlier sessions included."""
        assert self._file is not None  # begin() comes first
        seconds = self.seconds + time.perf_counter() - self._start
        try:
            self._file.write(_line({**entry, "seconds": seconds}))
        except OSError as error:
            raise EdgewiseError(
                f"cannot write the journal {self.path}: {error.strerror or error}; make room, then "
                "go on with --resume."
            ) from error

    def close(self) -> None:
        """Close the file, which stays; a result is not written yet."""
        if self._file is not None:
            self._file.close()

    def remove(self) -> None:
        """Close and delete the file, if a walk has written it, once the result is written."""
        self.close()
        if self.begun:
            with suppress(FileNotFoundError):
                self.path.unlink()

    def _read(self, request: Mapping[str, Any]) -> bytes:
        """Read the file; return what of it is whole, or nothing if it is to be begun anew."""
        *lines, _ = self.path.read_bytes().split(b"\n")  # what follows the last newline is torn
        parsed = _parsed(self.path, lines)
        if not parsed:
            return b""
        header, *entries = parsed
        if header.get("format") != FORMAT or header.get("version") != VERSION:
            raise FileFormatError(
                f"{self.path} is no journal of version {VERSION}; remove it, or start anew without "
                "--resume."
            )
        written = dict(header.get("request", {}))
        if written != request:
            if self._or_anew:
                return b""
            raise JournalMismatch(_difference(self.path, written, request))
        self.entries = tuple(entries)
        if entries:
            self.seconds = float(entries[-1].get("seconds", 0.0))
        return b"".join(line + b"\n" for line in lines[: len(parsed)])


def _line(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def _parsed(path: Path, lines: list[bytes]) -> list[dict[str, Any]]:
    """Parse lines; the last may be damaged by a crash, as may not any other."""
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            document = json.loads(line)
            if not isinstance(document, dict):
                raise ValueError("no object")
        except ValueError:
            if number == len(lines):
                break
            raise FileFormatError(
                f"{path}, line {number}, is damaged; start anew without --resume."
            ) from None
        found.append(document)
    return found


def _difference(path: Path, written: Mapping[str, Any], request: Mapping[str, Any]) -> str:
    keys = [key for key in {**written, **request} if written.get(key) != request.get(key)]
    parts = [f"{key} ({written.get(key)} there, {request.get(key)} now)" for key in keys]
    return (
        f"the journal {path} is of another request; these differ: {', '.join(parts)}. Repeat the "
        "request that was stopped, or start anew without --resume, which overwrites the journal."
    )
