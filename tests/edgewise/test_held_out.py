"""Held out by default: discover, evaluate and their files, by commands and from Python."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgewise.experiment.spec import Experiment
from edgewise.experiment.task import TaskSpec
from edgewise.graphs.errors import FileFormatError, PromptError
from edgewise.graphs.files import read_circuit, write_circuit
from edgewise.workflow import (
    Selection,
    circuit_pairs,
    circuit_split,
    discover,
    evaluate,
    make_runner,
    open_model,
    open_split,
    open_task,
    stored_pairs,
    stored_task,
)
from tests.edgewise.conftest import id_rows

pytestmark = pytest.mark.filterwarnings("ignore:the circuit's faithfulness is")
FOUND = {"method": "eap-ig", "select": Selection(top=40)}
BY = ("--method", "eap-ig", "--top", 40)


def rows_of(count: int, groups: int = 0) -> list[dict[str, Any]]:
    rows = id_rows(count, seed=1)
    return [{**row, "group": f"t{i % groups}"} for i, row in enumerate(rows)] if groups else rows


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write files of few pairs, of many, and of many in ten groups."""
    folder = tmp_path_factory.mktemp("pairs")
    every = {"few": rows_of(12), "many": rows_of(64), "grouped": rows_of(64, groups=8)}
    for name, rows in every.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {name: folder / f"{name}.jsonl" for name in every}


@pytest.fixture(scope="module")
def session(models: dict[str, Path]) -> Any:
    return open_model(str(models["llama"]))


def test_a_task_holds_out_as_many_others(session: Any) -> None:
    before, _ = open_task(session, "induction", examples=12)
    split = open_split(session, "induction", examples=12)
    assert split.discovery == before
    assert split.discovery.sha256 == before.sha256
    assert split.test is not None
    assert len(split.test) == 12
    assert split.words == "held out: 12 others"
    assert split.report is not None
    more = open_split(session, "induction", examples=12, test=20)
    assert more.test is not None
    assert more.test.pairs[:12] == split.test.pairs
    assert open_split(session, "induction", examples=12, test=0).test is None


def test_files_hold_out_by_their_size(session: Any, files: dict[str, Path]) -> None:
    few, many = (open_split(session, str(files[name])) for name in ("few", "many"))
    assert few.test is None
    assert few.discovery == open_task(session, str(files["few"]))[0]
    assert "12 pairs are fewer than 64" in few.words
    assert [len(side) for side in many.sides] == [32, 32]
    assert len(open_task(session, str(files["many"]))[0]) == 64  # as ever
    chosen = open_split(session, str(files["many"]), examples=8)
    assert chosen.discovery == open_task(session, str(files["many"]), examples=8)[0]
    assert [len(side) for side in chosen.sides] == [8, 8]
    asked = open_split(session, str(files["grouped"]), examples=20, test=12)
    assert asked.discovery == open_task(session, str(files["grouped"]), examples=20, test=12)[0]
    assert asked.test is not None
    assert not {p.group for p in asked.test} & {p.group for p in asked.discovery}
    with pytest.raises(PromptError, match="too few for 20 test pairs beside 50 examples"):
        open_split(session, str(files["many"]), examples=50, test=20)


