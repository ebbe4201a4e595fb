"""Ablations that look at a reference set: numbers by hand, batches, refusals, and every user.

Width 2, one layer, one head of size 1, no norm; the query is 0, so a head weighs all tokens before
it alike. Token 0 is (1, 0), token 1 is (0, 1), token 2 is (1, 1).

    v = 2·x₁ + x₂           z = mean of v up to here, the head writes z·(1, 3)
    MLP writes relu(x₁ + x₂ − 3)·(1, −1)
    logits = (x₁, x₂)

| prompt | at | embed | z, head | MLP port | MLP |
| --- | --- | --- | --- | --- | --- |
| 0 | 0 | (1, 0) | 2, (2, 6) | (3, 6) | (6, −6) |
| 1, 2 | 0 | (0, 1) | 1, (1, 3) | (1, 4) | (2, −2) |
| 1, 2 | 1 | (1, 1) | 2, (2, 6) | (3, 7) | (7, −7) |

Means of `embed`, z and MLP over these three: (2/3, 2/3), 5/3, 5.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edgewise.discovery.evaluation import measure
from edgewise.discovery.registry import get_method, methods
from edgewise.graphs.circuit import Circuit
from edgewise.graphs.errors import PromptError, UnknownName
from edgewise.graphs.graph import ComputationGraph
from edgewise.graphs.lift.lifted import MLP, Attention, Block, LiftedModel, Linear
from edgewise.patching.ablations.registry import ablations, default_ablation, get_ablation
from edgewise.patching.prompts.pairs import Pair, PromptPairs
from edgewise.patching.run.runner import Runner
from tests.engine import random_mask, tiny_lift, tiny_pairs
from tests.methods import quick


class Unchanged:
    """Stand in for a norm that does nothing."""

    def __call__(self, x: Tensor) -> Tensor:
        return x


def numbers(*rows: Any) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


@pytest.fixture
def model() -> LiftedModel:
    one: Any = Unchanged()
    attention = Attention(
        wq=numbers([[0, 0]]), wk=numbers([[1, 0]]), wv=numbers([[2, 1]]), wo=numbers([[1, 3]]),
        bq=None, bk=None, bv=None, bo=None, scale=1.0,
    )  # fmt: skip
    up = Linear(numbers([1, 1]), torch.tensor([-3.0], dtype=torch.float64))
    mlp = MLP(up=up, down=Linear(numbers([1], [-1])), activation="relu")
    return LiftedModel(
        family="paper",
        tokens=numbers([1, 0], [0, 1], [1, 1]),
        positions=None,
        blocks=(Block(one, attention, one, mlp),),
        final_norm=one,
        unembed=Linear(numbers([1, 0], [0, 1])),
        graph=ComputationGraph(layers=1, heads=1),
        variants={},
    )


def prompts(*clean: tuple[int, ...]) -> PromptPairs:
    """Make pairs whose corrupted prompts must not matter."""
    return PromptPairs(tuple(Pair(c, (1,) * len(c), (0,), (1,)) for c in clean), name="by hand")


PADDED = prompts((0,), (1, 2))


def logits(runner: Runner, ablated: list[str] | None) -> list[list[float]]:
    full = Circuit.full(runner.graph)
    circuit = Circuit.empty(runner.graph) if ablated is None else full.without(ablated)
    found: list[list[float]] = runner.logits([circuit])[0].tolist()
    return found


@pytest.mark.parametrize(
    ("ablated", "expected"),
    [
        ([], [(9, 0), (10, 0)]),
        (["m0->logits"], [(3 + 5, 6 - 5), (3 + 5, 7 - 5)]),
        (["a0.h0->logits"], [(1 + 5 / 3 + 6, 0 + 5 - 6), (1 + 5 / 3 + 7, 1 + 5 - 7)]),
        # the MLP port holds (2/3 + 2, 2/3 + 6) in both; relu(28/3 − 3) = 19/3
        (["embed->m0"], [(3 + 19 / 3, 6 - 19 / 3), (3 + 19 / 3, 7 - 19 / 3)]),
        # v = 2·2/3 + 2/3 = 2 everywhere, and z = 2 is what both heads had
        (["embed->a0.h0<v>"], [(9, 0), (10, 0)]),
        (None, [(2 / 3 + 5 / 3 + 5, 2 / 3 + 5 - 5)] * 2),
    ],
)
@pytest.mark.parametrize("size", [1, 2])
def test_the_mean_is_over_real_tokens_of_all_examples(
    model: LiftedModel, ablated: list[str] | None, expected: list[tuple[float, float]], size: int
) -> None:
    runner = Runner.create(model, PADDED, ablation="mean", batch_size=size)
    np.testing.assert_allclose(logits(runner, ablated), expected, rtol=1e-12, atol=1e-12)


ALIGNED = prompts((0, 1), (1, 2))
"""The first prompt: z 2 then 3/2; MLP port (3, 6) then (1.5, 5.5); MLP 6 then 4. Means at the
second position: embed (1/2, 1), z 7/4, MLP 11/2; at the first: embed (1/2, 1/2)."""


@pytest.mark.parametrize(
    ("ablated", "expected"),
    [
        (["m0->logits"], [(1.5 + 5.5, 5.5 - 5.5), (3 + 5.5, 7 - 5.5)]),
        # v = 3/2 then 2, z = 7/4 at the end: ports (7/4, 25/4), (11/4, 25/4), relu 5, 6
        (["embed->a0.h0<v>"], [(7 / 4 + 5, 25 / 4 - 5), (11 / 4 + 6, 25 / 4 - 6)]),
        (None, [(0.5 + 7 / 4 + 11 / 2, 1 + 21 / 4 - 11 / 2)] * 2),
    ],
)
@pytest.mark.parametrize("size", [1, 2])
def test_position_means_are_over_the_examples_at_each_position(
    model: LiftedModel, ablated: list[str] | None, expected: list[tuple[float, float]], size: int
) -> None:
    runner = Runner.create(model, ALIGNED, ablation="position-mean", batch_size=size)
    np.testing.assert_allclose(logits(runner, ablated), expected, rtol=1e-12, atol=1e-12)


def test_the_reference_set_can_be_another(model: LiftedModel) -> None:
    runner = Runner.create(model, prompts((2,)), ablation="mean", reference=PADDED)
    assert logits(runner, None) == [pytest.approx((2 / 3 + 5 / 3 + 5, 2 / 3 + 5 - 5))]
    own = Runner.create(model, prompts((2,)), ablation="mean")
    assert logits(own, None) == logits(own, [])  # the mean of one token is what it writes
    with pytest.raises(PromptError, match="token id 9"):
        Runner.create(model, PADDED, ablation="mean", reference=prompts((9,)))


def test_position_means_need_prompts_of_one_length(model: LiftedModel) -> None:
    message = "position-mean ablation needs prompts that align .* 'by hand' have 1 to 2 tokens"
    with pytest.raises(PromptError, match=message):
        Runner.create(model, PADDED, ablation="position-mean")
    with pytest.raises(PromptError, match="position-mean"):
        Runner.create(model, ALIGNED, ablation="position-mean", reference=prompts((0,)))


def test_a_corrupted_prompt_must_differ_somewhere(model: LiftedModel) -> None:
    """Only where corrupted prompts are used, and one that differs is enough."""
    same, other = Pair((0,), (0,), (0,), (1,)), Pair((0,), (1,), (0,), (1,))
    with pytest.raises(PromptError, match="are the same, so resample ablation changes nothing"):
        Runner.create(model, PromptPairs((same, same)), ablation="resample")
    for pairs, ablation in (((same, other), "resample"), ((same, same), "zero")):
        assert len(Runner.create(model, PromptPairs(pairs), ablation=ablation).pairs) == 2


@settings(max_examples=15, deadline=None)
@given(
    ablation=st.sampled_from(["mean", "position-mean"]),
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=7),
    size=st.integers(1, 7),
    seed=st.integers(0, 99),
)
def test_the_batch_size_changes_nothing(
    ablation: str, lengths: list[int], size: int, seed: int
) -> None:
    model = tiny_lift("gemma2", seed % 3)
    aligned = get_ablation(ablation).aligned
    pairs = tiny_pairs(seed, tuple(lengths[:1] * len(lengths) if aligned else lengths))
    circuit = Circuit(model.graph, random_mask(model.graph, 0.5, seed))
    together, apart = (
        Runner.create(model, pairs, ablation=ablation, batch_size=n).losses([circuit])
        for n in (len(lengths), size)
    )
    np.testing.assert_allclose(apart, together, rtol=1e-9, atol=1e-9)


def test_the_reference_set_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Runner.create(tiny_lift("gpt2"), tiny_pairs(), ablation="mean", batch_size=1)
    circuit = Circuit.empty(runner.graph)
    runner.loss(circuit)
    monkeypatch.setattr("edgewise.patching.ablations.mean.averaged", None)
    runner.with_metric("nll").loss(circuit)


def test_without_cached_runs_the_values_are_the_same() -> None:
    runner, other = (
        Runner.create(tiny_lift("gpt2"), tiny_pairs(), ablation="mean", batch_size=2)
        for _ in range(2)
    )
    circuit = Circuit(runner.graph, random_mask(runner.graph, 0.5, 1))
    first = replace(runner, budget=replace(runner.budget, cache=0)).loss(circuit)
    assert other.loss(circuit) == first


@pytest.mark.parametrize("ablation", ["mean", "position-mean"])
@pytest.mark.parametrize("method", methods())
def test_every_method_takes_them(method: str, ablation: str) -> None:
    chosen = get_method(method)
    runner = Runner.create(
        tiny_lift("llama", 2), tiny_pairs(2), metric="logit_diff", ablation=ablation
    )
    options = quick(method) | ({"edges": 12} if "edges" in chosen.options else {})
    found = chosen(runner, **options)
    assert np.isfinite(found.scores.values[~np.isnan(found.scores.values)]).all()
    circuit = found.scores.top(20) if found.circuit is None else found.circuit
    assert measure(runner, circuit).value_circuit == pytest.approx(runner.measure([circuit])[0, 0])


def test_the_registry_knows_them() -> None:
    assert list(ablations()) == [
        "counterfactual-mean",
        "mean",
        "noise",
        "optimal",
        "position-mean",
        "resample",
        "zero",
    ]
    assert default_ablation() == "resample"
    for property, name in {
        "paired": "resample", "consistent": "resample", "default": "resample",
        "aligned": "position-mean", "counterfactual": "counterfactual-mean",
    }.items():  # fmt: skip
        assert [one for one, held in ablations().items() if getattr(held, property)] == [name]
    with pytest.raises(UnknownName, match=r"unknown ablation 'means'; did you mean 'mean'\?"):
        get_ablation("means")
