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
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..graphs.circuit import Circuit
from ..graphs.names import LETTERS
from ..graphs.scores import Scores
from ..patching.search import rises
from .registry import Discovery, Option, method

if TYPE_CHECKING:
    from ..graphs.graph import ComputationGraph
    from ..patching.runner import Progress, Runner
    from ..patching.search import Loss, Search

ORDER = "reverse topological; logits, then per layer m, <v>, <k>, <q>; heads and senders descending"


@method(
    "acdc",
    summary="remove edges one by one while the loss rises by less than a threshold",
    selects=True,
    options={
        "threshold": Option(float, 0.02, "largest rise of the loss an ablated edge may cause"),
        "ports_first": Option(bool, False, "ask about each attention port as a whole first"),
        "absolute": Option(bool, False, "compare the absolute change of the loss"),
        "candidates": Option(
            int, 64, "questions asked together; no influence on the result", (), 1, 1024
        ),
    },
)
def acdc(
    runner: Runner,
    *,
    threshold: float = 0.02,
    ports_first: bool = False,
    absolute: bool = False,
    candidates: int = 64,
    progress: Progress | None = None,
) -> Discovery:
    """Find the circuit that survives the walk; scores are the increments that kept its edges."""
    from ..patching.search import make_search

    search = make_search(runner, threshold)
    return walk(search, runner.graph, threshold, ports_first, absolute, candidates, progress)


def walk(
    search: Search,
    graph: ComputationGraph,
    threshold: float,
    ports_first: bool = False,
    absolute: bool = False,
    candidates: int = 64,
    progress: Progress | None = None,
) -> Discovery:
    """Walk all ports with any search, whose current circuit is the full one."""
    walk = _Walk(search, graph, threshold, absolute, candidates, progress)
    walk.port(len(graph.ports) - 1)
    for layer in reversed(range(graph.layers)):
        rows = [i for i, port in enumerate(graph.ports) if port.node.layer == layer][::-1]
        attention = [row for row in rows if graph.ports[row].letter in LETTERS]
        for row in rows:
            if row not in attention:
                walk.port(row)
        if ports_first:
            walk.whole_ports(attention)
        for row in attention:
            walk.port(row)
    return walk.result(ORDER + ("; ports first" if ports_first else ""))


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
    ) -> None:
        self.search, self.graph = search, graph
        self.threshold, self.absolute, self.most = threshold, absolute, candidates
        self.progress = progress
        self.scores = np.full(self.graph.reads.shape, np.nan, dtype=np.float32)
        self.decided = 0
        self.batch = 1

    def falls(self, new: Loss, old: Loss) -> bool:
        """Decide one question."""
        return not rises(new, old, self.threshold, absolute=self.absolute)

    def dead(self, row: int) -> bool:
        """Tell whether the port's owner has no kept edge out."""
        feeds = list(self.graph.feeds[row])
        return bool(feeds) and not self.search.kept[:, feeds].any()

    def whole_ports(self, rows: list[int]) -> None:
        """Ask about a layer's attention ports as wholes, in prefixes as for edges."""
        left = [row for row in rows if not self.dead(row)]
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
            left = left[fallen + 1 :]

    def port(self, row: int) -> None:
        """Decide every edge into a port."""
        if self.dead(row):
            self.search.commit((row,), self.graph.reads[row][None], None)
        left = np.flatnonzero(self.search.kept[row])[::-1]
        self.report(int(self.graph.reads[row].sum()) - len(left), row)
        while len(left):
            taken = self.ask_prefixes(row, left[: self.batch])
            left = left[taken:]
            self.report(taken, row)

    def ask_prefixes(self, row: int, edges: np.ndarray) -> int:
        """Ask about the prefixes of some edges; return how many of them are decided."""
        prefixes = np.zeros((len(edges), len(self.graph.senders)), dtype=bool)
        for i, sender in enumerate(edges):
            prefixes[i:, sender] = True
        losses = self.search.ask((row,), prefixes[:, None])
        before = self.search.loss
        for i, (sender, loss) in enumerate(zip(edges, losses, strict=True)):
            if not self.falls(loss, before):
                self.scores[row, sender] = loss.value() - before.value()
                if i:
                    self.search.commit((row,), prefixes[i - 1][None], before)
                self.batch = max(1, i)
                return i + 1
            before = loss
        self.search.commit((row,), prefixes[-1][None], before)
        self.batch = min(self.most, 2 * self.batch)
        return len(edges)

    def report(self, edges: int, row: int) -> None:
        """Tell the progress."""
        self.decided += edges
        if self.progress is not None:
            what = f"edges decided, at {self.graph.ports[row]}, loss {self.search.loss.low:.4g}"
            self.progress(self.decided, self.graph.edge_count, what)

    def result(self, order: str) -> Discovery:
        """Return the circuit and the increments that kept its edges."""
        circuit = Circuit(self.graph, self.search.kept)
        return Discovery(Scores(self.graph, self.scores), circuit, self.search.questions, order)
