"""Refine: every removal is measured, the floor holds, and cancelling edges do not fool it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edgewise import plain_block, plain_model
from edgewise.discovery.evaluation import measure
from edgewise.discovery.measures.leaving_out import effects_of_leaving_out
from edgewise.discovery.refine import _Refinement, pool, refine, search_from, smallest
from edgewise.discovery.registry import get_method
from edgewise.graphs.circuit import Circuit
from edgewise.graphs.errors import EdgewiseError, GraphMismatch
from edgewise.graphs.scores import Scores
from edgewise.patching.incremental.losses import LossBounds, Losses, known
from edgewise.patching.incremental.search import IncrementalSearch, Search
from edgewise.patching.prompts.pairs import Pair, PromptPairs
from edgewise.patching.run.runner import Runner
from tests.engine import ABLATIONS, fitting, tiny_lift, tiny_pairs


def tiny_runner(name: str = "llama", seed: int = 0, **options: Any) -> Runner:
    lengths = fitting(options.get("ablation", "resample"), (5, 4))
    return Runner.create(tiny_lift(name, seed), tiny_pairs(seed, lengths), **options)


def greedy(runner: Runner, scores: Scores, n: int) -> Circuit:
    """Follow the definition: remove the least harmful edge, one run from scratch for each."""
    now = pool(scores, 3 * n)
    while len(now) > n:
        smaller = [now.without([edge]) for edge in now.edges]
        losses = runner.losses(smaller)
        now = smaller[int(losses.argmin())].prune_dangling()
    return now


@settings(max_examples=6, deadline=None)
@given(
    name=st.sampled_from(["gpt2", "llama-multi-query", "gpt-neox", "gemma2"]),
    metric=st.sampled_from(["kl", "logit_diff", "nll"]),
    ablation=st.sampled_from(ABLATIONS),
    n=st.integers(3, 15),
    floor=st.sampled_from([0.0, 0.5, 0.9]),
    seed=st.integers(0, 30),
)
def test_both_searches_find_the_same_and_the_floor_holds(
    name: str, metric: str, ablation: str, n: int, floor: float, seed: int
) -> None:
    runner = tiny_runner(name, seed, metric=metric, ablation=ablation)
    scores = get_method("eap-ig")(runner, steps=3).scores
    full, empty = runner.losses([Circuit.full(runner.graph), Circuit.empty(runner.graph)])
    assume(not floor or full < empty)
    slow = search_from(Search(runner), runner, scores, n, floor)
    fast = search_from(IncrementalSearch(runner), runner, scores, n, floor)
    assert fast.circuit == slow.circuit
    np.testing.assert_allclose(fast.scores.values, slow.scores.values, atol=1e-6)
    measured = measure(runner, fast.circuit)
    assert fast.circuit.prune_dangling() == fast.circuit
    if floor:
        assert measured.faithfulness is not None
        assert measured.faithfulness >= floor
    else:
        assert len(fast.circuit) <= n


@pytest.mark.parametrize("metric", ["kl", "logit_diff"])
@pytest.mark.parametrize("seed", range(3))
def test_one_at_a_time_it_is_the_greedy_walk(
    metric: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = tiny_runner(seed=seed, metric=metric)
    scores = get_method("eap-ig")(runner).scores
    monkeypatch.setattr("edgewise.discovery.refine.REMEASURED", 0.0)
    monkeypatch.setattr("edgewise.discovery.refine.EXTRA_RISE", -np.inf)  # no two edges go together
    found = search_from(IncrementalSearch(runner), runner, scores, 12, sweeps=0)
    assert found.circuit == greedy(runner, scores, 12)


@pytest.mark.parametrize("floor", [0.0, 0.7])
def test_every_step_is_measured_exactly(floor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = tiny_runner("gpt2", 2, metric="kl")
    steps = []
    report = _Refinement.report
    monkeypatch.setattr(
        _Refinement, "report", lambda self, now: (steps.append(now), report(self, now))
    )
    refine(runner, edges=10, floor=floor)
    assert len(steps) > 5
    for step in steps:
        assert step.loss == pytest.approx(runner.loss(step.circuit), abs=1e-9)


def test_scores_are_the_rises_without_each_edge() -> None:
    runner = tiny_runner(metric="nll")
    found = get_method("refine")(runner, edges=9)
    assert found.circuit is not None
    loss = runner.loss(found.circuit)
    for edge in found.circuit.edges:
        rise = runner.loss(found.circuit.without([edge])) - loss
        assert found.scores[edge] == pytest.approx(rise, abs=1e-6)
    assert (~np.isnan(found.scores.values) == found.circuit.kept).all()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("metric", ["kl", "logit_diff"])
def test_sweeps_never_make_it_worse(metric: str, seed: int) -> None:
    runner = tiny_runner("llama", seed, metric=metric)
    losses = []
    for sweeps in (0, 1, 3):
        found = get_method("refine")(runner, edges=10, sweeps=sweeps).circuit
        assert found is not None
        assert len(found) <= 10
        losses.append(runner.loss(found))
    assert losses == sorted(losses, reverse=True)


# -- a case where the largest scores are the wrong choice ----------------------------------------

HEADS: dict[str, Any] = {
    # features: word, bias, out; head h writes word times (5, -5, 1) to out
    "wq": torch.zeros(3, 1, 3, dtype=torch.float64),
    "wk": torch.zeros(3, 1, 3, dtype=torch.float64),
    "wv": torch.tensor([[[1.0, 0, 0]]] * 3, dtype=torch.float64),
    "wo": torch.tensor([[[0, 0, 5.0]], [[0, 0, -5.0]], [[0, 0, 1.0]]], dtype=torch.float64),
    "up": torch.zeros(1, 3, dtype=torch.float64),
    "up_bias": torch.zeros(1, dtype=torch.float64),
    "down": torch.zeros(3, 1, dtype=torch.float64),
}


@pytest.fixture
def cancelling() -> Runner:
    """Three heads write 5, -5 and 1 to the answer's logit: the first two cancel."""
    model = plain_model(
        tokens=torch.tensor([[1.0, 0, 0], [0, 1.0, 0]], dtype=torch.float64),
        blocks=[plain_block(**HEADS)],
        unembed=torch.tensor([[0, 0, 1.0], [0, 0, 0]], dtype=torch.float64),
    )
    return Runner.create(model, PromptPairs((Pair((0,), (1,), (0,), (1,)),)))


