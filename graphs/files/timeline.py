"""Timeline files: the circuits of several checkpoints, and when each edge was in them, as JSON.

The format is `edgewise/timeline`, version 1, told in docs/reference/file-formats.md: a graph, a
task, a discovery, `checkpoints`, and rows of `nodes` and `edges`, such as

    ["a0.h1", "a1.h2<k>", [[2, 5]], [0.0, 0.1, 1.3, 2.2, 2.4, 2.5]]

An edge has its spans, runs of checkpoints that have it, and its score at every checkpoint. What
follows from the edges (their numbers, `to_last`, `to_first`, `nodes`) is computed anew on reading.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from typing_extensions import NotRequired, TypedDict

from ..calls.typed import typed
from ..circuit import Circuit
from ..comparison import Changes, Comparison
from ..diff import CircuitDiff
from ..errors import EdgewiseError, FileFormatError
from ..graph import ComputationGraph
from ..timeline import Timeline
from .atomic import write_text
from .circuit import (
    CertificateBlock,
    DiscoveryBlock,
    GraphBlock,
    Interval,
    ModelBlock,
    TaskBlock,
    edge_rows,
    graph_block,
    ordered_blocks,
    read_graph,
    read_rows,
    unscored,
)
from .diff import read_comparisons
from .json_files import dump_document, make_plain, ordered, others, read_document
from .reading import form_of, listed, problems, take_rows

FORMAT = "edgewise/timeline"
VERSION = 1
ROWS = ("nodes", "edges", "comparisons")
HEAD = ("label", "reference", "model", "certificate", "measures")
VALUES = ("full", "circuit", "empty", "faithfulness")
"""What is stored of every metric at a checkpoint, and on each side of the split."""

SIDES = ("in_sample", "held_out")


class SideValues(TypedDict):
    """What a metric is on one side of the split, with 95% intervals over prompts.

    `faithfulness` is null where it is undefined: where all edges and none differ by less than two
    standard errors. `interval` is its interval, `intervals` are those of the other values.
    """

    examples: int
    full: float | None
    circuit: float | None
    empty: float | None
    faithfulness: float | None
    interval: Interval | None
    intervals: dict[str, Interval | None]


class MetricValues(TypedDict):
    """What a metric is with all edges, those of the circuit and none; null if not finite.

    That is in sample; `faithfulness` is the ratio of means whatever its error, and `undefined` says
    why it means nothing, if so. `in_sample` and `held_out` say what it is worth; older files have
    none of these.
    """

    full: float | None
    circuit: float | None
    empty: float | None
    faithfulness: float | None
    undefined: NotRequired[str | None]
    in_sample: NotRequired[SideValues]
    held_out: NotRequired[SideValues]


class Checkpoint(TypedDict):
    """Where a checkpoint is from, and what was measured there, by metric."""

    reference: str
    model: ModelBlock
    certificate: CertificateBlock
    measures: dict[str, MetricValues]


class _Labelled(Checkpoint):
    label: str


class _Blocks(TypedDict):
    task: TaskBlock
    discovery: DiscoveryBlock
    checkpoints: Sequence[Checkpoint]


class TimelineDocument(TypedDict):
    """A timeline file, but for its rows."""

    graph: GraphBlock
    task: TaskBlock
    discovery: DiscoveryBlock
    checkpoints: list[_Labelled]
    edges: list[object]


@typed
@dataclass(frozen=True, eq=False)
class TimelineFile:
    """The circuits of several checkpoints, where they are from, and what was measured there.

    `task` and `discovery`, as in circuit files, are those of all checkpoints, in whose measures the
    discovery's metric stands first. `comparisons`: of each checkpoint with the one before, which
    edges changed on the same prompts; empty where that was not tested. `extra`: unknown top-level
    keys. An EdgewiseError names all
    keys that are missing, or a value JSON cannot hold.
    """

    timeline: Timeline
    checkpoints: tuple[Checkpoint, ...] = field(repr=False)
    task: TaskBlock
    discovery: DiscoveryBlock
    comparisons: tuple[Comparison, ...] = field(default=(), repr=False)
    extra: Mapping[str, object] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        make_plain(self, "task", "discovery", "extra", "checkpoints")
        object.__setattr__(self, "checkpoints", tuple(self.checkpoints))
        missing, wrong = problems(vars(self), _Blocks)
        if len(self.checkpoints) != len(self.timeline):
            missing.append(f"checkpoints ({len(self.timeline)}, not {len(self.checkpoints)})")
        if missing or wrong:
            found = f"missing: {', '.join(missing)}" if missing else listed(wrong)
            raise EdgewiseError(f"the timeline cannot be saved; {found}.")

    @typed
    def compared(self, i: int) -> Changes | None:
        """Return which edges changed from the checkpoint before to checkpoint i, if it is known."""
        if not (0 < i <= len(self.comparisons)):
            return None
        before, now = self.timeline.circuits[i - 1 : i + 1]
        return Changes(self.comparisons[i - 1], CircuitDiff(before, now))

    @typed
    def q_at(self, i: int, edge: str) -> float | None:
        """Return the q-value of an edge's change to checkpoint i from the one before, if known."""
        rows = self.comparisons[i - 1].edges if 0 < i <= len(self.comparisons) else ()
        return next((row.q for row in rows if row.edge == edge), None)

    @property
    def metric(self) -> str:
        """Return the discovery's metric."""
        return self.discovery["metric"]

    @property
    def metrics(self) -> list[str]:
        """List the metrics measured at every checkpoint, that of the discovery first."""
        return list(dict.fromkeys([self.metric, *self.checkpoints[0]["measures"]]))

    @typed
    def values(self, metric: str, what: str) -> list[float | None]:
        """Return one of `VALUES` of a metric at every checkpoint, in sample."""
        measures = [one["measures"] for one in self.checkpoints]
        every = cast("list[dict[str, dict[str, float | None]]]", measures)
        return [one.get(metric, {}).get(what) for one in every]

    @property
    def sides(self) -> tuple[str, ...]:
        """Return on which of `SIDES` was measured, the held-out one first; none in older files."""
        measures = [one["measures"] for one in self.checkpoints]
        every = cast("list[dict[str, dict[str, object]]]", measures)
        own = [one.get(self.metric, {}) for one in every]
        return tuple(side for side in SIDES[::-1] if all(side in one for one in own))

    @typed
    def measured(self, metric: str, side: str) -> list[SideValues | None]:
        """Return what a metric is at every checkpoint on one of `sides`, None where unknown."""
        measures = [one["measures"] for one in self.checkpoints]
        every = cast("list[dict[str, dict[str, SideValues]]]", measures)
        return [one.get(metric, {}).get(side) for one in every]


