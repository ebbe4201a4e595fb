"""Repeat a discovery in one model, each time on prompts of its own.

The recipe (method, options, metric, ablation, selection) is read from circuit files; the prompts
are 2·R disjoint or newly made sets, R for model A and R for model B, so that nothing but chance
makes the sets of A differ from those of B. Shapes: R repetitions, P ports, S senders.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..experiment.spec import Selection, is_file
from ..graphs.errors import EdgewiseError, PromptError
from ..session import Progress, Session, make_runner, open_task, stored_task
from .discover import selected

if TYPE_CHECKING:
    from ..discovery.registry import Discovery
    from ..graphs.files import CircuitFile
    from ..graphs.graph import ComputationGraph
    from ..patching.metrics.metric import Metric
    from ..patching.prompts.pairs import PromptPairs
    from ..patching.run.runner import Runner

LEAST_REPETITIONS = 2
LEAST_PAIRS = 4
"""A group of prompt pairs from a file has at least so many."""

SPLIT_SEED = 0
"""Decides which pairs of a file come into which group."""


@dataclass(frozen=True)
class Recipe:
    """Hold how a circuit was found, so that it can be done again."""

    method: str
    options: Mapping[str, Any]
    metric: str
    ablation: str
    select: Selection

    @staticmethod
    def of(discovery: Mapping[str, Any]) -> Recipe:
        """Read the block `discovery` of a circuit file.

        Raises:
            UnknownName: a method, or ablation, or metric, that this program does not know.
            EdgewiseError: the circuit's method started from given scores, which the file has not.
        """
        from ..discovery.registry import get_method
        from ..patching.ablations import get_ablation
        from ..patching.metrics.registry import get_metric

        method = get_method(str(discovery["method"]))
        if "start" in discovery:
            raise EdgewiseError(
                f"the discovery cannot be repeated: '{method.name}' started from scores that were "
                "given to it and are of one set of prompts; accepted: a circuit found without "
                "--start."
            )
        get_metric(discovery["metric"])
        get_ablation(discovery["ablation"])
        options = {key: discovery[key] for key in method.options if key in discovery}
        limits = {key: discovery[key] for key in vars(Selection()) if key in discovery}
        return Recipe(
            method.name,
            method.check(options),
            discovery["metric"],
            discovery["ablation"],
            Selection() if method.selects else Selection(**limits),
        )

    @property
    def scored_by(self) -> tuple[str, dict[str, Any]]:
        """Return the method, with options, whose scores are tested: searches score few edges."""
        from ..discovery.registry import get_method
        from ..patching.ablations import get_ablation

        if not get_method(self.method).selects:
            return self.method, dict(self.options)
        return "eap-ig", {"midpoint": not get_ablation(self.ablation).paired}

    def check_metric(self, metric: Metric) -> None:
        """Refuse a metric by which edges cannot be scored to be tested.

        Raises:
            EdgewiseError: the scores take its gradient, and it has none.
        """
        from ..discovery.registry import get_method

        get_method(self.scored_by[0]).check_metric(metric)

    def differences(self, other: Recipe) -> list[str]:
        """List in words what differs; options that cannot matter are left out."""

        def flat(recipe: Recipe) -> dict[str, Any]:
            head = {"method": recipe.method, **recipe.options, **recipe.select.as_dict()}
            head.pop("candidates", None)
            return {**head, "metric": recipe.metric, "ablation": recipe.ablation}

        a, b = flat(self), flat(other)
        return [f"{k} {a.get(k)} and {b.get(k)}" for k in {**a, **b} if a.get(k) != b.get(k)]


def common_recipe(a: CircuitFile, b: CircuitFile) -> Recipe:
    """Return how both circuits were found.

    Raises:
        EdgewiseError: they were found in different ways, or on different tasks; says in what.
    """
    recipe, other = Recipe.of(a.discovery), Recipe.of(b.discovery)
    unequal = recipe.differences(other) + task_differences(a.task, b.task)
    if unequal:
        raise EdgewiseError(
            f"the two circuits were found in different ways ({'; '.join(unequal)}), so their "
            "differences need not come from the models; accepted: circuits found by the same "
            "method with the same options on the same task."
        )
    return recipe


def task_differences(
    a: Mapping[str, Any],
    b: Mapping[str, Any],
    keys: Sequence[str] = ("name", "bos", "options", "examples"),
) -> list[str]:
    """List in what two tasks differ beside the seed; two files may hold different pairs."""
    files = ("file" in a, "file" in b)
    if all(files):
        keys = ("bos",)
    unequal = [f"task.{k} {a.get(k)} and {b.get(k)}" for k in keys if a.get(k) != b.get(k)]
    return unequal + ["a file of pairs and a built-in task"] * (files[0] != files[1])


# -- prompts -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PromptSets:
    """Hold R sets of prompt pairs for each of two models, independent of each other.

    `seeds_a`, `seeds_b`: what a built-in task made them from; empty for the groups of a file.
    """

    a: tuple[PromptPairs, ...]
    b: tuple[PromptPairs, ...]
    seeds_a: tuple[int, ...] = ()
    seeds_b: tuple[int, ...] = ()

    def __getitem__(self, side: int) -> tuple[PromptPairs, ...]:
        return self.b if side else self.a

    @property
    def examples(self) -> int:
        """Return how many pairs a set has."""
        return len(self.a[0])


def check_repetitions(repetitions: int) -> int:
    """Refuse too few repetitions.

    Raises:
        EdgewiseError: fewer than two.
    """
    if repetitions < LEAST_REPETITIONS:
        raise EdgewiseError(
            f"{repetitions} repetitions are too few to tell how much circuits vary; accepted: "
            f"{LEAST_REPETITIONS} or more (5 to 10 are usual)."
        )
    return repetitions


def prompt_sets(
    session: Session, files: tuple[CircuitFile, CircuitFile], repetitions: int
) -> PromptSets:
    """Make, with a model's tokenizer, the prompts of both models' repetitions.

    A built-in task makes them from seeds that neither circuit was found with; the pairs of a file,
    or of two different files together, are split.

    Raises:
        PromptError: there are too few pairs, or the task makes the same pairs from every seed.
    """
    tasks = [stored_task(file) for file in files]
    if is_file(tasks[0]["task"]):
        first, second = (open_task(session, **task)[0] for task in tasks)
        pooled = tuple(dict.fromkeys((*first.pairs, *second.pairs)))
        return split_pairs(replace(first, pairs=pooled), repetitions)
    used = [int(file.task["seed"] or 0) for file in files]
    return made_sets(session, tasks[0], repetitions, first_seed=1 + max(used))


def made_sets(
    session: Session, task: Mapping[str, Any], repetitions: int, *, first_seed: int
) -> PromptSets:
    """Make a built-in task's pairs 2·R times, from successive seeds; `task`: for `open_task`."""
    check_repetitions(repetitions)
    seeds = range(first_seed, first_seed + 2 * repetitions)
    sets = [open_task(session, **{**task, "seed": seed})[0] for seed in seeds]
    if len({one.sha256 for one in sets}) < len(sets):
        raise PromptError(
            f"task '{task['task']}' makes the same {len(sets[0])} pairs from several seeds, so its "
            "prompts cannot be drawn anew; ask for fewer examples."
        )
    half = repetitions
    return PromptSets(
        tuple(sets[:half]), tuple(sets[half:]), tuple(seeds[:half]), tuple(seeds[half:])
    )


