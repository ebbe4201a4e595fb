"""No choice turns on rounding: the floor is above it, and noise below the floor changes nothing."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import pytest
import torch

from edgewise.discovery.acdc import Rule, walk
from edgewise.discovery.evaluation import different_ends, measure
from edgewise.discovery.random_circuits import baseline, percentile
from edgewise.discovery.refine import search_from, smallest
from edgewise.discovery.registry import get_method
from edgewise.discovery.smallest import smallest_faithful
from edgewise.graphs.circuit import Circuit
from edgewise.graphs.errors import EdgewiseError
from edgewise.graphs.lift.lifting import describe
from edgewise.graphs.scores import Scores
from edgewise.patching.incremental import search
from edgewise.patching.incremental.losses import known
from edgewise.patching.incremental.search import IncrementalSearch, Search
from edgewise.patching.run.floors import beyond_rounding, in_order, rounding_floor
from edgewise.patching.run.runner import Runner
from edgewise.patching.transplant.ranking import greedy, single_effects
from edgewise.steps.evaluate import evaluate
from tests.engine import random_mask, tiny_lift, tiny_model, tiny_pairs
from tests.patching.test_transplant import opened


def runner(metric: str = "logit_diff", inert: bool = True, dtype: Any = torch.float64) -> Runner:
    """Run a model in which head 1 of either layer writes nothing."""
    model = tiny_model("gpt2", dtype=dtype)
    if inert:
        with torch.no_grad():
            for block in model.transformer.h:
                size = block.attn.head_dim
                block.attn.c_proj.weight[size : 2 * size] = 0
    return Runner.create(describe(model), tiny_pairs(), metric=metric)


NOISE = {"kl": 7e-16, "logit_diff": 2.7e-15, "nll": 2.7e-15}
"""A third of the least floor of the runners below, as numbers: a floor of 0 would not hold it."""


@pytest.fixture(params=range(3))
def noise(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Move every measured mean by up to a third of the floor, as another processor might."""

    def begin() -> None:
        exact = Runner.mask_losses, Runner.measure_each

        def shifts(self: Runner, masks: np.ndarray) -> np.ndarray:
            seeds = [zlib.crc32(mask.tobytes(), request.param) for mask in masks]
            found = [np.random.default_rng(seed).uniform(-1, 1) for seed in seeds]
            return np.array(found) * NOISE[self.metric.name]

        def losses(self: Runner, masks: np.ndarray, start_row: int = 0) -> np.ndarray:
            return exact[0](self, masks, start_row) + shifts(self, masks)

        def each(self: Runner, circuits: Any, *rest: Any, **options: Any) -> np.ndarray:
            by = shifts(self, self._masks(circuits))
            return exact[1](self, circuits, *rest, **options) + by[:, None]  # of each example

        monkeypatch.setattr(Runner, "mask_losses", losses)
        monkeypatch.setattr(Runner, "measure_each", each)

    return begin


# -- the floor -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "gpt-neox", "qwen3"])
@pytest.mark.parametrize("metric", ["kl", "logit_diff", "nll", "prob_diff"])
def test_two_ways_to_the_same_loss_differ_by_less_than_the_floor(name: str, metric: str) -> None:
    made = Runner.create(tiny_lift(name, dtype=torch.float32), tiny_pairs(), metric=metric)
    exact = Runner.create(tiny_lift(name), tiny_pairs(), metric=metric)
    search = IncrementalSearch(made)
    values = []
    for seed in range(6):
        kept = random_mask(made.graph, 0.6, seed)
        search.restart(kept)
        dense = made.loss(Circuit(made.graph, kept))
        values.append(dense)
        assert abs(search.loss.value() - dense) < made.floor
        assert abs(exact.loss(Circuit(made.graph, kept)) - dense) < made.floor
    assert made.floor < 1e-3 * np.ptp(values)
    assert exact.floor < 1e-8 * made.floor


def near(value: float) -> Any:
    """Compare relatively: what pytest takes for near by itself, 10⁻¹², is more than a floor."""
    return pytest.approx(value, rel=1e-6, abs=0)


def test_the_floor_by_hand() -> None:
    """It is s · L · 64 · eps / √n, and that of 100 times the metric is 100 times as large."""
    made = runner()
    full, empty = made.logits([Circuit.full(made.graph), Circuit.empty(made.graph)])
    largest = full.abs().amax(-1)
    unit = 64 * 2**-52 / 3**0.5
    assert made.floor == near(float(largest.mean()) * unit)
    (chunk,) = made.chunks()
    hundred = made.with_metric("maximize: 100 * (logit(answer) - logit(distractor))")
    assert hundred.floor == near(100 * made.floor)
    wide = rounding_floor([chunk], made.metric, unlike=True)
    assert wide == near(made.floor * 66 / 64)
    # accuracy has no derivative; that of nll by the logits is p less what of the answers' p each
    # answer has: the absolute ones add up to 2 (1 - p), of which the larger end counts, and half
    assert made.with_metric("accuracy").floor == near(float(largest.mean()) * unit)
    answers = [list(pair.answers) for pair in made.pairs]
    steepest = [
        max(1 - float(x[i].softmax(-1)[ids].sum()) for x in (full, empty))
        for i, ids in enumerate(answers)
    ]
    expected = np.mean([float(s) * L for s, L in zip(largest, steepest, strict=True)])
    assert made.with_metric("nll").floor == near(float(expected) * unit)


def test_the_floor_of_narrow_types_and_of_small_logits_by_hand() -> None:
    half = runner(dtype=torch.bfloat16)  # eps 2⁻⁷, and 2⁻²³ of the type of sums
    wide = rounding_floor(half.chunks(), half.metric, unlike=True)
    assert wide / half.floor == near((64 * 2**-23 + 2 * 2**-7) / (64 * 2**-23))
    model = tiny_model("gpt2")
    with torch.no_grad():
        model.lm_head.weight.zero_()  # a logit of 0 counts as 1
    silent = Runner.create(describe(model), tiny_pairs(), metric="accuracy")
    assert silent.floor == near(64 * 2**-52 / 3**0.5)


