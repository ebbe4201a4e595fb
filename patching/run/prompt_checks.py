"""Do prompt pairs fit a model and a metric?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...graphs.errors import PromptError

if TYPE_CHECKING:
    from ...graphs.lift.lifted import LiftedModel
    from ..metrics.metric import Metric
    from ..prompts.pairs import PromptPairs


def check_prompts(model: LiftedModel, pairs: PromptPairs, metric: Metric | None = None) -> None:
    """Refuse prompts that are too long, hold ids the model has not, or lack what a metric needs."""
    vocabulary, outputs = len(model.tokens), len(model.unembed.weight)
    for number, pair in enumerate(pairs, start=1):
        which, ids = f"pair {number} of '{pairs.name}'", (*pair.clean, *pair.corrupted)
        if vocabulary == outputs:
            ids += (*pair.answers, *pair.distractors)
        elif (last := max(pair.answers + pair.distractors)) >= outputs:
            found = f"{which} has answer or distractor id {last}"
            raise PromptError(f"{found}; the model has logits 0 to {outputs - 1}.")
        if not 0 <= min(ids) <= max(ids) < vocabulary:
            raise PromptError(
                f"{which} holds token id {max(ids)}; the model's vocabulary has ids 0 to "
                f"{vocabulary - 1}. The prompts were made for another tokenizer."
            )
        if model.max_positions is not None and len(pair.clean) > model.max_positions:
            found = f"{which} has {len(pair.clean)} tokens"
            raise PromptError(f"{found}; the model takes at most {model.max_positions}.")
        if metric is not None and metric.needs_distractors and not pair.distractors:
            raise PromptError(
                f"metric '{metric.name}' compares answers with distractors, and {which} has no "
                "distractor; add some, or use a metric that needs none."
            )
