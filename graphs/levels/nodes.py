"""Circuits and scores of whole nodes, on the graph of edges.

A node's score is that of ablating all edges out of it at once. A circuit of nodes is the circuit of
every edge among them: from each kept node into each port that a kept node, or nothing but the
logits, computes from. Edges into other nodes change nothing, as nothing reads what these write.

At spans of positions a node counts once for each: it writes, and is patched, at that span alone.

Shapes: P ports of the model, L spans (1 where none are told apart), S senders.
"""

from __future__ import annotations

import numpy as np

from ..circuit import Circuit
from ..graph import ComputationGraph
from ..names import Kind

EDGE, NODE, NEURON = "edge", "node", "neuron"

LEVELS = {
    EDGE: "each edge has a score",
    NODE: "all edges out of a node together have one, and are kept or ablated together",
    NEURON: "as node, where each hidden unit of chosen MLPs is a node",
}
"""What has a score and is kept or ablated, by name.

Neurons are senders of a graph like others, so that scores of them are scores of nodes.
"""


def told(level: object, circuit: Circuit) -> str | None:
    """Say what a circuit keeps beside its edges; None of one of single edges.

    >>> circuit = Circuit.full(ComputationGraph(layers=1, heads=1))
    >>> told("node", circuit), told("edge", circuit)
    ('level node: 3 nodes that write, with every edge among them', None)
    """
    if level not in (NODE, NEURON):
        return None
    at = " at spans" if circuit.graph.spans else ""
    own = ""
    if level == NEURON:
        neurons = np.array([node.kind is Kind.NEURON for node in circuit.graph.senders])
        kept = _by_span(circuit.graph, circuit.kept)[..., neurons]
        number = int(kept.any(0).sum())
        own = f", {number:,} of them neurons"
    return (
        f"level {level}: {count(circuit):,} nodes that write{at}{own}, with every edge among them"
    )


def count(circuit: Circuit) -> int:
    """Count the nodes of which a circuit keeps an edge; at each span, if its graph has some."""
    return int(_by_span(circuit.graph, circuit.kept).any(0).sum())


def fan_out(graph: ComputationGraph, nodes: np.ndarray) -> np.ndarray:
    """Return every edge among kept senders, bool [L·S], and into `logits`: bool [P·L, S].

    At spans what reads at one position is kept where the node is; keys and values, and a whole
    mixer's input, are read for other positions too, and are kept if the node is at any span.

    >>> graph = ComputationGraph(layers=2, heads=1)
    >>> kept = fan_out(graph, np.array([node.layer != 0 for node in graph.senders]))
    >>> [str(graph.edge_at(*place)) for place in np.argwhere(kept) if place[1] > 0]
    ['a1.h0->m1', 'a1.h0->logits', 'm1->logits']
    """
    here = nodes.reshape(graph.positions, -1)  # [L, S]
    anywhere = np.broadcast_to(here.any(0), here.shape)
    read = np.array(
        [
            not feeds
            or (anywhere if port.letter in ("k", "v") or port.node.kind is Kind.MIXER else here)[
                row % graph.positions, list(feeds)
            ].any()
            for row, (port, feeds) in enumerate(zip(graph.ports, graph.feeds, strict=True))
        ]
    )
    wide = np.tile(here, (len(graph.ports) // graph.positions, 1))
    kept: np.ndarray = graph.reads & read[:, None] & wide
    return kept


def spread(graph: ComputationGraph, values: np.ndarray) -> np.ndarray:
    """Give each edge the number of its sender, [L·S] to [P·L, S], NaN where there is none."""
    here = np.asarray(values).reshape(graph.positions, -1)
    return np.where(graph.reads, np.tile(here, (len(graph.ports) // graph.positions, 1)), np.nan)


def of_nodes(graph: ComputationGraph, values: np.ndarray) -> np.ndarray:
    """Return the number that all of a sender's edges have, [P·L, S] to [L·S], NaN if it has none.

    It is told of each span, if the graph has some.
    """
    apart = _by_span(graph, values)
    known = ~np.isnan(apart)
    found = np.take_along_axis(apart, known.argmax(0)[None], 0)[0]
    return np.where(known.any(0), found, np.nan).ravel()


def summed(graph: ComputationGraph, values: np.ndarray) -> np.ndarray:
    """Add up the numbers of each sender's edges, [P·L, S] to [L·S], NaN if it has none."""
    apart = _by_span(graph, values.astype(np.float64))
    return np.where(np.isnan(apart).all(0), np.nan, np.nansum(apart, 0)).ravel()


def _by_span(graph: ComputationGraph, values: np.ndarray) -> np.ndarray:
    return values.reshape(-1, graph.positions, len(graph.senders))
