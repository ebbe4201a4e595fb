"""Edge lists of Edge-Pruning: pairs of a writer's and a reader's name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...calls.typed import typed
from ...circuit import Circuit
from ...errors import FileFormatError
from ...graph import ComputationGraph
from ..reading import listed, parse_json, read_text, short
from .edge_lists import circuit_of

WHAT = "an edge list of Edge-Pruning"
_FORM = 'accepted: [["a0.h1", "a2.h3.q"], ["m2", "resid_post"], …]'
_WRITERS = {"embeds": "embed", "tok_embeds": "tok", "pos_embeds": "pos"}
_WRITER = re.compile(r"(?:embeds|tok_embeds|pos_embeds|a\d{1,9}\.h\d{1,9}|m\d{1,9})")
_READER = re.compile(
    r"(?:(?P<head>a\d{1,9}\.h(?P<index>\d{1,9}))\.(?P<letter>[qkv])|m\d{1,9}|resid_post)"
)


@dataclass(frozen=True)
class PrunedList:
    """What an edge list says: pairs of a writer's and a reader's name, in their order."""

    edges: tuple[tuple[str, str], ...]

    @property
    def split_embedding(self) -> bool:
        """Tell whether token and position embedding are senders of their own."""
        return any(writer in ("tok_embeds", "pos_embeds") for writer, _ in self.edges)

    @property
    def whole_embedding(self) -> bool:
        """Tell whether an edge begins at token and position embedding together."""
        return any(writer == "embeds" for writer, _ in self.edges)

    @property
    def keys_or_values(self) -> bool:
        """Tell whether an edge ends at a head's keys or values."""
        return self.groups > 0

    @property
    def embedding_listed(self) -> bool:
        """Tell whether the list has edges of the embedding at all."""
        return any(writer in _WRITERS for writer, _ in self.edges)

    @property
    def groups(self) -> int:
        """Return how many key/value heads there must be at least."""
        found = (_READER.fullmatch(reader) for _, reader in self.edges)
        return max(
            (int(one["index"]) + 1 for one in found if one and one["letter"] in ("k", "v")),
            default=0,
        )


@typed
def read_edge_pruning(path: str | Path, graph: ComputationGraph) -> Circuit:
    """Read the `edges.json` of Edge-Pruning; name the entries that cannot be read.

    A file made without embedding nodes lists no edge of the embedding because all are kept; so
    they are kept here. Its Llama circuits have one `k` and `v` for each key/value head: give a
    graph with `grouped_kv`. GPT-2 circuits with embedding nodes need `split_embedding`.
    """
    return pruned_on(path, parse_edge_pruning(path), graph)


def pruned_on(path: str | Path, found: PrunedList, graph: ComputationGraph) -> Circuit:
    """Put what was read on a graph."""
    edges = [f"{_WRITERS.get(a, a)}->{_port(b, graph)}" for a, b in found.edges]
    circuit = circuit_of(path, graph, edges)
    if found.embedding_listed:
        return circuit
    sources = np.array([node.layer is None for node in graph.senders])
    return Circuit(graph, circuit.kept | (graph.reads & sources[None, :]))


def parse_edge_pruning(path: str | Path, rows: object = None) -> PrunedList:
    """Read and check every entry of a list, without a graph; `rows`: the file's JSON."""
    if rows is None:
        rows = parse_json(path, read_text(path, WHAT), WHAT)
    if not isinstance(rows, list):
        raise FileFormatError(f"{path} is not {WHAT}; {_FORM}.")
    problems = list(_problems(rows))
    if problems:
        raise FileFormatError(f"{path} is not {WHAT}; {_FORM}; {listed(problems)}.")
    return PrunedList(tuple((a, b) for a, b in rows if not _is_step(a, b)))


def _problems(rows: list[object]) -> Iterator[str]:
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, list) or [type(name) for name in row] != [str, str]:
            yield f"entry {number} is {short(row)}"
            continue
        writer, reader = row
        if _is_step(writer, reader):
            continue
        if not _WRITER.fullmatch(writer):
            yield f"entry {number}: {short(writer)} is no writer, such as a0.h1, m2 or embeds"
        elif not _READER.fullmatch(reader):
            yield f"entry {number}: {short(reader)} is no reader, such as a2.h3.q, m2 or resid_post"


def _is_step(writer: str, reader: str) -> bool:
    """Tell a step inside a head, from its input to what it writes."""
    node, dot, letter = writer.rpartition(".")
    return bool(dot) and letter in ("q", "k", "v") and node == reader


def _port(name: str, graph: ComputationGraph) -> str:
    found = _READER.fullmatch(name)
    if name == "resid_post":
        return "logits"
    if found is None or found["head"] is None:
        return name
    grouped = graph.grouped_kv and found["letter"] != "q"
    node = found["head"]
    return f"{node.replace('.h', '.kv') if grouped else node}<{found['letter']}>"
