"""Causal tracing: at which layer and token a model has a fact.

    found = trace_facts(session, facts_of_task(session, task).pairs)
    found.file.rows("stream", "last subject")

See `patching.facts.tracing` for what is measured. Means are over prompts, each of which counts
once, and over draws of the noise; the draws of one prompt are others than those of the next, so
that intervals over prompts hold their noise as well. Intervals over the draws alone stand beside.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from ...discovery.uncertainty.bootstrap import faithfulness_estimate, mean_estimate
from ...discovery.uncertainty.draws import noise_interval
from ...graphs.calls.typed import typed
from ...graphs.errors import EdgewiseError, unknown, within_memory
from ...graphs.files.tables.trace import (
    EffectRow,
    MapRow,
    TotalRow,
    TraceBlock,
    TracedPrompt,
    TraceFile,
)
from ...patching.facts.names import KINDS, STREAM, SUBJECT
from ...patching.facts.prompts import LABELS, windows
from ...patching.facts.tracing import (
    DEVIATIONS,
    DRAWS,
    Noise,
    Traced,
    subject_deviation,
    trace_prompt,
)
from ...patching.prompts.pairs import PromptPairs
from ...progress import SILENT, Progress
from ...session import Session
from .prompts import (
    chosen_prompts,
    clusters_of_prompts,
    prompt_texts,
    task_of_prompts,
    wrongly_answered,
)


@typed
@dataclass(frozen=True)
class TraceOptions:
    """What is put back, over how many layers, and how the subject is made unknown.

    `span`: which span of the prompts is the subject. `deviations`: the noise's standard deviation,
    in units of that of the subjects' embeddings. `known`: leave out what the model answers wrongly.
    """

    kinds: tuple[str, ...] = tuple(KINDS)
    window: int = 1
    span: str = SUBJECT
    draws: int = DRAWS
    deviations: float = DEVIATIONS
    noise_seed: int = 0
    known: bool = False


@dataclass(frozen=True, eq=False)
class TraceFound:
    """What was traced, prompt by prompt, with what is written down of it."""

    file: TraceFile
    traced: tuple[Traced, ...] = field(repr=False)
    notes: tuple[str, ...]


@typed
@within_memory()
def trace_facts(
    session: Session,
    pairs: PromptPairs,
    options: TraceOptions | None = None,
    progress: Progress | None = None,
) -> TraceFound:
    """Trace every distinct prompt of pairs whose spans name a subject.

    Raises:
        PromptError: no span is called so; a window does not fit the model; no prompt is known.
        EdgewiseError: no noise, or no kind.
    """
    begun, options, report = time.perf_counter(), options or TraceOptions(), progress or SILENT
    if not options.kinds:
        raise EdgewiseError(f"nothing is to be put back; accepted: {', '.join(KINDS)}.")
    for kind in options.kinds:
        if kind not in KINDS:
            raise unknown("kind", kind, KINDS)
    if not options.deviations > 0:
        raise EdgewiseError(
            f"noise of {options.deviations:g} deviations changes nothing; accepted: above 0."
        )
    windows(len(session.lifted.blocks), options.window)
    prompts, notes = chosen_prompts(
        session, pairs, options.span, known=options.known, progress=progress
    )
    session.certify(pairs)
    own = subject_deviation(session.lifted, prompts)
    noise = Noise(options.deviations * own, options.draws, options.noise_seed)
    traced, count = list[Traced](), len(prompts)
    for number, prompt in enumerate(prompts):

        def done(part: int, of: int, number: int = number) -> None:
            report(number * of + part, count * of, "prompts traced")

        traced.append(
            trace_prompt(
                session.lifted, prompt, noise, options.kinds, window=options.window, progress=done
            )
        )
    how = TraceBlock(
        kinds=list(options.kinds), window=options.window, draws=options.draws,
        deviation=noise.deviation, deviations=options.deviations, noise_seed=options.noise_seed,
        span=options.span, known=options.known, seconds=time.perf_counter() - begun,
        dtype=session.loaded.dtype, device=str(session.device),
    )  # fmt: skip
    texts = [prompt_texts(session, one.prompt) for one in traced]
    rows = [
        TracedPrompt(
            tokens=tokens, subject=list(one.prompt.subject), answer=answer,
            group=one.prompt.pair.group, clean=one.clean, corrupted=float(one.corrupted.mean()),
            right=one.right,
        )
        for one, (tokens, answer) in zip(traced, texts, strict=True)
    ]  # fmt: skip
    file = TraceFile(
        session.model_block, task_of_prompts(pairs, count), how, rows, list(totals(traced)),
        list(effects(traced, options.kinds)), list(_maps(traced, options.kinds)),
    )  # fmt: skip
    return TraceFound(file, tuple(traced), (*notes, *_notes(traced, options)))


def totals(traced: Sequence[Traced]) -> Iterator[TotalRow]:
    """Average the probability of the answer, clean and with the noise, and its fall."""
    draws = len(traced[0].corrupted)
    every = {
        "clean": np.stack([np.full(draws, one.clean) for one in traced]),
        "corrupted": np.stack([one.corrupted for one in traced]),
        "total effect": np.stack([one.total for one in traced]),
    }
    for what, values in every.items():
        p, low, high = mean_estimate(
            values.mean(1), clusters_of_prompts([one.prompt for one in traced])
        ).numbers
        ends = noise_interval(values) or (None, None)
        assert p is not None  # a mean is always there
        yield TotalRow(what=what, p=p, low=low, high=high, noise_low=ends[0], noise_high=ends[1])


def effects(traced: Sequence[Traced], kinds: Sequence[str]) -> Iterator[EffectRow]:
    """Average indirect effects over prompts, by kind, what a token is to the subject, and layer."""
    for kind in kinds:
        for token in LABELS:
            there, values = list[Traced](), list[np.ndarray]()
            for one in traced:
                length = one.restored[kind].shape[1]
                places = [at for at in range(length) if one.prompt.label(at) == token]
                if places:
                    there.append(one)
                    values.append(one.indirect(kind)[:, places].mean(1))  # [L, N]
            if not there:
                continue
            clusters = clusters_of_prompts([one.prompt for one in there])
            total = np.array([one.total.mean() for one in there])
            for layer, of_layer in enumerate(np.stack(values, 1)):  # [prompts, N]
                means = of_layer.mean(1)
                effect, low, high = mean_estimate(means, clusters).numbers
                share = faithfulness_estimate(total, means, np.zeros_like(total), clusters).numbers
                ends = noise_interval(of_layer) or (None, None)
                assert effect is not None  # a mean is always there
                yield EffectRow(
                    kind=kind, token=token, layer=layer, effect=effect, low=low, high=high,
                    noise_low=ends[0], noise_high=ends[1], share=share[0], share_low=share[1],
                    share_high=share[2], prompts=len(there),
                )  # fmt: skip


def _maps(traced: Sequence[Traced], kinds: Sequence[str]) -> Iterator[MapRow]:
    for number, one in enumerate(traced):
        for kind in kinds:
            for at, values in enumerate(one.indirect(kind).mean(-1).T):
                yield MapRow(prompt=number, kind=kind, position=at, effects=values.tolist())


def _notes(traced: Sequence[Traced], options: TraceOptions) -> Iterator[str]:
    """Say what the numbers do not hold."""
    yield from wrongly_answered([one.right for one in traced])
    if options.window > 1 and STREAM in options.kinds:
        yield f"the {STREAM} is put back at one layer; the window is of what is added to it."
    at_end = sum(one.prompt.subject[-1] == one.prompt.last for one in traced)
    if at_end:
        yield (
            f"in {at_end:,} prompts the subject stands last, where the answer is predicted: what "
            "is put back there is both."
        )


def peak(file: TraceFile, kind: str) -> EffectRow:
    """Return the largest mean effect of a kind."""
    return max((row for row in file.effects if row["kind"] == kind), key=lambda row: row["effect"])
