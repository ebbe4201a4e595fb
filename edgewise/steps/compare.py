"""Look closer at a diff with its two models: noise floor, circuits in either model, head roles.

Each of these is one step in one opened model (`repeat_in`, `cross_in`, `roles_in`); `put_together`
makes of both models' findings what stands beside the diff. A run does the same steps. Prompts are
made with A's tokenizer; B's, if it has one, must make the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

from ..experiment.spec import ComparisonSpec, ComputeSpec, DiscoverySpec
from ..experiment.task import TaskSpec
from ..graphs.comparison import NoiseFloor, RolesComparison, RolesInModel
from ..graphs.errors import EdgewiseError, PromptError, within_memory
from ..graphs.files import CircuitFile, DiffFile, diff_files
from ..graphs.files.reading import is_there
from ..patching.metrics.functions import stored_metric
from ..patching.prompts.pairs import PromptPairs
from ..progress import Progress, named
from ..session import Session, open_task
from .cross_evaluation import CrossPlan, MeasuredCircuits, cross_evaluation, cross_in
from .head_roles import circuit_heads, roles_in
from .repeat import (
    PromptSets,
    Repeats,
    common_discovery,
    find_floor,
    prompt_sets,
    repeat_in,
    task_differences,
)
from .same_prompts import prompt_difference
from .stored import circuit_pairs, open_for, reads_alike, weights_notes

Source: TypeAlias = "str | Session | None"
"""A model: what a user types for it, an open one, or None for the one a circuit's file names."""


@dataclass(frozen=True)
class InModel:
    """What was found in one model, called so; None where it was not asked for."""

    name: str
    repeats: Repeats | None = None
    cross: MeasuredCircuits | None = None
    roles: RolesInModel | None = None


@dataclass(frozen=True)
class CloserLook:
    """What to find out about a diff in its models, both of which get the prompt pairs.

    `measure`: the metric and ablation with which circuits are run. `discovery` is repeated on the
    `sets`; both are None where nothing is: then circuits may be found in different ways.
    """

    comparison: ComparisonSpec
    measure: tuple[str, str]
    pairs: PromptPairs
    discovery: DiscoverySpec | None = None
    sets: PromptSets | None = None


def put_together(found: DiffFile, look: CloserLook, a: InModel, b: InModel) -> DiffFile:
    """Put beside a diff what was found in its two models, as far as it was asked for."""
    floor = cross = roles = None
    if look.discovery is not None and look.sets is not None and a.repeats and b.repeats:
        level, repeats = look.comparison.level, (a.repeats, b.repeats)
        floor = find_floor(found.diff, repeats, look.discovery, look.sets, level)
    if a.cross is not None and b.cross is not None:
        plan, names = CrossPlan.of(found.diff), (a.name, b.name)
        cross = cross_evaluation(plan, (a.cross, b.cross), names, look.pairs, look.measure)
    if a.roles is not None and b.roles is not None:
        roles = RolesComparison(a.roles, b.roles)
    return replace(found, noise_floor=floor, cross=cross, roles=roles)


@within_memory()
def look_closer(
    found: DiffFile,
    files: tuple[CircuitFile, CircuitFile],
    comparison: ComparisonSpec,
    computes: tuple[ComputeSpec, ComputeSpec] | None = None,
    models: tuple[Source, Source] = (None, None),
    progress: Progress | None = None,
    try_family: str | None = None,
) -> tuple[DiffFile, list[str]]:
    """Add a noise floor, a cross-evaluation and head roles to a diff; return notes on it too.

    `computes`: how, in either model; default: in the dtypes the circuits were found in. `models`:
    references or open sessions in place of the models the files name. `try_family` is
    of `GraphSpec`.

    Raises:
        EdgewiseError: the circuits were found in different ways; says in what.
        PromptError: there are too few prompts, or the tokenizers make different ones.
        GraphMismatch: a model is not of its circuit's shape.
    """
    repetitions = comparison.noise_floor
    if repetitions is None and not comparison.cross and not comparison.roles:
        return found, []
    measure = _common_measure(files)
    discovery = None if repetitions is None else common_discovery(*files)
    look: CloserLook | None = None
    sides: list[InModel] = []
    notes: list[str] = []
    for side, (file, source) in enumerate(zip(files, models, strict=True)):
        report = named(progress, f"model {'AB'[side]}")
        compute = ComputeSpec.of_circuit(file) if computes is None else computes[side]
        if isinstance(source, Session):
            session = source
        else:
            option = f"`models[{side}]`"
            session = open_for(
                file, source, compute, option=option, try_family=try_family, progress=report
            )
            notes += weights_notes(file, session, same_model=source is None)
        if look is None:
            sets = None if repetitions is None else prompt_sets(session, files, repetitions)
            pairs, said = circuit_pairs(files[0], session)
            look = CloserLook(comparison, measure, pairs, discovery, sets)
            task = TaskSpec.of_circuit(file)
            gone = task.file is not None and not is_there(task.file)
            made = None if gone else open_task(session, task)[0]
            notes += said
        else:
            _check_prompts(session, task, look.pairs, made)
        sides.append(_in_model(session, found, look, side, compute, report))
        del session  # one model is in memory at a time
    assert look is not None
    found = put_together(found, look, *sides)
    first, second = (file.task["sha256"] for file in files)
    if (comparison.cross or comparison.roles) and first != second:
        notes.append(
            "the two circuits were found on different prompts; those of A are used for both."
        )
    return found, notes + (found.roles.notes() if found.roles is not None else [])


