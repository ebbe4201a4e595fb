"""Registries whose entries are found by being there, in the modules of one folder."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from typing import TypeVar

from ..graphs.errors import unknown

T = TypeVar("T")


def registered(registry: Mapping[str, T], package: str | None) -> dict[str, T]:
    """Import a folder's modules, but private ones; return what these register, sorted by name."""
    assert package is not None
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"{package}.{module.name}")
    return dict(sorted(registry.items()))


def look_up(what: str, name: str, known: Mapping[str, T]) -> T:
    """Return what has a name; `UnknownName` if nothing has."""
    if name not in known:
        raise unknown(what, name, known)
    return known[name]
