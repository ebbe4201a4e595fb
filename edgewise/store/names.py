"""Names of the files in a run's output directory."""

from __future__ import annotations

import os
from pathlib import Path

from ..experiment.spec import Experiment, ModelSpec

PROMPTS = "prompts.jsonl"
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


def repeats_name(model: ModelSpec) -> str:
    """Name the file of a model's repetitions."""
    return f"repetitions/{model.name}.safetensors"


def within_names(base: ModelSpec, variant: ModelSpec, model: ModelSpec) -> tuple[str, str]:
    """Name what a diff's circuits measure in one of its models, and what their heads do there."""
    stem = f"{base.name}_vs_{variant.name}_in_{model.name}"
    return f"cross/{stem}.json", f"roles/{stem}.json"


def image_names(spec: Experiment, source: str) -> list[str]:
    """Name the images of a circuit or diff file."""
    return [f"images/{Path(source).stem}.{ending}" for ending in spec.drawing.formats]


def heat_map_sources(spec: Experiment) -> list[str]:
    """Name the files whose node scores are drawn: the diffs, or the circuit of a single model."""
    if not spec.drawing.heat_map:
        return []
    diffs = [diff_name(spec.base, model) for model in spec.variants]
    return diffs or [circuit_name(spec.base)]


def heat_map_names(spec: Experiment, source: str) -> list[str]:
    """Name the images of the node scores of a circuit or diff file, none if it gets none."""
    endings = _endings(spec) if source in heat_map_sources(spec) else []
    return [f"images/heat-maps/{Path(source).stem}.{ending}" for ending in endings]


def overlap_names(spec: Experiment) -> list[str]:
    """Name the images of how alike every two circuits are, if there are three or more."""
    wanted = spec.drawing.overlap and len(spec.models) >= 3
    return [f"images/overlaps/circuits.{ending}" for ending in _endings(spec) if wanted]


def _endings(spec: Experiment) -> list[str]:
    """List the formats of pictures that show no graph, which have no DOT."""
    return [ending for ending in spec.drawing.formats if ending != "dot"]


def all_images(spec: Experiment) -> list[str]:
    """Name every image of a run."""
    sources = [circuit_name(model) for model in spec.models]
    sources += [diff_name(spec.base, model) for model in spec.variants]
    found = [name for source in sources for name in image_names(spec, source)]
    found += [name for source in heat_map_sources(spec) for name in heat_map_names(spec, source)]
    return found + overlap_names(spec)


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
