"""Walks in other orders: which edges survive whichever is asked first?

A walk such as ACDC's keeps of two edges that can replace each other the one that is asked last, so
its circuit depends on an order that nothing in the model gives. It is walked in several:

1. The first is the default order. In each other one the ports of a layer that do not feed each
   other stand in a drawn order, and so do the senders of every port; layers stay where they are.
2. An edge's share is that of the orders whose walk kept it. Edges whose share is at least `survive`
   make the circuit; their scores are means over the walks that kept them.

Draws depend on the seed, the order's number and the port alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np

from ...graphs.circuit import Circuit
from ...graphs.errors import EdgewiseError
from ...graphs.scores import ROUNDING, Scores
from ..registry import Discovery, Option
from .parts import part_of, told
from .stopping import STOP_HELP

if TYPE_CHECKING:
    from ...graphs.graph import ComputationGraph
    from ...patching.incremental.search import Search
    from ...patching.run.runner import Progress
    from ..journal import Journal

KEY = "survived"
"""Where a circuit's file holds how large a share of orders keeps each edge."""


@dataclass(frozen=True)
class Orders:
    """In what order a walk is done, in how many, and which circuit is kept of all of them."""

    ports_first: Annotated[bool, Option("ask about each attention port as a whole first")] = False
    permute: Annotated[
        int,
        Option("in how many orders, the default one first; edges kept in enough of them stay", 1,
               1000, quiet=True),
    ] = 1  # fmt: skip
    survive: Annotated[
        float, Option("in what share of the orders an edge must be kept", 0, 1, quiet=True)
    ] = 0.5
    order_seed: Annotated[int, Option("decides what the other orders are", 0, quiet=True)] = 0
    stop_on: Annotated[int, Option(STOP_HELP, 0, quiet=True)] = 0

    def __post_init__(self) -> None:
        if self.stop_on and self.permute > 1:
            raise EdgewiseError(
                "stop_on and permute are given together; accepted: one of the two, as what "
                "survives several orders has no one threshold to be made larger."
            )

    @property
    def all(self) -> list[Order]:
        """Return the orders, the default one first."""
        return [Order(number, self.order_seed) for number in range(self.permute)]


@dataclass(frozen=True)
class Order:
    """One order of a walk; number 0 is the default."""

    number: int = 0
    seed: int = 0

    def ports(self, rows: Sequence[int]) -> list[int]:
        """Return ports that do not feed each other, by their rows, in this order.

        >>> Order().ports([5, 4, 3]), sorted(Order(1).ports([5, 4, 3]))
        ([5, 4, 3], [3, 4, 5])
        """
        if not self.number or not rows:
            return list(rows)
        return [rows[i] for i in self._draws(min(rows)).permutation(len(rows)).tolist()]

    def senders(self, row: int, senders: np.ndarray, width: int) -> np.ndarray:
        """Return some of a port's senders, of so many in the graph, in this order."""
        if not self.number:
            return senders
        places = self._draws(row, 1).permutation(width)
        return senders[np.argsort(places[senders], kind="stable")]

    def _draws(self, *where: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.number, *where])


DEFAULT, ALONE = Order(), Orders()
"""The default order, and that one alone."""

Walk = Callable[["Order", "Progress | None", "Journal | None"], "tuple[Search, Discovery]"]


def in_orders(
    walk: Walk,
    graph: ComputationGraph,
    orders: Orders,
    progress: Progress | None,
    journal: Journal | None,
) -> Discovery:
    """Walk in every order, and return what survives; one walk alone is returned as it is."""
    found: list[Discovery] = []
    for order in orders.all:
        name = f"order {order.number + 1}" if order.number else ""
        now = told(progress, order.number, orders.permute, name or "order 1")
        search, one = walk(order, now, part_of(journal, name))
        found.append(one)
    if len(found) == 1:
        return found[0]
    return _surviving(search, graph, orders, found)


def _surviving(
    search: Search, graph: ComputationGraph, orders: Orders, found: Sequence[Discovery]
) -> Discovery:
    """Return the edges that enough walks kept; `search`: of the last, is moved to these."""
    circuits = [one.circuit for one in found if one.circuit is not None]  # walks select
    kept = np.stack([one.kept for one in circuits])
    share, values = kept.mean(0), np.full(graph.reads.shape, np.nan, dtype=np.float32)
    some = share > 0
    total = np.where(kept, np.stack([one.scores.values for one in found]), 0.0).sum(0)
    values[some] = total[some] / kept.sum(0)[some]
    circuit = Circuit(graph, some & (share >= orders.survive - ROUNDING))
    search.restart(circuit.kept)
    edges = [
        [str(graph.senders[column]), str(graph.ports[row]), round(float(share[row, column]), 6)]
        for row, column in np.argwhere(some)
    ]
    notes = {
        "loss_search": search.loss.value(),
        "vocabulary_products": sum(one.notes["vocabulary_products"] for one in found),
        KEY: {"orders": len(found), "share": orders.survive, "edges": edges},
    }
    order = f"{found[0].order}; and {len(found) - 1} drawn with seed {orders.order_seed}"
    scores = Scores(graph, np.where(circuit.kept, values, np.float32(np.nan)))
    return Discovery(scores, circuit, sum(one.questions for one in found), order, notes)


def survived(discovery: object) -> str | None:
    """Say how many edges survive, from what a file says of its discovery; None without orders.

    >>> edges = [["a", "b", 1.0], ["c", "d", 0.5], ["e", "f", 0.25]]
    >>> survived({"survived": {"orders": 4, "share": 0.5, "edges": edges}})
    '1 edge in all 4 orders, 2 in 50% of them or more, 3 in some'
    """
    block = discovery.get(KEY) if isinstance(discovery, dict) else None
    if not isinstance(block, dict):
        return None
    shares = [one[2] for one in block["edges"]]
    every, most = (sum(s >= least - ROUNDING for s in shares) for least in (1, block["share"]))
    edges = "edge" if every == 1 else "edges"
    return (
        f"{every:,} {edges} in all {block['orders']} orders, {most:,} in {block['share']:.0%} of "
        f"them or more, {len(shares):,} in some"
    )
