"""Many circuits measured together: the same values, and each chunk's runs made once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgewise.discovery.random_circuits import baseline, random_circuits
from edgewise.graphs.circuit import Circuit
from edgewise.graphs.diff import CircuitDiff
from edgewise.patching.run import memory
from edgewise.patching.run import runner as runners
from edgewise.patching.run.chunk import Chunk
from edgewise.patching.run.runner import Runner
from edgewise.steps.comparison.function import changed_in
from edgewise.steps.cross_evaluation import CrossPlan, cross_in
from tests.engine import tiny_lift, tiny_pairs


@pytest.fixture
def runner() -> Runner:
    pairs = tiny_pairs(lengths=(6,) * 6)
    made = Runner.create(tiny_lift("llama"), pairs, metric="logit_diff", batch_size=2)
    return replace(made, budget=replace(made.budget, cache=0))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Chunk]:
    """List the chunks that are made, where none fits in memory."""
    found: list[Chunk] = []
    monkeypatch.setattr(memory, "LAPTOP", replace(memory.LAPTOP, cache=0))
    real = Chunk

    def noted(*given: object) -> Chunk:
        found.append(real(*given))  # type: ignore[arg-type]
        return found[-1]

    monkeypatch.setattr(runners, "Chunk", noted)
    return found


def some(runner: Runner, number: int = 5) -> list[Circuit]:
    graph = runner.graph
    counts = {kind: count // 2 for kind, count in graph.count_by_kind().items()}
    return random_circuits(graph, counts, number)


def test_together_and_one_by_one_are_the_same(runner: Runner, made: list[Chunk]) -> None:
    circuits, told = some(runner), list[tuple[int, int]]()
    together = runner.measure_each(circuits, progress=lambda *done: told.append(done))
    assert len(made) == 3  # chunks of two pairs
    alone = [runner.measure_each([one])[0, 0] for one in circuits]
    assert len(made) == 3 + 3 * len(circuits)
    assert np.array_equal(together[0], np.array(alone))
    assert told[-1] == (5, 5) and len(told) == 15
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_random_circuits_make_each_chunk_once(runner: Runner, made: list[Chunk]) -> None:
    (circuit,) = some(runner, 1)
    told: list[tuple[int, int, str]] = []
    found = baseline(runner, circuit, 7, progress=lambda *done: told.append(done))
    assert len(made) <= 2 * 3  # and once more for what rounding does
    assert told[-1] == (7, 7, "random circuits measured")
    drawn = random_circuits(runner.graph, runner.graph.count_by_kind(circuit.kept), 7)
    again = [float(runner.measure([one])[0, 0]) for one in drawn]
    full, empty = runner.measure([Circuit.full(runner.graph), Circuit.empty(runner.graph)])[0]
    assert found.faithfulness == pytest.approx([(x - empty) / (full - empty) for x in again])


def test_the_circuits_of_a_diff_make_each_chunk_once(
    runner: Runner, made: list[Chunk], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where circuits are large and prompts long, each chunk's clean runs are most of the work."""
    for steps in ("cross_evaluation", "comparison.function"):
        monkeypatch.setattr(f"edgewise.steps.{steps}.make_runner", lambda *_, **__: runner)
    a, b = some(runner, 2)
    measure, nobody = ("logit_diff", "resample"), None
    plan = CrossPlan.of(CircuitDiff(a, b), random=4)
    found = cross_in(nobody, runner.pairs, plan, measure)  # type: ignore[arg-type]
    assert len(made) <= 2 * 3  # and once more for what rounding does
    values = [float(runner.measure([one])[0, 0]) for one in (a, b, a & b, a | b)]
    assert found.circuits == pytest.approx(values)
    ends = runner.measure([Circuit.full(runner.graph), Circuit.empty(runner.graph)])[0]
    assert found.ends == pytest.approx(tuple(ends)) and len(found.random) == 4
    made.clear()
    changed = changed_in(nobody, runner.pairs, a, measure)  # type: ignore[arg-type]
    assert len(made) <= 2 * 3
    assert changed.values.shape == (4, 6) and changed.random.shape == (10, 6)
    assert changed.values[2].mean() == pytest.approx(values[0])
