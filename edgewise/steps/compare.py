"""Look closer at a diff with its two models: noise floor, circuits in either model, head roles.

Each model is opened once, and one is in memory at a time. Prompts are made with A's tokenizer; B's,
if it has one, must make the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from ..graphs.comparison import RolesComparison, RolesInModel
from ..graphs.errors import EdgewiseError, PromptError
from ..session import Progress, Session, make_runner, open_task, stored_model, stored_task
from .cross_evaluation import RANDOM, CrossPlan, Measured, cross_evaluation, measure_all
from .fit import first_difference, open_for, weights_notes
from .head_roles import circuit_heads, roles_in
from .noise_floor import LEVEL, check_level, find_floor
from .repeat import (
    PromptSets,
    Recipe,
    Repeats,
    check_repetitions,
    common_recipe,
    prompt_sets,
    repeat,
    task_differences,
)

if TYPE_CHECKING:
    from ..graphs.files import CircuitFile, DiffFile
    from ..graphs.names import Node
    from ..patching.prompts.pairs import PromptPairs

Source: TypeAlias = "str | Session | None"
"""A model: what a user types for it, an open one, or None for the one a circuit's file names."""


@dataclass(frozen=True)
class Asked:
    """Say what to find out with the models, and how to compute.

    Args:
        repetitions: of the noise floor, in each model; None: no noise floor.
        level: of q-values.
        cross: run the circuits in both models, and this many random ones; None: do not.
        roles: measure in both models what the circuits' heads do.
        dtype: default: that of the circuit.
        device, batch_size, allow_pickle: see `open_model` and `make_runner`.
    """

    repetitions: int | None = None
    level: float = LEVEL
    cross: int | None = None
    roles: bool = False
    dtype: str | None = None
    device: str = "auto"
    batch_size: int | None = None
    allow_pickle: bool = False

    def __post_init__(self) -> None:
        check_level(self.level)
        if self.repetitions is not None:
            check_repetitions(self.repetitions)


def cross_asked(asked: bool) -> int | None:
    """Return how many random circuits a cross-evaluation runs, None for no cross-evaluation."""
    return RANDOM if asked else None


def look_closer(
    found: DiffFile,
    files: tuple[CircuitFile, CircuitFile],
    asked: Asked,
    models: tuple[Source, Source] = (None, None),
    progress: Progress | None = None,
) -> tuple[DiffFile, list[str]]:
    """Add a noise floor, a cross-evaluation and head roles to a diff.

    Args:
        found: the diff of the two files.
        files: the circuits.
        asked: what to do.
        models: references or open sessions in place of the models the files name.
        progress: told what is done.

    Returns:
        The diff with `noise_floor`, `cross` and `roles`, and notes for its reader.

    Raises:
        EdgewiseError: the circuits were found in different ways; says in what.
        PromptError: there are too few prompts, or the tokenizers make different ones.
        GraphMismatch: a model is not of its circuit's shape.
    """
    if asked.repetitions is None and asked.cross is None and not asked.roles:
        return found, []
    recipe = None if asked.repetitions is None else common_recipe(*files)
    measure = _common_measure(files)
    heads = circuit_heads(found.diff.a | found.diff.b) if asked.roles else []
    plan = None if asked.cross is None else CrossPlan.of(found.diff, asked.cross)
    work = _Work(files, asked, recipe, plan, measure, heads)
    for side in (0, 1):
        work.in_model(side, models[side], _naming("AB"[side], progress))
    if work.sets is not None and recipe is not None:
        repeats = (work.repeats[0], work.repeats[1])
        floor = find_floor(found.diff, repeats, recipe, work.sets, asked.level)
        found = replace(found, noise_floor=floor)
    if plan is not None:
        assert work.pairs is not None
        measured, names = (work.measured[0], work.measured[1]), (work.names[0], work.names[1])
        found = replace(found, cross=cross_evaluation(plan, measured, names, work.pairs, **measure))
    if asked.roles:
        roles = RolesComparison(work.roles[0], work.roles[1])
        found = replace(found, roles=roles)
        work.notes += roles.notes()
    return found, work.notes


