"""Discovery as one step: score or search, select, measure, note everything."""

from __future__ import annotations

import platform
import statistics
import time
import warnings
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from .. import __version__
from ..discovery.evaluation import (
    HELD_OUT,
    IN_SAMPLE,
    Evaluation,
    fitted_to_its_prompts,
    measure,
    smallest_faithful,
)
from ..discovery.meaning import (
    Meaningless,
    Ties,
    doubts_of_selection,
    doubts_of_size,
    ties,
)
from ..discovery.registry import Discovery
from ..discovery.uncertainty.cross_fit import Fitted, fewest
from ..discovery.uncertainty.stability import (
    EdgeRule,
    Stability,
    stability,
    stable,
    stable_jaccard,
)
from ..experiment.key import Key, digest, key_of
from ..experiment.parts import split
from ..experiment.spec import ComputeSpec, DiscoverySpec, Experiment, GraphSpec, Selection
from ..graphs.calls.typed import typed
from ..graphs.circuit import Circuit
from ..graphs.errors import DriftError, EdgewiseError, PromptError, within_memory
from ..graphs.files import CircuitFile, ExampleScoresFile, ScoresFile
from ..graphs.files.circuit import PROMPTS, TEST_PROMPTS, DiscoveryBlock, TaskBlock
from ..graphs.files.stability import EXAMPLES, GROUPS, EdgeStability
from ..graphs.files.stability import KEY as STABILITY
from ..patching.metrics.functions import is_traceable
from ..patching.prompts.pair_files import pair_rows
from ..patching.prompts.pairs import PromptPairs
from ..patching.prompts.splits import PromptSplit
from ..progress import SILENT, Progress
from ..session import Session, make_runner, open_model
from ..store.journal import JournalFile
from .stored import experiment_split

if TYPE_CHECKING:
    from ..patching.run.runner import Runner

TIMED_PASSES = 3  # of the original model


@typed
@dataclass(frozen=True, eq=False)
class Found:
    """A discovery: the circuit with where it is from, all scores, and what was measured.

    `evaluation`: on the pairs it was found on. `held_out`: on others, if there are any.
    `examples`: the scores on each example, if the request asks for them.
    """

    file: CircuitFile
    scores: ScoresFile
    evaluation: Evaluation
    examples: ExampleScoresFile | None = None
    held_out: Evaluation | None = None

    def __repr__(self) -> str:
        """Say what was found and how well it does, on one line."""
        best = self.held_out or self.evaluation
        where = "in sample" if self.held_out is None else "held out"
        value = best.estimate("faithfulness").value
        f = "undefined" if value is None else f"{value:.3f}"
        method, metric = (self.file.discovery[key] for key in ("method", "metric"))
        return f"Found({self.file.circuit!r}, {method}, {metric}, faithfulness {f} {where})"

    @property
    def gap(self) -> str | None:
        """Say how far it does otherwise on other prompts than on its own, if beyond chance."""
        other = self.held_out
        return None if other is None else fitted_to_its_prompts(self.evaluation, other)


