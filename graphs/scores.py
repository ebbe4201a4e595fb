"""Scores: one number for every edge of a graph; positive means the edge helps."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np

from .calls.typed import typed
from .circuit import Circuit
from .errors import GraphMismatch
from .graph import ComputationGraph
from .names import Edge

ROUNDING = 2.0**-20
"""Scores that differ by less than this part of them are equal: 8 units of float32, in which each is
summed up. It is relative to each score, as small scores are sums of small numbers."""


@typed
@dataclass(frozen=True, eq=False)
class Scores:
    """How much every edge helps: float32 [ports, senders], NaN where nothing was measured.

    >>> import numpy as np
    >>> graph = ComputationGraph(layers=1, heads=1)
    >>> values = np.where(graph.reads, 0.5, np.nan)
    >>> len(Scores(graph, values).top(2))
    2
    """

    graph: ComputationGraph
    values: np.ndarray

    def __post_init__(self) -> None:
        values = np.array(self.values, dtype=np.float32)
        if values.shape != self.graph.reads.shape:
            raise GraphMismatch(
                f"scores of shape {values.shape} do not fit a graph of shape "
                f"{self.graph.reads.shape}."
            )
        values[~self.graph.reads] = np.nan
        values.setflags(write=False)
        object.__setattr__(self, "values", values)

    def __repr__(self) -> str:
        counts = f"{np.isfinite(self.values).sum():,} of {self.graph.edge_count:,} edges"
        return f"Scores({counts}, {self.graph.describe()})"

    def __getitem__(self, edge: Edge | str) -> float:
        return float(self.values[self.graph.locate(edge)])

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
        sums = np.nansum(values, axis=0)
        return np.where(np.isnan(values).all(axis=0), np.nan, sums)

    @typed
    def top(self, n: int, *, absolute: bool = True, connected: bool = False) -> Circuit:
        """Keep the n edges of largest (absolute) score; ties at the cut go to the earlier edge.

        `connected`: the largest that leave at most n when those that lie on no way of kept edges
        from the embedding to the logits are dropped.
        """
        if not connected:
            return self.cut(n, absolute=absolute).circuit
        known = int((~np.isnan(self.values)).sum())

        def left(size: int) -> Circuit:
            return self.cut(size, absolute=absolute).circuit.prune_dangling()

        most = max(n, 1)
        while most < known and len(left(most)) <= n:
            most = min(known, 2 * most)
        sizes = range(most + 1)
        more = bisect_right(sizes, n, lo=min(n, most), key=lambda size: len(left(size)))
        return left(sizes[max(0, more - 1)])

    @typed
    def cut(self, n: int, *, absolute: bool = True) -> Cut:
        """Keep the n edges of largest (absolute) score, and tell what ties at the cut."""
        key = self._key(absolute).ravel()
        n = max(0, min(n, int((key > -np.inf).sum())))
        kept = np.zeros(key.shape, dtype=bool)
        if not n:
            return Cut(Circuit(self.graph, kept.reshape(self.values.shape)), np.nan, 0, 0)
        last = float(np.partition(key, len(key) - n)[len(key) - n])
        same = abs(last) * ROUNDING if np.isfinite(last) else 0.0
        (tied,) = np.nonzero((key >= last - same) & (key <= last + same))
        kept[key > last + same] = True
        taken = n - int(kept.sum())
        kept[tied[:taken]] = True
        return Cut(Circuit(self.graph, kept.reshape(self.values.shape)), last, len(tied), taken)

    @typed
    def above(self, threshold: float, *, absolute: bool = True) -> Circuit:
        """Keep the edges whose (absolute) score is at least the threshold, but for rounding."""
        return Circuit(self.graph, self._key(absolute) >= threshold - abs(threshold) * ROUNDING)

    def _key(self, absolute: bool) -> np.ndarray:
        values = self.values.astype(np.float64)
        return np.where(np.isnan(values), -np.inf, np.abs(values) if absolute else values)


@dataclass(frozen=True, eq=False)
class Cut:
    """The edges of largest score, and how the others were cut off.

    `score`: that of the last edge kept, NaN if none is. `tied`: how many edges have this score, but
    for rounding; `taken`: how many of them are kept, those that come first in the graph.
    """

    circuit: Circuit
    score: float
    tied: int
    taken: int
