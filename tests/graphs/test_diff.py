"""Overlap of circuits: the expectation against brute force, counts by hand, conventions."""

from __future__ import annotations

import itertools
import json
from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.graphs.circuit import Circuit
from edgewise.graphs.diff import CircuitDiff, shape_differences
from edgewise.graphs.errors import GraphMismatch
from edgewise.graphs.graph import ComputationGraph
from edgewise.graphs.overlap import Overlap, expected_jaccard
from tests.graph_shapes import shapes

TINY = ComputationGraph(layers=2, heads=2)
SIZES = st.integers(0, 60).flatmap(
    lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(0, n))
)


def circuit(*edges: str, graph: ComputationGraph = TINY) -> Circuit:
    return Circuit.empty(graph).with_edges(edges)


def exact(n: int, a: int, b: int) -> Fraction:
    """Sum over the hypergeometric distribution in whole numbers."""
    if a + b == 0:
        return Fraction(1)
    overlaps = range(max(0, a + b - n), min(a, b) + 1)
    return sum(
        (
            Fraction(comb(a, x) * comb(n - a, b - x), comb(n, b)) * Fraction(x, a + b - x)
            for x in overlaps
        ),
        Fraction(0),
    )


# -- the expectation ----------------------------------------------------------------------------


@pytest.mark.parametrize("n", range(6))
def test_the_expectation_is_the_mean_over_all_pairs_of_circuits(n: int) -> None:
    subsets = {
        size: [set(chosen) for chosen in itertools.combinations(range(n), size)]
        for size in range(n + 1)
    }
    for a, b in itertools.product(range(n + 1), repeat=2):
        indices = [
            len(x & y) / len(x | y) if x | y else 1.0 for x in subsets[a] for y in subsets[b]
        ]
        assert expected_jaccard(n, a, b) == pytest.approx(np.mean(indices), abs=1e-12)


@given(SIZES)
def test_the_expectation_is_exact(sizes: tuple[int, int, int]) -> None:
    assert expected_jaccard(*sizes) == pytest.approx(float(exact(*sizes)), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize(("a", "b"), [(1000, 3000), (50_000, 70_000), (123_000, 123_100)])
def test_large_graphs_agree_with_lgamma(a: int, b: int) -> None:
    from math import exp, lgamma

    n = 123_211
    x = range(max(0, a + b - n), min(a, b) + 1)
    cells = [(i, a - i, b - i, n - a - b + i) for i in x]
    logs = [-sum(lgamma(count + 1) for count in four) for four in cells]
    most = max(logs)
    weights = [exp(value - most) for value in logs]
    mean = sum(w * i / (a + b - i) for w, i in zip(weights, x, strict=True)) / sum(weights)
    assert expected_jaccard(n, a, b) == pytest.approx(mean, rel=1e-6)


def test_the_largest_graphs_are_fast_and_near_the_ratio_of_means() -> None:
    n, a, b = 1_592_881, 800_000, 600_000
    shared = a * b / n
    assert expected_jaccard(n, a, b) == pytest.approx(shared / (a + b - shared), rel=1e-4)


@pytest.mark.parametrize("sizes", [(3, 4, 1), (3, 1, 4), (3, -1, 1)])
def test_impossible_sizes_are_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="no subsets of sizes"):
        expected_jaccard(*sizes)


# -- overlap ------------------------------------------------------------------------------------


@given(SIZES, st.data())
def test_the_corrected_index_is_one_at_equality_and_bounded(
    sizes: tuple[int, int, int], data: st.DataObject
) -> None:
    n, a, b = sizes
    shared = data.draw(st.integers(max(0, a + b - n), min(a, b)))
    overlap = Overlap(n, a, b, shared)
    swapped = Overlap(n, b, a, shared)
    assert overlap.jaccard == swapped.jaccard
    assert 0 <= overlap.jaccard <= 1
    if overlap.corrected is None:
        assert a == b in (0, n)
    else:
        assert overlap.corrected == pytest.approx(swapped.corrected)
        assert overlap.corrected <= 1
        assert (overlap.corrected == 1) == (a == b == shared)


@given(SIZES)
def test_the_corrected_index_of_chance_is_zero_on_average(sizes: tuple[int, int, int]) -> None:
    n, a, b = sizes
    total = 0.0
    for x in range(max(0, a + b - n), min(a, b) + 1):
        corrected = Overlap(n, a, b, x).corrected
        if corrected is None:
            return
        total += comb(a, x) * comb(n - a, b - x) / comb(n, b) * corrected
    assert total == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("overlap", "jaccard", "corrected"),
    [
        (Overlap(10, 4, 3, 2), 2 / 5, (2 / 5 - 137 / 600) / (1 - 137 / 600)),
        (Overlap(10, 0, 0, 0), 1.0, None),  # both empty: equal, and no choice
        (Overlap(10, 10, 10, 10), 1.0, None),  # both everything
        (Overlap(0, 0, 0, 0), 1.0, None),
        (Overlap(10, 0, 5, 0), 0.0, 0.0),
        (Overlap(10, 10, 5, 5), 0.5, 0.0),  # chance gives just this
        (Overlap(2, 1, 1, 0), 0.0, -1.0),
        (Overlap(2, 1, 1, 1), 1.0, 1.0),
    ],
)
def test_indices_worked_out_by_hand(
    overlap: Overlap, jaccard: float, corrected: float | None
) -> None:
    assert overlap.jaccard == pytest.approx(jaccard)
    assert overlap.corrected == (None if corrected is None else pytest.approx(corrected))


