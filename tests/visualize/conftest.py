"""Random circuits shaped like real ones: hubs at the bottom, late heads feeding the logits."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from edgewise.graphs.circuit import Circuit
from edgewise.graphs.graph import ComputationGraph
from edgewise.graphs.names import Edge, Kind, Node

Sample = tuple[Circuit, dict[str, float]]


def likely(edge: Edge, graph: ComputationGraph, taste: dict[Node, float]) -> float:
    """Return an edge's made-up importance: hubs, near layers, and the way to the logits count."""
    sender, receiver = edge.sender, edge.port.node
    low = -1 if sender.layer is None else sender.layer
    high = graph.layers if receiver.layer is None else receiver.layer
    hub = 1.5 if low <= 0 and sender.kind is not Kind.HEAD else 1.0
    ending = 3.0 * (low / graph.layers) ** 2 if receiver.kind is Kind.LOGITS else 1.0
    return hub * ending * taste[sender] * taste[receiver] / (1 + 0.15 * (high - low))


def owner_of(sender: Node, graph: ComputationGraph) -> Node:
    """Return a node whose ports feed a sender: itself, or its key/value head where grouped."""
    if sender.kind is Kind.HEAD and graph.grouped_kv:
        share = graph.heads // graph.kv_heads
        return Node(Kind.KV, sender.layer, (sender.index or 0) // share)
    return sender


def make_sample(graph: ComputationGraph, edges: int, seed: int = 0, shift: float = 0.0) -> Sample:
    """Make a connected circuit of about this many edges, with heavy-tailed scores."""
    generator = random.Random(seed)
    other = random.Random(seed + 1000)
    nodes = [*graph.senders, *(port.node for port in graph.ports)]
    taste = dict.fromkeys(nodes, 1.0)
    for node in taste:
        head = node.kind in (Kind.HEAD, Kind.KV)
        mean, wild = (-1.2, 1.6) if head else (0.4, 0.9)
        taste[node] = generator.lognormvariate(mean, wild) * other.lognormvariate(0, shift)
    for name in ("embed", "tok", "m0", "logits"):
        if Node.parse(name) in taste:
            taste[Node.parse(name)] = 8.0
    every = list(Circuit.full(graph).edges)
    weights = {e: likely(e, graph, taste) * generator.lognormvariate(0, 1.3) for e in every}
    kept_edges: set[Edge] = set()
    live = {Node(Kind.LOGITS)}
    incoming: dict[Node, list[Edge]] = {}
    for edge in sorted(every, key=lambda e: -weights[e]):
        incoming.setdefault(edge.port.node, []).append(edge)
    while len(kept_edges) < edges:
        reachable = [e for n in sorted(live, key=str) for e in incoming.get(n, ())[:40]]
        best = max((e for e in reachable if e not in kept_edges), key=lambda e: weights[e])
        while True:  # follow the strongest inputs down to something that is fed already
            kept_edges.add(best)
            fresh = best.sender not in live and best.sender.layer is not None
            live.add(best.sender)
            if not fresh:
                break
            best = incoming[owner_of(best.sender, graph)][0]
            live.add(best.port.node)
    circuit = Circuit.empty(graph).with_edges(sorted(kept_edges, key=str))
    kept = list(circuit.edges)
    top = max((weights[e] for e in kept), default=1.0)
    signs = {e: -1 if generator.random() < 0.12 else 1 for e in kept}
    return circuit, {str(e): signs[e] * 0.8 * weights[e] / top for e in kept}


@pytest.fixture
def sample() -> Callable[..., Sample]:
    """Return the maker of samples."""
    return make_sample
