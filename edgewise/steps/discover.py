"""Discovery as one step: score or search, select, measure, note everything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from ..experiment.asking import Request, request
from ..experiment.spec import Selection, Start
from ..graphs.errors import DriftError, EdgewiseError, within_memory
from ..session import Progress, Session, make_runner
from .stored import prompts_blocks

if TYPE_CHECKING:
    from ..discovery.evaluation import Evaluation
    from ..discovery.registry import Discovery
    from ..graphs.circuit import Circuit
    from ..graphs.files import CircuitFile, ScoresFile
    from ..graphs.files.circuit import DiscoveryBlock, TaskBlock
    from ..graphs.scores import Scores
    from ..patching.prompts.pairs import PromptPairs
    from ..patching.run.runner import Runner
    from ..store.journal import JournalFile

TIMED_PASSES = 3
"""How often the original model's forward pass is timed."""


@dataclass(frozen=True, eq=False)
class Found:
    """Hold a discovery: the circuit with where it is from, all scores, and what was measured."""

    file: CircuitFile
    scores: ScoresFile
    evaluation: Evaluation


@within_memory()
def discover(
    session: Session,
    pairs: PromptPairs,
    *,
    method: str,
    metric: str | None = None,
    ablation: str = "resample",
    batch_size: int | None = None,
    options: Mapping[str, Any] | None = None,
    select: Selection | None = None,
    start: Start | None = None,
    progress: Progress | None = None,
    journal: JournalFile | None = None,
    allow_empty: bool = False,
) -> Found:
    """Find a circuit, measure it, and note everything that led to it.

    Args:
        session, pairs: the model and the prompt pairs.
        method: a name from `discovery.registry.methods()`.
        metric: default `kl` for methods that search, `logit_diff` for those that score.
        ablation: what ablated edges carry.
        batch_size: examples run at once; default: as many as fit.
        options: the method's own.
        select: of a scoring method, which edges are kept; default: all, with their scores.
        start: scores that the method `refine` starts from; default: its own.
        progress: told what is done.
        journal: where a method that can be resumed writes what it has decided (others leave it
            alone); the caller removes it when the result is safe.
        allow_empty: give a circuit without edges, in place of an error, where none is kept.

    Raises:
        EdgewiseError: the request makes no sense, or no edge would be kept, or the journal is of
            another request; says what to do.
        DriftError: the search's loss is not the circuit's.
    """
    from ..discovery.evaluation import evaluate as measure
    from ..discovery.registry import get_method
    from ..graphs.files import CircuitFile, ScoresFile
    from ..graphs.files.circuit import PROMPTS

    asked = request(
        method, metric=metric, ablation=ablation, options=options, select=select, start=start
    )
    runner = make_runner(
        session, pairs, metric=asked.metric, ablation=ablation, batch_size=batch_size
    )
    _check_size(asked.select, runner)
    chosen, before = get_method(method), 0.0
    journal = journal if chosen.resumable else None
    if journal is not None:
        journal.begin(journal_request(session, runner, asked))
        before = journal.seconds
    begun = _now(session)
    try:
        scores = None if start is None else start.scores
        found = chosen(runner, progress, journal, scores, **asked.options)
    finally:
        if journal is not None:
            journal.close()
    seconds = before + _now(session) - begun
    circuit = found.circuit
    if circuit is None:
        circuit = selected(runner, found.scores, asked.select, progress)
    evaluation = measure(runner, circuit)
    try:
        check_drift(found, evaluation, session.loaded.dtype)
        if not allow_empty:
            _refuse_empty(circuit, asked, found.scores, evaluation)
    except EdgewiseError:
        if journal is not None:
            journal.remove()  # going on from it would end here again
        raise
    prompts, rows = prompts_blocks(pairs)
    file = CircuitFile(
        circuit=circuit,
        model=session.model_block,
        task=task_block(pairs),
        discovery=cast(
            "DiscoveryBlock",
            {
                "method": method,
                **asked.options,
                **asked.select.as_dict(),
                **({} if start is None else {"start": start.about}),
                "metric": asked.metric,
                "ablation": ablation,
                "order": found.order,
                "seconds": seconds,
                "questions": found.questions,
                "prompts": prompts,
                **found.notes,
                "forward_equivalents": seconds / forward_seconds(session, runner, progress),
                **circumstances(session, runner),
            },
        ),
        certificate=session.certificate.as_dict(),
        measures=measures(evaluation),
        edge_scores=found.scores.values,
        extra={PROMPTS: rows},
    )
    beside = ScoresFile(found.scores, method, asked.metric, ablation)
    return Found(file, beside, evaluation)


def journal_request(session: Session, runner: Runner, asked: Request) -> dict[str, Any]:
    """Return everything that a walk's decisions, and the last digits of its numbers, depend on."""
    import torch

    around = circumstances(session, runner)
    versions = around.pop("versions")
    return {
        "method": asked.method,
        **asked.options,
        "metric": asked.metric,
        "ablation": asked.ablation,
        "weights_sha256": session.model_block["weights_sha256"],
        "family": session.lifted.family,
        "graph": repr(runner.graph),
        "pairs_sha256": runner.pairs.sha256,
        **around,
        "processor": torch.backends.cpu.get_cpu_capability(),
        **{name: versions[name] for name in ("edgewise", "torch", "transformers")},
    }


DRIFT = {"float16": 0.02, "bfloat16": 0.1}
"""How far the search's loss may be from the circuit's, in parts of one plus the largest loss."""


