"""Running specs: everything is there, nothing is done twice, and what stops leaves whole files."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgewise.experiment.document import parse_spec, read_spec
from edgewise.experiment.key import digest
from edgewise.experiment.spec import Experiment
from edgewise.graphs.circuit import Circuit
from edgewise.graphs.errors import EdgewiseError, GraphMismatch, PromptError, SpecError
from edgewise.graphs.files import read_circuit, read_diff, read_scores
from edgewise.patching.prompts.pairs import Pair
from edgewise.run import RunResult, run, run_spec
from edgewise.steps.same_prompts import first_difference
from edgewise.store.hashes import file_sha256, fingerprint
from edgewise.store.store import Store
from edgewise.visualize.pictures import share_out

STEPS = (
    "prompts",
    "circuit of base",
    "evaluation of base",
    "scores of base by example",
    "circuit of tuned",
    "evaluation of tuned",
    "scores of tuned by example",
    "diff of base and tuned",
    "images of base",
    "images of tuned",
    "images of base_vs_tuned",
    "heat map of base_vs_tuned",
    "report",
)
Make = Callable[..., Experiment]


@pytest.fixture
def spec(models: dict[str, Path], pairs: Path) -> Experiment:
    """Declare a small experiment: two random models of one shape on pairs of token ids."""
    return parse_spec(
        f"""
        [[models]]
        source = "{models["llama"]}"
        name = "base"
        [[models]]
        source = "{models["tuned"]}"
        name = "tuned"
        [task]
        file = "{pairs}"
        [discovery]
        method = "eap-ig"
        steps = 2
        top = 40
        [evaluation]
        metrics = ["logit_diff", "kl"]
        [drawing]
        formats = ["svg", "dot"]
        top = 20
        layout = "built-in"
        """
    )


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Read every file with its time."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@contextmanager
def no_model(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail if a model is opened."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a model was loaded")

    with monkeypatch.context() as patched:
        patched.setattr("edgewise.run.open_model", refuse)
        yield


def without_times(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text())
    for key in ("seconds", "forward_equivalents"):
        del document["discovery"][key]
    return document


# -- what there is ------------------------------------------------------------------------------


def test_a_run_makes_everything_that_is_declared(spec: Experiment, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    result = run(spec, out)
    assert result.made == STEPS
    assert result.kept == ()
    assert sorted(contents(out)) == sorted(
        ["circuits/base.json", "circuits/base.scores.safetensors", "circuits/tuned.json",
         "circuits/tuned.scores.safetensors", "diffs/base_vs_tuned.json", "evaluation.json",
         "examples/base.safetensors", "examples/tuned.safetensors",
         *(f"images/{name}.{kind}" for name in ("base", "tuned", "base_vs_tuned")
           for kind in ("dot", "svg")),
         "images/heat-maps/base_vs_tuned.svg",
         "prompts.jsonl", "report.html", "report.md", "run.json", "spec.toml", "task.json"]
    )  # fmt: skip
    assert result.report == out / "report.md"
    assert result.circuits == {name: out / f"circuits/{name}.json" for name in ("base", "tuned")}
    assert result.diffs == {"tuned": out / "diffs/base_vs_tuned.json"}
    assert result.page == out / "report.html"
    assert [path.is_file() for path in result.images] == [True] * 7
    assert json.loads(json.dumps(result.as_dict()))["diffs"]["tuned"].endswith("tuned.json")


def test_what_is_written_is_what_was_found(spec: Experiment, tmp_path: Path) -> None:
    result = run(spec, tmp_path / "out")
    files = {name: read_circuit(path) for name, path in result.circuits.items()}
    evaluation = json.loads(result.evaluation.read_text())["models"]
    for name, file in files.items():
        scores = read_scores(result.circuits[name]).scores
        assert file.circuit == scores.top(40)
        measured = evaluation[name]["metrics"]
        assert [found["metric"] for found in measured] == ["logit_diff", "kl"]
        assert measured[0]["faithfulness"] == pytest.approx(file.measures["faithfulness"], abs=1e-5)
        assert measured[1]["value_full"] == pytest.approx(0, abs=1e-5)
        assert measured[0]["edges"] == len(file.circuit) == 40
    diff = read_diff(result.diffs["tuned"]).diff
    assert (diff.a, diff.b) == (files["base"].circuit, files["tuned"].circuit)
    assert diff.a != diff.b
    hashes = {file.task["sha256"] for file in files.values()}
    assert hashes == {json.loads((result.output / "task.json").read_text())["sha256"]}


def test_a_run_agrees_with_the_functions_it_is_made_of(
    spec: Experiment, models: dict[str, Path], pairs: Path, tmp_path: Path
) -> None:
    from edgewise.workflow import Selection, discover, open_model, open_task

    result = run(spec, tmp_path / "out")
    session = open_model(models["tuned"])
    prompts, _ = open_task(session, str(pairs))
    found = discover(
        session, prompts, method="eap-ig", options={"steps": 2}, select=Selection(top=40)
    )
    assert read_circuit(result.circuits["tuned"]).circuit == found.file.circuit


def test_the_copied_spec_declares_the_same_and_its_paths_hold(
    spec: Experiment, tmp_path: Path
) -> None:
    result = run(spec, tmp_path / "out")
    copy = read_spec(result.output / "spec.toml")
    assert "/../" in copy.base.source
    assert replace(copy, models=spec.models, task=spec.task, name=spec.name) == spec
    again = run(copy, tmp_path / "again")
    for name, path in result.circuits.items():
        a, b = without_times(path), without_times(again.circuits[name])
        del a["model"]["name"], b["model"]["name"], a["task"]["file"], b["task"]["file"]
        assert a == b


def test_two_runs_agree_but_for_measured_times(spec: Experiment, tmp_path: Path) -> None:
    one, two = run(spec, tmp_path / "one"), run(spec, tmp_path / "two")
    for name in ("base", "tuned"):
        assert without_times(one.circuits[name]) == without_times(two.circuits[name])
    left, right = contents(one.output), contents(two.output)
    equal = [name for name in left if left[name][1] == right[name][1]]
    timed = {"circuits/base.json", "circuits/tuned.json", "report.md", "report.html", "run.json"}
    timed |= {"diffs/base_vs_tuned.json"}
    assert set(left) - set(equal) <= timed


def test_one_model_needs_no_diff(spec: Experiment, tmp_path: Path) -> None:
    alone = replace(spec, models=spec.models[:1], drawing=replace(spec.drawing, formats=()))
    result = run(alone, tmp_path / "out")
    assert result.made == ("prompts", "circuit of base", "evaluation of base", "report")
    assert (result.diffs, result.images) == ({}, ())


def test_one_model_has_a_heat_map_and_three_have_overlaps(
    spec: Experiment, tmp_path: Path, models: dict[str, Path]
) -> None:
    plain = replace(spec.drawing, formats=("svg",))
    one = run(replace(spec, models=spec.models[:1], drawing=plain), tmp_path / "one")
    assert one.images[-1] == one.output / "images/heat-maps/base.svg"
    third = replace(spec.models[1], name="third")
    three = run(replace(spec, models=(*spec.models, third), drawing=plain), tmp_path / "three")
    assert [path.relative_to(three.output).as_posix() for path in three.images[-3:]] == [
        "images/heat-maps/base_vs_tuned.svg", "images/heat-maps/base_vs_third.svg",
        "images/overlaps/circuits.svg",
    ]  # fmt: skip
    assert all(path.is_file() for path in three.images)
    assert "tuned and third  Jaccard 1  corrected 1" in three.images[-1].read_text()
    assert "(images/overlaps/circuits.svg)" in three.report.read_text()
    none = replace(spec, drawing=replace(plain, heat_map=False, overlap=False))
    assert len(run(replace(none, models=(*spec.models, third)), tmp_path / "three").images) == 5


def test_a_curve_and_a_searching_method(spec: Experiment, tmp_path: Path) -> None:
    curved = replace(spec, evaluation=replace(spec.evaluation, curve=True), models=spec.models[:1])
    result = run(curved, tmp_path / "curved")
    curve = json.loads(result.evaluation.read_text())["models"]["base"]["curve"]
    assert len(curve["sizes"]) == len(curve["faithfulness"]) == 10
    found = parse_spec(
        f'[[models]]\nsource = "{spec.base.source}"\nname = "base"\n'
        f'[task]\nfile = "{spec.task.file}"\n[discovery]\nmethod = "acdc"\nthreshold = 0.01\n'
    )
    searched = run(found, tmp_path / "searched")
    file = read_circuit(searched.circuits["base"])
    assert 0 < len(file.circuit) < file.circuit.graph.edge_count
    assert "rise of the loss" in searched.report.read_text()


def test_built_in_tasks_and_progress(models: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "spec.toml"
    file.write_text(
        f'[[models]]\nsource = "{models["gpt2"]}"\n'
        '[task]\nname = "induction"\nexamples = 5\nperiod = 5\nrepeat = 2\n'
        '[discovery]\nmethod = "eap"\nfaithfulness = 0.5\n[drawing]\nformats = []\n'
    )
    told: list[str] = []
    result = run_spec(file, tmp_path / "out", lambda done, total, what: told.append(what))
    task = json.loads((tmp_path / "out" / "task.json").read_text())
    assert (task["name"], task["examples"], task["seed"]) == ("induction", 5, 0)
    assert task["origin"]["options"]["period"] == 5
    assert read_circuit(result.circuits["gpt2"]).measures["faithfulness"] >= 0.5
    assert any(what.startswith("gpt2: gradients taken") for what in told)


# -- nothing twice ------------------------------------------------------------------------------


def test_a_second_run_does_nothing(
    spec: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(spec, tmp_path / "out")
    before = contents(tmp_path / "out")
    with no_model(monkeypatch):
        again = run(spec, tmp_path / "out")
    assert again.made == ()
    assert again.kept == STEPS
    assert contents(tmp_path / "out") == before


def changed(spec: Experiment, what: str) -> Experiment:
    if what == "description":
        return replace(spec, description="new words")
    if what == "drawing":
        return replace(spec, drawing=replace(spec.drawing, top=10))
    if what == "metrics":
        return replace(spec, evaluation=replace(spec.evaluation, metrics=("nll",)))
    if what == "steps":
        options = {**spec.discovery.options, "steps": 3}
        return replace(spec, discovery=replace(spec.discovery, options=options))
    return replace(spec, task=replace(spec.task, examples=4))


@pytest.mark.parametrize(
    ("what", "kept"),
    [
        ("description", STEPS[:-1]),
        ("drawing", (*STEPS[:8], "heat map of base_vs_tuned")),
        ("metrics", tuple(s for s in STEPS[:-1] if not s.startswith("evaluation"))),
        ("steps", ("prompts",)),
        ("examples", ()),
    ],
)
def test_a_change_redoes_only_what_depends_on_it(
    spec: Experiment,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    kept: tuple[str, ...],
) -> None:
    run(spec, tmp_path / "out")
    if what in ("description", "drawing"):
        with no_model(monkeypatch):
            again = run(changed(spec, what), tmp_path / "out")
    else:
        again = run(changed(spec, what), tmp_path / "out")
    assert again.kept == kept
    held_out = {"held-out prompts"} if what == "examples" else set()  # those that 4 examples leave
    assert set(again.made) | set(again.kept) == {*STEPS, *held_out}


def test_one_more_variant_redoes_no_other(
    spec: Experiment, tmp_path: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    fewer = replace(spec, models=spec.models[:1])
    run(fewer, tmp_path / "out")
    more = run(spec, tmp_path / "out")
    assert {"prompts", "circuit of base", "evaluation of base", "images of base"} == set(more.kept)
    with no_model(monkeypatch):
        back = run(fewer, tmp_path / "out")
    assert back.made == ("report",)
    assert list(json.loads(back.evaluation.read_text())["models"]) == ["base"]


def test_changed_weights_and_changed_pairs_count(
    spec: Experiment, tmp_path: Path, models: dict[str, Path]
) -> None:
    import shutil

    own = tmp_path / "own"
    shutil.copytree(models["tuned"], own)
    mine = replace(spec, models=(spec.models[0], replace(spec.models[1], source=str(own))))
    run(mine, tmp_path / "out")
    shutil.copy(models["llama"] / "model.safetensors", own / "model.safetensors")
    again = run(mine, tmp_path / "out")
    assert again.kept == (*STEPS[:4], "images of base")
    diff = read_diff(again.diffs["tuned"]).diff
    assert diff.a == diff.b
    file = Path(spec.task.file or "")
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:3]))
    assert run(mine, tmp_path / "out").kept == ()


@pytest.mark.parametrize(
    ("name", "redone"),
    [
        ("circuits/tuned.scores.safetensors", {"circuit of tuned"}),
        ("images/base.svg", {"images of base"}),
        ("evaluation.json", {"evaluation of base", "evaluation of tuned"}),
        ("images/heat-maps/base_vs_tuned.svg", {"heat map of base_vs_tuned"}),
        ("report.md", {"report"}),
        ("report.html", {"report"}),
        ("run.json", set(STEPS)),
    ],
)
@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_file_that_is_gone_or_damaged_is_made_again(
    spec: Experiment, tmp_path: Path, name: str, redone: set[str], damage: str
) -> None:
    run(spec, tmp_path / "out")
    whole = (tmp_path / "out" / name).read_bytes()
    if damage == "gone" and name != "run.json":
        (tmp_path / "out" / name).unlink()
    else:
        (tmp_path / "out" / name).write_bytes(whole[: len(whole) // 2])
    again = run(spec, tmp_path / "out")
    assert redone <= set(again.made)
    assert "prompts" in again.kept or name == "run.json"
    with_times = ("run.json", "report.md")
    assert name in with_times or (tmp_path / "out" / name).read_bytes() == whole


KILLED = """
import os, signal, sys
from edgewise.run import run_spec
sync, calls = os.fsync, 0
def killed(descriptor):
    global calls
    calls += 1
    if calls == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    sync(descriptor)
