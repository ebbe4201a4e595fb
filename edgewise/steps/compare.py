"""Look closer at a diff with its two models: changes, stability, circuits in either model, roles.

Each of these is one step in one opened model (`score_model`, `repeat_in`, `cross_in`, `roles_in`);
`put_together` makes of both models' findings what stands beside the diff. A run does the same
steps. Prompts are made with A's tokenizer; B's, if it has one, must make the same.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

from ..experiment.parts import split
from ..experiment.spec import ComparisonSpec, ComputeSpec, DiscoverySpec
from ..experiment.task import TaskSpec
from ..graphs.calls.typed import typed
from ..graphs.comparison import Comparison, NoiseFloor, RolesComparison, RolesInModel
from ..graphs.errors import EdgewiseError, PromptError, within_memory
from ..graphs.files import CircuitFile, DiffFile, diff_files
from ..graphs.files.reading import is_there
from ..patching.engines import about_engine, engine_of
from ..patching.metrics.functions import stored_metric
from ..patching.prompts.pairs import PromptPairs
from ..progress import Progress, named
from ..session import Session, open_task
from .comparison.function import function_between
from .comparison.paired import ComparedPairs, compare_scored, scored_alike, tested_pairs
from .comparison.scored import ScoredModel, score_model
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
    """What was found in one model, called so; None where it was not asked for.

    `engine`: name and version of what computed it.
    """

    name: str
    scored: ScoredModel | None = None
    repeats: Repeats | None = None
    cross: MeasuredCircuits | None = None
    roles: RolesInModel | None = None
    engine: Mapping[str, str] | None = None


@dataclass(frozen=True)
class CloserLook:
    """What to find out about a diff in its models, both of which get the prompt pairs.

    `measure`: the metric and ablation with which circuits are run. `tested`: the pairs on which
    edges are tested and circuits run, held out if there are any; `pairs`: those of circuit A.
    `scoring`: how every edge is scored; None where that is not asked for, or cannot be.
    `discovery` is repeated on the `sets`; both are None where nothing is: then circuits may be
    found in different ways.
    """

    comparison: ComparisonSpec
    measure: tuple[str, str]
    pairs: PromptPairs
    scoring: DiscoverySpec | None = None
    tested: ComparedPairs | None = None
    discovery: DiscoverySpec | None = None
    sets: PromptSets | None = None

    @property
    def measured(self) -> PromptPairs:
        """Return the pairs on which circuits are run: held out, if there are any."""
        return self.pairs if self.tested is None else self.tested.pairs


def put_together(found: DiffFile, look: CloserLook, a: InModel, b: InModel) -> DiffFile:
    """Put beside a diff what was found in its two models, as far as it was asked for."""
    compared = floor = cross = roles = None
    if look.scoring is not None and look.tested is not None and a.scored and b.scored:
        compared = compare_scored(
            found.diff, (a.scored, b.scored), look.scoring, look.comparison, look.tested
        )
    if look.discovery is not None and look.sets is not None and a.repeats and b.repeats:
        level, repeats = look.comparison.level, (a.repeats, b.repeats)
        floor = find_floor(found.diff, repeats, look.discovery, look.sets, level)
    if a.cross is not None and b.cross is not None:
        plan, names = CrossPlan.of(found.diff), (a.name, b.name)
        cross = cross_evaluation(plan, (a.cross, b.cross), names, look.measured, look.measure)
    if a.roles is not None and b.roles is not None:
        roles = RolesComparison(a.roles, b.roles)
    extra = {**found.extra, **({} if a.engine is None else {"engine": dict(a.engine)})}
    return replace(
        found, comparison=compared, noise_floor=floor, cross=cross, roles=roles, extra=extra
    )


def add_function(
    found: DiffFile,
    look: CloserLook,
    opened: Callable[[int], Session],
    batch_sizes: tuple[int | None, int | None] = (None, None),
    progress: Progress | None = None,
) -> DiffFile:
    """Put beside a diff what the edges that changed do, if any did and it is asked for."""
    compared = found.compared
    if compared is None or look.tested is None or not look.comparison.function:
        return found
    if not len(compared.circuit):
        return found
    try:
        function = function_between(
            compared.circuit, opened, look.tested.pairs, look.measure,
            batch_sizes=batch_sizes, progress=progress,
        )  # fmt: skip
    except EdgewiseError as error:  # such as of vocabularies that differ; the changes stand
        warnings.warn(f"what the changed edges do was not measured: {error}", stacklevel=1)
        return found
    return replace(found, function=function)


def look_closer(
    found: DiffFile,
    files: tuple[CircuitFile, CircuitFile],
    comparison: ComparisonSpec,
    computes: tuple[ComputeSpec, ComputeSpec] | None = None,
    models: tuple[Source, Source] = (None, None),
    progress: Progress | None = None,
    try_family: str | None = None,
) -> tuple[DiffFile, list[str]]:
    """Add to a diff what its models say; return notes on it too.

    Unless it is asked for (`comparison.paired`), the test of every edge is left out where it cannot
    be done, and a note says why. `computes`: how, in either model; default: in the dtypes the
    circuits were found in. `models`: references or open sessions in place of the models the files
    name. `try_family` is of `GraphSpec`.

    Raises:
        EdgewiseError: the circuits were found in different ways; says in what.
        PromptError: there are too few prompts, or the tokenizers make different ones.
        GraphMismatch: a model is not of its circuit's shape.
    """
    if comparison.paired is False and not comparison.asks:
        return found, []
    if computes is None:
        first, second = map(ComputeSpec.of_circuit, files)
        computes = first, second
    try:
        return _look_closer(found, files, comparison, computes, models, progress, try_family)
    except EdgewiseError as error:
        if comparison.asks:
            raise
        return found, [structure_only(error)]


def structure_only(why: object) -> str:
    """Say why two models were not compared, and what is left."""
    return (
        f"which edges changed was not tested: {str(why).rstrip('.')}. What is told is structure "
        "alone: which edges the two circuits have."
    )


@within_memory()
def _look_closer(
    found: DiffFile,
    files: tuple[CircuitFile, CircuitFile],
    comparison: ComparisonSpec,
    computes: tuple[ComputeSpec, ComputeSpec],
    models: tuple[Source, Source],
    progress: Progress | None,
    try_family: str | None,
) -> tuple[DiffFile, list[str]]:
    repetitions, measure = comparison.noise_floor, _common_measure(files)
    discovery = None if repetitions is None else common_discovery(*files)
    scoring, notes = _scoring(files, comparison, measure)
    look: CloserLook | None = None
    sides: list[InModel] = []
    held: dict[int, Session] = {}

    def opened(side: int) -> Session:
        file, source = files[side], models[side]
        if isinstance(source, Session):
            return source
        report = named(progress, f"model {'AB'[side]}")
        option = f"`models[{side}]`"
        return held.pop(side, None) or open_for(
            file, source, computes[side], option=option, try_family=try_family, progress=report
        )

    for side, (file, source) in enumerate(zip(files, models, strict=True)):
        report = named(progress, f"model {'AB'[side]}")
        session = opened(side)
        if not isinstance(source, Session):
            notes += weights_notes(file, session, same_model=source is None)
        if look is None:
            sets = None if repetitions is None else prompt_sets(session, files, repetitions)
            pairs, said = circuit_pairs(files[0], session)
            tested = tested_pairs(files, session, pairs)
            look = CloserLook(comparison, measure, pairs, scoring, tested, discovery, sets)
            task = TaskSpec.of_circuit(file)
            gone = task.file is not None and not is_there(task.file)
            made = None if gone else open_task(session, task)[0]
            notes += said
        else:
            _check_prompts(session, task, look.pairs, made)
        sides.append(_in_model(session, found, look, side, computes[side], report))
        if side == 1:
            held[side] = session
        del session  # one model is in memory at a time
    assert look is not None
    found = put_together(found, look, *sides)
    sizes = computes[0].batch_size, computes[1].batch_size
    found = add_function(found, look, opened, sizes, progress)
    first, second = (file.task["sha256"] for file in files)
    on_a = comparison.roles or (comparison.cross and look.measured is look.pairs)
    if on_a and first != second:
        notes.append(
            "the two circuits were found on different prompts; those of A are used for both."
        )
    return found, notes + (found.roles.notes() if found.roles is not None else [])


def _scoring(
    files: tuple[CircuitFile, CircuitFile], comparison: ComparisonSpec, measure: tuple[str, str]
) -> tuple[DiscoverySpec | None, list[str]]:
    """Return how edges are scored to be tested, None if they are not, and notes."""
    if comparison.paired is False:
        return None, []
    try:
        return scored_alike(files, measure)
    except EdgewiseError as error:
        if comparison.paired or not comparison.asks:
            raise
        return None, [structure_only(error)]


@typed
def paired_comparison(
    file_a: CircuitFile,
    file_b: CircuitFile,
    *,
    models: tuple[Any, Any] = (None, None),
    progress: Progress | None = None,
    **fields: Any,
) -> Comparison:
    """Test every edge of two circuits' models on the same prompts; return what changed.

    `fields`: of `ComparisonSpec`, such as delta and level, and of `ComputeSpec`, such as
    batch_size. For the rest see `look_closer`.
    """
    files = (file_a, file_b)
    own, how = split("paired_comparison", fields, ComparisonSpec, ComputeSpec)
    a, b = (ComputeSpec.of_circuit(file).but(**how) for file in files)
    comparison = ComparisonSpec.of(**{**own, "paired": True})
    found, _ = look_closer(diff_files(*files), files, comparison, (a, b), models, progress)
    assert found.comparison is not None
    return found.comparison


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

    `level`: below it the likeness of the sets counts as different. `compute`: fields
    of `ComputeSpec`, such as batch_size and device. For the rest see `look_closer`.
    """
    files = (file_a, file_b)
    a, b = (ComputeSpec.of_circuit(file).but(**compute) for file in files)
    comparison = ComparisonSpec(paired=False, noise_floor=repetitions, level=level)
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
    scored = repeats = cross = roles = None
    diff, size = found.diff, compute.batch_size
    if look.comparison.roles:
        roles = roles_in(session, look.pairs, circuit_heads(diff.a | diff.b), progress)
    if look.sets is not None and look.discovery is not None:
        repeats = repeat_in(
            session, look.discovery, look.sets[side], batch_size=size, progress=progress
        )
    if look.comparison.cross:
        plan, pairs = CrossPlan.of(diff), look.measured
        cross = cross_in(session, pairs, plan, look.measure, batch_size=size, progress=progress)
    if look.scoring is not None and look.tested is not None:
        rounded = look.comparison.controls and side == 1
        scored = score_model(
            session, look.tested.pairs, look.scoring,
            rounded=rounded, compute=compute, progress=progress,
        )  # fmt: skip
    engine = about_engine(engine_of(session.engine, session.lifted))
    return InModel(session.loaded.title, scored, repeats, cross, roles, engine)


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
