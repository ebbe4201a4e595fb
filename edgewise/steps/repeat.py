"""The noise floor of a diff: how stable are two circuits, as sets of edges, on other prompts?

1. The discovery is repeated R times in each model, on 2·R disjoint or newly made sets of prompts,
   so that nothing but chance makes the sets of A differ from those of B.
2. Of every edge it is told how many repetitions keep it, and of the sets whether those of A and B
   are less alike than those of one model (`discovery.uncertainty.significance`).

It says nothing of single edges' scores: these are tested on the same prompts in both models (see
`comparison`). `graphs.comparison.NoiseFloor` holds it all. Shapes: R repetitions, P ports, S
senders.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..discovery.uncertainty.significance import jaccard_matrix, label_permutation
from ..experiment.spec import LEAST_REPETITIONS, DiscoverySpec
from ..experiment.task import TAKEN, TaskSpec
from ..graphs.circuit import Circuit
from ..graphs.comparison import FloorRow, NoiseFloor
from ..graphs.diff import CircuitDiff
from ..graphs.errors import EdgewiseError, FileFormatError, PromptError
from ..graphs.files import CircuitFile
from ..graphs.files.atomic import write_bytes
from ..graphs.files.scores import header
from ..graphs.graph import ComputationGraph
from ..patching.engines import about_engine
from ..patching.prompts.pairs import PromptPairs
from ..progress import Progress, repeated
from ..session import Session, make_runner, open_task
from .found.selection import selected
from .stored import circuit_pairs

if TYPE_CHECKING:
    from ..patching.run.runner import Runner

LEAST_PAIRS = 4  # in a group of prompt pairs from a file
SPLIT_SEED = 0  # decides which pairs of a file come into which group


def common_discovery(a: CircuitFile, b: CircuitFile) -> DiscoverySpec:
    """Return how both circuits were found; refuse two ways, or two tasks."""
    found = DiscoverySpec.of_circuit(a)
    unequal = found.differences(DiscoverySpec.of_circuit(b)) + task_differences(a.task, b.task)
    if unequal:
        raise EdgewiseError(
            f"the two circuits were found in different ways ({'; '.join(unequal)}), so their "
            "differences need not come from the models; accepted: circuits found by the same "
            "method with the same options on the same task."
        )
    return found


def task_differences(
    a: Mapping[str, object],
    b: Mapping[str, object],
    keys: Sequence[str] = ("name", "bos", "options", "examples", *TAKEN),
) -> list[str]:
    """List in what two tasks differ beside the seed; two files may hold different pairs."""
    files = ("file" in a, "file" in b)
    if all(files):
        keys = ("bos", *TAKEN)
    unequal = [f"task.{k} {a.get(k)} and {b.get(k)}" for k in keys if a.get(k) != b.get(k)]
    return unequal + ["a file of pairs and a built-in task"] * (files[0] != files[1])


# -- prompts -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PromptSets:
    """R sets of prompt pairs for each of two models, independent of each other.

    `seeds_a`, `seeds_b`: what a built-in task made them from; empty for the groups of a file.
    """

    a: tuple[PromptPairs, ...]
    b: tuple[PromptPairs, ...]
    seeds_a: tuple[int, ...] = ()
    seeds_b: tuple[int, ...] = ()

    @staticmethod
    def of(sets: Sequence[PromptPairs], seeds: Sequence[int] = ()) -> PromptSets:
        """Give the first half of the sets, and of the seeds, to A and the others to B."""
        half, first = len(sets) // 2, tuple(seeds[: len(seeds) // 2])
        last = tuple(seeds[len(first) :])
        return PromptSets(tuple(sets[:half]), tuple(sets[half:]), first, last)

    def __getitem__(self, side: int) -> tuple[PromptPairs, ...]:
        return self.b if side else self.a

    @property
    def examples(self) -> int:
        """Return how many pairs a set has."""
        return len(self.a[0])


def prompt_sets(
    session: Session, files: tuple[CircuitFile, CircuitFile], repetitions: int
) -> PromptSets:
    """Make, with a model's tokenizer, the prompts of both models' repetitions.

    A built-in task gets seeds that neither circuit was found with; pairs of files are split.
    """
    tasks = [TaskSpec.of_circuit(file) for file in files]
    if tasks[0].file is not None:
        first, second = (circuit_pairs(file, session)[0] for file in files)
        pooled = tuple(dict.fromkeys((*first.pairs, *second.pairs)))
        return split_pairs(replace(first, pairs=pooled), repetitions)
    used = 1 + max(task.seed or 0 for task in tasks)
    return made_sets(session, tasks[0], repetitions, first_seed=used)


def made_sets(session: Session, task: TaskSpec, repetitions: int, *, first_seed: int) -> PromptSets:
    """Make a built-in task's pairs 2·R times, from successive seeds."""
    seeds = range(first_seed, first_seed + 2 * repetitions)
    sets = [open_task(session, task.but(seed=seed))[0] for seed in seeds]
    if len({one.sha256 for one in sets}) < len(sets):
        raise PromptError(
            f"task '{task.name}' makes the same {len(sets[0])} pairs from several seeds, so its "
            "prompts cannot be drawn anew; ask for fewer examples."
        )
    return PromptSets.of(sets, seeds)


