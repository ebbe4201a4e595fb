"""What is read of the stream at `logits`: the loss's gradient, and what rounding does to the loss.

Shapes: K points, B examples, T positions of the window, R reads, V vocabulary, D d_model.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from ...metrics.metric import Metric
from ..batches import Prompts
from ..losses import Goal, few_logits, loss_of, renumbered
from ..model import Weights, logits, scale_logits
from ..runs import read_at
from .norms import normalise


def at_answers(stream: Array, prompts: Prompts, start: int) -> Array:
    """Return what a window's stream holds where logits are read, [..., R, D]."""
    row = None if prompts.goal.reads is None else prompts.row
    return read_at(stream, prompts.position - start, row)


def loss_gradient(
    metric: Metric,
    weights: Weights,
    prompts: Prompts,
    final: Array,
    start: int,
    shares: Array,
    clean_logits: Array,
) -> Array:
    """Return ∂loss/∂(stream at logits), [K, B, T, D]; the loss summed over shares of examples."""
    goal = prompts.goal._replace(clean_logits=clean_logits)
    loss, few = loss_of(metric), metric.reads_few and goal.reads is None

    def total(stream: Array) -> Array:
        read = at_answers(stream, prompts, start)
        losses = loss(*(_few(weights, read, goal) if few else (logits(weights, read), goal)))
        counted = jnp.where(prompts.share > 0, losses, 0)  # [K, P]
        return (counted.sum(-1) * shares).sum()

    gradient: Array = jax.grad(total)(final)
    return gradient


def _few(weights: Weights, read: Array, goal: Goal) -> tuple[Array, Goal]:
    """Return the logits of answers and distractors alone, and a goal that counts these."""
    ids = jnp.concatenate((goal.answers, goal.distractors), -1)
    y = normalise(weights.final_norm, read)
    out = few_logits(weights.unembed.weight, weights.unembed.bias, y, ids)
    return scale_logits(weights, out), renumbered(goal)


def rounded_by(metric: Metric, goal: Goal, clean_logits: Array, base_logits: Array) -> Array:
    """Return by how much each read's loss moves with its logits' rounding, [R], in its units.

    See `patching.run.floors`: the largest of the full model's logits, times the larger of the
    slopes in logits at the full circuit and the empty one, [R, V] each.
    """
    loss, goal = loss_of(metric), goal._replace(clean_logits=clean_logits)
    steepest = jnp.zeros(clean_logits.shape[0], clean_logits.dtype)
    for end in (clean_logits, base_logits) if metric.differentiable else ():
        slope = jax.grad(lambda x: loss(x, goal).sum())(end)
        size = jnp.nan_to_num(jnp.abs(slope).sum(-1) / 2, nan=0.0)
        steepest = jnp.maximum(steepest, size)
    largest = jnp.maximum(jnp.abs(clean_logits).max(-1), 1)
    return largest * jnp.where(steepest > 0, steepest, 1)
