"""Screening: exact where two scores disagree, the local score elsewhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgewise.discovery.eap import Gradients, eap
from edgewise.discovery.registry import get_method
from edgewise.discovery.screen import most_doubtful
from edgewise.graphs.errors import EdgewiseError
from edgewise.graphs.graph import ComputationGraph
from edgewise.graphs.scores import Scores
from edgewise.patching.run.runner import Runner
from tests.engine import tiny_lift, tiny_pairs


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def runner(request: pytest.FixtureRequest) -> Runner:
    pairs = tiny_pairs(lengths=(6, 4, 5))
    return Runner.create(tiny_lift(request.param), pairs, metric="logit_diff", batch_size=2)


def test_with_all_edges_in_doubt_it_is_exact(runner: Runner) -> None:
    found = get_method("screen")(runner, ask=10**6)
    exact = get_method("exact")(runner)
    assert found.questions == exact.questions
    np.testing.assert_allclose(found.scores.values, exact.scores.values, rtol=1e-5, atol=1e-7)


def test_with_none_it_is_the_local_score(runner: Runner) -> None:
    found = get_method("screen")(runner, ask=0)
    local = get_method("eap")(runner, local=True)
    assert found.questions == 0
    np.testing.assert_array_equal(found.scores.values, local.scores.values)


def test_the_edges_that_two_scores_disagree_on_are_measured(runner: Runner) -> None:
    found, exact = get_method("screen")(runner, ask=7), get_method("exact")(runner)
    local = eap(runner, gradients=Gradients(local=True)).scores.values
    average = get_method("eap-ig")(runner).scores.values
    reads = runner.graph.reads
    doubt = np.abs(local - average)[reads]
    asked = doubt >= np.sort(doubt)[-7]
    got, exact_values = found.scores.values[reads], exact.scores.values[reads]
    np.testing.assert_allclose(got[asked], exact_values[asked], rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(got[~asked], local[reads][~asked])


def test_scores_on_each_example(runner: Runner) -> None:
    plain, found = (get_method("screen")(runner, ask=9, per_example=x) for x in (False, True))
    assert found.examples is not None
    np.testing.assert_allclose(found.scores.values, plain.scores.values, rtol=1e-5, atol=1e-7)
    mean = found.examples.mean().values
    np.testing.assert_allclose(mean, found.scores.values, rtol=1e-4, atol=1e-6)


def test_doubt_is_ranked_by_the_difference() -> None:
    graph = ComputationGraph(layers=1, heads=1)
    first = np.where(graph.reads, 1.0, np.nan)
    second = first.copy()
    second[0, 0], second[1, 0], second[3, 1], second[4, 2] = 1.5, 3, 0, -4
    for number, expected in ((0, []), (1, [(4, 2)]), (2, [(1, 0), (4, 2)]),
                             (4, [(0, 0), (1, 0), (3, 1), (4, 2)])):  # fmt: skip
        found = most_doubtful(Scores(graph, first), Scores(graph, second), number)
        assert [tuple(place) for place in np.argwhere(found)] == expected
    every = most_doubtful(Scores(graph, first), Scores(graph, second), 10**6)
    assert (every == graph.reads).all()


def test_where_ablation_is_not_paired_gradients_are_taken_inside() -> None:
    """An embedding of zero has no gradient that means anything."""
    runner = Runner.create(tiny_lift("llama"), tiny_pairs(), metric="nll", ablation="zero")
    found = get_method("screen")(runner, ask=3)
    assert np.isfinite(found.scores.values[runner.graph.reads]).all()


def test_what_is_local_runs_on_torch() -> None:
    runner = Runner.create(tiny_lift("gpt2"), tiny_pairs(), metric="logit_diff")
    other = replace(runner, engine="jax")
    with pytest.raises(EdgewiseError, match="engine 'jax' does not compute method 'eap' with loc"):
        get_method("eap")(other, local=True)
    with pytest.raises(EdgewiseError, match="'screen' does not run on engine 'jax'"):
        get_method("screen")(other)


def test_a_metric_that_is_flat_at_the_clean_run_is_refused() -> None:
    runner = Runner.create(tiny_lift("gpt2"), tiny_pairs(), metric="kl")
    with pytest.raises(EdgewiseError, match="kl"):
        get_method("screen")(runner)
