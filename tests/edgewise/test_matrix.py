"""Tasks × circuits: planted circuits on a model by hand, the file, the picture, the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from edgewise.experiment.spec import EvaluationSpec
from edgewise.graphs.circuit import Circuit
from edgewise.graphs.errors import FileFormatError
from edgewise.graphs.files import CircuitFile, read_matrix, write_matrix
from edgewise.graphs.files.tables.matrix import MatrixFile, MeasuredTask
from edgewise.graphs.lift.plain import plain_block, plain_model
from edgewise.patching.prompts.pairs import Pair, PromptPairs
from edgewise.patching.run.runner import Runner
from edgewise.steps.claims.matrix import _of_task, circuits_needed, diagonal
from edgewise.visualize.charts.matrix import PANELS, draw_matrix
from edgewise.visualize.style import text_width
from tests.edgewise.conftest import Run, id_rows

DIRECT, THROUGH = "direct", "through"


def two_mechanisms() -> tuple[dict[str, Runner], dict[str, CircuitFile]]:
    """Make a model that names tokens 0 to 3 straight away, and 4 to 7 through m0 alone."""
    tokens, unembed = torch.zeros(8, 12), torch.zeros(8, 12)
    for token in range(8):
        tokens[token, token] = 1
        unembed[token, token if token < 4 else token + 4] = 1
    down = torch.zeros(12, 12)
    for dim in range(4, 8):
        down[dim + 4, dim] = 1
    zero = torch.zeros(1, 2, 12)
    block = plain_block(wq=zero, wk=zero, wv=zero, wo=zero, up=torch.eye(12), down=down)
    model = plain_model(tokens=tokens, blocks=[block], unembed=unembed)

    def pairs(first: int) -> PromptPairs:
        made = [(a, b) for a in range(first, first + 4) for b in range(first, first + 4) if a != b]
        return PromptPairs(tuple(Pair((0, a), (0, b), (a,), (b,)) for a, b in made))

    empty = Circuit.empty(model.graph)
    circuits = {
        DIRECT: empty.with_edges(["embed->logits"]),
        THROUGH: empty.with_edges(["embed->m0", "m0->logits"]),
    }
    runners = {name: Runner.create(model, pairs(4 * i)) for i, name in enumerate(circuits)}
    files = {name: SimpleNamespace(circuit=one) for name, one in circuits.items()}
    return runners, cast("dict[str, CircuitFile]", files)


def test_planted_circuits_have_a_diagonal() -> None:
    runners, circuits = two_mechanisms()
    kept, cut = {}, {}
    for name, runner in runners.items():
        about = cast("MeasuredTask", {"name": name})
        task, *tables = _of_task(
            runner, about, circuits, EvaluationSpec(random=20), lambda *_: None
        )
        # from the right token (2 · its logit) to the wrong one
        assert (task["full"], task["empty"]) == pytest.approx((1, -1))
        for found, rows in zip((kept, cut), tables, strict=True):
            found.update({(name, row["circuit"]): row for row in rows})
    for task in circuits:
        for circuit in circuits:
            own = float(task == circuit)
            assert kept[task, circuit]["f"] == pytest.approx(own, abs=1e-6)
            assert cut[task, circuit]["f"] == pytest.approx(1 - own, abs=1e-6)
            assert kept[task, circuit]["low"] == pytest.approx(own, abs=1e-5)
    # one of three edges into logits is drawn; in about a third of draws it is the needed one
    assert kept[DIRECT, DIRECT]["random"] == 0
    assert 50 < (kept[DIRECT, DIRECT]["beats"] or 0) < 100
    assert 50 < (cut[DIRECT, DIRECT]["beats"] or 0) < 100  # less is left than of most random ones
    assert (cut[THROUGH, DIRECT]["beats"] or 0) < 51
    for row in (*kept.values(), *cut.values()):
        low, high = row.get("beats_low"), row.get("beats_high")
        assert low is not None
        assert high is not None
        assert 0 <= low <= (row["beats"] or 0) <= high <= 100
        ends = row.get("random_low"), row.get("random_high")
        assert None not in ends
        assert (ends[0] or 0) <= (row["random"] or 0) <= (ends[1] or 0)


def test_the_cost_is_counted() -> None:
    assert circuits_needed(2, 3, 4) == 2 * (2 + 3 * 2 * 5)


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Write two files of pairs, of which the halves are held out."""
    paths = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    for seed, path in enumerate(paths):
        path.write_text("".join(json.dumps(row) + "\n" for row in id_rows(64, seed)))
    return paths


