"""How many questions a walk asks: at most, before it starts; about how many more, on its way."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from ..graphs.names import LETTERS

if TYPE_CHECKING:
    from ..graphs.graph import ComputationGraph

RECENT = 64
"""How many reports back the pace is taken from."""


def question_bound(graph: ComputationGraph, candidates: int, ports_first: bool = False) -> int:
    """Bound the questions of ACDC's walk from above.

    Every edge is decided by one question, but those asked together behind an edge that is kept are
    asked again. b are asked together; b doubles where all of them fall, and falls to i where the
    (i + 1)th is kept, which wastes b − i − 1. So what is wasted is at most what b has gained: one
    for each edge that fell, and half the largest b at each port's end, where fewer than b are left.
    Ports asked as wholes are n(n + 1)/2 questions if all n of a layer stay.

    >>> from edgewise.graphs.graph import ComputationGraph
    >>> question_bound(ComputationGraph(layers=12, heads=12), candidates=1)
    32491
    """
    bound = graph.edge_count
    if candidates > 1:
        bound += graph.edge_count + len(graph.ports) * (candidates // 2)
    if ports_first:
        for layer in range(graph.layers):
            ports = [port for port in graph.ports if port.node.layer == layer]
            n = sum(port.letter in LETTERS for port in ports)
            bound += n * (n + 1) // 2
    return bound


class Pace:
    """Tell how many questions there were, and about how many more there will be.

    The expectation is that of recent questions for each edge decided, which falls as nodes die: it
    is no promise.
    """

    def __init__(self, edges: int, bound: int) -> None:
        self.edges, self.bound = edges, bound
        self._recent: deque[tuple[int, int]] = deque(maxlen=RECENT)

    def words(self, decided: int, questions: int) -> str:
        """Write what is known when so many edges are decided by so many questions.

        >>> pace = Pace(edges=100, bound=200)
        >>> pace.words(0, 0)
        '0 questions of at most 200'
        >>> pace.words(10, 5)
        '5 questions of at most 200, about 45 more at this pace'
        """
        self._recent.append((decided, questions))
        known = f"{questions:,} questions of at most {self.bound:,}"
        first, asked = self._recent[0]
        if decided == first:
            return known
        more = round((questions - asked) / (decided - first) * (self.edges - decided))
        return f"{known}, about {min(more, self.bound - questions):,} more at this pace"
