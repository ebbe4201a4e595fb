"""Shares of a gain with their intervals, and on prompts that no node was ranked on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgewise import read_transplant, write_transplant
from edgewise.graphs.errors import FileFormatError, PromptError
from edgewise.patching.prompts.pair_files import pair_rows
from edgewise.session import open_split
from edgewise.steps.comparison.gain import MeasuredGain
from edgewise.steps.transplant import Choice, transplant
from tests.edgewise.conftest import id_rows, tiny

STORED = Path(__file__).parents[1] / "data" / "version1"


# -- numbers by hand ----------------------------------------------------------------------------


def gain(donor: list[float], clusters: list[int] | None = None, floor: float = 0.0) -> MeasuredGain:
    places = np.arange(len(donor)) if clusters is None else np.array(clusters)
    return MeasuredGain(np.zeros(len(donor)), np.array(donor), places, floor)


def test_a_share_and_its_interval_are_those_worked_by_hand() -> None:
    """Four prompts: Student's interval with 3 degrees of freedom, t = 3.18245."""
    found = gain([1.0, 1.0, 3.0, 3.0])
    assert found.error == pytest.approx(np.sqrt(4 / 3) / 2)
    whole = found.estimate()
    assert (whole.value, whole.low, whole.high) == pytest.approx((2, 0.16261, 3.83739), abs=1e-4)
    part = found.share(np.array([0.5, 0.5, 3.0, 3.0]))  # residuals -3/8, -3/8, 3/8, 3/8 over 8
    assert part.value == 0.875
    assert (part.low, part.high) == pytest.approx((0.53049, 1.21951), abs=1e-4)


def test_nothing_and_everything_carried_are_0_and_1_without_any_doubt() -> None:
    found = gain([1.0, 1.5, 3.0, 2.0, 2.5, 1.2])
    for values, share in ((found.receiver, 0.0), (found.donor, 1.0)):
        one = found.share(values)
        assert (one.value, one.low, one.high) == (share, share, share)


def test_a_gain_of_less_than_two_standard_errors_has_no_shares() -> None:
    """Mean .5 with error .6455; two errors are 1.29."""
    found = gain([2.0, -1.0, 1.0, 0.0])
    assert found.estimate().value == 0.5
    assert found.error == pytest.approx(0.6455, abs=1e-4)
    assert found.share(found.donor).value is None
    assert gain([1.0, 1.0], floor=2.0).share(np.ones(2)).value is None  # rounding
    assert gain([1.0]).share(np.array([0.25])).value == 0.25  # one prompt has no error
    assert gain([1.0]).share(np.array([0.25])).interval is None
    assert gain([1.0]).error is None


def test_prompts_of_one_template_count_as_one() -> None:
    """Eight copies of five prompts know no more than the five."""
    values = [1.0, 2.0, 3.0, 4.0, 5.0]
    few = gain(values)
    many = gain(values * 8, list(range(5)) * 8)
    assert many.error == pytest.approx(few.error)
    assert gain(values * 8).error == pytest.approx(few.error * np.sqrt(4 / 39))  # type: ignore[operator]


# -- held out -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def variant(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Save the Llama of `models` with other MLPs, and nothing else changed."""
    folder = tmp_path_factory.mktemp("other-mlps")
    model = tiny("llama")
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.mul_(0.5)
        model.model.layers[1].mlp.down_proj.weight.mul_(3)
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def many(tmp_path: Path) -> Path:
    path = tmp_path / "many.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in id_rows(80)))
    return path


def close(a: Any, b: Any) -> bool:
    """Tell whether values are equal but for rounding; intervals of a kl of 0 are no numbers."""
    return bool(np.allclose([x or 0 for x in a], [x or 0 for x in b], rtol=1e-3, atol=1e-4))


