"""Hypotheses of paths as a TOML file: each a name, and the paths that are claimed to carry.

    [paths]                                     # optional: lists of paths by name, to be used below
    values = ["embed->a1.h0<v>->logits", "embed->a1.h2<v>->logits"]

    [hypotheses]
    "values alone" = ["values"]
    "with keys of one head" = ["values", "embed->a0.h1<v>->a1.h0<k>->logits"]

A path begins at a sender, which it takes whole, and ends at `logits`; `*` stands for every head of
a layer. What has no arrow is the name of a list above it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..graphs.calls.typed import typed
from ..graphs.errors import SpecError, unknown
from ..graphs.files.reading import SETTINGS_BYTES, read_text
from .errors import shown
from .toml import parse_toml

PARTS, TESTED = "paths", "hypotheses"
ARROW = "->"


@typed
def read_hypotheses(path: str | Path) -> dict[str, list[str]]:
    """Read the paths of each hypothesis, in the file's order.

    Raises:
        SpecError: no TOML (with the place), no lists of paths, or an unknown name in one.
    """
    text = read_text(Path(path), "a TOML file of hypotheses", SETTINGS_BYTES, SpecError)
    return parse_hypotheses(text.removeprefix("\ufeff"), source=str(path))


def parse_hypotheses(text: str, source: str = "the file") -> dict[str, list[str]]:
    """Read hypotheses given as text.

    >>> parse_hypotheses('[hypotheses]\\na = ["embed->logits"]\\nb = ["a", "m0->logits"]')
    {'a': ['embed->logits'], 'b': ['embed->logits', 'm0->logits']}
    """
    document = parse_toml(text, source)
    for key in document:
        if key not in (PARTS, TESTED):
            raise SpecError(f"{source}: {unknown('table', key, [PARTS, TESTED])}")
    named: dict[str, list[str]] = {}
    for table in (PARTS, TESTED):
        rows = document.get(table, {})
        if not isinstance(rows, Mapping) or (table == TESTED and not rows):
            raise SpecError(
                f"{source} has no table [{table}] of lists; accepted: names, each with a list of "
                'paths, as in direct = ["embed->logits"].'
            )
        for name, entries in rows.items():
            where = f"{source}: {table}.{name}"
            if name in named:
                raise SpecError(f"{where} is there twice; accepted: each name once.")
            named[name] = _paths(where, entries, named)
    tested = document[TESTED]
    assert isinstance(tested, Mapping)  # seen above
    return {name: named[name] for name in tested}


def _paths(where: str, entries: object, named: Mapping[str, list[str]]) -> list[str]:
    """Return the paths of a list, with those of the lists that it names."""
    if not isinstance(entries, list) or not entries:
        raise SpecError(
            f"{where} is {shown(entries)}; accepted: a list of one or more paths, such as "
            '["embed->a0.h1<v>->a1.h0<k>->logits"].'
        )
    found: list[str] = []
    for entry in entries:
        if not isinstance(entry, str):
            raise SpecError(f"{where} has {shown(entry)} in it; accepted: paths and names.")
        if ARROW in entry:
            found.append(entry)
        elif entry in named:
            found += named[entry]
        else:
            known = unknown("list of paths", entry, named)
            raise SpecError(f"{where}: {known} A path has arrows, as in embed->logits.")
    return list(dict.fromkeys(found))
