"""Scores: selection by rank and threshold, ties, and what has no score."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.graphs.circuit import Circuit
from edgewise.graphs.errors import GraphMismatch
from edgewise.graphs.graph import ComputationGraph
from edgewise.graphs.scores import Scores

GRAPH = ComputationGraph(layers=1, heads=1)  # 3 + 2 + 3 edges
NAN = float("nan")


def scores(*values: float) -> Scores:
    """Give the eight edges these values, in graph order."""
    matrix = np.full(GRAPH.reads.shape, NAN)
    matrix[GRAPH.reads] = values
    return Scores(GRAPH, matrix)


def names(circuit: Circuit) -> list[str]:
    return [str(edge) for edge in circuit.edges]


BY_HAND = scores(0.5, -3.0, 0.0, 2.0, -0.5, NAN, 1.0, -2.0)


def test_selection_worked_out_by_hand() -> None:
    assert names(BY_HAND.top(1)) == ["embed->a0.h0<k>"]
    assert names(BY_HAND.top(2)) == ["embed->a0.h0<k>", "embed->m0"]  # tie of 2 and -2: the earlier
    assert names(BY_HAND.top(2, absolute=False)) == ["embed->m0", "a0.h0->logits"]
    assert names(BY_HAND.above(2)) == ["embed->a0.h0<k>", "embed->m0", "m0->logits"]
    assert names(BY_HAND.above(1, absolute=False)) == ["embed->m0", "a0.h0->logits"]
    assert BY_HAND["embed->m0"] == 2.0
    assert np.isnan(BY_HAND["embed->logits"])


def test_senders_sum_their_signed_scores_unless_told_otherwise() -> None:
    # embed into q, k, v, m0 and logits: 0.5, -3, 0, 2 and none
    assert BY_HAND.by_sender()[0] == -0.5
    assert BY_HAND.by_sender(absolute=True)[0] == 5.5


def test_a_sender_none_of_whose_edges_has_a_score_has_none() -> None:
    # the last edge, m0->logits, is the only one of m0; the others of a0.h0 and embed have scores
    sums = scores(1, 2, 3, 4, 5, 6, 7, NAN).by_sender()
    np.testing.assert_array_equal(sums, [1 + 2 + 3 + 4 + 6, 5 + 7, NAN])


def test_nothing_is_cut_off_where_nothing_is_kept() -> None:
    cut = BY_HAND.cut(0)
    assert len(cut.circuit) == cut.tied == cut.taken == 0 and np.isnan(cut.score)


def test_an_edge_without_a_score_is_never_selected() -> None:
    assert len(BY_HAND.top(100)) == len(BY_HAND.above(0)) == 7
    assert "embed->logits" not in BY_HAND.top(100)
    assert len(scores(*[NAN] * 8).top(3)) == len(scores(*[NAN] * 8).above(-1, absolute=False)) == 0


def test_nothing_is_selected_by_no_or_negative_number() -> None:
    assert len(BY_HAND.top(0)) == len(BY_HAND.top(-5)) == 0


VALUES = st.lists(
    st.one_of(st.just(NAN), st.sampled_from([-1.0, 0.0, 1.0]), st.floats(-10, 10, width=32)),
    min_size=8,
    max_size=8,
)


@given(VALUES, st.integers(0, 9), st.booleans())
def test_top_takes_the_best_and_prefers_earlier_edges(
    values: list[float], n: int, absolute: bool
) -> None:
    found = scores(*values).top(n, absolute=absolute)
    key = [abs(v) if absolute else v for v in values]
    ranked = sorted((i for i in range(8) if not np.isnan(key[i])), key=lambda i: (-key[i], i))
    assert np.flatnonzero(found.kept[GRAPH.reads]).tolist() == sorted(ranked[:n])


@given(VALUES, st.floats(-11, 11, width=32), st.booleans())
def test_above_compares_each_edge_alone(
    values: list[float], threshold: float, absolute: bool
) -> None:
    found = scores(*values).above(threshold, absolute=absolute).kept[GRAPH.reads]
    assert found.tolist() == [(abs(v) if absolute else v) >= threshold for v in values]


@given(VALUES, st.integers(0, 8), st.integers(0, 8))
def test_larger_selections_contain_smaller_ones(values: list[float], few: int, many: int) -> None:
    few, many = sorted((few, many))
    held = scores(*values)
    assert len(held.top(few) - held.top(many)) == 0


def test_values_where_no_edge_exists_become_nan_and_all_are_float32() -> None:
    held = Scores(GRAPH, np.ones(GRAPH.reads.shape))
    assert held.values.dtype == np.float32
    assert (np.isnan(held.values) == ~GRAPH.reads).all()
    with pytest.raises(ValueError, match="read-only"):
        held.values[0, 0] = 1


def test_another_shape_and_unknown_edges_are_refused() -> None:
    with pytest.raises(GraphMismatch, match=r"shape \(2, 2\)"):
        Scores(GRAPH, np.zeros((2, 2)))
    with pytest.raises(GraphMismatch, match="no port m5"):
        BY_HAND["embed->m5"]


def test_an_infinite_score_is_the_largest() -> None:
    found = scores(0.5, float("inf"), 0.0, 2.0, -0.5, NAN, float("-inf"), -2.0)
    first, second = (names(Circuit.full(GRAPH))[i] for i in (1, 6))
    assert names(found.top(2)) == [first, second]
    assert names(found.top(1, absolute=False)) == [first]
