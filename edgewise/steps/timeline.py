"""One task's circuit at every checkpoint of a training run, on the same prompts: a timeline.

1. Make the prompt pairs with the first checkpoint's tokenizer, or take those of a circuit's file.
2. Find every checkpoint's circuit, and measure it on these pairs and on those that are held out,
   unless its result is kept (see `store.results`).
3. Test, on the pairs that are held out if there are such, which edges changed from each checkpoint
   to the next (see `comparison`), and, as a control, whether any edge of the later one changes when
   its weights are rounded.
4. Put the circuits in order of time.

One model is in memory at a time, and none where every result is kept already.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..discovery.evaluation import HELD_OUT, IN_SAMPLE, evaluate_by
from ..discovery.registry import scoring_method
from ..experiment.key import key_of
from ..experiment.parts import split
from ..experiment.spec import (
    ComparisonSpec,
    ComputeSpec,
    DiscoverySpec,
    EvaluationSpec,
    Experiment,
    GraphSpec,
    numbered,
)
from ..experiment.task import TaskSpec
from ..graphs.calls.typed import typed
from ..graphs.circuit import Circuit
from ..graphs.comparison import Comparison
from ..graphs.diff import CircuitDiff, shape_differences
from ..graphs.errors import EdgewiseError, GraphMismatch, PromptError, within_memory
from ..graphs.files import CircuitFile, TimelineFile
from ..graphs.files.circuit import DiscoveryBlock
from ..graphs.files.timeline import Checkpoint, MetricValues
from ..graphs.graph import ComputationGraph
from ..graphs.timeline import Timeline, check_labels
from ..patching.metrics.functions import Given, as_metric, is_traceable, metric_name
from ..patching.metrics.metric import Metric
from ..patching.prompts.splits import PromptSplit
from ..progress import SILENT, Progress, prompts_are_there
from ..session import Session, make_runner, open_model, task_of
from ..store.hashes import fingerprint
from ..store.journal import JournalFile
from ..store.results import Kept, Results
from .comparison.paired import ComparedPairs, compare_scored, held_out_pairs, scoring_for
from .comparison.scored import ScoredModel, score_model
from .discover import discover, held_out_runner
from .same_prompts import split_difference
from .stored import experiment_split

if TYPE_CHECKING:
    from ..patching.run.runner import Runner

EXAMPLES = "examples.safetensors"
"""What every edge's scores on each example are kept in."""

ENDS = ("full", "circuit", "empty")
"""What is measured of a circuit: its metric with all edges, those it has, and none."""

_STEP = re.compile(r"(?:checkpoint|step)-(\d+)")


