"""One task's circuit at every checkpoint of a training run, on the same prompts: a timeline.

1. Make the prompt pairs, with the first checkpoint's tokenizer; no weights are read.
2. For each checkpoint, look its result up by content (see `results`). If there is none, load the
   model, find its circuit, measure it, and keep the result at once, so that a stopped run goes on.
3. Put the circuits in order of time.

One model is in memory at a time, and none where every result is kept already.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..discovery.registry import scoring_method
from ..experiment.parts import split
from ..experiment.spec import (
    ComputeSpec,
    DiscoverySpec,
    EvaluationSpec,
    Experiment,
    GraphSpec,
    TaskSpec,
    numbered,
)
from ..graphs.errors import EdgewiseError, within_memory
from ..progress import Progress
from ..session import Session, make_runner, open_model, open_pairs, open_task
from ..store.hashes import fingerprint
from ..store.results import Kept, Results
from .fit import same_prompts, same_shape

if TYPE_CHECKING:
    from ..experiment.key import Key
    from ..graphs.files import CircuitFile, TimelineFile
    from ..graphs.files.circuit import DiscoveryBlock
    from ..graphs.files.timeline import Checkpoint, MetricValues
    from ..graphs.graph import ComputationGraph
    from ..patching.prompts.pairs import PromptPairs
    from ..patching.run.runner import Runner
    from ..store.journal import JournalFile

_STEP = re.compile(r"(?:checkpoint|step)-(\d+)")


@within_memory()
def timeline(
    models: Experiment | Sequence[str] | str,
    task: TaskSpec | str = "",
    *,
    measure: Sequence[str] = (),
    labels: Sequence[str] | None = None,
    results: Results | None = None,
    progress: Progress | None = None,
    **fields: Any,
) -> TimelineFile:
    """Find and measure a task's circuit at every checkpoint, on the same prompts.

    Args:
        models: references in order of time, or one directory that holds `checkpoint-N` or `step-N`
            directories, which are taken in the order of N; or in place of everything that is asked
            for an experiment, whose models are the checkpoints.
        task: which prompt pairs, or a built-in task's name, or a file of prompt pairs.
        measure: further metrics to measure at every checkpoint.
        labels: what the checkpoints are called; default: what sets their names apart.
        results: where circuits are kept by content and found again; default: nowhere.
        progress: told what is done.
        fields: of how circuits are found, of the graph and of how to compute, as in `discover` and
            `open_model`; a checkpoint whose circuit has no edge is no error here.

    Raises:
        GraphMismatch: a checkpoint's shape is not the first one's; names it.
        PromptError: a checkpoint's tokenizer makes other prompts.
        EdgewiseError: the request makes no sense; says what to do.
    """
    from ..graphs.files import TimelineFile
    from ..graphs.timeline import Timeline, check_labels

    if isinstance(models, Experiment):
        asked = models
    else:
        asked = _experiment(find_checkpoints(models), task, measure, fields)
    references = [model.source for model in asked.models]
    names = list(labels) if labels is not None else default_labels(references)
    check_labels(names, len(references))
    check_selects(asked.discovery)
    job = _Job(asked, open_pairs(references[0], asked.task), results)
    told = progress or (lambda done, total, what: None)
    found: list[Kept] = []
    for number, (reference, name) in enumerate(zip(references, names, strict=True)):
        told(number, len(references), f"checkpoints; now {name}")
        first = found[0].file if found else None
        kept = job.find(reference, first, (names[0], name), progress)
        width = kept.file.model["d_model"]
        _refuse_other_shape(first, kept.file.circuit.graph, width, (names[0], name))
        found.append(kept)
    told(len(references), len(references), "checkpoints")
    discovery = found[0].file.discovery
    return TimelineFile(
        timeline=Timeline(
            tuple(names),
            tuple(one.file.circuit for one in found),
            tuple(one.scores.values for one in found),
        ),
        checkpoints=tuple(map(_head, references, found)),
        task=found[0].file.task,
        discovery=cast(
            "DiscoveryBlock",
            {**asked.discovery.block, **{key: discovery.get(key) for key in ("order", "dtype")}},
        ),
    )


def _experiment(
    references: Sequence[str],
    task: TaskSpec | str,
    measure: Sequence[str],
    fields: Mapping[str, object],
) -> Experiment:
    """Return what the arguments of `timeline` ask for."""
    own, graph, how = split("timeline", fields, DiscoverySpec, GraphSpec, ComputeSpec)
    discovery = DiscoverySpec.of(**{"method": scoring_method().name, **own})
    return Experiment(
        name="timeline",
        models=numbered(references),
        task=task if isinstance(task, TaskSpec) else TaskSpec.named(task),
        discovery=discovery,
        evaluation=EvaluationSpec(tuple(dict.fromkeys([discovery.metric, *measure]))),
        graph=GraphSpec.of(**graph),
        compute=ComputeSpec.of(**how),
    )


@dataclass(frozen=True)
class _Job:
    """What every checkpoint is asked, on the prompt pairs that all of them get."""

    asked: Experiment
    pairs: PromptPairs
    results: Results | None

    def find(
        self,
        reference: str,
        first: CircuitFile | None,
        names: tuple[str, str],
        progress: Progress | None,
    ) -> Kept:
        """Return a checkpoint's result, the kept one if there is one."""
        if self.results is None:
            return self.make(reference, first, names, progress, None)
        told = progress or (lambda done, total, what: None)
        return self.results.get(
            self.key(reference).sha256,
            lambda journal: self.make(reference, first, names, progress, journal),
            lambda text: told(0, 1, text),
        )

    def key(self, reference: str) -> Key:
        """Return what a checkpoint's result depends on."""
        return self.asked.key(
            "discovery", "graph", "evaluation", "compute",
            model=fingerprint(reference), pairs_sha256=self.pairs.sha256,
        )  # fmt: skip

    def make(
        self,
        reference: str,
        first: CircuitFile | None,
        names: tuple[str, str],
        progress: Progress | None,
        journal: JournalFile | None,
    ) -> Kept:
        """Load a checkpoint, find its circuit and measure it."""
        from .discover import discover

        asked = self.asked
        session = open_model(reference, asked.graph, asked.compute, progress=progress)
        self.check(session, first, names)
        for metric in asked.evaluation.metrics:
            self.runner(session, metric)  # refused now, not after the search
        found = discover(
            session, self.pairs, asked.discovery, asked.compute,
            progress=progress, journal=journal, allow_empty=True,
        )  # fmt: skip
        return Kept(found.file, found.scores.scores, self.measure(session, found.file))

    def runner(self, session: Session, metric: str) -> Runner:
        """Return a runner on the pairs; refuses a metric that does not fit them."""
        ablation, batch_size = self.asked.discovery.ablation, self.asked.compute.batch_size
        return make_runner(
            session, self.pairs, metric=metric, ablation=ablation, batch_size=batch_size
        )

    def measure(self, session: Session, file: CircuitFile) -> dict[str, dict[str, float | None]]:
        """Measure a circuit by every metric."""
        from ..discovery.evaluation import evaluate_by
        from ..patching.metrics.registry import get_metric

        runner = self.runner(session, self.asked.discovery.metric)
        metrics = [get_metric(name) for name in self.asked.evaluation.metrics]
        measured = evaluate_by(runner, file.circuit, metrics)
        return {
            name: {
                "full": one.value_full,
                "circuit": one.value_circuit,
                "empty": one.value_empty,
                "faithfulness": one.faithfulness,
            }
            for name, one in zip(self.asked.evaluation.metrics, measured, strict=True)
        }

    def check(self, session: Session, first: CircuitFile | None, names: tuple[str, str]) -> None:
        """Refuse a checkpoint of another shape than the first one's, or with other prompts."""
        _refuse_other_shape(first, session.graph, session.lifted.d_model, names)
        same_prompts(
            self.pairs,
            lambda: open_task(session, self.asked.task),
            lambda found: (
                f"checkpoint '{names[1]}' cannot be compared with '{names[0]}': their tokenizers "
                f"map the task's prompts differently: {found}. Circuits are compared on equal "
                "prompts only; give the pairs as token ids, or leave the checkpoint out."
            ),
        )


