"""Whether prompt pairs fit a model and a metric; what does not is refused in words."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ...graphs.errors import PromptError
from ..metrics.metric import named
from ..prompts.pairs import STANDS_FOR

if TYPE_CHECKING:
    from ...graphs.lift.lifted import LiftedModel
    from ..metrics.metric import Metric
    from ..prompts.pairs import PromptPairs


def check_prompts(model: LiftedModel, pairs: PromptPairs) -> None:
    """Refuse prompts that are too long, or hold ids the model has not."""
    vocabulary, outputs = len(model.tokens), len(model.unembed.weight)
    images: frozenset[int] = getattr(model.model, "placeholders", frozenset())
    for number, pair in enumerate(pairs, start=1):
        which, ids = f"pair {number} of '{pairs.name}'", (*pair.clean, *pair.twin)
        answers = [token for many in pair.sequences for one in many for token in one]
        if vocabulary == outputs:
            ids += tuple(answers)
        elif (last := max(answers)) >= outputs:
            found = f"{which} has answer or distractor id {last}"
            raise PromptError(f"{found}; the model has logits 0 to {outputs - 1}.")
        if not 0 <= min(ids) <= max(ids) < vocabulary:
            raise PromptError(
                f"{which} holds token id {max(ids)}; the model's vocabulary has ids 0 to "
                f"{vocabulary - 1}. The prompts were made for another tokenizer."
            )
        if stands := images.intersection(ids):
            raise PromptError(f"{which} holds the token {min(stands)}, {STANDS_FOR}")
        if model.max_positions is not None and pair.longest > model.max_positions:
            found = f"{which} has {pair.longest} tokens"
            found += "" if pair.spelled is None else " with its answers"
            raise PromptError(f"{found}; the model takes at most {model.max_positions}.")
        if pair.spelled is not None and not model.causal:
            raise PromptError(
                f"{which} has answers of several tokens, each read behind its own first ones, and "
                "this model's tokens attend to those behind them too; accepted: answers of one "
                "token, or `answers` first."
            )


def check_metric(pairs: PromptPairs, metric: Metric) -> None:
    """Refuse prompts that lack what a metric needs, or answers that it cannot read."""
    spelled = any(pair.spelled is not None for pair in pairs)
    alone = next((i for i, pair in enumerate(pairs, start=1) if not pair.distractors), 0)

    def check_distractors() -> None:
        if metric.needs_distractors and alone:
            free = named(lambda one: not one.needs_distractors and bool(one.whole or not spelled))
            raise PromptError(
                f"metric '{metric.name}' compares answers with distractors, and pair {alone} of "
                f"'{pairs.name}' has no distractor; add some, or use a metric that needs none: "
                f"{free}."
            )

    all_at_once(check_distractors, lambda: metric.for_whole() if spelled else None)


def all_at_once(*checks: Callable[[], object]) -> None:
    """Make all checks; refuse what any of them refuses, all of it in one error."""
    problems = []
    for check in checks:
        try:
            check()
        except PromptError as error:
            problems.append(str(error))
    if problems:
        raise PromptError(" Besides, ".join(problems))
