"""Metrics: identities, numbers worked out by hand, refusals."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgewise.graphs.errors import EdgewiseError, PromptError, UnknownName
from edgewise.patching.metrics.metric import METRICS, Metric, Target
from edgewise.patching.metrics.registry import get_metric, metric
from edgewise.patching.prompts.pairs import Pair, PromptPairs

LOGITS = torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, math.log(3.0), math.log(4.0)]])
TARGET = Target(torch.tensor([[3, -1], [2, 3]]), torch.tensor([[0, 1], [1, -1]]), LOGITS)


def value(name: str, logits: torch.Tensor = LOGITS, target: Target = TARGET) -> list[float]:
    return METRICS[name](logits, target).tolist()


def random_case(seed: int, lead: tuple[int, ...] = ()) -> tuple[torch.Tensor, Target]:
    generator = torch.Generator().manual_seed(seed)
    logits = 5 * torch.randn(*lead, 3, 7, generator=generator)
    clean = 5 * torch.randn(3, 7, generator=generator)
    ids = torch.stack([torch.randperm(7, generator=generator)[:4] for _ in range(3)])
    return logits, Target(ids[:, :2], ids[:, 2:], clean)


# -- identities ---------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.0, 30.0, 1e4])
def test_kl_of_equal_logits_is_exactly_zero(scale: float) -> None:
    _, target = random_case(0)
    assert target.clean_logits is not None
    equal = target.clean_logits * scale
    assert (
        METRICS["kl"](equal, Target(target.answers, target.distractors, equal)).tolist() == [0] * 3
    )


@given(st.integers(0, 10_000))
def test_kl_is_positive_and_invariant_to_a_shift_of_all_logits(seed: int) -> None:
    logits, target = random_case(seed)
    result = METRICS["kl"](logits, target)
    assert (result > 0).all()
    torch.testing.assert_close(METRICS["kl"](logits + 3, target), result, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", METRICS)
def test_loss_is_the_metric_oriented_so_that_larger_is_worse(name: str) -> None:
    logits, target = random_case(1)
    sign = -1 if METRICS[name].larger_is_better else 1
    assert torch.equal(METRICS[name].loss(logits, target), sign * METRICS[name](logits, target))


@pytest.mark.parametrize("name", METRICS)
def test_raising_the_answer_logits_lowers_the_loss(name: str) -> None:
    logits, target = random_case(2)
    target = Target(target.answers, target.distractors, logits.scatter(-1, target.answers, 40.0))
    better = logits.scatter(-1, target.answers, 30.0)
    worse = logits.scatter(-1, target.answers, -30.0)
    losses = [METRICS[name].loss(run, target) for run in (better, worse)]
    assert (losses[0] < losses[1]).all()


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("lead", [(), (1,), (2, 5)])
def test_leading_axes_give_the_same_values_one_by_one(name: str, lead: tuple[int, ...]) -> None:
    logits, target = random_case(3, lead)
    result = METRICS[name](logits, target)
    assert result.shape == (*lead, 3)
    flat = logits.reshape(-1, 3, 7)
    one_by_one = torch.stack([METRICS[name](run, target) for run in flat]).reshape(*lead, 3)
    torch.testing.assert_close(result, one_by_one)


@pytest.mark.parametrize("name", [n for n, m in METRICS.items() if m.differentiable])
def test_the_gradient_equals_finite_differences(name: str) -> None:
    logits, target = random_case(4)
    assert target.clean_logits is not None
    target = Target(target.answers, target.distractors, target.clean_logits.double())
    run = logits.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: METRICS[name](x, target), (run,))


def test_only_kl_is_flat_at_the_clean_run() -> None:
    assert [name for name, m in METRICS.items() if m.flat_at_clean] == ["kl"]
    for name in METRICS:
        if METRICS[name].differentiable:
            run = LOGITS.clone().requires_grad_()
            METRICS[name](run, TARGET).sum().backward()
            assert run.grad is not None
            assert (run.grad.abs().max().item() < 1e-6) == METRICS[name].flat_at_clean


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_values_are_computed_in_float32_at_least(name: str, dtype: torch.dtype) -> None:
    logits, target = random_case(5)
    narrow = logits.to(dtype)
    result = METRICS[name](narrow, target)
    assert result.dtype == torch.promote_types(dtype, torch.float32)
    assert torch.equal(result, METRICS[name](narrow.to(result.dtype), target))


@pytest.mark.parametrize("name", METRICS)
def test_padding_of_the_ids_changes_nothing(name: str) -> None:
    logits, target = random_case(6)
    padded = Target(
        torch.cat([target.answers, torch.full((3, 2), -1)], 1),
        torch.cat([torch.full((3, 1), -1), target.distractors], 1),
        target.clean_logits,
    )
    torch.testing.assert_close(METRICS[name](logits, padded), METRICS[name](logits, target))


@pytest.mark.parametrize("name", METRICS)
def test_extreme_logits_stay_finite(name: str) -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0, 3e4]])
    target = Target(torch.tensor([[1]]), torch.tensor([[3]]), -logits)
    run = logits.clone().requires_grad_()
    result = METRICS[name](run, target)
    assert result.isfinite().all()
    if METRICS[name].differentiable:
        result.sum().backward()
        assert run.grad is not None
        assert run.grad.isfinite().all()


# -- by hand ------------------------------------------------------------------------------------


def test_values_worked_out_by_hand() -> None:
    # row 0: answer 4, distractors 1 and 2; row 1: p = 1/9, 1/9, 3/9, 4/9, answers 2 and 3
    assert value("logit_diff") == pytest.approx([2.5, math.log(12) / 2])
    total = sum(math.exp(x) for x in (1, 2, 3, 4))
    first = (math.exp(4) - math.exp(1) - math.exp(2)) / total
    assert value("prob_diff") == pytest.approx([first, 6 / 9])
    assert value("nll") == pytest.approx([math.log(total) - 4, -math.log(7 / 9)])
    assert value("accuracy") == [1.0, 1.0]


def test_kl_worked_out_by_hand() -> None:
    clean = torch.tensor([[math.log(1.0), math.log(3.0)]])  # p = 1/4, 3/4
    run = torch.tensor([[0.0, 0.0]])  # p = 1/2, 1/2
    target = Target(torch.tensor([[1]]), torch.tensor([[-1]]), clean)
    expected = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert value("kl", run, target) == pytest.approx([expected], rel=1e-5)


def test_accuracy_asks_for_strictly_more_and_takes_the_largest_of_each() -> None:
    logits = torch.tensor([[1.0, 1.0, 0.0], [5.0, 2.0, 3.0], [0.0, 2.0, 3.0]])
    target = Target(torch.tensor([[0, -1], [0, 1], [0, 1]]), torch.tensor([[1], [2], [2]]))
    assert value("accuracy", logits, target) == [0.0, 1.0, 0.0]


# -- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n, m in METRICS.items() if m.needs_distractors])
def test_pairs_without_distractors_are_refused_by_number_and_metric(name: str) -> None:
    pairs = PromptPairs(
        (Pair((1,), (2,), (3,), (0,)), Pair((1,), (2,), (3,)), Pair((1,), (2,), (3,)))
    )
    batch = pairs.batch()
    target = Target(batch.answers, batch.distractors)
    with pytest.raises(PromptError, match=rf"{name} .* 2 of 3 have none \(pair 2, 3\).* kl, nll"):
        METRICS[name].check(target)
    with pytest.raises(PromptError):
        METRICS[name](torch.zeros(3, 5), target)


@pytest.mark.parametrize(("count", "named"), [(5, "1, 2, 3, 4, 5"), (6, "1, 2, 3, 4, 5, …")])
def test_the_first_five_pairs_at_fault_are_named(count: int, named: str) -> None:
    target = Target(torch.ones(count, 1).long(), torch.full((count, 1), -1))
    with pytest.raises(PromptError, match=rf"{count} of {count} have none \(pair {named}\)"):
        METRICS["logit_diff"].check(target)


def test_metrics_that_need_no_distractors_do_without() -> None:
    target = Target(torch.tensor([[1]]), torch.tensor([[-1]]), torch.zeros(1, 4))
    assert value("nll", torch.zeros(1, 4), target) == pytest.approx([math.log(4)])
    assert value("kl", torch.zeros(1, 4), target) == [0.0]


def test_missing_answers_and_clean_logits_are_refused() -> None:
    with pytest.raises(PromptError, match="nll needs at least one answer"):
        METRICS["nll"].check(Target(torch.tensor([[-1]]), torch.tensor([[0]])))
    with pytest.raises(PromptError, match=r"kl compares .* clean_logits is None"):
        METRICS["kl"](LOGITS, Target(TARGET.answers, TARGET.distractors))


def test_targets_that_do_not_fit_the_logits_are_refused() -> None:
    with pytest.raises(PromptError, match="logits for 1 examples, but answers for 2"):
        METRICS["nll"](LOGITS[:1], TARGET)
    with pytest.raises(PromptError, match=r"answer token 3 is outside .* vocabulary of 3"):
        METRICS["nll"](LOGITS[:, :3], Target(TARGET.answers, TARGET.distractors))
    with pytest.raises(PromptError, match=r"distractor token 3 is outside .* vocabulary of 3"):
        METRICS["nll"](LOGITS[:, :3], Target(TARGET.distractors, TARGET.answers))
    with pytest.raises(PromptError, match="2 examples, but answers for 2 and distractors for 1"):
        METRICS["nll"](LOGITS, Target(TARGET.answers, TARGET.distractors[:1]))
    with pytest.raises(PromptError, match=r"clean_logits of shape \(2, 4\)"):
        METRICS["kl"](LOGITS[:, :3], Target(torch.zeros(2, 1).long(), TARGET.distractors, LOGITS))


def test_which_metrics_can_be_differentiated_where() -> None:
    with pytest.raises(EdgewiseError, match=r"accuracy.* such as kl, logit_diff, prob_diff, nll"):
        METRICS["accuracy"].require_gradient(at_clean_only=False)
    with pytest.raises(EdgewiseError, match=r"'kl' is 0 at the clean run.*; use a circuit, or"):
        METRICS["kl"].require_gradient(at_clean_only=True, instead="a circuit")
    METRICS["kl"].require_gradient(at_clean_only=False)
    for name in ("logit_diff", "prob_diff", "nll"):
        METRICS[name].require_gradient(at_clean_only=True)


def test_which_metrics_read_few_logits() -> None:
    assert [name for name, one in METRICS.items() if one.reads_few] == [
        "logit_diff",
        "log_prob_diff",
        "accuracy",
    ]
    clean = Metric("clean", lambda x, _: x[..., 0], True, needs_clean_logits=True, tokens_only=True)
    assert not clean.reads_few


# -- the registry -------------------------------------------------------------------------------


def test_unknown_names_get_the_nearest_match() -> None:
    with pytest.raises(UnknownName, match=r"did you mean 'logit_diff'.*Accepted: kl, logit_diff"):
        get_metric("logit-dif")
    with pytest.raises(UnknownName, match="unknown metric ''"):
        get_metric(" ")


def test_names_are_found_with_space_around() -> None:
    assert get_metric(" kl ") is METRICS["kl"]


def test_registering_a_new_metric_makes_it_available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgewise.patching.metrics.registry.METRICS", dict(METRICS))

    @metric("top", larger_is_better=True)
    def top(logits: torch.Tensor, target: Target) -> torch.Tensor:
        """Largest logit."""
        return logits.amax(-1)

    found = get_metric("top")
    assert isinstance(found, Metric)
    assert found.description == "Largest logit."
    assert found(LOGITS, TARGET).tolist() == pytest.approx([4.0, math.log(4)])
    with pytest.raises(EdgewiseError, match="registered already"):
        metric("top", larger_is_better=True)(top)


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_describes_itself(name: str) -> None:
    assert METRICS[name].description.endswith(".") or name == "accuracy"
    assert METRICS[name].name == name


def test_importing_metrics_loads_neither_torch_nor_sympy() -> None:
    code = (
        "import sys, edgewise.patching.metrics.registry, edgewise.patching.metrics.expressions;"
        "sys.exit(len({'torch', 'sympy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