@typed
@within_memory()
def timeline(
    models: Experiment | Sequence[str] | str,
    task: TaskSpec | str = "",
    *,
    measure: Sequence[str | Metric | Given] = (),
    labels: Sequence[str] | None = None,
    results: Results | None = None,
    progress: Progress | None = None,
    **fields: Any,
) -> TimelineFile:
    """Find and measure a task's circuit at every checkpoint, on the same prompts.

    Args:
        models: references in order of time, or one directory that holds `checkpoint-N` or `step-N`
            directories; or instead of all that is asked for an experiment, whose models they are.
        task: which prompt pairs, or a built-in task's name, or a file of prompt pairs.
        measure: further metrics to measure at every checkpoint, by name or as functions.
        labels: what the checkpoints are called; default: what sets their names apart.
        results: where circuits are kept by content and found again; default: nowhere.
        fields: of how circuits are found and compared, of the graph and of how to compute, as in
            `discover` and `open_model`; a checkpoint whose circuit has no edge is no error here.

    Raises:
        GraphMismatch: a checkpoint's shape is not the first one's.
        PromptError: a checkpoint's tokenizer makes other prompts.
        EdgewiseError: the request makes no sense.
    """
    split("timeline", fields, *_FIELDS_OF)  # names that there are not, before models are opened
    if isinstance(models, Experiment):
        spec = models
        _refuse_beside(spec, {"task": task, "measure": measure, **fields})
    else:
        spec = _experiment(find_checkpoints(models), task, measure, fields)
    references = [model.source for model in spec.models]
    names = list(labels) if labels is not None else default_labels(references)
    check_labels(names, len(references))
    check_selects(spec.discovery)
    parted = experiment_split(spec, references[0])
    prompts_are_there(progress, parted.discovery.origin)
    checkpoints = _Checkpoints(spec, parted, progress or SILENT)
    found: list[Kept] = []
    compared: list[Comparison] = []
    before: ScoredModel | None = None
    for number, (reference, name) in enumerate(zip(references, names, strict=True)):
        checkpoints.progress(number, len(references), f"checkpoints; now {name}")
        kept = checkpoints.find(reference, name, results)
        checkpoints.check_shape(kept.file.circuit.graph, kept.file.model["d_model"], name)
        checkpoints.first = checkpoints.first or (name, kept.file)
        found.append(kept)
        now = checkpoints.score(reference, kept.file.circuit.graph, results, later=number > 0)
        if now is not None and before is not None:
            compared.append(checkpoints.compare(found[-2], kept, (before, now)))
        before = now
    checkpoints.progress(len(references), len(references), "checkpoints")
    first = found[0].file
    blocks = tuple(
        Checkpoint(
            reference=reference,
            model=one.file.model,
            certificate=one.file.certificate,
            measures=cast("dict[str, MetricValues]", dict(one.measured)),
        )
        for reference, one in zip(references, found, strict=True)
    )
    circuits = tuple(one.file.circuit for one in found)
    line = Timeline(tuple(names), circuits, tuple(one.scores.values for one in found))
    noted = {key: first.discovery.get(key) for key in ("order", "dtype", "engine")}
    discovery = cast("DiscoveryBlock", spec.discovery.block | noted)
    return TimelineFile(
        line, blocks, task=first.task, discovery=discovery, comparisons=tuple(compared),
        extra={"engine": first.measures["engine"]},
    )  # fmt: skip


def _refuse_beside(spec: Experiment, given: Mapping[str, object]) -> None:
    """Refuse what an experiment says itself where one is given."""
    own = [key for key, value in given.items() if value not in (None, "", ())]
    if own:
        raise EdgewiseError(
            f"{' and '.join(f'`{key}`' for key in own)} cannot be given beside the experiment "
            f"'{spec.name}', which says all of it; accepted: the experiment alone, changed with "
            "`but`."
        )


_FIELDS_OF = (DiscoverySpec, GraphSpec, ComputeSpec, ComparisonSpec)


def _experiment(
    references: Sequence[str],
    task: TaskSpec | str,
    measure: Sequence[str | Metric | Given],
    fields: Mapping[str, object],
) -> Experiment:
    """Return what the arguments of `timeline` ask for."""
    own, graph, how, comparison = split("timeline", fields, *_FIELDS_OF)
    discovery = DiscoverySpec.of(**{"method": scoring_method().name, **own})
    measured = [discovery.metric, *map(metric_name, measure)]
    evaluation = EvaluationSpec(tuple(dict.fromkeys(measured)))
    return Experiment(
        "timeline", numbered(references), task_of(task), discovery, evaluation,
        graph=GraphSpec.of(**graph), compute=ComputeSpec.of(**how),
        comparison=ComparisonSpec.of(**comparison),
    )  # fmt: skip


