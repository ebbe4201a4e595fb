"""Metrics declared as text: values, gradients, numerical range, and the place of each error."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.graphs.errors import MetricSyntaxError
from edgewise.patching.metrics.expression_syntax import MAX_DEPTH, MAX_LENGTH
from edgewise.patching.metrics.expressions import expression
from edgewise.patching.metrics.metric import METRICS, Target
from edgewise.patching.metrics.registry import get_metric

LOGITS = torch.tensor(
    [[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, math.log(3.0), math.log(4.0)]], dtype=torch.float64
)
TARGET = Target(torch.tensor([[3, -1], [2, 3]]), torch.tensor([[0, 1], [1, -1]]))
# row 1: p(answer) = 7/9, p(distractor) = 1/9


def second(text: str) -> float:
    return get_metric(text)(LOGITS, TARGET)[1].item()


# -- identities ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("logit(answer) - logit(distractor)", "logit_diff"),
        ("p(answer) - p(distractor)", "prob_diff"),
        ("minimize: -log(p(answer))", "nll"),
        ("minimize: -logprob(answer)", "nll"),
    ],
)
def test_the_named_metrics_written_as_expressions_are_equal(text: str, name: str) -> None:
    written, named = get_metric(text), METRICS[name]
    assert (written.larger_is_better, written.needs_distractors) == (
        named.larger_is_better,
        named.needs_distractors,
    )
    torch.testing.assert_close(written(LOGITS, TARGET), named(LOGITS, TARGET))
    torch.testing.assert_close(written.loss(LOGITS, TARGET), named.loss(LOGITS, TARGET))


EXPRESSIONS = [
    "logit(answer) - logit(distractor)",
    "log(p(answer)) - log(p(distractor))",
    "p(answer) / (p(answer) + p(distractor))",
    "log(p(answer) + 2 * p(distractor))",
    "log(1 - p(answer))",
    "max(logit(answer), 2 * logit(distractor), 0.5) - min(p(answer), 0.25)",
    "abs(logit(distractor) - logit(answer)) ** 1.5",
    "sqrt(p(answer)) * exp(-logit(answer) / 10)",
    "2 ** logit(distractor) + logit(answer) ** 2 / 3",
    "exp(logprob(answer)) ** 3 * p(distractor)",
]


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_the_symbolic_derivative_equals_autograd_and_finite_differences(text: str) -> None:
    parsed = expression(text)
    values = {
        name: torch.tensor([0.3, -0.7, -1.1] if "logprob" in name else [0.9, 2.3, 1.7])
        .double()
        .sub(1.0 if "logprob" in name else 0.0)
        .requires_grad_()
        for name in ("logit(answer)", "logit(distractor)", "logprob(answer)", "logprob(distractor)")
    }
    parsed(values).sum().backward()
    slopes = parsed.gradient()
    assert set(slopes) == parsed.quantities
    for name, slope in slopes.items():
        torch.testing.assert_close(slope(values), values[name].grad)
    used = tuple(values[name] for name in sorted(parsed.quantities))
    named = sorted(parsed.quantities)
    assert torch.autograd.gradcheck(lambda *v: parsed(dict(zip(named, v, strict=True))), used)


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_leading_axes_and_types_are_kept(text: str) -> None:
    wide = LOGITS.float().expand(2, 5, 2, 4)
    result = get_metric(text)(wide, TARGET)
    assert (result.shape, result.dtype) == ((2, 5, 2), torch.float32)
    torch.testing.assert_close(result[1, 3], get_metric(text)(LOGITS, TARGET).float())


def reference(tree: tuple[object, ...] | float | str, values: dict[str, float]) -> float:
    """Compute a generated tree in plain Python."""
    if isinstance(tree, float):
        return tree
    if isinstance(tree, str):
        return values[tree]
    name, *parts = tree
    a, *rest = [reference(part, values) for part in parts]  # type: ignore[arg-type]
    if name in ("max", "min"):
        return max(a, *rest) if name == "max" else min(a, *rest)
    if name == "neg":
        return -a
    if name == "abs":
        return abs(a)
    return {"+": a + rest[0], "-": a - rest[0], "*": a * rest[0]}[name]  # type: ignore[index]


def written(tree: tuple[object, ...] | float | str) -> str:
    if not isinstance(tree, tuple):
        return str(tree)
    name, *parts = tree
    texts = [written(part) for part in parts]  # type: ignore[arg-type]
    if name in ("max", "min", "abs"):
        return f"{name}({', '.join(texts)})"
    return f"-({texts[0]})" if name == "neg" else f"({texts[0]}) {name} ({texts[1]})"


ATOMS = [f"{q}({s})" for q in ("logit", "logprob", "p") for s in ("answer", "distractor")]
LEAVES = st.sampled_from(ATOMS) | st.integers(0, 20).map(lambda n: n / 4)
TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.tuples(st.sampled_from(["+", "-", "*", "max", "min"]), inner, inner)
        | st.tuples(st.sampled_from(["neg", "abs"]), inner)
    ),
    max_leaves=6,
)


@settings(deadline=None, max_examples=60)
@given(TREES)
def test_random_expressions_equal_plain_python(tree: tuple[object, ...] | float | str) -> None:
    text = "p(answer) - p(answer) * 2 + " + written(tree)
    lp = {"answer": math.log(7 / 9), "distractor": math.log(1 / 9)}
    values = {"logit(answer)": math.log(12) / 2, "logit(distractor)": 0.0}
    values |= {f"logprob({s})": lp[s] for s in lp} | {f"p({s})": math.exp(lp[s]) for s in lp}
    try:
        parsed = get_metric(text)
    except MetricSyntaxError as error:
        assert "always" in str(error)
        return
    expected = reference(tree, values) - values["p(answer)"]
    assert parsed(LOGITS, TARGET)[1].item() == pytest.approx(expected, rel=1e-9, abs=1e-9)


# -- by hand ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("p(answer) + 2 ** 3 ** 2 - 512", 7 / 9),
        ("9 * p(answer) - -2 ** 2", 11),
        ("p(answer) * 9 / 7 / 2", 0.5),
        ("+p(answer) - - p(distractor)", 8 / 9),
        ("logit(answer)", math.log(12) / 2),
        ("log(p(answer) / p(distractor))", math.log(7)),
        ("1.5e1 * p(distractor) + .5", 15 / 9 + 0.5),
        ("sqrt(p(distractor)) + exp(0)", 1 / 3 + 1),
        ("maximize: max(1, 2, p(answer)) * p(answer)", 14 / 9),
        ("min(p(answer), p(distractor))", 1 / 9),
        ("abs(p(distractor) - p(answer))", 6 / 9),
        ("2 ** logprob(distractor)", 2 ** math.log(1 / 9)),
    ],
)
def test_values_worked_out_by_hand(text: str, expected: float) -> None:
    assert second(text) == pytest.approx(expected)


def test_the_direction_is_declared_in_front() -> None:
    assert get_metric("p(answer)").larger_is_better
    assert get_metric(" maximize :p(answer)").larger_is_better
    down = get_metric("minimize:  p(distractor)")
    assert not down.larger_is_better
    assert torch.equal(down.loss(LOGITS, TARGET), down(LOGITS, TARGET))
    assert get_metric(down.name).name == down.name == "minimize: p(distractor)"


def test_needs_follow_from_the_quantities_left_after_simplification() -> None:
    assert not get_metric("logit(answer) + 0 * p(distractor)").needs_distractors
    assert get_metric("p(distractor)").needs_distractors
    assert get_metric("p(answer)").description == "The value of p(answer)."


# -- numerical range ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("log(p(answer)) - log(p(distractor))", -4e4),
        ("log(p(answer) / p(distractor))", -4e4),
        ("log(p(answer) * p(distractor) ** 2)", -1e5),
        ("log(p(answer) + p(distractor))", -2e4),
        ("log(sqrt(p(answer)))", -3e4),
        ("p(answer) / p(distractor)", 0.0),
        ("p(answer) / (p(answer) + p(distractor))", 0.0),
        ("p(distractor) / (p(answer) + p(distractor))", 1.0),
    ],
)
def test_logs_and_ratios_of_vanishing_probabilities_are_exact(text: str, expected: float) -> None:
    run = torch.tensor([[-3e4, 1e4, 3e4]], requires_grad=True)
    target = Target(torch.tensor([[0]]), torch.tensor([[1]]))
    result = get_metric(text)(run, target)
    assert result.item() == pytest.approx(expected)
    result.sum().backward()
    assert run.grad is not None
    assert run.grad.isfinite().all()


# -- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "at", "problem"),
    [
        ("logit(answer) - logit(distracter)", 22, "unknown name 'distracter'; did you mean 'distr"),
        ("lgit(answer)", 0, "unknown name 'lgit'; did you mean 'logit'"),
        ("p(answer) + sin(p(answer))", 12, "unknown name 'sin'"),
        ("logit(answer", 12, r"missing '\)' for the '\(' at character 6"),
        ("logit(answer logit)", 13, "expected an operator or"),
        ("logit(answer))", 13, "closes nothing"),
        ("logit answer", 6, r"expected '\(' as in logit\(answer\), found 'answer'"),
        ("log + 1", 4, "as in log"),
        ("p(answer) ^ 2", 10, r"a power is written \*\*"),
        ("p(answer) p(answer)", 10, "expected an operator"),
        ("2 *", 3, "found the end"),
        ("2 * / p(answer)", 4, "found '/'"),
        ("p()", 2, "expected answer or distractor"),
        ("p(2)", 2, "expected answer or distractor"),
        ("p(answer).__class__", 9, r"unexpected character '\.'"),
        ("__import__('os')", 11, "unexpected character"),
        ("import os", 0, "unknown name 'import'"),
        ("lambda: p(answer)", 0, "unknown direction 'lambda'"),
        ("maximise: p(answer)", 0, "did you mean 'maximize'"),
        ("minimize: minimize: p(answer)", 18, "unexpected character ':'"),
        ("log(p(answer), 2)", 0, "log takes exactly one value, found 2"),
        ("max(p(answer))", 0, "max takes two values or more, found 1"),
        ("p(answer) / (2 - 2)", 10, "divides by zero|infinite"),
        ("p(answer) + 1 / 0", 14, "divides by zero"),
        ("1 + log(-p(answer))", 4, "never a real number"),
        ("sqrt(-2) * p(answer)", 0, "never a real number"),
        ("(-8) ** (1/3) * p(answer)", 5, "never a real number"),
        ("p(answer) + 9**9**9", 13, "too large"),
        ("p(answer) + exp(exp(exp(99)))", 20, "too large"),
        ("1e999 * p(answer)", 0, "too large"),
        ("1e-999 * p(answer)", 0, "too small"),
        ("logit(answer) ** 1000", 14, "the exponent 1000 is too large"),
        ("((2 * logit(answer)) ** 64) ** 64", 28, "beyond"),
        ("minimize:  3 + 4", 11, "its value is always 7"),
        ("logit(answer) - logit(answer)", 0, "its value is always 0"),
    ],
)
def test_a_wrong_expression_is_refused_with_a_caret_under_the_place(
    text: str, at: int, problem: str
) -> None:
    with pytest.raises(MetricSyntaxError, match=problem) as caught:
        get_metric(text)
    *_, shown, marker = str(caught.value).splitlines()
    assert shown == "    " + text
    assert marker == " " * (4 + at) + "^"


def test_the_caret_stays_right_over_line_breaks_and_tabs() -> None:
    with pytest.raises(MetricSyntaxError) as caught:
        get_metric("p(answer)\n\t+ q(answer)")
    *_, shown, marker = str(caught.value).splitlines()
    assert shown[marker.index("^")] == "q"


def test_absurd_sizes_are_refused_quickly() -> None:
    with pytest.raises(MetricSyntaxError, match=f"{MAX_LENGTH + 9} characters"):
        get_metric("p(answer)" + " " * MAX_LENGTH)
    for opening in ("(", "-", "exp("):
        with pytest.raises(MetricSyntaxError, match=f"more than {MAX_DEPTH} deep"):
            get_metric(opening * 60 + "p(answer)")


@settings(deadline=None)
@given(st.text("lognpexasmiqrtd(),+-*/.0123456789e: ^_", max_size=40))
def test_any_text_is_read_or_refused_as_a_metric(text: str) -> None:
    try:
        expression(text)
    except MetricSyntaxError as error:
        assert "^" in str(error).splitlines()[-1]
