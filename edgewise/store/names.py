"""Names of the files in a run's output directory."""

from __future__ import annotations

import os
from pathlib import Path

from ..experiment.spec import Experiment, ModelSpec

PROMPTS = "prompts.jsonl"
TEST_PROMPTS = "test-prompts.jsonl"
TASK = "task.json"
EVALUATION = "evaluation.json"
REPORT = "report.md"
REPORT_PAGE = "report.html"
SPEC = "spec.toml"
REPETITION_PROMPTS = "repetitions/prompts.jsonl"
REPETITION_SEEDS = "repetitions/prompts.json"


def circuit_name(model: ModelSpec) -> str:
    """Name a model's circuit file."""
    return f"circuits/{model.name}.json"


def diff_name(base: ModelSpec, model: ModelSpec) -> str:
    """Name a variant's diff file."""
    return f"diffs/{base.name}_vs_{model.name}.json"


def scored_name(model: ModelSpec) -> str:
    """Name the file of every edge's scores on each example in a model."""
    return f"examples/{model.name}.safetensors"


def repeats_name(model: ModelSpec) -> str:
    """Name the file of a model's repetitions."""
    return f"repetitions/{model.name}.safetensors"


def names_inside(spec: Experiment, variant: ModelSpec, model: ModelSpec) -> dict[str, str]:
    """Name what is found out about a diff in one of its models: repeats, cross, roles, as asked.

    What edges score on each example is not among them: whether it is there depends on the metric.
    """
    stem, comparison = f"{spec.base.name}_vs_{variant.name}_in_{model.name}", spec.comparison
    found = {"cross": f"cross/{stem}.json", "roles": f"roles/{stem}.json"}
    found = {key: name for key, name in found.items() if getattr(comparison, key)}
    return found if comparison.noise_floor is None else {"repeats": repeats_name(model), **found}


def image_names(spec: Experiment, source: str) -> list[str]:
    """Name the images of a circuit or diff file."""
    return [f"images/{Path(source).stem}.{ending}" for ending in spec.drawing.formats]


def heat_map_names(spec: Experiment, source: str) -> list[str]:
    """Name the images of node scores: of a diff file, or of a single model's circuit file."""
    drawn = spec.drawing.heat_map and source.startswith("diffs/") == bool(spec.variants)
    return _charts(spec, f"heat-maps/{Path(source).stem}") if drawn else []


def overlap_names(spec: Experiment) -> list[str]:
    """Name the images of how alike every two circuits are, if there are three or more."""
    drawn = spec.drawing.overlap and len(spec.models) >= 3
    return _charts(spec, "overlaps/circuits") if drawn else []


def _charts(spec: Experiment, stem: str) -> list[str]:
    endings = [ending for ending in spec.drawing.formats if ending != "dot"]  # they are no graphs
    return [f"images/{stem}.{ending}" for ending in endings]


def relocated(spec: Experiment, folder: Path) -> Experiment:
    """Return the spec with its local paths written from another folder."""

    def moved(path: str) -> str:
        if not Path(path).exists():
            return path
        try:
            return Path(os.path.relpath(path, folder)).as_posix()
        except ValueError:  # on another drive
            return Path(path).resolve().as_posix()

    models = tuple(model.but(source=moved(model.source)) for model in spec.models)
    file = None if spec.task.file is None else moved(spec.task.file)
    return spec.but(models=models, task=spec.task.but(file=file))
