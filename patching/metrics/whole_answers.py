"""Metrics of answers of several tokens, each read behind its own first ones (teacher-forced).

The log of an answer's probability is the sum over its tokens of the log of each one's, given those
before it. With several answers their probabilities are added up, as of answers of one token.

Shapes: R reads, V vocabulary, N steps, Q answers and distractors, P pairs (see `Steps`); logits
[..., R, V] give values [..., P].
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .metric import Target, widen

if TYPE_CHECKING:
    from torch import Tensor

    from ..prompts.pairs import Steps


def whole_nll(logits: Tensor, target: Target) -> Tensor:
    """Negative log of the total probability of the whole answers."""
    steps = _steps(target)
    return -_together(_log_probs(logits, steps), steps.answers)


def whole_log_prob_diff(logits: Tensor, target: Target) -> Tensor:
    """Log of the whole answers' total probability minus log ."""
    steps = _steps(target)
    found = _log_probs(logits, steps)
    return _together(found, steps.answers) - _together(found, steps.distractors)


def whole_kl(logits: Tensor, target: Target) -> Tensor:
    """KL divergence from the full model, summed over an answer's reads, the answers' mean."""
    steps = _steps(target)
    full = target.clean_log_probs  # [R, V]
    run = widen(logits).log_softmax(-1)  # [..., R, V]
    each = (full.exp() * (full - run)).sum(-1) * steps.share.to(run.dtype)
    return each.new_zeros((*each.shape[:-1], len(target.answers))).index_add(-1, steps.pair, each)


def _steps(target: Target) -> Steps:
    assert target.steps is not None  # Metric.__call__
    return target.steps


def _log_probs(logits: Tensor, steps: Steps) -> Tensor:
    """Return the log of each answer's probability under logits [..., R, V], [..., Q]."""
    run = widen(logits)
    chosen = run[..., steps.read, steps.token] - run.logsumexp(-1)[..., steps.read]  # [..., N]
    number = int(steps.answer.max()) + 1
    return chosen.new_zeros((*chosen.shape[:-1], number)).index_add(-1, steps.answer, chosen)


def _together(log_probs: Tensor, which: Tensor) -> Tensor:
    """Return the log of the summed probability of some of the answers [P, A], [..., P]."""
    found = log_probs[..., which.clamp(min=0)].masked_fill(which < 0, float("-inf"))
    return found.logsumexp(-1)
