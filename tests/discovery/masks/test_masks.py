"""Learned masks: slopes by finite differences, planted circuits, seeds, starts, going on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from edgewise.discovery.masks import training
from edgewise.discovery.masks.adam import FIRST, LEAST, SECOND, Adam
from edgewise.discovery.masks.edge_gates import Size, edge_gates
from edgewise.discovery.masks.edge_pruning import EdgePruning
from edgewise.discovery.masks.hard_concrete import chance_open, draw_uniform, gates_of
from edgewise.discovery.masks.subnetwork_probing import SubnetworkProbing
from edgewise.discovery.masks.training import Learner
from edgewise.discovery.masks.ugs import UniformSampling
from edgewise.discovery.registry import Discovery, get_method
from edgewise.graphs.circuit import Circuit
from edgewise.graphs.errors import EdgewiseError, FileFormatError
from edgewise.graphs.lift.lifting import describe
from edgewise.graphs.scores import Scores
from edgewise.known.planted import plant
from edgewise.known.shapes import PlantedShape
from edgewise.patching.gates import Minibatches, gated_loss
from edgewise.patching.run.runner import Runner
from tests.engine import tiny_lift, tiny_pairs
from tests.planted import PLANTED, planted_circuit, planted_runner

NODES = {"a0.h0", "m0", "a1.h1"}


# -- gates -----------------------------------------------------------------------------------------


def test_slopes_of_gates_are_finite_differences() -> None:
    draw = np.random.default_rng(0)
    log_alpha, uniform = draw.normal(0, 2, 500), draw_uniform(draw, 500)
    gates, slopes = gates_of(log_alpha, uniform)
    up, down = (gates_of(log_alpha + step, uniform)[0] for step in (1e-6, -1e-6))
    inside = (gates > 1e-4) & (gates < 1 - 1e-4)
    np.testing.assert_allclose(((up - down) / 2e-6)[inside], slopes[inside], rtol=1e-4)
    assert not slopes[(gates == 0) | (gates == 1)].any()


def test_gates_are_open_as_often_as_their_chance_says() -> None:
    draw = np.random.default_rng(0)
    for log_alpha in (-3.0, -1.6, 0.0, 2.0):
        at = np.full(40_000, log_alpha)
        gates, _ = gates_of(at, draw_uniform(draw, len(at)))
        chance, slope = (float(x[0]) for x in chance_open(at))
        assert (gates > 0).mean() == pytest.approx(chance, abs=0.01)
        more = float(chance_open(at[:1] + 1e-6)[0][0])
        assert (more - chance) / 1e-6 == pytest.approx(slope, rel=1e-4)


def test_adam_is_that_of_torch() -> None:
    draw = np.random.default_rng(0)
    slopes = draw.normal(size=(7, 5))
    leaf = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    other = torch.optim.Adam([leaf], lr=0.3, betas=(FIRST, SECOND), eps=LEAST)
    own = Adam.begin({"x": np.zeros(5)})
    for slope in slopes:
        leaf.grad = torch.from_numpy(slope)
        other.step()
        own = own.step({"x": slope}, {"x": 0.3})
        np.testing.assert_allclose(own.parameters["x"], leaf.detach().numpy(), rtol=1e-12)
    again = Adam.of(own.arrays(), ["x"], own.done)
    np.testing.assert_array_equal(again.second["x"], own.second["x"])


# -- what is trained, on losses that are known -----------------------------------------------------


def weighed(weights: np.ndarray) -> training.GatedLoss:
    """Return a loss that is curved in every gate, and its gradient."""
    return lambda gates: (float((weights * gates**2).sum()), 2 * weights * gates)


def test_edge_pruning_goes_down_the_lagrangian() -> None:
    """Its slopes are the finite differences of loss + λ₁ (s − t) + λ₂ (s − t)² at equal draws."""
    runner = planted_runner()
    learner = EdgePruning(edge_gates(runner, Size(edges=10)), 0.8, {})
    draw = np.random.default_rng(0)
    at = {"log_alpha": draw.normal(0, 1, runner.graph.edge_count), "lambda": np.array([2.0, -3.0])}
    loss = weighed(draw.normal(size=runner.graph.reads.shape) * runner.graph.reads)

    def value(at: Mapping[str, np.ndarray]) -> float:
        gates, _ = gates_of(
            at["log_alpha"], draw_uniform(np.random.default_rng(1), len(at["log_alpha"]))
        )
        shut = 1 - chance_open(at["log_alpha"])[0].sum() / 46
        gap = shut - (1 - learner.wanted(0.5) / 46)
        return loss(learner.gates.spread(gates))[0] + float(at["lambda"] @ [gap, gap**2])

    _, slopes = learner.update(at, 0.5, np.random.default_rng(1), [loss])
    for key, slope in slopes.items():
        for i in range(0, len(slope), 5):
            step = np.zeros(len(slope))
            step[i] = 1e-6
            up, down = (value({**at, key: at[key] + side * step}) for side in (1, -1))
            assert (up - down) / 2e-6 == pytest.approx(slope[i], rel=1e-3, abs=1e-7)


def test_the_sparsity_grows_evenly_and_stays() -> None:
    learner = EdgePruning(edge_gates(planted_runner(), Size(edges=10)), 0.5, {})
    first = learner.wanted(0.0)
    assert first == pytest.approx(46, rel=0.02)
    assert learner.wanted(0.25) == pytest.approx((first + 10) / 2)
    assert [learner.wanted(done) for done in (0.5, 0.7, 1.0)] == [10, 10, 10]
    assert replace(learner, warmup=0.0).wanted(0.01) == 10


def test_ugs_is_right_on_average() -> None:
    """By its draws the mean slope is that of the expected loss and penalty in the log-odds."""
    runner = planted_runner()
    learner = UniformSampling(edge_gates(runner, Size(edges=10)), 0.1, {}, 4)
    draw, count = np.random.default_rng(0), runner.graph.edge_count
    at = {"log_odds": draw.normal(0, 1.5, count)}
    weights = draw.normal(size=runner.graph.reads.shape) * runner.graph.reads
    total = np.zeros(count)
    for seed in range(3000):
        losses = [weighed(weights)] * 4
        total += learner.update(at, 0.5, np.random.default_rng(seed), losses)[1]["log_odds"] / 3000
    chance = 1 / (1 + np.exp(-at["log_odds"]))
    # E[m²] is θ − w/2 + w/3, which stands for θ: of a gate that is 0 or 1, m² is m
    expected = chance * (1 - chance) * (weights[runner.graph.reads] + 0.1)
    np.testing.assert_allclose(total, expected, atol=0.02)


def test_subnetwork_probing_goes_down_loss_and_penalty() -> None:
    graph = planted_runner().graph
    learner = SubnetworkProbing(graph, 0, 0.7, {})
    draw = np.random.default_rng(0)
    at = {"log_alpha": draw.normal(0, 1, int(learner.gated.sum()))}
    assert len(at["log_alpha"]) == 6  # two heads and an MLP in each of two layers
    loss = weighed(draw.normal(size=graph.reads.shape) * graph.reads)

    def value(log_alpha: np.ndarray) -> float:
        drawn, _ = gates_of(log_alpha, draw_uniform(np.random.default_rng(1), 6))
        gates = graph.reads * 1.0
        gates[:, learner.gated] *= drawn
        return loss(gates)[0] + 0.7 * float(chance_open(log_alpha)[0].mean())

    _, slopes = learner.update(at, 0.5, np.random.default_rng(1), [loss])
    for i, slope in enumerate(slopes["log_alpha"]):
        step = 1e-6 * (np.arange(6) == i)
        up, down = (value(at["log_alpha"] + side * step) for side in (1, -1))
        assert (up - down) / 2e-6 == pytest.approx(slope, rel=1e-3, abs=1e-7)


# -- planted circuits ------------------------------------------------------------------------------


@pytest.mark.parametrize("ablation", ["resample", "mean", "zero"])
def test_edge_pruning_finds_exactly_the_planted_edges(ablation: str) -> None:
    runner = planted_runner(ablation=ablation)
    found = get_method("edge-pruning")(runner, edges=len(PLANTED), updates=30)
    expected = planted_circuit(runner.graph)
    assert found.circuit == expected
    values = found.scores.values
    assert values[expected.kept].min() > np.nanmax(values[~expected.kept])
    assert found.notes["loss_search"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_edge_pruning_finds_what_is_planted_in_real_architectures(architecture: str) -> None:
    planted = plant(PlantedShape(architecture=architecture), seed=1)
    pairs = tiny_pairs(lengths=(5,) * 16)
    runner = Runner.create(describe(planted.model.eval()), pairs, metric="kl", engine="torch")
    found = get_method("edge-pruning")(runner, edges=len(planted.circuit), updates=40)
    assert found.circuit == planted.circuit


def test_ugs_finds_exactly_the_planted_edges() -> None:
    runner = planted_runner()
    found = get_method("ugs")(runner, edges=len(PLANTED), updates=80, price=0.01)
    assert found.circuit == planted_circuit(runner.graph)


def test_subnetwork_probing_finds_exactly_the_planted_nodes() -> None:
    runner = planted_runner()
    for options in ({}, {"nodes": 3}):
        found = get_method("subnetwork-probing")(runner, updates=80, rate=0.2, **options)
        circuit = found.circuit
        assert circuit is not None
        assert {str(node) for node in circuit.nodes if node.layer is not None} == NODES
        kept = {str(edge) for edge in circuit.edges}
        assert set(PLANTED) < kept
        assert "embed->logits" in kept
        assert circuit == circuit.prune_dangling()


def test_a_run_by_another_metric_is_trained_on_it() -> None:
    runner = planted_runner(metric="logit_diff")
    found = get_method("edge-pruning")(runner, edges=len(PLANTED), updates=30)
    assert found.circuit == planted_circuit(runner.graph)


# -- seeds, minibatches, starts --------------------------------------------------------------------


def same(a: Discovery, b: Discovery) -> None:
    assert a.circuit == b.circuit
    np.testing.assert_array_equal(a.scores.values, b.scores.values)
    assert dict(a.notes) == dict(b.notes)


NAMES = ("edge-pruning", "ugs", "subnetwork-probing")


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_alone_decides(name: str) -> None:
    one, two, other = (
        get_method(name)(planted_runner(), updates=4, minibatch=5, train_seed=seed)
        for seed in (3, 3, 4)
    )
    same(one, two)
    assert not np.array_equal(one.scores.values, other.scores.values)


def test_of_several_trainings_the_best_is_taken() -> None:
    runner = planted_runner()
    found = get_method("edge-pruning")(runner, edges=8, updates=20, trainings=3, minibatch=4)
    losses = [one["loss"] for one in found.notes["trained"]]
    assert len(losses) == 3
    assert found.notes["loss_search"] == min(losses) == losses[found.notes["taken"]]
    assert found.notes["loss_search"] == pytest.approx(runner.loss(found.circuit))
    assert 0 < found.notes["alike"] <= 1
    assert [len(one["losses"]) for one in found.notes["trained"]] == [20, 20, 20]


def test_minibatches_are_all_pairs_once_in_an_epoch() -> None:
    runner = Runner.create(tiny_lift("gpt2"), tiny_pairs(lengths=(6, 4, 5, 5, 4)), metric="kl")
    pieces = Minibatches(runner, 2, 7)
    assert sorted(np.concatenate(pieces.rows).tolist()) == list(range(5))
    assert [len(rows) for rows in pieces.rows] == [2, 2, 1]
    gates = runner.graph.reads * 0.6
    whole, slopes = gated_loss(runner)(gates)
    each = [
        (len(rows), *loss(gates)) for rows, loss in zip(pieces.rows, pieces.losses, strict=True)
    ]
    assert sum(n * loss for n, loss, _ in each) / 5 == pytest.approx(whole)
    np.testing.assert_allclose(sum(n * s for n, _, s in each) / 5, slopes, rtol=1e-6, atol=1e-12)
    assert len({id(pieces.at(i, (1, 0))) for i in range(3)}) == 3


@pytest.mark.parametrize("ablation", ["mean", "noise"])
def test_minibatches_carry_what_the_whole_reference_set_says(ablation: str) -> None:
    pairs = tiny_pairs(lengths=(5, 5, 5, 5))
    runner = Runner.create(tiny_lift("llama"), pairs, metric="kl", ablation=ablation)
    gates = runner.graph.reads * 0.5
    parts = [loss(gates)[0] for loss in Minibatches(runner, 1, 0).losses]
    assert np.mean(parts) == pytest.approx(gated_loss(runner)(gates)[0], rel=1e-6)


def test_scores_to_start_from_say_which_gates_begin_open() -> None:
    runner = planted_runner()
    exact = get_method("exact")(runner).scores
    gates = edge_gates(runner, Size(edges=10, freeze=0.5), exact)
    assert gates.count == 23
    assert (gates.movable | ~planted_circuit(runner.graph).kept).all()
    found = get_method("edge-pruning")(runner, start=exact, edges=10, freeze=0.5, updates=15)
    assert found.circuit == planted_circuit(runner.graph)
    assert not found.scores.values[runner.graph.reads & ~gates.movable].any()
    for name in NAMES:
        begun = get_method(name)(runner, start=exact, updates=1)
        plain = get_method(name)(runner, updates=1)
        assert not np.array_equal(begun.scores.values, plain.scores.values)


def test_kept_edges_alone_are_a_start() -> None:
    runner = planted_runner()
    kept = planted_circuit(runner.graph).kept
    values = np.where(kept, np.inf, np.nan)
    found = get_method("edge-pruning")(
        runner, start=Scores(runner.graph, values), edges=10, freeze=0.7, updates=10
    )
    assert found.circuit == planted_circuit(runner.graph)


def test_frozen_edges_are_those_of_the_usual_scores_unless_scores_are_given() -> None:
    runner = planted_runner()
    usual = get_method("eap-ig")(runner).scores
    given, own = (edge_gates(runner, Size(edges=5, freeze=0.4), x) for x in (usual, None))
    np.testing.assert_array_equal(given.movable, own.movable)


# -- engines ---------------------------------------------------------------------------------------


def test_both_engines_learn_the_same_gates() -> None:
    pytest.importorskip("jax")
    torch_runner = planted_runner(engine="torch")
    runner = replace(torch_runner, engine="jax")
    options: dict[str, Any] = {"updates": 12, "minibatch": 16}
    for name in NAMES:
        own = {**options, "masks": 1} if name == "ugs" else options
        one, two = (get_method(name)(each, **own) for each in (torch_runner, runner))
        reads, (a, b) = runner.graph.reads, (found.scores.values for found in (one, two))
        np.testing.assert_allclose(a[reads], b[reads], rtol=1e-4)
        assert one.circuit == two.circuit


# -- going on --------------------------------------------------------------------------------------


class Stop(Exception):
    pass


class Notes:
    """A journal in memory."""

    def __init__(self, state: Mapping[str, np.ndarray] | None = None) -> None:
        self.entries: tuple[()] = ()
        self.state, self.saves = state, 0

    def append(self, entry: object) -> None:
        raise AssertionError

    def saved(self) -> Mapping[str, np.ndarray] | None:
        return self.state

    def save(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.state, self.saves = dict(arrays), self.saves + 1


@pytest.mark.parametrize("name", NAMES)
def test_a_training_goes_on_as_if_it_had_not_stopped(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "KEPT_SECONDS", -1.0)
    runner = planted_runner()
    options = {"updates": 4, "trainings": 2, "minibatch": 5}
    expected = get_method(name)(runner, **options)
    for stop in (1, 4, 6):
        notes = Notes()

        def stopping(done: int, total: int, what: str, at: int = stop) -> None:
            if done == at + 1:
                raise Stop

        with pytest.raises(Stop):
            get_method(name)(runner, stopping, notes, **options)
        assert notes.saves == stop
        again = Notes(notes.state)
        same(expected, get_method(name)(runner, None, again, **options))
        assert again.saves == 8 - stop


def test_a_state_of_another_training_is_refused() -> None:
    runner = planted_runner()
    for wrong in ({"done": np.zeros(1)}, {"done": np.zeros(1), "seen": np.zeros((0, 2))}):
        with pytest.raises(FileFormatError, match="no state of this training; start anew"):
            get_method("ugs")(runner, None, Notes(wrong), updates=2)


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("edge-pruning", {"sparsity": 0.9, "edges": 7}, "sparsity 0.9 and 7 edges are both given"),
        ("edge-pruning", {"sparsity": 1.0}, "sparsity is 1, which leaves no edge; accepted: less"),
        ("ugs", {"freeze": 1.0}, "freeze is 1, which leaves no edge; accepted: less"),
        ("edge-pruning", {"updates": 0}, "'updates' of method 'edge-pruning' is 0; accepted: at"),
        ("ugs", {"masks": 0}, "'masks' of method 'ugs' is 0; accepted: at least 1"),
        ("edge-pruning", {"warmup": 1.5}, "'warmup' .* is 1.5; accepted: at most 1"),
        ("ugs", {"price": -1.0}, "'price' .* is -1.0; accepted: at least 0"),
        ("subnetwork-probing", {"edges": 7}, "unknown option of method 'subnetwork-probing'"),
        ("subnetwork-probing", {"nodes": 7}, "7 nodes are asked for, and the graph has 6 heads"),
        ("edge-pruning", {"edges": 40, "freeze": 0.5}, "freeze 0.5 leaves 23 of 46 edges, and 40"),
    ],
)
def test_wrong_options_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(EdgewiseError, match=message):
        get_method(name)(planted_runner(), **options)


def test_a_metric_without_gradient_is_refused() -> None:
    with pytest.raises(EdgewiseError, match="accuracy"):
        get_method("edge-pruning").check_metric(planted_runner("accuracy").metric)


def test_scores_of_another_graph_are_refused() -> None:
    runner, other = planted_runner(), tiny_lift("llama").graph
    start = Scores(other, np.where(other.reads, 1.0, np.nan))
    for name in NAMES:
        with pytest.raises(EdgewiseError, match="the start does not fit the model's graph"):
            get_method(name)(runner, start=start, updates=1)


def test_a_size_by_sparsity() -> None:
    runner = planted_runner()
    found = get_method("edge-pruning")(runner, sparsity=0.8, updates=40)
    assert found.circuit is not None
    assert len(found.circuit) <= 9
    assert isinstance(found.circuit, Circuit)


def test_learners_are_learners() -> None:
    gates = edge_gates(planted_runner(), Size())
    found: list[Learner] = [
        EdgePruning(gates, 0.8, {}),
        UniformSampling(gates, 0.1, {}, 1),
        SubnetworkProbing(gates.runner.graph, 0, 1.0, {}),
    ]
    assert all(set(one.begin()) for one in found)
