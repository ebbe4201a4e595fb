"""Stability of edges: planted probabilities, the definition spelled out, and likeness by hand."""

from __future__ import annotations

from dataclasses import replace
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.discovery.uncertainty import stability as module
from edgewise.discovery.uncertainty.bootstrap import resamples
from edgewise.discovery.uncertainty.stability import (
    EdgeRule,
    MeanJaccard,
    mean_jaccard,
    stability,
    stable,
    stable_likeness,
)
from edgewise.graphs.circuit import Circuit
from edgewise.graphs.example_scores import ExampleScores
from edgewise.graphs.graph import ComputationGraph
from edgewise.graphs.scores import Scores
from tests.graph_shapes import shapes

GRAPH = ComputationGraph(layers=2, heads=2)
RULES = [
    EdgeRule(absolute=True, size=12),
    EdgeRule(absolute=False, size=12),
    EdgeRule(absolute=False, size=60),
    EdgeRule(absolute=True, threshold=0.4),
    EdgeRule(absolute=False, threshold=-0.1),
    EdgeRule(absolute=True, connected=True, size=30),
    EdgeRule(absolute=False, connected=True, threshold=0.2),
    EdgeRule(absolute=True, size=0),
    EdgeRule(absolute=True, size=10_000),
]


def examples_of(
    values: np.ndarray, graph: ComputationGraph = GRAPH, groups: tuple[str, ...] = ()
) -> ExampleScores:
    labels = groups or ("",) * len(values)
    return ExampleScores(graph, values.astype(np.float32), labels)


def random_examples(graph: ComputationGraph = GRAPH, n: int = 12, seed: int = 0) -> ExampleScores:
    """Scores that differ in size by orders of magnitude, some of which are the same or 0."""
    rng = np.random.default_rng(seed)
    size = rng.exponential(size=graph.edge_count) ** 3
    values = size * (rng.normal(size=graph.edge_count) + rng.normal(size=(n, graph.edge_count)))
    values[:, ::7] = 0
    values[:, 3::11] = values[:, [3]]
    return examples_of(values, graph)


