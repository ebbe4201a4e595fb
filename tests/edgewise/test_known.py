"""Known circuits: models do what is said, truths are found, and methods are scored by them."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import click
import numpy as np
import psutil
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from edgewise.cli import cli
from edgewise.graphs.circuit import Circuit
from edgewise.graphs.errors import EdgewiseError, FileFormatError
from edgewise.graphs.files.tables.known import read_known, write_known
from edgewise.graphs.graph import ComputationGraph
from edgewise.graphs.scores import Scores
from edgewise.known.cases import DATA, KnownCase, case_groups, known_cases, read_cases
from edgewise.known.parallel import _processes, score_in_processes
from edgewise.known.programs import PAIRS, known_program, read_program, write_program
from edgewise.known.scoring import area, score_methods, scored_row
from edgewise.known.truth import true_edges
from edgewise.session import make_runner, open_model, open_split
from edgewise.steps.claims.asked import AskedMethod

SMALL = ("histogram", "fraction-previous", "length", "count")


def cases_of(*names: str) -> dict[str, KnownCase]:
    return {case.name: case for case in known_cases(names=names)}


@cache
def model_of(name: str) -> Any:
    return open_model(str(DATA / name), dtype="float64").loaded.model


def says(name: str, values: tuple[object, ...]) -> np.ndarray:
    """Return the logits of a compiled program at each token of an input."""
    about = json.loads((DATA / name / "program.json").read_text(encoding="utf-8"))
    tokens = about["tokens"]
    ids = [tokens.index("BOS"), *(tokens.index(one) for one in values)]
    with torch.no_grad():
        return np.asarray(model_of(name)(torch.tensor([ids])).logits[0, 1:])


def outputs(name: str) -> list[object]:
    found = json.loads((DATA / name / "program.json").read_text(encoding="utf-8"))["outputs"]
    assert isinstance(found, list)
    return found


@pytest.mark.parametrize("length", [1, 2, 4])
def test_compiled_models_do_what_the_programs_say(length: int) -> None:
    """Against the meaning of three programs, written here in Python, on every input."""
    for values in itertools.islice(itertools.product("abcd", repeat=length), 0, None, 5):
        counts = Counter(values)
        found = [outputs("histogram")[i] for i in says("histogram", values).argmax(-1)]
        assert found == [counts[one] for one in values]
        found = [outputs("reverse")[i] for i in says("reverse", values).argmax(-1)]
        assert found == list(reversed(values))
    for values in itertools.islice(itertools.product("abx", repeat=length), 0, None, 7):
        share = [values[: i + 1].count("x") / (i + 1) for i in range(length)]
        np.testing.assert_allclose(says("fraction-previous", values)[:, 0], share, atol=1e-6)


def test_there_are_at_least_ten_programs_and_each_is_right_on_all_fresh_inputs() -> None:
    about = [json.loads(path.read_text(encoding="utf-8")) for path in DATA.glob("*/program.json")]
    assert len(about) >= 10
    assert {one["program"]: one["said"] for one in about if one["said"] < 1} == {}


@pytest.mark.parametrize("name", SMALL)
def test_truths_are_what_brute_force_finds(name: str) -> None:
    for case in cases_of(name).values():
        runner = make_runner(case.session, case.pairs, ablation=case.ablation, metric="kl")
        assert true_edges(runner) == case.truth


def test_truths_are_those_that_are_published() -> None:
    """Conmy et al. 2023, table of compiled programs, under zero ablation: 11 and 5 edges."""
    truths = {name: len(case.truth) for name, case in cases_of("reverse").items()}
    assert truths["reverse-zero"] == 11
    assert truths["reverse-resample"] == 2
    truths = {name: len(case.truth) for name, case in cases_of("fraction-previous").items()}
    assert (truths["fraction-previous-zero"], truths["fraction-previous-resample"]) == (5, 3)


def test_acdc_finds_the_published_circuits_and_exact_effects_rank_them_first() -> None:
    cases = known_cases(names=("reverse-zero", "fraction-previous-zero", "gpt2-2x2"))
    asked = [AskedMethod.parse(one) for one in ("acdc", "exact")]
    found = score_methods(cases, asked)
    assert len(found.scored) == 6
    for row in found.scored:
        assert row["refused"] is None
        assert (row["AUC"], row["precision"], row["recall"]) == (1.0, 1.0, 1.0)
        assert row["f"] == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("name", SMALL)
def test_exact_effects_find_every_true_edge(name: str) -> None:
    found = score_methods(known_cases(names=(name,)), [AskedMethod.parse("exact")], areas=False)
    assert {row["case"]: row["AUC"] for row in found.scored if row["AUC"] != 1} == {}


GRAPH = ComputationGraph(layers=1, heads=2)


def test_area_by_hand() -> None:
    """Two true edges of scores 3 and 1 among others of 2, 2, 1: 3 + 1·0 + half of a tie, of 6."""
    rows, columns = np.nonzero(GRAPH.reads)
    values = np.full(GRAPH.reads.shape, np.nan)
    values[rows, columns] = 0.0
    kept = np.zeros_like(GRAPH.reads)
    places = list(zip(rows, columns, strict=True))
    for place, value in zip(places, (3.0, -1.0, 2.0, 2.0, 1.0), strict=False):
        values[place] = value
    for place in places[:2]:
        kept[place] = True
    others = len(places) - 2
    expected = (others + (others - 3) + 0.5) / (2 * others)
    assert area(Scores(GRAPH, values), Circuit(GRAPH, kept)) == pytest.approx(expected)


@given(st.integers(0, 10_000))
def test_area_is_the_rank_statistic(seed: int) -> None:
    draw = np.random.default_rng(seed)
    values = np.where(GRAPH.reads, draw.integers(-3, 4, GRAPH.reads.shape).astype(float), np.nan)
    true = GRAPH.reads & (draw.random(GRAPH.reads.shape) < 0.4)
    true.ravel()[np.flatnonzero(GRAPH.reads)[0]] = True
    true.ravel()[np.flatnonzero(GRAPH.reads)[1]] = False
    rest = GRAPH.reads & ~true
    statistic = mannwhitneyu(np.abs(values[true]), np.abs(values[rest])).statistic
    expected = statistic / (true.sum() * rest.sum())
    assert area(Scores(GRAPH, values), Circuit(GRAPH, true)) == pytest.approx(expected)


def test_area_refuses_a_truth_that_decides_nothing() -> None:
    scores = Scores(GRAPH, np.where(GRAPH.reads, 1.0, np.nan))
    for truth in (Circuit.full(GRAPH), Circuit.empty(GRAPH)):
        with pytest.raises(EdgewiseError, match="accepted: one with some of both"):
            area(scores, truth)


def test_scores_and_circuits_of_others_are_held_against_the_truth() -> None:
    case = cases_of("histogram-zero")["histogram-zero"]
    first = Circuit.empty(case.truth.graph).with_edges(list(case.truth.edges)[:3])
    row = scored_row("mine", case, None, first)
    assert (row["precision"], row["recall"], row["kept"]) == (1.0, 3 / len(case.truth), 3)
    assert row["AUC"] == pytest.approx(0.5 + 0.5 * 3 / len(case.truth))
    assert row["CPR"] is None
    assert (row["missed"], row["flat"]) == (len(case.truth) - 3, None)
    scores = np.where(case.truth.graph.reads, first.kept + 1e-9, np.nan)
    flat = scored_row("mine", case, Scores(case.truth.graph, scores))
    assert (
        flat["missed"]
        == flat["flat"]
        == len(case.truth) - len(Scores(case.truth.graph, scores).top(len(case.truth)) & case.truth)
    )
    with pytest.raises(EdgewiseError, match="neither scores nor a circuit"):
        scored_row("mine", case, None)
    with pytest.raises(EdgewiseError, match="not of the graph of histogram-zero"):
        scored_row("mine", case, None, Circuit.full(GRAPH))


def test_a_method_that_refuses_a_case_has_a_row_that_says_why() -> None:
    found = score_methods(known_cases(names=("gpt2-2x2",)), [AskedMethod.parse("eap:rule=gim")])
    other = score_methods(
        known_cases(names=("count-zero",)), [AskedMethod.parse("eap:metric=accuracy")]
    )
    assert found.scored[0]["refused"] is None
    assert other.scored[0]["AUC"] is None
    assert "accuracy" in str(other.scored[0]["refused"])


def test_nodes_are_held_against_those_that_write_along_true_edges() -> None:
    case = cases_of("histogram-zero")["histogram-zero"]
    graph, true = case.truth.graph, case.truth.kept.any(0)
    assert 0 < true.sum() < len(true)
    assert area(Scores.of_nodes(graph, true.astype(float)), case.truth) == 1
    assert area(Scores.of_nodes(graph, 1.0 - true), case.truth) == 0
    assert area(Scores.of_nodes(graph, np.ones(len(true))), case.truth) == 0.5
    row = scored_row("mine", case, Scores.of_nodes(graph, true.astype(float)))
    assert (row["precision"], row["recall"], row["kept"]) == (1.0, 1.0, true.sum())
    assert (row["level"], row["f"]) == ("node", pytest.approx(1))
    (found,) = score_methods([case], [AskedMethod.parse("atp-star")]).scored
    assert found["level"] == "node"
    assert found["AUC"] is not None


def test_processes_share_cases_and_find_the_same() -> None:
    labels = ["exact", "eap"]
    groups = case_groups(names=("count-zero", "count-mean", "gpt2-2x2"))
    assert groups == [("count-mean", "count-zero"), ("gpt2-2x2",)]
    asked = [AskedMethod.parse(one) for one in labels]
    one = score_methods(known_cases(names=[n for own in groups for n in own]), asked)
    two = score_in_processes(groups, labels, 2)
    assert list(two.cases) == list(one.cases)
    for a, b in zip(one.scored, two.scored, strict=True):
        assert {**a, "seconds": 0} == {**b, "seconds": 0}


def test_ctrl_c_ends_the_processes_without_a_traceback() -> None:
    line = ["-m", "edgewise", "benchmark", "--jobs", "2", "--cases", "parentheses,sort"]
    running = subprocess.Popen(
        [sys.executable, *line, "--methods", "exact"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    children = psutil.Process(running.pid).children
    wait_until(lambda: len(children()) >= 2 or running.poll() is not None)
    begun = children()
    time.sleep(1.0)
    os.killpg(running.pid, signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130
    assert said.strip().splitlines()[-1] == "Interrupted."
    assert "Traceback" not in said
    wait_until(lambda: not any(one.is_running() and one.status() != "zombie" for one in begun))


def test_a_process_that_is_killed_is_told() -> None:
    ended = pytest.raises(EdgewiseError, match="one of 1 processes was ended from outside")
    with ended, _processes(1) as pool:
        pool.submit(os.kill, pool.submit(os.getpid).result(), signal.SIGKILL).result()


def wait_until(happens: Callable[[], bool]) -> None:
    for _ in range(600):
        if happens():
            return
        time.sleep(0.1)
    raise AssertionError("it did not happen within a minute")


def test_files_come_back(tmp_path: Path) -> None:
    found = score_methods(known_cases(names=("count-zero",)), [AskedMethod.parse("eap")])
    write_known(tmp_path / "known.json", found)
    again = read_known(tmp_path / "known.json")
    assert again.as_dict() == found.as_dict()
    assert again.row("eap", "count-zero") == found.scored[0]
    assert again.row("eap", "other") is None
    document = found.as_dict()
    document["cases"] = [{**found.cases[0], "case": "another"}]
    (tmp_path / "wrong.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(FileFormatError, match="'count-zero' is scored and is not among its cases"):
        read_known(tmp_path / "wrong.json")


# -- the commands ---------------------------------------------------------------------------------


def run(*words: str) -> str:
    result = CliRunner().invoke(cli, ["benchmark", *words], standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return result.output


def test_benchmark_prints_and_writes(tmp_path: Path) -> None:
    path = str(tmp_path / "known.json")
    shown = run("--cases", "count-zero", "--methods", "exact,acdc", "-o", path)
    assert "exact" in shown
    assert "1 of 1" in shown
    assert read_known(path).methods == ["exact", "acdc"]
    assert "count-zero" in run("--list", "--kinds", "compiled")


@pytest.mark.parametrize("path", sorted(DATA.glob("*/pairs.jsonl")), ids=lambda p: p.parent.name)
def test_every_command_takes_the_prompts_with_the_model(path: Path) -> None:
    """Some programs have more outputs than tokens, so that an answer may be no token."""
    session = open_model(str(path.parent))
    for reference in (session, str(path.parent)):
        assert len(open_split(reference, str(path), test=0).discovery) == 128


def test_circuits_of_others_are_scored_by_their_names(tmp_path: Path) -> None:
    case = cases_of("count-zero")["count-zero"]
    tool = tmp_path / "found" / "mine"
    tool.mkdir(parents=True)
    names = [str(edge) for edge in case.truth.edges]
    (tool / "count-zero.txt").write_text("\n".join(names), encoding="utf-8")
    path = str(tmp_path / "known.json")
    run(str(tmp_path / "found"), "--cases", "count", "-o", path)
    (row,) = read_known(path).scored
    assert (row["method"], row["AUC"], row["precision"], row["recall"]) == ("mine", 1.0, 1.0, 1.0)


def test_known_circuits_are_written_and_read_again(tmp_path: Path) -> None:
    run("--cases", "gpt2-2x2,count-zero", "--write", str(tmp_path))
    found = {path.name for path in tmp_path.iterdir()}
    assert found == {"gpt2-2x2", "count"}
    (planted,) = read_cases(tmp_path / "gpt2-2x2")
    (case,) = known_cases(names=("gpt2-2x2",))
    assert planted.truth == case.truth
    assert planted.pairs.pairs == case.pairs.pairs


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--cases", "nothing"], "unknown known circuit 'nothing'"),
        (["--kinds", "grown"], "unknown kind of known circuit 'grown'"),
        (["--methods", "guess"], "unknown method 'guess'"),
        (["--methods", ","], "names none"),
        (["nowhere", "--cases", "count-zero"], "no folder"),
        (["nowhere", "--jobs", "2"], "--jobs stands beside DIR"),
        (["--list", "--jobs", "2"], "--jobs stands beside --list"),
    ],
)
def test_wrong_input_is_named(words: list[str], message: str) -> None:
    with pytest.raises((EdgewiseError, click.UsageError), match=message):
        run(*words)


def test_a_folder_without_truth_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EdgewiseError, match=r"it has no truth-ABLATION\.txt"):
        list(read_cases(tmp_path))


# -- compiling ------------------------------------------------------------------------------------


def test_without_tracr_a_program_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [one for one in sys.modules if one.split(".")[0] == "tracr"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tracr", None)
    with pytest.raises(EdgewiseError, match=r"edgewise\[tracr\]"):
        read_program(DATA / "count" / "count.py")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vocabulary = ('a',)\nmax_length = 3", "does not set program"),
        ("program = 1\nvocabulary = 'a'\nmax_length = 3", "sets vocabulary to 'a'"),
        ("program = 1\nvocabulary = ('a',)\nmax_length = 3", "of type int"),
        ("1 / 0", "ZeroDivisionError"),
        ("import no_such_package", "imports no_such_package"),
    ],
)
def test_programs_that_are_none_are_refused(tmp_path: Path, text: str, message: str) -> None:
    pytest.importorskip("tracr")
    path = tmp_path / "mine.py"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(EdgewiseError, match=message):
        known_program(read_program(path))


def test_a_program_compiles_to_what_is_stored(tmp_path: Path) -> None:
    """A user's way: compile the program's file; model, prompts and truths are those kept here."""
    pytest.importorskip("tracr")
    made = known_program(read_program(DATA / "fraction-previous" / "fraction-previous.py"))
    write_program(tmp_path / "made", made)
    stored = DATA / "fraction-previous"
    names = {path.name for path in (tmp_path / "made").iterdir()}
    assert names == {path.name for path in stored.iterdir()} - {"fraction-previous.py"}
    for name in sorted(names - {"config.json", "model.safetensors"}):
        assert (tmp_path / "made" / name).read_bytes() == (stored / name).read_bytes(), name
    for one, other in zip(
        open_model(str(tmp_path / "made")).loaded.model.state_dict().values(),
        open_model(str(stored)).loaded.model.state_dict().values(),
        strict=True,
    ):
        assert torch.equal(one, other)
    assert (tmp_path / "made" / PAIRS).exists()
