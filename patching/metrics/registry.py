"""Metrics: one number for each example, from the logits at the answer position.

| name | value | better |
| --- | --- | --- |
| `kl` | KL(full model ‖ this run), summed over the vocabulary | smaller |
| `logit_diff` | mean logit of the answers − mean logit of the distractors | larger |
| `prob_diff` | Σ p(answers) − Σ p(distractors) | larger |
| `nll` | −log Σ p(answers) | smaller |
| `log_prob_diff` | log Σ p(answers) − log Σ p(distractors) | larger |
| `accuracy` | 1 where the largest answer logit exceeds the largest distractor logit | larger |

`kl`, `nll` and `log_prob_diff` are also of answers of several tokens (`whole_answers.py`).
A metric may also be written down as an expression (`expressions.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from typing_extensions import Required, TypedDict, Unpack

from ...graphs.calls.typed import typed
from ...graphs.errors import EdgewiseError, unknown
from ..registries import registered
from .expressions import expression_metric
from .metric import METRICS, Function, Metric, Target, log_prob, mean_logit, pick, widen
from .whole_answers import whole_kl, whole_log_prob_diff, whole_nll

if TYPE_CHECKING:
    from torch import Tensor


class MetricProperties(TypedDict, total=False):
    """What else than its name and its function a metric has; see `Metric`."""

    larger_is_better: Required[bool]
    needs_distractors: bool
    needs_clean_logits: bool
    differentiable: bool
    flat_at_clean: bool
    tokens_only: bool
    rest: Literal["answers", "full model"]
    default_for: Literal["searches", "scores"]
    unit: str
    whole: Function


@typed
def metric(name: str, **properties: Unpack[MetricProperties]) -> Callable[[Function], Metric]:
    """Register a function as a metric."""

    @typed
    def register(function: Function) -> Metric:
        if name in METRICS:
            raise EdgewiseError(
                f"a metric named '{name}' is registered already; accepted: a name of its own."
            )
        METRICS[name] = Metric(name, function, known=True, **properties)
        return METRICS[name]

    return register


def metrics() -> dict[str, Metric]:
    """Map the names of all metrics, in this file or others beside it, to them."""
    registered(METRICS, __package__)
    return dict(METRICS)


@typed
def get_metric(text: str) -> Metric:
    """Return a registered metric by name, or build the one an expression declares.

    >>> get_metric("kl").larger_is_better, get_metric("minimize: -log(p(answer))").larger_is_better
    (False, False)

    Raises UnknownName for a single word, and MetricSyntaxError, which marks the place.
    """
    known = metrics()
    if text.strip() in known:
        return known[text.strip()]
    if re.fullmatch(r"\s*([^\W\d][\w-]*)?\s*", text):
        example = "an expression such as 'logit(answer) - logit(distractor)'"
        raise unknown("metric", text.strip(), [*known, example])
    return expression_metric(text)


@typed
def default_metric(*, searching: bool) -> str:
    """Name what searches, or methods that score, measure unless told otherwise."""
    wanted = "searches" if searching else "scores"
    return next(name for name, one in METRICS.items() if one.default_for == wanted)


@metric(
    "kl",
    larger_is_better=False,
    needs_clean_logits=True,
    flat_at_clean=True,
    rest="full model",
    default_for="searches",
    unit="nats",
    whole=whole_kl,
)
def kl(logits: Tensor, target: Target) -> Tensor:
    """KL divergence of this run from the full model, summed over the vocabulary."""
    full = target.clean_log_probs  # [B, V]
    run = widen(logits).log_softmax(-1)  # [..., B, V]
    return (full.exp() * (full - run)).sum(-1)


@metric(
    "logit_diff",
    larger_is_better=True,
    needs_distractors=True,
    tokens_only=True,
    default_for="scores",
    unit="logits",
)
def logit_diff(logits: Tensor, target: Target) -> Tensor:
    """Mean logit of the answers minus mean logit of the distractors."""
    return mean_logit(logits, target.answers) - mean_logit(logits, target.distractors)


@metric("prob_diff", larger_is_better=True, needs_distractors=True)
def prob_diff(logits: Tensor, target: Target) -> Tensor:
    """Total probability of the answers minus total probability of the distractors."""
    return log_prob(logits, target.answers).exp() - log_prob(logits, target.distractors).exp()


@metric("nll", larger_is_better=False, rest="answers", unit="nats", whole=whole_nll)
def nll(logits: Tensor, target: Target) -> Tensor:
    """Negative log of the total probability of the answers."""
    return -log_prob(logits, target.answers)


@metric(
    "log_prob_diff",
    larger_is_better=True,
    needs_distractors=True,
    tokens_only=True,
    unit="nats",
    whole=whole_log_prob_diff,
)
def log_prob_diff(logits: Tensor, target: Target) -> Tensor:
    """Log of the answers' total probability minus log of the distractors'."""
    answer, distractor = (  # what both are divided by cancels
        pick(logits, ids, float("-inf")).logsumexp(-1)
        for ids in (target.answers, target.distractors)
    )
    return answer - distractor


@metric(
    "accuracy",
    larger_is_better=True,
    needs_distractors=True,
    differentiable=False,
    tokens_only=True,
)
def accuracy(logits: Tensor, target: Target) -> Tensor:
    """1 where the largest answer logit exceeds the largest distractor logit, else 0."""
    answer, distractor = (
        pick(logits, ids, float("-inf")).amax(-1) for ids in (target.answers, target.distractors)
    )
    return (answer > distractor).to(answer.dtype)