def split_pairs(pairs: PromptPairs, repetitions: int) -> PromptSets:
    """Split pairs into 2·R disjoint random groups of equal size; what is left over is not used.

    Raises:
        PromptError: a group would have fewer than 4 pairs.
    """
    number = 2 * check_repetitions(repetitions)
    size = len(pairs) // number
    if size < LEAST_PAIRS:
        most = len(pairs) // (2 * LEAST_PAIRS)
        fewer = (
            f", or at most {most} repetitions of these {len(pairs):,}"
            if most >= LEAST_REPETITIONS
            else ""
        )
        raise PromptError(
            f"the {len(pairs):,} prompt pairs of '{pairs.name}' are too few: {repetitions} "
            f"repetitions in each of two models take {number} groups of {LEAST_PAIRS} pairs or "
            f"more. Accepted: {number * LEAST_PAIRS:,} pairs{fewer}, or a built-in task, which "
            "makes new pairs."
        )
    order = list(range(len(pairs)))
    random.Random(SPLIT_SEED).shuffle(order)
    groups = [sorted(order[size * i : size * (i + 1)]) for i in range(number)]
    sets = [replace(pairs, pairs=tuple(pairs.pairs[i] for i in group)) for group in groups]
    return PromptSets(tuple(sets[:repetitions]), tuple(sets[repetitions:]))


# -- repetitions ---------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Repeats:
    """Hold what R discoveries in one model found.

    Args:
        graph: the graph.
        scores: float32 [R, P, S], a score for every edge, NaN where none exists.
        kept: bool [R, P, S], the circuits.
    """

    graph: ComputationGraph
    scores: np.ndarray
    kept: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)


def repeat(
    session: Session,
    recipe: Recipe,
    sets: Sequence[PromptPairs],
    *,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Repeats:
    """Do a discovery once for each set of prompts.

    Raises:
        EdgewiseError: the metric has no gradient, which the tested scores need, or the model and
            the prompts do not fit together.
    """
    scores, kept = [], []
    for number, pairs in enumerate(sets, start=1):
        told = _numbered(progress, number, len(sets))
        runner = make_runner(
            session, pairs, metric=recipe.metric, ablation=recipe.ablation, batch_size=batch_size
        )
        values, mask = once(runner, recipe, told)
        scores.append(values)
        kept.append(mask)
    return Repeats(session.graph, np.stack(scores), np.stack(kept))


def once(
    runner: Runner, recipe: Recipe, progress: Progress | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Do a discovery; return the scores that are tested, [P, S], and the circuit's mask, [P, S]."""
    from ..discovery.registry import get_method

    method = get_method(recipe.method)
    name, options = recipe.scored_by
    recipe.check_metric(runner.metric)
    found: Discovery = method(runner, progress, **recipe.options)
    if found.circuit is not None:
        scores = get_method(name)(runner, progress, **options).scores
        return scores.values, found.circuit.kept
    return found.scores.values, selected(runner, found.scores, recipe.select, progress).kept


def _numbered(progress: Progress | None, number: int, total: int) -> Progress | None:
    """Return a callback that counts one repetition's work as a part of that of all."""
    if progress is None:
        return None

    def told(done: int, of: int, what: str) -> None:
        before = (number - 1) * of
        progress(before + done, total * of, f"{what}, repetition {number} of {total}")

    return told
