"""How often would other prompts of the same kind have kept an edge, and how alike are circuits?

Scores are means over examples, so the scores that a resample of the prompts would have given are
sums of the scores on each example: no model is run.

1. Draw the examples anew with replacement, whole clusters (templates) together; of too few
   clusters the examples themselves (see `bootstrap.units_of`), which then says nothing of others.
2. Select edges of the resampled means by the same rule as the circuit was: so many of largest
   (absolute) score, or all from a threshold up, and of these those on ways if only they count.
3. An edge's *stability* is the share of resamples that keep it; the bootstrap circuits' likeness is
   the mean Jaccard index of all pairs of them.
4. A *stable* circuit has those edges of the circuit whose stability is at least S. How alike such
   circuits are is told by a nested bootstrap: each of some resamples takes the place of the
   prompts, its circuit is cut down by resamples of its own, and those left are compared.

Either likeness is told twice: *between* two resamples' circuits, as circuits of two sets of prompts
would be alike, and *with* that of all prompts, as this one would be like that of all such prompts.

Most edges can be in no resample's circuit and are left out first, exactly: by Cauchy and Schwarz a
resampled mean is at most √(n Σw²)/Σw times the root mean square of the edge's scores.

Published: mean Jaccard .67 for GPT-2 small, .39 for Llama-3.2-1B.
Shapes: n examples, U units, E edges, C candidate edges, R resamples, P ports, S senders.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...graphs.circuit import Circuit
from ...graphs.example_scores import AT_ONCE, ExampleScores
from ...graphs.graph import ComputationGraph
from ...graphs.scores import ROUNDING, Scores
from .bootstrap import resamples, units_of

RESAMPLES = 1000
OUTER, INNER = 50, 200
"""Resamples that take the place of the prompts, and those of each by which it is cut down."""

BLOCK_BYTES = 1 << 26
LIKELY = 1000  # edges of which a first guess at where resamples cut is made, at least


@dataclass(frozen=True)
class EdgeRule:
    """Which edges are kept of scores: the `size` of largest, or those from `threshold` up.

    `absolute`: by |score|. `connected`: of these only those on ways from `embed` to `logits`.
    """

    absolute: bool
    connected: bool = False
    size: int | None = None
    threshold: float | None = None

    @staticmethod
    def of(
        circuit: Circuit, scores: Scores, *, absolute: bool, connected: bool, above: float | None
    ) -> EdgeRule:
        """Return the rule by which scores give a circuit; `above`: from a threshold up.

        Where only edges on ways count, the size is that before the others are left out.
        """
        if above is not None:
            return EdgeRule(absolute, connected, threshold=above)
        size = len(circuit)
        if connected and size:
            keys = np.abs(scores.values) if absolute else scores.values
            size = int((keys >= keys[circuit.kept].min()).sum())
        return EdgeRule(absolute, connected, size)


@dataclass(frozen=True)
class MeanJaccard:
    """How alike resamples' circuits are.

    `between` all pairs of them; `with_all`: of each with the circuit of all prompts.
    """

    between: float
    with_all: float


@dataclass(frozen=True, eq=False)
class Stability:
    """What resamples say of a selection.

    `shares`: float32 [edges], the share of resamples that keep each edge. `likeness`: of their
    circuits. `clusters`: how many groups the examples are of; `drawn`: how many units were drawn,
    groups or, of too few groups, examples.
    """

    graph: ComputationGraph
    shares: np.ndarray
    likeness: MeanJaccard
    resamples: int
    examples: int
    clusters: int
    drawn: int

    @cached_property
    def by_edge(self) -> np.ndarray:
        """Return the shares in the shape of a mask, float32 [ports, senders], NaN without edge."""
        found = np.full(self.graph.reads.shape, np.nan, dtype=np.float32)
        found[self.graph.reads] = self.shares
        return found


def stability(
    examples: ExampleScores, rule: EdgeRule, number: int = RESAMPLES, seed: int = 0
) -> Stability:
    """Select edges of resampled prompts again and again; see the module."""
    units = units_of(examples.clusters)
    weights = resamples(units, number, seed)
    alike = np.ones((1, len(units)), dtype=weights.dtype)
    chosen = _Chooser(examples, rule, np.concatenate([weights, alike]))
    kept = chosen.kept(weights)
    likeness = _likeness(chosen.kept(alike)[0], kept)
    shares = np.zeros(examples.values.shape[1], dtype=np.float32)
    shares[chosen.columns] = kept.mean(0)
    counts = (len(np.unique(x)) for x in (examples.clusters, units))
    return Stability(examples.graph, shares, likeness, number, len(examples), *counts)


def stable(circuit: Circuit, found: Stability, least: float, *, connected: bool) -> Circuit:
    """Keep the edges of a circuit whose stability is at least `least`."""
    left = Circuit(circuit.graph, circuit.kept & (found.by_edge >= least - ROUNDING))
    return left.prune_dangling() if connected else left


def stable_likeness(
    examples: ExampleScores,
    rule: EdgeRule,
    least: float,
    *,
    outer: int = OUTER,
    inner: int = INNER,
    seed: int = 1,
) -> MeanJaccard:
    """Tell how alike stable circuits of new resamples of the prompts are.

    Each resample takes the place of the prompts: its circuit is selected, and cut down to the edges
    that so large a share of `inner` resamples of it keep. That of all prompts likewise.
    """
    units, places = np.unique(units_of(examples.clusters), return_inverse=True)
    rng = np.random.default_rng(seed)
    number = len(units)
    drawn = rng.multinomial(number, np.full(number, 1 / number), size=outer)
    drawn = np.concatenate([drawn, np.ones((1, number), dtype=drawn.dtype)])  # last: all prompts
    within = np.stack([rng.multinomial(number, one / number, size=inner) for one in drawn])
    every = np.concatenate([drawn, within.reshape(-1, number)])[:, places]
    chosen = _Chooser(examples, rule, every)
    found = []
    for one, many in zip(drawn, within, strict=True):
        circuit = chosen.kept(one[None, places])[0]
        shares = chosen.kept(many[:, places]).mean(0)
        found.append(circuit & (shares >= least - ROUNDING))
    sets = np.stack(found)
    if rule.connected:
        sets = chosen.on_ways(sets)
    return _likeness(sets[-1], sets[:-1])


def _likeness(whole: np.ndarray, sets: np.ndarray) -> MeanJaccard:
    """Compare the circuit of all prompts, bool [C], and resamples' circuits, bool [R, C]."""
    common, either = (sets & whole).sum(1), (sets | whole).sum(1)
    each = np.divide(common, either, out=np.ones(len(sets)), where=either > 0)
    return MeanJaccard(mean_jaccard(sets), float(each.mean()))


