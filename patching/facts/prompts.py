"""Prompts about a subject: where it stands, what each token is to it, and what is read of a run.

A prompt ends where its answer is predicted (with answers of several tokens, where their last token
is), in causal models; what stands behind is cut. Equal prompts count once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ...graphs.calls.typed import typed
from ...graphs.errors import PromptError
from ...graphs.lift.lifted import LiftedModel
from ..metrics.metric import Target
from ..prompts.pairs import Batch, Pair, PromptPairs
from ..run.memory import Budget
from ..trace import at_answers
from .names import SUBJECT

LABELS = {
    "first subject": "the subject's first token, if it has more than one",
    "middle subject": "the subject's other tokens but its last",
    "last subject": "the subject's last token",
    "next": "the token behind the subject, if it is not the last",
    "further": "the tokens between that and the last",
    "last": "the last token, behind which the answer is predicted",
}
"""What a token is to a prompt's subject. Of a subject that stands last, its token is no `last`."""


@dataclass(frozen=True)
class FactPrompt:
    """One prompt, with the places of its subject's tokens, in order."""

    pair: Pair
    subject: tuple[int, ...]

    @property
    def last(self) -> int:
        """Return the position at which the answer is predicted."""
        return self.pair.answer_position

    def label(self, position: int) -> str | None:
        """Return what a token is to the subject; None before it, and between its parts.

        >>> one = FactPrompt(Pair((5, 6, 7, 8, 9), None, (1,)), (1, 2))
        >>> [one.label(at) for at in range(5)]
        [None, 'first subject', 'last subject', 'next', 'last']
        """
        first, *_, end = (*self.subject, self.subject[-1])
        if position in self.subject:
            inner = "first subject" if position == first else "middle subject"
            return "last subject" if position == end else inner
        if position == self.last:
            return "last"
        if not end < position < self.last:
            return None
        return "next" if position == end + 1 else "further"

    @cached_property
    def batch(self) -> Batch:
        """Return the prompt as tensors: a run for each way its answers go on."""
        return PromptPairs((self.pair,)).batch()

    def batch_on(self, model: LiftedModel) -> Batch:
        """Return the same where the model's stream lies."""
        return self.batch.to(str(model.device))


@typed
def fact_prompts(
    model: LiftedModel, pairs: PromptPairs, span: str = SUBJECT
) -> tuple[FactPrompt, ...]:
    """Return the distinct prompts of pairs whose spans name the subject.

    Raises:
        PromptError: no position, or not that of every prompt, has the name; or it stands behind
            the answer's place.
    """
    found: dict[tuple[object, ...], FactPrompt] = {}
    for number, pair in enumerate(pairs, start=1):
        subject = tuple(sorted(at for name, at in pair.named if name == span))
        known = ", ".join(pairs.span_names) or "none"
        if not subject:
            raise PromptError(
                f"pair {number} of '{pairs.name}' names no span '{span}', which is to be its "
                f"subject; spans that its pairs name: {known}. Accepted: the name of a span of "
                'every prompt; a file\'s lines have spans such as "spans": {"subject": [1, 2]}.'
            )
        if subject[-1] > pair.answer_position:
            raise PromptError(
                f"pair {number} of '{pairs.name}' has its subject at position {subject[-1]}, "
                f"behind {pair.answer_position}, where its answer is predicted; accepted: one "
                "before it."
            )
        own = _cut(pair) if model.causal else pair
        key = (own.clean, own.answers, own.spelled, subject)
        found.setdefault(key, FactPrompt(replace(own, corrupted=None, distractors=()), subject))
    return tuple(found.values())


def _cut(pair: Pair) -> Pair:
    """Return the prompt up to where its answer is predicted."""
    end = pair.answer_position + 1
    spelled = pair.spelled and replace(pair.spelled, distractors=())
    spans, declared = (
        tuple((name, at) for name, at in named if at < end) for named in (pair.spans, pair.declared)
    )
    return replace(
        pair, clean=pair.clean[:end], corrupted=None, distractors=(), spelled=spelled,
        spans=spans, declared=declared,
    )  # fmt: skip


@torch.no_grad()
def answer_probability(
    model: LiftedModel, batch: Batch, final: Tensor, budget: Budget, start: int = 0
) -> Tensor:
    """Return the probability of one prompt's answers, of final streams [n, runs, T, D]: [n].

    Of several answers it is the sum of theirs. `start`: the position of the streams' first. The
    result lies on the processor, in float64.
    """
    row = None if batch.steps is None else batch.row
    reads = at_answers(final, batch.answer_position - start, row)  # [n, R, D]
    each = reads.shape[1] * len(model.unembed.weight) * 4 * 3
    target = Target(batch.answers, batch.distractors, None, batch.steps)
    found = [
        target.log_probs(model.logits(some))[0].logsumexp(-1)[..., 0].double().exp().cpu()
        for some in reads.split(max(1, budget.logits // each))
    ]
    return torch.cat(found)


def right_answers(model: LiftedModel, batch: Batch, final: Tensor) -> bool:
    """Tell whether the most probable token is an answer's, at each of its tokens.

    `final`: the streams at `logits`, [runs, T, D]. Of several answers one is enough.
    """
    row = None if batch.steps is None else batch.row
    best = model.logits(at_answers(final, batch.answer_position, row)).argmax(-1)  # [R]
    if batch.steps is None:
        return bool((batch.answers[0] == best[0]).any())
    hit = batch.steps.token == best[batch.steps.read]
    answers = [one for one in batch.steps.answers[0].tolist() if one >= 0]
    return any(bool(hit[batch.steps.answer == one].all()) for one in answers)


def windows(layers: int, width: int) -> Sequence[tuple[int, int]]:
    """Return the first and last layer of the window around each layer, cut at the ends.

    Of an even width it reaches one layer further down (Meng et al. 2022).

    >>> windows(5, 1), windows(4, 4)
    ([(0, 0), (1, 1), (2, 2), (3, 3), (4, 4)], [(0, 1), (0, 2), (0, 3), (1, 3)])
    """
    if not 1 <= width <= layers:
        raise PromptError(
            f"a window of {width} layers does not fit a model of {layers}; accepted: 1 to {layers}."
        )
    reach = width // 2
    return [(max(0, at - reach), min(layers - 1, at - reach + width - 1)) for at in range(layers)]
