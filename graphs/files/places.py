"""How a file finds what it names on this machine when the file, or what it names, has moved.

A block that names a directory or file (`model.name`, `task.file`) keeps the name as it was typed
and, beside it, `paths`: `absolute`, and `relative` to the folder of the file that holds the block.
Names that mean the same everywhere (a hub's model, a built-in task) have no `paths`.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from typing_extensions import NotRequired, TypedDict

from .reading import at_home, is_there


class Paths(TypedDict):
    """Where something on this machine was when it was used."""

    absolute: str
    relative: NotRequired[str]


def local_paths(path: str | Path) -> Paths:
    """Return where something on this machine is, for a block that is in no file yet."""
    whole = Path(os.path.abspath(at_home(path)))
    return {"absolute": str(whole.parent.resolve() / whole.name)}  # a link itself stays one


def possible_places(name: str, paths: Paths | None, file: Path | None) -> list[str]:
    """List where what a file names may be, beside it, where it was, as typed; existing ones first.

    Without paths, in an older file, the place beside the file is a guess: what is there is to be
    used only if it has the hash that the file states.
    """
    relative = name if paths is None else paths.get("relative")
    beside = []
    if relative is not None and file is not None:
        beside = [os.path.normpath(file.resolve().parent / at_home(relative))]
    if paths is not None:
        found = [*beside, paths["absolute"], name]
    else:
        found = [name, *(place for place in beside if place != os.path.abspath(at_home(name)))]
    return sorted(dict.fromkeys(found), key=lambda place: not is_there(place))


def moved(paths: Paths, source: Path | None, target: Path | None) -> Paths:
    """Return paths read from one file as they stand in another, or in none: not `relative`."""
    found: Paths = {"absolute": possible_places(paths["absolute"], paths, source)[0]}
    if target is not None:
        with suppress(ValueError):  # on another drive
            relative = os.path.relpath(found["absolute"], target.resolve().parent)
            found["relative"] = Path(relative).as_posix()
    return found
