"""The cache of converted models, and whether a model in it is as it was stored.

A record holds every file's hash and what the system notes of it when it is written to: a file is
read again only if that has changed. The hash of a file is of its content.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from ...errors import EdgewiseError
from ...files.atomic import write_text
from ...files.reading import read_json
from ..libraries import one_line

_RECORD = ".verified.json"


def cache_directory() -> Path:
    """Return the directory for converted models: `$EDGEWISE_CACHE`, else the XDG cache's."""
    own = os.environ.get("EDGEWISE_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "edgewise"


def sha256_of(path: Path) -> str:
    """Hash a file's content."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            found.update(block)
    return found.hexdigest()


Entry = tuple[str, list[int]]
"""A file's hash, and what the system noted of it when that was taken."""


def damage_of(ready: Path, converted: Mapping[str, str]) -> str | None:
    """Say in what a cached model is not as it was stored; None if it is.

    `converted`: every file's hash, for a model without a record that can be read.
    """
    try:
        record, names = read_record(ready, converted), names_in(ready)
        if odd := {*record} ^ {*names}:
            name = min(odd)
            return f"{name} is {'missing' if name in record else 'none of its files'}"
        new: dict[str, Entry] = {}
        for name, old in record.items():
            if not (ready / name).is_file():  # a pipe or device would be read for ever
                return f"{name} is no file"
            new[name] = old if old[1] == _noted(ready / name) else _entry(ready / name)
            if new[name][0] != old[0]:
                return f"{name} has other content"
    except OSError as error:
        return one_line(error)
    if new != record:
        _write(ready, new)
    return None


def names_in(ready: Path) -> list[str]:
    """List the files of a model in the cache, but for its record."""
    return sorted(path.name for path in ready.iterdir() if not path.name.startswith("."))


def _entry(path: Path) -> Entry:
    noted = _noted(path)  # before it is read: what changes meanwhile is noticed
    return sha256_of(path), noted


def _noted(path: Path) -> list[int]:
    """Return what changes when a file is written to; nobody can set the time of its last change."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def read_record(ready: Path, converted: Mapping[str, str]) -> dict[str, Entry]:
    """Return every file's entry; without a record that can be read, what they must hold."""
    try:
        found = read_json(ready / _RECORD)
        return {name: (str(digest), list(noted)) for name, (digest, noted) in found.items()}
    except (EdgewiseError, ValueError, TypeError, AttributeError):
        return {name: (digest, []) for name, digest in converted.items()}


def write_record(ready: Path) -> None:
    """Note how the files of a model are, which has just been stored."""
    _write(ready, {name: _entry(ready / name) for name in names_in(ready)})


def _write(ready: Path, record: dict[str, Entry]) -> None:
    with contextlib.suppress(EdgewiseError):  # a cache nobody can write to is read every time
        write_text(ready / _RECORD, json.dumps(record))
