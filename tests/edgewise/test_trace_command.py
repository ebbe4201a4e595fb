"""`edgewise trace`: averages by hand, the file, the picture, the command, wrong input."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pytest

from edgewise.cli import cli
from edgewise.commands.flags import IN_TORCH, Flags
from edgewise.discovery.uncertainty.draws import noise_interval
from edgewise.graphs.errors import FileFormatError
from edgewise.graphs.files import read_drawable, read_trace, write_trace
from edgewise.patching.facts.prompts import FactPrompt
from edgewise.patching.facts.tracing import Traced
from edgewise.patching.prompts.pairs import Pair
from edgewise.steps.facts.tracing import effects, peak, totals
from edgewise.visualize.charts.trace import draw_trace
from tests.edgewise.conftest import Run

ROWS = [
    {"clean": "a b c d e", "answers": [" f"], "spans": {"subject": [1, 2]}, "group": "t0"},
    {"clean": "a g c h e", "answers": [" i"], "spans": {"subject": 1}, "group": "t1"},
    {"clean": "a g c h e", "answers": [" i"], "spans": {"subject": 1}, "group": "t1"},
]


@pytest.fixture
def facts(tmp_path: Path) -> Path:
    path = tmp_path / "facts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def traced(clean: float, subject: tuple[int, ...], at: int, effect: float) -> Traced:
    """Make a trace of five tokens, two layers, two draws, with one effect in layer 1."""
    restored = np.full((2, 5, 2), 0.1)
    restored[1, at] += [effect - 0.1, effect + 0.1]
    prompt = FactPrompt(Pair((1, 2, 3, 4, 5), None, (6,)), subject)
    return Traced(prompt, clean, True, np.array([0.1, 0.1]), {"stream": restored})


def test_means_are_over_prompts_and_draws_by_hand() -> None:
    both = [traced(0.5, (1,), 1, 0.2), traced(0.9, (1, 2), 2, 0.6)]
    found = {row["what"]: row for row in totals(both)}
    assert found["clean"]["p"] == pytest.approx(0.7)
    assert found["total effect"]["p"] == pytest.approx(0.6)
    assert found["total effect"]["noise_low"] == pytest.approx(0.6)  # the draws are alike
    rows = {(row["token"], row["layer"]): row for row in effects(both, ["stream"])}
    row = rows["last subject", 1]
    assert row["effect"] == pytest.approx(0.4) and row["prompts"] == 2
    ends = noise_interval(np.array([[0.1, 0.3], [0.5, 0.7]]))
    assert ends is not None
    assert (row["noise_low"], row["noise_high"]) == pytest.approx(ends)
    assert rows["first subject", 1]["prompts"] == 1  # of the second prompt alone
    assert rows["first subject", 1]["effect"] == pytest.approx(0)
    assert rows["next", 0]["effect"] == pytest.approx(0)
    assert ("middle subject", 0) not in rows


def test_the_command_writes_a_file_that_is_drawn(
    edgewise: Run, models: dict[str, Path], facts: Path
) -> None:
    found = edgewise("trace", "--model", models["words"], "--task", facts, "--draws", 3,
                     "--window", 2, "-o", "trace.json", "--json")  # fmt: skip
    document = json.loads(found.stdout)
    assert "3 pairs have 2 distinct prompts" in found.stderr
    assert document["written"] == "trace.json" and len(document["prompts"]) == 2
    assert document["prompts"][0]["subject"] == [1, 2]
    file = read_trace("trace.json")
    assert file.kinds == ["stream", "mlp", "attention"] and file.layers == 2
    assert file.trace["window"] == 2 and file.trace["draws"] == 3
    last = file.rows("stream", "last")[-1]
    total = next(row for row in file.totals if row["what"] == "total effect")
    assert last["effect"] == pytest.approx(total["p"])  # the last stream is all that is read
    assert peak(file, "stream")["effect"] >= last["effect"]
    of_one = [row for row in file.maps if row["prompt"] == 1 and row["kind"] == "mlp"]
    assert len(of_one) == 5 and of_one[0]["effects"] == [0, 0]
    edgewise("draw", "trace.json", "-o", "map.svg")
    text = Path("map.svg").read_text()
    assert "last subject" in text and "windows of 2 layers" in text
    printed = edgewise("trace", "--model", models["words"], "--task", facts).stdout
    assert "total effect" in printed and "stream: largest at layer" in printed
    again = edgewise("trace", "--model", models["words"], "--task", facts, "--draws", 3,
                     "--window", 2, "-o", "again.json")  # fmt: skip
    assert "written: again.json" in again.stdout
    assert read_trace("again.json").effects == file.effects


def test_one_prompt_is_written_at_the_command_line(edgewise: Run, models: dict[str, Path]) -> None:
    line = ("trace", "--model", models["words"], "--prompt", "a b c d e", "--subject", "b c")
    found = edgewise(*line, "--kinds", "stream", "-o", "one.json")
    assert "a[b][c]de →" in found.stdout and "what the model says" in found.stderr
    file = read_trace("one.json")
    assert file.prompts[0]["right"] and file.kinds == ["stream"]
    assert [row["low"] for row in file.effects] == [None] * len(file.effects)  # one prompt
    assert file.effects[0]["noise_low"] is not None
    scene = draw_trace(file)
    assert {text.text for text in scene.texts} >= {"b", "c", "d", "e"}
    several = edgewise(*line, "--answer", "f g")
    assert "the answer has several tokens" in several.stderr
    whole = edgewise(*line, "--answer", "f g", "--answers", "whole", "--json")
    assert json.loads(whole.stdout)["prompts"][0]["answer"] == "f g"
    first = edgewise(*line, "--answer", "f g", "--json")
    both = (json.loads(one.stdout)["prompts"][0]["clean"] for one in (first, whole))
    assert next(both) > next(both)


@pytest.mark.parametrize("name", IN_TORCH)
def test_an_engine_that_does_nothing_is_told(name: str) -> None:
    context = click.Context(cli.commands[name], info_name=name)
    assert "engine" in {param.name for param in cli.commands[name].params}
    said = io.StringIO()
    with context, redirect_stderr(said):
        Flags(engine="jax").compute()
    assert f"'{name}' does neither, and computes with torch" in " ".join(said.getvalue().split())


def test_another_engine_is_not_what_traces(edgewise: Run, models: dict[str, Path]) -> None:
    line = ("trace", "--model", models["words"], "--prompt", "a b c", "--subject", "b")
    found = edgewise(*line, "--kinds", "stream", "--draws", 2, "--engine", "jax")
    assert "'trace' does neither, and computes with torch" in found.stderr


def test_answers_of_several_tokens_of_a_file_are_taken(
    edgewise: Run, models: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "long.jsonl"
    path.write_text(json.dumps({**ROWS[0], "answers": [" f g"]}) + "\n")
    line = ("trace", "--model", models["words"], "--task", path, "--kinds", "stream", "--json")
    first, whole = edgewise(*line), edgewise(*line, "--answers", "whole")
    assert "of 1 answers of several tokens the first token is taken" in first.stderr
    found = [json.loads(one.stdout)["prompts"][0] for one in (first, whole)]
    assert [one["answer"] for one in found] == ["f", "f g"]
    assert found[0]["clean"] > found[1]["clean"]


def test_only_known_facts_are_kept(edgewise: Run, models: dict[str, Path], tmp_path: Path) -> None:
    line = ("trace", "--model", models["words"], "--kinds", "stream", "--json")
    said = edgewise(*line, "--prompt", "a b c", "--subject", "b")
    answer = json.loads(said.stdout)["prompts"][0]["answer"]
    path = tmp_path / "two.jsonl"
    rows = [{"clean": "a b c", "answers": [f" {one}"], "spans": {"subject": 1}}
            for one in (answer, "a" if answer != "a" else "b")]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    every = edgewise(*line, "--task", path)
    assert "1 of 2 prompts are not answered rightly" in every.stderr
    known = edgewise(*line, "--task", path, "--known")
    assert "1 of 2 prompts are answered rightly, and kept" in known.stderr
    assert len(json.loads(known.stdout)["prompts"]) == 1
    path.write_text(json.dumps(rows[1]) + "\n")
    refused = edgewise(*line, "--task", path, "--known", status=1)
    assert "answers none of the 1 prompts" in refused.output


@pytest.mark.parametrize(
    ("more", "status", "said"),
    [
        (("--prompt", "a b c", "--subject", "x"), 1, "the subject 'x' is not in the prompt"),
        (("--prompt", "a b c"), 2, "--prompt needs --subject"),
        (("--prompt", "a b", "--subject", "a", "--task", "ioi"), 2, "give either --task"),
        ((), 2, "give either --task"),
        (("--prompt", "a b", "--subject", "a", "--span", "s"), 2, "--span belongs to --task"),
        (("--task", "facts.jsonl", "--subject", "a"), 2, "--subject belongs to --prompt"),
        (("--task", "facts.jsonl", "--span", "name"), 1, "names no span 'name'"),
        (("--task", "facts.jsonl", "--window", "9"), 1, "a window of 9 layers does not fit a"),
        (("--task", "facts.jsonl", "--kinds", "heads"), 1, "unknown kind 'heads'"),
        (("--task", "facts.jsonl", "--noise", "0"), 2, "0"),
        (("--task", "facts.jsonl", "--draws", "0"), 2, "0 is not in the range"),
        (("--prompt", "a b", "--subject", "a", "--examples", "3"), 2, "--examples belongs to"),
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
    assert facts.exists()
    found = edgewise("trace", "--model", models["words"], *more, status=status)
    assert said in found.output


def test_files_that_contradict_themselves_are_refused(
    edgewise: Run, models: dict[str, Path], facts: Path
) -> None:
    edgewise("trace", "--model", models["words"], "--task", facts, "-o", "good.json", "--draws", 2)
    file = read_trace("good.json")
    assert read_drawable("good.json").as_dict() == file.as_dict()
    for name, changed, said in (
        ("twice", replace(file, effects=[*file.effects, file.effects[0]]), "is there twice"),
        ("lost", replace(file, effects=file.effects[1:]), "not one for each of 2 layers"),
        ("map", replace(file, maps=[{**file.maps[0], "position": 9}]), "maps position 9"),
    ):
        write_trace(f"{name}.json", changed)
        with pytest.raises(FileFormatError, match=said):
            read_trace(f"{name}.json")
