"""The steps of a run that compare: repetitions, circuits and head roles in both models, diffs.

Repetitions of the first model use the first R sets of prompts, those of every variant the other R,
so that each variant's are independent of the first model's.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from .experiment.spec import EvaluationSpec, ModelSpec
from .graphs.comparison import CrossEvaluation, NoiseFloor, RolesComparison, RolesInModel
from .graphs.diff import CircuitDiff
from .graphs.files import read_circuit, read_scores, write_diff
from .graphs.files.atomic import write_text
from .graphs.files.json_files import dump_document
from .graphs.roles import HeadRoles
from .job import Job
from .steps.cross_evaluation import RANDOM, CrossPlan, Measured, cross_evaluation, cross_in
from .steps.head_roles import circuit_heads, roles_in
from .steps.noise_floor import find_floor
from .steps.repeat import PromptSets, made_sets, repeat_in, split_pairs
from .store.names import REPETITION_PROMPTS as PROMPTS
from .store.names import REPETITION_SEEDS as SEEDS
from .store.names import circuit_name, cross_name, diff_name, repeats_name, roles_name
from .store.repeats_file import read_repeats, write_repeats

if TYPE_CHECKING:
    from .graphs.files import CircuitFile


class Comparing(Job):
    """Add the steps that compare."""

    @property
    def measured_by(self) -> EvaluationSpec:
        """Return the metric and ablation that circuits are run across models with."""
        asked = self.spec.discovery
        return EvaluationSpec((asked.metric,), ablation=asked.ablation)

    def make_repetition_prompts(self) -> None:
        """Make the prompts of all repetitions with the first model's tokenizer."""
        number, task = self.spec.comparison.noise_floor, self.spec.task
        if number is None:
            return
        inputs = {
            "prompts": self.pairs.sha256,
            "repetitions": number,
            "task": {**asdict(task), "file": task.file is not None},
            "model": self.fingerprint(self.spec.base),
        }

        def work() -> None:
            from .patching.prompts.pair_files import write_pairs

            if task.file is not None:
                sets = split_pairs(self.pairs, number)
            else:
                first = 1 + (task.seed or 0)
                sets = made_sets(self.session(self.spec.base), task, number, first_seed=first)
            everything = tuple(pair for one in (*sets.a, *sets.b) for pair in one)
            about = {"examples": sets.examples, "seeds_a": sets.seeds_a, "seeds_b": sets.seeds_b}
            write_pairs(self.store.path(PROMPTS), replace(self.pairs, pairs=everything))
            write_text(self.store.path(SEEDS), dump_document(about, rows=()))

        self.step("prompts of the repetitions", inputs, [PROMPTS, SEEDS], work)

    def repetition_prompts(self) -> PromptSets:
        """Read the prompts of all repetitions."""
        from .patching.prompts.pair_files import read_pairs

        about = json.loads((self.store.folder / SEEDS).read_text("utf-8"))
        pairs = read_pairs(self.store.folder / PROMPTS).pairs
        size, half = about["examples"], self.spec.comparison.noise_floor or 0
        sets = tuple(
            replace(self.pairs, pairs=pairs[i : i + size]) for i in range(0, len(pairs), size)
        )
        seeds = (tuple(about[key]) for key in ("seeds_a", "seeds_b"))
        return PromptSets(sets[:half], sets[half:], *seeds)

    def repeat(self, model: ModelSpec) -> None:
        """Repeat the discovery in a model."""
        if self.spec.comparison.noise_floor is None:
            return
        side = int(model != self.spec.base)
        inputs = {
            "model": self.fingerprint(model),
            "prompts": self.store.sha256(PROMPTS, SEEDS),
            "side": side,
            "graph": asdict(self.spec.graph),
            "discovery": asdict(self.spec.discovery),
            "compute": asdict(self.spec.compute),
        }

        def work() -> None:
            found = repeat_in(
                self.session(model),
                self.spec.discovery,
                self.repetition_prompts()[side],
                batch_size=self.spec.compute.batch_size,
                progress=self.telling(model),
            )
            write_repeats(self.store.path(repeats_name(model)), found)

        self.step(f"repetitions of {model.name}", inputs, [repeats_name(model)], work)

    def run_across(self) -> None:
        """Run the circuits of every diff in both of its models, each model opened once."""
        base = self.spec.base
        for model in reversed(self.spec.variants):  # the last one may still be open
            self.run_in(model, model)
            self.roles_in(model, model)
        for model in self.spec.variants:
            self.run_in(base, model)
            self.roles_in(base, model)

    def roles_in(self, model: ModelSpec, variant: ModelSpec) -> None:
        """Measure what the heads of one diff's circuits do in one of its models."""
        if not self.spec.comparison.roles:
            return
        base, target = self.spec.base, roles_name(self.spec.base, variant, model)
        inputs = {
            "circuits": self.store.sha256(circuit_name(base), circuit_name(variant)),
            "model": self.fingerprint(model),
            "prompts": self.pairs.sha256,
            "compute": asdict(self.spec.compute),
        }

        def work() -> None:
            a, b = (file.circuit for file in self.sides(variant))
            found = roles_in(
                self.session(model), self.pairs, circuit_heads(a | b), self.telling(model)
            )
            rows = [head.as_dict(a.graph.layers) for head in found.heads]
            document = {"heads": rows, "notes": list(found.notes)}
            write_text(self.store.path(target), dump_document(document, rows=("heads",)))

        name = f"head roles of {base.name} and {variant.name} in {model.name}"
        self.step(name, inputs, [target], work)

    def run_in(self, model: ModelSpec, variant: ModelSpec) -> None:
        """Run the circuits of one diff in one of its models."""
        if not self.spec.comparison.cross:
            return
        base, target = self.spec.base, cross_name(self.spec.base, variant, model)
        circuits = self.store.sha256(circuit_name(base), circuit_name(variant))
        inputs = {
            "circuits": circuits,
            "model": self.fingerprint(model),
            "prompts": self.pairs.sha256,
            "random": RANDOM,
            "compute": asdict(self.spec.compute),
        }

        def work() -> None:
            plan = CrossPlan.of(CircuitDiff(*(file.circuit for file in self.sides(variant))))
            measured = cross_in(
                self.session(model), self.pairs, plan, self.measured_by,
                batch_size=self.spec.compute.batch_size, progress=self.telling(model),
            )  # fmt: skip
            write_text(self.store.path(target), dump_document(asdict(measured), rows=()))

        name = f"circuits of {base.name} and {variant.name} run in {model.name}"
        self.step(name, inputs, [target], work)

    def sides(self, variant: ModelSpec) -> tuple[CircuitFile, CircuitFile]:
        """Read the two circuits of a diff."""
        folder, base = self.store.folder, self.spec.base
        return read_circuit(folder / circuit_name(base)), read_circuit(
            folder / circuit_name(variant)
        )

    def compare(self, model: ModelSpec) -> None:
        """Compare a variant's circuit with the first model's."""
        base, asked = self.spec.base, self.spec.comparison
        names = (circuit_name(base), circuit_name(model))
        target = diff_name(base, model)
        further = []
        if asked.noise_floor is not None:
            further += [SEEDS, repeats_name(base), repeats_name(model)]
        if asked.cross:
            further += [cross_name(base, model, one) for one in (base, model)]
        if asked.roles:
            further += [roles_name(base, model, one) for one in (base, model)]

        def work() -> None:
            from .workflow import compare

            files = self.sides(model)
            scores = [
                read_scores(self.store.folder / name, file.circuit.graph).scores
                for name, file in zip(names, files, strict=True)
            ]
            found = compare(*files, names=names, scores=(scores[0], scores[1]))
            found = replace(
                found,
                noise_floor=self.noise_floor(model, found.diff),
                cross=self.cross(model, found.diff),
                roles=self.roles(model),
            )
            write_diff(self.store.path(target), found)

        inputs = {
            "files": self.store.sha256(*names, *further),
            "names": names,
            "comparison": asdict(asked),
        }
        self.step(f"diff of {base.name} and {model.name}", inputs, [target], work)

    def noise_floor(self, model: ModelSpec, diff: CircuitDiff) -> NoiseFloor | None:
        """Put a diff's noise floor together from the repetitions."""
        asked = self.spec.comparison
        if asked.noise_floor is None:
            return None
        a, b = (
            read_repeats(self.store.folder / repeats_name(one), diff.a.graph)
            for one in (self.spec.base, model)
        )
        return find_floor(diff, (a, b), self.spec.discovery, self.repetition_prompts(), asked.level)

    def roles(self, model: ModelSpec) -> RolesComparison | None:
        """Put together what the heads do in both models."""
        if not self.spec.comparison.roles:
            return None
        names = [roles_name(self.spec.base, model, one) for one in (self.spec.base, model)]
        texts = [(self.store.folder / name).read_text("utf-8") for name in names]
        a, b = (
            RolesInModel(
                tuple(
                    HeadRoles.of(row["head"], row["scores"], row["spans"]) for row in one["heads"]
                ),
                tuple(one["notes"]),
            )
            for one in map(json.loads, texts)
        )
        return RolesComparison(a, b)

    def cross(self, model: ModelSpec, diff: CircuitDiff) -> CrossEvaluation | None:
        """Put a diff's cross-evaluation together from what was measured in both models."""
        if not self.spec.comparison.cross:
            return None
        base = self.spec.base
        a, b = (
            Measured(**json.loads((self.store.folder / cross_name(base, model, one)).read_text()))
            for one in (base, model)
        )
        return cross_evaluation(
            CrossPlan.of(diff), (a, b), (base.name, model.name), self.pairs,
            self.measured_by,
        )  # fmt: skip