# -- circuits -----------------------------------------------------------------------------------

A = circuit("embed->m0", "embed->a1.h0<q>", "m0->a1.h0<v>", "a1.h0->logits", "m0->logits")
B = circuit("embed->m0", "embed->a1.h0<q>", "m0->a1.h1<v>", "a1.h1->logits", "m0->logits")


def test_parts_worked_out_by_hand() -> None:
    diff = CircuitDiff(A, B)
    assert [str(e) for e in diff.only_a.edges] == ["m0->a1.h0<v>", "a1.h0->logits"]
    assert [str(e) for e in diff.only_b.edges] == ["m0->a1.h1<v>", "a1.h1->logits"]
    assert len(diff.shared) == 3


def test_nodes_sorted_by_hand() -> None:
    """Both have embed, m0 and a1.h0, whose q is read in B too; only B has a1.h1."""
    for one, other, own in ((A, B, "only_b"), (B, A, "only_a")):
        found = {k: [str(node) for node in v] for k, v in CircuitDiff(one, other).nodes.items()}
        sides = {"only_a": [], "only_b": [], own: ["a1.h1"]}
        assert found == {"shared": ["embed", "m0", "a1.h0"], **sides}


def test_summary_worked_out_by_hand() -> None:
    summary = CircuitDiff(A, B).summary()
    assert summary.edges == Overlap(46, 5, 5, 3)
    assert summary.edges_by_kind == {
        "q": Overlap(10, 1, 1, 1),
        "k": Overlap(10, 0, 0, 0),
        "v": Overlap(10, 1, 1, 0),
        "mlp": Overlap(3 + 6, 1, 1, 1),
        "logits": Overlap(7, 2, 2, 1),
    }
    assert list(summary.edges_by_layer) == [0, 1, None]
    assert summary.edges_by_layer[0] == Overlap(6 + 3, 1, 1, 1)
    assert summary.edges_by_layer[None] == Overlap(7, 2, 2, 1)
    assert summary.nodes == Overlap(7, 3, 4, 3)
    assert summary.nodes_by_kind["head"] == Overlap(4, 1, 2, 1)
    assert summary.nodes_by_kind["mlp"] == Overlap(2, 1, 1, 1)
    assert summary.nodes_by_layer == {
        None: Overlap(1, 1, 1, 1),
        0: Overlap(3, 1, 1, 1),
        1: Overlap(3, 1, 2, 1),
    }


SHAPES = shapes(3, 2, 2)


@given(SHAPES, st.integers(0, 10_000), st.integers(0, 10_000))
def test_parts_and_tables_add_up(graph: ComputationGraph, seed_a: int, seed_b: int) -> None:
    a, b = (
        Circuit(graph, graph.reads & (np.random.default_rng(s).random(graph.reads.shape) < 0.3))
        for s in (seed_a, seed_b)
    )
    diff = CircuitDiff(a, b)
    assert diff.shared | diff.only_a == a
    assert diff.shared | diff.only_b == b
    assert len(diff.shared & diff.only_a) == len(diff.only_a & diff.only_b) == 0
    summary = diff.summary()
    assert (summary.edges.only_a, summary.edges.only_b) == (len(diff.only_a), len(diff.only_b))
    for whole, tables in [
        (summary.edges, (summary.edges_by_kind, summary.edges_by_layer)),
        (summary.nodes, (summary.nodes_by_kind, summary.nodes_by_layer)),
    ]:
        for table in tables:
            for count in ("possible", "a", "b", "shared"):
                assert sum(getattr(o, count) for o in table.values()) == getattr(whole, count)  # type: ignore[attr-defined]
    assert (summary.edges.a, summary.nodes.a) == (len(a), len(a.nodes) - 1)
    assert CircuitDiff(a, a).summary().edges.jaccard == 1.0
    json.dumps(summary.to_dict(), allow_nan=False)


def test_summary_as_plain_mappings() -> None:
    plain = CircuitDiff(A, B).summary().to_dict()
    assert plain["edges"]["jaccard"] == pytest.approx(3 / 7)
    assert plain["edges"]["only_a"] == 2
    assert plain["edges_by_kind"]["k"]["corrected_jaccard"] is None
    assert list(plain["edges_by_layer"]) == ["0", "1", "none"]


def test_models_differ_in_the_shape_of_their_graphs_and_in_width() -> None:
    two, three = ComputationGraph(2, 2), ComputationGraph(3, 2)
    assert shape_differences(two, two, (16, 16)) == []
    assert shape_differences(two, two, (16, 24)) == ["d_model 16 and 24"]
    assert shape_differences(two, three, (16, 16)) == ["layers 2 and 3"]
    assert shape_differences(two, three, (16, None)) == ["layers 2 and 3", "d_model 16 and None"]


def test_unequal_graphs_are_refused_saying_in_what() -> None:
    with pytest.raises(GraphMismatch, match="parallel False and True"):
        CircuitDiff(A, Circuit.full(ComputationGraph(2, 2, parallel=True)))
