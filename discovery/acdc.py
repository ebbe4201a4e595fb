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
    from ..patching.runner import Progress, Runner
    from ..patching.search import Loss, Search

DENSE = False
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
            int, 8, "questions asked together; no influence on the result", (), 1, 1024
        ),
    },
)
def acdc(
    runner: Runner,
    *,
    threshold: float = 0.02,
    ports_first: bool = False,
    absolute: bool = False,
    candidates: int = 8,
    progress: Progress | None = None,
) -> Discovery:
    """Find the circuit that survives the walk; scores are the increments that kept its edges."""
    from ..patching.search import DenseSearch, IncrementalSearch

    search = IncrementalSearch(runner, threshold) if not DENSE else DenseSearch(runner)
    walk = _Walk(search, runner, threshold, absolute, candidates, progress)
    graph = runner.graph
    walk.port(len(graph.ports) - 1)
    for layer in reversed(range(graph.layers)):
        attention = [
            graph.port_index[port]
            for port in graph.ports
            if port.node.layer == layer and port.letter in LETTERS
        ]
        others = [
            row
            for row, port in enumerate(graph.ports)
            if port.node.layer == layer and port.letter is None
        ]
        for row in reversed(others):
            walk.port(row)
        if ports_first:
            for row in reversed(attention):
                walk.whole_port(row)
        for row in reversed(attention):
            walk.port(row)
    return walk.result(ORDER + ("; ports first" if ports_first else ""))


class _Walk:
    """Walk the ports; the search holds the current circuit."""

    def __init__(
        self,
        search: Search,
        runner: Runner,
        threshold: float,
        absolute: bool,
        candidates: int,
        progress: Progress | None,
    ) -> None:
        self.search, self.graph = search, runner.graph
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

    def whole_port(self, row: int) -> None:
        """Ask about a port as a whole."""
        if self.dead(row):
            return
        every = self.graph.reads[row]
        (loss,) = self.search.ask(row, every[None])
        if self.falls(loss, self.search.loss):
            self.search.commit(row, every, loss)

    def port(self, row: int) -> None:
        """Decide every edge into a port."""
        if self.dead(row):
            self.search.commit(row, self.graph.reads[row], None)
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
        losses = self.search.ask(row, prefixes)
        before = self.search.loss
        for i, (sender, loss) in enumerate(zip(edges, losses, strict=True)):
            if not self.falls(loss, before):
                self.scores[row, sender] = loss.value() - before.value()
                if i:
                    self.search.commit(row, prefixes[i - 1], before)
                self.batch = max(1, i)
                return i + 1
            before = loss
        self.search.commit(row, prefixes[-1], before)
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
