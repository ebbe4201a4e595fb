"""`edgewise knockout`: averages by hand, the file, the picture, the command, wrong input."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgewise.graphs.errors import FileFormatError
from edgewise.graphs.files import read_drawable, read_knockout, write_knockout
from edgewise.patching.facts.knockout import Knocked
from edgewise.patching.facts.prompts import FactPrompt
from edgewise.patching.prompts.pairs import Pair
from edgewise.steps.facts.knockout import cuts, strongest
from tests.edgewise.conftest import Run

ROWS = [
    {"clean": "a b c d e", "answers": [" f"], "spans": {"subject": [1, 2]}},
    {"clean": "a g c h e", "answers": [" i"], "spans": {"subject": 1}},
    {"clean": "k g c e", "answers": [" i"], "spans": {"subject": 0}},
]


@pytest.fixture
def facts(tmp_path: Path) -> Path:
    path = tmp_path / "facts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def test_means_by_hand() -> None:
    prompt = FactPrompt(Pair((1, 2, 3), None, (6,)), (1,))
    both = [
        Knocked(prompt, 0.5, True, {"first": np.array([0.5, 0.25, 0.1])}),
        Knocked(prompt, 0.2, True, {"first": np.array([0.2, 0.2, 0.2]), "x": np.ones(3)}),
    ]
    rows = {(row["from"], row["layer"]): row for row in cuts(both, ["first", "x", "none"])}
    assert rows["first", 1]["p"] == pytest.approx(0.225)
    assert rows["first", 1]["change"] == pytest.approx((-0.5 + 0) / 2)
    assert rows["first", None]["change"] == pytest.approx((-0.8 + 0) / 2)
    assert rows["x", 0]["prompts"] == 1 and rows["x", 0]["low"] is None
    assert ("none", 0) not in rows


def test_the_command_writes_a_file_that_is_drawn(
    edgewise: Run, models: dict[str, Path], facts: Path, tmp_path: Path
) -> None:
    listed = {"b c": ["a", "jjj"], "G": "word"}
    (tmp_path / "about.json").write_text(json.dumps(listed))
    line = ("knockout", "--model", models["words"], "--task", facts, "--window", 2)
    found = edgewise(*line, "-o", "cut.json", "--json")
    document = json.loads(found.stdout)
    assert document["written"] == "cut.json"
    assert "1 of 3 prompts have no token 'last subject'" in found.stderr
    assert "the subject begins with the first token" in found.stderr
    file = read_knockout("cut.json")
    assert file.layers == 2 and file.knockout["window"] == 2
    assert file.sources == ["last subject", "subject", "relation", "first"]
    assert file.everywhere("subject")["prompts"] == 2
    assert strongest(file, "first")["change"] == min(r["change"] for r in file.curve("first"))
    edgewise("draw", "cut.json", "-o", "cut.svg")
    assert "relative change" in Path("cut.svg").read_text()
    printed = edgewise(*line).stdout
    assert "from: last subject" in printed and "in all layers" in printed
    rated = edgewise(*line, "--attributes", "about.json", "--top", 3, "-o", "rated.json")
    assert "attributes among the 3 tokens" in rated.stdout
    assert "no attributes are listed of k" in rated.stderr
    rates = read_knockout("rated.json").attributes
    assert [row["layer"] for row in rates] == [0, 1] and rates[0]["prompts"] == 2
    edgewise("draw", "rated.json", "-o", "rated.svg")
    assert "other subjects" in Path("rated.svg").read_text()


def test_one_prompt(edgewise: Run, models: dict[str, Path]) -> None:
    line = ("knockout", "--model", models["words"], "--prompt", "a b c d e", "--subject", "b")
    found = edgewise(*line, "--from", "subject,first", "--json")
    document = json.loads(found.stdout)
    assert {row["from"] for row in document["cuts"]} == {"subject", "first"}
    clean = document["prompts"][0]["clean"]
    row = next(one for one in document["cuts"] if one["layer"] == 1)
    assert row["change"] == pytest.approx(row["p"] / clean - 1)


@pytest.mark.parametrize(
    ("more", "status", "said"),
    [
        (("--prompt", "a b c", "--subject", "x"), 1, "the subject 'x' is not in the prompt"),
        (("--task", "facts.jsonl", "--from", "verb"), 1, "unknown span 'verb'"),
        (("--task", "facts.jsonl", "--to", "verb"), 1, "unknown span 'verb'"),
        (("--task", "facts.jsonl", "--from", ","), 2, "--from names none"),
        (("--task", "facts.jsonl", "--window", "9"), 1, "a window of 9 layers does not fit a"),
        (("--task", "facts.jsonl", "--attributes", "no.json"), 1, "no.json"),
        (("--task", "facts.jsonl", "--attributes", "bad.json"), 1, "what it says of 'a' is 7"),
        (("--task", "facts.jsonl", "--attributes", "list.json"), 1, "is no object of subjects"),
        (("--task", "facts.jsonl", "--attributes", "far.json", "--top", "3"), 1, "none of the"),
        (("--task", "facts.jsonl", "--attributes", "ok.json", "--top", "99"), 1, "top is 99"),
    ],
)
def test_wrong_input_is_refused_in_words(
    edgewise: Run,
    models: dict[str, Path],
    facts: Path,
    more: tuple[str, ...],
    status: int,
    said: str,
) -> None:
    contents = {"bad": {"a": 7}, "list": ["a"], "far": {"zzz": "word"}, "ok": {"g": "word"}}
    for name, value in contents.items():
        (facts.parent / f"{name}.json").write_text(json.dumps(value))
    found = edgewise("knockout", "--model", models["words"], *more, status=status)
    assert said in found.output


def test_files_that_contradict_themselves_are_refused(
    edgewise: Run, models: dict[str, Path], facts: Path
) -> None:
    edgewise("knockout", "--model", models["words"], "--task", facts, "-o", "good.json")
    file = read_knockout("good.json")
    assert read_drawable("good.json").as_dict() == file.as_dict()
    for name, changed, said in (
        ("lost", replace(file, cuts=file.cuts[1:]), "not one for each layer"),
        ("twice", replace(file, cuts=[*file.cuts, file.cuts[0]]), "not one for each layer"),
        ("curve", replace(file, curves=[{**file.curves[0], "prompt": 7}]), "a curve of prompt 7"),
    ):
        write_knockout(f"{name}.json", changed)
        with pytest.raises(FileFormatError, match=said):
            read_knockout(f"{name}.json")
