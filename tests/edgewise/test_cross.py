"""Every circuit in either model: the numbers are those of `evaluate`, in files and in runs."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgewise.discovery.evaluation import measure
from edgewise.discovery.random_circuits import random_circuits
from edgewise.experiment.document import parse_spec
from edgewise.experiment.spec import ComparisonSpec, Experiment
from edgewise.graphs.errors import PromptError, SpecError
from edgewise.graphs.files import CircuitFile, diff_files, read_circuit, read_diff
from edgewise.run import run
from edgewise.session import Session, open_model, open_task
from edgewise.steps.compare import look_closer
from edgewise.steps.cross_evaluation import RANDOM
from edgewise.steps.discover import discover
from edgewise.steps.head_roles import circuit_heads, head_roles
from edgewise.workflow import Selection, make_runner
from tests.edgewise.conftest import WORDS, id_rows, save_tokenizer, tiny

KEPT = Selection(top=12)
CROSS = ComparisonSpec(cross=True)


@pytest.fixture
def sessions(models: dict[str, Path]) -> tuple[Session, Session]:
    return open_model(str(models["llama"])), open_model(str(models["tuned"]))


def find(session: Session, pairs: Path, top: int = 12, **more: Any) -> CircuitFile:
    chosen = open_task(session, str(pairs))[0]
    select = Selection(top=top)
    return discover(session, chosen, method="eap", select=select, **more).file


def test_the_numbers_are_those_of_evaluate(sessions: Any, pairs: Path) -> None:
    files = find(sessions[0], pairs), find(sessions[1], pairs, top=20)
    found, notes = look_closer(diff_files(*files), files, CROSS, models=sessions)
    cross, diff = found.cross, found.diff
    assert cross is not None
    circuits = {"A": diff.a, "B": diff.b, "both": diff.shared, "either": diff.a | diff.b}
    assert [row.circuit for row in cross.rows] == list(circuits)
    assert [row.edges for row in cross.rows] == [len(one) for one in circuits.values()]
    for side, session in enumerate(sessions):
        runner = make_runner(session, open_task(session, str(pairs))[0], metric="logit_diff")
        for row in cross.rows:
            true = measure(runner, circuits[row.circuit])
            assert row.value[side] == pytest.approx(true.value_circuit, abs=1e-6)
            assert row.faithfulness[side] == pytest.approx(true.faithfulness, abs=1e-6)
        assert cross.full[side] == pytest.approx(true.value_full, abs=1e-6)
        assert cross.empty[side] == pytest.approx(true.value_empty, abs=1e-6)
        counts = [diff.a.graph.count_by_kind(one.kept) for one in (diff.a, diff.b)]
        most = {kind: max(count[kind] for count in counts) for kind in counts[0]}
        drawn = random_circuits(diff.a.graph, most, RANDOM)
        assert cross.random.edges == len(drawn[0]) == sum(most.values())
        assert cross.random.faithfulness[side] == pytest.approx(
            [measure(runner, one).faithfulness for one in drawn], abs=1e-6
        )
    assert (cross.metric, cross.examples, notes) == ("logit_diff", 6, [])


def test_the_command_prints_and_writes_them(
    edgewise: Any, circuit: Path, models: dict[str, Path], pairs: Path
) -> None:
    edgewise(
        "discover", "--model", models["tuned"], "--task", pairs, "--method", "eap-ig",
        "--top", 12, "-o", "tuned.json",
    )  # fmt: skip
    shown = edgewise("diff", circuit, "tuned.json", "--cross", "-o", "d.json").stdout
    block = read_diff("d.json").blocks["cross"]
    assert block == json.loads(Path("d.json").read_text())["cross"]
    assert f"{RANDOM} random ones, least faithful" in shown
    assert block["undefined"] == [True, True]  # of six pairs: then no number stands for it
    (row,) = (line for line in shown.splitlines() if line.startswith("circuit A "))
    assert row.split()[3:5] == ["undefined", "undefined"]
    assert "function in model A (llama) and B (tuned)" in shown
    assert "over the " in shown  # one side has no scores file
    again = json.loads(edgewise("diff", circuit, "tuned.json", "--cross", "--json").stdout)
    assert again["cross"] == block
    assert [row[:2] for row in again["changes"]] != []
    assert "noise_floor" not in again


def test_defined_shares_are_printed_with_their_intervals(
    edgewise: Any, models: dict[str, Path], pairs: Path
) -> None:
    pairs.write_text("".join(json.dumps(row) + "\n" for row in id_rows(40)))
    for name in ("llama", "tuned"):
        edgewise(
            "discover", "--model", models[name], "--task", pairs, "--method", "eap-ig",
            "--metric", "kl", "--top", 60, "--test", 16, "-o", f"{name}.json",
        )  # fmt: skip
    shown = edgewise("diff", "llama.json", "tuned.json", "--cross", "-o", "d.json").stdout
    file = read_diff("d.json")
    cross, a = file.cross, read_circuit("llama.json")
    assert cross is not None and cross.undefined == (False, False)
    row = cross.row("A")
    assert row.interval[0] is not None
    low, high = row.interval[0]
    assert f"{row.faithfulness[0]:.3f} [{low:.2f}, {high:.2f}]" in shown
    assert (cross.examples, cross.sha256) == (16, a.task["test"]["sha256"]), "held-out pairs"
    held_out = a.measures["held_out"]
    assert row.faithfulness[0] == pytest.approx(held_out["faithfulness"], abs=1e-5)
    assert row.interval[0] == pytest.approx(held_out["interval"], abs=1e-5)


def test_different_prompts_are_pointed_out(sessions: Any, pairs: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps(row) + "\n" for row in id_rows(5, seed=3)))
    files = find(sessions[0], pairs), find(sessions[1], other)
    _, notes = look_closer(diff_files(*files), files, CROSS, models=sessions)
    assert notes == [
        "the two circuits were found on different prompts; those of A are used for both."
    ]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in id_rows(6, seed=9)))
    _, notes = look_closer(diff_files(*files), files, CROSS, models=sessions)
    assert len(notes) == 1, "the pairs that A's file holds are taken"
    older = replace(files[0], extra={}), files[1]
    _, notes = look_closer(diff_files(*older), older, CROSS, models=sessions)
    assert "are not those the circuit was found on" in notes[0]


def test_a_tokenizer_that_reads_otherwise_is_refused(
    models: dict[str, Path], tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    words = open_model(str(models["words"]))
    text = tmp_path / "text.jsonl"
    rows = [
        {"clean": f"a {w} b", "corrupted": f"a {v} b", "answers": [w], "distractors": [v]}
        for w, v in itertools.pairwise(WORDS[3:10])
    ]
    text.write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = find(words, text, top=5)
    WORDS.reverse()
    try:
        save_tokenizer(tmp_path)
    finally:
        WORDS.reverse()
    other = AutoTokenizer.from_pretrained(tmp_path)
    reads_otherwise = open_model(words.loaded.model, tokenizer=other)
    with pytest.raises(PromptError, match="tokenizers map the task's prompts differently"):
        both = (words, reads_otherwise)
        look_closer(diff_files(file, file), (file, file), CROSS, models=both)


def test_random_circuits_beside_an_evaluation(edgewise: Any, circuit: Path) -> None:
    found = json.loads(edgewise("evaluate", circuit, "--random", 7, "--json").stdout)
    random, own = found["random"], found["faithfulness"]
    assert (random["circuits"], len(random["faithfulness"])) == (7, 7)
    below = sum(value < own for value in random["faithfulness"])
    assert random["percentile"] == pytest.approx(100 * below / 7)
    shown = edgewise("evaluate", circuit, "--random", 7).stdout
    assert "7 random ones" in shown
    assert f"{random['percentile']:.0f}: the share" in shown
    low, high = random["percentile_interval"]
    assert 0 <= low <= random["percentile"] <= high <= 100
    assert f"of all such ones [{low:.0f}, {high:.0f}]" in shown
    # of six pairs full model and no edge are not apart, so that no ratio means anything
    assert (random["undefined"], random["median"], random["median_interval"]) == (True, None, None)
    assert "7 random ones faithfulness undefined" in " ".join(shown.split())


def test_a_diff_tells_what_the_heads_do_in_both_models(
    edgewise: Any, models: dict[str, Path], pairs: Path
) -> None:
    for name in ("llama", "tuned"):
        edgewise(
            "discover", "--model", models[name], "--task", pairs, "--method", "eap", "--top", 12,
            "-o", f"{name}.json",
        )  # fmt: skip
    result = edgewise("diff", "llama.json", "tuned.json", "--roles", "-o", "d.json")
    shown = result.stdout
    assert "Warning: roles in A and B: the vocabulary has 31 tokens" in result.stderr
    found = read_diff("d.json")
    heads = [str(node) for node in circuit_heads(found.diff.a | found.diff.b)]
    assert heads
    assert found.roles is not None
    for side in (found.roles.a, found.roles.b):
        assert [str(head.node) for head in side.heads] == heads
    session = open_model(str(models["tuned"]))
    alone = head_roles(session, open_task(session, str(pairs))[0], heads=heads)
    assert (found.roles.b.heads, found.roles.b.notes) == (alone.heads, alone.notes)
    written = json.loads(Path("d.json").read_text())["roles"]
    assert written["b"] == json.loads(json.dumps(alone.rows))
    assert written["notes"]["b"] == list(alone.notes)
    assert any("5 in 31 tokens count as copied" in note for note in alone.notes)
    named = [row["head"] for row in alone.rows if row["label"]]
    assert f" of {len(heads)} heads have one in A or B" in shown
    assert all(head in shown for head in named)
    printed = json.loads(edgewise("diff", "llama.json", "tuned.json", "--roles", "--json").stdout)
    assert printed["roles"] == written == found.blocks["roles"]


def test_heads_that_cannot_be_measured_are_told_before_long_work(
    edgewise: Any, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny("gpt2", n_positions=8).save_pretrained(tmp_path / "short")
    edgewise(
        "discover", "--model", "short", "--task", many, "--method", "eap", "--top", 12,
        "-o", "short.json",
    )  # fmt: skip

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("repetitions began")

    monkeypatch.setattr("edgewise.steps.compare.repeat_in", refuse)
    asked = ("--roles", "--noise-floor", 2, "-o", "d.json")
    found = edgewise("diff", "short.json", "short.json", *asked, status=1)
    assert "9 positions or more" in found.stderr
    assert not (tmp_path / "d.json").exists()


# -- declared ------------------------------------------------------------------------------------


def declared(models: dict[str, Path], pairs: Path, comparison: str = "", **more: str) -> Experiment:
    return parse_spec(
        f"""
        [[models]]
        source = "{models["llama"]}"
        name = "base"
        [[models]]
        source = "{models["tuned"]}"
        name = "tuned"
        [[models]]
        source = "{models["llama"]}"
        name = "same"
        [task]
        file = "{pairs}"
        [discovery]
        method = "{more.get("method", "eap")}"
        {more.get("select", "top = 12")}
        [comparison]
        {comparison}
        [drawing]
        formats = []
        """
    )


@pytest.fixture
def many(tmp_path: Path) -> Path:
    path = tmp_path / "many.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in id_rows(26)))
    return path


def test_a_declared_experiment_has_them_and_does_nothing_twice(
    models: dict[str, Path], many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    asked_for = "noise_floor = 3\ncross = true\nroles = true\n"
    spec = declared(models, many, asked_for)
    first = run(spec, out)
    found = read_diff(out / "diffs/base_vs_tuned.json")
    assert found.noise_floor is not None
    assert (found.noise_floor.repetitions, found.noise_floor.examples) == (3, 4)
    assert found.scores.over == "all edges"
    assert found.cross is not None
    assert found.cross.models == ("base", "tuned")
    same = read_diff(out / "diffs/base_vs_same.json")
    assert same.cross is not None
    assert same.roles is not None
    assert all(row.value[0] == row.value[1] for row in same.cross.rows)

    files = tuple(find(open_model(str(models[name])), many) for name in ("llama", "tuned"))
    asked = ComparisonSpec(noise_floor=3, cross=True, roles=True)
    by_hand, _ = look_closer(diff_files(*files), (files[0], files[1]), asked)
    assert by_hand.noise_floor == found.noise_floor
    assert by_hand.cross is not None
    assert replace(by_hand.cross, models=("base", "tuned")) == found.cross
    assert by_hand.roles == found.roles
    assert same.roles.a == same.roles.b

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("edgewise.run.open_model", refuse)
    again = run(spec, out)
    assert (again.made, again.kept) == ((), first.made)
    stricter = run(
        declared(models, many, "noise_floor = 3\ncross = true\nroles = true\nlevel = 0.01"), out
    )
    assert stricter.made == (
        "diff of base and tuned", "diff of base and same", "report",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("comparison", "more", "message"),
    [
        ("noise_floor = 1", {}, "comparison.noise_floor is 1; accepted: a whole number from 2 up"),
        ("level = 1.5", {}, "comparison.level is 1.5; accepted: between 0 and 1"),
        ("cros = true", {}, "did you mean 'cross'"),
        (
            "paired = true",
            {"method": "acdc", "select": 'metric = "accuracy"'},
            "comparison.paired: metric 'accuracy' has no gradient",
        ),
    ],
)
def test_wrong_declarations_are_refused(
    models: dict[str, Path], pairs: Path, comparison: str, more: dict[str, str], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        declared(models, pairs, comparison, **more)


def test_too_few_pairs_are_refused_before_the_search(
    models: dict[str, Path], pairs: Path, tmp_path: Path
) -> None:
    with pytest.raises(PromptError, match="Accepted: 16 pairs"):
        run(declared(models, pairs, "noise_floor = 2"), tmp_path / "out")
    assert not (tmp_path / "out" / "circuits").exists()
