"""Routers of all kinds, by hand: scores, groups, corrections, and what multiplies weights."""

from __future__ import annotations

from dataclasses import replace
from math import exp, log

import pytest
import torch

from edgewise.graphs.lift.experts import Clamp, Experts, Routing, SharedExpert
from edgewise.graphs.lift.lifted import MLP, Linear


def choose(
    routing: Routing, logits: list[float], chosen: int, renormalise: bool = False
) -> dict[int, float]:
    """Map the chosen experts of one token to their weights."""
    eye = torch.eye(len(logits), dtype=torch.float64)
    x = routing.logits(eye, torch.tensor([logits], dtype=torch.float64))
    weight, expert = routing.choose(x, chosen)
    weight = routing.weigh(weight, expert, renormalise)
    return dict(zip(expert[0].tolist(), weight[0].tolist(), strict=True))


SHARES = [log(4), log(3), log(2), log(1)]  # shares of 10 in a softmax of all


def test_scores_of_each_kind() -> None:
    assert choose(Routing(), SHARES, 2) == pytest.approx({0: 0.4, 1: 0.3})
    assert choose(Routing(score="chosen"), SHARES, 2) == pytest.approx({0: 4 / 7, 1: 3 / 7})
    assert choose(Routing(score="sigmoid"), SHARES, 2) == pytest.approx({0: 4 / 5, 1: 3 / 4})
    assert choose(Routing(), SHARES, 2, renormalise=True) == pytest.approx({0: 4 / 7, 1: 3 / 7})


def test_a_bias_and_a_softcap_move_logits() -> None:
    bias = torch.tensor([-log(4), 0.0, 0.0, 0.0], dtype=torch.float64)
    assert choose(Routing(bias=bias), SHARES, 1) == pytest.approx({1: 3 / 7})
    flat = choose(Routing(score="sigmoid", softcap=1.0), SHARES, 1)
    assert flat == pytest.approx({0: 1 / (1 + exp(-15 / 17))})  # tanh(log 4) is 15/17


def test_a_correction_chooses_and_does_not_weigh() -> None:
    correction = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    assert choose(Routing(correction=correction), SHARES, 2) == pytest.approx({3: 0.1, 0: 0.4})


def test_an_early_correction_is_of_logits() -> None:
    correction = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    late = choose(Routing(score="sigmoid", correction=correction), [5.0, 4.5, 0.0, 4.2], 2)
    early = choose(
        Routing(score="sigmoid", correction=correction, early=True), [5.0, 4.5, 0.0, 3.0], 2
    )
    assert late == pytest.approx({3: 1 / (1 + exp(-4.2)), 0: 1 / (1 + exp(-5))})
    assert early == pytest.approx({0: 1 / (1 + exp(-5)), 1: 1 / (1 + exp(-4.5))})


def test_only_open_groups_count() -> None:
    logits = [log(5), log(1), log(4), log(3)]  # of 13; groups hold 5 + 1 and 4 + 3
    one = Routing(groups=2, open_groups=1, best=1)
    assert choose(one, logits, 2) == pytest.approx({0: 5 / 13, 1: 1 / 13})
    two = replace(one, best=2)
    assert choose(two, logits, 2) == pytest.approx({2: 4 / 13, 3: 3 / 13})
    assert choose(replace(two, open_groups=2), logits, 2) == pytest.approx({0: 5 / 13, 2: 4 / 13})


def test_what_multiplies_and_divides_weights() -> None:
    scales = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    assert choose(Routing(scale=10, scales=scales), SHARES, 2) == pytest.approx({0: 4, 1: 6})
    assert choose(Routing(epsilon=0.3), SHARES, 2, renormalise=True) == pytest.approx(
        {0: 0.4, 1: 0.3}
    )
    assert choose(Routing(least=2.0), SHARES, 2, renormalise=True) == pytest.approx(
        {0: 0.2, 1: 0.15}
    )


def test_sparsemixer_leaves_out_what_is_far_behind() -> None:
    logits = [4.0, 3.5, 1.0, 0.9]  # 3.5 is behind by 1/8 of 4, and the rest by more than 1/2
    found = choose(Routing(score="sparsemixer", jitter=0.1), logits, 2)
    assert found == pytest.approx({0: exp(4) / (exp(4) + exp(3.5)), 1: 1.0})
    found = choose(Routing(score="sparsemixer", jitter=0.01), logits, 2)
    assert found == pytest.approx({0: 1.0, 1: 1.0})


def experts(**changes: object) -> Experts:
    """Return two experts of one feature, x times 2 and 3, both chosen with the weight 1/2."""
    one = torch.ones(2, 1, 1, dtype=torch.float64)
    parts = {
        "router": torch.zeros(2, 1, dtype=torch.float64), "gate": None, "up": one,
        "down": one * torch.tensor([2.0, 3.0], dtype=torch.float64)[:, None, None],
        "chosen": 2, "activation": "relu", "renormalise": False,
    }  # fmt: skip
    return Experts(**{**parts, **changes})  # type: ignore[arg-type]


X = torch.tensor([[4.0]], dtype=torch.float64)


def written(one: Experts) -> list[float]:
    """Return what each expert writes at 4, which must add up to what all write."""
    found = one.outputs(X)
    torch.testing.assert_close(found.sum(0), one(X))
    return found.flatten().tolist()


def test_experts_without_a_gate() -> None:
    assert written(experts()) == [4, 6]
    assert written(experts(output_scale=0.5)) == [2, 3]


def test_experts_with_biases() -> None:
    bias = torch.tensor([[1.0], [-5.0]], dtype=torch.float64)
    assert written(experts(up_bias=bias)) == [5, 0]
    assert written(experts(down_bias=bias)) == [4.5, 3.5]


def test_weights_multiply_what_is_read() -> None:
    act = {"activation": "relu2"}
    assert written(experts(**act)) == [16, 24]  # 2·4²/2
    assert written(experts(weigh_input=True, **act)) == [8, 12]  # 2·(4/2)²


def test_a_clamped_gate() -> None:
    clamp = Clamp(limit=3.0, alpha=1.0, offset=1.0)
    one = torch.ones(2, 1, 1, dtype=torch.float64)
    kept = 3 / (1 + exp(-3)) * (3 + 1)  # both sides are 4, kept at 3
    assert written(experts(gate=one, clamp=clamp)) == pytest.approx([kept, 1.5 * kept])
    plain = replace(clamp, alpha=None, offset=0.0)
    assert written(experts(gate=-one, clamp=plain)) == [0, 0]
    assert written(experts(gate=one, clamp=plain)) == [9, 13.5]


def test_experts_that_are_one_sender() -> None:
    one = experts(together=True)
    assert one.senders == 0
    assert written(one) == [10]
    assert "all one sender" in one.words


def test_a_shared_expert_without_a_gate() -> None:
    eye = Linear(torch.ones(1, 1, dtype=torch.float64))
    shared = SharedExpert(MLP(eye, eye, "relu"))
    assert written(experts(shared=shared)) == [4, 6, 4]
    gated = replace(shared, gate=torch.zeros(1, 1, dtype=torch.float64))
    assert written(experts(shared=gated, output_scale=3.0)) == [12, 18, 6]