@typed
@within_memory()
def discover(
    session: Session | Experiment,
    pairs: PromptPairs | PromptSplit | None = None,
    spec: DiscoverySpec | None = None,
    compute: ComputeSpec | None = None,
    *,
    progress: Progress | None = None,
    journal: JournalFile | None = None,
    allow_empty: bool = False,
    **fields: Any,
) -> Found:
    """Find a circuit, measure it, and note everything that led to it.

    Args:
        session, pairs: the model and the prompt pairs, or those with others that are held out, as
            `open_split` gives them; or instead of all else an experiment, whose first model is
            opened.
        spec, compute: how circuits are found, and the batch size.
        journal: where a method that can be resumed writes what it has decided; the caller removes
            it when the result is safe.
        allow_empty: return a circuit even where no edge is kept.
        fields: of `DiscoverySpec` and `ComputeSpec`, as in `method="eap-ig", batch_size=8`.

    Raises:
        EdgewiseError: the request makes no sense, no edge would be kept, or the journal is of
            another request.
        DriftError: the search's loss is not the circuit's.
    """
    own, how = split("discover", fields, DiscoverySpec, ComputeSpec)
    if isinstance(session, Experiment):
        experiment, spec, compute = session, session.discovery, session.compute
        session = open_model(experiment.base.source, experiment.graph, compute, progress=progress)
        pairs = experiment_split(experiment, session)
    if pairs is None:
        raise EdgewiseError(
            "discover is given no prompt pairs; accepted: those of open_task or open_split."
        )
    parted = pairs if isinstance(pairs, PromptSplit) else PromptSplit(pairs)
    pairs = parted.discovery
    spec = DiscoverySpec.usual(**own) if spec is None else spec.but(**own)
    compute = (compute or ComputeSpec()).but(**how)
    runner = make_runner(
        session, pairs, metric=spec.metric, ablation=spec.ablation, batch_size=compute.batch_size
    )
    tester = None if parted.test is None else held_out_runner(session, parted, runner)
    total, top = runner.graph.edge_count, spec.select.top
    if top is not None and top > total:
        raise EdgewiseError(
            f"top is {top:,}, but the model's graph has {total:,} edges; accepted: 1 to {total:,}."
        )
    certificate = session.certify(pairs)
    journal, before = _usable(journal, spec), 0.0
    if journal is not None:
        journal.begin(discovery_key(session, runner, spec).values)
        before = journal.seconds
    begun = _now(session)
    start = None if spec.start is None else spec.start.on(runner.graph, session.lifted.d_model)
    with nullcontext() if journal is None else closing(journal), warnings.catch_warnings():
        warnings.simplefilter("ignore", Meaningless)  # said below
        found = spec.chosen(
            runner, progress, journal, start,
            per_example=spec.by_example, **spec.options,
        )  # fmt: skip
    seconds = before + _now(session) - begun
    kept, tied, doubts = _chosen(runner, found, spec.select, progress)
    circuit = kept.circuit
    evaluation = measure(runner, circuit)
    try:
        check_drift(found, evaluation, session.loaded.dtype)
        if not allow_empty:
            _refuse_meaningless(circuit, spec, found, evaluation, runner.floor)
    except EdgewiseError:
        if journal is not None:
            journal.remove()  # going on from it would end here again
        raise
    held_out = None if tester is None else measure(tester, circuit)
    if spec.select.way in ("faithfulness", "target"):  # a size that was chosen to reach something
        reached = (held_out or evaluation).estimate("faithfulness").value
        doubts += doubts_of_size(reached, len(circuit), circuit.graph.edge_count)
    for words in doubts:
        warnings.warn(words, stacklevel=1)  # this module, so that the command line shows it
    file = CircuitFile(
        circuit=circuit,
        model=session.model_block,
        task=task_block(parted),
        discovery=cast(
            "DiscoveryBlock",
            {
                **spec.block,
                "order": found.order,
                "seconds": seconds,
                "questions": found.questions,
                "prompts": {"where": "inline", "sha256": pairs.sha256},
                **found.notes,
                **({} if tied is None else {"ties": tied.as_dict()}),
                **({} if kept.fitted is None else {"fitted": kept.fitted.as_dict()}),
                "forward_equivalents": seconds / forward_seconds(session, runner, progress),
                **circumstances(session, runner),
            },
        ),
        certificate=certificate.as_dict(),
        measures=measures(evaluation, held_out),
        edge_scores=found.scores.values,
        extra={**prompt_rows(parted), **_stability_block(kept, found, spec.select)},
    )
    scores = ScoresFile(found.scores, spec.method, spec.metric, spec.ablation)
    examples = None
    if spec.per_example and found.examples is not None:
        examples = ExampleScoresFile(
            found.examples, spec.method, spec.metric, spec.ablation, pairs.sha256
        )
    return Found(file, scores, evaluation, examples, held_out)


