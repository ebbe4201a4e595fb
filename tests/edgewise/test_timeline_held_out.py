"""Timelines measured on prompts that no circuit was found on, with intervals and controls."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgewise.discovery.evaluation import measure
from edgewise.experiment.spec import ComparisonSpec, Selection
from edgewise.experiment.task import TaskSpec
from edgewise.graphs.errors import FileFormatError, PromptError
from edgewise.graphs.files import TimelineFile, read_timeline, write_timeline
from edgewise.patching.prompts.pairs import Pair, PromptPairs
from edgewise.patching.prompts.splits import PromptSplit
from edgewise.session import make_runner, open_model, open_split
from edgewise.steps import timeline as checkpoints
from edgewise.steps.discover import held_out_runner
from edgewise.steps.same_prompts import split_difference
from edgewise.steps.timeline import timeline
from edgewise.store.results import Results
from edgewise.visualize.charts.timeline import make_timeline_scene, measured_lines, measured_words
from tests.edgewise.conftest import Run, id_rows, tiny

ROOT = Path(__file__).resolve().parents[2]
INDUCTION, STORED = ROOT / "examples" / "induction", ROOT / "tests" / "data" / "version1"
TOP = {"method": "eap-ig", "options": {"steps": 2}, "select": Selection(top=9)}
MODELS = [str(INDUCTION / "checkpoints" / f"checkpoint-{step}") for step in (100, 200, 1000)]
PAIRS = str(INDUCTION / "pairs.jsonl")


@pytest.fixture(scope="module")
def story() -> TimelineFile:
    """Follow induction from before it is there, on half of the pairs; the others are held out."""
    return timeline(
        MODELS, TaskSpec(file=PAIRS, test=24), method="eap-ig", select=Selection(above=0.4),
        measure=["accuracy"],
    )  # fmt: skip


def test_each_side_is_what_its_pairs_measure(story: TimelineFile) -> None:
    assert story.sides == ("held_out", "in_sample")
    session = open_model(MODELS[1])
    parted = open_split(session, PAIRS, test=24)
    assert parted.test is not None
    runner = make_runner(session, parted.discovery)
    runners = {"in_sample": runner, "held_out": held_out_runner(session, parted, runner)}
    for side, one in runners.items():
        found, told = (
            measure(one, story.timeline.circuits[1]),
            story.measured("logit_diff", side)[1],
        )
        assert told is not None and told["examples"] == 24
        assert told["faithfulness"] == pytest.approx(found.faithfulness, rel=1e-5)
        estimate = found.estimate("faithfulness")
        assert told["interval"] == pytest.approx(estimate.interval, rel=1e-4)
        for key in ("full", "circuit", "empty"):
            assert told[key] == pytest.approx(getattr(found, f"value_{key}"), rel=1e-5)
            assert told["intervals"][key] == pytest.approx(found.estimate(key).interval, rel=1e-4)
    own = story.measured("logit_diff", "in_sample")[1]
    flat = {key: story.values("logit_diff", key)[1] for key in ("full", "circuit", "empty")}
    assert own is not None and flat == {key: own[key] for key in flat}
    assert story.task["sha256"] == parted.discovery.sha256
    assert story.task["test"]["sha256"] == parted.test.sha256
    accuracy = story.measured("accuracy", "held_out")[2]
    assert accuracy is not None and accuracy["faithfulness"] == 1.0
    assert accuracy["interval"] == pytest.approx((1.0, 1.0))


def test_before_there_is_a_behaviour_faithfulness_is_undefined(story: TimelineFile) -> None:
    for side in story.sides:
        told = story.measured("logit_diff", side)[0]
        assert told is not None and told["faithfulness"] is None and told["interval"] is None
        assert told["intervals"]["full"] is not None
    assert story.values("logit_diff", "faithfulness")[0] is not None  # the older key: a ratio


def test_births_and_deaths_are_tested_on_what_is_held_out(story: TimelineFile) -> None:
    for one in story.comparisons:
        assert one.held_out and one.sha256 == story.task["test"]["sha256"]
        assert one.examples == 24
        assert (one.controls.other_prompts, one.controls.rounded_weights) == (0, 0)
    assert len(story.compared(1).changed("only_b")) >= 4  # type: ignore[union-attr]


def test_edges_are_not_tested_on_a_handful_of_held_out_pairs(models: Any, tmp_path: Path) -> None:
    """As in a diff: of 20 pairs four that are held out show next to nothing; the others count."""
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in id_rows(24)))
    two = [str(models["llama"]), str(models["tuned"])]
    found = timeline(two, TaskSpec(file=str(path), test=4), **TOP)
    (one,) = found.comparisons
    assert (one.examples, one.held_out, one.sha256) == (20, False, found.task["sha256"])
    told = found.measured("logit_diff", "held_out")[0]
    assert told is not None and told["examples"] == 4  # which are measured on all the same


def test_without_a_control_or_held_out_pairs(story: TimelineFile) -> None:
    plain = timeline(
        MODELS[1:], TaskSpec(file=PAIRS, test=0), method="eap-ig", select=Selection(above=0.4),
        controls=False,
    )  # fmt: skip
    assert plain.sides == ("in_sample",)
    assert "test" not in plain.task and "nothing_held_out" not in plain.task
    (one,) = plain.comparisons
    assert not one.held_out and one.sha256 == plain.task["sha256"]
    assert one.controls.other_prompts is None and one.controls.rounded_weights is None
    assert ComparisonSpec().controls  # so that they are looked at if nothing is said


def test_a_rounded_checkpoint_is_scored_in_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control is looked at for every checkpoint but the first, and the models stay theirs."""
    asked: list[bool] = []
    real = checkpoints.score_model

    def noted(session: Any, *given: Any, rounded: bool, **named: Any) -> Any:
        before = session.loaded.weights_sha256
        found = real(session, *given, rounded=rounded, **named)
        session.loaded._hashed.clear()
        assert session.loaded.weights_sha256 == before
        asked.append(rounded)
        assert (found.rounded is not None) is rounded
        return found

    monkeypatch.setattr(checkpoints, "score_model", noted)
    timeline(
        MODELS, TaskSpec(file=PAIRS, test=8, examples=8), method="eap", select=Selection(top=5)
    )
    assert asked == [False, True, True]