def test_a_cancelling_pair(cancelling: Runner) -> None:
    scores = get_method("exact")(cancelling).scores
    assert [scores[f"a0.h{h}->logits"] for h in range(3)] == pytest.approx([5, -5, 1])
    plain = scores.top(4)  # the two large heads with their inputs
    assert {str(e) for e in plain.edges} == {
        "embed->a0.h0<v>", "embed->a0.h1<v>", "a0.h0->logits", "a0.h1->logits",
    }  # fmt: skip
    assert cancelling.loss(plain) == pytest.approx(0)  # as bad as no edge at all
    found = get_method("refine")(cancelling, edges=4, start=scores).circuit
    assert found is not None
    assert {str(edge) for edge in found.edges} == {
        "embed->a0.h0<v>", "embed->a0.h2<v>", "a0.h0->logits", "a0.h2->logits",
    }  # fmt: skip
    assert cancelling.loss(found) == pytest.approx(-6)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("n", [8, 20])
def test_not_worse_than_the_largest_scores(seed: int, n: int) -> None:
    runner = tiny_runner("llama", seed, metric="kl")
    scores = get_method("eap-ig")(runner).scores
    found = get_method("refine")(runner, edges=n).circuit
    assert found is not None
    assert runner.loss(found) <= min(runner.loss(scores.top(n)), runner.loss(pool(scores, n)))


# -- the start -----------------------------------------------------------------------------------


def test_the_pool_is_the_fewest_edges_that_leave_enough() -> None:
    runner = tiny_runner(metric="logit_diff")
    scores = get_method("eap-ig")(runner).scores
    for n in (1, 10, 40):
        found = pool(scores, n)
        sizes = [len(scores.top(m).prune_dangling()) for m in range(runner.graph.edge_count + 1)]
        assert len(found) == min(size for size in sizes if size >= n)


def test_a_start_of_few_edges_is_all_there_is() -> None:
    runner = tiny_runner(metric="kl")
    start = get_method("acdc")(runner, threshold=0.02)
    assert start.circuit is not None
    found = get_method("refine")(runner, edges=10, start=start.scores).circuit
    assert found is not None
    assert len(found) <= 10 < len(start.circuit)
    assert not len(found - start.circuit)


