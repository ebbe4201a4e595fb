"""Rank correlation, weighted overlap and p-values of overlaps: by hand, and against scipy."""

from __future__ import annotations

import json
from fractions import Fraction
from math import comb
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import assume, given
from hypothesis import strategies as st

from edgewise.graphs.circuit import Circuit
from edgewise.graphs.diff import (
    CircuitDiff,
    ScoreComparison,
    changes,
    compare_scores,
    rank_correlation,
)
from edgewise.graphs.errors import GraphMismatch
from edgewise.graphs.files.json_files import dump_document
from edgewise.graphs.graph import ComputationGraph
from edgewise.graphs.overlap import Overlap, overlap_p_value, weighted_overlap

TINY = ComputationGraph(layers=1, heads=1)
SIZES = st.integers(0, 60).flatmap(
    lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(0, n), st.integers(0, n + 1))
)
NUMBERS = st.integers(2, 30).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(-6, 6), min_size=n, max_size=n)] * 2)
)


# -- the p-value of an overlap -------------------------------------------------------------------


@given(SIZES)
def test_the_p_value_is_the_hypergeometric_tail(sizes: tuple[int, int, int, int]) -> None:
    n, a, b, shared = sizes
    ways = range(max(shared, a + b - n, 0), min(a, b) + 1)
    true = sum(Fraction(comb(a, x) * comb(n - a, b - x), comb(n, b)) for x in ways)
    assert overlap_p_value(n, a, b, shared) == pytest.approx(float(true), rel=1e-10, abs=1e-300)


@pytest.mark.parametrize(
    ("a", "b", "shared"),
    [(200, 200, 1), (2_600, 2_700, 100), (50_000, 70_000, 28_600), (123_000, 123_100, 122_900)],
)
def test_the_p_value_is_exact_in_large_graphs(a: int, b: int, shared: int) -> None:
    true = scipy.stats.hypergeom.sf(shared - 1, 123_211, a, b)
    assert 0 < true < 1
    assert overlap_p_value(123_211, a, b, shared) == pytest.approx(true, rel=1e-6, abs=0)


def test_p_values_at_the_ends() -> None:
    assert overlap_p_value(123_211, 60_000, 60_000, 60_000) == 0.0  # too small for a float
    assert overlap_p_value(123_211, 200, 0, 0) == 1.0
    assert overlap_p_value(10, 10, 10, 10) == 1.0
    assert Overlap(4, 2, 2, 2).p_value == pytest.approx(1 / 6)
    assert Overlap(4, 2, 2, 2).to_dict()["p_value"] == pytest.approx(1 / 6)
    with pytest.raises(ValueError, match="no subsets"):
        overlap_p_value(3, 4, 1, 1)


def test_everything_that_is_told_of_an_overlap_by_hand() -> None:
    """Of 10 things A has 4 and B 3, two of them the same; X is how many chance lets them share.

    P(X = 0, 1, 2, 3) = (20, 60, 36, 4) / 120, so E[J] = 60/120 · 1/6 + 36/120 · 2/5 + 4/120 · 3/4
    = 137/600, the corrected index is (2/5 − 137/600) / (1 − 137/600) = 103/463, and
    P(X >= 2) = 40/120.
    """
    assert Overlap(possible=10, a=4, b=3, shared=2).to_dict() == {
        "possible": 10, "a": 4, "b": 3, "shared": 2, "only_a": 2, "only_b": 1, "jaccard": 0.4,
        "expected_jaccard": pytest.approx(137 / 600),
        "corrected_jaccard": pytest.approx(103 / 463),
        "p_value": pytest.approx(1 / 3),
    }  # fmt: skip
    # of 5 things A has 3: chance lets them share at least 1
    assert Overlap(possible=5, a=3, b=3, shared=1).to_dict()["p_value"] == 1
    assert Overlap(possible=5, a=4, b=1, shared=1).to_dict()["only_a"] == 3


# -- scores --------------------------------------------------------------------------------------


@given(NUMBERS)
def test_the_rank_correlation_is_scipys(sides: tuple[list[int], list[int]]) -> None:
    a, b = (np.array(side, dtype=np.float32) for side in sides)
    assume(len(set(sides[0])) > 1 and len(set(sides[1])) > 1)
    assert rank_correlation(a, b) == pytest.approx(scipy.stats.spearmanr(a, b).statistic, abs=1e-12)


def test_no_rank_correlation_without_variation() -> None:
    assert rank_correlation(np.array([1.0, 1.0]), np.array([1.0, 2.0])) is None
    assert rank_correlation(np.array([1.0]), np.array([1.0])) is None


