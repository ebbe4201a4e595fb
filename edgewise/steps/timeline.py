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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..experiment.asking import Request, request
from ..experiment.spec import ComputeSpec, Selection, check_task
from ..graphs.errors import EdgewiseError, GraphMismatch, PromptError, within_memory
from ..session import Progress, Session, open_model, open_pairs, open_task
from ..store.hashes import digest, fingerprint
from ..store.results import Kept, Results

if TYPE_CHECKING:
    from ..graphs.files import CircuitFile, TimelineFile
    from ..graphs.files.circuit import DiscoveryBlock
    from ..graphs.files.timeline import Checkpoint, Values
    from ..patching.prompts.pairs import PromptPairs
    from ..patching.run.runner import Runner
    from ..store.journal import JournalFile

_STEP = re.compile(r"(?:checkpoint|step)-(\d+)")


@dataclass(frozen=True)
class Opening:
    """Say how checkpoints are opened; see `opening.open_model`."""

    dtype: str = "float32"
    device: str = "auto"
    grouped_kv: bool = False
    split_embedding: bool = False
    allow_pickle: bool = False


@dataclass(frozen=True)
class TaskChoice:
    """Say which prompt pairs are made; see `opening.open_task`."""

    task: str
    examples: int | None = None
    seed: int = 0
    bos: bool | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@within_memory()
def timeline(
    models: Sequence[str] | str,
    task: TaskChoice | str,
    *,
    method: str = "eap-ig",
    metric: str | None = None,
    ablation: str = "resample",
    options: Mapping[str, Any] | None = None,
    select: Selection | None = None,
    measure: Sequence[str] = (),
    labels: Sequence[str] | None = None,
    opening: Opening | None = None,
    batch_size: int | None = None,
    results: Results | None = None,
    progress: Progress | None = None,
) -> TimelineFile:
    """Find and measure a task's circuit at every checkpoint, on the same prompts.

    Args:
        models: references in order of time, or one directory that holds `checkpoint-N` or `step-N`
            directories, which are taken in the order of N.
        task: a built-in task's name, a file of prompt pairs, or a `TaskChoice`.
        method, metric, ablation, options, select, batch_size: as in `finding.discover`; a
            checkpoint whose circuit has no edge is no error here.
        measure: further metrics to measure at every checkpoint.
        labels: what the checkpoints are called; default: what sets their names apart.
        opening: how the models are opened.
        results: where circuits are kept by content and found again; default: nowhere.
        progress: told what is done.

    Raises:
        GraphMismatch: a checkpoint's shape is not the first one's; names it.
        PromptError: a checkpoint's tokenizer makes other prompts.
        EdgewiseError: the request makes no sense; says what to do.
    """
    from ..graphs.files import TimelineFile
    from ..graphs.timeline import Timeline, check_labels

    references = find_checkpoints(models)
    names = list(labels) if labels is not None else default_labels(references)
    check_labels(names, len(references))
    asked = request(method, metric=metric, ablation=ablation, options=options, select=select)
    check_selects(asked)
    choice = task if isinstance(task, TaskChoice) else TaskChoice(task)
    check_task(choice.task, choice.options)
    job = _Job(asked, choice, _metrics(asked, measure), opening or Opening(), batch_size, results)
    job.make_pairs(references[0])
    told = progress or (lambda done, total, what: None)
    found: list[Kept] = []
    for number, (reference, name) in enumerate(zip(references, names, strict=True)):
        told(number, len(references), f"checkpoints; now {name}")
        first = found[0].file if found else None
        kept = job.find(reference, first, (names[0], name), progress)
        _refuse_other_shape(first, kept.file, (names[0], name))
        found.append(kept)
    told(len(references), len(references), "checkpoints")
    return TimelineFile(
        timeline=Timeline(
            tuple(names),
            tuple(one.file.circuit for one in found),
            tuple(one.scores.values for one in found),
        ),
        checkpoints=tuple(map(_head, references, found)),
        task=found[0].file.task,
        discovery=cast("DiscoveryBlock", _common(asked, found[0].file.discovery)),
    )