def test_a_matrix_of_found_circuits(
    edgewise: Run, models: dict[str, Path], two: tuple[Path, Path]
) -> None:
    line = ("matrix", "--model", models["llama"], "--tasks", "a.jsonl,b.jsonl", "--random", 2)
    result = edgewise(*line, "-o", "m.json")
    assert "28 circuits are run" in result.stderr
    assert max(map(len, result.stdout.splitlines())) <= 80
    found = read_matrix("m.json")
    assert [(one["name"], one["held_out"]) for one in found.tasks] == [("a", True), ("b", True)]
    assert [one["task"]["examples"] for one in found.tasks] == [32, 32]
    assert [one["of"] for one in found.circuits] == ["a", "b"]
    assert len(found.kept) == len(found.cut) == 4
    edgewise("evaluate", "m.a.json")  # the circuits stand beside
    write_matrix("again.json", found)
    assert Path("again.json").read_text() == Path("m.json").read_text()
    edgewise("draw", "m.json", "-o", "m.svg")
    assert "faithfulness of each circuit" in Path("m.svg").read_text()
    result = edgewise("draw", "m.json", "-o", "m.dot", status=2)
    assert "a matrix is no graph, so it has no .dot; accepted: .svg" in result.stderr
    assert (
        "--top is for circuits"
        in edgewise("draw", "m.json", "-o", "m.svg", "--top", 3, status=2).stderr
    )


def test_a_matrix_of_given_circuits(
    edgewise: Run, circuit: Path, models: dict[str, Path], two: tuple[Path, Path]
) -> None:
    line = ("matrix", "--model", models["llama"], "--tasks", "a.jsonl,b.jsonl", "--metric", "kl",
            "--circuits", "circuit.json", "--random", 2)  # fmt: skip
    found = json.loads(edgewise(*line, "--json").stdout)
    assert set(found["circuits"][0]["seen"]) == {"a"}  # some of its six pairs are held out there
    keys = {"task", "circuit", "f", "low", "high", "random", "beats"}
    keys |= {"random_low", "random_high", "beats_low", "beats_high"}
    assert [set(row) for row in (*found["kept"], *found["cut"])] == [keys] * 4
    assert found["overlap"] == []
    assert found["circuits"][0]["edges"] == 12
    row = found["kept"][0]
    assert (row["task"], row["circuit"]) == ("a", "circuit")
    assert row["low"] <= row["f"] <= row["high"]
    again = json.loads(edgewise(*line, "--json").stdout)
    assert [again[key] for key in ("kept", "cut")] == [found[key] for key in ("kept", "cut")]
    measured = json.loads(
        edgewise("evaluate", circuit, "--task", "a.jsonl", "--metric", "kl", "--json").stdout
    )
    assert measured["model"] == found["model"]


def test_pairs_that_a_circuit_was_found_on_are_told(
    edgewise: Run, circuit: Path, models: dict[str, Path], pairs: Path
) -> None:
    line = ("matrix", "--model", models["llama"], "--tasks", pairs, "--metric", "kl",
            "--circuits", "circuit.json", "--random", 1)  # fmt: skip
    result = edgewise(*line)
    assert "circuit was found on 6 of the pairs of pairs: measured in sample." in result.stdout
    found = json.loads(edgewise(*line, "--json").stdout)
    assert found["circuits"][0]["seen"] == {"pairs": 6}


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (("--tasks", "a.jsonl,a.jsonl"), 2, "--tasks names 'a' twice; accepted: each once"),
        (("--tasks", " , "), 2, "--tasks names none; accepted: names with commas between them"),
        (("--tasks", "a.jsonl,iio"), 2, "did you mean 'ioi'"),
        (("--tasks", "a.jsonl", "--circuits", "none.json"), 1, "none.json does not exist"),
        (("--tasks", "a.jsonl", "--circuits", "x/c.json,c.json"), 1, "x/c.json does not exist"),
        (("--tasks", "a.jsonl", "--metric", "lgit_diff"), 2, "logit_diff"),
    ],
)
def test_wrong_input_of_a_matrix(
    edgewise: Run,
    models: dict[str, Path],
    two: tuple[Path, Path],
    options: Any,
    status: int,
    words: str,
) -> None:
    result = edgewise("matrix", "--model", models["llama"], *options, status=status)
    assert words in result.stderr


