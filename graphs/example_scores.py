"""Scores of every edge on each example: what standard errors and resampled circuits are made of."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .calls.typed import typed
from .errors import EdgewiseError, GraphMismatch, unknown
from .graph import ComputationGraph
from .levels.nodes import EDGE, NODE
from .names import Edge
from .scores import Scores

IN_MEMORY = 1 << 30
"""Bytes of scores that are kept in memory; more stand in a temporary file."""

AT_ONCE = 1 << 14
"""Edges whose scores are added up together: memory for one block of them in float64."""


@typed
@dataclass(frozen=True, eq=False)
class ExampleScores:
    """How much every edge helps on each example, in the order of the prompt pairs.

    `values`: float16 or float32 [examples, edges], the edges in the order of the mask, row by row
    over [ports, senders]; positive means that ablating the edge raises the example's loss.
    `groups`: each example's label, such as its template; one without is a group of its own.
    `level`: as of `Scores`: where nodes have scores, each edge has its sender's.

    >>> graph = ComputationGraph(layers=1, heads=1)
    >>> values = np.zeros((3, graph.edge_count), dtype=np.float32)
    >>> values[:, 0] = 1, 2, 6
    >>> found = ExampleScores(graph, values, ("a", "", "a"))
    >>> found.mean()[graph.edge_at(0, 0)], found.clusters
    (3.0, array([0, 1, 0]))
    """

    graph: ComputationGraph
    values: np.ndarray
    groups: tuple[str, ...]
    level: str = EDGE

    def __post_init__(self) -> None:
        if self.level not in (EDGE, NODE):
            raise unknown("level", self.level, (EDGE, NODE))
        found, edges = self.values, self.graph.edge_count
        if found.dtype not in (np.float16, np.float32) or found.shape[1:] != (edges,):
            raise GraphMismatch(
                f"scores of examples are {found.dtype} of shape {list(found.shape)}; accepted: "
                f"float16 or float32 of shape [examples, {edges}], an edge a column."
            )
        if not len(found) or len(self.groups) != len(found):
            raise GraphMismatch(
                f"scores of {len(found)} examples have {len(self.groups)} groups; accepted: one "
                "for each example, and at least one example."
            )
        values = found.view()  # never a copy: it may stand on the disk
        values.setflags(write=False)
        object.__setattr__(self, "values", values)

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        edges = f"{self.graph.edge_count:,} edges"
        return f"ExampleScores({len(self):,} examples, {edges}, {self.graph.describe()})"

    @property
    def clusters(self) -> np.ndarray:
        """Number the groups by their first example: int [examples]."""
        return clusters_of(self.groups)

    @typed
    def mean(self) -> Scores:
        """Average over the examples: the scores of the method that these are of."""
        edges = self.values.shape[1]
        blocks = [self.values[:, i : i + AT_ONCE] for i in range(0, edges, AT_ONCE)]
        return self.on_edges(np.concatenate([x.mean(0, dtype=np.float64) for x in blocks]))

    def on_edges(self, numbers: np.ndarray) -> Scores:
        """Return one number for each edge [edges], such as a column's mean, as scores."""
        values = np.full(self.graph.reads.shape, np.nan)
        values[self.graph.reads] = numbers
        return Scores(self.graph, values, self.level)

    @typed
    def at_nodes(self) -> ExampleScores:
        """Return the scores of nodes that those of their edges add up to, on each example."""
        if self.level == NODE:
            return self
        rows, senders = self.graph.reads.nonzero()
        nodes = (rows % self.graph.positions) * len(self.graph.senders) + senders
        found = new_values(self.graph, len(self))
        for row, values in zip(found, self.values, strict=True):
            row[:] = np.bincount(nodes, values)[nodes]
        return ExampleScores(self.graph, found, self.groups, NODE)

    @typed
    def edge_index(self, edge: Edge | str) -> int:
        """Return an edge's column."""
        row, column = self.graph.locate(edge)
        return edge_starts(self.graph)[row] + int(self.graph.reads[row, :column].sum())

    @typed
    def chosen(self, rows: Sequence[int] | np.ndarray) -> ExampleScores:
        """Keep some of the examples, by their numbers, in this order."""
        numbers = [int(row) for row in rows]
        return ExampleScores(
            self.graph, self.values[numbers], tuple(self.groups[i] for i in numbers), self.level
        )


def clusters_of(groups: Sequence[str]) -> np.ndarray:
    """Number the groups of examples, int [examples]; an example without one is its own.

    >>> clusters_of(["a", "b", "", "a", ""]).tolist()
    [0, 1, 2, 0, 3]
    """
    known: dict[object, int] = {}
    keys = (group or (i,) for i, group in enumerate(groups))
    return np.array([known.setdefault(key, len(known)) for key in keys], dtype=np.int64)


def edge_starts(graph: ComputationGraph) -> list[int]:
    """Return the column of each port's first edge and, last, the number of edges."""
    return [0, *np.cumsum(graph.reads.sum(1)).tolist()]


def new_values(graph: ComputationGraph, examples: int) -> np.ndarray:
    """Return float32 [examples, edges] to be filled: in memory, or if it is large on the disk.

    An EdgewiseError says if there is no room for it.
    """
    shape = (examples, graph.edge_count)
    size = examples * graph.edge_count * 4
    if size <= IN_MEMORY:
        return np.zeros(shape, dtype=np.float32)
    folder = tempfile.gettempdir()
    if (free := shutil.disk_usage(folder).free) < size:  # else writing would kill the process
        raise EdgewiseError(
            f"the scores of {graph.edge_count:,} edges on {examples:,} examples take "
            f"{size / 1e9:.1f} GB, and {folder} has {free / 1e9:.1f} GB left; accepted: fewer "
            "examples, or room there (TMPDIR names another folder)."
        )
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, dtype=np.float32, mode="w+", shape=shape)
