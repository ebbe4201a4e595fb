"""ACDC: automatic circuit discovery (Conmy et al. 2023, Algorithm 1).

1. Start from the full circuit C; its loss is the current loss.
2. Take the ports in reverse topological order: `logits`, then per layer from the last the MLP,
   then `<v>`, `<k>` and `<q>` of all heads, heads from the last to the first.
3. A port whose owner has no kept edge out loses all its edges without a question.
4. With `ports_first`, an attention port is first asked as a whole, all its edges ablated together
   (for all ports of the layer, in the same order); a port that falls loses all its edges.
5. For each edge into the port, senders from the latest to the earliest: ablate it in the current
   circuit. If loss_new − loss_current < threshold it stays ablated and loss_current := loss_new;
   otherwise it is kept, and its increment is its score.

Questions about successive edges are asked in batches as prefixes {e1}, {e1, e2}, …: as long as
edges fall, the second question of the one-by-one walk is the second prefix. The first prefix whose
increment over the one before reaches the threshold marks a kept edge, and the walk goes on behind
it, so every decision is that of the one-by-one walk.

Behind every port that was asked about, the search is marked, so that what follows depends on what
was decided alone. A journal of these decisions lets a stopped walk go on to the same circuit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np

from ..graphs.circuit import Circuit
from ..graphs.names import LETTERS
from ..graphs.scores import Scores
from ..patching.incremental.losses import rises
from ..patching.incremental.search import Trail
from .journal import Entry, misfit, read_entries
from .pace import Pace, question_bound
from .registry import Discovery, Option, method

if TYPE_CHECKING:
    from ..graphs.graph import ComputationGraph
    from ..patching.incremental.losses import Loss
    from ..patching.incremental.search import Search
    from ..patching.run.runner import Progress, Runner
    from .journal import Journal

ORDER = "reverse topological; logits, then per layer m, <v>, <k>, <q>; heads and senders descending"


@method(
    "acdc",
    summary="remove edges one by one while the loss rises by less than a threshold",
    selects=True,
)
def acdc(
    runner: Runner,
    *,
    threshold: Annotated[
        float, Option("largest rise of the loss an ablated edge may cause")
    ] = 0.02,
    ports_first: Annotated[bool, Option("ask about each attention port as a whole first")] = False,
    absolute: Annotated[bool, Option("compare the absolute change of the loss")] = False,
    candidates: Annotated[
        int, Option("questions asked together; no influence on the result", 1, 1024)
    ] = 64,
    progress: Progress | None = None,
    journal: Journal | None = None,
) -> Discovery:
    """Find the circuit that survives the walk; scores are the increments that kept its edges."""
    from ..patching.incremental.search import make_search

    search, graph = make_search(runner, threshold), runner.graph
    return walk(search, graph, threshold, ports_first, absolute, candidates, progress, journal)


def walk(
    search: Search,
    graph: ComputationGraph,
    threshold: float,
    ports_first: bool = False,
    absolute: bool = False,
    candidates: int = 64,
    progress: Progress | None = None,
    journal: Journal | None = None,
) -> Discovery:
    """Walk all ports with any search, whose current circuit is the full one.

    Raises:
        FileFormatError: the journal is not of this walk.
    """
    pace = Pace(graph.edge_count, question_bound(graph, candidates, ports_first))
    walk = _Walk(search, graph, threshold, absolute, candidates, progress, journal, pace)
    for step in steps(graph, ports_first):
        walk.take(step)
    return walk.result(ORDER + ("; ports first" if ports_first else ""))


@dataclass(frozen=True)
class Step:
    """Hold one step of the walk: a port, or all attention ports of a layer as wholes."""

    rows: tuple[int, ...]
    name: str
    whole: bool = False


def steps(graph: ComputationGraph, ports_first: bool) -> list[Step]:
    """List the steps of the walk in order."""

    def single(row: int) -> Step:
        return Step((row,), str(graph.ports[row]))

    found = [single(len(graph.ports) - 1)]
    for layer in reversed(range(graph.layers)):
        rows = [i for i, port in enumerate(graph.ports) if port.node.layer == layer][::-1]
        attention = [row for row in rows if graph.ports[row].letter in LETTERS]
        found += [single(row) for row in rows if row not in attention]
        if ports_first:
            found.append(Step(tuple(attention), f"ports of layer {layer}", whole=True))
        found += [single(row) for row in attention]
    return found


class _Walk:
    """Walk the ports; the search holds the current circuit."""

    def __init__(
        self,
        search: Search,
        graph: ComputationGraph,
        threshold: float,
        absolute: bool,
        candidates: int,
        progress: Progress | None,
        journal: Journal | None,
        pace: Pace,
    ) -> None:
        self.search, self.graph = search, graph
        self.threshold, self.absolute, self.most = threshold, absolute, candidates
        self.progress, self.journal, self.pace = progress, journal, pace
        self.scores = np.full(self.graph.reads.shape, np.nan, dtype=np.float32)
        self.decided = 0
        self.batch = 1
        self.past = list(read_entries(journal))[::-1]
        self.trail = Trail(search.kept.copy()) if self.past else None

    # -- steps ------------------------------------------------------------------------------

    def take(self, step: Step) -> None:
        """Decide one step, as the journal has it or by asking; what was asked is noted in it."""
        if not self.past:
            self.stand()
        left = [row for row in step.rows if self.search.kept[row].any() and not self.dead(row)]
        if not left:
            if not step.whole:
                self.drop(step.rows[0])
        elif self.past:
            self.replay(step, left, self.past.pop())
        elif step.whole:
            stay = self.whole_ports(left)
            self.note(step, {str(self.graph.ports[row]): None for row in stay})
        else:
            self.port(left[0])
            kept = np.flatnonzero(self.search.kept[left[0]]).tolist()
            scores = self.scores[left[0]]
            self.note(step, {str(self.graph.senders[u]): float(scores[u]) for u in kept})

    def note(self, step: Step, kept: dict[str, float | None]) -> None:
        """Settle the search, and append what was decided to the journal."""
        mark = self.search.mark()
        if self.journal is not None:
            counts = (self.batch, self.search.questions, self.search.products)
            self.journal.append(Entry(step.name, kept, *counts, mark).as_dict())

    def replay(self, step: Step, left: list[int], entry: Entry) -> None:
        """Decide a step as the journal has it."""
        assert self.trail is not None  # there are entries
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
        self.trail = self.trail.marked(here, entry.mark, entry.questions, entry.products)

    def stand(self) -> None:
        """Stand where the last session stood, once everything in the journal is replayed."""
        if self.trail is not None:
            self.search.restore(self.trail)
            self.trail = None

    def drop(self, row: int) -> None:
        """Take the edges of a dead port, or of one that fell as a whole, without a question."""
        self.search.commit((row,), self.graph.reads[row][None], None)
        self.decided += int(self.graph.reads[row].sum())
        if not self.past:
            self.report(row)

    def dead(self, row: int) -> bool:
        """Tell whether the port's owner has no kept edge out."""
        feeds = list(self.graph.feeds[row])
        return bool(feeds) and not self.search.kept[:, feeds].any()

    # -- questions --------------------------------------------------------------------------

    def falls(self, new: Loss, old: Loss) -> bool:
        """Decide one question."""
        return not rises(new, old, self.threshold, absolute=self.absolute)

    def whole_ports(self, rows: list[int]) -> list[int]:
        """Ask about a layer's attention ports as wholes, in prefixes; return those that stay."""
        left, kept = rows, []
        while left:
            every = self.graph.reads[left]
            prefixes = np.tril(np.ones((len(left), len(left)), dtype=bool))[..., None] & every
            losses = self.search.ask(left, prefixes)
            before, fallen = self.search.loss, len(left)
            for i, loss in enumerate(losses):
                if not self.falls(loss, before):
                    fallen = i
                    break
                before = loss
            if fallen:
                self.search.commit(left[:fallen], every[:fallen], before)
            kept += left[fallen : fallen + 1]
            left = left[fallen + 1 :]
        return kept

    def port(self, row: int) -> None:
        """Decide every edge into a port."""
        left = np.flatnonzero(self.search.kept[row])[::-1]
        self.decided += int(self.graph.reads[row].sum()) - len(left)
        self.report(row)
        while len(left):
            taken = self.ask_prefixes(row, left[: self.batch])
            left = left[taken:]
            self.decided += taken
            self.report(row)

    def ask_prefixes(self, row: int, edges: np.ndarray) -> int:
        """Ask about the prefixes of some edges; return how many of them are decided."""
        prefixes = np.zeros((len(edges), len(self.graph.senders)), dtype=bool)
        for i, sender in enumerate(edges):
            prefixes[i:, sender] = True
        losses = self.search.ask((row,), prefixes[:, None])
        before = self.search.loss
        for i, (sender, loss) in enumerate(zip(edges, losses, strict=True)):
            if not self.falls(loss, before):
                self.scores[row, sender] = losses.rise(i)
                if i:
                    self.search.commit((row,), prefixes[i - 1][None], before)
                self.batch = max(1, i)
                return i + 1
            before = loss
        self.search.commit((row,), prefixes[-1][None], before)
        self.batch = min(self.most, 2 * self.batch)
        return len(edges)

    # -- what comes of it -------------------------------------------------------------------

    def report(self, row: int) -> None:
        """Tell the progress."""
        if self.progress is None:
            return
        nodes = int(self.search.kept.any(0).sum())
        left = self.pace.words(self.decided, self.search.questions)
        what = (
            f"edges decided, at {self.graph.ports[row]}, loss {self.search.loss.low:.4g}, "
            f"{nodes:,} nodes left, {left}"
        )
        self.progress(self.decided, self.graph.edge_count, what)

    def result(self, order: str) -> Discovery:
        """Return the circuit and the increments that kept its edges."""
        if self.past:
            raise misfit(self.past[-1], "its end")
        self.stand()
        notes = {"loss_search": self.search.loss.value()}
        return Discovery(
            scores=Scores(self.graph, self.scores),
            circuit=Circuit(self.graph, self.search.kept),
            questions=self.search.questions,
            order=order,
            notes={**notes, "vocabulary_products": self.search.products},
        )
