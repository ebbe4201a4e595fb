"""Carry out a declared experiment: circuits, evaluation, diffs, images, a report; nothing twice.

Every step is known by what it depends on (see `Experiment.key`) and is skipped if its files are
those it would write. A model is opened only for a step that is done; one is in memory at a time.
Diffs are made by the same steps as `edgewise diff`. Repetitions of the first model use the first R
sets of prompts, those of every variant the other R, so that these are independent of the first's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

from .discovery.evaluation import HELD_OUT, evaluate_by
from .discovery.measures.curve import curve
from .experiment.document import read_spec
from .experiment.key import Key, key_of
from .experiment.spec import DiscoverySpec, Experiment, ModelSpec
from .graphs.calls.typed import typed
from .graphs.comparison import RolesInModel
from .graphs.diff import CircuitDiff, shape_differences
from .graphs.errors import FileFormatError, GraphMismatch, PromptError, within_memory
from .graphs.files import (
    CircuitFile,
    diff_files,
    examples_path,
    read_any,
    read_circuit,
    read_scores,
    scores_path,
    write_circuit,
    write_diff,
    write_example_scores,
    write_scores,
)
from .graphs.files.json_files import dump_document
from .graphs.files.reading import is_there, read_json
from .graphs.graph import ComputationGraph
from .graphs.roles import HeadRoles
from .patching.engines import about_engine
from .patching.metrics.functions import as_metric
from .patching.prompts.pair_files import SHAPE, read_pairs, write_pairs
from .patching.prompts.pairs import Pair, PromptPairs
from .patching.prompts.splits import PromptSplit
from .progress import SILENT, Progress, named, prompts_are_there
from .report.report import write_report
from .session import Session, make_runner, open_model
from .steps.claims.claims import claims_block, claims_of
from .steps.compare import CloserLook, InModel, add_function, put_together
from .steps.comparison.paired import ComparedPairs, scoring_for
from .steps.comparison.scored import ScoredModel, score_model
from .steps.cross_evaluation import RANDOM, CrossPlan, MeasuredCircuits, cross_in
from .steps.discover import discover, held_out_runner
from .steps.found.blocks import task_block
from .steps.head_roles import circuit_heads, roles_in
from .steps.repeat import PromptSets, Repeats, made_sets, repeat_in, split_pairs
from .steps.same_prompts import prompt_difference
from .steps.stored import experiment_pairs, experiment_split
from .store import names
from .store.hashes import file_sha256, fingerprint
from .store.store import Store
from .visualize.charts.heat_map import ScoredSide, draw_heat_map
from .visualize.charts.overlap import draw_overlap
from .visualize.draw import draw, write_scene
from .visualize.pictures import make_picture

NOTED = ("name", "seed", "bos_prepended", "origin")
"""What is noted of the prompt pairs, beside their ids, to take them up again."""

REPETITIONS = (names.REPETITION_PROMPTS, names.REPETITION_SEEDS)


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
        return dict(json.loads(json.dumps(asdict(self), default=str)))


@within_memory()
def run(spec: Experiment, output: str | Path, progress: Progress | None = None) -> RunResult:
    """Do what a spec declares, into a directory, and say what is there.

    Raises:
        EdgewiseError: the directory cannot be used, or a step failed; finished files stay.
    """
    with Store(output) as store:
        job = _Run(spec, store, progress)
        store.write(names.SPEC, names.relocated(spec, store.folder).to_toml())
        job.make_prompts()
        job.make_test_prompts()
        job.make_repetition_prompts()
        for model in spec.models:
            job.find_circuit(model)
            job.measure(model)
            job.score(model)
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


@typed
def run_spec(path: str | Path, output: str | Path, progress: Progress | None = None) -> RunResult:
    """Do what the spec at a path declares, as `run` does; a SpecError lists all that is wrong."""
    return run(read_spec(path), output, progress)


class _Run:
    """The steps of a run, with what they share: the store, the open model, the prompt pairs."""

    def __init__(self, spec: Experiment, store: Store, progress: Progress | None) -> None:
        self.spec, self.store, self.progress = spec, store, progress or SILENT
        self.made: list[str] = []
        self.kept: list[str] = []
        self.drawn: list[str] = []
        self.fingerprint = cache(lambda model: fingerprint(model.source))
        self.by = spec.discovery.metric, spec.discovery.ablation
        self._open: tuple[ModelSpec, Session] | None = None
        self._split: PromptSplit | None = None

    def step(self, name: str, files: Sequence[str], make: Callable[[], None], key: Key) -> None:
        """Do a step unless it is done; `key` is what its files depend on."""
        made = self.store.get(name, key.sha256, files, make)
        (self.made if made else self.kept).append(name)

    def session(self, model: ModelSpec) -> Session:
        """Open a model; the one that was open before is let go."""
        if self._open is None or self._open[0] != model:
            self._open = None
            report = named(self.progress, model.name)
            report(0, 1, "loading the model")
            session = open_model(model.source, self.spec.graph, self.spec.compute, progress=report)
            self._open = (model, session)
        return self._open[1]

    # -- prompts --------------------------------------------------------------------------------

    def make_prompts(self) -> None:
        """Make the prompt pairs, as token ids, and note what a reader wants to know of them."""
        base, file, circuit = self.spec.base, self.spec.task.file, self.spec.circuit

        def make() -> None:
            session = self.session(base)
            split = self._split = experiment_split(self.spec, session)
            pairs, left_out = split.discovery, split.report
            about = {
                **{key: getattr(pairs, key) for key in NOTED},
                "examples": len(pairs),
                "sha256": pairs.sha256,
                "left_out": _understood(pairs) if left_out is None else str(left_out),
                "sample": _shown(pairs.pairs[0], session.loaded.tokenizer),
                "held_out": split.words or None,
                "test": task_block(split).get("test"),
            }
            write_pairs(self.store.path(names.PROMPTS), pairs)
            self.store.write(names.TASK, dump_document(about, rows=()))

        facts: dict[str, object] = {"model": self.fingerprint(base)}
        if circuit is not None:  # whose file may hold the pairs of a file that is gone
            facts["circuit"] = circuit.task["sha256"]
        if file is not None and (circuit is None or is_there(file)):
            facts["file"] = file_sha256(Path(file))
        self.step("prompts", [names.PROMPTS, names.TASK], make, self.spec.key("task", **facts))
        prompts_are_there(self.progress, self.about_task["origin"])

    def make_test_prompts(self) -> None:
        """Write the prompt pairs that are held out, if there are any."""
        test = self.about_task.get("test")
        if test is None:
            return

        def make() -> None:
            split = self._split or experiment_split(self.spec, self.session(self.spec.base))
            if split.test is None or split.test.sha256 != test["sha256"]:
                raise PromptError(
                    "the held-out pairs cannot be made as they were; run into an empty directory."
                )
            write_pairs(self.store.path(names.TEST_PROMPTS), split.test)

        key = self.spec.key("task", prompts=self.pairs.sha256, test=test["sha256"])
        self.step("held-out prompts", [names.TEST_PROMPTS], make, key)

    @cached_property
    def split(self) -> PromptSplit:
        """Return the pairs that circuits are found on, with those that are held out."""
        test, words = self.about_task.get("test"), self.about_task.get("held_out") or ""
        if test is None:
            return PromptSplit(self.pairs, words=words)
        asked = test["asked"]["examples"], test["asked"]["test"]
        held = replace(self.pairs, pairs=_written(self.store.path(names.TEST_PROMPTS)).pairs)
        return PromptSplit(self.pairs, held, words, asked, test["seed"])

    @cached_property
    def about_task(self) -> dict[str, Any]:
        return dict(read_json(self.store.path(names.TASK)))

    @cached_property
    def pairs(self) -> PromptPairs:
        noted = {key: self.about_task[key] for key in NOTED}
        return replace(_written(self.store.path(names.PROMPTS)), **noted)

    def make_repetition_prompts(self) -> None:
        """Make the prompts of all repetitions with the first model's tokenizer."""
        number, task, base = self.spec.comparison.noise_floor, self.spec.task, self.spec.base
        if number is None:
            return

        def make() -> None:
            if task.file is not None:
                sets = split_pairs(self.pairs, number)
            else:
                sets = made_sets(self.session(base), task, number, first_seed=1 + (task.seed or 0))
            together = tuple(pair for one in (*sets.a, *sets.b) for pair in one)
            about = {"examples": sets.examples, "seeds_a": sets.seeds_a, "seeds_b": sets.seeds_b}
            pairs = replace(self.pairs, pairs=together)
            write_pairs(self.store.path(names.REPETITION_PROMPTS), pairs)
            self.store.write(names.REPETITION_SEEDS, dump_document(about, rows=()))

        model, prompts = self.fingerprint(base), self.pairs.sha256
        key = self.spec.key("task", prompts=prompts, repetitions=number, model=model)
        self.step("prompts of the repetitions", REPETITIONS, make, key)

    @cached_property
    def sets(self) -> PromptSets:
        about = read_json(self.store.path(names.REPETITION_SEEDS))
        pairs = _written(self.store.path(names.REPETITION_PROMPTS)).pairs
        starts, size = range(0, len(pairs), about["examples"]), about["examples"]
        sets = [replace(self.pairs, pairs=pairs[start : start + size]) for start in starts]
        return PromptSets.of(sets, (*about["seeds_a"], *about["seeds_b"]))

    # -- in one model ---------------------------------------------------------------------------

    def circuit(self, model: ModelSpec) -> CircuitFile:
        return read_circuit(self.store.path(names.circuit_name(model)))

    def find_circuit(self, model: ModelSpec) -> None:
        """Find a model's circuit, with the scores of all edges beside it."""
        name, spec = names.circuit_name(model), self.spec

        def make() -> None:
            session = self.session(model)
            for metric in spec.evaluation.metrics:
                make_runner(session, self.pairs, metric=metric, ablation=spec.discovery.ablation)
            if model != spec.base:
                self.check_variant(model, session)
            path, journal = self.store.path(name), self.store.journal(name)
            found = discover(
                session, self.split, spec.discovery, spec.compute,
                progress=named(self.progress, model.name), journal=journal,
            )  # fmt: skip
            write_scores(
                path, found.scores.scores, **found.scores.about, engine=found.scores.engine
            )
            if (each := found.examples) is not None:
                write_example_scores(
                    path,
                    each.scores,
                    about=each.about,
                    pairs_sha256=each.pairs_sha256,
                    engine=each.engine,
                )
            write_circuit(path, found.file)
            journal.remove()

        prompts = self.pairs.sha256
        parts = ("graph", "discovery", "compute")
        test = {"test": self.split.test.sha256} if self.split.test else {}
        key = spec.key(*parts, model=self.fingerprint(model), prompts=prompts, **test)
        made = [scores_path(name).as_posix(), name]
        if spec.discovery.per_example:
            made.insert(0, examples_path(name).as_posix())
        self.step(f"circuit of {model.name}", made, make, key)

    def check_variant(self, variant: ModelSpec, session: Session) -> None:
        """Refuse a variant whose circuit could not be compared with the first model's."""
        base, first = self.circuit(self.spec.base), self.spec.base.name
        where = f"model '{variant.name}' cannot be compared with '{first}'"
        widths = base.model["d_model"], session.lifted.d_model
        if found := "; ".join(shape_differences(base.circuit.graph.plain, session.graph, widths)):
            raise GraphMismatch(
                f"{where}: their graphs differ in {found} ({first} and {variant.name}). Variants "
                "must have the first model's shape; give this one a spec of its own, and compare "
                "what the heads of two circuits do with `edgewise roles`."
            )
        if session.loaded.tokenizer is None:
            return
        if unequal := prompt_difference(self.pairs, partial(experiment_pairs, self.spec, session)):
            raise PromptError(
                f"{where}: their tokenizers map the task's prompts differently: {unequal}. "
                "Circuits are compared on equal prompts only; give the pairs as token ids that "
                "both understand, or leave the model out."
            )

    def measure(self, model: ModelSpec) -> None:
        """Measure a model's circuit by every metric; its curve and what else is asked for."""
        name, spec = names.circuit_name(model), self.spec

        def make() -> None:
            metric, ablation = self.by
            runner = make_runner(
                self.session(model), self.pairs, metric=metric, ablation=ablation,
                batch_size=spec.compute.batch_size, mlps=spec.discovery.mlps,
            )  # fmt: skip
            circuit, report = self.circuit(model).circuit, named(self.progress, model.name)
            report(0, 1, "circuits measured")
            metrics, first = [*map(as_metric, spec.evaluation.metrics)], runner
            measured = evaluate_by(runner, circuit, metrics)
            found: dict[str, object] = {"metrics": [one.as_dict() for one in measured]}
            if self.split.test is not None:
                first = held_out_runner(self.session(model), self.split, runner)
                held_out = evaluate_by(first, circuit, metrics)
                found[HELD_OUT] = [one.as_dict() for one in held_out]
            if spec.evaluation.curve:  # held out, if anything is
                scores = read_scores(self.store.path(name), circuit.graph).scores
                found["curve"] = curve(first, scores, progress=report).as_dict()
            claims = claims_of(
                self.session(model), self.circuit(model), (first, self.pairs), spec.evaluation,
                report, spec.discovery.but(start=None),
            )  # fmt: skip
            found |= {**claims_block(claims), "engine": about_engine(runner.runs_by)}
            self.write_evaluation({**self.evaluations(), model.name: found})

        again = spec.evaluation.control or spec.evaluation.rivals  # the discovery is repeated
        parts = ("evaluation", "discovery") if again else ("evaluation",)
        tested = {"tested": self.tested.pairs.sha256} if spec.evaluation.claims else {}
        key = spec.key(*parts, file=self.store.sha256(name), prompts=self.pairs.sha256, **tested)
        part = f"{names.EVALUATION}#{model.name}"
        self.step(f"evaluation of {model.name}", [part], make, key)

    def evaluations(self) -> dict[str, object]:
        try:
            return dict(read_json(self.store.path(names.EVALUATION))["models"])
        except (FileFormatError, KeyError, TypeError, ValueError):
            return {}

    def write_evaluation(self, models: Mapping[str, object]) -> None:
        """Write what was measured, in the spec's order, without other models."""
        known = {m.name: models[m.name] for m in self.spec.models if m.name in models}
        document = {"format": "edgewise/evaluation", "version": 1, "models": known}
        self.store.write(names.EVALUATION, dump_document(document, rows=()))

    @cached_property
    def scoring(self) -> DiscoverySpec | None:
        """Return how edges are scored to be tested, None if they are not."""
        few = len(self.tested.pairs) < 2 and not self.spec.comparison.paired
        return None if few else scoring_for(self.spec)

    @property
    def tested(self) -> ComparedPairs:
        """Return the pairs on which edges are tested: those held out, if there are any."""
        test = self.split.test
        return ComparedPairs(self.pairs) if test is None else ComparedPairs(test, held_out=True)

    def score(self, model: ModelSpec) -> None:
        """Score every edge on each example, with and without rounded weights."""
        spec, scoring, target = self.spec, self.scoring, names.scored_name(model)
        if scoring is None or not spec.variants:
            return
        rounded = spec.comparison.controls and model != spec.base

        def make() -> None:
            found = score_model(
                self.session(model), self.tested.pairs, scoring, rounded=rounded,
                compute=spec.compute, progress=named(self.progress, model.name),
            )  # fmt: skip
            found.write(self.store.path(target))

        key = key_of(
            spec.graph, spec.compute, scoring, model=self.fingerprint(model), rounded=rounded,
            prompts=self.tested.pairs.sha256,
        )  # fmt: skip
        self.step(f"scores of {model.name} by example", [target], make, key)

    def repeat(self, model: ModelSpec) -> None:
        spec, side, target = self.spec, int(model != self.spec.base), names.repeats_name(model)
        if spec.comparison.noise_floor is None:
            return

        def make() -> None:
            found = repeat_in(
                self.session(model), spec.discovery, self.sets[side],
                batch_size=spec.compute.batch_size, progress=named(self.progress, model.name),
            )  # fmt: skip
            found.write(self.store.path(target))

        facts = {"model": self.fingerprint(model), "prompts": self.store.sha256(*REPETITIONS)}
        key = spec.key("graph", "discovery", "compute", side=side, form=2, **facts)
        self.step(f"repetitions of {model.name}", [target], make, key)

    # -- two circuits ---------------------------------------------------------------------------

    def sides(self, variant: ModelSpec) -> tuple[CircuitFile, CircuitFile]:
        return self.circuit(self.spec.base), self.circuit(variant)

    def look_closer_in(self, model: ModelSpec, variant: ModelSpec) -> None:
        """Run a diff's circuits, and measure what their heads do, in one of its models."""
        base, inside = self.spec.base, names.names_inside(self.spec, variant, model)
        report = named(self.progress, model.name)

        def cross() -> None:
            plan = CrossPlan.of(CircuitDiff(*(one.circuit for one in self.sides(variant))))
            found = cross_in(
                self.session(model), self.tested.pairs, plan, self.by,
                batch_size=self.spec.compute.batch_size, progress=report,
            )  # fmt: skip
            self.store.write(inside["cross"], dump_document(asdict(found), rows=()))

        def roles() -> None:
            a, b = (one.circuit for one in self.sides(variant))
            found = roles_in(self.session(model), self.pairs, circuit_heads(a | b), report)
            heads = [head.as_dict(a.graph.layers) for head in found.heads]
            document = {"heads": heads, "notes": list(found.notes)}
            self.store.write(inside["roles"], dump_document(document, rows=("heads",)))

        key = self.spec.key(
            "compute", model=self.fingerprint(model), prompts=self.pairs.sha256, random=RANDOM,
            tested=self.tested.pairs.sha256,
            circuits=self.store.sha256(*map(names.circuit_name, (base, variant))),
        )  # fmt: skip
        both = f"of {base.name} and {variant.name}"
        if "cross" in inside:
            self.step(f"circuits {both} run in {model.name}", [inside["cross"]], cross, key)
        if "roles" in inside:
            self.step(f"head roles {both} in {model.name}", [inside["roles"]], roles, key)

    def found_in(self, model: ModelSpec, variant: ModelSpec, graph: ComputationGraph) -> InModel:
        inside = names.names_inside(self.spec, variant, model)
        found = {key: self.store.path(name) for key, name in inside.items()}
        path = self.store.path(names.scored_name(model))
        scored = None if self.scoring is None else ScoredModel.read(path, graph)
        repeats = Repeats.read(found["repeats"], graph) if "repeats" in found else None
        cross = MeasuredCircuits(**read_json(found["cross"])) if "cross" in found else None
        roles: RolesInModel | None = None
        if "roles" in found:
            read = read_json(found["roles"])
            rows = ((row["head"], row["scores"], row["spans"]) for row in read["heads"])
            roles = RolesInModel(tuple(HeadRoles.of(*row) for row in rows), tuple(read["notes"]))
        engine = self.circuit(model).measures.get("engine")
        return InModel(model.name, scored, repeats, cross, roles, engine)

    def compare(self, variant: ModelSpec) -> None:
        base, spec, target = self.spec.base, self.spec, names.diff_name(self.spec.base, variant)
        circuits = names.circuit_name(base), names.circuit_name(variant)
        further = [] if spec.comparison.noise_floor is None else [names.REPETITION_SEEDS]
        if self.scoring is not None:
            further += [names.scored_name(model) for model in (base, variant)]
        for model in (base, variant):
            further += names.names_inside(spec, variant, model).values()

        def make() -> None:
            files = self.sides(variant)
            graph = files[0].circuit.graph
            a, b = (read_scores(self.store.path(name), graph).scores for name in circuits)
            look = CloserLook(spec.comparison, self.by, self.pairs, self.scoring, self.tested)
            if spec.comparison.noise_floor is not None:
                look = replace(look, discovery=spec.discovery, sets=self.sets)
            found = put_together(
                diff_files(*files, names=circuits, scores=(a, b)),
                look,
                self.found_in(base, variant, graph),
                self.found_in(variant, variant, graph),
            )
            found = add_function(
                found, look, lambda side: self.session((base, variant)[side]),
                (spec.compute.batch_size,) * 2, self.progress,
            )  # fmt: skip
            write_diff(self.store.path(target), found)

        models = [self.fingerprint(model) for model in (base, variant)]
        files = self.store.sha256(*circuits, *further)
        key = spec.key("comparison", "compute", files=files, names=circuits, models=models)
        self.step(f"diff of {base.name} and {variant.name}", [target], make, key)

    # -- pictures and words ---------------------------------------------------------------------

    def draw(self) -> None:
        """Draw every circuit and diff, node scores, and the overlaps of all circuits."""
        base, task = self.spec.base, self.about_task["name"]
        for model in self.spec.models:
            self.picture(names.circuit_name(model), f"{task} in {model.name}", ("A", "B"))
        for model in self.spec.variants:
            title = f"{task} in {base.name} and {model.name}"
            self.picture(names.diff_name(base, model), title, (base.name, model.name))
        for model in self.spec.variants:
            self.heat_map(names.diff_name(base, model), [base, model])
        if not self.spec.variants:
            self.heat_map(names.circuit_name(base), [base])
        self.overlap()

    def picture(self, source: str, title: str, sides: tuple[str, str]) -> None:
        top, layout = self.spec.drawing.top, self.spec.drawing.layout

        def prepare() -> Callable[[Path], object]:
            picture = make_picture(read_any(self.store.path(source)), sides, top)
            how = replace(picture.drawing, names=sides, title=title, layout=layout)
            return lambda path: draw(picture.subject, path, how)

        facts = {"file": self.store.sha256(source), "title": title, "names": sides}
        images = names.image_names(self.spec, source)
        self.images(
            f"images of {Path(source).stem}", images, prepare, top=top, layout=layout, **facts
        )

    def heat_map(self, source: str, models: list[ModelSpec]) -> None:
        """Draw the node scores of one model or two, from the scores of all edges."""
        title = f"Node scores of {' and '.join(m.name for m in models)}: {self.about_task['name']}"
        scored = {model.name: scores_path(names.circuit_name(model)).as_posix() for model in models}

        def prepare() -> Callable[[Path], object]:
            sides = [
                ScoredSide(name, read_scores(self.store.path(file)).scores, kept=False)
                for name, file in scored.items()
            ]
            return partial(write_scene, draw_heat_map(sides, title=title))

        images, files = names.heat_map_names(self.spec, source), self.store.sha256(*scored.values())
        step = f"heat map of {Path(source).stem}"
        self.images(step, images, prepare, files=files, title=title)

    def overlap(self) -> None:
        title, models = f"Overlap of the circuits: {self.about_task['name']}", self.spec.models

        def prepare() -> Callable[[Path], object]:
            circuits = {model.name: self.circuit(model).circuit for model in models}
            return partial(write_scene, draw_overlap(circuits, title=title)[0])

        images = names.overlap_names(self.spec)
        files = self.store.sha256(*map(names.circuit_name, models))
        self.images("overlap of all circuits", images, prepare, files=files, title=title)

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

        self.drawn += images
        if images:
            self.step(step, images, make, key_of(images=images, **facts))

    def report(self) -> None:
        spec, folder = self.spec, self.store.folder
        read = [names.TASK, names.EVALUATION, *map(names.circuit_name, spec.models)]
        read += [names.diff_name(spec.base, model) for model in spec.variants]
        files = self.store.sha256(*read, *self.drawn)
        key = key_of(files=files, spec=names.relocated(spec, folder).to_document())
        files = [names.REPORT, names.REPORT_PAGE]
        self.step("report", files, lambda: write_report(spec, folder), key)

    def result(self) -> RunResult:
        spec, path = self.spec, self.store.path
        circuits = {model.name: path(names.circuit_name(model)) for model in spec.models}
        diffs = {model.name: path(names.diff_name(spec.base, model)) for model in spec.variants}
        return RunResult(
            self.store.folder, path(names.REPORT), path(names.REPORT_PAGE), path(names.EVALUATION),
            circuits, diffs, images=tuple(map(path, self.drawn)),
            made=tuple(self.made), kept=tuple(self.kept),
        )  # fmt: skip


def _written(path: Path) -> PromptPairs:
    """Return pairs that a run wrote, with answers of as many tokens as they had."""
    return read_pairs(path, answers="whole")


def _understood(pairs: PromptPairs) -> str | None:
    """Return what was understood of a file of another's shape."""
    shape = pairs.origin.get(SHAPE)
    if not isinstance(shape, dict) or shape.get("native"):
        return None
    return str(shape.get("understood"))


def _shown(pair: Pair, tokenizer: Any) -> dict[str, str | list[str]]:
    """Return one pair as people read it; ids where there is no tokenizer."""

    def text(ids: Sequence[int]) -> str:
        return " ".join(map(str, ids)) if tokenizer is None else str(tokenizer.decode(list(ids)))

    sides = zip(("answers", "distractors"), pair.sequences, strict=True)
    answers = {key: [text(one) for one in many] for key, many in sides}
    twin = {} if pair.corrupted is None else {"corrupted": text(pair.corrupted)}
    return {"clean": text(pair.clean), **twin, **answers}