def test_circuits_of_another_shape_are_refused(
    edgewise: Run, models: dict[str, Path], circuit: Path, two: tuple[Path, Path]
) -> None:
    line = ("matrix", "--model", models["deeper"], "--tasks", "a.jsonl", "--circuits", circuit)
    message = edgewise(*line, status=1).stderr
    assert "the circuit 'circuit' cannot be run in" in message
    assert "layers 2 and 3 (circuit and model)" in message


def made(**changes: Any) -> MatrixFile:
    runners, _ = two_mechanisms()
    graph = runners[DIRECT].graph
    model: Any = {
        "name": "x", "revision": None, "weights_sha256": None, "family": "plain", "layers": 1,
        "heads": 1, "kv_heads": 1, "d_model": 12, "parallel": False, "post_norm": False,
    }  # fmt: skip
    task: Any = {"name": "t", "sha256": None, "examples": 3, "seed": 0}
    names = ("s", "t")
    tasks: Any = [
        {"name": name, "task": task, "held_out": True, "full": 1.0, "empty": 0.0} for name in names
    ]
    circuits: Any = [{"name": name, "edges": 1, "nodes": 2} for name in names]
    rows: Any = [
        {"task": a, "circuit": b, "f": float(a == b), "low": None, "high": None, "random": 0.0,
         "beats": 90.0, "beats_low": 80.0, "beats_high": 95.0}
        for a in names
        for b in names
    ]  # fmt: skip
    how: Any = {"metric": "nll", "ablation": "zero", "random": 1, "draw_seed": 0}
    parts = {"kept": rows, "cut": rows, **changes}
    return MatrixFile(graph, model, how, tasks, circuits, **parts)


def test_the_diagonal_by_hand() -> None:
    assert diagonal(made()) == {"kept": (1.0, 0.0), "cut": (1.0, 0.0)}
    undefined = [{**row, "f": None} for row in made().kept]
    assert diagonal(made(cut=undefined)) == {"kept": (1.0, 0.0)}


def test_the_picture_has_a_cell_for_each_number() -> None:
    scene = draw_matrix(made())
    cells = [cell for cell in scene.cells if cell.name]
    assert [cell.name for cell in cells][:4] == ["kept 1,1", "kept 2,1", "kept 1,2", "kept 2,2"]
    assert len(cells) == 8
    assert cells[0].tooltip == "s on s  1.00  random 0.00"


def test_titles_of_narrow_pictures_stand_apart() -> None:
    whole = made()
    one = [row for row in whole.kept if row["circuit"] == "s"]
    narrow = replace(whole, circuits=whole.circuits[:1], kept=one, cut=one)
    first, second = (x for x in draw_matrix(narrow).texts if x.text in PANELS.values())
    assert first.x + text_width(first.text, first.size) < second.x


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda d: d.pop("kept"), "is incomplete; missing: kept"),
        (lambda d: d["kept"].pop(), "kept has 3 rows, which are not one for each of 2 tasks"),
        (lambda d: d["cut"].append(d["cut"][0]), "cut has 5 rows"),
        (lambda d: d["tasks"][0].update(name="t"), "two tasks have the same name"),
        (lambda d: d["kept"][0].update(f="1"), r"kept\[0\].f is '1'; accepted: a number"),
        (lambda d: d.update(tasks=[]), "tasks is .*accepted: a list that is not empty"),
        (lambda d: d.update(version=2), "was written by a newer edgewise"),
        (lambda d: d.update(format="edgewise/circuit"), "is not a matrix file"),
        (lambda d: d["graph"].update(edges=9), "9 edges, but its shape has 8"),
    ],
)
def test_damaged_files_are_refused(damage: Any, words: str, tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    write_matrix(path, made())
    assert read_matrix(path).as_dict() == made().as_dict()
    document = json.loads(path.read_text())
    damage(document)
    path.write_text(json.dumps(document))
    with pytest.raises(FileFormatError, match=words):
        read_matrix(path)
