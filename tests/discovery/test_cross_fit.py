"""Sizes chosen on pairs that scores are not of: halves, what is reached there, what is kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.discovery.evaluation import measured_ends
from edgewise.discovery.meaning import doubts_of_selection, doubts_of_size
from edgewise.discovery.registry import Discovery, get_method
from edgewise.discovery.smallest import least_size
from edgewise.discovery.uncertainty.cross_fit import fewest, halves
from edgewise.graphs.circuit import Circuit
from edgewise.graphs.errors import EdgewiseError
from edgewise.graphs.graph import ComputationGraph
from edgewise.graphs.scores import Scores
from edgewise.patching.run.runner import Runner
from tests.engine import ABLATIONS, tiny_lift, tiny_pairs

LENGTHS = (5,) * 10


def grouped_runner(name: str = "llama", seed: int = 0, **options: str) -> Runner:
    pairs = tiny_pairs(seed, LENGTHS)
    named = [replace(pair, group="abcde"[i // 2]) for i, pair in enumerate(pairs)]
    return Runner.create(
        tiny_lift(name, seed), replace(pairs, pairs=tuple(named)), metric="logit_diff", **options
    )


@given(st.lists(st.integers(0, 5), min_size=2, max_size=40))
def test_halves_are_balanced_and_keep_clusters_together(labels: list[int]) -> None:
    numbers = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    clusters = np.array([numbers[label] for label in labels])
    second = halves(clusters)
    sizes = sorted([int(second.sum()), int((~second).sum())])
    assert 3 * sizes[0] >= len(labels) - 2
    whole = all(len(set(second[clusters == c].tolist())) == 1 for c in set(clusters.tolist()))
    assert whole or sizes[1] - sizes[0] <= 1


@given(st.integers(1, 300), st.integers(1, 300))
def test_the_least_size_of_a_threshold_is_found(least: int, total: int) -> None:
    asked: list[int] = []

    def reached(n: int) -> bool:
        asked.append(n)
        return n >= least

    assert least_size(reached, total) == min(least, total)
    assert len(asked) <= 2 * total.bit_length()


@pytest.mark.parametrize("connected", [False, True])
@pytest.mark.parametrize("ablation", ABLATIONS)
def test_what_is_reached_is_measured_on_the_other_half(ablation: str, connected: bool) -> None:
    """By the definition: every pair is run alone, with the circuit of the other half's scores."""
    runner = grouped_runner(ablation=ablation)
    method = get_method("eap-ig")
    examples = method(runner, per_example=True, midpoint=True).examples
    assert examples is not None
    found = fewest(runner, examples, 0.5, absolute=False, connected=connected)
    by_score = found.signed
    full, empty = measured_ends(runner)
    assert found.halves == 2
    second = halves(examples.clusters)
    own = examples.mean()
    sizes = range(runner.graph.edge_count + 1)

    def of(scores: Scores, k: int) -> Circuit:
        circuit = scores.top(k, absolute=not by_score)
        return circuit.prune_dangling() if connected else circuit

    ks = [k for k in sizes if of(own, k) == found.circuit]
    reached = [crossed(runner, examples, second, of, k, full, empty) for k in ks]
    assert min(abs(one - found.faithfulness) for one in reached) < 1e-5
    assert found.faithfulness >= 0.5 - 1e-5 or max(ks) == runner.graph.edge_count


def crossed(runner, examples, second, of, k, full, empty):  # type: ignore[no-untyped-def]
    values = []
    for i in range(len(runner.pairs)):
        others = np.flatnonzero(second != second[i])
        circuit = of(examples.chosen(others).mean(), k)
        alone = replace(runner.pairs, pairs=(runner.pairs.pairs[i],))
        one = Runner.create(
            runner.model, alone, metric=runner.metric, ablation=runner.ablation,
            reference=runner.reference,
        )  # fmt: skip
        values.append(one.measure([circuit])[0, 0])
    return (np.mean(values) - empty) / (full - empty)


def test_few_pairs_are_not_cut() -> None:
    runner = Runner.create(tiny_lift("gpt2"), tiny_pairs(), metric="logit_diff")
    examples = get_method("eap")(runner, per_example=True).examples
    assert examples is not None
    found = fewest(runner, examples, 0.8)
    full, empty = measured_ends(runner)
    value = runner.measure([found.circuit])[0, 0]
    assert found.halves == 1
    assert found.faithfulness == pytest.approx((value - empty) / (full - empty))


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(0, 40), st.booleans())
def test_connected_edges_lie_on_ways(seed: int, n: int, absolute: bool) -> None:
    graph = ComputationGraph(layers=2, heads=2)
    values = np.random.default_rng(seed).normal(size=graph.reads.shape)
    scores = Scores(graph, np.where(graph.reads, values, np.nan))
    found = scores.top(n, absolute=absolute, connected=True)
    assert len(found) <= n and found == found.prune_dangling()
    sizes = range(graph.edge_count + 1)
    lefts = [scores.top(k, absolute=absolute).prune_dangling() for k in sizes]
    assert found == max((one for one in lefts if len(one) <= n), key=len)
    if n >= graph.edge_count:
        assert found == Circuit.full(graph)


def test_a_circuit_that_nothing_reaches_is_told_of() -> None:
    graph = ComputationGraph(layers=1, heads=1)
    scores = Scores(graph, np.where(graph.reads, 1.0, np.nan))
    dead = Circuit.empty(graph).with_edges(["m0->logits", "a0.h0->m0"])
    (words,) = doubts_of_selection(scores, dead, None, signed=True)
    assert "no way of kept edges leads from the embedding" in words and "connected" in words
    reached = dead.with_edges(["embed->m0"])
    assert not doubts_of_selection(scores, reached, None, signed=True)
    assert not doubts_of_size(None) and not doubts_of_size(1.1)
    assert "overshoot" in doubts_of_size(1.2)[0]
    assert not doubts_of_size(0.9, 1000, 1000) and not doubts_of_size(0.9, 9_000, 100_000)
    assert "20,000 edges, 20% of all" in doubts_of_size(0.9, 20_000, 100_000)[0]


def test_scores_of_each_pair_are_needed() -> None:
    from edgewise.experiment.spec import Selection
    from edgewise.steps.found.selection import selected

    runner = grouped_runner()
    scores = get_method("eap")(runner).scores
    with pytest.raises(EdgewiseError, match="each pair's own scores are needed"):
        selected(runner, Discovery(scores), Selection(target=0.9))


def test_where_signed_scores_do_not_reach_the_target_absolute_ones_do() -> None:
    """Of a target that no circuit of positive edges can reach, the whole model is left."""
    runner = grouped_runner()
    examples = get_method("eap-ig")(runner, per_example=True, midpoint=True).examples
    assert examples is not None
    positive = int((examples.mean().values > 0).sum())
    low = fewest(runner, examples, 0.05, absolute=False)
    assert low.signed and low.best_signed is None and len(low.circuit) <= positive
    found = fewest(runner, examples, 50.0, absolute=False)
    assert not found.signed and found.best_signed is not None and found.best_signed < 50
    assert found.as_dict()["best_signed"] == found.best_signed
    assert found.circuit == Circuit.full(runner.graph)
