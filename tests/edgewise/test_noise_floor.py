"""The noise floor: how stable two sets of edges are on other prompts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgewise.discovery.registry import get_method
from edgewise.experiment.spec import ComparisonSpec, DiscoverySpec, Selection
from edgewise.experiment.task import TaskSpec
from edgewise.graphs.circuit import Circuit
from edgewise.graphs.comparison import FloorRow
from edgewise.graphs.diff import CircuitDiff
from edgewise.graphs.errors import EdgewiseError, FileFormatError, GraphMismatch, PromptError
from edgewise.graphs.files import CircuitFile, diff_files, read_circuit
from edgewise.graphs.graph import ComputationGraph
from edgewise.patching.prompts.pair_files import write_pairs
from edgewise.session import Session, open_model, open_task
from edgewise.steps.compare import look_closer, noise_floor
from edgewise.steps.discover import discover
from edgewise.steps.repeat import (
    PromptSets,
    Repeats,
    common_discovery,
    find_floor,
    made_sets,
    once,
    repeat_in,
    split_pairs,
)
from edgewise.workflow import make_runner
from tests.edgewise.asking_model import answering, ask, without_head

LEVEL = 0.05
TOP = DiscoverySpec("eap-ig", select=Selection(top=20))


@pytest.fixture(scope="session")
def whole() -> Session:
    """Open a trained model of two layers with four heads each and MLPs: 110 edges."""
    return open_model(answering(2, 4, steps=150))


@pytest.fixture(scope="session")
def two_jobs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Save a trained model whose two heads have a job each, and copies without one of them."""
    folder = tmp_path_factory.mktemp("jobs")
    model = answering(1, 2, steps=400, jobs=True)
    found = {"base": model, **{f"cut{head}": without_head(model, 0, head) for head in (0, 1)}}
    for name, one in found.items():
        one.save_pretrained(folder / name)
    return {name: folder / name for name in found}


# -- identities ----------------------------------------------------------------------------------


def test_the_same_model_loaded_again_finds_the_same(two_jobs: dict[str, Path]) -> None:
    sets = [ask(8, seed) for seed in range(3)]
    first, again = (repeat_in(open_model(str(two_jobs["base"])), TOP, sets) for _ in range(2))
    np.testing.assert_array_equal(first.kept, again.kept)
    circuit = Circuit(first.graph, first.kept[0])
    prompts = PromptSets(tuple(sets), tuple(sets))
    found = find_floor(CircuitDiff(circuit, circuit), (first, again), TOP, prompts, LEVEL)
    assert all(row.survival_a == row.survival_b for row in found.edges)
    assert found.jaccard.p == 1.0


def test_a_noise_floor_by_hand() -> None:
    graph = ComputationGraph(layers=1, heads=1)
    a = Circuit.empty(graph).with_edges(["embed->logits"])
    b = a.with_edges(["embed->m0"])
    kept = np.repeat(graph.reads[None], 3, 0)
    fewer = kept.copy()
    fewer[0][graph.locate("embed->m0")] = False
    pairs = ask(4, 0)
    sets = PromptSets((pairs,) * 3, (pairs,) * 3, (1, 2, 3), (4, 5, 6))
    repeats = Repeats(graph, kept), Repeats(graph, fewer)
    found = find_floor(CircuitDiff(a, b), repeats, TOP, sets, LEVEL)
    assert found.edges == (
        FloorRow("embed", "m0", 1.0, pytest.approx(2 / 3)),
        FloorRow("embed", "logits", 1.0, 1.0),
    )
    assert (found.seeds_a, found.seeds_b, found.examples) == ((1, 2, 3), (4, 5, 6), 4)
    assert found.jaccard.within_a == (1.0,) * 3
    assert found.jaccard.within_b == pytest.approx([7 / 8, 7 / 8, 1.0])
    name, values = next(found.likeness())
    assert (name, values.tolist()) == ("two repetitions in A", [1.0] * 3)


# -- the recipe ----------------------------------------------------------------------------------