def noise_floor(
    file_a: CircuitFile,
    file_b: CircuitFile,
    repetitions: int,
    *,
    level: float = ComparisonSpec().level,
    models: tuple[Source, Source] = (None, None),
    progress: Progress | None = None,
    **compute: object,
) -> NoiseFloor:
    """Repeat the discovery of two circuits in their models; return their noise floor.

    `level`: of q-values, for the edges listed beside those of the two circuits. `compute`: fields
    of `ComputeSpec`, such as batch_size and device. For the rest see `look_closer`.
    """
    files = (file_a, file_b)
    a, b = (ComputeSpec.of_circuit(file).but(**compute) for file in files)
    comparison = ComparisonSpec(noise_floor=repetitions, level=level)
    found, _ = look_closer(diff_files(*files), files, comparison, (a, b), models, progress)
    assert found.noise_floor is not None
    return found.noise_floor


def _in_model(
    session: Session,
    found: DiffFile,
    look: CloserLook,
    side: int,
    compute: ComputeSpec,
    progress: Progress,
) -> InModel:
    """Find out in one model what is asked for; cheap things first, so that they fail early."""
    repeats = cross = roles = None
    diff, size = found.diff, compute.batch_size
    if look.comparison.roles:
        roles = roles_in(session, look.pairs, circuit_heads(diff.a | diff.b), progress)
    if look.sets is not None and look.discovery is not None:
        repeats = repeat_in(
            session, look.discovery, look.sets[side], batch_size=size, progress=progress
        )
    if look.comparison.cross:
        plan, pairs = CrossPlan.of(diff), look.pairs
        cross = cross_in(session, pairs, plan, look.measure, batch_size=size, progress=progress)
    return InModel(session.loaded.title, repeats, cross, roles)


def _common_measure(files: tuple[CircuitFile, CircuitFile]) -> tuple[str, str]:
    """Return the metric and ablation both circuits were found with; refuse two of either."""
    a, b = (dict(file.discovery) for file in files)
    keys = ("metric", "ablation")
    unequal = [f"{key} {a[key]} and {b[key]}" for key in keys if a[key] != b[key]]
    unequal += task_differences(files[0].task, files[1].task, keys=("name", "bos", "options"))
    if unequal:
        raise EdgewiseError(
            f"the two circuits cannot be held against each other in their models: they were found "
            f"on different tasks or measures ({'; '.join(unequal)}); accepted: circuits of one "
            "task, found with one metric and one ablation."
        )
    return stored_metric(a), str(a["ablation"])


def _check_prompts(
    session: Session, task: TaskSpec, pairs: PromptPairs, made: PromptPairs | None
) -> None:
    """Refuse a second model whose tokenizer makes, or reads, other prompts than the first one's.

    `made`: the task made anew with the first one's tokenizer; None if the task's file is gone.
    """
    found, tokenizer = None, session.loaded.tokenizer
    if tokenizer is None:
        return
    if made is not None:
        found = prompt_difference(made, partial(open_task, session, task))
    elif not reads_alike(tokenizer, pairs):
        found = "some of their token ids stand for other text"
    if found:
        raise PromptError(
            "the two models cannot be compared: their tokenizers map the task's prompts "
            f"differently: {found}. Give the pairs as token ids that both understand."
        )
