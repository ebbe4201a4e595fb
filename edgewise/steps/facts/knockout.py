"""Attention knockout: what the last token has to read, from where, and in which layers.

    found = knock_out_facts(session, facts_of_task(session, task).pairs)
    found.file.curve("last subject")[23]["change"]

See `patching.facts.knockout` for what is cut. `change` is the mean over prompts of the relative
change of the answer's probability in each (Geva et al. 2023), `p` the mean probability.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from ...discovery.uncertainty.bootstrap import mean_estimate
from ...graphs.calls.typed import typed
from ...graphs.errors import within_memory
from ...graphs.files.tables.knockout import (
    AttributeRow,
    CurveRow,
    CutPrompt,
    CutRow,
    KnockoutBlock,
    KnockoutFile,
)
from ...patching.facts.attributes import TOP
from ...patching.facts.knockout import Knocked, knock_out
from ...patching.facts.names import FIRST, LAST, SUBJECT, USUAL
from ...patching.facts.prompts import windows
from ...patching.prompts.pairs import PromptPairs
from ...progress import SILENT, Progress
from ...session import Session
from .attributes import attribute_rows, read_attributes
from .prompts import (
    chosen_prompts,
    clusters_of_prompts,
    prompt_texts,
    task_of_prompts,
    wrongly_answered,
)


@typed
@dataclass(frozen=True)
class KnockoutOptions:
    """Which attention is cut: from spans to a span, over how many layers.

    `span`: which span of the prompts is the subject. `known`: leave out what the model answers
    wrongly. `attributes`: a file of the subjects' attributes; `top`: among how many tokens they are
    looked for.
    """

    sources: tuple[str, ...] = USUAL
    to: str = LAST
    window: int = 1
    span: str = SUBJECT
    known: bool = False
    attributes: str | None = None
    top: int = TOP


@dataclass(frozen=True, eq=False)
class KnockoutFound:
    """What was cut, prompt by prompt, with what is written down of it."""

    file: KnockoutFile
    knocked: tuple[Knocked, ...] = field(repr=False)
    notes: tuple[str, ...]


@typed
@within_memory()
def knock_out_facts(
    session: Session,
    pairs: PromptPairs,
    options: KnockoutOptions | None = None,
    progress: Progress | None = None,
) -> KnockoutFound:
    """Cut attention in every distinct prompt of pairs whose spans name a subject.

    Raises:
        UnsupportedModel: the model has no attention heads.
        PromptError: no span is called so; a window does not fit the model; no prompt is known; the
            attributes cannot be read, or are of no subject.
        EdgewiseError: a token would see nothing at all.
    """
    begun, options, report = time.perf_counter(), options or KnockoutOptions(), progress or SILENT
    windows(len(session.lifted.blocks), options.window)
    attributes = None if options.attributes is None else read_attributes(options.attributes)
    prompts, notes = chosen_prompts(
        session, pairs, options.span, known=options.known, progress=progress
    )
    session.certify(pairs)
    knocked = list[Knocked]()
    for number, prompt in enumerate(prompts, start=1):
        knocked.append(
            knock_out(session.lifted, prompt, options.sources, to=options.to, window=options.window)
        )
        report(number, len(prompts), "prompts cut")
    rates, more = list[AttributeRow](), tuple[str, ...]()
    if attributes is not None:
        rates, more = attribute_rows(session, prompts, attributes, options.top)
    how = KnockoutBlock(
        sources=list(options.sources), to=options.to, window=options.window, span=options.span,
        known=options.known, seconds=time.perf_counter() - begun, dtype=session.loaded.dtype,
        device=str(session.device),
    )  # fmt: skip
    if options.attributes is not None:
        how["attributes"], how["top"] = options.attributes, options.top
    texts = [prompt_texts(session, one.prompt) for one in knocked]
    rows = [
        CutPrompt(
            tokens=tokens, subject=list(one.prompt.subject), answer=answer,
            group=one.prompt.pair.group, clean=one.clean, right=one.right,
        )
        for one, (tokens, answer) in zip(knocked, texts, strict=True)
    ]  # fmt: skip
    file = KnockoutFile(
        session.model_block, task_of_prompts(pairs, len(knocked)), how, rows,
        list(cuts(knocked, options.sources)), list(_curves(knocked)), rates,
    )  # fmt: skip
    return KnockoutFound(file, tuple(knocked), (*notes, *_notes(session, knocked, options), *more))


def cuts(knocked: Sequence[Knocked], sources: Sequence[str]) -> Iterator[CutRow]:
    """Average what cutting from each span does, over the prompts that have it."""
    for source in sources:
        there = [one for one in knocked if source in one.cut]
        if not there:
            continue
        clusters = clusters_of_prompts([one.prompt for one in there])
        clean = np.array([one.clean for one in there])
        each = np.stack([one.cut[source] for one in there])  # [prompts, L + 1]
        for layer, values in enumerate(each.T):
            p, low, high = mean_estimate(values, clusters).numbers
            change = mean_estimate(values / clean - 1, clusters).numbers
            assert p is not None and change[0] is not None  # means are always there
            yield CutRow(
                {
                    "from": source,
                    "layer": layer if layer < len(each.T) - 1 else None,
                    "p": p,
                    "low": low,
                    "high": high,
                    "change": change[0],
                    "change_low": change[1],
                    "change_high": change[2],
                    "prompts": len(there),
                }
            )


def _curves(knocked: Sequence[Knocked]) -> Iterator[CurveRow]:
    for number, one in enumerate(knocked):
        for source, values in one.cut.items():
            *by_layer, every = values.tolist()
            yield CurveRow({"prompt": number, "from": source, "p": by_layer, "all": every})


def _notes(session: Session, knocked: Sequence[Knocked], options: KnockoutOptions) -> Iterator[str]:
    """Say what the numbers do not hold."""
    count = len(knocked)
    yield from wrongly_answered([one.right for one in knocked])
    for source in options.sources:
        if without := sum(source not in one.cut for one in knocked):
            yield f"{without:,} of {count:,} prompts have no token '{source}' to cut from."
    if starts := sum(0 in one.prompt.subject for one in knocked):
        yield (
            f"in {starts:,} prompts the subject begins with the first token, which is cut as "
            f"'{FIRST}' alone."
        )
    graph, layers = session.graph, range(len(session.lifted.blocks))
    if headless := [layer for layer in layers if not graph.heads_of(layer)]:
        yield f"{len(headless)} layers have no attention heads; nothing is cut in them."


def strongest(file: KnockoutFile, source: str) -> CutRow:
    """Return the window around which cutting from a span lowers the probability most."""
    return min(file.curve(source), key=lambda row: row["change"])
