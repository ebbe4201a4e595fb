"""Overlaps of every two circuits: equal to the diffs' own, and an order that shows groups."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from edgewise.graphs.circuit import Circuit
from edgewise.graphs.diff import CircuitDiff
from edgewise.graphs.errors import EdgewiseError, GraphMismatch
from edgewise.graphs.graph import ComputationGraph
from edgewise.graphs.overlap import clustered_order, pairwise_overlaps
from edgewise.graphs.scores import Scores

GRAPH = ComputationGraph(layers=2, heads=2)


def some(seed: int, near: int = 0) -> Circuit:
    """Make a random circuit of 20 edges; those of one `near` share most of them."""
    base, own = (np.random.default_rng(n) for n in (near, 100 + seed))
    shape = GRAPH.reads.shape
    return Scores(GRAPH, base.random(shape) + 0.1 * own.random(shape)).top(20)


def test_overlaps_are_those_of_the_diffs() -> None:
    circuits = [some(0), some(1), some(2, near=1), Circuit.empty(GRAPH)]
    overlaps = pairwise_overlaps(circuits)
    for i, a in enumerate(circuits):
        for j, b in enumerate(circuits):
            assert overlaps[i][j] == CircuitDiff(a, b).summary().edges
            assert overlaps[i][j].jaccard == overlaps[j][i].jaccard
    assert [overlaps[i][i].jaccard for i in range(4)] == [1.0] * 4


def test_unequal_graphs_are_all_named() -> None:
    circuits = [some(0), Circuit.empty(ComputationGraph(3, 2)), Circuit.empty(GRAPH)]
    circuits.append(Circuit.empty(ComputationGraph(2, 4)))
    with pytest.raises(GraphMismatch) as caught:
        pairwise_overlaps(circuits, ["base", "deep", "equal", "wide"])
    message = str(caught.value)
    assert "graph of base" in message and "deep in layers 2 and 3" in message
    assert "wide in heads 2 and 4" in message and "equal" not in message
    with pytest.raises(EdgewiseError, match="two or more"):
        pairwise_overlaps(circuits[:1])


def test_alike_circuits_stand_together() -> None:
    circuits = [some(i, near=i % 2) for i in range(8)]
    order = clustered_order(pairwise_overlaps(circuits))
    assert sorted(order) == list(range(8))
    assert {i % 2 for i in order[:4]} == {0} and {i % 2 for i in order[4:]} == {1}
    assert clustered_order(pairwise_overlaps(circuits[:2])) == [0, 1]
    # of three, the one that is unlike stands at the end; the first circuit's end comes first
    assert clustered_order(pairwise_overlaps([circuits[i] for i in (0, 1, 2)])) == [0, 2, 1]


@pytest.mark.parametrize("given", list(itertools.permutations(range(4))))
def test_the_end_with_the_first_circuit_comes_first(given: tuple[int, ...]) -> None:
    """Circuits that lose edges one after the other are a row, from one end or from the other."""
    edges = [str(edge) for edge in Circuit.full(GRAPH).edges]
    circuits = [Circuit.empty(GRAPH).with_edges(edges[n : n + 12]) for n in (0, 1, 3, 7)]
    order = clustered_order(pairwise_overlaps([circuits[i] for i in given]))
    row = [given[i] for i in order]
    assert row in ([0, 1, 2, 3], [3, 2, 1, 0])
    assert order.index(0) in (0, 1)


def test_node_scores_add_up_the_edges_out() -> None:
    values = np.full(GRAPH.reads.shape, np.nan)
    for edge, value in (("embed->m0", 2.0), ("embed->logits", -3.0), ("m0->m1", 0.5)):
        sender, port = edge.split("->")
        row = [str(p) for p in GRAPH.ports].index(port)
        values[row, [str(n) for n in GRAPH.senders].index(sender)] = value
    found = dict(zip(map(str, GRAPH.senders), Scores(GRAPH, values).by_sender(), strict=True))
    assert (found["embed"], found["m0"]) == (-1.0, 0.5)
    assert np.isnan(found["a0.h0"]) and np.isnan(found["m1"])
    assert Scores(GRAPH, values).by_sender(absolute=True)[0] == 5.0
