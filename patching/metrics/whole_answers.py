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


def whole_nll(logits: Tensor, target: Target) -> Tensor:
    """Negative log of the total probability of the whole answers."""
    return -target.log_probs(logits)[0].logsumexp(-1)


def whole_log_prob_diff(logits: Tensor, target: Target) -> Tensor:
    """Log of the whole answers' total probability minus log of the whole distractors'."""
    right, wrong = target.log_probs(logits)
    return right.logsumexp(-1) - wrong.logsumexp(-1)


def whole_kl(logits: Tensor, target: Target) -> Tensor:
    """KL divergence from the full model, summed over an answer's reads, the answers' mean."""
    steps = target.steps
    assert steps is not None  # Metric.__call__
    full = target.clean_log_probs  # [R, V]
    run = widen(logits).log_softmax(-1)  # [..., R, V]
    each = (full.exp() * (full - run)).sum(-1) * steps.share.to(run.dtype)
    return each.new_zeros((*each.shape[:-1], len(target.answers))).index_add(-1, steps.pair, each)