def by_definition(examples: ExampleScores, rule: EdgeRule, weights: np.ndarray) -> np.ndarray:
    """Select every resample's circuit as any scores' is selected, bool [R, edges]."""
    found = []
    for row in weights:
        scores = examples.on_edges(row @ examples.values.astype(np.float64) / row.sum())
        if rule.threshold is not None:
            circuit = scores.above(rule.threshold, absolute=rule.absolute)
        else:
            circuit = scores.top(rule.size or 0, absolute=rule.absolute)
        circuit = circuit.prune_dangling() if rule.connected else circuit
        found.append(circuit.kept[examples.graph.reads])
    return np.array(found)


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("likely", [4, 1000])
def test_each_resample_is_selected_as_a_circuit_is(
    rule: EdgeRule, likely: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LIKELY", likely)
    monkeypatch.setattr(module, "BLOCK_BYTES", 2000)
    examples = random_examples()
    found = stability(examples, rule, 50, seed=3)
    expected = by_definition(examples, rule, resamples(np.arange(12), 50, seed=3))
    np.testing.assert_allclose(found.shares, expected.mean(0), atol=1e-6)
    pairs = [
        1.0 if not (a | b).any() else (a & b).sum() / (a | b).sum()
        for i, a in enumerate(expected)
        for b in expected[:i]
    ]
    assert found.likeness.between == pytest.approx(np.mean(pairs))
    whole = by_definition(examples, rule, np.ones((1, len(examples))))[0]
    each = [(whole & x).sum() / (whole | x).sum() if (whole | x).any() else 1 for x in expected]
    assert found.likeness.with_all == pytest.approx(np.mean(each))


def test_few_edges_are_looked_at_in_each_resample() -> None:
    graph = ComputationGraph(layers=8, heads=8)
    examples = random_examples(graph)
    weights = resamples(np.arange(12), 50)
    columns = module._candidates(examples, EdgeRule(absolute=True, size=20), weights)
    assert 20 <= len(columns) < graph.edge_count / 4


@given(shapes(), st.sampled_from([0.05, 0.2, 0.6]), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_edges_on_no_way_are_left_out_of_many_sets_at_once(
    shape: ComputationGraph, density: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    columns = np.flatnonzero(rng.random(shape.edge_count) < 0.9)
    sets = rng.random((8, len(columns))) < density
    found = module._Ways(shape, columns).left(sets)
    for before, after in zip(sets, found, strict=True):
        mask = np.zeros(shape.edge_count, dtype=bool)
        mask[columns] = before
        kept = np.zeros(shape.reads.shape, dtype=bool)
        kept[shape.reads] = mask
        expected = Circuit(shape, kept).prune_dangling().kept[shape.reads][columns]
        np.testing.assert_array_equal(after, expected)


# -- planted probabilities ----------------------------------------------------------------------


def competing(groups: tuple[str, ...] = ()) -> ExampleScores:
    """One edge always scores 1; another 1.5 n on the first example alone, and wins if it is in."""
    values = np.zeros((10, GRAPH.edge_count))
    values[:, 5] = 1
    values[0, 9] = 15
    return examples_of(values, groups=groups)


def test_an_edge_of_known_probability() -> None:
    found = stability(competing(), EdgeRule(absolute=True, size=1), 2000)
    chance = 1 - 0.9**10
    error = (chance * (1 - chance) / 2000) ** 0.5
    assert found.shares[9] == pytest.approx(chance, abs=4 * error)
    assert found.shares[5] == pytest.approx(1 - chance, abs=4 * error)
    assert found.shares.sum() == pytest.approx(1)
    alike = chance**2 + (1 - chance) ** 2
    assert found.likeness.between == pytest.approx(alike, abs=0.02)
    # of all prompts the other edge has 1.5, and is the circuit
    assert found.likeness.with_all == found.shares[9]
    assert (found.resamples, found.examples, found.clusters, found.drawn) == (2000, 10, 10, 10)


def test_whole_groups_are_drawn() -> None:
    found = stability(competing(tuple("aabbccddee")), EdgeRule(absolute=True, size=1), 2000)
    assert found.shares[9] == pytest.approx(1 - 0.8**5, abs=0.03)
    assert (found.clusters, found.drawn) == (5, 5)


def test_of_few_groups_examples_are_drawn() -> None:
    found = stability(competing(("one",) * 10), EdgeRule(absolute=True, size=1), 2000)
    assert found.shares[9] == pytest.approx(1 - 0.9**10, abs=0.03)
    assert (found.clusters, found.drawn) == (1, 10)


def test_a_resample_of_groups_of_unlike_size_has_the_mean_of_its_examples() -> None:
    values = np.zeros((6, GRAPH.edge_count))
    values[0, 2] = 1
    found = stability(
        examples_of(values, groups=("a", "b", "c", "d", "e", "e")),
        EdgeRule(True, threshold=0.5),
        2000,
    )
    chance = sum(  # a is drawn k times and e, a group of two, j times
        comb(5, k) * comb(5 - k, j) * 0.2 ** (k + j) * 0.6 ** (5 - k - j)
        for k in range(6)
        for j in range(6 - k)
        if 2 * k >= 5 + j
    )
    assert found.shares[2] == pytest.approx(chance, abs=0.015)


def test_signs_count_where_they_should() -> None:
    values = np.zeros((10, GRAPH.edge_count))
    values[:, 1], values[:, 2] = -2, 1
    for absolute, edge in ((True, 1), (False, 2)):
        found = stability(examples_of(values), EdgeRule(absolute, size=1), 20)
        assert np.flatnonzero(found.shares).tolist() == [edge]
        assert found.likeness == MeanJaccard(1, 1)


def test_a_stable_circuit_has_the_edges_that_resamples_keep() -> None:
    examples = competing()
    scores = examples.mean()
    circuit = scores.top(2)
    rule = EdgeRule.of(circuit, scores, absolute=True, connected=False, above=None)
    assert rule == EdgeRule(absolute=True, size=2)
    found = stability(examples, rule)
    assert found.by_edge[GRAPH.reads][5] == 1
    left = stable(circuit, found, 0.9, connected=False)
    assert left.kept[GRAPH.reads].nonzero()[0].tolist() == [5]
    assert not len(stable(circuit, found, 0.9, connected=True))  # it leads nowhere


def test_the_size_of_a_circuit_on_ways_is_that_before_others_are_left_out() -> None:
    examples = random_examples()
    scores = examples.mean()
    circuit = scores.top(20).prune_dangling()
    rule = EdgeRule.of(circuit, scores, absolute=True, connected=True, above=None)
    assert rule.connected
    assert rule.size is not None
    assert len(circuit) < rule.size <= 20
    assert scores.top(rule.size).prune_dangling() == circuit


# -- likeness -----------------------------------------------------------------------------------


def test_likeness_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AT_ONCE", 2)
    sets = np.array([[1, 1, 0, 0, 1], [1, 0, 0, 1, 1], [0, 0, 0, 0, 0]], dtype=bool)
    assert mean_jaccard(sets) == pytest.approx((2 / 4 + 0 + 0) / 3)
    assert mean_jaccard(sets[[2, 2]]) == 1
    assert mean_jaccard(sets[:1]) == 1


def test_stable_circuits_of_scores_without_spread_are_all_the_same() -> None:
    values = np.tile(np.random.default_rng(0).normal(size=GRAPH.edge_count), (10, 1))
    assert stable_likeness(examples_of(values), RULES[0], 0.9, outer=5, inner=5) == MeanJaccard(
        1, 1
    )


@pytest.mark.parametrize("rule", [RULES[0], RULES[1], RULES[5]], ids=str)
def test_stable_circuits_of_new_resamples_by_definition(rule: EdgeRule) -> None:
    examples = random_examples()
    found = stable_likeness(examples, rule, 0.7, outer=6, inner=20, seed=5)
    rng = np.random.default_rng(5)
    drawn = rng.multinomial(12, np.full(12, 1 / 12), size=6)
    drawn = np.concatenate([drawn, np.ones((1, 12), dtype=int)])
    sets = []
    for one in drawn:
        within = rng.multinomial(12, one / 12, size=20)
        (circuit,) = by_definition(examples, rule, one[None])
        left = circuit & (by_definition(examples, rule, within).mean(0) >= 0.7)
        if rule.connected:
            kept = np.zeros(GRAPH.reads.shape, dtype=bool)
            kept[GRAPH.reads] = left
            left = Circuit(GRAPH, kept).prune_dangling().kept[GRAPH.reads]
        sets.append(left)
    assert found.between == pytest.approx(mean_jaccard(np.array(sets[:-1])))
    each = [(sets[-1] & one).sum() / (sets[-1] | one).sum() for one in sets[:-1]]
    assert found.with_all == pytest.approx(np.mean(each))


def test_results_do_not_depend_on_how_scores_are_kept() -> None:
    examples = random_examples()
    half = replace(examples, values=examples.values.astype(np.float16))
    wide = ExampleScores(GRAPH, half.values.astype(np.float32), half.groups)
    a, b = (stability(x, RULES[0], 100) for x in (half, wide))
    np.testing.assert_array_equal(a.shares, b.shares)


def test_scores_of_a_mask_and_of_columns_are_the_same_edges() -> None:
    examples = random_examples()
    assert isinstance(examples.mean(), Scores)
    found = stability(examples, RULES[0], 100)
    edge = examples.graph.edge_at(*np.argwhere(GRAPH.reads)[4])
    assert found.by_edge[GRAPH.locate(edge)] == found.shares[examples.edge_index(edge)]