@dataclass
class _Checkpoints:
    """What is found and measured at every checkpoint, on the prompt pairs that all of them get.

    `parted`: the pairs that circuits are found on, and those held out. `first`: what the first
    checkpoint is called, and its circuit, once that is found.
    """

    spec: Experiment
    parted: PromptSplit
    progress: Progress
    first: tuple[str, CircuitFile] | None = None
    opened: tuple[str, Session] | None = None

    @cached_property
    def scoring(self) -> DiscoverySpec | None:
        """Return how edges are scored to be tested, None if they are not."""
        few = len(self.tested.pairs) < 2 and not self.spec.comparison.paired
        return None if few or len(self.spec.models) < 2 else scoring_for(self.spec)

    @cached_property
    def tested(self) -> ComparedPairs:
        """Return the pairs on which edges are tested: those held out, if there are enough."""
        return held_out_pairs(self.parted)

    def open(self, reference: str) -> Session:
        """Open a checkpoint; the one that was open before is let go."""
        if self.opened is None or self.opened[0] != reference:
            self.opened = None
            spec = self.spec
            session = open_model(reference, spec.graph, spec.compute, progress=self.progress)
            self.opened = reference, session
        return self.opened[1]

    def score(
        self, reference: str, graph: ComputationGraph, results: Results | None, *, later: bool
    ) -> ScoredModel | None:
        """Score every edge of a checkpoint on each example, unless that is kept.

        `later`: it is compared with one before, for which the control is looked at.
        """
        scoring, pairs, compute = self.scoring, self.tested.pairs, self.spec.compute
        rounded = later and self.spec.comparison.controls
        if scoring is None:
            return None

        def make() -> ScoredModel:
            return score_model(
                self.open(reference), pairs, scoring, rounded=rounded, compute=compute,
                progress=self.progress,
            )  # fmt: skip

        if results is None or not all(map(is_traceable, self.spec.evaluation.metrics)):
            return make()
        key = key_of(
            self.spec.graph,
            compute,
            scoring,
            model=fingerprint(reference),
            prompts=pairs.sha256,
            rounded=rounded,
        )
        path = results.file(
            key.sha256, EXAMPLES, lambda path: make().write(path),
            lambda text: self.progress(0, 1, text),
        )  # fmt: skip
        return ScoredModel.read(path, graph)

    def compare(
        self, before: Kept, now: Kept, scored: tuple[ScoredModel, ScoredModel]
    ) -> Comparison:
        """Test which edges changed from one checkpoint to the next."""
        assert self.scoring is not None  # as both are scored
        diff = CircuitDiff(before.file.circuit, now.file.circuit)
        return compare_scored(diff, scored, self.scoring, self.spec.comparison, self.tested)

    def find(self, reference: str, name: str, results: Results | None) -> Kept:
        """Return a checkpoint's result: the kept one, or found and measured now."""
        spec = self.spec

        def make(journal: JournalFile | None = None) -> Kept:
            session = self.open(reference)
            self.check_shape(session.graph, session.lifted.d_model, name)
            self.check_prompts(session, name)
            runner = partial(
                make_runner, session, self.parted.discovery,
                ablation=spec.discovery.ablation, batch_size=spec.compute.batch_size,
            )  # fmt: skip
            for metric in spec.evaluation.metrics:
                runner(metric=metric)  # refused now, not after the search
            found = discover(
                session, self.parted, spec.discovery, spec.compute,
                progress=self.progress, journal=journal, allow_empty=True,
            )  # fmt: skip
            own = runner(metric=spec.discovery.metric)
            runners = {IN_SAMPLE: own}
            if self.parted.test is not None:
                runners[HELD_OUT] = held_out_runner(session, self.parted, own)
            return Kept(found.file, found.scores.scores, self.measure(runners, found.file.circuit))

        if results is None or not all(map(is_traceable, spec.evaluation.metrics)):
            return make()
        test = self.parted.test
        key = spec.key(
            "discovery", "graph", "evaluation", "compute", model=fingerprint(reference),
            pairs_sha256=self.parted.discovery.sha256, measured=2,  # with intervals
            test=None if test is None else test.sha256, words=self.parted.words,
        )  # fmt: skip
        return results.get(key.sha256, make, lambda text: self.progress(0, 1, text))

    def measure(
        self, runners: Mapping[str, Runner], circuit: Circuit
    ) -> dict[str, dict[str, object]]:
        """Measure a circuit by every metric on both sides of the split."""
        metrics = [*map(as_metric, self.spec.evaluation.metrics)]
        found: dict[str, dict[str, object]] = {}
        for side, runner in runners.items():
            for one in evaluate_by(runner, circuit, metrics):
                values = {key: getattr(one, f"value_{key}") for key in ENDS}
                if side == IN_SAMPLE:
                    found[one.metric] = {
                        **values, "faithfulness": one.faithfulness, "undefined": one.undefined,
                    }  # fmt: skip
                estimate = one.estimate("faithfulness")
                found[one.metric][side] = {
                    "examples": one.examples, **values, "faithfulness": estimate.value,
                    "interval": estimate.interval,
                    "intervals": {key: one.estimate(key).interval for key in ENDS},
                }  # fmt: skip
        return found

    def check_shape(self, graph: ComputationGraph, width: int, name: str) -> None:
        if self.first is None:
            return
        before, file = self.first
        widths = file.model["d_model"], width
        if found := "; ".join(shape_differences(file.circuit.graph.plain, graph, widths)):
            raise GraphMismatch(
                f"checkpoint '{name}' cannot be compared with '{before}': their graphs differ in "
                f"{found} ({before} and {name}). Checkpoints of one timeline must have one shape; "
                "leave it out."
            )

    def check_prompts(self, session: Session, name: str) -> None:
        before = self.first[0] if self.first else name
        if found := split_difference(self.parted, partial(experiment_split, self.spec, session)):
            raise PromptError(
                f"checkpoint '{name}' cannot be compared with '{before}': their tokenizers "
                f"map the task's prompts differently: {found}. Circuits are compared on equal "
                "prompts only; give the pairs as token ids, or leave the checkpoint out."
            )