@pytest.mark.parametrize(
    ("task", "fields"),
    [
        ("induction", {"examples": 10, "test": 14}),
        ("induction", {"examples": 10}),
        ("grouped", {}),
        ("grouped", {"examples": 16, "test": 8, "seed": 3}),
        ("many", {"examples": 9}),
    ],
)
def test_files_hold_both_sides_and_give_them_again(
    task: str, fields: dict[str, int], session: Any, files: dict[str, Path], tmp_path: Path
) -> None:
    split = open_split(session, str(files.get(task, task)), **fields)
    assert split.test is not None
    found = discover(session, split, **FOUND)
    plain = discover(session, split.discovery, **FOUND)
    assert found.file.circuit == plain.file.circuit
    assert found.evaluation == plain.evaluation
    assert found.held_out is not None
    write_circuit(tmp_path / "c.json", found.file)
    file = read_circuit(tmp_path / "c.json")
    # what older programs read is as before
    flat = ("loss_full", "value_circuit", "faithfulness", "completeness", "edges")
    assert [file.measures[key] for key in flat] == [plain.file.measures[key] for key in flat]
    assert {**file.at(None).task, "test": None} == {**plain.file.at(None).task, "test": None}
    assert stored_pairs(file) == split.discovery
    # what is new
    test = file.task["test"]
    assert (test["examples"], test["sha256"]) == (len(split.test), split.test.sha256)
    for name, one in (("in_sample", found.evaluation), ("held_out", found.held_out)):
        block, estimate = file.measures[name], one.estimate("faithfulness")
        assert block["examples"] == one.examples
        assert block["value_circuit"] == pytest.approx(one.value_circuit)
        assert block["faithfulness"] == pytest.approx(estimate.value)
        assert block["interval"] == pytest.approx(list(estimate.interval or ()) or None)
        assert len(block["worst_pairs"]) == 5
    # the same again: from the file's own pairs, and made anew by what it says of the task
    again, notes = circuit_split(file, session)
    assert not notes
    assert (again.discovery, again.test) == (split.discovery, split.test)
    made = open_split(session, TaskSpec.of_circuit(file))
    assert (made.discovery, made.test) == (split.discovery, split.test)
    assert open_task(session, **stored_task(file))[0] == split.discovery
    assert discover(Experiment.from_circuit(file)).held_out == found.held_out


def test_the_held_out_measure_is_that_of_the_other_pairs(session: Any) -> None:
    split = open_split(session, "induction", examples=12, test=16)
    found = discover(session, split, **FOUND)
    assert split.test is not None
    alone = evaluate(session, found.file, split.test)
    assert found.held_out is not None  # in batches of another size
    assert found.held_out.value_circuit == pytest.approx(alone.value_circuit, abs=1e-6)
    assert found.held_out.edges == alone.edges
    assert (alone.seen, alone.measured_on) == (0, "held_out")
    both = evaluate(session, found.file, split, random=5)
    assert both.evaluation == found.evaluation
    assert both.held_out == found.held_out
    assert both.seen == 12
    alone = evaluate(make_runner(session, split.test), found.file, random=5)
    assert both.random is not None
    assert alone.random is not None
    assert both.random.faithfulness == pytest.approx(alone.random.faithfulness, rel=1e-4)


def test_what_an_ablation_carries_comes_from_the_discovery(session: Any) -> None:
    split = open_split(session, "induction", examples=12, test=16)
    found = discover(session, split, ablation="mean", **FOUND)
    assert split.test is not None
    own = evaluate(session, found.file, split.test)
    assert found.held_out is not None
    assert found.held_out.value_full == pytest.approx(own.value_full)
    assert found.held_out.value_empty != pytest.approx(own.value_empty)  # by their own means


def test_a_circuits_own_test_pairs_count_unless_others_are_asked_for(
    session: Any, files: dict[str, Path]
) -> None:
    file = discover(session, open_split(session, "induction", examples=10), **FOUND).file
    fewer, _ = circuit_split(file, session, {"test": 4})
    more, _ = circuit_split(file, session, {"test": 30})
    full, _ = circuit_split(file, session)
    assert full.test and fewer.test and more.test
    assert (len(fewer.test), len(full.test), len(more.test)) == (4, 10, 30)
    assert more.test.pairs[:10] == full.test.pairs
    assert circuit_split(file, session, {"test": 0})[0].test is None
    others, _ = circuit_split(file, session, {"seed": 5})
    assert others.test is None
    assert others.discovery == circuit_pairs(file, session, {"seed": 5})[0]
    old = discover(session, open_task(session, str(files["many"]), examples=30)[0], **FOUND).file
    assert circuit_split(old, session)[0].test is None
    beside, _ = circuit_split(old, session, {"test": 10})
    assert beside.test is not None
    assert not set(beside.test) & set(old_pairs(old))


def old_pairs(file: Any) -> Any:
    pairs = stored_pairs(file)
    assert pairs is not None
    return pairs


