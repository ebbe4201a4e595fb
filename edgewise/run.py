"""Carry out a declared experiment: circuits, evaluation, diffs, images, a report; nothing twice.

1. Make the prompt pairs, once, with the first model's tokenizer.
2. For each model: find its circuit, measure it, and (if asked for) find it again on other prompts.
   Repetitions of the first model use the first R sets of prompts, those of every variant the other
   R, so that each variant's are independent of the first model's.
3. If asked for, run the circuits of every diff, and measure what their heads do, in both models.
4. Compare each variant's circuit with the first model's, by the same steps as `edgewise diff`.
5. Draw circuits and diffs. 6. Write the report.

Every step is known by what it depends on (see `Experiment.key`) and is skipped if its files are
those it would write. A model is opened only for a step that is done; one is in memory at a time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .experiment.document import read_spec
from .experiment.spec import EvaluationSpec, Experiment, ModelSpec
from .graphs.comparison import RolesInModel
from .graphs.diff import CircuitDiff
from .graphs.errors import FileFormatError, within_memory
from .graphs.files import (
    diff_files,
    read_any,
    read_circuit,
    read_scores,
    scores_path,
    write_circuit,
    write_diff,
    write_scores,
)
from .graphs.files.atomic import write_text
from .graphs.files.json_files import dump_document
from .graphs.files.reading import read_json
from .graphs.roles import HeadRoles
from .progress import SILENT, Progress, named
from .session import Session, make_runner, open_model, open_task
from .steps.compare import CloserLook, InModel, Prompts, put_together
from .steps.cross_evaluation import RANDOM, CrossPlan, MeasuredCircuits, cross_in
from .steps.discover import discover
from .steps.fit import check_variant, sample
from .steps.head_roles import circuit_heads, roles_in
from .steps.repeat import PromptSets, Repeats, made_sets, repeat_in, split_pairs
from .store.hashes import file_sha256, fingerprint
from .store.names import (
    EVALUATION,
    PROMPTS,
    REPETITION_PROMPTS,
    REPETITION_SEEDS,
    REPORT,
    REPORT_PAGE,
    SPEC,
    TASK,
    all_images,
    circuit_name,
    cross_name,
    diff_name,
    heat_map_names,
    image_names,
    overlap_names,
    relocated,
    repeats_name,
    roles_name,
)
from .store.store import Store

if TYPE_CHECKING:
    from .experiment.key import Key
    from .graphs.files import CircuitFile
    from .graphs.graph import ComputationGraph
    from .patching.prompts.pairs import PromptPairs


@dataclass(frozen=True)
class RunResult:
    """Files in a run's directory, and its steps: made now, or kept as they were finished before.

    `page` is the report as HTML with its pictures in it; `circuits` and `diffs` are by the model's
    name, of a diff the variant's.
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

    def as_dict(self) -> dict[str, object]:
        """Return everything as plain values."""
        plain: dict[str, object] = json.loads(json.dumps(asdict(self), default=str))
        return plain


@within_memory()
def run(spec: Experiment, output: str | Path, progress: Progress | None = None) -> RunResult:
    """Do what a spec declares, into a directory, and say what is there.

    Raises:
        EdgewiseError: the directory cannot be used, or a step failed; finished files stay.
    """
    with Store(output) as store:
        job = _Run(spec, store, progress)
        store.write(SPEC, relocated(spec, store.folder).to_toml())
        job.make_prompts()
        job.make_repetition_prompts()
        for model in spec.models:
            job.find_circuit(model)
            job.measure(model)
            job.repeat(model)
        job.write_evaluation(job.evaluations())
        for variant in reversed(spec.variants):  # the last one may still be open
            job.look_closer_in(variant, variant)
        for variant in spec.variants:
            job.look_closer_in(spec.base, variant)
        for variant in spec.variants:
            job.compare(variant)
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


