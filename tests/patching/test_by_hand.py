"""A model small enough to be run on paper.

Width 2, one layer, one head of size 1, no norm, one token, so attention is 1 and z = v.
Token 0 is (1, 0), token 1 is (0, 1), token 2 is (1, 1).

    v = 2·x₁ + x₂           head writes v·(1, 3)
    MLP writes relu(x₁ + x₂ − 3)·(1, −1)
    logits = (x₁, x₂)

Clean token 0: embed (1, 0); v = 2; head (2, 6); MLP port (3, 6), relu 6, MLP (6, −6);
stream (9, 0). Corrupted token 1: embed (0, 1); v = 1; head (1, 3); MLP port (1, 4), relu 2,
MLP (2, −2); stream (3, 2).
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from edgewise.discovery.evaluation import measure
from edgewise.discovery.registry import get_method
from edgewise.graphs.circuit import Circuit
from edgewise.graphs.graph import ComputationGraph
from edgewise.graphs.lift.lifted import MLP, Attention, Block, LiftedModel, Linear
from edgewise.patching.paths import patch_paths
from edgewise.patching.prompts.pairs import Pair, PromptPairs
from edgewise.patching.run.runner import Runner


class Unchanged:
    """Stand in for a norm that does nothing."""

    def __call__(self, x: Tensor) -> Tensor:
        return x


def numbers(*rows: Any) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


@pytest.fixture
def runner() -> Runner:
    one: Any = Unchanged()
    attention = Attention(
        wq=numbers([[1, 0]]), wk=numbers([[1, 0]]), wv=numbers([[2, 1]]), wo=numbers([[1, 3]]),
        bq=None, bk=None, bv=None, bo=None, scale=1.0,
    )  # fmt: skip
    mlp = MLP(
        up=Linear(numbers([1, 1]), torch.tensor([-3.0], dtype=torch.float64)),
        down=Linear(numbers([1], [-1])),
        activation="relu",
    )
    model = LiftedModel(
        family="paper",
        tokens=numbers([1, 0], [0, 1], [1, 1]),
        positions=None,
        blocks=(Block(one, attention, one, mlp),),
        final_norm=one,
        unembed=Linear(numbers([1, 0], [0, 1])),
        graph=ComputationGraph(layers=1, heads=1),
        variants={},
    )
    pairs = PromptPairs((Pair((0,), (1,), (0,), (1,)),))
    return Runner.create(model, pairs, metric="logit_diff")


@pytest.mark.parametrize(
    ("ablated", "difference"),
    [
        ([], 9 - 0),
        (["embed->logits"], (0 + 2 + 6) - (1 + 6 - 6)),  # (8, 1)
        (["a0.h0->logits"], (1 + 1 + 6) - (0 + 3 - 6)),  # (8, −3)
        (["m0->logits"], (1 + 2 + 2) - (0 + 6 - 2)),  # (5, 4)
        (["embed->a0.h0<v>"], (1 + 1 + 2) - (0 + 3 - 2)),  # MLP port (2, 3), relu 2: (4, 1)
        (["embed->m0"], (1 + 2 + 6) - (0 + 6 - 6)),  # MLP port (2, 7), relu 6: (9, 0)
        (["a0.h0->m0"], (1 + 2 + 2) - (0 + 6 - 2)),  # MLP port (2, 3), relu 2: (5, 4)
        (["embed->a0.h0<q>", "embed->a0.h0<k>"], 9 - 0),  # one token: attention is 1
    ],
)
def test_circuits(runner: Runner, ablated: list[str], difference: float) -> None:
    circuit = Circuit.full(runner.graph).without(ablated)
    assert runner.measure([circuit])[0, 0] == pytest.approx(difference)
    assert runner.loss(circuit) == pytest.approx(-difference)


def test_zero_ablation(runner: Runner) -> None:
    zero = Runner.create(runner.model, runner.pairs, metric="logit_diff", ablation="zero")
    full = Circuit.full(zero.graph)
    values = zero.measure([full, full.without(["m0->logits"]), Circuit.empty(zero.graph)])[0]
    assert values.tolist() == pytest.approx([9, 3 - 6, 0])
    # nothing enters the MLP, so it writes relu(−3) = 0; the rest is the clean (3, 6)
    assert zero.loss(full.without(["embed->m0", "a0.h0->m0"])) == pytest.approx(-(3 - 6))


def test_exact_effects_and_gradients(runner: Runner) -> None:
    exact = get_method("exact")(runner).scores
    assert exact["m0->logits"] == pytest.approx(9 - 1)
    assert exact["embed->a0.h0<v>"] == pytest.approx(9 - 3)
    assert exact["embed->m0"] == pytest.approx(0)


def test_evaluation(runner: Runner) -> None:
    circuit = Circuit.full(runner.graph).without(["m0->logits"])
    found = measure(runner, circuit)
    assert (found.value_full, found.value_circuit, found.value_empty) == pytest.approx((9, 1, 1))
    assert found.faithfulness == pytest.approx(0)
    # only m0->logits is kept: MLP from corrupted inputs writes (2, −2), as in the corrupted run
    assert found.value_complement == pytest.approx(3 - 2)
    assert found.edges == found.edges_total - 1 == 7
    assert found.edges_by_kind == {"q": 1, "k": 1, "v": 1, "mlp": 2, "logits": 2}
    assert found.nodes_by_kind == {"embed": 1, "head": 1, "mlp": 1, "logits": 1}


def test_paths(runner: Runner) -> None:
    direct, through, both = (
        *patch_paths(runner, ["a0.h0->logits", "a0.h0->m0->logits"]),
        *patch_paths(runner, ["a0.h0->logits", "a0.h0->m0->logits"], together=True),
    )
    # the head writes (1, 3) in place of (2, 6); through the MLP: port (2, 3), relu 2, (2, −2)
    assert direct.loss_before == pytest.approx(-9)
    assert direct.effect == pytest.approx(9 - (8 + 3))
    assert through.effect == pytest.approx(9 - (5 - 4))
    assert both.effect == pytest.approx(9 - ((1 + 1 + 2) - (0 + 3 - 2)))


def test_denoising(runner: Runner) -> None:
    (found,) = patch_paths(runner, ["a0.h0->m0->logits"], denoise=True)
    # corrupted (3, 2); MLP port (0+2, 1+6) = (2, 7), relu 6, MLP (6, −6) in place of (2, −2)
    assert found.loss_before == pytest.approx(-1)
    assert found.loss_after == pytest.approx(-((0 + 1 + 6) - (1 + 3 - 6)))
