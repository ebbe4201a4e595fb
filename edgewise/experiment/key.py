"""What a result depends on: one answer for journals, kept results, a run's steps and repetitions.

Every field of the parts that lead to a result counts, unless it is marked `Uncounted`; so do facts
that no part knows (hashes of weights, prompts and files) and, where they move a number, versions,
device, processor and threads.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from .parts import Part, Uncounted


def digest(values: Mapping[str, object]) -> str:
    """Hash plain values; equal values give equal hashes.

    >>> digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    True
    """
    text = json.dumps(values, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()


@dataclass(frozen=True)
class Key:
    """Everything one result depends on, by name: results of equal keys are equal."""

    values: Mapping[str, object]

    @cached_property
    def sha256(self) -> str:
        """Return a hash; equal keys have equal ones."""
        return digest(self.values)


def key_of(*parts: Part, **facts: object) -> Key:
    """Return what a result depends on: parts of an experiment, what surrounds them, and facts."""
    from .. import __version__

    values: dict[str, object] = {}
    for part in parts:
        values |= counted(part)
        values |= part.surroundings()
    return Key({**values, **facts, "edgewise": __version__})


def counted(part: Part) -> dict[str, object]:
    """Return the fields of a part that count, as `part.field`."""
    name = type(part).__name__.removesuffix("Spec").lower()
    left_out = part.marked(Uncounted)
    found: dict[str, object] = {}
    for field in part.names():
        value = getattr(part, field)
        if field in left_out:
            continue
        if isinstance(value, Part):
            found |= {f"{name}.{k.partition('.')[2]}": v for k, v in counted(value).items()}
        elif isinstance(value, tuple):
            found[f"{name}.{field}"] = [_itself(one) for one in value]
        elif isinstance(value, Mapping):
            found |= {f"{name}.{k}": v for k, v in value.items()}
        else:
            found[f"{name}.{field}"] = _itself(value)
    return found


def _itself(value: object) -> object:
    """Return a value, or what it says itself that counts of it."""
    return value.counted() if hasattr(value, "counted") else value