def test_altered_test_pairs_are_refused(session: Any, tmp_path: Path) -> None:
    file = discover(session, open_split(session, "induction", examples=6), **FOUND).file
    write_circuit(tmp_path / "c.json", file)
    document = json.loads((tmp_path / "c.json").read_text())
    document["test_prompts"].pop()
    (tmp_path / "c.json").write_text(json.dumps(document))
    with pytest.raises(FileFormatError, match="are not those that were held out"):
        circuit_split(read_circuit(tmp_path / "c.json"), session)
    document["task"]["test"]["examples"] = "six"
    (tmp_path / "c.json").write_text(json.dumps(document))
    with pytest.raises(FileFormatError, match="examples"):
        read_circuit(tmp_path / "c.json")


# -- the command line ------------------------------------------------------------------------------


def test_held_out_figures_come_first(edgewise: Any, models: Any) -> None:
    line = ("discover", "--model", models["llama"], "--task", "induction", "--examples", 10, *BY)
    shown = edgewise(*line, "--test", 14, "-o", "c.json").output
    file = read_circuit("c.json")
    assert "induction, 10 pairs, seed 0; held out: 14 others" in shown
    held, own = (file.measures[name] for name in ("held_out", "in_sample"))
    assert held["examples"] == 14
    first, beside = (f"logit_diff {one['value_full']:.4g} [" for one in (held, own))
    assert first in shown
    assert f"; in sample {beside.removeprefix('logit_diff ')}" in shown
    found = json.loads(edgewise(*line, "--json", "-o", "d.json").output)
    assert found["task"]["test"]["examples"] == 10
    assert found["measures"]["held_out"]["examples"] == 10
    shown = edgewise(*line, "--test", 0, "-o", "e.json").output
    assert "in sample only: nothing is held out" in shown
    assert "held_out" not in read_circuit("e.json").measures
    assert "test" not in read_circuit("e.json").task


def test_evaluate_says_whether_pairs_were_seen(edgewise: Any, models: Any) -> None:
    edgewise(
        "discover", "--model", models["llama"], "--task", "induction", "--examples", 10, *BY,
        "-o", "c.json",
    )  # fmt: skip
    file = read_circuit("c.json")
    found = json.loads(edgewise("evaluate", "c.json", "--json").output)
    for name in ("in_sample", "held_out"):
        assert found[name]["faithfulness"] == pytest.approx(file.measures[name]["faithfulness"])
    assert found["value_circuit"] == pytest.approx(file.measures["value_circuit"])
    assert (found["seen"], found["measured_on"]) == (10, "held_out")
    shown = edgewise("evaluate", "c.json").output
    assert "worst pairs" in shown
    assert "quantiles over pairs" in shown
    assert "in sample" in shown
    shown = edgewise("evaluate", "c.json", "--seed", 9).output
    assert "it was found on none of these 10 pairs: they are held out" in shown
    shown = edgewise("evaluate", "c.json", "--examples", 15).output
    assert "it was found on 10 of these 15 pairs" in shown
    shown = edgewise("evaluate", "c.json", "--test", 0).output
    assert "it was found on these pairs: in sample only" in shown
    shown = edgewise("evaluate", "c.json", "--task", "induction", "--examples", 10).output
    assert "it was found on these pairs: in sample only" in shown
    found = json.loads(
        edgewise("evaluate", "c.json", "--task", "induction", "--test", 7, "--json").output
    )
    assert found["examples"] == 7


