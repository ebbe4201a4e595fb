"""ACDC and exact effects against their definitions, spelled out edge by edge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.discovery.acdc import Rule, walk
from edgewise.discovery.registry import get_method
from edgewise.graphs.circuit import Circuit
from edgewise.graphs.errors import EdgewiseError
from edgewise.graphs.graph import ComputationGraph
from edgewise.graphs.names import Edge
from edgewise.patching.incremental.losses import Loss, Losses, known
from edgewise.patching.incremental.search import BaseKind, Trail
from edgewise.patching.run.runner import Runner
from tests.engine import ABLATIONS, fitting, tiny_lift, tiny_pairs
from tests.plain_acdc import plain_acdc


@settings(max_examples=12, deadline=None)
@given(
    name=st.sampled_from(["gpt2", "llama", "llama-multi-query", "qwen2-moe-first-dense"]),
    threshold=st.sampled_from([1e-4, 0.01, 0.05, 0.2, 1.0]),
    metric=st.sampled_from(["kl", "logit_diff", "nll"]),
    ablation=st.sampled_from(ABLATIONS),
    candidates=st.sampled_from([1, 2, 5, 16]),
    ports_first=st.booleans(),
    absolute=st.booleans(),
    grouped=st.booleans(),
    seed=st.integers(0, 50),
)
def test_acdc_is_the_one_by_one_walk(
    name: str, threshold: float, metric: str, ablation: str, candidates: int,
    ports_first: bool, absolute: bool, grouped: bool, seed: int,
) -> None:  # fmt: skip
    model = tiny_lift(name, seed, grouped_kv=grouped)
    runner = Runner.create(
        model, tiny_pairs(seed, fitting(ablation, (5, 4))), metric=metric, ablation=ablation
    )
    circuit, increments = plain_acdc(runner, threshold, ports_first, absolute)
    found = get_method("acdc")(
        runner,
        threshold=threshold,
        ports_first=ports_first,
        absolute=absolute,
        candidates=candidates,
    )
    assert found.circuit == circuit
    for edge in circuit.edges:
        assert found.scores[edge] == pytest.approx(increments[str(edge)], abs=1e-6)


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_exact_effects_are_single_ablations(ablation: str) -> None:
    model = tiny_lift("llama")
    runner = Runner.create(model, tiny_pairs(), metric="nll", ablation=ablation)
    scores = get_method("exact")(runner, candidates=3).scores
    full = Circuit.full(model.graph)
    loss = runner.loss(full)
    for edge in list(full.edges)[::9]:
        effect = runner.loss(full.without([edge])) - loss
        assert scores[edge] == pytest.approx(effect, abs=1e-6)
    assert np.isnan(scores.values[~model.graph.reads]).all()


def test_progress_ends_at_all_edges() -> None:
    runner = Runner.create(tiny_lift("gpt2"), tiny_pairs())
    for method in ("acdc", "exact"):
        seen: list[tuple[int, int]] = []
        get_method(method)(
            runner, progress=lambda done, total, _, seen=seen: seen.append((done, total))
        )
        assert seen[-1] == (runner.graph.edge_count,) * 2
        assert sorted(seen) == seen


@pytest.mark.parametrize("method", ["acdc", "exact", "eap", "eap-ig"])
def test_a_loss_that_is_not_a_number_is_refused(method: str) -> None:
    runner = Runner.create(tiny_lift("gpt2"), tiny_pairs(), metric="nll")
    broken = replace(
        runner, metric=replace(runner.metric, function=lambda x, _: (-x[..., 0].square()).sqrt())
    )
    with pytest.raises(EdgewiseError, match=r"nll.* is not a number \(NaN\)"):
        get_method(method)(broken)


@pytest.mark.parametrize("method", ["acdc", "exact"])
def test_an_infinite_loss_of_the_full_model_is_refused(method: str) -> None:
    runner = Runner.create(tiny_lift("gpt2"), tiny_pairs(), metric="nll")
    broken = replace(
        runner, metric=replace(runner.metric, function=lambda x, _: x[..., 0].abs() / 0)
    )
    with pytest.raises(EdgewiseError, match=r"nll.* is inf for the full model"):
        get_method(method)(broken)


class Weights:
    """A search in which each ablated edge raises the loss by a weight, whatever else is ablated."""

    products = 0

    def __init__(self, graph: ComputationGraph, weights: dict[str, float]) -> None:
        self.kept, self.asked = graph.reads.copy(), list[str]()
        self.questions, self.loss, self.graph = 0, known(np.zeros(1))[0], graph
        self.weights = np.zeros(graph.reads.shape)
        for edge, weight in weights.items():
            self.weights[graph.locate(Edge.parse(edge))] = weight

    def ask(self, rows: Sequence[int], candidates: np.ndarray) -> Losses:
        self.questions += len(candidates)
        self.asked += [" ".join(str(self.graph.ports[row]) for row in rows)] * len(candidates)
        rises = (self.weights[list(rows)] * (candidates & self.kept[list(rows)])).sum((1, 2))
        return known(self.loss.value() + rises, before=self.loss)

    def commit(self, rows: Sequence[int], ablated: np.ndarray, loss: Loss | None) -> None:
        self.kept[list(rows)] &= ~ablated
        self.loss = loss or self.loss

    def restart(self, kept: np.ndarray) -> None:
        raise AssertionError

    def mark(self) -> BaseKind:
        return BaseKind.SAME

    def restore(self, trail: Trail) -> None:
        raise AssertionError


@pytest.mark.parametrize("ports_first", [False, True])
@pytest.mark.parametrize(
    ("weights", "asked"),
    [
        # three edges into logits: only embed's stays, so m0 and the head feed nothing that is kept
        ({"embed->logits": 1.0}, {"logits": 3}),
        # the head stays too, and its value alone matters: a question about each of its ports,
        # none about m0, though an edge of its would have mattered
        ({"embed->logits": 1.0, "a0.h0->logits": 1.0, "embed->m0": 1.0, "embed->a0.h0<v>": 1.0},
         {"logits": 3, "a0.h0<v>": 1, "a0.h0<k>": 1, "a0.h0<q>": 1}),
        # m0 stays, and reads only embed: then the head is dead
        ({"m0->logits": 1.0, "embed->m0": 1.0}, {"logits": 3, "m0": 2}),
    ],
)  # fmt: skip
def test_dead_ports_cost_no_question(
    weights: dict[str, float], asked: dict[str, int], ports_first: bool
) -> None:
    graph = ComputationGraph(layers=1, heads=1)
    search = Weights(graph, weights)
    found = walk(search, graph, Rule(0.5, ports_first, candidates=1))
    alive = "a0.h0<v>" in asked
    if ports_first and alive:  # v stays; then k and q fall together
        whole = "a0.h0<v> a0.h0<k> a0.h0<q>"
        asked = {"logits": 3, whole: 3, "a0.h0<k> a0.h0<q>": 2, "a0.h0<v>": 1}
    assert Counter(search.asked) == asked
    assert found.questions == sum(asked.values())
    kept = {edge for edge in weights if alive is False or edge != "embed->m0"}
    assert found.circuit is not None
    assert {str(edge) for edge in found.circuit.edges} == kept
    assert all(found.scores[edge] == 1.0 for edge in kept)