# -- which checkpoints ---------------------------------------------------------------------------


def find_checkpoints(models: Sequence[str] | str) -> list[str]:
    """Return the references of all checkpoints, in order.

    Raises:
        EdgewiseError: one directory is given that holds none, or fewer than two models are.
    """
    given = [models] if isinstance(models, str) else [str(model) for model in models]
    if len(given) == 1:
        folder = Path(given[0]).expanduser()
        held = sorted(_checkpoints_in(folder)) if folder.is_dir() else []
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


def _checkpoints_in(folder: Path) -> Iterator[tuple[int, str]]:
    for path in folder.iterdir():
        step = _STEP.fullmatch(path.name)
        if step and path.is_dir():
            yield int(step[1]), str(path)


def default_labels(references: Sequence[str]) -> list[str]:
    """Call checkpoints by their steps, the last parts of their names, or their revisions.

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


def check_selects(asked: DiscoverySpec) -> None:
    """Refuse to keep every edge at every checkpoint: nothing would appear or vanish.

    Raises:
        EdgewiseError: says how edges can be selected.
    """
    if asked.keeps_all:
        raise EdgewiseError(
            f"method '{asked.method}' scores all edges, so every circuit would hold them all; say "
            "which to keep: top (so many), above (|score| at least), or faithfulness."
        )


# -- steps ---------------------------------------------------------------------------------------


def _refuse_other_shape(
    first: CircuitFile | None, graph: ComputationGraph, width: int, names: tuple[str, str]
) -> None:
    """Refuse a checkpoint whose edges are not those of the first."""
    if first is not None:
        same_shape(
            first.circuit.graph,
            graph,
            (first.model["d_model"], width),
            lambda found: (
                f"checkpoint '{names[1]}' cannot be compared with '{names[0]}': their graphs "
                f"differ in {found} ({names[0]} and {names[1]}). Checkpoints of one timeline must "
                "have one shape; leave it out."
            ),
        )


def _head(reference: str, kept: Kept) -> Checkpoint:
    """Return what a timeline file says of a checkpoint."""
    return {
        "reference": reference,
        "model": kept.file.model,
        "certificate": kept.file.certificate,
        "measures": cast("dict[str, MetricValues]", kept.measured),
    }