def test_order_and_thresholds_by_hand() -> None:
    assert in_order([3.0, 1.0, 1.05, 0.95, 2.0], 0.1) == [1, 2, 3, 4, 0]
    assert in_order([3.0, 1.0, 1.05, 0.95, 2.0], 0.0) == [3, 1, 2, 4, 0]
    assert in_order([0.0, 0.1, 0.2, 0.3], 0.15) == [0, 1, 2, 3]  # groups begin at their smallest
    assert in_order([0.2, 0.1, 0.0], 0.15) == [1, 2, 0]
    assert in_order([], 0.1) == []
    assert beyond_rounding(0.0, 1e-6) == -1e-6
    assert beyond_rounding(1e-9, 1e-6) == 1e-6
    assert beyond_rounding(0.5, 1e-6) == 0.5
    with pytest.raises(EdgewiseError, match=r"threshold is -0\.1; accepted: a number from 0 up"):
        beyond_rounding(-0.1, 1e-6)


# -- what it decides -----------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.0, 1e-15, 0.02])
def test_acdc_keeps_the_same_edges_under_noise(noise: Any, threshold: float) -> None:
    made = runner("kl")
    rule = Rule(beyond_rounding(threshold, made.floor))
    exact = walk(Search(made), made.graph, rule).circuit
    noise()
    assert walk(Search(made), made.graph, rule).circuit == exact
    assert exact is not None
    into_logits = {str(edge.sender) for edge in exact.edges if str(edge.port) == "logits"}
    assert ("a1.h1" in into_logits) == (threshold == 0)  # it changes nothing: 0 < 0 is not true


def test_refine_takes_the_same_steps_under_noise(noise: Any) -> None:
    made = runner("kl")
    scores = Scores(made.graph, np.where(made.graph.reads, 1.0, np.nan))  # inert edges too
    exact = search_from(Search(made), made, scores, 9)
    noise()
    found = search_from(Search(made), made, scores, 9)
    assert found.circuit == exact.circuit
    assert found.questions == exact.questions


def test_losses_within_the_floor_are_taken_in_graph_order() -> None:
    losses = np.array([0.5, 0.3, 0.3 - 1e-9, 0.3 + 1e-9])
    asked = [(4, np.array([0, 2, 5, 6]), known(losses))]
    assert [sender for _, sender, _ in smallest(iter(asked), 2, 1e-6)] == [2, 5]
    assert [sender for _, sender, _ in smallest(iter(asked), 2)] == [5, 2]


def test_the_smallest_faithful_circuit_is_the_same_under_noise(noise: Any) -> None:
    made = runner()
    scores = get_method("exact")(made).scores
    exact = smallest_faithful(made, scores, 1.0)
    noise()
    assert smallest_faithful(made, scores, 1.0) == exact
    assert len(exact) < made.graph.edge_count  # without those that change nothing


def test_ends_that_differ_by_rounding_are_equal(noise: Any) -> None:
    """Where nothing reaches the logits, noise is no faithfulness."""
    model = tiny_model("gpt2")
    with torch.no_grad():
        model.lm_head.weight.zero_()
    made = Runner.create(describe(model), tiny_pairs(), metric="nll")
    noise()
    assert measure(made, Circuit.full(made.graph)).faithfulness is None
    with pytest.raises(EdgewiseError, match="for the full and for the empty circuit"):
        different_ends(made)


def test_random_circuits_that_differ_by_rounding_count_half(noise: Any) -> None:
    made = runner()
    nothing = Circuit.empty(made.graph).with_edges(["embed->a0.h1<q>"])
    noise()
    found = baseline(made, nothing, 20)
    drawn = np.array(found.faithfulness)
    assert np.ptp(drawn) > 0  # noise
    assert found.percentile == pytest.approx(50)
    assert percentile(0.5, (0.5 + 1e-9, 0.4, 0.9), 1e-6) == 50


def test_edges_whose_rise_is_rounding_do_not_help(
    noise: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "make_search", Search)  # every loss is measured by a whole run
    made = runner()
    full = Circuit.full(made.graph)
    heads = {"a0.h1", "a1.h1"}
    inert = [one for one in full.edges if {str(one.sender), str(one.port.node)} & heads]
    exact = evaluate(made, full, minimality=True)
    noise()
    found = evaluate(made, full, minimality=True)
    assert found.useless == exact.useless
    rises = dict(found.rises)
    assert all(rises[edge] <= found.floor for edge in inert)
    assert any(rises[edge] > 0 for edge in inert)  # noise


def test_a_transplant_stops_where_the_gain_is_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    model, other = tiny_model("gpt2"), tiny_model("gpt2")
    with torch.no_grad():
        other.transformer.h[1].mlp.c_proj.weight.mul_(2)
    transplant = opened(describe(other), describe(model))
    exact = [one.node for one in single_effects(transplant)]
    measure = type(transplant).measure
    shift = 1e-14  # a third of how far rounding moves a value of these two: not 0 if the floor is

    def moved(self: Any, chosen: np.ndarray) -> list[float]:
        sign = np.array([zlib.crc32(row.tobytes()) % 2 * 2 - 1 for row in chosen])
        return list(np.array(measure(self, chosen)) + sign * shift)

    monkeypatch.setattr(type(transplant), "measure", moved)
    singles = single_effects(transplant)
    assert [one.node for one in singles] == exact
    assert [str(one.node) for one in greedy(transplant, singles, steps=4)] == ["m1"]
