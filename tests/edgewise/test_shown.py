"""What a notebook shows of a value: what it is in a few lines, never its weights or scores."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from edgewise import (
    Edge,
    Experiment,
    read_circuit,
    read_roles,
    read_scores,
    read_timeline,
    read_transplant,
)
from edgewise.commands.show import facts, sentences, table
from edgewise.graphs.comparison import Ratio
from edgewise.graphs.files import read_diff
from edgewise.workflow import Selection, discover, make_runner, open_model, open_split, open_task
from tests.edgewise.conftest import id_rows

STORED = Path(__file__).parents[1] / "data" / "version1"
SCREEN = 30 * 80


def shown(value: object) -> str:
    """Return what a notebook shows, if that is short and has no arrays in it."""
    text = repr(value)
    assert len(text) <= SCREEN and text.count("\n") < 30, text[:300]
    assert not any(word in text for word in ("tensor(", "array(", "Parameter", "\n")), text[:300]
    return text


def test_files_are_shown_in_a_few_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(STORED)
    circuit, diff = read_circuit("eap-ig.json"), read_diff("run/diffs/base_vs_tuned.json")
    line = read_timeline("timeline.json")
    assert shown(line.timeline).startswith("Timeline(2 checkpoints from 'base' to 'tuned', ")
    assert shown(circuit.circuit).startswith("Circuit(40 of 110 edges, ")
    assert "40 of 110 edges" in shown(circuit)
    assert shown(read_scores("eap-ig.scores.safetensors").scores).startswith(
        "Scores(110 of 110 edges, 2 layers"
    )
    for value in (diff, diff.diff, diff.noise_floor, diff.cross, diff.roles, line, line.timeline):
        shown(value)
    shown(read_scores("eap-ig.scores.safetensors"))
    shown(read_roles("roles.json"))
    shown(read_transplant("transplant.json"))
    assert "40 of 110 edges" in shown(Experiment.from_circuit("eap-ig.json"))


def test_names_are_shown_as_people_write_them() -> None:
    edge = Edge.parse("embed->a0.h1<v>")
    assert repr([edge, edge.port, edge.sender]) == (
        "[Edge('embed->a0.h1<v>'), Port('a0.h1<v>'), Node('embed')]"
    )


def test_what_is_found_from_python_is_shown_in_a_few_lines(models: dict[str, Path]) -> None:
    session = open_model(models["llama"])
    pairs, report = open_task(session, "induction", examples=20)
    assert shown(pairs) == "PromptPairs(20 pairs, name='induction', seed=0)"
    found = discover(session, pairs, method="eap", select=Selection(top=30))
    for value in (session, session.lifted, session.loaded, session.certificate, report, found):
        shown(value)
    shown(make_runner(session, pairs))
    assert "family='llama'" in shown(session)


def test_columns_move_together_before_names_break(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    name = "a20.h11->a23.h10<q>"
    table(("edge", *["a number"] * 4), [(name, *[0.125] * 4)])
    lines = capsys.readouterr().out.splitlines()
    lines = [re.sub(r"\x1b\[\d*m", "", line) for line in lines]
    assert max(map(len, lines)) <= 60, lines
    assert any(name in line and line.count("0.125") == 4 for line in lines)


def test_what_is_found_and_compared_is_shown_in_a_few_lines(
    models: dict[str, Path], tmp_path: Path, edgewise: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{**row, "group": f"t{i % 16}"} for i, row in enumerate(id_rows(64))]
    Path("p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("llama", "tuned"):
        asked = ("--model", models[name], "--task", "p.jsonl", "--metric", "kl")
        edgewise("discover", *asked, "-o", f"{name}.json")
    edgewise("diff", "llama.json", "tuned.json", "--cross", "-o", "d.json")
    file = read_diff("d.json")
    for value in (file, file.comparison, file.compared, file.cross):
        assert value is not None
        shown(value)
    one = Ratio(0.5, 0.4, 0.6)
    assert repr(one) == ".50 [.40, .60]"
    session = open_model(str(models["llama"]))
    split = open_split(session, "p.jsonl")
    shown(split)
    found = discover(session, split, metric="kl", per_example=True)  # and the usual method
    assert re.search(r"Found\(Circuit\(.* edges, .*\), eap-ig, kl, faithfulness .* held out\)",
                     shown(found))  # fmt: skip
    for value in (found.evaluation, found.examples, found.examples and found.examples.scores):
        shown(value)


def test_names_keep_their_distance_from_what_a_narrow_terminal_folds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    facts(("a rather long name", "word " * 30), ("short", "x"))
    sentences(["word " * 30, "end"])
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 60 for line in lines)
    first, *_ = lines
    assert first.startswith("a rather long name  word")
    folded = [line for line in lines if line.startswith("  word")]
    assert len(folded) == 3 and lines[-1] == "  end"