def test_other_held_out_pairs_are_asked_anew(
    models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, results = tmp_path / "many.jsonl", Results(tmp_path / "kept")
    path.write_text("".join(json.dumps(row) + "\n" for row in id_rows(40)))
    two = [str(models["llama"]), str(models["tuned"])]

    def follow(**task: Any) -> TimelineFile:
        return timeline(two, TaskSpec(file=str(path), **task), results=results, **TOP)

    first = follow(test=12, examples=12)
    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "open_model", lambda *_, **__: pytest.fail("model opened"))
        again = follow(test=12, examples=12)
    assert again.checkpoints == first.checkpoints and again.comparisons == first.comparisons
    other = follow(test=13, examples=12)
    told = other.measured("logit_diff", "held_out")[0]
    assert told is not None and told["examples"] == 13


def test_a_split_is_compared_on_both_sides() -> None:
    pairs = [Pair((1, n), (2, n), (3,)) for n in range(4)]
    make = lambda *places: PromptPairs(tuple(pairs[i] for i in places))  # noqa: E731
    whole = PromptSplit(make(0), make(1, 2))
    assert split_difference(whole, lambda: PromptSplit(make(0), make(1, 2))) is None
    assert split_difference(PromptSplit(make(0)), lambda: PromptSplit(make(0))) is None
    found = split_difference(whole, lambda: PromptSplit(make(3), make(1, 2)))
    assert found == "clean of pair 1 has token 0 and 3 at place 2"
    found = split_difference(whole, lambda: PromptSplit(make(0), make(1, 3)))
    assert found == "held out, clean of pair 2 has token 2 and 3 at place 2"
    found = split_difference(whole, lambda: PromptSplit(make(0)))
    assert found == "pairs are held out for one of them only"


# -- what is printed and drawn ------------------------------------------------------------------


