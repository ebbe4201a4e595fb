"""Scores: one number for every edge of a graph; positive means the edge helps."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np

from .calls.typed import typed
from .circuit import Circuit
from .errors import GraphMismatch, unknown
from .graph import ComputationGraph
from .levels.nodes import EDGE, NODE, count, fan_out, of_nodes, spread, summed
from .names import Edge

ROUNDING = 2.0**-20
"""Scores that differ by less than this part of them are equal: 8 units of float32, in which each is
summed up. It is relative to each score, as small scores are sums of small numbers."""


@typed
@dataclass(frozen=True, eq=False)
class Scores:
    """How much every edge helps: float32 [ports, senders], NaN where nothing was measured.

    `level`: what has a score of its own. Of nodes every edge has its sender's, that of all edges
    out of it at once, and selections keep nodes, with every edge among them.

    >>> import numpy as np
    >>> graph = ComputationGraph(layers=1, heads=1)
    >>> values = np.where(graph.reads, 0.5, np.nan)
    >>> len(Scores(graph, values).top(2))
    2
    """

    graph: ComputationGraph
    values: np.ndarray
    level: str = EDGE

    def __post_init__(self) -> None:
        if self.level not in (EDGE, NODE):
            raise unknown("level", self.level, (EDGE, NODE))
        values = np.array(self.values, dtype=np.float32)
        if values.shape != self.graph.reads.shape:
            raise GraphMismatch(
                f"scores of shape {values.shape} do not fit a graph of shape "
                f"{self.graph.reads.shape}."
            )
        values[~self.graph.reads] = np.nan
        if self.level == NODE:
            own = spread(self.graph, of_nodes(self.graph, values))
            alike = np.isnan(values) | (values == own)
            if not alike[self.graph.reads].all():
                row, column = np.argwhere(~alike & self.graph.reads)[0]
                raise GraphMismatch(
                    f"scores of nodes differ among the edges of {self.graph.senders[column]}, "
                    f"first at {self.graph.ports[row]}; accepted: one score for all of a node."
                )
        values.setflags(write=False)
        object.__setattr__(self, "values", values)

    def __repr__(self) -> str:
        known = int(np.isfinite(self._units(absolute=False)).sum())
        counts = f"{known:,} of {self.units:,} {self.level}s"
        return f"Scores({counts}, {self.graph.describe()})"

    def __getitem__(self, edge: Edge | str) -> float:
        return float(self.values[self.graph.locate(edge)])

    @staticmethod
    @typed
    def of_nodes(graph: ComputationGraph, values: np.ndarray) -> Scores:
        """Return scores of nodes, given for each sender, [senders]; at each span one by one.

        >>> graph = ComputationGraph(layers=1, heads=1)
        >>> scores = Scores.of_nodes(graph, np.array([3.0, 1.0, 2.0]))
        >>> [str(edge) for edge in scores.top(2).edges]
        ['embed->m0', 'embed->logits', 'm0->logits']
        """
        number = len(graph.senders) * graph.positions
        if np.shape(values) != (number,):
            raise GraphMismatch(
                f"of_nodes: `values` have shape {list(np.shape(values))}; accepted: [{number}], a "
                "number for each sender of the graph, at each span."
            )
        return Scores(graph, spread(graph, values), NODE)

    @typed
    def at_nodes(self) -> Scores:
        """Return the scores of nodes that those of their edges add up to; see `by_sender`."""
        return Scores.of_nodes(self.graph, summed(self.graph, self.values))

    @property
    def units(self) -> int:
        """Count what can have a score: all edges, or all senders."""
        if self.level == EDGE:
            return self.graph.edge_count
        return len(self.graph.senders) * self.graph.positions

    @property
    def positive(self) -> int:
        """Count the edges, or nodes, whose score is above 0."""
        return int((self._units(absolute=False) > 0).sum())

    @typed
    def count(self, circuit: Circuit) -> int:
        """Count what a circuit keeps: edges, or nodes that it keeps an edge out of."""
        return len(circuit) if self.level == EDGE else count(circuit)

    @typed
    def by_sender(self, *, absolute: bool = False) -> np.ndarray:
        """Sum the (absolute) scores of each sender's edges, float64 [senders]; NaN if it has none.

        Signed, and of all edges, this is the sender's own attribution where scores are linear in
        what a sender writes, as those of EAP and EAP-IG are.

        >>> graph = ComputationGraph(layers=1, heads=1)
        >>> values = np.where(graph.reads, -0.5, np.nan)
        >>> Scores(graph, values).by_sender()[-1], Scores(graph, values).by_sender(absolute=True)[0]
        (np.float64(-0.5), np.float64(2.5))
        """
        values = (np.abs(self.values) if absolute else self.values).astype(np.float64)
        if self.level == NODE:
            apart = of_nodes(self.graph, values).reshape(-1, values.shape[1])
            return np.where(np.isnan(apart).all(0), np.nan, np.nansum(apart, 0))
        sums = np.nansum(values, axis=0)
        return np.where(np.isnan(values).all(axis=0), np.nan, sums)

    @typed
    def top(self, n: int, *, absolute: bool = True, connected: bool = False) -> Circuit:
        """Keep the n edges of largest (absolute) score; ties at the cut go to the earlier edge.

        Of scores of nodes: the n nodes, with every edge among them.
        `connected`: the largest that leave at most n when those that lie on no way of kept edges
        from the embedding to the logits are dropped.
        """
        if not connected:
            return self.cut(n, absolute=absolute).circuit
        known = int((~np.isnan(self._units(absolute=False))).sum())

        def left(size: int) -> Circuit:
            return self.cut(size, absolute=absolute).circuit.prune_dangling()

        most = max(n, 1)
        while most < known and self.count(left(most)) <= n:
            most = min(known, 2 * most)
        sizes = range(most + 1)
        more = bisect_right(sizes, n, lo=min(n, most), key=lambda size: self.count(left(size)))
        return left(sizes[max(0, more - 1)])

    @typed
    def cut(self, n: int, *, absolute: bool = True) -> Cut:
        """Keep the n edges of largest (absolute) score, and tell what ties at the cut."""
        key = self._key(absolute)
        n = max(0, min(n, int((key > -np.inf).sum())))
        kept = np.zeros(key.shape, dtype=bool)
        if not n:
            return Cut(self._keeping(kept), np.nan, 0, 0)
        last = float(np.partition(key, len(key) - n)[len(key) - n])
        same = abs(last) * ROUNDING if np.isfinite(last) else 0.0
        (tied,) = np.nonzero((key >= last - same) & (key <= last + same))
        kept[key > last + same] = True
        taken = n - int(kept.sum())
        kept[tied[:taken]] = True
        return Cut(self._keeping(kept), last, len(tied), taken)

    @typed
    def above(self, threshold: float, *, absolute: bool = True) -> Circuit:
        """Keep the edges whose (absolute) score is at least the threshold, but for rounding."""
        return self._keeping(self._key(absolute) >= threshold - abs(threshold) * ROUNDING)

    def _units(self, absolute: bool) -> np.ndarray:
        """Return the (absolute) score of each edge, or of each sender, in one row."""
        values = self.values.ravel() if self.level == EDGE else of_nodes(self.graph, self.values)
        values = values.astype(np.float64)
        return np.abs(values) if absolute else values

    def _key(self, absolute: bool) -> np.ndarray:
        key: np.ndarray = np.nan_to_num(self._units(absolute), nan=-np.inf)
        return key

    def _keeping(self, units: np.ndarray) -> Circuit:
        """Return the circuit of some edges, or of every edge among some nodes."""
        if self.level == NODE:
            return Circuit(self.graph, fan_out(self.graph, units))
        return Circuit(self.graph, units.reshape(self.values.shape))


@dataclass(frozen=True, eq=False)
class Cut:
    """The edges (or nodes) of largest score, and how the others were cut off.

    `score`: that of the last one kept, NaN if none is. `tied`: how many have this score, but for
    rounding; `taken`: how many of them are kept, those that come first in the graph.
    """

    circuit: Circuit
    score: float
    tied: int
    taken: int
