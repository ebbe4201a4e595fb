"""Edges that join one by one: against the plain definition, by hand, and at full size."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.graphs.circuit import Circuit
from edgewise.graphs.graph import ComputationGraph
from edgewise.graphs.scores import Scores
from edgewise.steps.found.greedy import greedy, joining
from tests.graph_shapes import shapes


def draw_scores(graph: ComputationGraph, seed: int, *, missing: bool = False) -> Scores:
    """Draw small whole numbers, so that many tie; some are not measured if they may be missing."""
    rng = np.random.default_rng(seed)
    values = rng.integers(-3, 4, graph.reads.shape).astype(float)
    lost = rng.random(values.shape) < (0.2 if missing else 0)
    return Scores(graph, np.where(graph.reads & ~lost, values, np.nan))


def plainly(scores: Scores, n: int, absolute: bool) -> list[tuple[int, int]]:
    """Let edges join by the definition: ask of every edge, again and again."""
    graph, kept = scores.graph, list[tuple[int, int]]()
    while len(kept) < n:
        within = {sender for _, sender in kept}
        can = [
            (row, sender)
            for row, sender in np.argwhere(~np.isnan(scores.values)).tolist()
            if (row, sender) not in kept
            and (not graph.feeds[row] or within & set(graph.feeds[row]))
        ]
        if not can:
            break
        size = abs if absolute else float
        kept.append(max(can, key=lambda edge: (size(scores.values[edge]), [-x for x in edge])))
    return kept


@given(shapes(), st.integers(0, 99), st.integers(0, 60), st.booleans(), st.booleans())
def test_edges_join_as_the_definition_says(
    graph: ComputationGraph, seed: int, n: int, absolute: bool, missing: bool
) -> None:
    scores = draw_scores(graph, seed, missing=missing)
    expected = plainly(scores, n, absolute)
    places = joining(scores, n, absolute=absolute)
    assert [divmod(place, graph.reads.shape[1]) for place in places.tolist()] == expected
    circuit = greedy(scores, n, absolute=absolute)
    assert len(circuit) == len(expected)
    assert all(circuit.kept[edge] for edge in expected)
    if not missing:
        assert len(circuit) == min(n, graph.edge_count)


@given(shapes(), st.integers(0, 99), st.integers(0, 60), st.booleans())
def test_every_edge_leads_to_the_logits_and_connected_ones_come_from_the_embedding(
    graph: ComputationGraph, seed: int, n: int, absolute: bool
) -> None:
    scores = draw_scores(graph, seed)
    ports, _ = graph.live(greedy(scores, n, absolute=absolute).kept)
    assert ports[greedy(scores, n, absolute=absolute).kept.any(1)].all()
    circuit = greedy(scores, n, absolute=absolute, connected=True)
    assert len(circuit) <= n
    assert circuit == circuit.prune_dangling()
    order = joining(scores, graph.edge_count, absolute=absolute)
    best = Circuit.empty(graph)
    for size in range(len(order) + 1):
        kept = np.zeros(graph.reads.shape, dtype=bool)
        kept.ravel()[order[:size]] = True
        pruned = Circuit(graph, kept).prune_dangling()
        best = pruned if len(pruned) <= n else best
    assert circuit == best


def test_by_hand() -> None:
    graph = ComputationGraph(layers=2, heads=1)
    values = np.where(graph.reads, 0.0, np.nan)
    for edge, score in {
        "m0->m1": 9, "embed->m0": 8, "m1->logits": 2, "a1.h0->logits": 3, "m0->a1.h0<q>": -5,
    }.items():  # fmt: skip
        values[graph.locate(edge)] = score
    scores = Scores(graph, values)

    def order(n: int, absolute: bool) -> list[str]:
        places = joining(scores, n, absolute=absolute)
        edges = [divmod(place, graph.reads.shape[1]) for place in places.tolist()]
        return [f"{graph.senders[s]}->{graph.ports[p]}" for p, s in edges]

    assert order(2, True) == ["a1.h0->logits", "m0->a1.h0<q>"]
    assert order(4, True)[2:] == ["embed->m0", "m1->logits"]  # 9 waits for what reads it
    assert order(4, False) == ["a1.h0->logits", "m1->logits", "m0->m1", "embed->m0"]
    assert len(scores.top(2).prune_dangling()) == 0
    assert len(greedy(scores, 4, absolute=False, connected=True)) == 3


def test_scores_that_rounding_alone_tells_apart_are_equal() -> None:
    graph = ComputationGraph(layers=1, heads=1)
    values = np.where(graph.reads, 0.0, np.nan)
    values[graph.locate("embed->logits")], values[graph.locate("m0->logits")] = 1, 1 + 2.0**-22
    assert [str(edge) for edge in greedy(Scores(graph, values), 1).edges] == ["embed->logits"]


@pytest.mark.parametrize("size", [200, 123_211])
def test_a_real_graph_takes_well_under_a_second(size: int) -> None:
    graph = ComputationGraph(layers=30, heads=9)
    rng = np.random.default_rng(0)
    scores = Scores(graph, np.where(graph.reads, rng.normal(size=graph.reads.shape), np.nan))
    begun = time.process_time()
    assert len(greedy(scores, size, absolute=False)) == size
    assert time.process_time() - begun < 2  # 0.15 and 0.3 where nothing else runs
