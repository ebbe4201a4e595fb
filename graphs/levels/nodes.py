"""Circuits and scores of whole nodes, on the graph of edges.

A node's score is that of ablating all edges out of it at once. A circuit of nodes is the circuit of
every edge among them: from each kept node into each port that a kept node, or nothing but the
logits, computes from. Edges into other nodes change nothing, as nothing reads what these write.

Shapes: P ports, S senders.
"""

from __future__ import annotations

import numpy as np

from ..graph import ComputationGraph

EDGE, NODE = "edge", "node"

LEVELS = {
    EDGE: "each edge has a score",
    NODE: "all edges out of a node together have one, and are kept or ablated together",
}
"""What has a score and is kept or ablated, by name."""


def told(level: object, kept: np.ndarray) -> str | None:
    """Say what a circuit keeps, bool [P, S], beside its edges; None of one of single edges.

    >>> told("node", np.eye(3, dtype=bool)), told("edge", np.eye(3, dtype=bool))
    ('level node: 3 nodes that write, with every edge among them', None)
    """
    if level != NODE:
        return None
    count = int(kept.any(0).sum())
    return f"level {NODE}: {count:,} nodes that write, with every edge among them"


def fan_out(graph: ComputationGraph, nodes: np.ndarray) -> np.ndarray:
    """Return every edge among kept senders, bool [S], and into `logits`: bool [P, S].

    >>> graph = ComputationGraph(layers=2, heads=1)
    >>> kept = fan_out(graph, np.array([node.layer != 0 for node in graph.senders]))
    >>> [str(graph.edge_at(*place)) for place in np.argwhere(kept) if place[1] > 0]
    ['a1.h0->m1', 'a1.h0->logits', 'm1->logits']
    """
    read = np.array([not feeds or bool(nodes[list(feeds)].any()) for feeds in graph.feeds])
    kept: np.ndarray = graph.reads & read[:, None] & nodes[None]
    return kept


def spread(graph: ComputationGraph, values: np.ndarray) -> np.ndarray:
    """Give each edge the number of its sender, [..., S] to [..., P, S], NaN where there is none."""
    return np.where(graph.reads, np.asarray(values)[..., None, :], np.nan)


def of_nodes(values: np.ndarray) -> np.ndarray:
    """Return the number that all of a sender's edges have, [P, S] to [S], NaN if it has none."""
    known = ~np.isnan(values)
    found = values[known.argmax(0), np.arange(values.shape[1])]
    return np.where(known.any(0), found, np.nan)