@typed
def write_timeline(path: str | Path, file: TimelineFile) -> None:
    """Write a timeline file, all or nothing; equal timelines give equal bytes."""
    write_text(path, dump_document(timeline_document(file), rows=ROWS))


def timeline_document(file: TimelineFile) -> dict[str, object]:
    """Return a timeline file's content as plain values."""
    line = file.timeline
    return {
        "format": FORMAT,
        "version": VERSION,
        "graph": graph_block(line.graph, {}),
        **ordered_blocks({"task": file.task, "discovery": file.discovery}),
        **ordered(file.extra, ()),
        "checkpoints": [_checkpoint(file, i) for i in range(len(line))],
        "nodes": [[str(life.thing), [list(span) for span in life.spans]] for life in line.nodes],
        "edges": [
            [*row[:2], [list(span) for span in life.spans], row[2:]]
            for life, row in zip(line.edges, edge_rows(line.union, *line.scores), strict=True)
        ],
        **({"comparisons": [asdict(one) for one in file.comparisons]} if file.comparisons else {}),
    }


def _checkpoint(file: TimelineFile, i: int) -> dict[str, object]:
    line, head = file.timeline, file.checkpoints[i]
    return {
        "label": line.labels[i],
        "reference": head["reference"],
        **ordered_blocks({"model": head["model"], "certificate": head["certificate"]}),
        "measures": {
            metric: _values(head["measures"][metric])
            for metric in file.metrics
            if metric in head["measures"]
        },
        **ordered({key: value for key, value in head.items() if key not in HEAD}, ()),
        "edges": len(line.circuits[i]),
        "nodes": sum(i in life for life in line.nodes),
        "to_last": line.to_last(i).to_dict() if i else None,
        "to_first": line.to_first(i).to_dict() if i else None,
    }