def mean_jaccard(sets: np.ndarray) -> float:
    """Average |A ∩ B| / |A ∪ B| over all pairs of rows, bool [R, C]; 1 of two that are empty.

    >>> round(mean_jaccard(np.array([[1, 1, 0], [1, 1, 0], [0, 1, 1]], dtype=bool)), 4)
    0.5556
    """
    number = len(sets)
    if number < 2:
        return 1.0
    common = np.zeros((number, number))
    for start in range(0, sets.shape[1], AT_ONCE):
        block = sets[:, start : start + AT_ONCE].astype(np.float32)
        common += block @ block.T
    sizes = common.diagonal()
    either = sizes[:, None] + sizes[None] - common
    found = np.divide(common, either, out=np.ones_like(common), where=either > 0)
    return float((found.sum() - number) / (number * (number - 1)))


class _Chooser:
    """Select edges of resampled means, of those that any of some resamples could keep.

    `columns`: the numbers of these candidates, int [C].
    """

    def __init__(self, examples: ExampleScores, rule: EdgeRule, weights: np.ndarray) -> None:
        self.graph, self.rule = examples.graph, rule
        self.columns = _candidates(examples, rule, weights)
        self._scores = examples.values[:, self.columns].astype(np.float32)
        self._ways = _Ways(self.graph, self.columns) if rule.connected else None

    def kept(self, weights: np.ndarray) -> np.ndarray:
        """Return which candidates the means under weights [R, n] keep, bool [R, C]."""
        found = np.zeros((len(weights), len(self.columns)), dtype=bool)
        for rows in _row_blocks(len(weights), len(self.columns)):
            keys = _keys(weights[rows], self._scores, self.rule)
            found[rows] = _largest(keys, self.rule)
        return found if self._ways is None else self.on_ways(found)

    def on_ways(self, kept: np.ndarray) -> np.ndarray:
        """Leave out, of sets of candidates [R, C], the edges on no way of kept edges."""
        ways = self._ways or _Ways(self.graph, self.columns)
        blocks = _row_blocks(len(kept), len(self.columns))
        return np.concatenate([ways.left(kept[rows]) for rows in blocks])


