"""Carry out a spec: prompts, circuits, evaluation, diffs, images and a report, nothing twice.

1. Make the prompt pairs, once, with the first model's tokenizer.
2. For each model: find its circuit, measure it, and (if asked for) find it again on other prompts.
   A model is loaded only if one of these is not finished; one is in memory at a time.
3. Compare each variant's circuit with the first model's (see `run_compare`); if asked for, run both
   in both models.
4. Draw circuits and diffs. 5. Write the report.

Every step knows its inputs by content (see `store`) and is skipped if they have not changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .experiment.document import read_spec
from .experiment.spec import Experiment as Spec
from .experiment.spec import ModelSpec
from .graphs.files import (
    read_any,
    read_circuit,
    read_scores,
    scores_path,
    write_circuit,
    write_scores,
)
from .graphs.files.atomic import write_text
from .graphs.files.json_files import dump_document
from .run_compare import Comparing
from .run_maps import draw_maps
from .session import Progress, make_runner
from .steps.fit import check_variant, open_as_declared, sample
from .store.hashes import file_sha256
from .store.names import (
    EVALUATION,
    PROMPTS,
    REPORT,
    REPORT_PAGE,
    SPEC,
    TASK,
    all_images,
    circuit_name,
    diff_name,
    image_names,
    relocated,
)
from .store.store import Store


@dataclass(frozen=True)
class RunResult:
    """Tell what a run's directory holds, by model's name, and which steps this run did.

    Args:
        output, report, page, evaluation: the directory and three of its files; `page` is the
            report as HTML with its pictures in it.
        circuits, diffs: paths by the model's name (of a diff, the variant's).
        images: all pictures.
        made, kept: the steps carried out now, and those that were finished before.
    """

    output: Path
    report: Path
    page: Path
    evaluation: Path
    circuits: Mapping[str, Path]
    diffs: Mapping[str, Path]
    images: tuple[Path, ...]
    made: tuple[str, ...]
    kept: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        paths = {key: str(getattr(self, key)) for key in ("output", "report", "page", "evaluation")}
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
    with Store(output) as store:
        job = _Run(spec, store, progress)
        job.copy_spec()
        job.make_prompts()
        job.make_repetition_prompts()
        for model in spec.models:
            job.find_circuit(model)
            job.measure(model)
            job.repeat(model)
        job.tidy_evaluation()
        job.run_across()
        for model in spec.variants:
            job.compare(model)
        job.draw()
        job.report()
        return job.result()


def run_spec(path: str | Path, output: str | Path, progress: Progress | None = None) -> RunResult:
    """Do everything a spec declares, into a directory; what is there already is not redone.

    Raises:
        SpecError: the spec is wrong; all problems are listed.
        EdgewiseError: the directory cannot be used, or a step failed; finished files stay.
    """
    return run(read_spec(path), output, progress)


class _Run(Comparing):
    """Carry out the steps of a run."""

    def copy_spec(self) -> None:
        """Write the spec with its defaults; its paths start from the output directory."""
        path = self.store.path(SPEC)
        text = relocated(self.spec, self.store.folder).to_toml()
        if not path.is_file() or path.read_bytes() != text.encode():
            write_text(path, text)

    def make_prompts(self) -> None:
        """Make the prompt pairs, as token ids, and note what a reader wants to know of them."""
        task = asdict(self.spec.task)
        if self.spec.task.file is not None:
            task["file"] = file_sha256(Path(self.spec.task.file))
        inputs = {"task": task, "model": self.fingerprint(self.spec.base)}

        def work() -> None:
            from .patching.prompts.pair_files import write_pairs

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
            write_pairs(self.store.path(PROMPTS), pairs)
            write_text(self.store.path(TASK), dump_document(about, rows=()))

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
            from .steps.discover import discover

            session = self.session(model)
            for metric in self.spec.evaluation.metrics:
                make_runner(session, self.pairs, metric=metric)  # refused now, not after hours
            if model != self.spec.base:
                base = read_circuit(self.store.folder / circuit_name(self.spec.base))
                names = (self.spec.base.name, model.name)
                check_variant(names, base, session, self.pairs, self.spec.task)
            asked, path = self.spec.discovery, self.store.path(name)
            journal = self.store.journal(name)
            found = discover(
                session,
                self.pairs,
                method=asked.method,
                metric=asked.metric,
                ablation=asked.ablation,
                batch_size=self.spec.compute.batch_size,
                options=asked.options,
                select=asked.select,
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
        from .patching.metrics.registry import get_metric

        path = self.store.path(circuit_name(model))
        inputs = {
            "files": self.store.sha256(circuit_name(model)),
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

    def draw(self) -> None:
        """Draw every circuit and every diff, and node scores and overlaps."""
        for model in self.spec.models:
            self.picture(circuit_name(model), f"{self.task_name} in {model.name}", ("A", "B"))
        base = self.spec.base
        for model in self.spec.variants:
            title = f"{self.task_name} in {base.name} and {model.name}"
            self.picture(diff_name(base, model), title, (base.name, model.name))
        draw_maps(self)

    def picture(self, source: str, title: str, names: tuple[str, str]) -> None:
        """Draw one circuit or diff in every format."""
        files = image_names(self.spec, source)
        if not files:
            return
        asked = self.spec.drawing
        inputs = {
            "file": self.store.sha256(source),
            "title": title,
            "names": names,
            "drawing": {key: getattr(asked, key) for key in ("formats", "top", "layout")},
        }

        def work() -> None:
            from .visualize.draw import draw
            from .visualize.pictures import make_picture

            picture = make_picture(read_any(self.store.folder / source), names, asked.top)
            for i, file in enumerate(files):
                if self.progress is not None:
                    self.progress(i, len(files), f"images drawn, at {file}")
                draw(
                    picture.subject,
                    self.store.path(file),
                    picture.drawing,
                    names=names,
                    title=title,
                    layout=asked.layout,
                )

        self.step(f"images of {Path(source).stem}", inputs, files, work)

    def report(self) -> None:
        """Write the report from the files of the other steps."""
        models, base = self.spec.models, self.spec.base
        names = [TASK, EVALUATION, *(circuit_name(model) for model in models)]
        names += [diff_name(base, model) for model in self.spec.variants]
        names += all_images(self.spec)
        document = relocated(self.spec, self.store.folder).to_document()
        inputs = {"files": self.store.sha256(*names), "spec": document}

        def work() -> None:
            from .report.report import write_report

            write_report(self.spec, self.store.folder)

        self.step("report", inputs, [REPORT, REPORT_PAGE], work)

    def result(self) -> RunResult:
        """Say what there is."""
        folder, base = self.store.folder, self.spec.base
        return RunResult(
            output=folder,
            report=folder / REPORT,
            page=folder / REPORT_PAGE,
            evaluation=folder / EVALUATION,
            circuits={model.name: folder / circuit_name(model) for model in self.spec.models},
            diffs={model.name: folder / diff_name(base, model) for model in self.spec.variants},
            images=tuple(folder / name for name in all_images(self.spec)),
            made=tuple(self.made),
            kept=tuple(self.kept),
        )
