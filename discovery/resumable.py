"""A walk that can be stopped: journal, batches and pace, which ACDC needs beside its decisions."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..graphs.circuit import Circuit
from ..graphs.names import LETTERS
from ..graphs.scores import Scores
from ..patching.incremental.search import Trail
from .journal import Entry, misfit
from .registry import Discovery

if TYPE_CHECKING:
    from ..graphs.graph import ComputationGraph
    from ..patching.incremental.search import Search
    from ..patching.run.runner import Progress
    from .journal import Journal


RECENT = 64  # reports that the pace is taken from


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
        wholes = Counter(port.node.layer for port in graph.ports if port.letter in LETTERS)
        bound += sum(n * (n + 1) // 2 for n in wholes.values())
    return bound


class Pace:
    """How many questions there were, and, judged by recent ones, about how many more will be."""

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


@dataclass(frozen=True)
class Step:
    """One step of a walk: a port, or all attention ports of a layer as wholes."""

    rows: tuple[int, ...]
    name: str
    whole: bool = False


class Resumable:
    """A walk on its way: the search, whose circuit is the current one, and what was decided.

    At most `candidates` questions are asked together, and `questions` in all. The journal's entries
    are replayed, then the search is restored to where it stood.
    """

    def __init__(
        self,
        search: Search,
        graph: ComputationGraph,
        candidates: int,
        questions: int,
        progress: Progress | None,
        journal: Journal | None,
    ) -> None:
        self.search, self.graph, self.most = search, graph, candidates
        self.pace = Pace(graph.edge_count, questions)
        self.progress, self.journal = progress, journal
        self.scores = np.full(graph.reads.shape, np.nan, dtype=np.float32)
        self.decided, self.batch = 0, 1
        self._past = list(journal.entries if journal else ())[::-1]
        self._trail = Trail(search.kept.copy()) if self._past else None

    def through(self, steps: Sequence[Step]) -> Iterator[Step]:
        """Yield the steps, each where the search stands behind the one before."""
        for step in (*steps, None):
            if self._trail is not None and not self._past:  # everything in the journal is replayed
                self.search.restore(self._trail)
                self._trail = None
            if step is not None:
                yield step
        if self._past:
            raise misfit(self._past[-1], "its end")

    def drop(self, row: int) -> None:
        """Take all edges of a port without a question."""
        self.search.commit((row,), self.graph.reads[row][None], None)
        self.report(row, int(self.graph.reads[row].sum()))

    def learn(self, asked: int, fallen: int) -> None:
        """Ask twice as many questions together next if all fell, else as many as fell."""
        self.batch = min(self.most, 2 * self.batch) if fallen == asked else max(1, fallen)

    def note(self, step: Step, stay: Sequence[int]) -> None:
        """Settle the search, and journal what was decided; `stay`: the whole ports kept."""
        mark = self.search.mark()
        kept: dict[str, float | None] = {str(self.graph.ports[row]): None for row in stay}
        if not step.whole:
            (row,) = step.rows
            senders = np.flatnonzero(self.search.kept[row]).tolist()
            kept = {str(self.graph.senders[u]): float(self.scores[row, u]) for u in senders}
        counts = (self.batch, self.search.questions, self.search.products)
        if self.journal is not None:
            self.journal.append(Entry(step.name, kept, *counts, mark))

    def replay(self, step: Step, left: list[int]) -> bool:
        """Decide about a step's ports as the journal has it; False where that has ended."""
        if self._trail is None:
            return False
        entry = self._past.pop()
        if step.whole:
            index = {str(self.graph.ports[row]): row for row in left}
        else:
            columns = np.flatnonzero(self.search.kept[left]).tolist()
            index = {str(self.graph.senders[u]): u for u in columns}
        if entry.step != step.name or not index.keys() >= entry.kept.keys():
            raise misfit(entry, step.name)
        kept = [index[name] for name in entry.kept]
        ablated = self.graph.reads[left]
        if step.whole:
            ablated[[left.index(row) for row in kept]] = False
        else:
            ablated[0, kept] = False
            self.scores[left[0], kept] = list(entry.kept.values())
            self.decided += int(self.graph.reads[left[0]].sum())
        self.search.commit(left, ablated, None)
        self.batch = entry.batch
        here = self.search.kept.copy()
        self._trail = self._trail.marked(here, entry.mark, entry.questions, entry.products)
        return True

    def report(self, row: int, decided: int) -> None:
        """Report that so many more edges are decided, unless that was in an earlier session."""
        self.decided += decided
        if self.progress is None or self._past:
            return
        nodes = int(self.search.kept.any(0).sum())
        what = f"edges decided, at {self.graph.ports[row]}, loss {self.search.loss.low:.4g}, "
        what += f"{nodes:,} nodes left, {self.pace.words(self.decided, self.search.questions)}"
        self.progress(self.decided, self.graph.edge_count, what)

    def result(self, order: str) -> Discovery:
        """Return the circuit and the increments that kept its edges."""
        return searched(self.search, Scores(self.graph, self.scores), order)


def searched(search: Search, scores: Scores, order: str) -> Discovery:
    """Return the circuit that a search ended with, and the scores of its edges."""
    notes = {"loss_search": search.loss.value(), "vocabulary_products": search.products}
    return Discovery(scores, Circuit(scores.graph, search.kept), search.questions, order, notes)
