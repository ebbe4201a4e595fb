"""What each token of a task's prompts does, and what the named spans do in the mean.

Effects of the tokens that a span names add up to the span's in each prompt; the mean and its 95%
interval are over the prompts that have the span, by template.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...discovery.uncertainty.bootstrap import mean_estimate
from ...experiment.spec import ComputeSpec
from ...graphs.calls.typed import typed
from ...graphs.errors import within_memory
from ...graphs.example_scores import clusters_of
from ...graphs.files.tables.tokens import PromptRow, SpanRow, TokenRow, TokensBlock, TokensFile
from ...patching.prompts.pairs import Pair, PromptPairs
from ...patching.prompts.splits import PromptSplit
from ...patching.prompts.tokens import Tokens
from ...progress import Progress
from ...session import Session, make_runner
from ..found.blocks import circumstances, task_block

if TYPE_CHECKING:
    from ...patching.inputs.tokens import TokenEffects

REST = "rest"
"""What the tokens that no span names are called."""


@typed
@within_memory()
def tokens_found(
    session: Session,
    pairs: PromptPairs,
    *,
    steps: int | None = None,
    metric: str | None = None,
    ablation: str | None = None,
    compute: ComputeSpec | None = None,
    progress: Progress | None = None,
) -> TokensFile:
    """Measure what each token of each clean prompt does, by integrated gradients and exactly.

    Args:
        steps: points of the integral; default `STEPS` of `patching.inputs.tokens`.
        metric: default `logit_diff`; ablation: what a token's embedding is replaced by; default the
            corrupted prompt's.

    Raises:
        EdgewiseError: the metric has no gradient; there is no point.
    """
    from ...patching.inputs.tokens import STEPS, token_effects

    compute, steps = compute or ComputeSpec(), STEPS if steps is None else steps
    runner = make_runner(
        session, pairs, metric=metric, ablation=ablation, batch_size=compute.batch_size
    )
    session.certify(pairs)
    found = token_effects(runner, steps, progress)
    whole = mean_estimate(found.whole, clusters_of(pairs.groups)).numbers
    around = circumstances(session, runner, runner.runs_by)
    measured = TokensBlock(
        metric=runner.metric.name, ablation=runner.ablation.name, steps=steps,
        whole=float(found.whole.mean()), whole_low=whole[1], whole_high=whole[2],
        gap=float(np.abs(found.gap).mean()),
        dtype=str(around["dtype"]), device=str(around["device"]),
    )  # fmt: skip
    known = None if session.loaded.tokenizer is None else Tokens(session.loaded.tokenizer)

    def shown(ids: Sequence[int]) -> list[str]:
        return list(map(str, ids)) if known is None else known.show(ids)

    prompts = [
        PromptRow(
            answers=shown(pair.answers), distractors=shown(pair.distractors),
            group=pair.group or "", whole=float(rise),
        )
        for pair, rise in zip(pairs, found.whole, strict=True)
    ]  # fmt: skip
    tokens = [
        TokenRow(
            prompt=number, position=at, text=text, span=_named(pair).get(at),
            integrated=float(found.integrated[number][at]), exact=float(found.exact[number][at]),
        )
        for number, pair in enumerate(pairs)
        for at, text in enumerate(shown(pair.clean)[: len(found.exact[number])])
    ]  # fmt: skip
    spans = _spans(pairs, found)
    return TokensFile(
        session.model_block, task_block(PromptSplit(pairs)), measured, prompts, spans, tokens
    )


def _named(pair: Pair) -> dict[int, str]:
    """Map positions to the span that names them."""
    return {at: name for name, at in pair.named}


def _spans(pairs: PromptPairs, found: TokenEffects) -> list[SpanRow]:
    names = dict.fromkeys(name for pair in pairs for name, _ in pair.named)
    if not names:
        return []
    clusters, rows = clusters_of(pairs.groups), list[SpanRow]()
    for name in dict.fromkeys([*names, REST]):
        own, integrated, exact = list[int](), list[float](), list[float]()
        for number, pair in enumerate(pairs):
            named = _named(pair)
            tokens = range(len(found.exact[number]))
            places = [at for at in tokens if named.get(at, REST) == name]
            if places:
                own.append(number)
                integrated.append(float(found.integrated[number][places].sum()))
                exact.append(float(found.exact[number][places].sum()))
        if not own:
            continue
        (a, a_low, a_high), (b, b_low, b_high) = (
            mean_estimate(np.array(values), clusters[own]).numbers for values in (integrated, exact)
        )
        rows.append(
            SpanRow(
                span=name, prompts=len(own), integrated=a or 0.0, integrated_low=a_low,
                integrated_high=a_high, exact=b or 0.0, exact_low=b_low, exact_high=b_high,
            )
        )  # fmt: skip
    return rows
