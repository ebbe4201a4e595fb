"""Scores: one number for every edge of a graph; positive means the edge helps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .circuit import Circuit
from .errors import GraphMismatch
from .graph import ComputationGraph
from .names import Edge


@dataclass(frozen=True, eq=False)
class Scores:
    """Hold a graph and float32 values [ports, senders], NaN where nothing was measured.

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

    def __getitem__(self, edge: Edge | str) -> float:
        return float(
            self.values[self.graph.locate(Edge.parse(edge) if isinstance(edge, str) else edge)]
        )

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

    def top(self, n: int, *, absolute: bool = True) -> Circuit:
        """Keep the n edges of largest (absolute) score; ties go to the earlier edge."""
        key = np.abs(self.values) if absolute else self.values
        flat = np.where(np.isnan(key), -np.inf, key).ravel()
        order = np.argsort(-flat, kind="stable")[: max(n, 0)]
        kept = np.zeros(flat.shape, dtype=bool)
        kept[order] = flat[order] > -np.inf
        return Circuit(self.graph, kept.reshape(self.values.shape))

    def above(self, threshold: float, *, absolute: bool = True) -> Circuit:
        """Keep the edges whose (absolute) score is at least the threshold."""
        key = np.abs(self.values) if absolute else self.values
        return Circuit(self.graph, np.nan_to_num(key, nan=-np.inf) >= threshold)