def test_the_command_tells_held_out_figures_first(edgewise: Run, tmp_path: Path) -> None:
    asked = ("timeline", *MODELS, "--task", PAIRS, "--method", "eap-ig", "--above", 0.4,
             "--no-cache")  # fmt: skip
    shown = edgewise(*asked, "--test", 24, "-o", "line.json").stdout
    file = read_timeline("line.json")
    assert "held out: 24 of 48 pairs" in shown and "in sample only" not in shown
    assert "what it does, on 24 pairs that are held out" in shown
    own, held = (file.measured("logit_diff", side)[1] for side in ("in_sample", "held_out"))
    assert own is not None and held is not None
    low, high = held["interval"] or (0, 0)
    ends = f"{held['faithfulness']:.3f} [{low:.2f}, {high:.2f}] {own['faithfulness']:.3f}"
    rows = [" ".join(text.split()) for text in shown.splitlines()]
    assert any(row.startswith("200 ") and row.endswith(ends) for row in rows)
    assert any(row.startswith("100 ") and row.endswith("undefined undefined") for row in rows)
    assert "rounded weights" in shown and "on 24 held-out prompts" in shown
    write_timeline("again.json", file)
    assert Path("again.json").read_bytes() == Path("line.json").read_bytes()
    edgewise("draw", "line.json", "-o", "line.svg", "--layout", "built-in")
    drawn = Path("line.svg").read_text()
    assert "Measured on 24 prompt pairs, held out" in drawn
    assert "faithfulness undefined" in drawn and f"[{low:.2f}, {high:.2f}]" in drawn
    plain = edgewise(*asked).stdout
    said = [row for row in plain.splitlines() if "held out" in row]
    assert said == ["held out  in sample only: nothing is held out: 48 pairs are fewer than 64"]
    refused = edgewise(*asked, "--test", 48, status=1).stderr
    assert "48 pairs, too few for 48 test pairs" in refused


def test_bars_stand_at_the_dots_they_are_of(story: TimelineFile) -> None:
    lines = measured_lines(story)
    assert measured_words(story) == (
        " Measured on 24 prompt pairs, held out; bars are 95% intervals."
    )
    for line, key in zip(lines, ("full", "circuit", "empty"), strict=True):
        told = [one for one in story.measured("logit_diff", "held_out") if one is not None]
        assert line.values == [one[key] for one in told]  # type: ignore[literal-required]
        assert line.intervals == [one["intervals"][key] for one in told]
    found = make_timeline_scene(story.timeline, curves=lines, layout="built-in")
    dots = [mark for mark in found.nodes if not mark.name]
    bars = [mark for mark in found.edges if not mark.name and mark.opacity == 0.6]
    assert len(dots) == len(bars) == 9
    for dot, bar in zip(dots, bars, strict=True):
        (x, y), (again, end) = bar.path[0][1][:2], bar.path[1][1][-2:]
        assert x == again == dot.x and min(y, end) <= dot.y <= max(y, end)


# -- older and damaged files --------------------------------------------------------------------


def test_older_files_have_no_sides_and_are_drawn() -> None:
    file = read_timeline(STORED / "timeline.json")
    assert file.sides == () and measured_words(file) == ""
    assert [line.values for line in measured_lines(file)] == [
        file.values("logit_diff", key) for key in ("full", "circuit", "empty")
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.update(interval=[0.5]), r"interval is \[0\.5\]; accepted: two numbers"),
        (lambda x: x.pop("examples"), r"missing: .*held_out\.examples"),
        (lambda x: x.update(full="x"), r"full is 'x'; accepted: a number"),
        (lambda x: x["intervals"].update(full=3), "full is 3; accepted: a list"),
    ],
)
def test_damaged_sides_are_refused(
    story: TimelineFile, tmp_path: Path, change: Any, message: str
) -> None:
    path = tmp_path / "line.json"
    write_timeline(path, story)
    document = json.loads(path.read_text())
    change(document["checkpoints"][1]["measures"]["logit_diff"]["held_out"])
    path.write_text(json.dumps(document))
    with pytest.raises(FileFormatError, match=message):
        read_timeline(path)


def test_too_many_are_asked_for() -> None:
    with pytest.raises(PromptError, match="48 pairs, too few for 40 test pairs beside 10"):
        timeline(MODELS, TaskSpec(file=PAIRS, test=40, examples=10), **TOP)


def test_a_checkpoint_with_one_pair_has_no_interval(models: Any, tmp_path: Path) -> None:
    path = tmp_path / "two.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in id_rows(2)))
    tiny("gpt2").save_pretrained(tmp_path / "a")
    tiny("gpt2", seed=1).save_pretrained(tmp_path / "b")
    two = [str(tmp_path / "a"), str(tmp_path / "b")]
    found = timeline(two, TaskSpec(file=str(path), test=1), **TOP)
    told = found.measured("logit_diff", "held_out")[0]
    assert told is not None and told["examples"] == 1
    assert told["faithfulness"] is not None and told["interval"] is None
    assert found.comparisons == ()  # one pair tests nothing
