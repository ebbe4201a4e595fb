"""Prompts with a subject: of a task, of a file, or one that a user writes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from ...experiment.task import TaskSpec
from ...graphs.calls.typed import typed
from ...graphs.errors import PromptError
from ...graphs.example_scores import clusters_of
from ...patching.facts.names import SUBJECT
from ...patching.facts.prompts import FactPrompt, fact_prompts, right_answers
from ...patching.facts.tracing import clean_run
from ...patching.prompts.answers import WAYS, with_answers
from ...patching.prompts.pairs import Pair, PromptPairs
from ...patching.prompts.tokens import Tokens
from ...patching.run.checks import check_prompts
from ...progress import SILENT, Progress
from ...session import Session, open_task
from ..found.blocks import task_block

if TYPE_CHECKING:
    from ...graphs.files.circuit import TaskBlock

FIRST, WHOLE = WAYS
"""How answers of several tokens are taken: by their first token, unless asked otherwise."""


@dataclass(frozen=True)
class Facts:
    """Prompt pairs whose spans name a subject, and what was done with their answers, in words."""

    pairs: PromptPairs
    notes: tuple[str, ...] = ()


@typed
def facts_of_task(session: Session, task: TaskSpec) -> Facts:
    """Open a task's or file's pairs; answers of several tokens are taken, by their first if unsaid.

    Raises:
        PromptError, UnknownName: as `open_task`.
    """
    if task.answers is not None:
        return Facts(open_task(session, task)[0])
    pairs = open_task(session, task.but(answers=WHOLE) if task.file else task)[0]
    if not task.file:
        return Facts(pairs)
    longer = sum(pair.spelled is not None for pair in pairs)
    origin = {key: value for key, value in pairs.origin.items() if key != "answers"}
    alone = tuple(replace(pair, spelled=None) for pair in pairs)
    pairs = replace(pairs, pairs=alone, origin=origin | ({"answers": FIRST} if longer else {}))
    said = f"of {longer} answers of several tokens the first token is taken."
    return Facts(pairs, (said,) if longer else ())


@typed
@torch.no_grad()
def fact_of_text(
    session: Session,
    prompt: str,
    subject: str,
    answer: str | None = None,
    *,
    answers: str | None = None,
    bos: bool | None = None,
) -> Facts:
    """Make the one pair of a prompt that a user writes; every mention of the subject counts.

    `answer`: default, what the model says; a space before it belongs to it. `answers`: how one of
    several tokens is taken.

    Raises:
        PromptError: the subject is not in the prompt; the model has no tokenizer.
    """
    if session.loaded.tokenizer is None:
        raise PromptError(
            "a prompt of text needs the model's tokenizer, and this model has none; accepted: a "
            "file of pairs of token ids with spans."
        )
    tokens = Tokens(session.loaded.tokenizer, bos)
    mentions = [one.span() for one in re.finditer(re.escape(subject), prompt)] if subject else []
    if not mentions:
        raise PromptError(
            f"the subject {subject!r} is not in the prompt {prompt!r}; accepted: a part of the "
            "prompt, letter by letter."
        )
    (ids,), (offsets,) = tokens.prompts([prompt]), tokens.offsets([prompt])
    first = len(tokens.prefix)
    places = sorted(
        {
            first + at
            for at, (start, stop) in enumerate(offsets or ())
            for begin, end in mentions
            if start < end and begin < stop
        }
    )
    if not places:
        raise PromptError(
            f"the tokenizer does not tell which tokens of {prompt!r} are its subject's; accepted: "
            'a file of pairs with spans, such as "spans": {"subject": [1, 2]}.'
        )
    last, notes = tokens.last(ids), list[str]()
    spans = tuple((SUBJECT, at) for at in places if at <= last)
    pair = Pair(ids, None, (0,), (), last, spans=spans)
    if answer is None:
        own = PromptPairs((pair,), name="prompt")
        check_prompts(session.lifted, own)
        final = clean_run(session.lifted, fact_prompts(session.lifted, own)[0]).final[0, last]
        best = int(session.lifted.logits(final).argmax())
        pair = replace(pair, answers=(best,))
        notes.append(f"the answer is what the model says, {tokens.show([best])[0]!r}.")
    else:
        ids_of = tokens.answer(prompt, answer)
        if not ids_of:
            raise PromptError("the answer is empty; accepted: a text, such as ' Paris'.")
        if len(ids_of) > 1 and answers != WHOLE:
            shown = " + ".join(map(repr, tokens.show(ids_of)))
            notes.append(f"the answer has several tokens ({shown}); the first is taken.")
        pair = with_answers(pair, [ids_of], [], answers or FIRST, lambda x: tokens.text(list(x)))
    made = PromptPairs((pair,), name="prompt", bos_prepended=tokens.begins(ids))
    return Facts(made, tuple(notes))


@typed
def chosen_prompts(
    session: Session,
    pairs: PromptPairs,
    span: str,
    *,
    known: bool,
    progress: Progress | None = None,
) -> tuple[tuple[FactPrompt, ...], tuple[str, ...]]:
    """Return the distinct prompts, and notes; `known`: those alone that are answered rightly.

    Raises:
        PromptError: no prompt is left, or a span is missing; see `fact_prompts`.
    """
    report, lifted = progress or SILENT, session.lifted
    check_prompts(lifted, pairs)
    every = fact_prompts(lifted, pairs, span)
    notes, kept = list[str](), every
    if len(every) < len(pairs):
        notes.append(
            f"{len(pairs):,} pairs have {len(every):,} distinct prompts; each counts once."
        )
    if known:
        found = []
        for number, prompt in enumerate(every, start=1):
            if right_answers(lifted, prompt.batch_on(lifted), clean_run(lifted, prompt).final):
                found.append(prompt)
            report(number, len(every), "prompts answered")
        kept = tuple(found)
        notes.append(f"{len(kept):,} of {len(every):,} prompts are answered rightly, and kept.")
    if not kept:
        raise PromptError(
            f"the model answers none of the {len(every):,} prompts of '{pairs.name}' rightly, so "
            "that none is left; accepted: prompts it knows, or all of them, without `known`."
        )
    return kept, tuple(notes)


def task_of_prompts(pairs: PromptPairs, count: int) -> TaskBlock:
    """Return what is said of the pairs, of which so many distinct prompts were measured."""
    return cast("TaskBlock", {**task_block(pairs), "examples": count})


def clusters_of_prompts(prompts: Sequence[FactPrompt]) -> np.ndarray:
    """Return the cluster of each prompt, by its group."""
    return clusters_of([one.pair.group for one in prompts])


def wrongly_answered(right: Sequence[bool]) -> tuple[str, ...]:
    """Say how many prompts the model answers wrongly, if any."""
    wrong = sum(not one for one in right)
    return (f"{wrong:,} of {len(right):,} prompts are not answered rightly.",) if wrong else ()


def prompt_texts(session: Session, prompt: FactPrompt) -> tuple[list[str], str]:
    """Return a prompt's tokens, up to where its answer is predicted, and its answers, as text."""
    ids = prompt.pair.clean[: prompt.last + 1]
    right = prompt.pair.sequences[0]
    if session.loaded.tokenizer is None:
        return [str(one) for one in ids], " | ".join(" ".join(map(str, one)) for one in right)
    tokens = Tokens(session.loaded.tokenizer)
    return tokens.show(ids), " | ".join(tokens.text(list(one)) for one in right)
