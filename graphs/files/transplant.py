"""Transplant files: what parts of one model carry of its gain over another, as JSON.

The format is `edgewise/transplant`, version 1, told in docs/reference/file-formats.md: two models,
a graph, a task, `measures`, and either `chosen` parts with their edges or rankings of nodes: of
`singles`, each alone, and `greedy`, one chosen after the other. A share of the gain is null if the
two models measure the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from typing_extensions import NotRequired, TypedDict

from ..calls.typed import typed
from ..circuit import Circuit
from ..errors import FileFormatError
from ..graph import ComputationGraph
from ..names import Node
from .atomic import write_text
from .circuit import (
    PROVENANCE,
    GraphBlock,
    ModelBlock,
    TaskBlock,
    edge_rows,
    graph_block,
    read_graph,
    read_rows,
    unscored,
)
from .json_files import dump_document, make_plain, ordered, others, read_document
from .reading import form_of, is_number, take_rows

FORMAT = "edgewise/transplant"
VERSION = 1
DIRECTIONS = ("b-into-a", "a-into-b")
ROWS = ("edges", "singles", "greedy")

BLOCKS = {
    "task": PROVENANCE["task"],
    "transplant": ("direction", "metric"),
    "measures": ("a", "b", "gain", "everything", "carried"),
    "chosen": ("nodes", "edges", "value", "carried"),
}
"""Blocks with their keys in file order."""

Row = tuple[Node, float, float | None]
"""A node, what was measured, and the share of the gain that is."""


class Origin(TypedDict):
    """Where a model comes from."""

    model: ModelBlock


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


class How(TypedDict):
    """Whose values were put into whose run, what was measured, and what numbers depend on."""

    direction: str
    metric: str
    beam: NotRequired[int]
    share: NotRequired[float | None]
    seconds: NotRequired[float]
    dtype: NotRequired[str]
    device: NotRequired[str]


class _Counted(Chosen):
    edges: int


class TransplantDocument(TypedDict):
    """A transplant file."""

    a: Origin
    b: Origin
    graph: GraphBlock
    task: TaskBlock
    transplant: How
    measures: Gain
    chosen: NotRequired[_Counted]
    edges: NotRequired[object]
    singles: object
    greedy: object


@typed
@dataclass(frozen=True, eq=False)
class TransplantFile:
    """What parts of one model carry of its gain over another; both have the graph.

    `transplant` says how the prompts of the task were run. `chosen` and its `edges` are None if
    nothing was chosen; `singles` and `greedy` are the rankings; `extra`: unknown top-level keys.
    """

    graph: ComputationGraph
    a: Origin
    b: Origin
    task: TaskBlock
    transplant: How
    measures: Gain
    chosen: Chosen | None = None
    edges: Circuit | None = None
    singles: tuple[Row, ...] = field(default=(), repr=False)
    greedy: tuple[Row, ...] = ()
    extra: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        make_plain(self, "a", "b", "task", "transplant", "measures", "chosen", "extra")

    def as_dict(self) -> dict[str, object]:
        """Return the document; equal files give equal ones."""
        chosen: dict[str, object] = {}
        if self.edges is not None and self.chosen is not None:
            block = {**self.chosen, "edges": len(self.edges)}
            chosen = {"chosen": ordered(block, BLOCKS["chosen"]), "edges": edge_rows(self.edges)}
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
            **{name: ordered(getattr(self, name), BLOCKS[name])
               for name in ("task", "transplant", "measures")},
            **ordered(self.extra, ()),
            **chosen,
            **rankings,
        }  # fmt: skip


@typed
def write_transplant(path: str | Path, file: TransplantFile) -> None:
    """Write a transplant file, all or nothing."""
    write_text(path, dump_document(file.as_dict(), rows=ROWS))


@typed
def read_transplant(path: str | Path) -> TransplantFile:
    """Read and check a transplant file; a FileFormatError says what is wrong."""
    document = read_document(path, "a transplant file", {FORMAT: VERSION})
    with form_of(path, document, TransplantDocument) as file:
        direction = file["transplant"]["direction"]
        if direction not in DIRECTIONS:
            raise FileFormatError(
                f"{path}: direction is {direction!r}; accepted: {', '.join(DIRECTIONS)}."
            )
        nodes: object = file["chosen"]["nodes"] if "chosen" in file else []
        if not isinstance(nodes, list) or not all(isinstance(name, str) for name in nodes):
            raise FileFormatError(f"{path}: chosen.nodes is {nodes!r}; accepted: a list of names.")
        graph = read_graph(path, file["a"]["model"], file["graph"], scores=0)
    if "chosen" in file and "edges" not in file:
        raise FileFormatError(f"{path} is incomplete; missing: edges.")
    edges, chosen = None, None
    if "chosen" in file:
        stated = file["chosen"]["edges"]
        chosen = cast("Chosen", others(file["chosen"], "edges"))
        edges = Circuit(graph, read_rows(path, graph, "edges", file["edges"], unscored(graph, 0)))
        if stated != len(edges):
            raise FileFormatError(
                f"{path} contradicts itself: chosen.edges is {stated!r}, but "
                f"{len(edges)} are listed."
            )
    singles = _ranking(path, graph, "singles", file["singles"])
    greedy = _ranking(path, graph, "greedy", file["greedy"])
    return TransplantFile(
        graph, file["a"], file["b"], file["task"], file["transplant"], file["measures"],
        chosen, edges, singles, greedy, others(document, "a", "b", "graph", *BLOCKS, *ROWS),
    )  # fmt: skip


def _ranking(path: str | Path, graph: ComputationGraph, key: str, rows: Any) -> tuple[Row, ...]:
    if not isinstance(rows, list):
        raise FileFormatError(f"{path}: {key} is no list; accepted: [[node, value, carried], …].")
    found: dict[Node, Row] = {}

    def take(row: Any) -> str | None:
        if not isinstance(row, list) or len(row) != 3 or not isinstance(row[0], str):
            return f"{row!r}: accepted: [node, value, carried]"
        if not is_number(row[1]) or not (row[2] is None or is_number(row[2])):
            return f"{row!r}: value and carried must be numbers"
        node = Node.parse(row[0])
        if node not in graph.sender_index:
            return f"the graph has no sender {row[0]}; it has {graph.describe()}"
        if node in found:
            return f"{row[0]} stands twice"
        found[node] = (node, row[1], row[2])
        return None

    take_rows(path, key, rows, take)
    return tuple(found.values())
