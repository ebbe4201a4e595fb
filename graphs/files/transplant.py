"""Transplant files: what parts of one model carry of its gain over another, as JSON.

The format is `edgewise/transplant`, version 1:

    {
      "format": "edgewise/transplant", "version": 1,
      "a": {"model": {…}}, "b": {"model": {…}},
      "graph": {"grouped_kv": false, "senders": 301, "ports": 841, "edges": 123211},
      "task": {"name": …, "sha256": …, "examples": 16, "seed": 0},
      "transplant": {"direction": "b-into-a", "metric": "logit_diff", "dtype": …, "seconds": …},
      "measures": {"a": 0.3, "b": 14.8, "gain": 14.5, "everything": 14.7, "carried": 0.99},
      "chosen": {"nodes": ["a5.h1"], "edges": 57, "value": 1.2, "carried": 0.06},
      "edges": [["a5.h1", "m7"], …],
      "singles": [["a23.h1", 1.2, 0.06], …], "greedy": [["a23.h1", 1.2, 0.06], …]
    }

`everything` is the receiver with the values of all nodes. `chosen` and `edges` (the chosen edges)
stand there if parts were chosen; otherwise `singles` ranks nodes, each alone, and `greedy` lists
what was chosen one after the other, each row with the value and the share carried so far. A share
is null if the two models measure the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict, cast

from ..circuit import Circuit
from ..errors import FileFormatError, NameSyntaxError
from ..graph import ComputationGraph
from ..names import Node
from .atomic import write_text
from .circuit import COUNTS, OPTIONS, PROVENANCE, edge_rows, graph_block, read_graph, read_rows
from .json_files import dump_document, missing_keys, ordered, read_document, to_plain
from .reading import listed

FORMAT = "edgewise/transplant"
VERSION = 1
DIRECTIONS = ("b-into-a", "a-into-b")
ROWS = ("edges", "singles", "greedy")

REQUIRED = {
    "a": ("model",),
    "b": ("model",),
    "graph": (OPTIONS[0], *COUNTS),
    "task": PROVENANCE["task"],
    "transplant": ("direction", "metric"),
    "measures": ("a", "b", "gain", "everything", "carried"),
}
CHOSEN = ("nodes", "edges", "value", "carried")

Row = tuple[Node, float, float | None]
"""A node, what was measured, and the share of the gain that is."""


class Origin(TypedDict):
    """Where a model comes from."""

    model: Mapping[str, object]


class Gain(TypedDict):
    """What both models measure, B's gain over A, and what all nodes' values carry of it."""

    a: float
    b: float
    gain: float
    everything: float
    carried: float | None


class Chosen(TypedDict):
    """The nodes that were chosen whole, what was measured, and the share of the gain that is."""

    nodes: list[str]
    value: float
    carried: float | None


@dataclass(frozen=True, eq=False)
class TransplantFile:
    """What parts of one model carry of its gain over another.

    Args:
        graph: the graph of both models.
        a, b: where each model comes from.
        task, transplant: plain blocks; `REQUIRED` lists the keys each must have.
        measures: the gain.
        chosen, edges: what was chosen; None if nothing was.
        singles, greedy: the rankings.
        extra: unknown top-level keys.
    """

    graph: ComputationGraph
    a: Origin
    b: Origin
    task: Mapping[str, object]
    transplant: Mapping[str, object]
    measures: Gain
    chosen: Chosen | None = None
    edges: Circuit | None = None
    singles: tuple[Row, ...] = ()
    greedy: tuple[Row, ...] = ()
    extra: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("a", "b", "task", "transplant", "measures", "chosen", "extra"):
            object.__setattr__(self, name, to_plain(getattr(self, name), name))

    @property
    def direction(self) -> str:
        """Return one of `DIRECTIONS`."""
        return str(self.transplant["direction"])

    @property
    def metric(self) -> str:
        """Return what was measured."""
        return str(self.transplant["metric"])

    def as_dict(self) -> dict[str, object]:
        """Return the document; equal files give equal ones."""
        chosen: dict[str, object] = {}
        if self.edges is not None and self.chosen is not None:
            block = {**self.chosen, "edges": len(self.edges)}
            chosen = {"chosen": ordered(block, CHOSEN), "edges": edge_rows(self.edges)}
        rankings = {
            name: [[str(node), value, share] for node, value, share in getattr(self, name)]
            for name in ("singles", "greedy")
        }
        return {
            "format": FORMAT,
            "version": VERSION,
            **{name: {"model": ordered(getattr(self, name)["model"], PROVENANCE["model"])}
               for name in ("a", "b")},
            "graph": graph_block(self.graph, {}),
            **{name: ordered(getattr(self, name), REQUIRED[name])
               for name in ("task", "transplant", "measures")},
            **ordered(self.extra, ()),
            **chosen,
            **rankings,
        }  # fmt: skip


def write_transplant(path: str | Path, file: TransplantFile) -> None:
    """Write a transplant file, all or nothing.

    Raises:
        EdgewiseError: the file cannot be written there.
    """
    write_text(path, dump_document(file.as_dict(), rows=ROWS))


def read_transplant(path: str | Path) -> TransplantFile:
    """Read and check a transplant file.

    Raises:
        FileFormatError: says what is wrong.
    """
    document = read_document(path, "a transplant file", {FORMAT: VERSION})
    lacking = missing_keys(document, REQUIRED)
    for name in ("a", "b"):
        if isinstance(document.get(name), dict):
            inner = missing_keys(document[name], {"model": PROVENANCE["model"]})
            lacking += [f"{name}.{key}" for key in inner if f"{name}.{key}" not in lacking]
    if "chosen" in document:
        lacking += missing_keys(document, {"chosen": CHOSEN})
        lacking += [] if "edges" in document else ["edges"]
    lacking += [name for name in ("singles", "greedy") if name not in document]
    if lacking:
        raise FileFormatError(f"{path} is incomplete; missing: {', '.join(lacking)}.")
    _check_words(path, document)
    graph = read_graph(path, document["a"]["model"], document["graph"])
    edges, chosen = None, None
    if "chosen" in document:
        chosen = cast("Chosen", {k: v for k, v in document["chosen"].items() if k != "edges"})
        edges = Circuit(graph, read_rows(path, graph, "edges", document["edges"], scores=0)[0])
        if document["chosen"]["edges"] != len(edges):
            raise FileFormatError(
                f"{path} contradicts itself: chosen.edges is {document['chosen']['edges']!r}, but "
                f"{len(edges)} are listed."
            )
    known = {"format", "version", "chosen", *REQUIRED, *ROWS}
    return TransplantFile(
        graph=graph,
        **{name: document[name] for name in ("a", "b", "task", "transplant", "measures")},
        chosen=chosen,
        edges=edges,
        singles=_ranking(path, graph, "singles", document["singles"]),
        greedy=_ranking(path, graph, "greedy", document["greedy"]),
        extra={key: value for key, value in document.items() if key not in known},
    )


def _check_words(path: str | Path, document: Mapping[str, Any]) -> None:
    """Refuse a direction that there is none of, and measures that are no numbers."""
    direction = document["transplant"]["direction"]
    if direction not in DIRECTIONS:
        raise FileFormatError(
            f"{path}: direction is {direction!r}; accepted: {', '.join(DIRECTIONS)}."
        )
    blocks = {"measures": REQUIRED["measures"], "chosen": CHOSEN[2:]}
    for block, keys in blocks.items():
        for key in keys if block in document else ():
            value = document[block][key]
            if not _is_number(value) and not (value is None and key == "carried"):
                raise FileFormatError(f"{path}: {block}.{key} is {value!r}; accepted: a number.")
    nodes = document.get("chosen", {}).get("nodes", [])
    if not isinstance(nodes, list) or not all(isinstance(name, str) for name in nodes):
        raise FileFormatError(f"{path}: chosen.nodes is {nodes!r}; accepted: a list of names.")


def _ranking(path: str | Path, graph: ComputationGraph, key: str, rows: Any) -> tuple[Row, ...]:
    """Read rows [node, value, carried]; errors name the first rows at fault, counted from 1."""
    if not isinstance(rows, list):
        raise FileFormatError(f"{path}: {key} is no list; accepted: [[node, value, carried], …].")
    found: list[Row] = []
    problems = []
    for number, row in enumerate(rows, start=1):
        problem = _problem(graph, row, {node for node, _, _ in found})
        if problem is None:
            found.append((Node.parse(row[0]), row[1], row[2]))
        else:
            problems.append(f"entry {number}, {problem}")
    if problems:
        raise FileFormatError(f"{path}: {key} cannot be read: {listed(problems)}.")
    return tuple(found)


def _problem(graph: ComputationGraph, row: Any, before: set[Node]) -> str | None:
    if not isinstance(row, list) or len(row) != 3 or not isinstance(row[0], str):
        return f"{row!r}: accepted: [node, value, carried]"
    if not _is_number(row[1]) or not (row[2] is None or _is_number(row[2])):
        return f"{row!r}: value and carried must be numbers"
    try:
        node = Node.parse(row[0])
    except NameSyntaxError as error:
        return str(error).rstrip(".")
    if node not in graph.sender_index:
        return f"the graph has no sender {row[0]}; it has {graph.describe()}"
    return f"{row[0]} stands twice" if node in before else None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