def _stability_block(kept: Selected, found: Discovery, select: Selection) -> dict[str, object]:
    """Return what a circuit file says of how stable its edges are."""
    resample = kept.stability
    if resample is None or found.examples is None or kept.rule is None:
        return {}
    alike = None
    if select.stable is not None:
        alike = stable_jaccard(found.examples, kept.rule, select.stable)
    return {
        STABILITY: EdgeStability(
            kept.circuit,
            resample.by_edge,
            resample.resamples,
            resample.examples,
            resample.clusters,
            GROUPS if resample.drawn < resample.examples else EXAMPLES,
            resample.jaccard,
            kept.selected,
            select.stable,
            alike,
        ).block
    }


def _usable(journal: JournalFile | None, spec: DiscoverySpec) -> JournalFile | None:
    """Return a journal if decisions by this request can be noted in it."""
    if journal is None or not spec.chosen.resumable:
        return None
    if is_traceable(spec.metric):
        return journal
    if journal.resumes:
        raise EdgewiseError(
            f"a search by the metric '{spec.metric}' cannot be resumed: it is a Python "
            "function that uses something whose source or value cannot be noted, so it could "
            "be another one now. Start anew, or give a function of plain values."
        )
    return None


def discovery_key(session: Session, runner: Runner, spec: DiscoverySpec) -> Key:
    """Return what a walk's decisions, and the last digits of its numbers, depend on."""
    from ..graphs.lift.lifting import ALWAYS_IGNORED

    loaded, config = session.loaded, getattr(session.loaded.model, "config", None)
    compute = ComputeSpec(str(session.device), loaded.dtype, runner.batch_size)
    settings = {} if config is None else config.to_dict()
    return key_of(
        spec, GraphSpec.of_graph(session.graph, session.tried), compute,
        weights_sha256=loaded.weights_sha256, pairs_sha256=runner.pairs.sha256,
        config=digest({key: settings[key] for key in settings.keys() - ALWAYS_IGNORED}),
        family=session.lifted.family, graph=repr(runner.graph),
    )  # fmt: skip


DRIFT = {"float16": 0.02, "bfloat16": 0.1}
"""How far the search's loss may be from the circuit's, in parts of one plus the largest loss."""


def check_drift(found: Discovery, evaluation: Evaluation, dtype: str) -> None:
    """Refuse a circuit whose loss is not what the search took it for."""
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
            "and no circuit is written. Use a wider `dtype`; if it is float32 already, please "
            "report this."
        )


@dataclass(frozen=True, eq=False)
class Selected:
    """The circuit that a selection makes of scores; `fitted`: where its size was chosen, if so.

    `rule`: which edges it keeps of scores; `stability`: how often those of resampled prompts do;
    `selected`: how many it keeps before any are left out as not stable.
    """

    circuit: Circuit
    fitted: Fitted | None = None
    rule: EdgeRule | None = None
    stability: Stability | None = None
    selected: int = 0

    def by_score(self, select: Selection) -> bool:
        """Tell whether its edges are those of largest score, not of largest |score|."""
        return select.signed if self.fitted is None else self.fitted.signed


def selected(
    runner: Runner,
    found: Discovery,
    select: Selection,
    progress: Progress | None = None,
    *,
    resampled: bool = False,
) -> Selected:
    """Return the circuit a selection makes of a method's scores; without one, every edge.

    `resampled`: tell how stable it is, even if nothing is left out for that.
    """
    kept = _selected(runner, found, select, progress)
    if not select.as_dict() or not (resampled or select.stable is not None):
        return kept
    if found.examples is None:
        if select.stable is None:
            return kept
        raise EdgewiseError(
            "stable leaves out edges that resampled prompts would not keep, for which each pair's "
            "own scores are needed, and here there are none; accepted: a selection without it, or "
            "a method that scores each pair."
        )
    absolute, above = not kept.by_score(select), select.above
    rule = EdgeRule.of(
        kept.circuit, found.scores, absolute=absolute, connected=select.connected, above=above
    )
    resample = stability(found.examples, rule)
    circuit = kept.circuit
    if select.stable is not None:
        circuit = stable(circuit, resample, select.stable, connected=select.connected)
    return replace(kept, circuit=circuit, rule=rule, stability=resample, selected=len(kept.circuit))


