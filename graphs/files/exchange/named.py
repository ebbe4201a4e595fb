"""Edges by their own names, in a text or a JSON file.

    # a comment; blank lines are skipped too
    m0->a3.h1<q>
    a3.h1->logits

    ["m0->a3.h1<q>", ["a3.h1", "logits"], ["a3.h1", "m4", 0.02]]

Of JSON an object's list `edges` is taken too. What stands behind an edge's names is not read.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...calls.typed import typed
from ...circuit import Circuit
from ...errors import EdgewiseError, FileFormatError
from ...graph import ComputationGraph
from ...names import Edge
from ..reading import LINES_BYTES, at_home, listed, parse_json, read_text, short
from .edge_lists import circuit_of

WHAT = "a list of edges"
_FORM = "accepted: one edge a line, as in m0->a3.h1<q>, or a JSON list of such names or of pairs"
_JSON = re.compile(
    r'(?:\[|\{\s*"edges"\s*:\s*\[)\s*'
    r'(?:"[^"\\]{0,60}->|\[\s*"[^"\\]{0,40}"\s*,\s*"(?:[^"\\]{0,40}<[qkv]>|m\d+|o\d+|s\d+|logits)")'
)
_HEAD = 2**12


@typed
@dataclass(frozen=True)
class NamedEdges:
    """Edges that a file names, in its order; `sha256`: of the file's text."""

    path: Path
    edges: tuple[str, ...]
    sha256: str

    @typed
    def on(self, graph: ComputationGraph) -> Circuit:
        """Return the edges on a graph; a FileFormatError names those that it has not."""
        return circuit_of(self.path, graph, self.edges)


@typed
def is_named(path: str | Path) -> bool:
    """Tell whether a file's beginning looks like a list of edges by their own names."""
    place = at_home(path)
    try:
        if not place.is_file():  # opening a pipe would wait
            return False
        with place.open("rb") as file:
            head = file.read(_HEAD).decode("utf-8", "ignore").lstrip("\ufeff \t\r\n")
    except (OSError, ValueError):
        return False
    if head.startswith(("[", "{")):
        return _JSON.match(head) is not None
    first = next((text for _, text in _lines(head)), "")
    return _problem(first) is None


@typed
def read_named(path: str | Path) -> NamedEdges:
    """Read a list of edges; a FileFormatError says which entries are none, and where they stand."""
    place = at_home(path)
    text = read_text(place, WHAT, LINES_BYTES).lstrip("\ufeff")
    if text.lstrip().startswith(("[", "{")):
        entries = list(_entries(place, text))
    else:
        entries = [(f"line {number}", line) for number, line in _lines(text)]
    wrong = [f"{where}: {why}" for where, name in entries if (why := _problem(name))]
    if wrong:
        raise FileFormatError(f"{path} is not {WHAT}: {listed(wrong)}; {_FORM}.")
    if not entries:
        raise FileFormatError(f"{path} names no edge; {_FORM}.")
    digest = hashlib.sha256(text.encode()).hexdigest()
    return NamedEdges(place, tuple(name for _, name in entries), digest)


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines that are no comment and not blank, with their numbers."""
    for number, line in enumerate(text.splitlines(), start=1):
        name = line.partition("#")[0].strip()
        if name:
            yield number, name


def _entries(path: Path, text: str) -> Iterator[tuple[str, str]]:
    """Yield the entries of a JSON list as names, with where they stand."""
    rows = parse_json(path, text, WHAT)
    rows = rows.get("edges") if isinstance(rows, dict) else rows
    if not isinstance(rows, list):
        raise FileFormatError(f"{path} is not {WHAT}: its edges are {short(rows)}; {_FORM}.")
    for number, row in enumerate(rows, start=1):
        name = row
        if isinstance(row, list) and len(row) >= 2 and all(isinstance(x, str) for x in row[:2]):
            name = f"{row[0]}->{row[1]}"
        yield f"entry {number}", name if isinstance(name, str) else short(name)


def _problem(name: str) -> str | None:
    """Say why something is no edge's name; None if it is one."""
    try:
        Edge.parse(name)
    except EdgewiseError as error:
        return str(error).rstrip(".")
    return None
