"""Tasks × circuits: what each circuit keeps of each task, and what is left of it without.

A circuit that is a task's own keeps that task and little of others, and without it that task
suffers and others do not: a heavy diagonal. Cutting another task's circuit has been found to hurt
about as much (Li and Subramani 2026), so random circuits, which keep as many edges of every kind of
port, stand beside. Every circuit is measured on pairs that the circuits found here have not seen.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median
from typing import TYPE_CHECKING, cast

import numpy as np

from ...discovery.evaluation import ratio
from ...discovery.random_circuits import percentile, percentile_interval, random_circuits
from ...discovery.uncertainty.bootstrap import faithfulness_estimate
from ...discovery.uncertainty.draws import median_estimate
from ...experiment.spec import ComputeSpec, DiscoverySpec, EvaluationSpec
from ...experiment.task import TaskSpec
from ...graphs.calls.typed import typed
from ...graphs.circuit import Circuit
from ...graphs.errors import EdgewiseError, GraphMismatch, within_memory
from ...graphs.example_scores import clusters_of
from ...graphs.files import CircuitFile
from ...graphs.files.tables.matrix import (
    MatrixBlock,
    MatrixFile,
    MatrixRow,
    MeasuredCircuit,
    MeasuredTask,
    OverlapRow,
)
from ...graphs.overlap import Overlap
from ...patching.engines import about_engine
from ...patching.metrics.registry import default_metric
from ...patching.prompts.pairs import PromptPairs
from ...patching.prompts.splits import clean_seen_in
from ...progress import Progress, named
from ...session import Session, make_runner, open_split
from ..discover import discover
from ..found.blocks import task_block
from ..stored import stored_pairs

if TYPE_CHECKING:
    from ...patching.run.runner import Runner

RANDOM = 10
"""Random circuits of each circuit's size, unless told otherwise."""

AT_ONCE = 16  # circuits handed on together, so that prompts are run once for all of them


@dataclass(frozen=True)
class TaskMatrix:
    """The matrix, and the circuits that were found for it, by task's name."""

    file: MatrixFile
    found: Mapping[str, CircuitFile]


def circuits_needed(tasks: int, circuits: int, random: int = RANDOM) -> int:
    """Count the circuits that are run: full and empty, and each with and cut out, random ones too.

    >>> circuits_needed(3, 3, 10)
    204
    """
    return tasks * (2 + circuits * 2 * (1 + random))


@typed
@within_memory()
def task_matrix(
    session: Session,
    tasks: Sequence[TaskSpec],
    circuits: Mapping[str, CircuitFile] | None = None,
    spec: EvaluationSpec | None = None,
    compute: ComputeSpec | None = None,
    progress: Progress | None = None,
) -> TaskMatrix:
    """Measure circuits on tasks, kept and cut out of the full model, beside random circuits.

    Args:
        tasks: which; each by a name of its own.
        circuits: by name; default: those that the usual method finds for the tasks.
        spec: the metric (the first of its metrics), ablation, how many random circuits, their seed.

    Raises:
        EdgewiseError: tasks or circuits are called alike; a task is not the model's, or lacks what
            the metric needs.
        GraphMismatch: a circuit is not of the model's graph.
    """
    begun, spec = time.perf_counter(), spec or EvaluationSpec()
    names = [one.name for one in tasks]
    if not names or len(set(names)) < len(names):
        raise EdgewiseError(
            f"a matrix of the tasks {', '.join(names) or '(none)'} cannot be made; accepted: one "
            "or more, each once."
        )
    metric = next(iter(spec.metrics), default_metric(searching=False))
    splits = {one.name: open_split(session, one) for one in tasks}
    found: dict[str, CircuitFile] = {}
    if circuits is None:
        usual = DiscoverySpec.usual(metric=metric, **_given(ablation=spec.ablation))
        for name, split in splits.items():
            report = named(progress, f"circuit of {name}")
            try:
                made = discover(session, split, usual, compute, progress=report)
            except EdgewiseError as error:
                raise EdgewiseError(f"no circuit is found for task '{name}': {error}") from error
            found[name] = made.file
    given = found if circuits is None else circuits
    _check(session, given)
    batch = None if compute is None else compute.batch_size
    measured = {name: split.test or split.discovery for name, split in splits.items()}
    rows: list[tuple[MeasuredTask, list[MatrixRow], list[MatrixRow]]] = []
    for name, split in splits.items():
        pairs = measured[name]
        runner = make_runner(
            session, pairs, metric=metric, ablation=spec.ablation, batch_size=batch
        )
        session.certify(pairs)
        task = MeasuredTask(
            name=name, task=task_block(pairs), held_out=split.test is not None, full=0.0, empty=0.0
        )
        rows.append(_of_task(runner, task, given, spec, named(progress, name)))
    how = MatrixBlock(
        metric=metric, ablation=runner.ablation.name, random=spec.random or RANDOM,
        draw_seed=spec.draw_seed, seconds=time.perf_counter() - begun,
        dtype=session.loaded.dtype, device=str(session.device), engine=about_engine(runner.runs_by),
    )  # fmt: skip
    file = MatrixFile(
        session.graph, session.model_block, how, [task for task, _, _ in rows],
        [_about(name, one, measured) for name, one in given.items()],
        [row for _, kept, _ in rows for row in kept], [row for _, _, cut in rows for row in cut],
        list(_overlaps(given)),
    )  # fmt: skip
    return TaskMatrix(file, found)


def _given(**fields: object) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value is not None}