def check_drift(found: Discovery, evaluation: Evaluation, dtype: str) -> None:
    """Refuse a circuit whose loss is not what the search took it for.

    Raises:
        DriftError: both losses, and how far apart they may be.
    """
    if "loss_search" not in found.notes:
        return
    searched, measured = found.notes["loss_search"], evaluation.loss_circuit
    losses = (evaluation.loss_full, evaluation.loss_empty, measured)
    allowed = DRIFT.get(dtype, 1e-4) * (1 + max(map(abs, losses)))
    if not abs(searched - measured) <= allowed:
        raise DriftError(
            f"the search ended at a loss of {searched:.6g}, but the circuit it found measures "
            f"{measured:.6g} when it is run as a whole; in {dtype} they may differ by "
            f"{allowed:.2g}. The search's numbers have drifted, so its decisions cannot be trusted "
            "and no circuit is written. Use a wider --dtype; if it is float32 already, please "
            "report this."
        )


def selected(
    runner: Runner, scores: Scores, select: Selection, progress: Progress | None = None
) -> Circuit:
    """Return the circuit a selection makes of scores; without one, every edge.

    Raises:
        EdgewiseError: full and empty circuit measure the same, so there is no faithfulness.
    """
    from ..discovery.evaluation import smallest_faithful
    from ..graphs.circuit import Circuit

    absolute = not select.signed
    if select.top is not None:
        return scores.top(select.top, absolute=absolute)
    if select.above is not None:
        return scores.above(select.above, absolute=absolute)
    if select.faithfulness is None:
        return Circuit.full(scores.graph)
    return smallest_faithful(runner, scores, select.faithfulness, progress, absolute=absolute)


def task_block(pairs: PromptPairs) -> TaskBlock:
    """Return what a circuit file says of its prompt pairs."""
    block = {
        "name": pairs.name,
        "sha256": pairs.sha256,
        "examples": len(pairs),
        "seed": pairs.seed,
        "bos_prepended": pairs.bos_prepended,
        **pairs.origin,
    }
    return cast("TaskBlock", block)


def measures(evaluation: Evaluation) -> dict[str, Any]:
    """Return what a circuit file says of what was measured."""
    names = ("full", "circuit", "empty")
    keys = [f"{what}_{name}" for what in ("loss", "value") for name in names]
    keys += ["value_complement", "faithfulness", "completeness", "edges", "nodes"]
    return {key: getattr(evaluation, key) for key in keys}


def forward_seconds(session: Session, runner: Runner, progress: Progress | None = None) -> float:
    """Time the original model on the clean prompts in the runner's batches; the median pass."""
    import statistics

    import torch

    model = session.loaded.model
    seconds = []
    for number in range(TIMED_PASSES):
        if progress is not None:
            progress(number, TIMED_PASSES, "passes of the original model timed")
        start = _now(session)
        with torch.no_grad():
            for chunk in runner.chunks():
                batch = chunk.batch
                model(
                    input_ids=batch.clean,
                    attention_mask=batch.mask.long(),
                    position_ids=batch.position_ids,
                    use_cache=False,
                )
        seconds.append(_now(session) - start)
    if progress is not None:
        progress(TIMED_PASSES, TIMED_PASSES, "passes of the original model timed")
    return statistics.median(seconds)


# -- steps ---------------------------------------------------------------------------------------


def _now(session: Session) -> float:
    """Return the time when everything asked of the device so far is done."""
    import time

    import torch

    if session.device.type == "cuda":
        torch.cuda.synchronize(session.device)
    return time.perf_counter()


def _check_size(select: Selection, runner: Runner) -> None:
    """Refuse to select more edges than there are."""
    total = runner.graph.edge_count
    if select.top is not None and select.top > total:
        raise EdgewiseError(
            f"top is {select.top:,}, but the model's graph has {total:,} edges; accepted: 1 to "
            f"{total:,}."
        )


def _refuse_empty(circuit: Circuit, asked: Request, scores: Scores, evaluation: Evaluation) -> None:
    """Refuse a circuit without edges, with what a smaller threshold would have to undercut."""
    if len(circuit):
        return
    if asked.select.above is not None:
        import numpy as np

        signed = asked.select.signed
        largest = float(np.nanmax(scores.values if signed else np.abs(scores.values)))
        raise EdgewiseError(
            f"above {asked.select.above:g} keeps no edge: the largest "
            f"{'score' if signed else '|score|'} is {largest:.4g}; "
            "choose a smaller value, or select by top or faithfulness."
        )
    if "threshold" not in asked.options:
        raise EdgewiseError(
            f"method '{asked.method}' keeps no edge: those left had no way from the embedding to "
            "the logits; ask for more edges."
        )
    rise = evaluation.loss_empty - evaluation.loss_full
    raise EdgewiseError(
        f"method '{asked.method}' with threshold {asked.options.get('threshold', 0):g} keeps no "
        f"edge: without any edge the loss ({asked.metric}) is only {rise:.4g} above the full "
        "model's; choose a smaller threshold."
    )


def circumstances(session: Session, runner: Runner) -> dict[str, Any]:
    """Return what else numbers and times depend on."""
    import platform

    import torch
    import transformers

    from .. import __version__

    return {
        "dtype": session.loaded.dtype,
        "device": str(session.device),
        "threads": torch.get_num_threads(),
        "batch_size": runner.batch_size,
        "versions": {
            "edgewise": __version__,
            "torch": str(torch.__version__),
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
    }