def test_each_side_is_what_its_pairs_alone_give(
    models: Any, variant: str, many: Path, tmp_path: Path
) -> None:
    refs, how = (str(models["llama"]), variant), {"metric": "kl"}
    both = transplant(*refs, str(many), Choice(greedy=2), **how)
    assert both.measured_on == "held_out"
    parted = open_split(refs[0], str(many))
    assert parted.test is not None and len(parted.test) == len(parted.discovery) == 40
    assert both.task["sha256"] == parted.discovery.sha256
    assert both.task["test"]["sha256"] == parted.test.sha256
    alone = {}
    for side, pairs in (("in_sample", parted.discovery), ("held_out", parted.test)):
        path = tmp_path / f"{side}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in pair_rows(pairs)))
        alone[side] = transplant(*refs, str(path), Choice(greedy=2), test=0, **how)
    own = alone["in_sample"]
    assert [row[0] for row in both.singles] == [row[0] for row in own.singles]
    assert [row[0] for row in both.greedy] == [row[0] for row in own.greedy]
    assert both.held_out is not None and both.in_sample is not None
    for side, rankings in (("in_sample", both.in_sample), ("held_out", both.held_out)):
        expected, measured = alone[side].measures["in_sample"], both.measures[side]
        for key in ("a", "b", "gain", "everything", "carried", "gain_error"):
            assert measured[key] == pytest.approx(expected[key], rel=1e-3, abs=1e-5)
        for key in ("gain_interval", "interval"):
            assert close(measured[key], expected[key])
        assert measured["examples"] == 40
        singles = {row.node: row[1:] for row in alone[side].in_sample.singles}
        assert [row.node for row in rankings.singles] == [row[0] for row in both.singles]
        for row in rankings.singles:
            assert close(row[1:], singles[row.node])
    (first, second), alone_first = both.held_out.greedy, both.held_out.singles
    assert first == alone_first[0]
    pair = Choice(nodes=(str(first.node), str(second.node)))
    chosen = transplant(*refs, str(many), pair, **how)
    assert chosen.chosen is not None and chosen.in_sample is None
    told = chosen.chosen["held_out"]
    assert close([second.value, second.carried, *(second.interval or ())],
                 [told["value"], told["carried"], *(told["interval"] or ())])  # fmt: skip


def test_held_out_figures_are_printed_first(
    edgewise: Any, models: Any, variant: str, many: Path
) -> None:
    line = ["transplant", models["llama"], variant, "--task", many, "--metric", "kl"]
    printed = edgewise(*line, "--greedy", 2, "-o", "t.json").stdout
    file = read_transplant("t.json")
    assert "held out: 40 of 80 pairs" in printed
    assert "in sample only" not in printed
    held, own = file.measures["held_out"], file.measures["in_sample"]
    assert f"kl {held['a']:.4g}; in sample {own['a']:.4g}" in printed
    assert "node" in printed and printed.count("in sample") >= 6
    row = file.held_out.singles[0]
    first = next(text for text in printed.splitlines() if text.startswith(str(row.node)))
    assert first.split()[1:3] == [f"{row.value:.4f}", f"{100 * row.carried:.1f}%"]
    assert first.split()[-1] == f"{100 * file.in_sample.singles[0].carried:.1f}%"
    printed = edgewise(*line, "--nodes", "m0,m1", "--test", 30, "--examples", 20).stdout
    assert "100.0% of the gain carried [100.0%, 100.0%]; in sample 100.0%" in printed
    assert "held out: 30 of 80 pairs" in printed


def test_pairs_that_a_circuit_was_found_on_are_not_held_out(
    edgewise: Any, models: Any, variant: str, many: Path
) -> None:
    """Found on the first 60 pairs, of which the split of all 80 holds some out."""
    by = ("--method", "eap", "--top", 20)
    find = ("discover", "--model", models["llama"], "--task", many, *by, "-o", "c.json")
    edgewise(*find, "--examples", 60)
    line = ["transplant", models["llama"], variant, "--task", many, "--circuit", "c.json"]
    done = edgewise(*line, "--metric", "kl", "-o", "t.json")
    file = read_transplant("t.json")
    left = file.measures["held_out"]["examples"]
    assert 0 < left < 40 and file.measures["in_sample"]["examples"] == 40
    said = f"of 40 held-out pairs {40 - left} are left out, on which the circuit was found"
    assert said in done.stderr
    assert f"without {40 - left} that the circuit was found on" in done.stdout
    edgewise(*find, "--test", 0)
    done = edgewise(*line)
    assert "nothing is held out: the circuit was found on those pairs too" in done.stdout
    edgewise(*find)
    done = edgewise(*line, "-o", "t.json")  # the same split
    assert "left out" not in done.stderr
    assert read_transplant("t.json").measures["held_out"]["examples"] == 40


