"""Which nodes carry most of what a donor gains over a receiver?

1. Singles: each candidate alone takes the donor's value (see `transplant.py`); candidates are
   ranked by the share of the gain they carry.
2. Greedy: the `beam` best singles are the candidates of every step. Each is tried together with
   what is chosen already, and the one with the largest share is added, until so many nodes are
   chosen, or a share is reached, or no candidate raises the share.

Shares that differ by no more than rounding makes them differ (`Transplant.floor`) are equal, and of
equal ones the node that comes first in the graph is taken. Candidates of one layer run together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np

from ...graphs.errors import EdgewiseError
from ...graphs.names import Node
from ..run.floors import in_order
from ..run.runner import Progress
from .donor import column_of
from .transplant import Transplant, nodes_mask


@dataclass(frozen=True)
class NodeEffect:
    """What is measured with a node (and those chosen before), and the share of the gain.

    `each`: the metric of every example, float64 [examples].
    """

    node: Node
    value: float
    share: float
    each: np.ndarray = field(repr=False, compare=False)


def single_effects(
    transplant: Transplant, nodes: Iterable[Node] | None = None, progress: Progress | None = None
) -> list[NodeEffect]:
    """Measure nodes one at a time (default: all), and rank them by the share each carries alone."""
    graph = transplant.graph
    chosen = graph.senders if nodes is None else tuple(nodes)
    columns = sorted({column_of(graph, node) for node in chosen})
    found = _extended(transplant, (), [graph.senders[u] for u in columns], progress, "single nodes")
    return [found[i] for i in in_order([-one.share for one in found], transplant.floor)]


def greedy(
    transplant: Transplant,
    singles: Sequence[NodeEffect],
    *,
    steps: int,
    share: float | None = None,
    beam: int | None = None,
    progress: Progress | None = None,
) -> list[NodeEffect]:
    """Choose up to `steps` nodes, each time the one that carries most with those before it.

    `singles`: from `single_effects`; the best `beam` of them (default: all) are tried in each step.
    `share`: stop when this share of the gain is carried.
    """
    for name, number in (("steps", steps), ("beam", beam)):
        if number is not None and number < 1:
            raise EdgewiseError(f"{name} is {number}; accepted: a whole number from 1 up.")
    candidates = [one.node for one in singles[:beam]]
    best = list(singles[:1])
    while best and len(best) < min(steps, len(candidates)):
        if share is not None and best[-1].share >= share - transplant.floor:
            break
        chosen = [one.node for one in best]
        rest = [node for node in candidates if node not in chosen]
        rest.sort(key=lambda node: transplant.graph.sender_index[node])
        words = f"candidates of step {len(best) + 1}"
        tried = _extended(transplant, chosen, rest, progress, words)
        step = tried[in_order([-one.share for one in tried], transplant.floor)[0]]
        if step.share <= best[-1].share + transplant.floor:
            break
        best.append(step)
    return best


def _extended(
    transplant: Transplant,
    chosen: Sequence[Node],
    nodes: Sequence[Node],
    progress: Progress | None,
    words: str,
) -> list[NodeEffect]:
    """Measure what is chosen together with each of some nodes, which are in graph order."""
    found: list[NodeEffect] = []
    for node, each in zip(
        nodes, each_with(transplant, chosen, nodes, progress, words), strict=True
    ):
        value = float(each.mean())
        found.append(NodeEffect(node, value, transplant.require_share(value), each))
    return found


def each_with(
    transplant: Transplant,
    chosen: Sequence[Node],
    nodes: Sequence[Node],
    progress: Progress | None = None,
    words: str = "single nodes",
) -> list[np.ndarray]:
    """Measure what is chosen with each of some nodes, in graph order, on every example."""
    base = nodes_mask(transplant.graph, chosen)
    found: list[np.ndarray] = []
    for _, group in groupby(nodes, key=lambda node: node.layer):
        masks = np.stack([base | nodes_mask(transplant.graph, [node]) for node in group])
        found += list(transplant.measure_each(masks))
        if progress is not None:
            progress(len(found), len(nodes), words)
    return found