def _selected(
    runner: Runner, found: Discovery, select: Selection, progress: Progress | None
) -> Selected:
    """Return the circuit that a selection makes, before edges are left out as not stable."""
    how = {"absolute": not select.signed, "connected": select.connected}
    scores = found.scores
    if select.top is not None:
        return Selected(scores.top(select.top, **how))
    if select.above is not None:
        circuit = scores.above(select.above, absolute=not select.signed)
        return Selected(circuit.prune_dangling() if select.connected else circuit)
    if select.target is not None:
        if found.examples is None:
            raise EdgewiseError(
                "target chooses a size on pairs that the scores are not of, for which each pair's "
                "own scores are needed, and here there are none; accepted: top, above or "
                "faithfulness, or a method that scores each pair."
            )
        fitted = fewest(runner, found.examples, select.target, progress=progress, **how)
        return Selected(fitted.circuit, fitted)
    if select.faithfulness is not None:
        return Selected(smallest_faithful(runner, scores, select.faithfulness, progress, **how))
    return Selected(Circuit.full(scores.graph))


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


def held_out_runner(session: Session, split: PromptSplit, runner: Runner) -> Runner:
    """Return what measures as a runner does on the pairs that are held out.

    What an ablation takes from more than one example it takes from the discovery's. Longer prompts
    than the discovery's are certified too.
    """
    from ..patching.run.runner import Runner

    test = split.test
    assert test is not None  # the caller has looked
    if max(pair.longest for pair in test) > max(pair.longest for pair in split.discovery):
        session.certify(test)
    try:
        return Runner.create(
            session.lifted, test, metric=runner.metric, ablation=runner.ablation,
            batch_size=runner.batch_size, reference=split.discovery,
        )  # fmt: skip
    except PromptError as error:
        raise PromptError(f"the held-out pairs: {error} `test` 0 holds none out.") from error


def measures(evaluation: Evaluation, held_out: Evaluation | None = None) -> dict[str, object]:
    """Return what a circuit file says of what was measured, in sample and held out.

    The keys of older files, beside the two, are ratios of means in sample, whatever their error;
    `undefined` says why they mean nothing, if so.
    """
    keys = [f"{a}_{b}" for a in ("loss", "value") for b in ("full", "circuit", "empty")]
    keys += ["value_complement", "faithfulness", "completeness", "edges", "nodes"]
    found: dict[str, object] = {key: getattr(evaluation, key) for key in keys}
    found["undefined"] = evaluation.undefined
    for name, one in ((IN_SAMPLE, evaluation), (HELD_OUT, held_out)):
        if one is not None:
            found[name] = measured_block(one)
    return found


def with_measures(
    file: CircuitFile, evaluation: Evaluation, held_out: Evaluation | None = None
) -> CircuitFile:
    """Return a circuit file with other measures, as of another circuit than it was found with."""
    return replace(file, measures=measures(evaluation, held_out))


def measured_block(evaluation: Evaluation) -> dict[str, object]:
    """Return what a file says of one side of a split; ratios are None where they are undefined.

    `interval` is that of faithfulness.
    """
    keys = [f"{a}_{b}" for a in ("loss", "value") for b in ("full", "circuit", "empty")]
    keys.append("value_complement")
    found = evaluation.as_dict()
    intervals = dict(found["intervals"])
    block = {"examples": found["examples"], "units": found["units"]}
    block |= {key: found[key] for key in keys}
    block["faithfulness"] = evaluation.estimate("faithfulness").value
    block["interval"] = intervals.pop("faithfulness")
    block["completeness"] = evaluation.estimate("completeness").value
    return {**block, "intervals": intervals} | {
        key: found[key] for key in ("quantiles", "worst_pairs") if key in found
    }


