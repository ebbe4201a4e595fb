"""Discovery as one step: score or search, select, measure, note everything."""

from __future__ import annotations

import json
import warnings
from contextlib import closing, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from ..discovery.evaluation import (
    Evaluation,
    fitted_to_its_prompts,
    measure,
)
from ..discovery.meaning import (
    Meaningless,
    doubts_of_size,
)
from ..discovery.registry import Discovery
from ..experiment.key import Key, digest, key_of
from ..experiment.parts import split
from ..experiment.spec import ComputeSpec, DiscoverySpec, Experiment, GraphSpec
from ..graphs.calls.typed import typed
from ..graphs.errors import DriftError, EdgewiseError, PromptError, within_memory
from ..graphs.files import CircuitFile, ExampleScoresFile, ScoresFile
from ..graphs.files.circuit import DiscoveryBlock
from ..graphs.levels.nodes import EDGE
from ..patching.engines import about_engine
from ..patching.metrics.functions import is_traceable
from ..patching.prompts.pairs import PromptPairs
from ..patching.prompts.splits import PromptSplit
from ..progress import Progress
from ..session import Session, make_runner, open_model
from ..store.journal import JournalFile
from .found.blocks import (
    circumstances,
    forward_seconds,
    measures,
    now,
    prompt_rows,
    task_block,
)
from .found.selection import chosen_circuit, refuse_meaningless, stability_block
from .stored import experiment_split

if TYPE_CHECKING:
    from ..patching.run.runner import Runner


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
        session, pairs, metric=spec.metric, ablation=spec.ablation,
        batch_size=compute.batch_size, engine=compute.engine, mlps=spec.mlps,
    )  # fmt: skip
    engine = spec.chosen.engine(runner, spec.options)
    tester = None if parted.test is None else held_out_runner(session, parted, runner)
    check_top(runner, spec)
    certificate = session.certify(pairs)
    journal, before = _usable(journal, spec), 0.0
    if journal is not None:
        journal.begin(discovery_key(session, runner, spec).values)
        before = journal.seconds
    begun = now(session)
    start = None if spec.start is None else spec.start.on(runner.graph, session.lifted.d_model)
    with nullcontext() if journal is None else closing(journal), warnings.catch_warnings():
        warnings.simplefilter("ignore", Meaningless)  # said below
        found = spec.chosen(
            runner, progress, journal, start,
            per_example=spec.by_example, **spec.options,
        )  # fmt: skip
    seconds = before + now(session) - begun
    kept, tied, doubts = chosen_circuit(runner, found, spec.select, progress)
    circuit = kept.circuit
    evaluation = measure(runner, circuit)
    try:
        check_drift(found, evaluation, session.loaded.dtype)
        if not allow_empty:
            refuse_meaningless(circuit, spec, found, evaluation, runner.floor)
    except EdgewiseError:
        if journal is not None:
            journal.remove()  # going on from it would end here again
        raise
    held_out = None if tester is None else measure(tester, circuit)
    if spec.select.way in ("faithfulness", "target"):  # a size that was chosen to reach something
        reached = (held_out or evaluation).estimate("faithfulness").value
        doubts += doubts_of_size(reached, found.scores.count(circuit), found.scores.units)
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
                **circumstances(session, runner, engine),
            },
        ),
        certificate=certificate.as_dict(),
        measures=measures(evaluation, held_out, engine=about_engine(runner.runs_by)),
        edge_scores=found.scores.values,
        extra={**prompt_rows(parted), **stability_block(kept, found, spec.select)},
    )
    scores, examples = _scores_of(found, spec, runner)
    return Found(file, scores, evaluation, examples, held_out)


def _scores_of(
    found: Discovery, spec: DiscoverySpec, runner: Runner
) -> tuple[ScoresFile, ExampleScoresFile | None]:
    """Return what the sidecars hold: all scores, and if asked for those on each example."""
    engine = json.dumps(about_engine(spec.chosen.engine(runner)))
    about, examples = (spec.method, spec.metric, spec.ablation), None
    if spec.per_example and found.examples is not None:
        examples = ExampleScoresFile(found.examples, *about, runner.pairs.sha256, engine)
    return ScoresFile(found.scores, *about, engine), examples


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
    compute = ComputeSpec(str(session.device), loaded.dtype, runner.batch_size, runner.engine)
    settings = {} if config is None else config.to_dict()
    return key_of(
        spec, GraphSpec.of_graph(session.graph, session.tried), compute,
        weights_sha256=loaded.weights_sha256, pairs_sha256=runner.pairs.sha256,
        config=digest({key: settings[key] for key in settings.keys() - ALWAYS_IGNORED}),
        family=session.lifted.family, graph=repr(runner.graph),
    )  # fmt: skip


def check_top(runner: Runner, spec: DiscoverySpec) -> None:
    """Refuse to keep more edges, or nodes, than there are."""
    graph, top = runner.graph, spec.select.top
    total, what = graph.edge_count, "edges"
    if spec.level != EDGE:
        total, what = len(graph.senders) * graph.positions, "nodes that write"
        what += " at spans" if graph.spans else ""
    if top is not None and top > total:
        raise EdgewiseError(
            f"top is {top:,}, but the model's graph has {total:,} {what}; accepted: 1 to {total:,}."
        )


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
            runner.model, test, metric=runner.metric, ablation=runner.ablation,
            batch_size=runner.batch_size, reference=split.discovery, engine=runner.engine,
        )  # fmt: skip
    except PromptError as error:
        raise PromptError(f"the held-out pairs: {error} `test` 0 holds none out.") from error