def test_wrong_starts_are_refused() -> None:
    runner = tiny_runner(metric="kl")
    graph = runner.graph
    nowhere = np.full(graph.reads.shape, np.nan)
    nowhere[0, 0] = 1
    with pytest.raises(EdgewiseError, match="none of the 1 scored edges has a way"):
        get_method("refine")(runner, start=Scores(graph, nowhere))
    other = tiny_lift("gpt2-one-head").graph
    with pytest.raises(GraphMismatch, match="the start does not fit the model's graph: layers"):
        get_method("refine")(runner, start=Scores(other, np.zeros(other.reads.shape)))
    able = r"\(edge-pruning, exact, refine, subnetwork-probing, ugs\)"
    with pytest.raises(EdgewiseError, match=rf"'acdc' cannot start from scores.*{able}"):
        get_method("acdc")(runner, start=Scores(graph, nowhere))


def test_a_floor_needs_two_ends() -> None:
    runner = tiny_runner(metric="logit_diff")
    nothing = replace(runner.metric, function=lambda logits, _: 0 * logits[..., 0])
    flat = replace(runner, metric=nothing)
    scores = get_method("eap-ig")(runner).scores
    with pytest.raises(EdgewiseError, match="faithfulness means nothing"):
        get_method("refine")(flat, floor=0.5, start=scores)
    pair = runner.measure([Circuit.full(runner.graph), Circuit.empty(runner.graph)])[0]
    sign = "-" if pair[0] > pair[1] else ""
    worse = runner.with_metric(f"{sign}(logit(answer) - logit(distractor))")
    with pytest.raises(EdgewiseError, match="that of the empty circuit is smaller"):
        get_method("refine")(worse, floor=0.5, start=scores)


def test_progress_rises_and_ends_at_most_at_the_total() -> None:
    seen: list[tuple[int, int]] = []
    runner = tiny_runner(metric="kl")
    scores = get_method("eap-ig")(runner).scores
    get_method("refine")(
        runner, lambda done, total, _: seen.append((done, total)), start=scores, edges=10
    )
    assert seen == sorted(seen)
    assert all(done <= total for done, total in seen)


# -- the smallest losses -------------------------------------------------------------------------


def test_the_smallest_losses_are_exact_and_little_is_sharpened() -> None:
    draw = np.random.default_rng(0)
    truth = draw.normal(size=40)
    sharpened = []

    def bounded(values: np.ndarray) -> Losses:
        low, high = values - draw.random(len(values)) / 4, values + draw.random(len(values)) / 4

        def bounds() -> LossBounds:
            nothing = np.full(len(values), np.inf)
            return LossBounds(low.copy(), high.copy(), -nothing, nothing)

        class Source:
            leads = False

            def sharpen(self, start: int, stop: int) -> LossBounds:
                sharpened.extend(range(start, stop))
                low[start:stop] = high[start:stop] = values[start:stop]
                return bounds()

            know = sharpen

        return Losses(bounds(), Source())

    parts = [(row, np.arange(10), bounded(truth[10 * row : 10 * row + 10])) for row in range(4)]
    found = smallest(iter(parts), 5)
    order = np.argsort(truth)[:5]
    assert [(row, sender) for row, sender, _ in found] == [divmod(int(i), 10) for i in order]
    assert [loss for _, _, loss in found] == truth[order].tolist()
    assert 5 <= len(sharpened) < 30


def test_ties_go_to_the_earlier_edge() -> None:
    parts = [(row, np.array([2, 5]), known(np.zeros(2))) for row in (1, 3)]
    assert smallest(iter(parts), 3) == [(1, 2, 0.0), (1, 5, 0.0), (3, 2, 0.0)]
    assert smallest(iter([]), 3) == []


def test_dense_and_incremental_leave_out_alike() -> None:
    runner = tiny_runner("llama", 1, metric="kl")
    circuit = pool(get_method("eap-ig")(runner).scores, 30)
    found = []
    for search in (Search(runner), IncrementalSearch(runner)):
        search.restart(circuit.kept)
        found.append(effects_of_leaving_out(search, runner.graph).values)
    np.testing.assert_allclose(found[0], found[1], atol=1e-9)
