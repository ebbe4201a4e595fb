"""Transplant files: what parts of one model carry of its gain over another, as JSON.

The format is `edgewise/transplant`, version 1, told in docs/reference/file-formats.md: two models,
a graph, a task, `measures`, and either `chosen` parts with their edges or rankings of nodes: of
`singles`, each alone, and `greedy`, one chosen after the other. These are in sample; the same nodes
with intervals stand in `in_sample` and `held_out`, where a share of the gain is null if it means
nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

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
    Interval,
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
SIDES = ("in_sample", "held_out")
RANKINGS = ("singles", "greedy")
ROWS = ("edges", *RANKINGS, *(f"{side}.{name}" for side in SIDES for name in RANKINGS))

BLOCKS = {
    "task": PROVENANCE["task"],
    "transplant": ("direction", "metric"),
    "measures": ("a", "b", "gain", "everything", "carried", "undefined", *SIDES),
    "chosen": ("nodes", "edges", "value", "carried", *SIDES),
}
"""Blocks with their keys in file order."""

Row = tuple[Node, float, float | None]
"""A node, what was measured in sample, and the share of the gain that is, whatever its error."""


class Origin(TypedDict):
    """Where a model comes from."""

    model: ModelBlock


class GainOfSide(TypedDict):
    """What both models measure on one side of the split, and what all nodes' values carry.

    Intervals are of 95%, over prompts. `carried` is null where the gain is less than two standard
    errors (`gain_error`), or no more than rounding: then no share of it means anything.
    """

    examples: int
    a: float
    b: float
    gain: float
    gain_interval: Interval | None
    gain_error: float | None
    everything: float
    carried: float | None
    interval: Interval | None


class Gain(TypedDict):
    """What both models measure, B's gain over A, and what all nodes' values carry of it.

    That is in sample: where nodes were ranked, on the pairs they were ranked on. `carried`, as in
    all older keys, is the ratio of means whatever its error; `undefined` tells that it, and every
    share in sample, means nothing (see `GainOfSide`). Null if both models measure the same.
    """

    a: float
    b: float
    gain: float
    everything: float
    carried: float | None
    undefined: NotRequired[bool]
    in_sample: NotRequired[GainOfSide]
    held_out: NotRequired[GainOfSide]


class ShareOfSide(TypedDict):
    """What was measured on one side of the split, and the share of the gain that is."""

    value: float
    carried: float | None
    interval: Interval | None


class Chosen(TypedDict):
    """The nodes that were chosen whole, what was measured, and the share of the gain that is."""

    nodes: list[str]
    value: float
    carried: float | None
    in_sample: NotRequired[ShareOfSide]
    held_out: NotRequired[ShareOfSide]


class NodeShare(NamedTuple):
    """What was measured with a node, the share of the gain that is, and its 95% interval."""

    node: Node
    value: float
    carried: float | None
    low: float | None = None
    high: float | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Return the ends of the interval, None where there is none."""
        return None if self.low is None or self.high is None else (self.low, self.high)


@dataclass(frozen=True)
class Rankings:
    """Nodes with what was measured on one side of the split, in the order of the ranking in sample.

    Each node of `greedy` stands together with those before it.
    """

    singles: tuple[NodeShare, ...] = field(default=(), repr=False)
    greedy: tuple[NodeShare, ...] = ()


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
    in_sample: NotRequired[dict[str, object]]
    held_out: NotRequired[dict[str, object]]


@typed
@dataclass(frozen=True, eq=False)
class TransplantFile:
    """What parts of one model carry of its gain over another; both have the graph.

    `transplant` says how the prompts of the task were run. `chosen` and its `edges` are None if
    nothing was chosen; `singles` and `greedy` are the rankings, made in sample. `in_sample` and
    `held_out`: the ranked nodes with intervals, on the pairs of the ranking and on others; None in
    older files, where parts were chosen, or where nothing was held out. `extra`: unknown top-level
    keys.
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
    in_sample: Rankings | None = field(default=None, repr=False)
    held_out: Rankings | None = None
    extra: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        make_plain(self, "a", "b", "task", "transplant", "measures", "chosen", "extra")

    @property
    def measured_on(self) -> Literal["in_sample", "held_out"]:
        """Return the side that is told first: held out, if anything is."""
        return "held_out" if "held_out" in self.measures else "in_sample"

    def as_dict(self) -> dict[str, object]:
        """Return the document; equal files give equal ones."""
        chosen: dict[str, object] = {}
        if self.edges is not None and self.chosen is not None:
            block = {**self.chosen, "edges": len(self.edges)}
            chosen = {"chosen": ordered(block, BLOCKS["chosen"]), "edges": edge_rows(self.edges)}
        rankings = {
            name: [[str(node), value, share] for node, value, share in getattr(self, name)]
            for name in RANKINGS
        }
        sides = {
            side: {name: [[str(row.node), *row[1:]] for row in getattr(found, name)]
                   for name in RANKINGS}
            for side in SIDES if (found := getattr(self, side)) is not None
        }  # fmt: skip
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
            **sides,
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
    ranked = {name: _ranking(path, graph, name, cast("Any", file)[name]) for name in RANKINGS}
    singles, greedy = (tuple((*row[:3],) for row in ranked[name]) for name in RANKINGS)
    in_sample, held_out = (_side(path, graph, side, document, ranked) for side in SIDES)
    return TransplantFile(
        graph, file["a"], file["b"], file["task"], file["transplant"], file["measures"],
        chosen, edges, singles, greedy, in_sample, held_out,
        extra=others(document, "a", "b", "graph", *BLOCKS, *ROWS, *SIDES),
    )  # fmt: skip


def _side(
    path: str | Path,
    graph: ComputationGraph,
    side: str,
    document: Mapping[str, object],
    ranked: Mapping[str, Sequence[NodeShare]],
) -> Rankings | None:
    """Read the ranked nodes of one side of the split, which must be those of the ranking."""
    block: Any = document.get(side)
    if block is None:
        return None
    found = {}
    for name in RANKINGS:
        key = f"{side}.{name}"
        found[name] = _ranking(path, graph, key, block.get(name), ends=True)
        if [row.node for row in found[name]] != [row.node for row in ranked[name]]:
            raise FileFormatError(
                f"{path} contradicts itself: {key} lists other nodes than {name}, or in another "
                "order."
            )
    return Rankings(**found)


def _ranking(
    path: str | Path, graph: ComputationGraph, key: str, rows: Any, *, ends: bool = False
) -> tuple[NodeShare, ...]:
    """Read rows of nodes; `ends`: with the ends of an interval."""
    names = ("node", "value", "carried", *(("low", "high") if ends else ()))
    form = f"[{', '.join(names)}]"
    if not isinstance(rows, list):
        raise FileFormatError(f"{path}: {key} is no list; accepted: [{form}, …].")
    found: dict[Node, NodeShare] = {}

    def take(row: Any) -> str | None:
        if not isinstance(row, list) or len(row) != len(names) or not isinstance(row[0], str):
            return f"{row!r}: accepted: {form}"
        if not is_number(row[1]) or not all(one is None or is_number(one) for one in row[2:]):
            return f"{row!r}: {', '.join(names[1:-1])} and {names[-1]} must be numbers"
        node = Node.parse(row[0])
        if node not in graph.sender_index:
            return f"the graph has no sender {row[0]}; it has {graph.describe()}"
        if node in found:
            return f"{row[0]} stands twice"
        found[node] = NodeShare(node, *row[1:])
        return None

    take_rows(path, key, rows, take)
    return tuple(found.values())