def forward_seconds(session: Session, runner: Runner, progress: Progress | None = None) -> float:
    """Time the original model on the clean prompts in the runner's batches; the median pass."""
    import torch

    seconds = []
    for number in range(1, TIMED_PASSES + 1):
        begun = _now(session)
        with torch.no_grad():
            for chunk in runner.chunks():
                batch = chunk.batch
                how = {"attention_mask": batch.mask.long(), "position_ids": batch.position_ids}
                session.loaded.model(input_ids=batch.clean, **how, use_cache=False)
        seconds.append(_now(session) - begun)
        (progress or SILENT)(number, TIMED_PASSES, "passes of the original model timed")
    return statistics.median(seconds)


def _now(session: Session) -> float:
    """Return the time when everything the device was given so far is done."""
    import torch

    if session.device.type == "cuda":
        torch.cuda.synchronize(session.device)
    return time.perf_counter()


def _chosen(
    runner: Runner, found: Discovery, select: Selection, progress: Progress | None
) -> tuple[Selected, Ties | None, list[str]]:
    """Return the circuit, what ties where it was cut, and what must be said of it."""
    doubts = [found.doubt] if found.doubt else []
    if found.circuit is not None:
        return Selected(found.circuit), None, doubts
    kept, tied = selected(runner, found, select, progress, resampled=True), None
    if select.as_dict():
        if select.above is None and not select.connected and select.stable is None:
            tied = ties(found.scores, kept.circuit, absolute=not kept.by_score(select))
        signed = kept.by_score(select)
        doubts += doubts_of_selection(found.scores, kept.circuit, tied, signed=signed)
    return kept, tied, doubts


def _refuse_meaningless(
    circuit: Circuit, spec: DiscoverySpec, found: Discovery, evaluation: Evaluation, floor: float
) -> None:
    """Refuse a circuit without edges, or chosen by a metric that is the same for every circuit."""
    parts = ("full", "circuit", "empty", "complement")
    values = [getattr(evaluation, f"value_{part}") for part in parts]
    chosen = found.circuit is not None or spec.select.as_dict()
    if found.doubt and chosen and max(values) - min(values) <= floor:
        raise EdgewiseError(f"method '{spec.method}' gives no circuit: {found.doubt}")
    if len(circuit):
        return
    why = "those left had no way from the embedding to the logits; ask for more edges."
    if spec.select.stable is not None:
        raise EdgewiseError(
            f"stable {spec.select.stable:g} leaves no edge: none that the selection keeps is kept "
            "by so large a share of resamples of the prompts; choose a smaller share, or use more "
            "prompts."
        )
    if spec.select.above is not None:
        scores, signed = found.scores.values, spec.select.signed
        largest = np.nanmax(scores if signed else np.abs(scores))
        raise EdgewiseError(
            f"above {spec.select.above:g} keeps no edge: the largest "
            f"{'score' if signed else '|score|'} is {largest:.4g}; choose a smaller value, or "
            "select by top or faithfulness."
        )
    named = f"method '{spec.method}'"
    if "threshold" in spec.options:
        rise = evaluation.loss_empty - evaluation.loss_full
        named = f"{named} with threshold {spec.options['threshold']:g}"
        why = (
            f"without any edge the loss ({spec.metric}) is only {rise:.4g} above the full model's; "
            "choose a smaller threshold."
        )
    raise EdgewiseError(f"{named} keeps no edge: {why}")


def circumstances(session: Session, runner: Runner) -> dict[str, object]:
    """Return what else numbers and times depend on."""
    import torch
    import transformers

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
