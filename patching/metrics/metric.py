"""What a metric is: one number for each example, from the logits at the answer position.

All arithmetic is done in float32 at least.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from ...graphs.calls.typed import typed
from ...graphs.errors import EdgewiseError, PromptError

if TYPE_CHECKING:
    from torch import Tensor

    from ..prompts.pairs import Steps


@typed
@dataclass(frozen=True)
class Target:
    """What a metric compares logits with; B examples, V tokens in the vocabulary.

    `answers`: int64 [B, A], `distractors`: int64 [B, A'], both padded with -1.
    `clean_logits`: [B, V], the full model's logits on the clean prompts, for metrics that ask.
    `steps`: of answers of several tokens, how R reads make them up; all logits are then [R, V], and
    `answers` and `distractors` the first tokens of B pairs.
    """

    answers: Tensor
    distractors: Tensor
    clean_logits: Tensor | None = None
    steps: Steps | None = None

    @cached_property
    def clean_log_probs(self) -> Tensor:
        """Return the log of the full model's probabilities, [B, V], float32 at least."""
        assert self.clean_logits is not None  # Metric.check
        return widen(self.clean_logits).log_softmax(-1)

    @cached_property
    def largest(self) -> dict[str, int]:
        """Return the largest id by what it is of; looked at once, since a card is waited for."""
        named = {"answer": self.answers, "distractor": self.distractors}
        if self.steps is not None:
            named["answer or distractor"] = self.steps.token
        return {what: int(ids.max()) for what, ids in named.items() if ids.numel()}

    @cached_property
    def lacking(self) -> dict[str, list[int]]:
        """Return the pairs without an answer, and those without a distractor; looked at once."""
        named = {"answer": self.answers, "distractor": self.distractors}
        none = {what: (~(ids >= 0).any(-1)).nonzero()[:, 0] for what, ids in named.items()}
        return {what: pairs.tolist() for what, pairs in none.items()}

    @typed
    def log_probs(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log of the probability of each answer and distractor under logits [..., B, V].

        [..., B, A] and [..., B, A'], minus infinity where a pair has fewer. Answers of several
        tokens have those of their tokens added up, under logits [..., R, V].

        >>> import torch
        >>> target = Target(torch.tensor([[2]]), torch.tensor([[0, 1]]))
        >>> [x.shape for x in target.log_probs(torch.zeros(1, 4))]
        [torch.Size([1, 1]), torch.Size([1, 2])]
        """
        _check_fit("log_probs", logits, self)
        run, steps, none = widen(logits), self.steps, float("-inf")
        if steps is None:
            total = run.logsumexp(-1)[..., None]
            first, other = (
                pick(run, ids, none) - total for ids in (self.answers, self.distractors)
            )
            return first, other
        chosen = run[..., steps.read, steps.token] - run.logsumexp(-1)[..., steps.read]  # [..., N]
        number = int(steps.answer.max()) + 1
        every = chosen.new_zeros((*chosen.shape[:-1], number)).index_add(-1, steps.answer, chosen)
        first, other = (
            every[..., which.clamp(min=0)].masked_fill(which < 0, none)
            for which in (steps.answers, steps.distractors)
        )
        return first, other


Function = Callable[["Tensor", Target], "Tensor"]


@typed
@dataclass(frozen=True)
class Metric:
    """A metric's function, [..., B, V] logits to [..., B] values, and its direction.

    `known`: its name alone makes it again, as of those that are registered and of expressions.
    `given`: the Python function it was given as. `whole`: the function for answers of several
    tokens, [..., R, V] logits to [..., B] values.
    `differentiable`: gradients with respect to the logits mean something.
    `flat_at_clean`: the gradient is 0 at the clean run, so plain attribution finds nothing.
    `rest`: where the loss is the log of the softmax's normaliser less something simple, what that
    is: `answers`, the log of the answers' summed exponentials, or `full model`, the mean logit
    under the full model, up to a constant; else empty.
    `default_for`: `searches` or `scores`, where it is what these measure unless told otherwise.
    `tokens_only`: the value depends on the logits of answers and distractors alone; the function is
    then given these alone, with a target that counts them from 0.
    `unit`: in what its values are; empty where they are plain numbers.

    >>> import torch
    >>> target = Target(torch.tensor([[2]]), torch.tensor([[0]]))
    >>> logits = torch.tensor([[1.0, 0.0, 4.0]])
    >>> metric = Metric("gap", lambda logits, target: logits[..., 2] - logits[..., 0], True)
    >>> metric(logits, target), metric.loss(logits, target)
    (tensor([3.]), tensor([-3.]))
    """

    name: str
    function: Function
    larger_is_better: bool
    needs_distractors: bool = False
    needs_clean_logits: bool = False
    differentiable: bool = True
    flat_at_clean: bool = False
    tokens_only: bool = False
    rest: str = ""
    default_for: str = ""
    unit: str = ""
    whole: Function | None = None
    known: bool = False
    given: Callable[..., Tensor] | None = None

    @typed
    def __call__(self, logits: Tensor, target: Target) -> Tensor:
        """Map logits [..., B, V] to values [..., B]; PromptError if the target does not fit."""
        self.check(target)
        _check_fit(self.name, logits, target)
        if target.steps is None:
            return self.function(logits, target)
        return self.for_whole()(logits, target)

    def for_whole(self) -> Function:
        """Return the function for answers of several tokens; a PromptError if there is none."""
        if self.whole is None:
            own = "" if self.known else "; a Metric of Python functions with a `whole` of its own"
            raise PromptError(
                f"the metric {self.name} compares logits at one position, and answers of several "
                "tokens are read at several; accepted with `answers` whole: "
                f"{named(lambda one: one.whole is not None)}{own}; or `answers` first, which asks "
                "for the first token at which answers and distractors differ."
            )
        return self.whole

    @typed
    def loss(self, logits: Tensor, target: Target) -> Tensor:
        """Map logits [..., B, V] to one loss per example [..., B]; larger is worse."""
        value = self(logits, target)
        return -value if self.larger_is_better else value

    @typed
    def require_gradient(
        self, *, at_clean_only: bool, instead: str = "gradients along a path"
    ) -> None:
        """Refuse to be differentiated where there is no gradient; `instead`: what can be used."""
        if not self.differentiable:
            raise EdgewiseError(
                f"metric '{self.name}' has no gradient, so edges cannot be attributed with it; "
                f"use a differentiable one such as {named(lambda one: one.differentiable)}."
            )
        if self.flat_at_clean and at_clean_only:
            raise EdgewiseError(
                f"the gradient of '{self.name}' is 0 at the clean run, where the two "
                "distributions are equal, so plain EAP gives every edge the score 0; use "
                f"{instead}, or another metric."
            )

    @typed
    def check(self, target: Target) -> None:
        """Refuse a target that lacks what this metric needs, naming the first pairs at fault."""
        needed = {"answer": target.answers}
        if self.needs_distractors:
            needed["distractor"] = target.distractors
        for what, ids in needed.items():
            lacking = target.lacking[what]
            if lacking:
                first = ", ".join(str(i + 1) for i in lacking[:5])
                more = ", …" if len(lacking) > 5 else ""
                free = named(lambda one: not one.needs_distractors)
                other = f" or choose a metric that needs none: {free}" if what != "answer" else ""
                raise PromptError(
                    f"the metric {self.name} needs at least one {what} in every pair, but "
                    f"{len(lacking)} of {len(ids)} have none (pair {first}{more}); add {what}s to "
                    f"the pairs{other}."
                )
        if self.needs_clean_logits and target.clean_logits is None:
            raise PromptError(
                f"the metric {self.name} compares with the full model's logits on the clean "
                "prompts, but clean_logits is None; pass them in the Target."
            )

    @property
    def reads_few(self) -> bool:
        """Tell whether the logits of answers and distractors are all that is needed."""
        return self.tokens_only and not self.needs_clean_logits

    @property
    def description(self) -> str:
        """Return the first sentence of the function's docstring."""
        return (self.function.__doc__ or "").strip().partition("\n")[0]


METRICS: dict[str, Metric] = {}  # by name, in the order of definition; `registry.py` fills it


def named(suited: Callable[[Metric], bool]) -> str:
    """List the registered metrics that suit."""
    return ", ".join(name for name, one in METRICS.items() if suited(one))


def widen(values: Tensor) -> Tensor:
    """Return the values in float32 at least."""
    import torch

    return values.to(torch.promote_types(values.dtype, torch.float32))


def mean_logit(logits: Tensor, ids: Tensor) -> Tensor:
    """Average the logits [..., B, V] of the real ids [B, A] to [..., B]."""
    return pick(logits, ids, 0.0).sum(-1) / (ids >= 0).sum(-1)


def log_prob(logits: Tensor, ids: Tensor) -> Tensor:
    """Return the log of the summed probability of the real ids [B, A] under logits [..., B, V]."""
    return pick(logits, ids, float("-inf")).logsumexp(-1) - widen(logits).logsumexp(-1)


def pick(logits: Tensor, ids: Tensor, padding: float) -> Tensor:
    """Gather the ids [B, A] from logits [..., B, V], with a constant where an id is -1."""
    index = ids.clamp(min=0).expand(*logits.shape[:-1], ids.shape[-1])  # [..., B, A]
    return widen(logits.gather(-1, index)).masked_fill(ids < 0, padding)


def _check_fit(name: str, logits: Tensor, target: Target) -> None:
    """Refuse targets of another batch or with tokens outside the vocabulary."""
    if logits.dim() < 2:
        raise PromptError(
            f"the metric {name} got logits of shape {tuple(logits.shape)}; accepted: [examples, "
            "vocabulary], or several of these."
        )
    examples, vocabulary = logits.shape[-2], logits.shape[-1]
    reads, steps = {len(target.answers), len(target.distractors)}, target.steps
    if reads != {examples} if steps is None else len(steps.pair) != examples:
        raise PromptError(
            f"the metric {name} got logits for {examples} examples, but answers for "
            f"{len(target.answers)} and distractors for {len(target.distractors)}."
        )
    clean = target.clean_logits
    if clean is not None and clean.shape != logits.shape[-2:]:
        raise PromptError(
            f"the metric {name} got logits of shape {tuple(logits.shape)}, but clean_logits of "
            f"shape {tuple(clean.shape)}; accepted: [{examples}, {vocabulary}]."
        )
    for what, largest in target.largest.items():
        if largest >= vocabulary:
            raise PromptError(
                f"{what} token {largest} is outside the model's vocabulary of {vocabulary} "
                "tokens; were the pairs made for another tokenizer?"
            )