@pytest.fixture
def circuits(whole: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that finds a circuit of the trained model on a file of pairs."""
    monkeypatch.chdir(tmp_path)

    def find(name: str = "ask.jsonl", seed: int = 0, count: int = 32, **more: Any) -> CircuitFile:
        write_pairs(name, ask(count, seed))
        asked: dict[str, Any] = {"method": "eap-ig", "select": Selection(top=20), **more}
        return discover(whole, open_task(whole, name)[0], **asked).file

    return find


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"select": Selection(top=30)}, r"\(top 20 and 30\)"),
        ({"options": {"steps": 3}}, r"\(steps 5 and 3\)"),
        ({"metric": "nll"}, r"\(metric logit_diff and nll\)"),
        ({"method": "eap"}, r"\(method eap-ig and eap; steps 5 and None; midpoint"),
    ],
)
def test_circuits_found_in_different_ways_are_refused(
    circuits: Callable[..., CircuitFile], more: dict[str, Any], message: str
) -> None:
    with pytest.raises(EdgewiseError, match="found in different ways " + message):
        common_discovery(circuits(), circuits(**more))


def test_a_circuit_that_started_from_given_scores_is_refused(
    circuits: Callable[..., CircuitFile],
) -> None:
    file = circuits()
    started = {**file.discovery, "method": "refine", "start": {"method": "eap-ig"}}
    with pytest.raises(EdgewiseError, match="'refine' started from scores"):
        DiscoverySpec.of_circuit(replace(file, discovery=started))


@pytest.mark.parametrize(
    ("method", "options", "select"),
    [
        ("eap", {}, Selection(top=10)),
        ("exact", {}, Selection(above=0.5)),
        ("eap-ig", {}, Selection(faithfulness=0.8)),
        ("acdc", {"threshold": 0.05}, Selection()),
        ("refine", {"edges": 10}, Selection()),
    ],
)
def test_a_repetition_on_the_same_prompts_is_the_discovery(
    whole: Session, circuits: Callable[..., CircuitFile], method: str, options: Any, select: Any
) -> None:
    file = circuits(count=6, method=method, options=options, select=select)
    recipe = DiscoverySpec.of_circuit(file)
    runner = make_runner(whole, ask(6, 0), metric=recipe.metric)
    assert once(runner, recipe) == file.circuit
    searched = get_method(method).selects
    assert recipe.scored_by[0] == ("eap-ig" if searched else method)
    assert recipe.metric == ("kl" if searched else "logit_diff")


def test_sets_are_stable_or_not_by_a_metric_without_a_gradient_too(whole: Session) -> None:
    found = repeat_in(whole, DiscoverySpec("acdc", "accuracy"), [ask(4, 0), ask(4, 1)])
    assert found.kept.shape == (2, *whole.graph.reads.shape)


# -- prompts -------------------------------------------------------------------------------------


def test_pairs_are_split_into_disjoint_groups() -> None:
    pairs = ask(50, 0)
    sets = split_pairs(pairs, 6)
    groups = [*sets.a, *sets.b]
    assert [len(group) for group in groups] == [4] * 12
    assert len({pair for group in groups for pair in group}) == 48
    assert sets == split_pairs(pairs, 6)
    assert (sets.seeds_a, sets.examples, sets[1]) == ((), 4, sets.b)


@pytest.mark.parametrize(
    ("count", "repetitions", "accepted"),
    [
        (39, 5, "Accepted: 40 pairs, or at most 4 repetitions of these 39, or a built-in task"),
        (15, 2, "Accepted: 16 pairs, or a built-in task"),
    ],
)
def test_too_few_pairs_are_refused(count: int, repetitions: int, accepted: str) -> None:
    with pytest.raises(PromptError, match=accepted):
        split_pairs(ask(count, 0), repetitions)


def test_one_repetition_is_refused() -> None:
    with pytest.raises(EdgewiseError, match="noise_floor is 1; accepted: a whole number from 2 up"):
        ComparisonSpec(noise_floor=1)


def test_a_built_in_task_makes_new_pairs(models: dict[str, Path]) -> None:
    session = open_model(str(models["llama"]))
    task = TaskSpec("induction", examples=4, options={"period": 5, "repeat": 2})
    sets = made_sets(session, task, 2, first_seed=7)
    assert (sets.seeds_a, sets.seeds_b) == ((7, 8), (9, 10))
    assert [one.seed for one in (*sets.a, *sets.b)] == [7, 8, 9, 10]
    assert len({one.sha256 for one in (*sets.a, *sets.b)}) == 4


def test_two_files_are_pooled(whole: Session, circuits: Callable[..., CircuitFile]) -> None:
    files = circuits("one.jsonl", 1, count=12), circuits("two.jsonl", 2, count=12)
    asked = ComparisonSpec(paired=False, noise_floor=3)
    found, notes = look_closer(diff_files(*files), files, asked, models=(whole, whole))
    assert (found.noise_floor is not None and found.noise_floor.examples, notes) == (4, [])


# -- files and messages --------------------------------------------------------------------------


def test_repetitions_are_written_and_read(whole: Session, tmp_path: Path) -> None:
    repeats = repeat_in(whole, TOP, [ask(4, 0), ask(4, 1)])
    path = tmp_path / "r.safetensors"
    repeats.write(path)
    read = Repeats.read(path, whole.graph)
    np.testing.assert_array_equal(read.kept, repeats.kept)
    before = path.read_bytes()
    read.write(path)
    assert path.read_bytes() == before
    path.write_bytes(before[:100])
    with pytest.raises(FileFormatError, match="make it again"):
        Repeats.read(path, whole.graph)


def test_the_python_function_says_the_same(
    edgewise: Any, two_jobs: dict[str, Path], tmp_path: Path
) -> None:
    write_pairs(tmp_path / "ask.jsonl", ask(40, seed=0))
    for name in ("base", "cut0"):
        edgewise(
            "discover", "--model", two_jobs[name], "--task", "ask.jsonl", "--method", "eap-ig",
            "--top", 4, "--scores", "-o", f"{name}.json",
        )  # fmt: skip
    shown = json.loads(
        edgewise("diff", "base.json", "cut0.json", "--noise-floor", 3, "--cross", "--json").stdout
    )
    files = read_circuit("base.json"), read_circuit("cut0.json")
    told: list[tuple[int, int, str]] = []
    floor = noise_floor(*files, 3, progress=lambda *report: told.append(report))
    told_here = asdict(floor) | {"edges": [row[:4] for row in floor.edges]}
    stated = {key: value for key, value in told_here.items() if value is not None}
    assert json.loads(json.dumps(stated)) == shown["noise_floor"]
    last = [report for report in told if "model B" in report[2]][-1]
    assert last[2] == "model B: gradients taken, repetition 3 of 3"
    assert shown["scores"]["over"] == "all edges"
    assert shown["cross"]["models"] == ["base", "cut0"]
    assert shown["notes"] == []


def test_another_model_in_place_of_one_is_pointed_out(
    edgewise: Any, two_jobs: dict[str, Path], models: dict[str, Path], tmp_path: Path
) -> None:
    write_pairs(tmp_path / "ask.jsonl", ask(16, seed=0))
    edgewise(
        "discover", "--model", two_jobs["base"], "--task", "ask.jsonl", "--method", "eap-ig",
        "--top", 4, "-o", "c.json",
    )  # fmt: skip
    closer = ("diff", "c.json", "c.json", "--noise-floor", 2)
    assert "whose weights differ" in edgewise(*closer, "--model-b", two_jobs["cut0"]).stderr
    wrong = edgewise(*closer, "--model-b", models["gpt2"], status=1)
    assert "cannot be run in" in wrong.stderr
    alone = ("diff", "c.json", "c.json", "--no-paired", "--model-b", "x")
    assert "is for what is done in the models" in edgewise(*alone, status=2).stderr
    assert "too few" in edgewise("diff", "c.json", "c.json", "--noise-floor", 3, status=1).stderr


def test_circuits_of_unlike_shapes_are_sent_to_the_roles(
    edgewise: Any, models: dict[str, Path], pairs: Path
) -> None:
    for name in ("llama", "deeper"):
        edgewise(
            "discover", "--model", models[name], "--task", pairs, "--method", "eap", "--top", 5,
            "-o", f"{name}.json",
        )  # fmt: skip
    shown = edgewise("diff", "llama.json", "deeper.json", "--noise-floor", 2, status=1).stderr
    assert "edgewise roles llama.json deeper.json" in " ".join(shown.split())
    files = read_circuit("llama.json"), read_circuit("deeper.json")
    with pytest.raises(GraphMismatch):
        noise_floor(*files, 2)