# -- which checkpoints ---------------------------------------------------------------------------


def find_checkpoints(models: Sequence[str] | str) -> list[str]:
    """Return the references of all checkpoints, in order; an EdgewiseError if there are no two."""
    given = [models] if isinstance(models, str) else [str(model) for model in models]
    if len(given) == 1:
        folder = Path(given[0]).expanduser()
        inside = folder.iterdir() if folder.is_dir() else ()
        steps = [(_STEP.fullmatch(path.name), path) for path in inside if path.is_dir()]
        held = sorted((int(step[1]), str(path)) for step, path in steps if step)
        if len(held) < 2:
            raise EdgewiseError(
                f"'{given[0]}' alone makes no timeline: it holds {len(held) or 'no'} checkpoint"
                f"{'' if len(held) == 1 else 's'}; accepted: a directory with two or more of "
                "checkpoint-N or step-N, or two or more models."
            )
        return [path for _, path in held]
    if not given:
        raise EdgewiseError("no model is given; accepted: two or more, in order of time.")
    return given


def default_labels(references: Sequence[str]) -> list[str]:
    """Call checkpoints by their steps, their revisions, or the last parts of their names.

    >>> default_labels(["run/checkpoint-100", "run/checkpoint-200"])
    ['100', '200']
    >>> default_labels(["EleutherAI/pythia-70m@step0", "EleutherAI/pythia-70m@step512"])
    ['step0', 'step512']
    >>> default_labels(["a/model", "b/model"])
    ['a/model', 'b/model']
    """
    lasts = [Path(reference).name for reference in references]
    steps = [found[1] if (found := _STEP.fullmatch(last)) else "" for last in lasts]
    revisions = [reference.rpartition("@")[2] for reference in references]
    for labels in (steps, revisions if all("@" in r for r in references) else [], lasts):
        if labels and all(labels) and len(set(labels)) == len(labels):
            return list(labels)
    if len(set(references)) == len(references):
        return list(references)
    return [f"{number}: {last}" for number, last in enumerate(lasts, start=1)]


def check_selects(spec: DiscoverySpec) -> None:
    """Refuse to keep every edge at every checkpoint: nothing would appear or vanish."""
    if spec.keeps_all:
        raise EdgewiseError(
            f"method '{spec.method}' scores all edges, so every circuit would hold them all; say "
            "which to keep: top (so many), above (|score| at least), or faithfulness."
        )
