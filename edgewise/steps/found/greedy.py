"""Edges of largest score that join a circuit one by one, from `logits` back.

1. At first the edges into `logits` can join.
2. Of the edges that can join, that of largest (absolute) score joins.
3. When the first edge of a sender has joined, the edges into the ports that it computes from can.

So every edge leads to `logits`, and none is spent on what nothing of the circuit reads. Scores that
rounding alone tells apart count as equal; of equal ones that which is earlier in the graph joins.
"""

from __future__ import annotations

from bisect import bisect_right
from heapq import heappop, heappush

import numpy as np

from ...graphs.calls.typed import typed
from ...graphs.circuit import Circuit
from ...graphs.scores import ROUNDING, Scores


@typed
def greedy(scores: Scores, n: int, *, absolute: bool = True, connected: bool = False) -> Circuit:
    """Keep the n edges that join first, by absolute or signed score; fewer if no more can.

    `connected`: as many as leave at most n when those are dropped that no way of kept edges leads
    to from the embedding.

    >>> from edgewise.graphs.graph import ComputationGraph
    >>> graph = ComputationGraph(layers=1, heads=1)
    >>> values = np.where(graph.reads, 0.1, np.nan)
    >>> values[graph.locate("embed->m0")] = 9
    >>> [str(edge) for edge in greedy(Scores(graph, values), 2).edges]
    ['embed->logits', 'a0.h0->logits']
    """
    graph = scores.graph

    def first(size: int) -> Circuit:
        kept = np.zeros(graph.reads.shape, dtype=bool)
        kept.ravel()[joined[:size]] = True
        return Circuit(graph, kept)

    joined = joining(scores, n if not connected else graph.edge_count, absolute=absolute)
    if not connected:
        return first(n)
    sizes = range(len(joined) + 1)
    more = bisect_right(sizes, n, key=lambda size: len(first(size).prune_dangling()))
    return first(sizes[max(0, more - 1)]).prune_dangling()


@typed
def joining(scores: Scores, n: int, *, absolute: bool = True) -> np.ndarray:
    """Return the first n edges in the order in which they join, as places in the flat scores."""
    graph = scores.graph
    rows, width = graph.reads.shape
    numbers = _ranks(scores, absolute) * (rows * width) + np.arange(rows * width)
    numbers, known = numbers.reshape(rows, width), ~np.isnan(scores.values)
    made_from: list[list[int]] = [[] for _ in graph.senders]
    for row, senders in enumerate(graph.feeds):
        for sender in senders:
            made_from[sender].append(row)
    waiting: list[int] = []
    opened: set[int] = set()

    def let_join(ports: list[int]) -> None:
        for row in ports:
            if row not in opened:
                opened.add(row)
                for number in numbers[row, known[row]].tolist():
                    heappush(waiting, number)

    let_join([row for row, senders in enumerate(graph.feeds) if not senders])
    found: list[int] = []
    while waiting and len(found) < n:
        place = heappop(waiting) % (rows * width)
        found.append(place)
        sender = place % width
        let_join(made_from[sender])
        made_from[sender] = []
    return np.array(found, dtype=np.int64)


def _ranks(scores: Scores, absolute: bool) -> np.ndarray:
    """Number the scores from the largest down, int64 [ports · senders], alike where they tie."""
    values = np.nan_to_num(scores.values.astype(np.float64), nan=-np.inf).ravel()
    keys = np.where(np.isneginf(values), values, np.abs(values)) if absolute else values
    order = np.argsort(-keys, kind="stable")
    falls, top = np.zeros(len(order), dtype=np.int64), np.inf
    for i, key in enumerate(keys[order].tolist()):
        if key < top - (abs(top) * ROUNDING if np.isfinite(top) else 0.0):
            falls[i], top = 1, key
    ranks = np.empty_like(falls)
    ranks[order] = falls.cumsum()
    return ranks
