"""Carry out a spec: prompts, circuits, evaluation, diffs, images and a report, nothing twice.

1. Make the prompt pairs, once, with the first model's tokenizer.
2. For each model: find its circuit, and measure it. Only here a model is loaded, and only if one
   of the two is not finished; one model is in memory at a time.
3. Compare each variant's circuit with the first model's.
4. Draw circuits and diffs. 5. Write the report.

Every step knows its inputs by content (see `ledger`) and is skipped if they have not changed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .fit import check_variant, open_as_declared, sample
from .graphs.files import (
    read_any,
    read_circuit,
    read_scores,
    scores_path,
    write_circuit,
    write_diff,
    write_scores,
)
from .graphs.json_files import dump_document
from .graphs.safe_write import write_text
from .ledger import Ledger, digest, file_sha256, fingerprint
from .opening import Progress, Session, make_runner, open_model
from .pictures import make_picture
from .run_files import (
    EVALUATION,
    PROMPTS,
    REPORT,
    SPEC,
    TASK,
    all_images,
    circuit_name,
    diff_name,
    image_names,
    relocated,
)
from .spec import ModelSpec, Spec

if TYPE_CHECKING:
    from .patching.prompts import PromptPairs


@dataclass(frozen=True)
class RunResult:
    """Tell what a run's directory holds, by model's name, and which steps this run did.

    Args:
        output, report, evaluation: the directory and two of its files.
        circuits, diffs: paths by the model's name (of a diff, the variant's).
        images: all pictures.
        made, kept: the steps carried out now, and those that were finished before.
    """

    output: Path
    report: Path
    evaluation: Path
    circuits: Mapping[str, Path]
    diffs: Mapping[str, Path]
    images: tuple[Path, ...]
    made: tuple[str, ...]
    kept: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        paths = {key: str(getattr(self, key)) for key in ("output", "report", "evaluation")}
        tables = {
            key: {name: str(path) for name, path in getattr(self, key).items()}
            for key in ("circuits", "diffs")
        }
        steps = {"made": list(self.made), "kept": list(self.kept)}
        return {**paths, **tables, "images": [str(path) for path in self.images], **steps}


def run(spec: Spec, output: str | Path, progress: Progress | None = None) -> RunResult:
    """Do what a spec declares, into a directory, and say what is there.

    Raises:
        EdgewiseError: the directory cannot be used, or a step failed; finished files stay.
    """
    job = _Job(spec, Ledger(output), progress)
    job.copy_spec()
    job.make_prompts()
    for model in spec.models:
        job.find_circuit(model)
        job.measure(model)
    job.tidy_evaluation()
    for model in spec.variants:
        job.compare(model)
    job.draw()
    job.report()
    return job.result()


class _Job:
    """Hold a run's spec, its ledger and the model that is open."""

    def __init__(self, spec: Spec, ledger: Ledger, progress: Progress | None) -> None:
        self.spec, self.ledger, self.progress = spec, ledger, progress
        self.made: list[str] = []
        self.kept: list[str] = []
        self._open: tuple[str, Session] | None = None
        self._fingerprints: dict[str, list[str]] = {}

    # -- steps ----------------------------------------------------------------------------------

    def copy_spec(self) -> None:
        """Write the spec with its defaults; its paths start from the output directory."""
        path = self.ledger.path(SPEC)
        text = relocated(self.spec, self.ledger.folder).to_toml()
        if not path.is_file() or path.read_bytes() != text.encode():
            write_text(path, text)

    def make_prompts(self) -> None:
        """Make the prompt pairs, as token ids, and note what a reader wants to know of them."""
        task = asdict(self.spec.task)
        if self.spec.task.file is not None:
            task["file"] = file_sha256(Path(self.spec.task.file))
        inputs = {"task": task, "model": self.fingerprint(self.spec.base)}

        def work() -> None:
            from .patching.prompt_files import write_pairs

            session = self.session(self.spec.base)
            pairs, left_out = open_as_declared(session, self.spec.task)
            about = {
                "name": pairs.name,
                "seed": pairs.seed,
                "examples": len(pairs),
                "sha256": pairs.sha256,
                "bos_prepended": pairs.bos_prepended,
                "origin": dict(pairs.origin),
                "left_out": None if left_out is None else str(left_out),
                "sample": sample(session, pairs.pairs[0]),
            }
            write_pairs(self.ledger.path(PROMPTS), pairs)
            write_text(self.ledger.path(TASK), dump_document(about, rows=()))

        self.step("prompts", inputs, [PROMPTS, TASK], work)

    def find_circuit(self, model: ModelSpec) -> None:
        """Find a model's circuit, with the scores of all edges beside it."""
        name = circuit_name(model)
        sidecar = scores_path(name).as_posix()
        inputs = {
            "model": self.fingerprint(model),
            "prompts": self.pairs.sha256,
            "graph": asdict(self.spec.graph),
            "discovery": asdict(self.spec.discovery),
            "compute": asdict(self.spec.compute),
        }

        def work() -> None:
            from .asking import Selection
            from .finding import discover
            from .journal import JournalFile, journal_path

            session = self.session(model)
            for metric in self.spec.evaluation.metrics:
                make_runner(session, self.pairs, metric=metric)  # refused now, not after hours
            if model != self.spec.base:
                base = read_circuit(self.ledger.folder / circuit_name(self.spec.base))
                own = partial(open_as_declared, session, self.spec.task)
                check_variant((self.spec.base.name, model.name), base, session, self.pairs, own)
            asked, path = self.spec.discovery, self.ledger.path(name)
            journal = JournalFile(journal_path(path), resume=True, or_anew=True)
            found = discover(
                session,
                self.pairs,
                method=asked.method,
                metric=asked.metric,
                ablation=asked.ablation,
                batch_size=self.spec.compute.batch_size,
                options=asked.options,
                select=Selection(asked.top, asked.above, asked.faithfulness),
                progress=self.telling(model),
                journal=journal,
            )
            about = {key: getattr(found.scores, key) for key in ("method", "metric", "ablation")}
            write_scores(path, found.scores.scores, **about)
            write_circuit(path, found.file)
            journal.remove()

        self.step(f"circuit of {model.name}", inputs, [sidecar, name], work)

    def measure(self, model: ModelSpec) -> None:
        """Measure a model's circuit by every metric, and its curve if that is asked for."""
        from .discovery.evaluation import curve, evaluate_by
        from .patching.metrics import get_metric

        path = self.ledger.path(circuit_name(model))
        inputs = {
            "files": self.ledger.sha256(circuit_name(model)),
            "prompts": self.pairs.sha256,
            "evaluation": asdict(self.spec.evaluation),
        }

        def work() -> None:
            runner = make_runner(
                self.session(model),
                self.pairs,
                metric=self.spec.discovery.metric,
                ablation=self.spec.discovery.ablation,
                batch_size=self.spec.compute.batch_size,
            )
            circuit, told = read_circuit(path).circuit, self.telling(model)
            told(0, 1, "circuits measured")
            metrics = [get_metric(metric) for metric in self.spec.evaluation.metrics]
            measured = evaluate_by(runner, circuit, metrics)
            found: dict[str, Any] = {"metrics": [one.as_dict() for one in measured]}
            if self.spec.evaluation.curve:
                scores = read_scores(path, circuit.graph).scores
                found["curve"] = curve(runner, scores, progress=told).as_dict()
            self.write_evaluation({**self.evaluations(), model.name: found})

        self.step(f"evaluation of {model.name}", inputs, [f"{EVALUATION}#{model.name}"], work)

    def compare(self, model: ModelSpec) -> None:
        """Compare a variant's circuit with the first model's."""
        base = self.spec.base
        names = (circuit_name(base), circuit_name(model))
        target = diff_name(base, model)

        def work() -> None:
            from .workflow import compare

            files = [read_circuit(self.ledger.folder / name) for name in names]
            write_diff(self.ledger.path(target), compare(files[0], files[1], names=names))

        inputs = {"files": self.ledger.sha256(*names), "names": names}
        self.step(f"diff of {base.name} and {model.name}", inputs, [target], work)

    def draw(self) -> None:
        """Draw every circuit and every diff."""
        for model in self.spec.models:
            self.picture(circuit_name(model), f"{self.task_name} in {model.name}", ("A", "B"))
        base = self.spec.base
        for model in self.spec.variants:
            title = f"{self.task_name} in {base.name} and {model.name}"
            self.picture(diff_name(base, model), title, (base.name, model.name))

    def picture(self, source: str, title: str, names: tuple[str, str]) -> None:
        """Draw one circuit or diff in every format."""
        files = image_names(self.spec, source)
        if not files:
            return
        asked = self.spec.drawing
        inputs = {
            "file": self.ledger.sha256(source),
            "title": title,
            "names": names,
            "drawing": asdict(asked),
        }

        def work() -> None:
            from .visualize.draw import draw

            picture = make_picture(read_any(self.ledger.folder / source), names, asked.top)
            for i, file in enumerate(files):
                if self.progress is not None:
                    self.progress(i, len(files), f"images drawn, at {file}")
                draw(
                    picture.subject,
                    self.ledger.path(file),
                    scores=picture.scores,
                    names=names,
                    whole=picture.whole,
                    title=title,
                    caption=picture.caption,
                    layout=asked.layout,
                )

        self.step(f"images of {Path(source).stem}", inputs, files, work)

    def report(self) -> None:
        """Write the report from the files of the other steps."""
        models, base = self.spec.models, self.spec.base
        names = [TASK, EVALUATION, *(circuit_name(model) for model in models)]
        names += [diff_name(base, model) for model in self.spec.variants]
        document = relocated(self.spec, self.ledger.folder).to_document()
        inputs = {"files": self.ledger.sha256(*names), "spec": document}

        def work() -> None:
            from .report import write_report

            write_report(self.spec, self.ledger.folder)

        self.step("report", inputs, [REPORT], work)

    def result(self) -> RunResult:
        """Say what there is."""
        folder, base = self.ledger.folder, self.spec.base
        return RunResult(
            output=folder,
            report=folder / REPORT,
            evaluation=folder / EVALUATION,
            circuits={model.name: folder / circuit_name(model) for model in self.spec.models},
            diffs={model.name: folder / diff_name(base, model) for model in self.spec.variants},
            images=tuple(folder / name for name in all_images(self.spec)),
            made=tuple(self.made),
            kept=tuple(self.kept),
        )

    # -- what steps share -----------------------------------------------------------------------

    def step(
        self, name: str, inputs: Mapping[str, Any], files: Sequence[str], work: Callable[[], None]
    ) -> None:
        """Do a step unless it is finished, and note that it is."""
        from . import __version__

        key = digest({"edgewise": __version__, **inputs})
        if self.ledger.done(name, key):
            self.kept.append(name)
            return
        for file in files:
            self.ledger.path(file.partition("#")[0])
        work()
        self.ledger.record(name, key, files)
        self.made.append(name)

    def fingerprint(self, model: ModelSpec) -> list[str]:
        """Identify a model without loading it."""
        if model.source not in self._fingerprints:
            self._fingerprints[model.source] = fingerprint(model.source)
        return self._fingerprints[model.source]

    def session(self, model: ModelSpec) -> Session:
        """Open a model; the one that was open before is let go."""
        if self._open is None or self._open[0] != model.name:
            self._open = None
            compute, graph = self.spec.compute, self.spec.graph
            told = self.telling(model)
            told(0, 1, "loading the model")
            session = open_model(
                model.source,
                dtype=compute.dtype,
                device=compute.device,
                grouped_kv=graph.grouped_kv,
                split_embedding=graph.split_embedding,
                progress=told,
            )
            self._open = (model.name, session)
        return self._open[1]

    def telling(self, model: ModelSpec) -> Progress:
        """Return a progress callback that names the model."""

        def told(done: int, total: int, what: str) -> None:
            if self.progress is not None:
                self.progress(done, total, f"{model.name}: {what}")

        return told

    @cached_property
    def about_task(self) -> dict[str, Any]:
        """Return what was noted of the prompt pairs."""
        found: dict[str, Any] = json.loads((self.ledger.folder / TASK).read_text("utf-8"))
        return found

    @property
    def task_name(self) -> str:
        """Return the task's name."""
        return str(self.about_task["name"])

    @cached_property
    def pairs(self) -> PromptPairs:
        """Return the prompt pairs every model gets."""
        from .patching.prompt_files import read_pairs

        about = self.about_task
        noted = {key: about[key] for key in ("name", "seed", "bos_prepended", "origin")}
        return replace(read_pairs(self.ledger.folder / PROMPTS), **noted)

    # -- the evaluation file --------------------------------------------------------------------

    def evaluations(self) -> dict[str, Any]:
        """Return what was measured so far, by model."""
        try:
            document = json.loads((self.ledger.folder / EVALUATION).read_text("utf-8"))
            return dict(document["models"])
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def write_evaluation(self, models: Mapping[str, Any]) -> None:
        """Write what was measured, in the spec's order."""
        known = {m.name: models[m.name] for m in self.spec.models if m.name in models}
        document = {"format": "edgewise/evaluation", "version": 1, "models": known}
        write_text(self.ledger.path(EVALUATION), dump_document(document, rows=()))

    def tidy_evaluation(self) -> None:
        """Take models that are no longer in the spec out of the evaluation."""
        found = self.evaluations()
        if list(found) != [model.name for model in self.spec.models]:
            self.write_evaluation(found)