class _Run:
    """The steps of a run, with what they share: the store, the open model, the prompt pairs."""

    def __init__(self, spec: Experiment, store: Store, progress: Progress | None) -> None:
        self.spec, self.store, self.progress = spec, store, progress or SILENT
        self.made: list[str] = []
        self.kept: list[str] = []
        self._open: tuple[str, Session] | None = None
        self._fingerprint = cache(fingerprint)

    def step(self, name: str, files: Sequence[str], make: Callable[[], None], key: Key) -> None:
        """Do a step unless it is done; `key` is what its files depend on."""
        made = self.store.get(name, key.sha256, files, make)
        (self.made if made else self.kept).append(name)

    def fingerprint(self, model: ModelSpec) -> list[str]:
        """Identify a model without loading it."""
        return self._fingerprint(model.source)

    def session(self, model: ModelSpec) -> Session:
        """Open a model; the one that was open before is let go."""
        if self._open is None or self._open[0] != model.name:
            self._open = None
            told = self.telling(model)
            told(0, 1, "loading the model")
            session = open_model(model.source, self.spec.graph, self.spec.compute, progress=told)
            self._open = (model.name, session)
        return self._open[1]

    def telling(self, model: ModelSpec) -> Progress:
        """Return a progress callback that names the model."""
        return named(self.progress, model.name)

    def place(self, name: str) -> Path:
        """Return where a finished file is."""
        return self.store.folder / name

    # -- prompts --------------------------------------------------------------------------------

    def make_prompts(self) -> None:
        """Make the prompt pairs, as token ids, and note what a reader wants to know of them."""
        base, file = self.spec.base, self.spec.task.file

        def make() -> None:
            from .patching.prompts.pair_files import write_pairs

            session = self.session(base)
            pairs, left_out = open_task(session, self.spec.task)
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
            self.store.write(TASK, dump_document(about, rows=()))

        content = None if file is None else file_sha256(Path(file))
        key = self.spec.key("task", model=self.fingerprint(base), file=content)
        self.step("prompts", [PROMPTS, TASK], make, key)

    @cached_property
    def about_task(self) -> dict[str, Any]:
        """Return what was noted of the prompt pairs."""
        found: dict[str, Any] = read_json(self.place(TASK))
        return found

    @cached_property
    def pairs(self) -> PromptPairs:
        """Return the prompt pairs every model gets."""
        from .patching.prompts.pair_files import read_pairs

        about = self.about_task
        noted = {key: about[key] for key in ("name", "seed", "bos_prepended", "origin")}
        return replace(read_pairs(self.place(PROMPTS)), **noted)

    def make_repetition_prompts(self) -> None:
        """Make the prompts of all repetitions with the first model's tokenizer."""
        number, task, base = self.spec.comparison.noise_floor, self.spec.task, self.spec.base
        if number is None:
            return

        def make() -> None:
            from .patching.prompts.pair_files import write_pairs

            if task.file is not None:
                sets = split_pairs(self.pairs, number)
            else:
                first = 1 + (task.seed or 0)
                sets = made_sets(self.session(base), task, number, first_seed=first)
            everything = tuple(pair for one in (*sets.a, *sets.b) for pair in one)
            about = {"examples": sets.examples, "seeds_a": sets.seeds_a, "seeds_b": sets.seeds_b}
            write_pairs(self.store.path(REPETITION_PROMPTS), replace(self.pairs, pairs=everything))
            self.store.write(REPETITION_SEEDS, dump_document(about, rows=()))

        model = self.fingerprint(base)
        key = self.spec.key("task", prompts=self.pairs.sha256, repetitions=number, model=model)
        files = [REPETITION_PROMPTS, REPETITION_SEEDS]
        self.step("prompts of the repetitions", files, make, key)

    @cached_property
    def sets(self) -> PromptSets:
        """Return the prompts of all repetitions."""
        from .patching.prompts.pair_files import read_pairs

        about = read_json(self.place(REPETITION_SEEDS))
        pairs, size = read_pairs(self.place(REPETITION_PROMPTS)).pairs, about["examples"]
        sets = tuple(
            replace(self.pairs, pairs=pairs[i : i + size]) for i in range(0, len(pairs), size)
        )
        half = len(sets) // 2
        seeds = (tuple(about[key]) for key in ("seeds_a", "seeds_b"))
        return PromptSets(sets[:half], sets[half:], *seeds)

    # -- in one model ---------------------------------------------------------------------------

    def find_circuit(self, model: ModelSpec) -> None:
        """Find a model's circuit, with the scores of all edges beside it."""
        name, base = circuit_name(model), self.spec.base

        def make() -> None:
            session = self.session(model)
            for metric in self.spec.evaluation.metrics:
                make_runner(session, self.pairs, metric=metric)  # refused now, not after hours
            if model != base:
                names = base.name, model.name
                check_variant(names, self.circuit(base), session, self.pairs, self.spec.task)
            path, journal = self.store.path(name), self.store.journal(name)
            asked = self.spec.discovery
            found = discover(
                session, self.pairs, asked, self.spec.compute,
                progress=self.telling(model), journal=journal,
            )  # fmt: skip
            about = {key: getattr(found.scores, key) for key in ("method", "metric", "ablation")}
            write_scores(path, found.scores.scores, **about)
            write_circuit(path, found.file)
            journal.remove()

        key = self.spec.key(
            "graph", "discovery", "compute",
            model=self.fingerprint(model), prompts=self.pairs.sha256,
        )  # fmt: skip
        self.step(f"circuit of {model.name}", [scores_path(name).as_posix(), name], make, key)

    def measure(self, model: ModelSpec) -> None:
        """Measure a model's circuit by every metric, and its curve if that is asked for."""
        from .discovery.evaluation import curve, evaluate_by
        from .patching.metrics.registry import get_metric

        path, asked = self.place(circuit_name(model)), self.spec.discovery

        def make() -> None:
            runner = make_runner(
                self.session(model), self.pairs, metric=asked.metric, ablation=asked.ablation,
                batch_size=self.spec.compute.batch_size,
            )  # fmt: skip
            circuit, told = read_circuit(path).circuit, self.telling(model)
            told(0, 1, "circuits measured")
            metrics = [get_metric(metric) for metric in self.spec.evaluation.metrics]
            measured = evaluate_by(runner, circuit, metrics)
            found: dict[str, object] = {"metrics": [one.as_dict() for one in measured]}
            if self.spec.evaluation.curve:
                scores = read_scores(path, circuit.graph).scores
                found["curve"] = curve(runner, scores, progress=told).as_dict()
            self.write_evaluation({**self.evaluations(), model.name: found})

        file = self.store.sha256(circuit_name(model))
        key = self.spec.key("evaluation", file=file, prompts=self.pairs.sha256)
        self.step(f"evaluation of {model.name}", [f"{EVALUATION}#{model.name}"], make, key)

    def evaluations(self) -> dict[str, object]:
        """Return what was measured so far, by model."""
        try:
            return dict(read_json(self.place(EVALUATION))["models"])
        except (FileFormatError, KeyError, TypeError, ValueError):
            return {}

    def write_evaluation(self, models: Mapping[str, object]) -> None:
        """Write what was measured, in the spec's order, without other models."""
        known = {m.name: models[m.name] for m in self.spec.models if m.name in models}
        document = {"format": "edgewise/evaluation", "version": 1, "models": known}
        self.store.write(EVALUATION, dump_document(document, rows=()))

    def repeat(self, model: ModelSpec) -> None:
        """Repeat the discovery in a model."""
        if self.spec.comparison.noise_floor is None:
            return
        side, target = int(model != self.spec.base), repeats_name(model)

        def make() -> None:
            found = repeat_in(
                self.session(model), self.spec.discovery, self.sets[side],
                batch_size=self.spec.compute.batch_size, progress=self.telling(model),
            )  # fmt: skip
            found.write(self.store.path(target))

        key = self.spec.key(
            "graph", "discovery", "compute", model=self.fingerprint(model), side=side,
            prompts=self.store.sha256(REPETITION_PROMPTS, REPETITION_SEEDS),
        )  # fmt: skip
        self.step(f"repetitions of {model.name}", [target], make, key)

    # -- two circuits ---------------------------------------------------------------------------

    @property
    def asked(self) -> CloserLook:
        """Return what is asked of every diff."""
        discovery, comparison = self.spec.discovery, self.spec.comparison
        measure = EvaluationSpec((discovery.metric,), ablation=discovery.ablation)
        return CloserLook(
            comparison, measure, None if comparison.noise_floor is None else discovery
        )

    def circuit(self, model: ModelSpec) -> CircuitFile:
        """Read a model's circuit."""
        return read_circuit(self.place(circuit_name(model)))

    def sides(self, variant: ModelSpec) -> tuple[CircuitFile, CircuitFile]:
        """Read the two circuits of a diff."""
        return self.circuit(self.spec.base), self.circuit(variant)

    def look_closer_in(self, model: ModelSpec, variant: ModelSpec) -> None:
        """Run a diff's circuits, and measure what their heads do, in one of its models."""
        base, told, size = self.spec.base, self.telling(model), self.spec.compute.batch_size
        key = self.spec.key(
            "compute", model=self.fingerprint(model), prompts=self.pairs.sha256, random=RANDOM,
            circuits=self.store.sha256(circuit_name(base), circuit_name(variant)),
        )  # fmt: skip
        both = f"of {base.name} and {variant.name}"

        def cross() -> None:
            plan = CrossPlan.of(CircuitDiff(*(file.circuit for file in self.sides(variant))))
            found = cross_in(
                self.session(model), self.pairs, plan, self.asked.measure,
                batch_size=size, progress=told,
            )  # fmt: skip
            path = self.store.path(cross_name(base, variant, model))
            write_text(path, dump_document(asdict(found), rows=()))

        def roles() -> None:
            a, b = (file.circuit for file in self.sides(variant))
            found = roles_in(self.session(model), self.pairs, circuit_heads(a | b), told)
            heads = [head.as_dict(a.graph.layers) for head in found.heads]
            document = {"heads": heads, "notes": list(found.notes)}
            path = self.store.path(roles_name(base, variant, model))
            write_text(path, dump_document(document, rows=("heads",)))

        if self.spec.comparison.cross:
            name, files = (
                f"circuits {both} run in {model.name}",
                [cross_name(base, variant, model)],
            )
            self.step(name, files, cross, key)
        if self.spec.comparison.roles:
            name, files = (f"head roles {both} in {model.name}", [roles_name(base, variant, model)])
            self.step(name, files, roles, key)

    def found_in(self, model: ModelSpec, variant: ModelSpec, graph: ComputationGraph) -> InModel:
        """Read what was found in one of a diff's models."""
        base, asked = self.spec.base, self.spec.comparison
        repeats: Repeats | None = None
        cross: MeasuredCircuits | None = None
        roles: RolesInModel | None = None
        if asked.noise_floor is not None:
            repeats = Repeats.read(self.place(repeats_name(model)), graph)
        if asked.cross:
            cross = MeasuredCircuits(**read_json(self.place(cross_name(base, variant, model))))
        if asked.roles:
            found = read_json(self.place(roles_name(base, variant, model)))
            rows = ((row["head"], row["scores"], row["spans"]) for row in found["heads"])
            heads = tuple(HeadRoles.of(*row) for row in rows)
            roles = RolesInModel(heads, tuple(found["notes"]))
        return InModel(model.name, repeats, cross, roles)

    def compare(self, variant: ModelSpec) -> None:
        """Compare a variant's circuit with the first model's."""
        base, asked = self.spec.base, self.spec.comparison
        names = circuit_name(base), circuit_name(variant)
        target = diff_name(base, variant)
        further = []
        if asked.noise_floor is not None:
            further += [REPETITION_SEEDS, repeats_name(base), repeats_name(variant)]
        for wanted, name_of in ((asked.cross, cross_name), (asked.roles, roles_name)):
            further += [name_of(base, variant, one) for one in (base, variant) if wanted]

        def make() -> None:
            files = self.sides(variant)
            graph = files[0].circuit.graph
            a, b = (read_scores(self.place(name), graph).scores for name in names)
            sets = None if asked.noise_floor is None else self.sets
            found = put_together(
                diff_files(*files, names=names, scores=(a, b)),
                self.asked,
                Prompts(self.pairs, sets),
                self.found_in(base, variant, graph),
                self.found_in(variant, variant, graph),
            )
            write_diff(self.store.path(target), found)

        key = self.spec.key("comparison", files=self.store.sha256(*names, *further), names=names)
        self.step(f"diff of {base.name} and {variant.name}", [target], make, key)

    # -- pictures and words ---------------------------------------------------------------------

    def draw(self) -> None:
        """Draw every circuit and diff, node scores, and the overlaps of all circuits."""
        base, task = self.spec.base, self.about_task["name"]
        for model in self.spec.models:
            self.picture(circuit_name(model), f"{task} in {model.name}", ("A", "B"))
        for model in self.spec.variants:
            title = f"{task} in {base.name} and {model.name}"
            self.picture(diff_name(base, model), title, (base.name, model.name))
        for model in self.spec.variants:
            self.heat_map(diff_name(base, model), [base, model])
        if not self.spec.variants:
            self.heat_map(circuit_name(base), [base])
        self.overlap()

    def picture(self, source: str, title: str, names: tuple[str, str]) -> None:
        """Draw one circuit or diff in every format."""
        asked = self.spec.drawing

        def prepare() -> Callable[[Path], object]:
            from .visualize.draw import draw
            from .visualize.pictures import make_picture

            picture = make_picture(read_any(self.place(source)), names, asked.top)
            how = replace(picture.drawing, names=names, title=title, layout=asked.layout)
            return lambda path: draw(picture.subject, path, how)

        self.images(
            f"images of {Path(source).stem}", image_names(self.spec, source), prepare,
            file=self.store.sha256(source), title=title, names=names, top=asked.top,
            layout=asked.layout,
        )  # fmt: skip

    def heat_map(self, source: str, models: list[ModelSpec]) -> None:
        """Draw the node scores of one model or two, from the scores of all edges."""
        title = f"Node scores of {' and '.join(m.name for m in models)}: {self.about_task['name']}"
        scored = {model.name: scores_path(circuit_name(model)).as_posix() for model in models}

        def prepare() -> Callable[[Path], object]:
            from .visualize.charts.heat_map import ScoredSide, draw_heat_map
            from .visualize.draw import write_scene

            sides = [
                ScoredSide(name, read_scores(self.place(file)).scores, kept=False)
                for name, file in scored.items()
            ]
            return partial(write_scene, draw_heat_map(sides, title=title))

        step, files = f"heat map of {Path(source).stem}", heat_map_names(self.spec, source)
        self.images(step, files, prepare, files=self.store.sha256(*scored.values()), title=title)

    def overlap(self) -> None:
        """Draw how alike every two circuits are."""
        title, models = f"Overlap of the circuits: {self.about_task['name']}", self.spec.models

        def prepare() -> Callable[[Path], object]:
            from .visualize.charts.overlap import draw_overlap
            from .visualize.draw import write_scene

            circuits = {model.name: self.circuit(model).circuit for model in models}
            return partial(write_scene, draw_overlap(circuits, title=title)[0])

        hashes = self.store.sha256(*map(circuit_name, models))
        files = overlap_names(self.spec)
        self.images("overlap of all circuits", files, prepare, files=hashes, title=title)

    def images(
        self,
        step: str,
        images: list[str],
        prepare: Callable[[], Callable[[Path], object]],
        **facts: object,
    ) -> None:
        """Draw a picture in every format, if there is any, by what `prepare` returns."""

        def make() -> None:
            write = prepare()
            for i, image in enumerate(images):
                self.progress(i, len(images), f"images drawn, at {image}")
                write(self.store.path(image))

        if images:
            self.step(step, images, make, self.spec.key(images=images, **facts))

    def report(self) -> None:
        """Write the report from the files of the other steps."""
        from .report.report import write_report

        base = self.spec.base
        names = [TASK, EVALUATION, *(circuit_name(model) for model in self.spec.models)]
        names += [diff_name(base, model) for model in self.spec.variants]
        folder = self.store.folder
        key = self.spec.key(
            files=self.store.sha256(*names, *all_images(self.spec)),
            spec=relocated(self.spec, folder).to_document(),
        )
        self.step("report", [REPORT, REPORT_PAGE], lambda: write_report(self.spec, folder), key)

    def result(self) -> RunResult:
        """Say what there is."""
        base = self.spec.base
        return RunResult(
            output=self.store.folder,
            report=self.place(REPORT),
            page=self.place(REPORT_PAGE),
            evaluation=self.place(EVALUATION),
            circuits={model.name: self.place(circuit_name(model)) for model in self.spec.models},
            diffs={model.name: self.place(diff_name(base, model)) for model in self.spec.variants},
            images=tuple(map(self.place, all_images(self.spec))),
            made=tuple(self.made),
            kept=tuple(self.kept),
        )