def split_pairs(pairs: PromptPairs, repetitions: int) -> PromptSets:
    """Split pairs into 2·R disjoint random groups of equal size; what is left over is not used."""
    number = 2 * repetitions
    size = len(pairs) // number
    if size < LEAST_PAIRS:
        most = len(pairs) // (2 * LEAST_PAIRS)
        fewer = f", or at most {most} repetitions of these {len(pairs):,}"
        fewer = fewer if most >= LEAST_REPETITIONS else ""
        raise PromptError(
            f"the {len(pairs):,} prompt pairs of '{pairs.name}' are too few: {repetitions} "
            f"repetitions in each of two models take {number} groups of {LEAST_PAIRS} pairs or "
            f"more. Accepted: {number * LEAST_PAIRS:,} pairs{fewer}, or a built-in task, which "
            "makes new pairs."
        )
    order = list(range(len(pairs)))
    random.Random(SPLIT_SEED).shuffle(order)
    groups = [sorted(order[size * i : size * (i + 1)]) for i in range(number)]
    return PromptSets.of(
        [replace(pairs, pairs=tuple(pairs.pairs[i] for i in group)) for group in groups]
    )


# -- repetitions ---------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Repeats:
    """What R discoveries in one model found; as a file, safetensors with a seal against changes.

    `kept`: bool [R, P, S], the circuits. `engine`: name and version of what computed; None
    where an older file does not say.
    """

    graph: ComputationGraph
    kept: np.ndarray
    engine: Mapping[str, str] | None = None

    def __len__(self) -> int:
        return len(self.kept)

    @property
    def seal(self) -> str:
        """Return a hash of the circuits."""
        return hashlib.sha256(self.kept.tobytes()).hexdigest()

    def write(self, path: Path) -> None:
        """Write the repetitions, all or nothing."""
        about = {} if self.engine is None else {"engine": json.dumps(self.engine)}
        first = header("U8", self.kept.shape, {"sha256": self.seal, **about}, "kept")
        write_bytes(path, first + self.kept.astype(np.uint8).tobytes())

    @staticmethod
    def read(path: Path, graph: ComputationGraph) -> Repeats:
        """Read repetitions on a graph; a FileFormatError if the file is damaged or of another."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as found:
                kept = found.get_tensor("kept")
                about = found.metadata() or {}
                engine = json.loads(about.get("engine", "null"))
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise FileFormatError(f"{path} cannot be read ({error}); make it again.") from None
        if kept.shape[1:] != graph.reads.shape:
            raise FileFormatError(f"{path} is of another graph; make it again.")
        own = {str(k): str(v) for k, v in engine.items()} if isinstance(engine, dict) else None
        repeats = Repeats(graph, kept.astype(bool), own)
        if about.get("sha256") != repeats.seal:
            raise FileFormatError(f"{path} was changed after it was written; make it again.")
        return repeats


def repeat_in(
    session: Session,
    spec: DiscoverySpec,
    sets: Sequence[PromptPairs],
    *,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Repeats:
    """Do a discovery in one model, once for each set of prompts."""
    kept = []
    for number, pairs in enumerate(sets, start=1):
        runner = make_runner(
            session,
            pairs,
            metric=spec.metric,
            ablation=spec.ablation,
            batch_size=batch_size,
            mlps=spec.mlps,
        )
        report = repeated(progress, number, len(sets), "repetition")
        kept.append(once(runner, spec, report).kept)
    return Repeats(runner.graph, np.stack(kept), about_engine(spec.chosen.engine(runner)))


def once(runner: Runner, spec: DiscoverySpec, progress: Progress | None = None) -> Circuit:
    """Do a discovery; return the circuit."""
    found = spec.chosen(runner, progress, per_example=spec.by_example, **spec.options)
    if found.circuit is not None:
        return found.circuit
    return selected(runner, found, spec.select, progress).circuit


def find_floor(
    diff: CircuitDiff,
    repeats: tuple[Repeats, Repeats],
    spec: DiscoverySpec,
    sets: PromptSets,
    level: float,
) -> NoiseFloor:
    """List every edge of both circuits with its survival: the share of repetitions that keep it."""
    a, b = repeats
    graph, columns = diff.a.graph, (a.kept.mean(0), b.kept.mean(0))
    rows = []
    for row, sender in np.argwhere(diff.a.kept | diff.b.kept):
        edge = graph.edge_at(row, sender)
        numbers = (float(column[row, sender]) for column in columns)
        rows.append(FloorRow(str(edge.sender), str(edge.port), *numbers))
    jaccard = label_permutation(jaccard_matrix(np.concatenate([a.kept, b.kept])), len(a))
    return NoiseFloor(
        repetitions=len(a), examples=sets.examples, seeds_a=sets.seeds_a, seeds_b=sets.seeds_b,
        prompts="new seeds" if sets.seeds_a else "disjoint groups of the file's pairs",
        method=spec.method, metric=spec.metric, ablation=spec.ablation, level=level,
        jaccard=jaccard, edges=tuple(rows),
    )  # fmt: skip
