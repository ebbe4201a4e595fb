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
it, so every decision is that of the one-by-one walk. How a stopped walk goes on: resumable.py.
With `permute` it is walked in other orders too, and what survives is kept: searches/orders.py. With
`stop_on` it goes on with larger thresholds, and stops by pairs not seen: searches/coarser.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from ..graphs.names import LETTERS
from ..patching.incremental.losses import rises
from .registry import Discovery, Option, Options, Page, method
from .resumable import Resumable, Step, question_bound
from .searches.coarser import coarser
from .searches.orders import ALONE, DEFAULT, Order, Orders, in_orders
from .searches.stopping import Stop

if TYPE_CHECKING:
    from ..graphs.circuit import Circuit
    from ..graphs.graph import ComputationGraph
    from ..patching.incremental.losses import Losses
    from ..patching.incremental.search import Search
    from ..patching.run.runner import Progress, Runner
    from .journal import Journal

ORDER = "reverse topological; logits, then per layer m, <v>, <k>, <q>; heads and senders descending"


def apart(
    runner: Runner, options: Mapping[str, Any], burden: np.ndarray, progress: Progress | None
) -> Discovery:
    """Walk as `acdc` does, but an edge is kept only if it is worth `burden` times the threshold."""
    orders = Orders(**{one.name: options[one.name] for one in fields(Orders)})
    own = {key: options[key] for key in ("threshold", "absolute", "candidates")}
    rule = Rule(**own, ports_first=orders.ports_first, burden=burden)
    return _found(runner, rule, orders, progress)


@method(
    "acdc",
    summary="remove edges one by one while the loss rises by less than a threshold",
    selects=True,
    spans=True,
    rival=apart,
    page=Page(
        (
            "Start from all edges. Take the ports from the last to the first, and into each port "
            "the senders from the latest to the earliest.",
            "Ablate the edge in the current circuit. If the loss rises by less than the threshold "
            "it stays ablated, otherwise it is kept.",
        ),
        "Conmy et al. 2023, Towards automated circuit discovery for mechanistic interpretability, "
        "Algorithm 1",
        "one question for each edge that could still matter; on SmolLM2-135M 90 to 1,100 forward "
        "passes, as questions compute again only what they change",
        "Where each removal is to be measured in the circuit that stands, and for comparison with "
        "published circuits. It depends on the order of edges, and on the threshold.",
    ),
)
def acdc(
    runner: Runner,
    *,
    threshold: Annotated[
        float, Option("largest rise of the loss an ablated edge may cause", 0)
    ] = 0.02,
    absolute: Annotated[bool, Option("compare the absolute change of the loss")] = False,
    candidates: Annotated[
        int, Option("questions asked together; no influence on the result", 1, 1024, only_time=True)
    ] = 64,
    orders: Annotated[Orders, Options()] = ALONE,
    progress: Progress | None = None,
    journal: Journal | None = None,
) -> Discovery:
    """Find the circuit that survives the walk; scores are the increments that kept its edges."""
    rule = Rule(threshold, orders.ports_first, absolute, candidates)
    return _found(runner, rule, orders, progress, journal)


@dataclass(frozen=True)
class Rule:
    """When an edge falls, and how it is asked about; see the options of `acdc`.

    `burden`: how many times the threshold each edge must be worth, [ports, senders]; of a port that
    is asked as a whole the least of its edges' counts. Default: once.
    """

    threshold: float
    ports_first: bool = False
    absolute: bool = False
    candidates: int = 64
    order: Order = DEFAULT
    burden: np.ndarray | None = field(default=None, compare=False)

    def limit(self, rows: Sequence[int], some: np.ndarray) -> float:
        """Return how far the loss may rise without some edges into ports, bool [rows, senders]."""
        if self.burden is None:
            return self.threshold
        least = float(self.burden[list(rows)][some].min())
        return least if least == np.inf else self.threshold * least


def _found(
    runner: Runner,
    rule: Rule,
    orders: Orders,
    progress: Progress | None,
    journal: Journal | None = None,
) -> Discovery:
    """Walk as often as is asked for."""
    from ..patching.incremental.search import make_search
    from ..patching.run.floors import beyond_rounding

    def once(
        runner: Runner,
        rule: Rule,
        start: Circuit | None,
        progress: Progress | None,
        journal: Journal | None,
    ) -> tuple[Search, Discovery]:
        search = make_search(runner, rule.threshold)
        if start is not None:
            search.restart(start.kept)
        rule = replace(rule, threshold=beyond_rounding(rule.threshold, runner.floor))
        return search, walk(search, runner.graph, rule, progress, journal)

    if orders.stop_on:
        stop = Stop.of(runner, orders.stop_on)
        return coarser(
            lambda larger, start, tell, notes: once(
                stop.search, replace(rule, threshold=larger), start, tell, notes
            )[1],
            stop, rule.threshold, progress, journal,
        )  # fmt: skip
    return in_orders(
        lambda order, tell, notes: once(runner, replace(rule, order=order), None, tell, notes),
        runner.graph, orders, progress, journal,
    )  # fmt: skip


