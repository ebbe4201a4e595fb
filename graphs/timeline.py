"""Circuits of one model at several times: what appears, what stays, what vanishes.

A *thing* (an edge or a node) is alive at a checkpoint if that checkpoint's circuit has it. It is
*born* at a checkpoint where it is alive and was not at the one before, and *dies* at one where it
is not alive and was at the one before; the first checkpoint's things are born before the record
begins. Its *spans* are its unbroken runs of checkpoints. Overlaps of two checkpoints are those of a
diff of their circuits; the weighted one tells edges at a cut, which come and go with little weight,
from a circuit that is rebuilt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from itertools import pairwise

import numpy as np

from .calls.typed import typed
from .circuit import Circuit
from .diff import CircuitDiff
from .errors import EdgewiseError, GraphMismatch
from .graph import ComputationGraph
from .names import Edge, Node
from .overlap import Overlap, weighted_overlap


@dataclass(frozen=True)
class Life:
    """When a thing is alive: `spans` are runs of checkpoints, (first, last), in order.

    >>> life = Life("m0", ((1, 2), (4, 4)))
    >>> life.born, life.last, life.length, life.returns, 3 in life
    (1, 4, 3, 1, False)
    """

    thing: Edge | Node | str
    spans: tuple[tuple[int, int], ...]

    @property
    def born(self) -> int:
        """Return the first checkpoint that has it."""
        return self.spans[0][0]

    @property
    def last(self) -> int:
        """Return the last checkpoint that has it."""
        return self.spans[-1][1]

    @property
    def length(self) -> int:
        """Count the checkpoints that have it."""
        return sum(last - first + 1 for first, last in self.spans)

    @property
    def returns(self) -> int:
        """Count how often it was gone and came again."""
        return len(self.spans) - 1

    def __contains__(self, checkpoint: object) -> bool:
        return isinstance(checkpoint, int) and any(a <= checkpoint <= b for a, b in self.spans)


@dataclass(frozen=True)
class Change:
    """What two checkpoints share: edges, nodes (A is the earlier), weighted overlap of scores."""

    edges: Overlap
    nodes: Overlap
    weighted: float | None

    def to_dict(self) -> dict[str, object]:
        """Return everything under its name; `died` and `born` are what only one of the two has."""
        named = {}
        for name, overlap in (("edges", self.edges), ("nodes", self.nodes)):
            counts = {"shared": overlap.shared, "died": overlap.only_a, "born": overlap.only_b}
            indices = {"jaccard": overlap.jaccard, "corrected_jaccard": overlap.corrected}
            named[name] = {**counts, **indices}
        return {**named, "weighted_overlap": self.weighted}


@typed
@dataclass(frozen=True, eq=False)
class Timeline:
    """The circuits of several checkpoints, in order of time, on equal graphs.

    `labels` are all different. `scores`: float32 [ports, senders] for each checkpoint, of all edges
    as far as they were measured, in the circuit or not; NaN, the default, where there is none.

    >>> graph = ComputationGraph(layers=1, heads=1)
    >>> empty = Circuit.empty(graph)
    >>> early, late = empty.with_edges(["embed->m0"]), empty.with_edges(["m0->logits"])
    >>> line = Timeline(("0", "10", "20"), (empty, early, early | late))
    >>> [(str(life.thing), life.spans) for life in line.edges]
    [('embed->m0', ((1, 2),)), ('m0->logits', ((2, 2),))]
    >>> [str(edge) for edge in line.born(2).edges], line.to_last(2).edges.jaccard
    (['m0->logits'], 0.5)
    """

    labels: tuple[str, ...]
    circuits: tuple[Circuit, ...]
    scores: tuple[np.ndarray, ...] = ()

    def __post_init__(self) -> None:
        for name in ("labels", "circuits", "scores"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        check_labels(self.labels, len(self.circuits))
        for label, circuit in zip(self.labels[1:], self.circuits[1:], strict=True):
            unequal = self.graph.differences(circuit.graph)
            if unequal:
                raise GraphMismatch(
                    f"checkpoint '{label}' cannot be compared with '{self.labels[0]}': their "
                    f"graphs differ in {'; '.join(unequal)}."
                )
        shape = self.graph.reads.shape
        scores = self.scores or (np.full(shape, np.nan),) * len(self)
        if [np.shape(values) for values in scores] != [shape] * len(self):
            raise GraphMismatch(f"scores do not fit {len(self)} circuits of shape {shape}.")
        frozen = tuple(np.array(values, dtype=np.float32) for values in scores)
        for values in frozen:
            values.setflags(write=False)
        object.__setattr__(self, "scores", frozen)

    def __repr__(self) -> str:
        ends = f"from {self.labels[0]!r} to {self.labels[-1]!r}"
        edges = f"{len(self.core):,} edges in all, {len(self.union):,} in any"
        return f"Timeline({len(self)} checkpoints {ends}, {edges})"

    def __len__(self) -> int:
        return len(self.circuits)

    @property
    def graph(self) -> ComputationGraph:
        """Return the graph of all circuits."""
        return self.circuits[0].graph

    # -- what is ever, and always, there --------------------------------------------------------

    @cached_property
    def union(self) -> Circuit:
        """Keep the edges that any checkpoint has."""
        return reduce(Circuit.__or__, self.circuits)

    @cached_property
    def core(self) -> Circuit:
        """Keep the edges that every checkpoint has."""
        return reduce(Circuit.__and__, self.circuits)

    @cached_property
    def edges(self) -> tuple[Life, ...]:
        """List the lives of all edges that any checkpoint has, in graph order."""
        alive = np.stack([circuit.kept for circuit in self.circuits])
        return tuple(
            Life(self.graph.edge_at(row, column), spans_of(alive[:, row, column]))
            for row, column in np.argwhere(self.union.kept)
        )

    @cached_property
    def nodes(self) -> tuple[Life, ...]:
        """List the lives of all nodes but `logits` that any checkpoint has, in graph order."""
        sets = [set(circuit.nodes) for circuit in self.circuits]
        return tuple(
            Life(node, spans_of([node in alive for alive in sets]))
            for node in self.union.nodes[:-1]  # `logits` is always the last
        )

    def _circuit(self, i: int) -> Circuit:
        if not -len(self) <= i < len(self):
            raise EdgewiseError(
                f"checkpoint {i} is none of the timeline's; accepted: 0 to {len(self) - 1}."
            )
        return self.circuits[i]

    # -- from one checkpoint to another ---------------------------------------------------------

    @typed
    def born(self, i: int) -> Circuit:
        """Keep the edges of checkpoint i that the one before lacks; of the first, none."""
        now = self._circuit(i)
        return now - (self.circuits[i - 1] if i else now)

    @typed
    def died(self, i: int) -> Circuit:
        """Keep the edges that checkpoint i lacks and the one before has; of the first, none."""
        now = self._circuit(i)
        return (self.circuits[i - 1] if i else now) - now

    @typed
    def change(self, i: int, j: int) -> Change:
        """Compare checkpoint i with checkpoint j, the later one."""
        summary = CircuitDiff(self._circuit(i), self._circuit(j)).summary()
        weights = [np.where(self.circuits[k].kept, self.scores[k], 0.0) for k in (i, j)]
        return Change(summary.edges, summary.nodes, weighted_overlap(*weights))

    @typed
    def to_last(self, i: int) -> Change:
        """Compare checkpoint i with the one before; the first with itself."""
        return self.change(max(i - 1, 0), i)

    @typed
    def to_first(self, i: int) -> Change:
        """Compare checkpoint i with the first."""
        return self.change(0, i)

    # -- which matter ---------------------------------------------------------------------------

    @typed
    def peak(self, thing: Edge | Node | str) -> float:
        """Return an edge's largest |score| where a circuit has it, 0 without scores."""
        return float(self.peaks[self.graph.locate(str(thing))])

    @cached_property
    def peaks(self) -> np.ndarray:
        """Return every edge's largest |score| where a circuit has it, float64 [ports, senders]."""
        kept = [circuit.kept for circuit in self.circuits]
        found: np.ndarray = np.where(kept, np.abs(np.nan_to_num(self.scores)), 0.0).max(axis=0)
        return found

    @typed
    def longest(self, most: int) -> list[Life]:
        """List the edges alive at most checkpoints; among equals the larger |score| first."""
        return sorted(self.edges, key=lambda one: (-one.length, -self.peak(one.thing)))[:most]

    @typed
    def newest(self, most: int) -> list[Life]:
        """List the edges that appear latest, not at first; of equals the larger |score| first."""
        appeared = [life for life in self.edges if life.born]
        return sorted(appeared, key=lambda one: (-one.born, -self.peak(one.thing)))[:most]


def check_labels(labels: Sequence[str], count: int) -> None:
    """Refuse labels that do not name so many checkpoints, each by its own (EdgewiseError)."""
    if not count:
        raise EdgewiseError("a timeline needs at least one checkpoint.")
    if len(labels) != count:
        raise EdgewiseError(
            f"{len(labels)} labels are given for {count} checkpoints; accepted: one for each."
        )
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise EdgewiseError(
            f"the label '{twice[0]}' is given twice; accepted: labels that are all different."
        )


def spans_of(alive: Sequence[bool] | np.ndarray) -> tuple[tuple[int, int], ...]:
    """Return the unbroken runs of True, as (first, last).

    >>> spans_of([True, False, True, True])
    ((0, 0), (2, 3))
    """
    padded = [False, *map(bool, alive), False]
    turns = [i for i, (before, after) in enumerate(pairwise(padded)) if before != after]
    return tuple((first, after - 1) for first, after in zip(turns[::2], turns[1::2], strict=True))
