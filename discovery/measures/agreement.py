"""How scores of edges agree with exact effects that were asked of some of them.

All effects of a large graph cost too much. Asked are those that may matter, which some method ranks
among its strongest, each *for certain*, and others drawn at random, each of which stands for many.

* Pearson: over the whole graph, the drawn edges counted as often as they stand for; with and
  without the edge of largest effect, as one edge may decide it. Its 95% interval is of the draw.
* Spearman: over drawn edges and those asked for certain, likewise weighted.
* Overlap: which share of the k edges of largest effect are among the k of largest score. Edges that
  were not asked may have a larger effect: `missed` estimates how many.
* Sign: the share of those k edges whose score has the effect's sign.

Source: the measures of Syed et al. 2023 and of Jafari et al. 2025, here of edges.
Shapes: n asked edges.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from ...graphs.calls.typed import typed
from ...graphs.graph import ComputationGraph
from ...graphs.levels.nodes import of_nodes
from ...graphs.scores import Scores
from ..uncertainty.bootstrap import Estimate

RESAMPLES = 400


@typed
@dataclass(frozen=True, eq=False)
class AskedEdges:
    """Edges that are asked: bool [ports, senders] for certain, and others drawn at random."""

    graph: ComputationGraph
    certain: np.ndarray = field(repr=False)
    drawn: np.ndarray = field(repr=False)

    @staticmethod
    def of(graph: ComputationGraph, certain: np.ndarray, number: int, seed: int = 0) -> AskedEdges:
        """Draw so many of the edges that are not asked for certain."""
        certain = certain & graph.reads
        others = np.flatnonzero((graph.reads & ~certain).ravel())
        drawn = np.zeros(graph.reads.size, dtype=bool)
        rng = np.random.default_rng(seed)
        drawn[rng.choice(others, min(number, len(others)), replace=False)] = True
        return AskedEdges(graph, certain, drawn.reshape(graph.reads.shape))

    @property
    def every(self) -> np.ndarray:
        """Return all that are asked, bool [ports, senders]."""
        both: np.ndarray = self.certain | self.drawn
        return both

    @property
    def weights(self) -> np.ndarray:
        """Return how many edges each asked one stands for, [n], in the mask's order."""
        left, drawn = self.graph.edge_count - int(self.certain.sum()), int(self.drawn.sum())
        each: np.ndarray = np.where(self.certain, 1.0, left / max(1, drawn))[self.every]
        return each


@dataclass(frozen=True)
class Agreement:
    """How scores agree with exact effects; see the module. NaN where nothing varies."""

    pearson: Estimate
    rest: Estimate
    spearman: Estimate
    overlap: float
    sign: float
    missed: float


@typed
def agreement(scores: Scores, effects: Scores, asked: AskedEdges, top: int) -> Agreement:
    """Compare scores of all edges with the exact effects of those that were asked."""
    every = np.where(asked.graph.reads, scores.values, 0)
    sure, kept = asked.certain[asked.every], asked.every
    top = min(top, int(kept.sum()))
    best = _strongest(every.ravel(), top).reshape(kept.shape)[kept]
    return _agreed(scores.values[kept], effects.values[kept], asked.weights, sure, best, top)


@typed
def agreement_of_nodes(scores: Scores, effects: Scores, top: int) -> Agreement:
    """Compare scores of nodes with the exact effects of all; nothing is drawn, no interval."""
    a, b = (of_nodes(one.graph, one.values).astype(np.float64) for one in (scores, effects))
    known = ~np.isnan(b)
    a, b = a[known], b[known]
    every = np.ones(len(a), dtype=bool)
    return _agreed(a, b, every.astype(np.float64), every, _strongest(a, top), top)


def _strongest(values: np.ndarray, top: int) -> np.ndarray:
    """Mark the values of largest size, bool [n]; ties go to the earlier."""
    best = np.zeros(len(values), dtype=bool)
    best[np.argsort(-np.abs(values), kind="stable")[:top]] = True
    return best


def _agreed(
    a: np.ndarray, b: np.ndarray, weights: np.ndarray, sure: np.ndarray, best: np.ndarray, top: int
) -> Agreement:
    """Compare scores a with effects b; `best`: which are among the `top` of all scores."""
    largest = np.arange(len(b)) != np.argmax(np.abs(b))
    size = np.sort(np.abs(b))[::-1]
    strongest = np.abs(b) >= size[min(top, len(size)) - 1]
    return Agreement(
        _estimated(_pearson, a, b, weights, sure),
        _estimated(_pearson, a[largest], b[largest], weights[largest], sure[largest]),
        _estimated(_spearman, a, b, weights, sure),
        overlap=float(best[strongest].mean()),
        sign=float((np.sign(a) == np.sign(b))[strongest].mean()),
        missed=float((weights - 1)[strongest & ~sure].sum()),
    )


def _estimated(
    measure: object, a: np.ndarray, b: np.ndarray, weights: np.ndarray, sure: np.ndarray
) -> Estimate:
    """Estimate a weighted correlation, with a 95% interval over the edges that were drawn."""
    assert callable(measure)
    value = float(measure(a, b, weights))
    drawn = np.flatnonzero(~sure)
    if len(drawn) < 2 or math.isnan(value):
        return Estimate(value, math.nan, math.nan)  # nothing drawn, or too few, tells no spread
    rng, found = np.random.default_rng(0), []
    for _ in range(RESAMPLES):
        times = np.bincount(rng.integers(len(drawn), size=len(drawn)), minlength=len(drawn))
        again = weights.copy()
        again[drawn] *= times
        found.append(measure(a, b, again))
    low, high = np.nanquantile(found, [0.025, 0.975])
    return Estimate(value, float(low), float(high))


def _pearson(a: np.ndarray, b: np.ndarray, weights: np.ndarray) -> float:
    share = weights / weights.sum()
    x, y = a - share @ a, b - share @ b
    both = math.sqrt(float(share @ x**2) * float(share @ y**2))
    return float(share @ (x * y)) / both if both > 0 else math.nan


def _spearman(a: np.ndarray, b: np.ndarray, weights: np.ndarray) -> float:
    return _pearson(_ranks(a, weights), _ranks(b, weights), weights)


def _ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return each value's middle rank where it stands for `weights` values; ties share one."""
    distinct, places = np.unique(values, return_inverse=True)
    counts = np.bincount(places, weights, len(distinct))
    middle: np.ndarray = np.cumsum(counts) - counts / 2
    return middle[places]
