"""Every command takes files of prompts in the shapes of others, and says what was understood."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgewise.graphs.files import read_circuit
from edgewise.patching.prompts.pair_files import read_pairs

from .conftest import Run, id_rows

LINE = (
    "table: CSV with a header: token ids of the clean prompt (clean_tokens), the corrupted prompt "
    "(corrupt_ids), the answer (correct_idx) and the distractor (incorrect_idx); 6 pairs"
)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Write the pairs that `pairs` holds as a table, without an ending."""
    path = tmp_path / "table"
    rows = ["clean_tokens,corrupt_ids,correct_idx,incorrect_idx"]
    for row in id_rows():
        lists = f'"{row["clean_ids"]}","{row["corrupted_ids"]}"'
        rows.append(f"{lists},{row['answer_ids'][0]},{row['distractor_ids'][0]}")
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture
def relation(tmp_path: Path) -> Path:
    path = tmp_path / "relation.json"
    samples = [{"subject": subject, "object": thing} for subject, thing in ("be", "cf", "dg", "ah")]
    path.write_text(json.dumps({"prompt_templates": ["{} k l", "m {} n"], "samples": samples}))
    return path


def commands(table: Path, models: dict[str, Path], circuit: Path) -> dict[str, tuple[Any, ...]]:
    task = ("--task", table)
    found = ("--method", "eap", "--top", 9)
    return {
        "discover": ("discover", "--model", models["llama"], *task, *found, "-o", "out.json"),
        "evaluate": ("evaluate", circuit, *task),
        "patch": ("patch", "--model", models["llama"], *task, "--path", "m0->logits"),
        "timeline": ("timeline", models["llama"], models["tuned"], *task, *found, "--no-cache"),
        "transplant": ("transplant", models["llama"], models["tuned"], *task, "--nodes", "m0"),
        "roles": ("roles", "--model", models["llama"], *task, "--sequences", 1),
    }


NAMES = ("discover", "evaluate", "patch", "timeline", "transplant", "roles")


@pytest.mark.parametrize("name", NAMES)
def test_commands_say_on_one_line_what_was_understood(
    name: str, edgewise: Run, table: Path, pairs: Path, models: dict[str, Path], circuit: Path
) -> None:
    words = commands(table, models, circuit)[name]
    result = edgewise(*words, "--json")
    json.loads(result.stdout)
    assert result.stderr.splitlines().count(LINE) == 1
    assert LINE not in edgewise(*commands(pairs, models, circuit)[name]).output


