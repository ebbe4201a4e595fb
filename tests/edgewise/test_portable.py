"""A circuit file is used from any folder: its prompts travel with it, its model is found again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from edgewise.experiment.task import TaskSpec
from edgewise.graphs.errors import PromptError
from edgewise.graphs.files import read_circuit, write_circuit
from edgewise.run import run
from edgewise.steps.timeline import timeline
from edgewise.workflow import (
    Experiment,
    circuit_pairs,
    discover,
    open_model,
    open_task,
    stored_pairs,
)
from tests.edgewise.conftest import WORDS, save_tokenizer


@pytest.fixture
def made(edgewise: Any, models: Any, pairs: Path, tmp_path: Path, monkeypatch: Any) -> Path:
    """Discover a circuit with model and prompts typed as relative paths; then stand elsewhere."""
    work = tmp_path / "work"
    (work / "out").mkdir(parents=True)
    shutil.copytree(models["llama"], work / "model")
    shutil.move(pairs, work / "pairs.jsonl")
    monkeypatch.chdir(work)
    edgewise(
        "discover", "--model", "model", "--task", "pairs.jsonl", "--method", "eap", "--top", 9,
        "-o", "out/circuit.json",
    )  # fmt: skip
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return work / "out" / "circuit.json"


def evaluated(edgewise: Any, file: Path, *more: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(edgewise("evaluate", file, "--json", *more).stdout)
    return found


def test_a_file_names_its_model_and_task_as_typed_and_where_they_are(made: Path) -> None:
    file = read_circuit(made)
    work = made.parent.parent.resolve()
    assert file.model["name"] == "model"
    assert file.model["paths"] == {"relative": "../model", "absolute": str(work / "model")}
    assert file.task["file"] == "pairs.jsonl"
    assert file.task["paths"]["relative"] == "../pairs.jsonl"
    assert file.discovery["prompts"] == {"where": "inline", "sha256": file.task["sha256"]}
    again = made.with_name("again.json")
    write_circuit(again, file)
    assert again.read_bytes() == made.read_bytes()


def test_a_file_is_evaluated_from_another_folder_without_its_prompts(
    edgewise: Any, made: Path
) -> None:
    (made.parent.parent / "pairs.jsonl").unlink()
    found = evaluated(edgewise, made)
    file = read_circuit(made)
    assert found["task"]["sha256"] == file.task["sha256"]
    assert found["value_circuit"] == pytest.approx(file.measures["value_circuit"], abs=1e-6)
    assert found["notes"] == []
    few = evaluated(edgewise, made, "--examples", 2)
    assert (few["task"]["examples"], few["notes"]) == (2, [])
    assert "prompt pairs" not in edgewise("roles", made).stderr


def test_everything_may_move_together_and_the_file_alone(
    edgewise: Any, made: Path, tmp_path: Path
) -> None:
    before = evaluated(edgewise, made)
    alone = tmp_path / "elsewhere" / "alone.json"
    shutil.copy(made, alone)
    assert evaluated(edgewise, alone)["value_circuit"] == before["value_circuit"]
    shutil.move(made.parent.parent, tmp_path / "moved")
    moved = tmp_path / "moved" / "out" / "circuit.json"
    assert evaluated(edgewise, moved)["value_circuit"] == before["value_circuit"]
    file = read_circuit(moved)
    write_circuit(tmp_path / "elsewhere" / "rewritten.json", file)  # with the paths of today
    paths = read_circuit(tmp_path / "elsewhere" / "rewritten.json").model["paths"]
    new = (tmp_path / "moved" / "model").resolve()
    assert paths == {"relative": "../moved/model", "absolute": str(new)}
    shutil.move(tmp_path / "moved" / "model", tmp_path / "gone")
    said = edgewise("evaluate", alone, status=1).stderr
    for words in (
        "'model'", f"The name comes from {alone}", str(made.parent.parent / "model"),
        "--model replaces it",
    ):  # fmt: skip
        assert words.strip("'") in said
    assert evaluated(edgewise, alone, "--model", tmp_path / "gone")["notes"] == []


def test_of_two_models_the_one_of_the_circuits_weights_is_taken(
    edgewise: Any, made: Path, models: Any, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    (other / "out").mkdir(parents=True)
    shutil.copytree(models["tuned"], other / "model")  # where `relative` leads from the copy
    shutil.copy(made, other / "out" / "circuit.json")
    assert evaluated(edgewise, other / "out" / "circuit.json")["notes"] == []


def test_two_files_are_compared_in_their_models_from_another_folder(
    edgewise: Any, made: Path
) -> None:
    (made.parent.parent / "pairs.jsonl").unlink()
    edgewise("diff", made, made, "--cross", "--roles", "-o", "diff.json")
    written = json.loads(Path("diff.json").read_text())
    assert "relative" not in written["a"]["model"]["paths"]  # the diff lies elsewhere
    (made.parent.parent / "model").rename(made.parent.parent / "away")
    assert "--model-a replaces it" in edgewise("diff", made, made, "--cross", status=1).stderr


# -- the prompt pairs ----------------------------------------------------------------------------


def test_a_discovery_is_done_again_on_the_pairs_of_the_file(made: Path, models: Any) -> None:
    (made.parent.parent / "pairs.jsonl").unlink()
    file = read_circuit(made)
    again = Experiment.from_circuit(made).on(str(models["tuned"]))
    found = discover(again).file
    assert found.task["sha256"] == file.task["sha256"]
    assert found.model["weights_sha256"] != file.model["weights_sha256"]
    assert stored_pairs(found) == stored_pairs(file)
    few = discover(again.but(task=again.task.but(examples=2))).file
    assert (few.task["examples"], few.extra["prompts"]) == (2, file.extra["prompts"][:2])
    other = again.but(task=TaskSpec("induction", examples=3))
    assert discover(other).file.task["name"] == "induction"


def test_a_run_and_a_timeline_take_the_pairs_of_the_circuits_file(
    made: Path, models: Any, tmp_path: Path
) -> None:
    """Neither the file the pairs came from, which is gone, nor the task made anew is asked."""
    (made.parent.parent / "pairs.jsonl").unlink()
    file = read_circuit(made)
    both = Experiment.from_circuit(made).on(str(models["llama"]), str(models["tuned"]))
    followed = timeline(both)
    assert followed.task["sha256"] == file.task["sha256"]
    assert "relative" not in followed.task["paths"], "the file that says it lies elsewhere"
    assert followed.timeline.circuits[0] == file.circuit
    found = run(both.but(drawing=both.drawing.but(formats=())), tmp_path / "out")
    first, second = (read_circuit(path) for path in found.circuits.values())
    assert first.circuit == file.circuit == followed.timeline.circuits[0]
    assert second.circuit == followed.timeline.circuits[1] != first.circuit
    assert first.task["sha256"] == second.task["sha256"] == file.task["sha256"]
    assert first.extra["prompts"] == file.extra["prompts"]
    few = both.but(task=both.task.but(examples=2), drawing=both.drawing.but(formats=()))
    again = run(few, tmp_path / "out")
    assert "prompts" in again.made
    assert read_circuit(again.circuits["llama"]).task["examples"] == 2


def test_a_discovery_says_so_where_the_pairs_are_made_anew(made: Path, models: Any) -> None:
    document = json.loads(made.read_text())
    for block in (document, document["discovery"]):
        del block["prompts"]
    made.write_text(json.dumps(document))
    pairs = made.parent.parent / "pairs.jsonl"
    pairs.write_text("\n".join(reversed(pairs.read_text().splitlines())))
    with pytest.warns(UserWarning, match="are not those the circuit was found on"):
        discover(Experiment.from_circuit(made))
    pairs.unlink()
    with pytest.raises(PromptError, match="The name comes from"):
        discover(Experiment.from_circuit(made).on(str(models["tuned"])))


def test_the_pairs_of_the_file_count_not_those_the_task_makes_now(
    edgewise: Any, made: Path
) -> None:
    pairs = made.parent.parent / "pairs.jsonl"
    lines = pairs.read_text().splitlines()
    pairs.write_text("\n".join(reversed(lines)))
    file = read_circuit(made)
    found = evaluated(edgewise, made)
    assert (found["task"]["sha256"], found["notes"]) == (file.task["sha256"], [])
    given = evaluated(edgewise, made, "--task", pairs)
    assert given["task"]["sha256"] != file.task["sha256"]


def test_altered_pairs_are_refused(edgewise: Any, made: Path) -> None:
    document = json.loads(made.read_text())
    document["prompts"][1]["clean_ids"][0] ^= 1
    made.write_text(json.dumps(document))
    said = edgewise("evaluate", made, status=1).stderr
    assert "are not those the circuit was found on (their hash differs)" in said
    assert "--task" in said
    pairs = made.parent.parent / "pairs.jsonl"
    evaluated(edgewise, made, "--task", pairs)
    for wrong in ([{"clean_ids": "x"}], [3], []):
        made.write_text(json.dumps({**document, "prompts": wrong}))
        assert "the prompt pairs in" in edgewise("evaluate", made, status=1).stderr
    made.write_text(json.dumps({**document, "prompts": 3}))
    assert "prompts is 3" in edgewise("evaluate", made, status=1).stderr


def test_an_older_file_without_pairs_has_them_made_again(edgewise: Any, made: Path) -> None:
    document = json.loads(made.read_text())
    for block in (document, document["discovery"]):
        del block["prompts"]
    made.write_text(json.dumps(document))
    assert evaluated(edgewise, made)["notes"] == []
    pairs = made.parent.parent / "pairs.jsonl"
    pairs.write_text("\n".join(reversed(pairs.read_text().splitlines())))
    assert "made anew" in evaluated(edgewise, made)["notes"][0]
    pairs.unlink()
    said = edgewise("evaluate", made, status=1).stderr
    assert "cannot read prompt pairs" in said
    assert f"The name comes from {made}" in said
    assert "--task replaces it" in said


def test_a_model_that_reads_the_ids_otherwise_gets_its_own_pairs(
    models: Any, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    from edgewise.workflow import Selection

    text = tmp_path / "text.jsonl"
    row = {"clean": "a b", "corrupted": "a c", "answers": ["d"], "distractors": ["e"]}
    text.write_text(json.dumps(row))
    words = open_model(models["words"])
    pairs, _ = open_task(words, str(text))
    file = discover(words, pairs, method="eap", select=Selection(top=5)).file
    assert stored_pairs(file) == pairs
    assert circuit_pairs(file, words) == (pairs, [])
    WORDS.reverse()
    try:
        save_tokenizer(tmp_path)
    finally:
        WORDS.reverse()
    other = open_model(words.loaded.model, tokenizer=AutoTokenizer.from_pretrained(tmp_path))
    own, notes = circuit_pairs(file, other)
    assert own == open_task(other, str(text))[0] != pairs
    assert "reads their token ids otherwise" in notes[0]
    text.unlink()
    with pytest.raises(PromptError, match="`task` replaces it"):
        circuit_pairs(file, other)


@pytest.mark.parametrize("name", ["a\0b", "~nobody-of-this-name/x", "x" * 5000, "\ud800"])
@pytest.mark.parametrize("key", ["name", "absolute", "relative"])
def test_any_text_may_stand_where_a_path_does(
    edgewise: Any, made: Path, name: str, key: str
) -> None:
    document = json.loads(made.read_text())
    (document["model"] if key == "name" else document["model"]["paths"])[key] = name
    (made.parent.parent / "model").rename(made.parent.parent / "away")
    made.write_text(json.dumps(document))
    said = edgewise("evaluate", made, status=1).stderr
    assert "mistake in edgewise" not in said
    assert "--model replaces it" in said