os.fsync = killed
run_spec(sys.argv[1], sys.argv[2])
"""
"""A run that is killed while it writes so many files, that one half written."""


@pytest.mark.skipif(os.name != "posix", reason="kills by signal")
def test_a_run_that_was_killed_goes_on_and_ends_as_if_it_was_not(
    spec: Experiment, tmp_path: Path
) -> None:
    """What is sealed stays, and nothing half written is left."""
    (tmp_path / "spec.toml").write_text(spec.to_toml())
    out = tmp_path / "out"
    program = [sys.executable, "-c", KILLED, tmp_path / "spec.toml", out, "12"]
    assert subprocess.run(program, check=False).returncode == -signal.SIGKILL
    assert len(list(out.rglob(".edgewise-*"))) == 1
    sealed = len(json.loads((out / "run.json").read_text())["steps"])
    assert 0 < sealed < len(STEPS)
    before = contents(out)
    found = run_spec(tmp_path / "spec.toml", out)
    assert found.kept == STEPS[:sealed]
    assert found.made == STEPS[sealed:]
    whole = run_spec(tmp_path / "spec.toml", tmp_path / "whole")
    after, expected = contents(out), contents(whole.output)
    assert list(after) == list(expected), "nothing else is left"
    assert after["prompts.jsonl"] == before["prompts.jsonl"]
    timed = [name for name in after if after[name][1] != expected[name][1]]
    for name in timed:
        assert untimed(out / name) == untimed(whole.output / name)


def untimed(path: Path) -> object:
    """Read a file of a run without what depends on measured seconds."""
    text = re.sub(r'"(seconds|forward_equivalents)": [^,}\n]+|"[0-9a-f]{64}"', "", path.read_text())
    return re.sub(r"[\d.]+ s \| [\d.]+ \||<td class=\"right\">[\d.]+( s)?</td>", "", text)


def test_a_flipped_bit_in_any_file_is_noticed_or_makes_no_difference(
    spec: Experiment, tmp_path: Path
) -> None:
    small = spec.but(models=spec.models[:1], drawing=spec.drawing.but(formats=("svg",), top=5))
    out = tmp_path / "out"

    def meaning(name: str) -> object:
        path = out / name
        if name.startswith("circuits/") and name.endswith(".json"):
            return without_times(path)
        if name == "run.json":  # times are in its hashes
            return list(json.loads(path.read_text())["steps"])
        return len(name) if name.startswith("report.") else path.read_bytes()  # and in reports

    run(small, out)
    names = sorted(contents(out))
    assert len(names) == 11
    expected = {name: meaning(name) for name in names}
    for number, name in enumerate(names):
        whole = (out / name).read_bytes()
        i = int((0.3 + number / 30) * len(whole))
        flipped = whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :]
        (out / name).write_bytes(flipped)
        run(small, out)
        assert {name: meaning(name) for name in names} == expected, (name, i)
        assert (out / name).read_bytes() != flipped


# -- interrupted --------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["tuned: circuits measured", "images drawn, at images/tuned"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, EdgewiseError])
def test_an_interrupted_run_leaves_whole_files_and_goes_on(
    spec: Experiment, tmp_path: Path, at: str, error: type[BaseException]
) -> None:
    def stop(done: int, total: int, what: str) -> None:
        if what.startswith(at):
            raise error("stopped")

    with pytest.raises(error):
        run(spec, tmp_path / "out", stop)
    left = contents(tmp_path / "out")
    assert not [name for name in left if Path(name).name.startswith(".")]
    for name in left:
        if name.startswith("circuits/") and name.endswith(".json"):
            read_circuit(tmp_path / "out" / name)
            read_scores(tmp_path / "out" / name)
        elif name.endswith(".json"):
            json.loads((tmp_path / "out" / name).read_text())
    again = run(spec, tmp_path / "out")
    expected = STEPS[: 5 if "tuned:" in at else 9]
    assert again.kept == expected
    whole = contents(tmp_path / "out")
    assert all(whole[name] == left[name] for name in left if name.startswith("circuits/"))


# -- refusals -----------------------------------------------------------------------------------


def test_a_stopped_walk_goes_on_from_its_journal(
    spec: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgewise.store.journal import JournalFile

    found = parse_spec(
        f'[[models]]\nsource = "{spec.base.source}"\nname = "base"\n'
        f'[task]\nfile = "{spec.task.file}"\n[discovery]\nmethod = "acdc"\nthreshold = 0.05\n'
    )
    steps: list[str] = []
    append = JournalFile.append

    def stop(self: JournalFile, entry: Any) -> None:
        append(self, entry)
        steps.append(entry.step)
        if len(steps) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(JournalFile, "append", stop)
    with pytest.raises(KeyboardInterrupt):
        run(found, tmp_path / "stopped")
    journal = tmp_path / "stopped" / "circuits" / "base.journal.jsonl"
    assert len(journal.read_text().splitlines()) == 4
    continued = run(found, tmp_path / "stopped").circuits["base"]
    assert len(steps) == len(set(steps)) > 3
    assert not journal.exists()
    whole = run(found, tmp_path / "whole").circuits["base"]
    assert without_times(continued) == without_times(whole)


def test_a_directory_that_no_run_made_is_left_alone(spec: Experiment, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "report.md").write_text("precious")
    with pytest.raises(SpecError, match=r"holds a file that no run made \(report.md\)"):
        run(spec, tmp_path / "mine")
    assert (tmp_path / "mine" / "report.md").read_text() == "precious"
    with pytest.raises(SpecError, match="is a file; give a directory"):
        run(spec, tmp_path / "mine" / "report.md")
    with pytest.raises(EdgewiseError, match=r"cannot be used: .*choose a place"):
        run(spec, tmp_path / "mine" / "report.md" / "below")


def test_a_spec_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.toml").write_text("[task]\nname = 'ioy'\n")
    with no_model(monkeypatch), pytest.raises(SpecError):
        run_spec(tmp_path / "x.toml", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_variant_of_another_shape_is_refused(
    spec: Experiment, tmp_path: Path, models: dict[str, Path]
) -> None:
    other = replace(spec.models[1], source=str(models["deeper"]))
    with pytest.raises(GraphMismatch, match=r"'tuned' cannot be compared with 'base'.*layers 2"):
        run(replace(spec, models=(spec.models[0], other)), tmp_path / "out")
    assert (tmp_path / "out" / "circuits" / "base.json").is_file()


def test_a_metric_the_pairs_cannot_serve_is_refused_before_the_search(
    spec: Experiment, tmp_path: Path
) -> None:
    file = Path(spec.task.file or "")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps({**r, "distractor_ids": []}) + "\n" for r in rows))
    asked = replace(spec.discovery, metric="nll")
    with pytest.raises(PromptError, match="has no distractor"):
        run(replace(spec, discovery=asked), tmp_path / "out")
    assert not (tmp_path / "out" / "circuits" / "base.json").exists()


def test_a_variant_whose_tokenizer_reads_otherwise_is_refused(
    tmp_path: Path, models: dict[str, Path]
) -> None:
    import shutil

    words, other = tmp_path / "words", tmp_path / "other"
    for path in (words, other):
        shutil.copytree(models["words"], path)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    row = {"clean": "c a d", "corrupted": "c e d", "answers": ["f"], "distractors": ["g"]}
    (tmp_path / "text.jsonl").write_text(json.dumps(row))
    text = """
        [[models]]
        source = "words"
        [[models]]
        source = "other"
        [task]
        file = "text.jsonl"
        [discovery]
        method = "eap"
        top = 5
        [drawing]
        formats = []
        """
    spec = parse_spec(text, folder=tmp_path)
    with pytest.raises(PromptError, match="clean of pair 1 has token 1 and 2 at place 2"):
        run(spec, tmp_path / "out")
    run(
        parse_spec(text.replace('"other"', '"words"\nname = "w2"'), folder=tmp_path), tmp_path / "2"
    )
    sample = json.loads((tmp_path / "2" / "task.json").read_text())["sample"]
    assert sample["clean"] == "c a d"


# -- parts --------------------------------------------------------------------------------------


def test_first_difference() -> None:
    pair = Pair((1, 2, 3), (1, 5, 3), (4,), (5,))
    assert first_difference([pair], [pair]) is None
    assert first_difference([pair], [pair, pair]) == "there are 1 and 2 pairs"
    longer = Pair((1, 2, 3, 3), (1, 5, 3, 3), (4,), (5,))
    assert first_difference([pair], [longer]) == "clean of pair 1 has 3 and 4 tokens"
    moved = replace(pair, answer_position=0)
    assert first_difference([pair], [moved]) == "the answer of pair 1 stands at position 2 and 0"


def test_a_store_forgets_nothing_and_trusts_no_changed_file(tmp_path: Path) -> None:
    def get(inputs: dict[str, object], text: str = "one") -> bool:
        with Store(tmp_path / "out") as store:
            file = store.path("x/y.txt")
            return store.get("step", digest(inputs), ["x/y.txt"], lambda: file.write_text(text))

    assert get({"a": 1})
    assert not get({"a": 1})
    (tmp_path / "out" / "x" / "y.txt").write_text("two")
    assert get({"a": 1})
    assert get({"a": 2})
    assert get({"a": 1})


def test_fingerprints_follow_content(models: dict[str, Path], tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(models["llama"], copy)
    before = fingerprint(str(copy))
    assert before == fingerprint(str(models["llama"]))
    assert before != fingerprint(str(models["tuned"]))
    config, weights = (file_sha256(copy / f) for f in ("config.json", "model.safetensors"))
    assert before[0] == "files"
    assert {f"config.json {config}", f"model.safetensors {weights}"} <= set(before)
    (copy / "README.md").write_text("what nothing depends on")
    assert fingerprint(str(copy)) == before
    (copy / "added.json").write_text("{}")
    added = f"added.json {hashlib.sha256(b'{}').hexdigest()}"
    assert sorted(fingerprint(str(copy))) == sorted([*before, added])


def test_an_adapters_fingerprint_follows_its_base(models: dict[str, Path], tmp_path: Path) -> None:
    import shutil

    base, adapter = tmp_path / "base", tmp_path / "adapter"
    shutil.copytree(models["llama"], base)
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    (adapter / "adapter_model.safetensors").write_bytes(b"")
    before = fingerprint(str(adapter))
    assert before[-len(fingerprint(str(base))) - 1 :] == ["base", *fingerprint(str(base))]
    with (base / "model.safetensors").open("r+b") as opened:
        opened.write(b"\1")
    assert fingerprint(str(adapter)) != before
    (adapter / "adapter_model.safetensors").write_bytes(b"1")
    assert fingerprint(str(adapter))[2] != before[2]


def test_shares_of_a_diff_picture_never_exceed_what_there_is() -> None:
    for available in ([0, 0, 0], [5, 0, 0], [0, 9, 0], [3, 200, 1], [500, 500, 500]):
        for total in (1, 2, 3, 7, 100):
            counts = share_out(total, available)
            assert all(0 <= n <= most for n, most in zip(counts, available, strict=True))
            assert sum(counts) == min(total, sum(available))


def test_pictures_are_limited_and_say_so(spec: Experiment, tmp_path: Path) -> None:
    from edgewise.visualize.pictures import circuit_picture, diff_picture

    result: RunResult = run(
        replace(spec, drawing=replace(spec.drawing, formats=())), tmp_path / "o"
    )
    file = read_circuit(result.circuits["base"])
    some, whole = circuit_picture(file, 20), circuit_picture(file, 40)
    assert isinstance(some.subject, Circuit)
    assert some.subject == (file.circuit & some.subject)
    assert 0 < len(some.subject) <= 20
    assert some.subject == some.subject.prune_dangling()
    captions = [one.drawing.caption or "" for one in (some, whole)]
    assert captions[0].startswith("The 2") and "of the circuit's 40 edges" in captions[0]
    assert whole.subject == file.circuit
    assert captions[1].startswith("All of the circuit's 40 edges")
    diff = read_diff(result.diffs["tuned"])
    both = diff_picture(diff, ("base", "tuned"), 12)
    assert not isinstance(both.subject, Circuit)
    assert both.drawing.whole is diff.diff
    drawn = both.subject
    assert len(drawn.a | drawn.b) > 6
    assert len(drawn.a | drawn.b) <= 12
    assert drawn.shared == (drawn.shared & diff.diff.shared)  # told from the whole circuits
    told = f"{len(drawn.only_a)} of {len(diff.diff.only_a)} only in base"
    assert told in (both.drawing.caption or "")