def _values(measured: MetricValues) -> dict[str, object]:
    """Return a metric's block with its keys in order, those of both sides too."""
    block: dict[str, object] = {**measured}
    for side in SIDES:
        if isinstance(inner := block.get(side), Mapping):
            block[side] = ordered(inner, ("examples", *VALUES, "interval", "intervals"))
    found = ordered({k: v for k, v in block.items() if k not in SIDES}, VALUES)
    return {**found, **{side: block[side] for side in SIDES if side in block}}


@typed
def read_timeline(path: str | Path, parsed: dict[str, object] | None = None) -> TimelineFile:
    """Read and check a timeline file, parsed or not; a FileFormatError says what is wrong."""
    document = parsed or read_document(path, "a timeline file", {FORMAT: VERSION})
    with form_of(path, document, TimelineDocument) as file:
        heads: Any = file["checkpoints"]  # a list only if the form fits
        if not (isinstance(heads, list) and heads):
            raise FileFormatError(
                f"{path} is incomplete; missing: checkpoints (a list of objects, one at least)."
            )
        graph = read_graph(path, heads[0]["model"], file["graph"], scores=len(heads))
    alive, scores = _read_edges(path, graph, file["edges"], len(heads))
    labels = tuple(one["label"] for one in heads)
    try:
        line = Timeline(labels, tuple(Circuit(graph, kept) for kept in alive), tuple(scores))
    except EdgewiseError as error:
        raise FileFormatError(f"{path}: {error}") from None
    derived = ("label", "edges", "nodes", "to_last", "to_first")
    stated: Any = tuple({k: v for k, v in one.items() if k not in derived} for one in heads)
    extra = others(document, "graph", "task", "discovery", "checkpoints", *ROWS)
    compared = read_comparisons(path, document, graph)
    if compared and len(compared) != len(heads) - 1:
        raise FileFormatError(
            f"{path}: {len(compared)} comparisons stand beside {len(heads)} checkpoints; accepted: "
            "one of each checkpoint but the first."
        )
    return TimelineFile(line, stated, file["task"], file["discovery"], compared, extra)


def _read_edges(
    path: str | Path, graph: ComputationGraph, rows: list[Any], count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return what circuits keep, bool [checkpoints, ports, senders], and scores of that shape."""
    take_rows(path, "edges", rows, lambda row: _row_problem(row, count))
    flat, scores = [[*row[:2], *row[3]] for row in rows], unscored(graph, count)
    union = read_rows(path, graph, "edges", flat, scores)
    senders = {str(node): i for i, node in enumerate(graph.senders)}
    ports = {str(port): i for i, port in enumerate(graph.ports)}
    alive = np.zeros((count, *union.shape), dtype=bool)
    for sender, port, spans, _ in rows:
        for first, last in spans:
            alive[first : last + 1, ports[port], senders[sender]] = True
    return alive, scores


def _row_problem(row: Any, count: int) -> str | None:
    """Say what is wrong with the spans and scores of a row; names are checked elsewhere."""
    form = "[sender, port, [[first, last], …], [score, …]]"
    if not (isinstance(row, list) and len(row) == 4 and all(isinstance(x, list) for x in row[2:])):
        return f"{str(row)[:60]}: accepted: {form}"
    spans, scores = row[2:]
    name, before = f"{row[0]}->{row[1]}", -2
    if len(scores) != count:
        return f"{name}: {len(scores)} scores for {count} checkpoints"
    for span in spans:
        if not (isinstance(span, list) and [type(end) for end in span] == [int, int]):
            return f"{name}: {str(span)[:60]} is no span; accepted: [first, last]"
        if not before + 1 < span[0] <= span[1] < count:
            return f"{name}: the spans {spans} do not stand in order within {count} checkpoints"
        before = span[1]
    return None if spans else f"{name}: no checkpoint has it"