def test_what_was_understood_is_said_before_the_work(
    edgewise: Run, table: Path, pairs: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    every = commands(table, models, tmp_path)
    found = every["timeline"]
    wrong = [[*found[:-2], 10**6, "--no-cache"], [*every["transplant"][:-1], "m99"]]
    spec = tmp_path / "spec.toml"
    spec.write_text(
        f'[[models]]\nsource = "{models["llama"]}"\n[task]\nfile = "table"\n'
        '[discovery]\nmethod = "eap"\ntop = 1000000\n'
    )
    for words in [*wrong, ["run", spec], ["run", spec]]:  # the second time the prompts are there
        assert edgewise(*words, status=1).stderr.splitlines().count(LINE) == 1


def test_a_circuit_found_on_a_table_is_that_of_the_lines(
    edgewise: Run, table: Path, pairs: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    for path, name in ((table, "a.json"), (pairs, "b.json")):
        edgewise("discover", "--model", models["llama"], "--task", path, "--method", "acdc",
                 "--threshold", 0.01, "-o", name)  # fmt: skip
    a, b = (read_circuit(tmp_path / name) for name in ("a.json", "b.json"))
    assert a.circuit == b.circuit
    assert a.task["sha256"] == b.task["sha256"]
    assert a.task["shape"]["understood"] in LINE and "native" not in a.task["shape"]
    assert b.task["shape"]["native"] is True
    assert LINE not in edgewise("evaluate", "a.json").output  # which has its pairs
    moved = table.rename(tmp_path / "elsewhere")
    assert "elsewhere: CSV" in edgewise("evaluate", "a.json", "--task", moved).stderr


def test_a_seed_draws_other_pairs_of_samples(
    edgewise: Run, relation: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    hashes = []
    for seed in (0, 0, 1, 2):
        edgewise("discover", "--model", models["words"], "--task", relation, "--seed", seed,
                 "--method", "eap", "--top", 5, "-o", "out.json")  # fmt: skip
        task = read_circuit(tmp_path / "out.json").task
        assert (task["seed"], task["examples"]) == (seed, 8)
        hashes.append(task["sha256"])
    assert hashes[0] == hashes[1] and len(set(hashes)) == 3
    edgewise("evaluate", "out.json", "--seed", 1)


def test_a_spec_takes_shapes_and_their_seed(
    edgewise: Run, relation: Path, table: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    spec = tmp_path / "spec.toml"

    def written(task: str) -> Path:
        spec.write_text(
            f'[[models]]\nsource = "{models["words"]}"\n[task]\n{task}\n'
            '[discovery]\nmethod = "eap"\ntop = 5\n[drawing]\nformats = []\n'
        )
        return spec

    result = edgewise("run", written('file = "relation.json"\nseed = 4\nexamples = 5'), "--json")
    json.loads(result.stdout)
    assert "relation.json: a JSON object with its list under 'samples': relation" in result.stderr
    (file,) = (tmp_path / "spec" / "circuits").glob("*.json")
    assert (read_circuit(file).task["seed"], read_circuit(file).task["examples"]) == (4, 5)
    refused = edgewise("run", written('file = "table"\nseed = 4'), status=1)
    assert "this file's pairs are fixed" in refused.stderr


def test_tasks_shows_a_file_and_writes_it_as_lines(
    edgewise: Run, relation: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    words = ("tasks", relation, "--model", models["words"], "--seed", 1)
    result = edgewise(*words, "--examples", 3, "-o", "lines.jsonl")
    assert result.stdout.startswith("relation: a JSON object with its list under 'samples'")
    assert result.stdout.count("  clean ") == 3 and "written: lines.jsonl" in result.stdout
    document = json.loads(edgewise(*words, "--json").stdout)
    assert document["shape"]["name"] == "relation" and len(document["samples"]) == 4
    assert document["sha256"] != read_pairs(tmp_path / "lines.jsonl").sha256  # of three pairs
    edgewise(*words, "-o", "lines.jsonl")
    assert document["sha256"] == read_pairs(tmp_path / "lines.jsonl").sha256
    assert document["seed"] == 1


def test_tasks_writes_the_pairs_that_fit(
    edgewise: Run, models: dict[str, Path], tmp_path: Path
) -> None:
    rows = [{"clean": "a b", "corrupt": corrupt, "target": " c"} for corrupt in ("d b", "d")]
    (tmp_path / "some.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows * 2))
    words = ("tasks", "some.jsonl", "--model", models["words"])
    refused = edgewise(*words, status=1)
    assert (
        "The other 2 fit this model's tokenizer; `edgewise tasks` with --fitting" in refused.stderr
    )
    shown = edgewise(*words, "--fitting", "-o", "lines.jsonl").stdout
    assert "2 pairs; left out: 2 (the prompts do not align)" in shown
    assert len(read_pairs(tmp_path / "lines.jsonl")) == 2
    assert "give --model too" in edgewise("tasks", "some.jsonl", "--fitting", status=2).output
    assert "are of files" in edgewise("tasks", "ioi", "--fitting", status=2).output


def test_tasks_shows_a_file_of_ids_without_a_model(edgewise: Run, table: Path, pairs: Path) -> None:
    first = " ".join(map(str, id_rows()[0]["clean_ids"]))
    assert f"  clean       {first}\n" in edgewise("tasks", table).stdout
    assert f"  clean       {first}\n" in edgewise("tasks", pairs).stdout


def test_tasks_writes_built_in_pairs_too(
    edgewise: Run, models: dict[str, Path], tmp_path: Path
) -> None:
    words = ("--model", models["words"], "--examples", 6)
    edgewise("tasks", "induction", *words, "-o", "pairs.jsonl")
    assert len(read_pairs(tmp_path / "pairs.jsonl")) == 6
    result = edgewise("tasks", "induction", "-o", "pairs.jsonl", status=2)
    assert "depends on the tokenizer; give --model too" in result.output


def test_wrong_files_are_one_paragraph(
    edgewise: Run, relation: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    result = edgewise("tasks", relation, status=1)
    assert "holds text, but no tokenizer was given; accepted: a --model that has one" in (
        result.output
    )
    result = edgewise("tasks", "none.csv", "--model", models["words"], status=2)
    assert "cannot read prompt pairs from 'none.csv': No such file" in result.output
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("clean,corrupted,answers\na b,a c\n")
    result = edgewise("discover", "--model", models["words"], "--task", wrong, "--method", "eap",
                      "--top", 3, "-o", "out.json", status=1)  # fmt: skip
    assert "line 2: has 2 cells, fewer than the 3 of the header" in result.stderr
    result = edgewise("tasks", wrong, "-o", wrong, "--model", models["words"], status=1)
    assert "wrong.csv" in result.stderr and wrong.read_text().startswith("clean,")