def test_a_built_in_task_makes_others(models: Any, variant: str) -> None:
    found = transplant(
        str(models["llama"]), variant, "induction", Choice(nodes=("m1",)),
        examples=8,
    )  # fmt: skip
    assert found.task["examples"] == found.task["test"]["examples"] == 8
    assert found.measures["held_out"]["examples"] == 8
    assert found.measures["a"] == found.measures["in_sample"]["a"]
    assert found.measures["a"] != found.measures["held_out"]["a"]


def test_small_files_hold_nothing_out_and_one_line_says_so(
    edgewise: Any, models: Any, variant: str, pairs: Path
) -> None:
    line = ["transplant", models["llama"], variant, "--task", pairs]
    printed = edgewise(*line, "--greedy", 1).stdout
    said = [text for text in printed.splitlines() if "held out" in text]
    assert said == ["held out   in sample only: nothing is held out: 6 pairs are fewer than 64"]
    assert "undefined: the gain is" in printed and "two standard errors are" in printed
    assert "undefined" in printed.split("single nodes")[1]
    document = json.loads(edgewise(*line, "--greedy", 1, "--json").stdout)
    assert document["measures"]["undefined"] is True
    assert document["measures"]["in_sample"]["carried"] is None
    assert {row[2] for row in document["in_sample"]["singles"]} == {None}
    assert "held_out" not in document and "held_out" not in document["measures"]


def test_too_many_are_asked_for(models: Any, variant: str, pairs: Path) -> None:
    with pytest.raises(PromptError, match=r"6 pairs, too few for 6 test pairs"):
        transplant(str(models["llama"]), variant, str(pairs), Choice(nodes=("m1",)), test=6)


# -- the file -----------------------------------------------------------------------------------


def test_older_files_stay_as_they_are(tmp_path: Path) -> None:
    file = read_transplant(STORED / "transplant.json")
    assert file.in_sample is None and file.held_out is None and file.measured_on == "in_sample"
    write_transplant(tmp_path / "again.json", file)
    assert json.loads((tmp_path / "again.json").read_text()) == json.loads(
        (STORED / "transplant.json").read_text()
    )


@pytest.fixture
def written(edgewise: Any, models: Any, variant: str, many: Path) -> Path:
    line = ["transplant", models["llama"], variant, "--task", many, "--metric", "kl"]
    edgewise(*line, "--greedy", 1, "--examples", 8, "-o", "t.json")
    return Path("t.json")


def test_rankings_are_read_as_they_were_written(written: Path) -> None:
    file = read_transplant(written)
    write_transplant("again.json", file)
    assert Path("again.json").read_bytes() == written.read_bytes()
    assert '\n      ["m1", ' in written.read_text()  # a row is a line


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x["held_out"]["singles"].pop(), r"held_out\.singles lists other nodes"),
        (lambda x: x["held_out"]["singles"].reverse(), "or in another order"),
        (lambda x: x["in_sample"].pop("greedy"), r"in_sample\.greedy is no list; accepted: \[\[no"),
        (lambda x: x["in_sample"]["greedy"][0].pop(), r"\[node, value, carried, low, high\]"),
        (lambda x: x.update(held_out=3), "held_out"),
        (lambda x: x["held_out"]["greedy"][0].__setitem__(4, "x"), "low and high must be numbers"),
        (lambda x: x["measures"]["held_out"].update(interval=[1.0]), r"two numbers, \[low, high\]"),
        (lambda x: x["measures"]["held_out"].pop("b"), r"missing: measures\.held_out\.b"),
    ],
)
def test_damaged_rankings_are_refused(written: Path, change: Any, message: str) -> None:
    document = json.loads(written.read_text())
    change(document)
    written.write_text(json.dumps(document))
    with pytest.raises(FileFormatError, match=message):
        read_transplant(written)