def test_the_weighted_overlap_by_hand() -> None:
    # weights .5 .5 0 and .25 .25 .5: minima .25 .25 0, maxima .5 .5 .5
    found = weighted_overlap(np.array([2.0, -2.0, 0.0]), np.array([-1.0, 1.0, 2.0]))
    assert found == pytest.approx(0.5 / 1.5)
    # weights .25 .5 .25 and .6 .2 .2: minima .25 .2 .2, maxima .6 .5 .25
    found = weighted_overlap(np.array([1.0, 2.0, -1.0]), np.array([3.0, 1.0, 1.0]))
    assert found == pytest.approx(0.65 / 1.35)
    assert weighted_overlap(np.array([1.0, 2.0]), np.array([-10.0, 20.0])) == pytest.approx(1.0)
    assert weighted_overlap(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == 0.0
    assert weighted_overlap(np.zeros(2), np.zeros(2)) == 1.0
    assert weighted_overlap(np.zeros(2), np.ones(2)) == 0.0
    assert weighted_overlap(np.array([np.nan, 1.0]), np.ones(2)) is None


@given(st.integers(1, 10), st.permutations(range(10)), st.permutations(range(10)))
def test_with_equal_weights_everywhere_it_is_the_jaccard_index(
    size: int, first: list[int], second: list[int]
) -> None:
    a, b = set(first[:size]), set(second[:size])
    x, y = ([float(i in side) for i in range(10)] for side in (a, b))
    found = weighted_overlap(np.array(x), np.array(y))
    assert found == pytest.approx(len(a & b) / len(a | b))


def scored(**scores: float) -> tuple[Circuit, np.ndarray]:
    """Make a circuit with scores, edges written sender__port."""
    circuit = Circuit.empty(TINY).with_edges([name.replace("__", "->") for name in scores])
    values = np.full(TINY.reads.shape, np.nan, dtype=np.float32)
    for edge, score in zip(circuit.edges, _in_order(circuit, scores), strict=True):
        values[TINY.locate(edge)] = score
    return circuit, values


def _in_order(circuit: Circuit, scores: dict[str, float]) -> list[float]:
    return [scores[str(edge).replace("->", "__")] for edge in circuit.edges]


def test_comparison_of_kept_edges() -> None:
    a, x = scored(embed__m0=1.0, m0__logits=3.0, embed__logits=-2.0)
    b, y = scored(embed__m0=4.0, m0__logits=5.0)
    diff = CircuitDiff(a, b)
    found = compare_scores(diff, (x, y))
    assert (found.over, found.edges, found.spearman) == ("shared edges", 2, pytest.approx(1.0))
    # weights 1/6 3/6 2/6 and 4/9 5/9 0: minima 1/6 + 1/2, maxima 4/9 + 5/9 + 1/3
    assert found.weighted_overlap == pytest.approx((2 / 3) / (4 / 3))
    listed = [(str(edge), *rest) for edge, *rest in changes(diff, x, y)]
    assert listed == [("embed->m0", 1.0, 4.0, 3.0), ("m0->logits", 3.0, 5.0, 2.0)]
    assert ScoreComparison(**vars(found)) == found  # type: ignore[arg-type]


def test_comparison_of_all_edges() -> None:
    a, x = scored(embed__m0=1.0)
    count = TINY.edge_count
    whole = np.full(TINY.reads.shape, np.nan)
    whole[TINY.reads] = np.arange(count)
    found = compare_scores(CircuitDiff(a, a), (x, x), (whole, -whole))
    assert (found.over, found.edges, found.spearman) == ("all edges", count, pytest.approx(-1.0))
    assert found.spearman_absolute == pytest.approx(1.0)
    partly = whole.copy()
    partly[TINY.locate(next(iter(a.edges)))] = np.nan
    found = compare_scores(CircuitDiff(a, a), (x, x), (whole, partly))
    assert (found.over, found.edges) == ("some edges", count - 1)


def test_an_edge_without_a_score_leaves_the_weighted_overlap_open() -> None:
    a, x = scored(embed__m0=1.0)
    none = np.full_like(x, np.nan)
    found = compare_scores(CircuitDiff(a, a), (x, none))
    assert (found.edges, found.spearman, found.weighted_overlap) == (0, None, None)


def test_scores_of_another_graph_are_refused() -> None:
    from edgewise.graphs.files import diff_files, read_circuit
    from edgewise.graphs.scores import Scores

    stored = read_circuit(Path(__file__).parents[1] / "data/version1/acdc.json")
    other = Scores(TINY, np.zeros(TINY.reads.shape))
    with pytest.raises(GraphMismatch, match="layers 2 and 1"):
        diff_files(stored, stored, scores=(other, None))


def test_rows_within_a_block_stand_one_a_line() -> None:
    document = {"noise_floor": {"level": 0.05, "edges": [["a", "b"], ["c", "d"]]}, "rows": []}
    text = dump_document(document, rows=("rows", "noise_floor.edges"))
    assert json.loads(text) == document
    assert '      ["a", "b"],\n      ["c", "d"]\n' in text
    assert json.loads(dump_document({"noise_floor": {}}, rows=("noise_floor.edges",))) == {
        "noise_floor": {}
    }
