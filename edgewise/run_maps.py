"""The pictures of a run that show no graph: heat maps of node scores, the matrix of overlaps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .graphs.files import read_circuit, read_scores, scores_path
from .store.names import circuit_name, diff_name, heat_map_names, overlap_names

if TYPE_CHECKING:
    from .experiment.spec import ModelSpec
    from .job import Job
    from .visualize.scene import Scene


def draw_maps(job: Job) -> None:
    """Draw every heat map, and the overlaps of all circuits, as far as the spec has them."""
    base, variants = job.spec.base, job.spec.variants
    for model in variants:
        _heat_map(job, diff_name(base, model), [base, model])
    if not variants:
        _heat_map(job, circuit_name(base), [base])
    _overlap(job)


def _heat_map(job: Job, source: str, models: list[ModelSpec]) -> None:
    """Draw the node scores of one model or two, from the scores of all edges."""
    files = heat_map_names(job.spec, source)
    if not files:
        return
    names = [model.name for model in models]
    title = f"Node scores of {' and '.join(names)}: {job.task_name}"
    sources = [scores_path(circuit_name(model)).as_posix() for model in models]

    def make() -> Scene:
        from .visualize.charts.heat_map import ScoredSide, draw_heat_map

        sides = [
            ScoredSide(name, read_scores(job.store.folder / file).scores, kept=False)
            for name, file in zip(names, sources, strict=True)
        ]
        return draw_heat_map(sides, title=title)

    _images(job, f"heat map of {Path(source).stem}", sources, files, title, make)


def _overlap(job: Job) -> None:
    """Draw how alike every two circuits are."""
    files = overlap_names(job.spec)
    if not files:
        return
    title = f"Overlap of the circuits: {job.task_name}"
    sources = [circuit_name(model) for model in job.spec.models]

    def make() -> Scene:
        from .visualize.charts.overlap import draw_overlap

        circuits = {
            model.name: read_circuit(job.store.folder / file).circuit
            for model, file in zip(job.spec.models, sources, strict=True)
        }
        return draw_overlap(circuits, title=title)[0]

    _images(job, "overlap of all circuits", sources, files, title, make)


def _images(
    job: Job,
    step: str,
    sources: list[str],
    files: list[str],
    title: str,
    make: Callable[[], Scene],
) -> None:
    """Write a drawing in every format, unless that is done."""
    inputs = {"files": job.store.sha256(*sources), "images": files, "title": title}

    def work() -> None:
        from .visualize.draw import write_scene

        scene = make()
        for i, file in enumerate(files):
            if job.progress is not None:
                job.progress(i, len(files), f"images drawn, at {file}")
            write_scene(scene, job.store.path(file))

    job.step(step, inputs, files, work)