def _common_measure(files: tuple[CircuitFile, CircuitFile]) -> dict[str, str]:
    """Return the metric and ablation both circuits were found with.

    Raises:
        EdgewiseError: they differ, or one task is a file and the other is not.
    """
    keys = ("metric", "ablation")
    a, b = ({key: str(file.discovery[key]) for key in keys} for file in files)
    unequal = [f"{key} {a[key]} and {b[key]}" for key in keys if a[key] != b[key]]
    unequal += task_differences(files[0].task, files[1].task, keys=("name", "bos", "options"))
    if unequal:
        raise EdgewiseError(
            f"the two circuits cannot be held against each other in their models: they were found "
            f"on different tasks or measures ({'; '.join(unequal)}); accepted: circuits of one "
            "task, found with one metric and one ablation."
        )
    return a


class _Work:
    """Do in each model what was asked; hold prompts and results, but no model."""

    def __init__(
        self,
        files: tuple[CircuitFile, CircuitFile],
        asked: Asked,
        recipe: Recipe | None,
        plan: CrossPlan | None,
        measure: Mapping[str, str],
        heads: Sequence[Node],
    ) -> None:
        self.files, self.asked, self.recipe, self.plan = files, asked, recipe, plan
        self.measure, self.heads = measure, heads
        self.sets: PromptSets | None = None
        self.pairs: PromptPairs | None = None
        self.repeats: list[Repeats] = []
        self.measured: list[Measured] = []
        self.roles: list[RolesInModel] = []
        self.names: list[str] = []
        self.notes: list[str] = []

    def in_model(self, side: int, source: Source, progress: Progress | None) -> None:
        """Open one model, do everything in it, and let it go."""
        asked, file = self.asked, self.files[side]
        if isinstance(source, Session):
            session = source
        else:
            session = open_for(
                file,
                source or stored_model(file),
                dtype=asked.dtype,
                device=asked.device,
                allow_pickle=asked.allow_pickle,
                progress=progress,
            )
            self.notes += weights_notes(file, session, same_model=source is None)
        self.names.append(session.loaded.title)
        if side == 0:
            self.make_prompts(session)
        else:
            self.check_prompts(session)
        if self.asked.roles:  # first, as it is quick and not every model's heads can be measured
            assert self.pairs is not None
            self.roles.append(roles_in(session, self.pairs, self.heads, progress))
        if self.sets is not None and self.recipe is not None:
            self.repeats.append(
                repeat(
                    session, self.recipe, self.sets[side],
                    batch_size=asked.batch_size, progress=progress,
                )
            )  # fmt: skip
        if self.plan is not None:
            assert self.pairs is not None
            runner = make_runner(session, self.pairs, **self.measure, batch_size=asked.batch_size)
            self.measured.append(measure_all(runner, self.plan, progress))

    def make_prompts(self, session: Session) -> None:
        """Make all prompts, for both models."""
        if self.asked.repetitions is not None:
            self.sets = prompt_sets(session, self.files, self.asked.repetitions)
        self.pairs = open_task(session, **stored_task(self.files[0]))[0]
        first, second = (file.task["sha256"] for file in self.files)
        if self.pairs.sha256 != first:
            self.notes.append(
                f"the prompt pairs of task '{self.pairs.name}', made anew, are not those circuit A "
                "was found on (their hash differs): the task's file, words or tokenizer have "
                "changed."
            )
        if (self.plan is not None or self.asked.roles) and first != second:
            self.notes.append(
                "the two circuits were found on different prompts; those of A are used for both."
            )

    def check_prompts(self, session: Session) -> None:
        """Refuse a second model whose tokenizer makes other prompts than the first one's.

        Raises:
            PromptError: says where they differ.
        """
        if session.loaded.tokenizer is None or self.pairs is None:
            return
        own = open_task(session, **stored_task(self.files[0]))[0]
        difference = first_difference(self.pairs.pairs, own.pairs)
        if difference:
            raise PromptError(
                "the two models cannot be compared: their tokenizers map the task's prompts "
                f"differently: {difference}. Give the pairs as token ids that both understand."
            )


def _naming(name: str, progress: Progress | None) -> Progress | None:
    """Return a progress callback that says in which model."""
    if progress is None:
        return None
    told: Callable[[int, int, str], Any] = progress

    def named(done: int, total: int, what: str) -> None:
        told(done, total, f"model {name}: {what}")

    return named