class _Job:
    """Hold what every checkpoint is asked."""

    def __init__(
        self,
        asked: Request,
        choice: TaskChoice,
        metrics: Sequence[str],
        opening: Opening,
        batch_size: int | None,
        results: Results | None,
    ) -> None:
        self.asked, self.choice, self.metrics = asked, choice, list(metrics)
        self.opening, self.batch_size, self.results = opening, batch_size, results
        self.pairs: PromptPairs

    def make_pairs(self, reference: str) -> None:
        """Make the prompt pairs that every checkpoint gets."""
        self.pairs = open_pairs(reference, **self._task())

    def _task(self) -> dict[str, Any]:
        return {**vars(self.choice), "options": dict(self.choice.options)}

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
            digest(self.inputs(reference)),
            lambda journal: self.make(reference, first, names, progress, journal),
            lambda text: told(0, 1, text),
        )

    def inputs(self, reference: str) -> dict[str, Any]:
        """Return everything a checkpoint's result depends on."""
        from .. import __version__

        opened = {key: value for key, value in asdict(self.opening).items() if key != "device"}
        return {
            "model": fingerprint(reference),
            "pairs": self.pairs.sha256,
            "method": self.asked.method,
            "options": dict(self.asked.options),
            "select": self.asked.select.as_dict(),
            "metric": self.asked.metric,
            "ablation": self.asked.ablation,
            "measure": self.metrics,
            "opening": {**opened, "batch_size": self.batch_size},
            "surroundings": ComputeSpec(device=self.opening.device).surroundings(),
            "edgewise": __version__,
        }

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

        session = open_model(reference, **asdict(self.opening), progress=progress)
        self.check(session, first, names)
        for metric in self.metrics:
            self.runner(session, metric)  # refused now, not after the search
        found = discover(
            session,
            self.pairs,
            method=self.asked.method,
            metric=self.asked.metric,
            ablation=self.asked.ablation,
            batch_size=self.batch_size,
            options=self.asked.options,
            select=self.asked.select,
            progress=progress,
            journal=journal,
            allow_empty=True,
        )
        return Kept(found.file, found.scores.scores, self.measure(session, found.file))

    def runner(self, session: Session, metric: str) -> Runner:
        """Return a runner on the pairs; refuses a metric that does not fit them."""
        from ..session import make_runner

        return make_runner(
            session,
            self.pairs,
            metric=metric,
            ablation=self.asked.ablation,
            batch_size=self.batch_size,
        )

    def measure(self, session: Session, file: CircuitFile) -> dict[str, Any]:
        """Measure a circuit by every metric."""
        from ..discovery.evaluation import evaluate_by
        from ..patching.metrics.registry import get_metric

        runner = self.runner(session, self.asked.metric)
        metrics = [get_metric(name) for name in self.metrics]
        measured = evaluate_by(runner, file.circuit, metrics)
        return {
            name: {
                "full": one.value_full,
                "circuit": one.value_circuit,
                "empty": one.value_empty,
                "faithfulness": one.faithfulness,
            }
            for name, one in zip(self.metrics, measured, strict=True)
        }

    def check(self, session: Session, first: CircuitFile | None, names: tuple[str, str]) -> None:
        """Refuse a checkpoint of another shape than the first one's, or with other prompts."""
        from .fit import first_difference

        if first is not None:
            graph, width = first.circuit.graph, first.model["d_model"]
            differences = graph.differences(session.graph)
            _refuse_differences(differences, (width, session.lifted.d_model), names)
        own, _ = open_task(session, **self._task())
        difference = first_difference(self.pairs.pairs, own.pairs)
        if difference:
            raise PromptError(
                f"checkpoint '{names[1]}' cannot be compared with '{names[0]}': their tokenizers "
                f"map the task's prompts differently: {difference}. Circuits are compared on equal "
                "prompts only; give the pairs as token ids, or leave the checkpoint out."
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


def check_selects(asked: Request) -> None:
    """Refuse to keep every edge at every checkpoint: nothing would appear or vanish.

    Raises:
        EdgewiseError: says how edges can be selected.
    """
    from ..discovery.registry import get_method

    if not (get_method(asked.method).selects or asked.select.as_dict()):
        raise EdgewiseError(
            f"method '{asked.method}' scores all edges, so every circuit would hold them all; say "
            "which to keep: top (so many), above (|score| at least), or faithfulness."
        )


# -- steps ---------------------------------------------------------------------------------------


def _metrics(asked: Request, more: Sequence[str]) -> list[str]:
    """List the metrics to measure: the discovery's, then the others, each once."""
    from ..patching.metrics.registry import get_metric

    for name in more:
        get_metric(name)
    return list(dict.fromkeys([asked.metric, *more]))


def _refuse_other_shape(
    first: CircuitFile | None, file: CircuitFile, names: tuple[str, str]
) -> None:
    if first is not None:
        differences = first.circuit.graph.differences(file.circuit.graph)
        _refuse_differences(differences, (first.model["d_model"], file.model["d_model"]), names)


def _refuse_differences(
    differences: list[str], widths: tuple[int, int], names: tuple[str, str]
) -> None:
    """Refuse a checkpoint whose edges are not those of the first."""
    if widths[0] != widths[1]:
        differences = [*differences, f"d_model {widths[0]} and {widths[1]}"]
    if differences:
        raise GraphMismatch(
            f"checkpoint '{names[1]}' cannot be compared with '{names[0]}': their graphs differ in "
            f"{'; '.join(differences)} ({names[0]} and {names[1]}). Checkpoints of one timeline "
            "must have one shape; leave it out."
        )


def _head(reference: str, kept: Kept) -> Checkpoint:
    """Return what a timeline file says of a checkpoint."""
    return {
        "reference": reference,
        "model": kept.file.model,
        "certificate": kept.file.certificate,
        "measures": cast("dict[str, Values]", kept.measured),
    }


def _common(asked: Request, discovery: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a timeline file says of the discovery at every checkpoint."""
    return {
        "method": asked.method,
        **asked.options,
        **asked.select.as_dict(),
        "metric": asked.metric,
        "ablation": asked.ablation,
        **{key: discovery.get(key) for key in ("order", "dtype")},
    }