def _row_blocks(rows: int, columns: int) -> Iterator[slice]:
    step = max(1, BLOCK_BYTES // (4 * max(1, columns)))
    return (slice(start, min(rows, start + step)) for start in range(0, rows, step))


def _keys(weights: np.ndarray, scores: np.ndarray, rule: EdgeRule) -> np.ndarray:
    """Return by what edges are ordered, float32 [R, C]: weighted means, or their sizes."""
    shares = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    means: np.ndarray = shares @ scores
    if rule.absolute:
        np.abs(means, out=means)
    return means


def _largest(keys: np.ndarray, rule: EdgeRule) -> np.ndarray:
    """Keep of each row what the rule keeps; as in `Scores.cut`, ties go to the earlier edge."""
    if rule.threshold is not None:
        kept: np.ndarray = keys >= rule.threshold - abs(rule.threshold) * ROUNDING
        return kept
    size = min(rule.size or 0, keys.shape[1])
    if not size:
        return np.zeros(keys.shape, dtype=bool)
    last = np.partition(keys, keys.shape[1] - size, axis=1)[:, [keys.shape[1] - size]]
    same = np.abs(last) * np.float32(ROUNDING)
    kept = keys > last + same
    for row in np.flatnonzero((keys >= last - same).sum(1) >= size):
        tied = np.flatnonzero((keys[row] >= last[row] - same[row]) & ~kept[row])
        kept[row, tied[: size - int(kept[row].sum())]] = True
    return kept


def _candidates(examples: ExampleScores, rule: EdgeRule, weights: np.ndarray) -> np.ndarray:
    """List the edges that some resample with these weights [R, n] could keep; see the module."""
    n, edges = examples.values.shape
    blocks = (examples.values[:, i : i + AT_ONCE] for i in range(0, edges, AT_ONCE))
    squares = [np.square(x, dtype=np.float64).mean(0) for x in blocks]
    most = np.sqrt(np.concatenate(squares))  # [E], root mean squares
    spread = np.sqrt(n * np.square(weights, dtype=np.float64).sum(1)) / weights.sum(1)
    if rule.threshold is not None:
        least = rule.threshold / spread.max()
    else:
        guess = min(edges, max(LIKELY, 4 * (rule.size or 0)))
        likely = np.sort(np.argpartition(most, edges - guess)[edges - guess :])
        scores = examples.values[:, likely].astype(np.float32)
        size = max(1, min(rule.size or 0, guess))
        least = np.inf
        for rows in _row_blocks(len(weights), guess):
            keys = np.partition(_keys(weights[rows], scores, rule), guess - size, axis=1)
            least = min(least, float((keys[:, guess - size] / spread[rows]).min()))
        # the true cuts are no lower
    # a margin for what float32 sums are off; edges without any score may tie at 0
    return np.flatnonzero(most >= least * (1 - 1e-4)) if least > 0 else np.arange(edges)


class _Ways:
    """Ways of candidate edges from the embedding to the logits, of many sets of them at once."""

    def __init__(self, graph: ComputationGraph, columns: np.ndarray) -> None:
        from scipy.sparse import csr_matrix

        places = np.argwhere(graph.reads)[columns]
        self._ports, self._senders = places[:, 0], places[:, 1]
        size = len(graph.ports), len(graph.senders)
        pairs = [(port, sender) for port, many in enumerate(graph.feeds) for sender in many]
        rows, cells = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
        self._feeds = csr_matrix((np.ones(len(rows), np.float32), (rows, cells)), shape=size)
        self._sources = np.array([node.layer is None for node in graph.senders])
        self._last = np.array([not many for many in graph.feeds])
        number = np.arange(len(columns))
        ones = np.ones(len(columns), np.float32)
        self._into = csr_matrix((ones, (self._ports, number)), shape=(size[0], len(columns)))
        self._out = csr_matrix((ones, (self._senders, number)), shape=(size[1], len(columns)))

    def left(self, kept: np.ndarray) -> np.ndarray:
        """Leave out, until nothing changes, edges that nothing feeds or that feed nothing."""
        kept = kept.copy()
        while True:
            values = kept.T.astype(np.float32)  # [C, R]
            fed = self._feeds.T @ (self._into @ values) > 0  # [S, R]
            fed[self._sources] = True
            used = self._feeds @ ((self._out @ values > 0).astype(np.float32)) > 0  # [P, R]
            used[self._last] = True
            found: np.ndarray = kept & fed[self._senders].T & used[self._ports].T
            if (found == kept).all():
                return found
            kept = found
