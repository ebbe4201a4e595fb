"""Metrics as functions that JAX differentiates; the counterpart of `patching/metrics`.

A registered metric has its counterpart here by the same name. An expression is walked by its own
evaluator, with JAX's functions in the place of torch's. A function given from Python has none.

Shapes: B examples (or R reads, of answers of several tokens), V vocabulary, A answers.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial, reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.nn import log_softmax
from jax.scipy.special import logsumexp

from ...graphs.errors import EdgewiseError
from ..metrics.expressions import Expression, expression
from ..metrics.metric import Metric
from ..metrics.registry import metrics


class WholeReads(NamedTuple):
    """How answers of several tokens are put together; see `patching.prompts.pairs.Steps`."""

    read: Array
    token: Array
    answer: Array
    answers: Array
    distractors: Array
    pair: Array
    share: Array


class Goal(NamedTuple):
    """What a metric compares logits with; see `patching.metrics.metric.Target`."""

    answers: Array
    distractors: Array
    clean_logits: Array | None = None
    reads: WholeReads | None = None


Function = Callable[[Array, Goal], Array]


def pick(logits: Array, ids: Array, padding: float) -> Array:
    """Gather the ids [B, A] from logits [..., B, V], with a constant where an id is -1."""
    index = jnp.broadcast_to(jnp.maximum(ids, 0), (*logits.shape[:-1], ids.shape[-1]))
    return jnp.where(ids < 0, padding, jnp.take_along_axis(logits, index, -1))


def mean_logit(logits: Array, ids: Array) -> Array:
    """Average the logits [..., B, V] of the real ids [B, A] to [..., B]."""
    return pick(logits, ids, 0.0).sum(-1) / jnp.maximum((ids >= 0).sum(-1), 1)


def log_prob(logits: Array, ids: Array) -> Array:
    """Return the log of the summed probability of the real ids [B, A] under logits [..., B, V]."""
    return logsumexp(pick(logits, ids, -jnp.inf), -1) - logsumexp(logits, -1)


def kl(logits: Array, goal: Goal) -> Array:
    """Return the metric of this name, [B]."""
    assert goal.clean_logits is not None
    full, run = log_softmax(goal.clean_logits, -1), log_softmax(logits, -1)
    each = (jnp.exp(full) * (full - run)).sum(-1)
    reads = goal.reads
    if reads is None:
        return each
    shape = (*each.shape[:-1], goal.answers.shape[0])
    return jnp.zeros(shape, each.dtype).at[..., reads.pair].add(each * reads.share)


def logit_diff(logits: Array, goal: Goal) -> Array:
    """Return the metric of this name, [B]."""
    return mean_logit(logits, goal.answers) - mean_logit(logits, goal.distractors)


def prob_diff(logits: Array, goal: Goal) -> Array:
    """Return the metric of this name, [B]."""
    right, wrong = (jnp.exp(log_prob(logits, ids)) for ids in (goal.answers, goal.distractors))
    return right - wrong


def nll(logits: Array, goal: Goal) -> Array:
    """Return the metric of this name, [B]."""
    if goal.reads is not None:
        return -logsumexp(_whole(logits, goal.reads)[0], -1)
    return -log_prob(logits, goal.answers)


def log_prob_diff(logits: Array, goal: Goal) -> Array:
    """Return the metric of this name, [B]."""
    if goal.reads is not None:
        right, wrong = (logsumexp(one, -1) for one in _whole(logits, goal.reads))
    else:
        sides = (goal.answers, goal.distractors)
        right, wrong = (logsumexp(pick(logits, ids, -jnp.inf), -1) for ids in sides)
    return right - wrong


def _whole(logits: Array, reads: WholeReads) -> tuple[Array, Array]:
    """Return the log of the probability of each whole answer and distractor, -inf for none."""
    total = logsumexp(logits, -1)
    each = logits[..., reads.read, reads.token] - total[..., reads.read]
    number = reads.answers.size + reads.distractors.size
    every = jnp.zeros((*each.shape[:-1], number), each.dtype).at[..., reads.answer].add(each)
    sides = (reads.answers, reads.distractors)
    right, wrong = (jnp.where(ids < 0, -jnp.inf, every[..., jnp.maximum(ids, 0)]) for ids in sides)
    return right, wrong


FUNCTIONS: dict[str, Function] = {
    one.__name__: one for one in (kl, logit_diff, prob_diff, nll, log_prob_diff)
}
"""The counterparts of the registered metrics that have a gradient, by the same names."""


def counterpart(metric: Metric) -> Function:
    """Return a metric's function in JAX; an EdgewiseError if it has none."""
    if metric.name in FUNCTIONS and metric.known:
        return FUNCTIONS[metric.name]
    if metric.known and metric.name not in metrics():
        return partial(_expressed, expression(metric.name))
    raise EdgewiseError(
        f"the metric '{metric.name}' is a Python function of torch tensors, which engine 'jax' "
        f"cannot compile; accepted: {', '.join(FUNCTIONS)}, an expression such as "
        "'logit(answer) - logit(distractor)', or engine 'torch'."
    )


def loss_of(metric: Metric) -> Function:
    """Return the function of a metric's loss: larger is worse."""
    function = counterpart(metric)
    if not metric.larger_is_better:
        return function
    return lambda logits, goal: -function(logits, goal)


def _expressed(tree: Expression, logits: Array, goal: Goal) -> Array:
    sides = {"answer": goal.answers, "distractor": goal.distractors}
    values = {
        f"{quantity}({side})": measure(logits, ids)
        for quantity, measure in (("logit", mean_logit), ("logprob", log_prob))
        for side, ids in sides.items()
        if f"{quantity}({side})" in tree.quantities
    }
    found: Array = tree.evaluate(values, _JAX)
    return found


def _of_arrays(function: Callable[[Array, Array], Array]) -> Callable[..., Array]:
    return lambda *parts: reduce(function, parts)


_JAX: dict[str, Callable[..., Array]] = {
    "Add": _of_arrays(operator.add),
    "Mul": _of_arrays(operator.mul),
    "Pow": operator.pow,
    "exp": jnp.exp,
    "log": jnp.log,
    "Abs": jnp.abs,
    "Max": _of_arrays(jnp.maximum),
    "Min": _of_arrays(jnp.minimum),
    "sign": jnp.sign,
    "Heaviside": lambda value, *_: (jnp.sign(value) + 1) / 2,
    "logaddexp": _of_arrays(jnp.logaddexp),
}


def few_logits(unembed: Array, bias: Array | None, y: Array, ids: Array) -> Array:
    """Return the logits of the ids [B, n] alone from normalised streams [..., B, D]."""
    rows = unembed[jnp.maximum(ids, 0)]
    wide = jnp.promote_types(unembed.dtype, jnp.float32)
    out = jnp.einsum("...bd,bad->...ba", y.astype(rows.dtype), rows, preferred_element_type=wide)
    return out if bias is None else out + bias[jnp.maximum(ids, 0)]


def renumbered(goal: Goal) -> Goal:
    """Return a goal that counts answers and distractors from 0, as `few_logits` puts them."""
    ids = jnp.concatenate((goal.answers, goal.distractors), -1)
    index = jnp.where(ids < 0, -1, jnp.arange(ids.shape[-1]))
    answers = goal.answers.shape[-1]
    return Goal(index[:, :answers], index[:, answers:])


def safe_gradient(loss: Callable[[Array], Array], at: Array) -> Array:
    """Return ∂(summed loss)/∂(what it is of)."""
    gradient: Array = jax.grad(lambda x: loss(x).sum())(at)
    return gradient