def _check(session: Session, circuits: Mapping[str, CircuitFile]) -> None:
    if not circuits:
        raise EdgewiseError("a matrix of no circuits says nothing; accepted: one or more.")
    for name, one in circuits.items():
        if unequal := "; ".join(one.circuit.graph.differences(session.graph)):
            raise GraphMismatch(
                f"the circuit '{name}' cannot be run in '{session.loaded.name}': their graphs "
                f"differ in {unequal} (circuit and model). Accepted: circuits of this model, or of "
                "models of its shape, and of its graph options."
            )


def _about(name: str, one: CircuitFile, measured: Mapping[str, PromptPairs]) -> MeasuredCircuit:
    own = stored_pairs(one) or ()
    counts = {task: len(clean_seen_in(p, own)) for task, p in measured.items()}
    seen = {task: count for task, count in counts.items() if count}
    about = MeasuredCircuit(
        name=name, edges=len(one.circuit), nodes=len(one.circuit.nodes),
        file=None if one.path is None else str(one.path), of=one.task["name"] or None,
        method=one.discovery["method"],
    )  # fmt: skip
    return cast("MeasuredCircuit", {**about, "seen": seen}) if seen else about


def _of_task(
    runner: Runner,
    task: MeasuredTask,
    circuits: Mapping[str, CircuitFile],
    spec: EvaluationSpec,
    progress: Progress,
) -> tuple[MeasuredTask, list[MatrixRow], list[MatrixRow]]:
    """Measure every circuit, kept and cut out, and random ones of its size, on one task."""
    graph, number = runner.graph, spec.random or RANDOM
    every = [Circuit.full(graph), Circuit.empty(graph)]
    for one in circuits.values():
        counts = graph.count_by_kind(one.circuit.kept)
        kept = [one.circuit, *random_circuits(graph, counts, number, spec.draw_seed)]
        every += [*kept, *(each.complement for each in kept)]
    each = np.stack(list(_measured(runner, every, progress)))  # [circuits, examples]
    full, empty, rest = each[0], each[1], each[2:]
    clusters = clusters_of(runner.pairs.groups)
    blocks = rest.reshape(len(circuits), 2, 1 + number, -1)
    tables: tuple[list[MatrixRow], list[MatrixRow]] = ([], [])
    for name, both in zip(circuits, blocks, strict=True):
        for cut, values in enumerate(both):
            own, drawn = values[0], values[1:].mean(1).tolist()
            found = faithfulness_estimate(full, own, empty, clusters, runner.floor)
            ends = (float(full.mean()), float(empty.mean()))
            others = [ratio(one, *ends, runner.floor) for one in drawn]
            random = tuple(one for one in others if one is not None)
            defined = found.value is not None and len(random) == len(drawn)
            beats: float | None = None
            beaten: tuple[float | None, float | None] = (None, None)
            if defined and found.value is not None:
                sign, floor = 1 - 2 * cut, runner.floor / abs(ends[0] - ends[1])
                among = sign * found.value, tuple(sign * one for one in random), floor
                beats, beaten = percentile(*among), percentile_interval(*among)
            low, high = found.interval or (None, None)
            typical = median_estimate(full, values[1:], empty, clusters, runner.floor)
            random_low, random_high = typical.interval or (None, None)
            row = MatrixRow(
                task=task["name"], circuit=name, f=found.value, low=low, high=high,
                random=median(random) if defined else None, beats=beats,
                random_low=random_low, random_high=random_high,
                beats_low=beaten[0], beats_high=beaten[1],
            )  # fmt: skip
            tables[cut].append(row)
    measured = cast(
        "MeasuredTask", {**task, "full": float(full.mean()), "empty": float(empty.mean())}
    )
    return measured, *tables


def _measured(
    runner: Runner, circuits: Sequence[Circuit], progress: Progress
) -> Iterator[np.ndarray]:
    """Yield what each circuit measures on every example."""
    for start in range(0, len(circuits), AT_ONCE):
        group = circuits[start : start + AT_ONCE]
        found = runner.measure_each(group)[0]
        progress(start + len(group), len(circuits), "circuits run")
        yield from found


def _overlaps(circuits: Mapping[str, CircuitFile]) -> Iterator[OverlapRow]:
    for (name, a), (other, b) in combinations(circuits.items(), 2):
        graph = a.circuit.graph
        nodes = [set(one.circuit.nodes) for one in (a, b)]
        possible = len({*graph.senders, *(port.node for port in graph.ports)})
        edges = Overlap(
            graph.edge_count, len(a.circuit), len(b.circuit), len(a.circuit & b.circuit)
        )
        touched = Overlap(possible, len(nodes[0]), len(nodes[1]), len(nodes[0] & nodes[1]))
        yield OverlapRow(
            circuit=name, other=other, edges=edges.jaccard, chance=edges.expected,
            nodes=touched.jaccard, by_chance=touched.expected,
        )  # fmt: skip


def diagonal(file: MatrixFile) -> dict[str, tuple[float, float]]:
    """Compare, of circuits called as the tasks are, their own tasks with the others, on average.

    By table, `kept` and `cut`; empty if fewer than two circuits are a task's own, or a value means
    nothing.
    """
    tasks = {one["name"] for one in file.tasks}
    own = [one["name"] for one in file.circuits if one["name"] in tasks]
    found: dict[str, tuple[float, float]] = {}
    for table in ("kept", "cut") if len(own) > 1 else ():
        rows = [(task, name, file.row(table, task, name)["f"]) for task in own for name in own]
        if all(f is not None for _, _, f in rows):
            on = [f for task, name, f in rows if f is not None and task == name]
            off = [f for task, name, f in rows if f is not None and task != name]
            found[table] = (float(np.mean(on)), float(np.mean(off)))
    return found