def test_worst_pairs_are_shown_with_their_text(edgewise: Any, models: Any, tmp_path: Path) -> None:
    rows = [
        {"clean": f"a b {x} d e", "corrupted": f"a b {y} d e", "answers": ["c"],
         "distractors": ["f"]}
        for x, y in ("gh", "hi", "ij", "jk", "kl", "lm")
    ]  # fmt: skip
    (tmp_path / "words.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    edgewise("discover", "--model", models["words"], "--task", "words.jsonl", *BY, "-o", "c.json")
    shown = edgewise("evaluate", "c.json").output
    assert shown.count("a b") == 5
    assert "in sample only: nothing is held out" not in shown
    assert "it was found on these pairs: in sample only" in shown


def test_a_ratio_within_two_errors_is_undefined_in_words_and_null(
    edgewise: Any, models: Any, pairs: Path
) -> None:
    edgewise("discover", "--model", models["llama"], "--task", pairs, *BY, "-o", "c.json")
    file = read_circuit("c.json")
    block = file.measures["in_sample"]
    assert block["faithfulness"] is None  # of six pairs of a random model
    assert block["interval"] is None
    assert block["value_full"] != block["value_empty"]
    gap = block["value_full"] - block["value_empty"]  # older keys: the ratio, and why it is none
    part = block["value_circuit"] - block["value_empty"]
    assert file.measures["faithfulness"] == pytest.approx(part / gap)  # type: ignore[typeddict-item]
    said = file.measures["undefined"]
    assert said is not None and said.startswith("undefined: full − no edge is")
    again = json.loads(edgewise("evaluate", "c.json", "--json").stdout)
    assert again["undefined"] == said and again["in_sample"]["faithfulness"] is None
    session = open_model(str(models["llama"]))
    found = discover(
        session, open_task(session, str(pairs))[0], method="eap", select=Selection(top=40)
    )
    assert "faithfulness undefined in sample" in repr(found)
    shown = edgewise("evaluate", "c.json").output
    assert "undefined: full − no edge is" in shown
    assert ", 2 standard errors are " in shown


# -- a run -----------------------------------------------------------------------------------------


def test_a_run_measures_on_both_sides_and_tells_held_out_first(
    edgewise: Any, models: Any, tmp_path: Path
) -> None:
    (tmp_path / "spec.toml").write_text(
        f"""
        [[models]]
        source = "{models["llama"]}"
        name = "base"
        [task]
        name = "induction"
        examples = 12
        test = 16
        [discovery]
        method = "eap-ig"
        top = 40
        [evaluation]
        metrics = ["logit_diff", "kl"]
        curve = true
        [drawing]
        formats = []
        """
    )
    first = json.loads(edgewise("run", "spec.toml", "-o", "out", "--json").output)
    assert "held-out prompts" in first["made"]
    again = json.loads(edgewise("run", "spec.toml", "-o", "out", "--json").output)
    assert not again["made"]
    measured = json.loads((tmp_path / "out/evaluation.json").read_text())["models"]["base"]
    file = read_circuit(tmp_path / "out/circuits/base.json")
    assert [one["examples"] for one in measured["metrics"]] == [12, 12]
    assert [one["examples"] for one in measured["held_out"]] == [16, 16]
    held, own = (file.measures[name] for name in ("held_out", "in_sample"))
    assert measured["held_out"][0]["value_circuit"] == pytest.approx(held["value_circuit"])
    assert measured["metrics"][0]["value_circuit"] == pytest.approx(own["value_circuit"])
    assert len((tmp_path / "out/test-prompts.jsonl").read_text().splitlines()) == 16
    text = (tmp_path / "out/report.md").read_text()
    assert "on 16 pairs that were held out" in text
    assert text.index("**held out**") < text.index("In sample, on the 12 pairs")
    assert text.count("| 95% interval |") == 4
    assert "held out: 16 others" in text
    spec = (tmp_path / "out/spec.toml").read_text()
    assert "test = 16" in spec


def test_a_clean_prompt_counts_as_seen_whatever_it_is_corrupted_to(session: Any) -> None:
    split = open_split(session, "induction", examples=12, test=8)
    found = discover(session, split, **FOUND)
    assert split.test is not None
    corrupted = {pair.corrupted for pair in split.test}
    other = tuple(
        replace(pair, corrupted=others.corrupted)
        for pair, others in zip(split.discovery.pairs[:8], split.test, strict=True)
    )
    pairs = replace(split.test, pairs=other)
    assert {pair.corrupted for pair in pairs} == corrupted
    assert evaluate(session, found.file, pairs).seen == 8
