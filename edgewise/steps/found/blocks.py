"""What a circuit's file says of its pairs, of what was measured, and of the time it took."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from ... import __version__
from ...discovery.evaluation import (
    HELD_OUT,
    IN_SAMPLE,
    Evaluation,
)
from ...graphs.calls.typed import typed
from ...graphs.files import CircuitFile
from ...graphs.files.circuit import PROMPTS, TEST_PROMPTS, TaskBlock
from ...patching.engines import about_engine
from ...patching.prompts.pair_files import pair_rows
from ...patching.prompts.pairs import PromptPairs
from ...patching.prompts.splits import PromptSplit
from ...progress import SILENT, Progress
from ...session import Session

if TYPE_CHECKING:
    from ...patching.run.runner import Runner


TIMED_PASSES = 3  # of the original model
MEASURED = (
    *(f"{what}_{of}" for what in ("loss", "value") for of in ("full", "circuit", "empty")),
    "value_complement",
)


@typed
def task_block(pairs: PromptPairs | PromptSplit) -> TaskBlock:
    """Return what a circuit file says of its prompt pairs, and of those that are held out."""
    parted = pairs if isinstance(pairs, PromptSplit) else PromptSplit(pairs)
    pairs, test = parted.discovery, parted.test
    about = {"name": pairs.name, "sha256": pairs.sha256, "examples": len(pairs)}
    more = {"seed": pairs.seed, "bos_prepended": pairs.bos_prepended}
    block: dict[str, object] = {**about, **more, **pairs.origin}
    if test is not None:
        found = {"examples": len(test), "sha256": test.sha256, "seed": parted.seed}
        asked = dict(zip(("examples", "test"), parted.asked, strict=True))
        tokens = {k: v for k, v in test.origin.items() if k == "tokens_sha256"}
        block["test"] = {**found, "asked": asked, "words": parted.words, **tokens}
    elif parted.words:
        block["nothing_held_out"] = parted.words
    return cast("TaskBlock", block)


def prompt_rows(split: PromptSplit) -> dict[str, object]:
    """Return the prompt pairs that a circuit file holds, under their keys."""
    found: dict[str, object] = {PROMPTS: pair_rows(split.discovery)}
    return found if split.test is None else {**found, TEST_PROMPTS: pair_rows(split.test)}


def measures(
    evaluation: Evaluation, held_out: Evaluation | None = None, *, engine: Mapping[str, str]
) -> dict[str, object]:
    """Return what a circuit file says of what was measured, in sample and held out, and by what.

    The keys of older files, beside the two, are ratios of means in sample, whatever their error;
    `undefined` says why they mean nothing, if so.
    """
    keys = (*MEASURED, "faithfulness", "completeness", "edges", "nodes")
    found: dict[str, object] = {key: getattr(evaluation, key) for key in keys}
    found["undefined"] = evaluation.undefined
    for name, one in ((IN_SAMPLE, evaluation), (HELD_OUT, held_out)):
        if one is not None:
            found[name] = measured_block(one)
    return {**found, "engine": dict(engine)}


def with_measures(
    file: CircuitFile,
    evaluation: Evaluation,
    held_out: Evaluation | None = None,
    *,
    engine: Mapping[str, str],
) -> CircuitFile:
    """Return a circuit file with other measures, as of another circuit than it was found with."""
    return replace(file, measures=measures(evaluation, held_out, engine=engine))


def measured_block(evaluation: Evaluation) -> dict[str, object]:
    """Return what a file says of one side of a split; ratios are None where they are undefined.

    `interval` is that of faithfulness.
    """
    found = evaluation.as_dict()
    intervals = dict(found["intervals"])
    block = {"examples": found["examples"], "units": found["units"]}
    block |= {key: found[key] for key in MEASURED}
    block["faithfulness"] = evaluation.estimate("faithfulness").value
    block["interval"] = intervals.pop("faithfulness")
    block["completeness"] = evaluation.estimate("completeness").value
    return {**block, "intervals": intervals} | {
        key: found[key] for key in ("quantiles", "worst_pairs") if key in found
    }


def circumstances(session: Session, runner: Runner, engine: str = "torch") -> dict[str, object]:
    """Return what else numbers and times depend on; `engine`: what computed."""
    import torch
    import transformers

    return {
        "dtype": session.loaded.dtype,
        "device": str(session.device),
        "threads": torch.get_num_threads(),
        "batch_size": runner.batch_size,
        "engine": about_engine(engine),
        "versions": {
            "edgewise": __version__,
            "torch": str(torch.__version__),
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
    }


def forward_seconds(
    session: Session,
    runner: Runner,
    progress: Progress | None = None,
    clock: Callable[[Session], float] | None = None,
) -> float:
    """Time the original model on the clean prompts in the runner's batches; the median pass.

    `clock`: default `now`.
    """
    import torch

    clock, seconds = clock or now, []
    for number in range(1, TIMED_PASSES + 1):
        begun = clock(session)
        with torch.no_grad():
            for chunk in runner.chunks():
                batch = chunk.batch
                how = {"attention_mask": batch.mask.long(), "position_ids": batch.position_ids}
                session.loaded.model(input_ids=batch.clean, **how, use_cache=False)
        seconds.append(clock(session) - begun)
        (progress or SILENT)(number, TIMED_PASSES, "passes of the original model timed")
    return statistics.median(seconds)


def now(session: Session) -> float:
    """Return the time when everything the device was given so far is done."""
    import torch

    if session.device.type == "cuda":
        torch.cuda.synchronize(session.device)
    return time.perf_counter()


def spent(session: Session) -> float:
    """Return what was spent so far: time of processors, which other programs do not lengthen.

    Of a GPU there is no such time; there it is `now`.
    """
    return time.process_time() if session.device.type == "cpu" else now(session)