def walk(
    search: Search,
    graph: ComputationGraph,
    rule: Rule,
    progress: Progress | None = None,
    journal: Journal | None = None,
) -> Discovery:
    """Walk all ports with any search at the full circuit; FileFormatError: not its journal."""
    most = question_bound(graph, rule.candidates, rule.ports_first)
    on = Resumable(search, graph, rule.candidates, most, progress, journal)
    for step in on.through(steps(graph, rule.ports_first, rule.order)):
        left = [row for row in step.rows if search.kept[row].any() and not dead(on, row)]
        if not left:
            if not step.whole:
                on.drop(step.rows[0])
        elif not on.replay(step, left):
            stay = whole_ports(on, rule, left) if step.whole else edges(on, rule, left[0])
            on.note(step, stay)
    return on.result(ORDER + ("; ports first" if rule.ports_first else ""))


def dead(on: Resumable, row: int) -> bool:
    """Tell whether a port's owner has no kept edge out."""
    feeds = list(on.graph.feeds[row])
    return bool(feeds) and not on.search.kept[:, feeds].any()


def whole_ports(on: Resumable, rule: Rule, rows: list[int]) -> list[int]:
    """Ask about a layer's attention ports as wholes; return those that stay."""
    left, stay = rows, []
    while left:
        each = np.eye(len(left), dtype=bool)[..., None] & on.graph.reads[left]
        first, _ = first_that_rises(on.search, rule, left, each)
        stay += left[first : first + 1]
        left = left[first + 1 :]
    return stay


def edges(on: Resumable, rule: Rule, row: int) -> list[int]:
    """Decide every edge into a port, from the latest sender; what stays gets its increment."""
    left = np.flatnonzero(on.search.kept[row])[::-1]
    left = rule.order.senders(row, left, len(on.graph.senders))
    on.report(row, int(on.graph.reads[row].sum()) - len(left))
    while len(left):
        asked = left[: on.batch]
        each = asked[:, None, None] == np.arange(len(on.graph.senders))
        first, losses = first_that_rises(on.search, rule, (row,), each)
        if first < len(asked):
            on.scores[row, asked[first]] = losses.rise(first)
        on.learn(len(asked), first)
        decided = len(asked[: first + 1])
        on.report(row, decided)
        left = left[decided:]
    return [row]


def first_that_rises(
    search: Search, rule: Rule, rows: Sequence[int], each: np.ndarray
) -> tuple[int, Losses]:
    """Ask about prefixes of some sets of edges, bool [n, rows, senders]; ablate those that fall.

    Returns the first set with which the loss rises by the threshold (n: none), and the losses.
    """
    prefixes = np.logical_or.accumulate(each)
    losses, before, first = search.ask(rows, prefixes), search.loss, 0
    for loss in losses:
        limit = rule.limit(rows, each[first])
        if rises(loss, before, limit, absolute=rule.absolute):
            break
        before, first = loss, first + 1
    if first:
        search.commit(rows, prefixes[first - 1], before)
    return first, losses


def steps(graph: ComputationGraph, ports_first: bool, order: Order = DEFAULT) -> list[Step]:
    """List the steps of the walk in order."""
    single = [Step((row,), str(port)) for row, port in enumerate(graph.ports)]
    found = single[-1:]
    for layer in reversed(range(graph.layers)):
        rows = [i for i, port in enumerate(graph.ports) if port.node.layer == layer][::-1]
        attention = [row for row in rows if graph.ports[row].letter in LETTERS]
        others = [row for row in rows if row not in attention]
        apart = graph.parallel and not graph.post_norm  # none of the layer feeds another
        if apart and order.number and not ports_first:
            found += [single[row] for row in order.ports(rows)]
            continue
        found += [single[row] for row in others]
        attention = order.ports(attention)
        if ports_first and attention:
            found.append(Step(tuple(attention), f"ports of layer {layer}", whole=True))
        found += [single[row] for row in attention]
    return found
