"""Timelines of models: the known story of induction, kept results, interruption, the command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgewise.experiment.spec import ComputeSpec, Selection
from edgewise.experiment.task import TaskSpec
from edgewise.graphs.errors import EdgewiseError, FileFormatError, GraphMismatch, PromptError
from edgewise.graphs.files import (
    TimelineFile,
    read_circuit,
    read_scores,
    read_timeline,
    write_timeline,
)
from edgewise.graphs.names import Edge
from edgewise.steps import timeline as checkpoints
from edgewise.steps.timeline import default_labels, find_checkpoints, timeline
from edgewise.store.results import Results
from tests.edgewise.conftest import Run, save_tokenizer, tiny

ROOT = Path(__file__).resolve().parents[2]
INDUCTION = ROOT / "examples" / "induction"
STEPS = (100, 150, 200, 300, 600, 1000)
TOP = {"method": "eap-ig", "options": {"steps": 2}, "select": Selection(top=9)}


# -- the known story ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def story() -> TimelineFile:
    """Follow induction over the kept checkpoints."""
    return timeline(
        str(INDUCTION / "checkpoints"),
        str(INDUCTION / "pairs.jsonl"),
        method="eap-ig",
        select=Selection(above=0.4),
        measure=["accuracy"],
    )


@pytest.fixture(scope="module")
def losses() -> list[float]:
    """Return the loss on repeats at the kept checkpoints, from the log of the training."""
    log = json.loads((INDUCTION / "checkpoints" / "log.json").read_text())
    by_step = {row["step"]: row["repeats"] for row in log}
    return [by_step[step] for step in STEPS]


def heads(story: TimelineFile) -> tuple[str, str]:
    """Return the previous-token head and the induction head by the strongest edge into a key."""
    line = story.timeline
    keys = [x.thing for x in line.edges if isinstance(x.thing, Edge) and x.thing.port.kind == "k"]
    strongest = max(keys, key=line.peak)
    return str(strongest.sender), str(strongest.port.node)


def test_the_composition_appears_when_the_loss_drops(
    story: TimelineFile, losses: list[float]
) -> None:
    line = story.timeline
    assert line.labels == tuple(map(str, STEPS))
    assert losses[0] > 4
    assert losses[2] < 0.2
    previous, induction = heads(story)
    assert previous.startswith("a0.")
    assert induction.startswith("a1.")
    lives = {str(life.thing): life for life in line.edges}
    path = (f"embed->{previous}<v>", f"{previous}->{induction}<k>", f"{induction}->logits")
    for edge in path:
        assert edge not in line.circuits[0]
        assert lives[edge].spans in (((1, 5),), ((2, 5),)), edge  # with the drop, and to the end
    nodes = {str(life.thing): life for life in line.nodes}
    assert nodes[previous].spans == nodes[induction].spans == ((1, 5),)
    scores = [float(v[line.graph.locate(Edge.parse(path[1]))]) for v in line.scores]
    assert scores[0] < 0.01
    assert 1 < scores[2] < scores[-1]
    into_keys = [edge for edge in line.circuits[-1].edges if edge.port.kind == "k"]
    assert {str(edge.sender) for edge in into_keys} == {previous}  # in the end, nothing else


def test_behaviour_and_faithfulness_come_with_the_circuit(story: TimelineFile) -> None:
    full = story.values("logit_diff", "full")
    assert abs(full[0] or 0) < 0.2
    assert (full[2] or 0) > 5
    assert story.metrics == ["logit_diff", "accuracy"]
    assert story.values("accuracy", "full")[-1] == 1.0
    assert all((f or 0) > 0.9 for f in story.values("logit_diff", "faithfulness")[2:])
    sizes = [len(circuit) for circuit in story.timeline.circuits]
    assert sizes[0] == 0
    assert sizes[2] == max(sizes) > 2 * sizes[-1]  # built from many heads, then pruned


def test_births_and_deaths_have_q_values(story: TimelineFile, tmp_path: Path) -> None:
    """The edges of induction change when the loss drops; a file holds it all."""
    assert len(story.comparisons) == len(story.timeline) - 1
    for i in range(1, len(story.timeline)):
        found = story.compared(i)
        assert found is not None and found.measured.weights_correlation is not None
        differ = set(story.timeline.born(i).edges) | set(story.timeline.died(i).edges)
        listed = {row.edge for row in found.measured.edges}
        assert {str(edge) for edge in differ} <= listed
        for row in found.rows["only_b"]:
            assert row.change == pytest.approx(row.mean_b - row.mean_a)
    assert max(len(one.significant) for one in story.comparisons) >= 4
    assert story.compared(0) is None
    first = story.timeline.newest(1)[0]
    assert 0 <= (story.q_at(first.born, str(first.thing)) or 0.0) <= 1
    write_timeline(tmp_path / "t.json", story)
    assert read_timeline(tmp_path / "t.json").comparisons == story.comparisons
    document = json.loads((tmp_path / "t.json").read_text())
    document["comparisons"].pop()
    (tmp_path / "t.json").write_text(json.dumps(document))
    with pytest.raises(FileFormatError, match="comparisons stand beside"):
        read_timeline(tmp_path / "t.json")


def test_mlps_of_zeros_are_in_no_circuit(story: TimelineFile) -> None:
    line = story.timeline
    assert not [life for life in line.nodes if str(life.thing).startswith("m")]
    column = [str(node).startswith("m") for node in line.graph.senders]
    row = [port.kind == "mlp" for port in line.graph.ports]
    for values in line.scores:
        assert (np.nan_to_num(values[:, column]) == 0).all()
        assert (np.nan_to_num(values[row]) == 0).all()


def test_the_heads_attend_as_their_names_say(story: TimelineFile) -> None:
    """Attention to the token before, and to the one after the earlier occurrence, rises."""
    import torch
    from transformers import AutoModelForCausalLM

    previous, induction = heads(story)
    rows = [json.loads(row) for row in (INDUCTION / "pairs.jsonl").read_text().splitlines()]
    found = []
    for step in (STEPS[0], STEPS[-1]):
        model = AutoModelForCausalLM.from_pretrained(
            INDUCTION / "checkpoints" / f"checkpoint-{step}",
            attn_implementation="eager",
            dtype=torch.float32,
        )
        to_previous, to_next = [], []
        for row in rows:
            tokens = row["clean_ids"]
            with torch.no_grad():
                layers = model(torch.tensor([tokens]), output_attentions=True).attentions
            own = layers[0][0, int(previous[-1])]  # [query, key]
            to_previous.append(own.diagonal(-1).mean().item())
            after = tokens.index(tokens[-1]) + 1
            to_next.append(layers[1][0, int(induction[-1]), -1, after].item())
        found.append((np.mean(to_previous), np.mean(to_next)))
    (previous_before, next_before), (previous_after, next_after) = found
    assert previous_before < 0.2
    assert next_before < 0.2
    assert previous_after > 0.8
    assert next_after > 0.5


def test_the_pairs_are_those_of_the_script(tmp_path: Path) -> None:
    import subprocess
    import sys

    script = [sys.executable, str(INDUCTION / "pairs.py")]
    subprocess.run(script, cwd=tmp_path, check=True, capture_output=True)
    kept = (INDUCTION / "pairs.jsonl").read_bytes()
    assert (tmp_path / "induction-pairs.jsonl").read_bytes() == kept
    for line in kept.decode().splitlines():
        row = json.loads(line)
        clean, corrupted = row["clean_ids"], row["corrupted_ids"]
        assert sum(a != b for a, b in zip(clean, corrupted, strict=True)) == 2
        for ids, answer in ((clean, row["answer_ids"]), (corrupted, row["distractor_ids"])):
            assert ids[ids.index(clean[-1]) + 1] == answer[0]


def test_what_is_kept_is_small() -> None:
    files = [path for path in INDUCTION.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 3_000_000


# -- kept results -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save four random models as checkpoints of one run."""
    folder = tmp_path_factory.mktemp("run")
    for seed, step in enumerate((5, 20, 100, 1000)):
        tiny("gpt2", seed=seed).save_pretrained(folder / f"checkpoint-{step}")
    return folder


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """List the models that are opened."""
    found: list[str] = []
    real = checkpoints.open_model

    def noted(reference: str, *parts: Any, **options: Any) -> Any:
        found.append(Path(reference).name)
        return real(reference, *parts, **options)

    monkeypatch.setattr(checkpoints, "open_model", noted)
    return found


def text_of(file: TimelineFile, folder: Path) -> str:
    write_timeline(folder / "out.json", file)
    return (folder / "out.json").read_text()


def test_a_second_run_opens_no_model(
    run: Path, pairs: Path, tmp_path: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    results = Results(tmp_path / "kept")
    first = timeline(str(run), str(pairs), results=results, **TOP)
    assert opened == ["checkpoint-5", "checkpoint-20", "checkpoint-100", "checkpoint-1000"]
    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "open_model", lambda *_, **__: pytest.fail("model opened"))
        again = timeline(str(run), str(pairs), results=results, **TOP)
    assert text_of(again, tmp_path) == text_of(first, tmp_path)
    alone = timeline(str(run), str(pairs), **TOP)  # and to keep results changes none of them
    assert text_of(alone, tmp_path) == text_of(first, tmp_path)


def test_results_are_found_by_content_not_by_name(
    run: Path, pairs: Path, tmp_path: Path, opened: list[str]
) -> None:
    results = Results(tmp_path / "kept")
    timeline(str(run), str(pairs), results=results, **TOP)
    opened.clear()
    moved = shutil.copytree(run, tmp_path / "moved")
    timeline(str(moved), str(pairs), results=results, **TOP)
    assert not opened
    other = tiny("gpt2", seed=9)
    other.save_pretrained(moved / "checkpoint-20")
    timeline(str(moved), str(pairs), results=results, **TOP)
    assert opened == ["checkpoint-20"]


CHANGES: dict[str, dict[str, Any]] = {
    "selection": {"select": Selection(top=8)},
    "sign": {"select": Selection(top=9, signed=True)},
    "method": {"method": "eap", "options": {}},
    "an option": {"options": {"steps": 3}},
    "metric": {"metric": "prob_diff"},
    "further metrics": {"measure": ["kl"]},
    "ablation": {"ablation": "zero"},
    "dtype": {"dtype": "float64"},
    "graph": {"split_embedding": True},
}


@pytest.mark.parametrize("what", CHANGES)
def test_whatever_changes_the_result_is_asked_anew(
    what: str, run: Path, pairs: Path, tmp_path: Path, opened: list[str]
) -> None:
    results, two = Results(tmp_path / "kept"), find_checkpoints(str(run))[:2]
    timeline(two, str(pairs), results=results, **TOP)
    timeline(two, str(pairs), results=results, **TOP)
    assert len(opened) == 2
    timeline(two, str(pairs), results=results, **{**TOP, **CHANGES[what]})
    assert len(opened) == 4


@pytest.mark.parametrize("what", ["torch", "device", "threads", "processor", "transformers"])
def test_whatever_moves_the_last_digits_is_asked_anew(
    what: str,
    run: Path,
    pairs: Path,
    tmp_path: Path,
    opened: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    results, two = Results(tmp_path / "kept"), find_checkpoints(str(run))[:2]
    timeline(two, str(pairs), results=results, **TOP)
    before = ComputeSpec.surroundings
    monkeypatch.setattr(ComputeSpec, "surroundings", lambda self: {**before(self), what: "another"})
    timeline(two, str(pairs), results=results, **TOP)
    assert len(opened) == 4


def test_other_prompts_are_asked_anew(
    run: Path, pairs: Path, tmp_path: Path, opened: list[str]
) -> None:
    results, two = Results(tmp_path / "kept"), find_checkpoints(str(run))[:2]
    timeline(two, str(pairs), results=results, **TOP)
    timeline(two, TaskSpec(file=str(pairs), examples=3), results=results, **TOP)
    assert len(opened) == 4


def test_a_stopped_run_goes_on_with_what_is_missing(
    run: Path, pairs: Path, tmp_path: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    results, expected = Results(tmp_path / "kept"), timeline(str(run), str(pairs), **TOP)
    real = checkpoints.open_model

    def stopped(reference: str, *parts: Any, **options: Any) -> Any:
        if reference.endswith("checkpoint-100"):
            raise KeyboardInterrupt
        return real(reference, *parts, **options)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "open_model", stopped)
        with pytest.raises(KeyboardInterrupt):
            timeline(str(run), str(pairs), results=results, **TOP)
    opened.clear()
    found = timeline(str(run), str(pairs), results=results, **TOP)
    assert opened == ["checkpoint-100", "checkpoint-1000"]
    assert text_of(found, tmp_path) == text_of(expected, tmp_path)


def test_a_stopped_search_goes_on_within_its_checkpoint(
    run: Path, pairs: Path, tmp_path: Path
) -> None:
    two = find_checkpoints(str(run))[:2]
    acdc: dict[str, Any] = {"method": "acdc", "options": {"threshold": 0.05}}
    results, expected = Results(tmp_path / "kept"), timeline(two, str(pairs), **acdc)

    def stop(done: int, total: int, what: str) -> None:
        if "checkpoints" not in what and done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        timeline(two, str(pairs), results=results, progress=stop, **acdc)
    (journal,) = results.folder.rglob("*.journal.jsonl")
    assert len(journal.read_text().splitlines()) > 1
    found = timeline(two, str(pairs), results=results, **acdc)
    assert not list(results.folder.rglob("*.journal.jsonl"))
    assert found.timeline.circuits == expected.timeline.circuits


def cut(path: Path) -> None:
    path.write_text(path.read_text()[:-300])


def raise_a_number(path: Path) -> None:
    document = json.loads(path.read_text())
    document["measures"]["value_full"] += 1.0
    path.write_text(json.dumps(document))


def drop_an_edge(path: Path) -> None:
    document = json.loads(path.read_text())
    document["edges"].pop()
    path.write_text(json.dumps(document))


def sidecar(path: Path) -> Path:
    return path.with_name(f"{path.stem}.scores.safetensors")


def turn_a_bit(path: Path) -> None:
    data = bytearray(sidecar(path).read_bytes())
    data[-1] ^= 64
    sidecar(path).write_bytes(bytes(data))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut off": cut,
    "empty": lambda path: path.write_text(""),
    "another number": raise_a_number,
    "an edge less": drop_an_edge,
    "no scores": lambda path: sidecar(path).unlink(),
    "other scores": turn_a_bit,
}


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_result_is_made_again_with_a_warning(
    what: str, run: Path, pairs: Path, tmp_path: Path, opened: list[str]
) -> None:
    results, two = Results(tmp_path / "kept"), find_checkpoints(str(run))[:2]
    expected = text_of(timeline(two, str(pairs), results=results, **TOP), tmp_path)
    victim = sorted(results.folder.rglob("circuit.json"))[0]
    DAMAGES[what](victim)
    opened.clear()
    with pytest.warns(UserWarning, match="damaged and is made again"):
        again = timeline(two, str(pairs), results=results, **TOP)
    assert len(opened) == 1
    assert text_of(again, tmp_path) == expected
    timeline(two, str(pairs), results=results, **TOP)  # whole again: no warning, which would fail
    assert len(opened) == 1


# -- what does not fit --------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [False, True])
def test_another_shape_is_refused_by_name(
    kept: bool, run: Path, pairs: Path, tmp_path: Path
) -> None:
    tiny("gpt2", n_layer=1).save_pretrained(tmp_path / "short")
    results = Results(tmp_path / "kept") if kept else None
    if kept:  # results of either shape are there, so that no model is opened
        short = [str(tmp_path / "short")] * 2
        timeline(short, str(pairs), results=results, labels=["a", "b"], **TOP)
    both = [str(run / "checkpoint-5"), str(tmp_path / "short")]
    with pytest.raises(GraphMismatch, match=r"checkpoint 'short' .* 'checkpoint-5'.*layers 2 and"):
        timeline(both, str(pairs), results=results, **TOP)


@pytest.mark.parametrize("kept", [False, True])
def test_another_width_is_refused_by_name(
    kept: bool, run: Path, pairs: Path, tmp_path: Path
) -> None:
    tiny("gpt2", n_embd=8).save_pretrained(tmp_path / "thin")
    results = Results(tmp_path / "kept") if kept else None
    if kept:
        thin = [str(tmp_path / "thin")] * 2
        timeline(thin, str(pairs), results=results, labels=["a", "b"], **TOP)
    both = [str(run / "checkpoint-5"), str(tmp_path / "thin")]
    with pytest.raises(GraphMismatch, match=r"'thin' .*d_model 16 and 8"):
        timeline(both, str(pairs), results=results, **TOP)


def test_another_tokenizer_is_refused_by_name(tmp_path: Path) -> None:
    row = {"clean": "a b c", "corrupted": "a c c", "answers": ["d"], "distractors": ["e"]}
    (tmp_path / "text.jsonl").write_text(json.dumps(row) + "\n")
    for name in ("one", "two"):
        tiny("gpt2").save_pretrained(tmp_path / name)
        save_tokenizer(tmp_path / name)
    words = (tmp_path / "two" / "tokenizer.json").read_text()
    swapped = words.replace('"a": 1,', '"a": 99,').replace('"b": 2,', '"b": 1,')
    (tmp_path / "two" / "tokenizer.json").write_text(swapped.replace('"a": 99,', '"a": 2,'))
    both = [str(tmp_path / "one"), str(tmp_path / "two")]
    with pytest.raises(PromptError, match=r"checkpoint 'two' .* tokenizers map"):
        timeline(both, str(tmp_path / "text.jsonl"), **TOP)


def test_scoring_without_a_selection_is_refused(run: Path, pairs: Path) -> None:
    with pytest.raises(EdgewiseError, match="say which to keep"):
        timeline(str(run), str(pairs), method="eap")


def test_checkpoints_are_taken_in_the_order_of_their_numbers(run: Path, tmp_path: Path) -> None:
    names = [Path(path).name for path in find_checkpoints(str(run))]
    assert names == ["checkpoint-5", "checkpoint-20", "checkpoint-100", "checkpoint-1000"]
    assert default_labels(find_checkpoints(str(run))) == ["5", "20", "100", "1000"]
    (tmp_path / "checkpoint-1").mkdir()
    with pytest.raises(EdgewiseError, match=r"holds 1 checkpoint; accepted"):
        find_checkpoints(str(tmp_path))
    with pytest.raises(EdgewiseError, match="alone makes no timeline"):
        find_checkpoints(["smollm2-135m"])


def test_the_same_model_twice_never_changes(run: Path, pairs: Path) -> None:
    """A model read again gives exactly the same circuit, scores and measures."""
    same = [str(run / "checkpoint-5")] * 2
    found = timeline(same, str(pairs), **TOP)
    assert found.timeline.labels == ("1: checkpoint-5", "2: checkpoint-5")
    assert found.timeline.circuits[0] == found.timeline.circuits[1]
    assert found.checkpoints[0] == found.checkpoints[1]
    change = found.timeline.to_last(1)
    assert (change.edges.jaccard, change.weighted) == (1.0, 1.0)


# -- the command --------------------------------------------------------------------------------


def test_the_command_writes_prints_and_draws(
    edgewise: Run, run: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEWISE_CACHE", str(tmp_path / "cache"))
    asked = ("timeline", run, "--task", pairs, "--method", "eap-ig", "--steps", 2, "--top", 9)
    shown = edgewise(*asked, "-o", "line.json").output
    for words in ("5", "1000", "logit_diff: full", "born", "edges that live longest", "line.json"):
        assert words in shown
    assert len(list((tmp_path / "cache" / "results").glob("*/circuit.json"))) == 4
    found = read_timeline(tmp_path / "line.json")
    assert [len(circuit) for circuit in found.timeline.circuits] == [9] * 4
    document = json.loads(edgewise(*asked, "--labels", "a,b,c,d", "--json").stdout)
    assert [one["label"] for one in document["checkpoints"]] == ["a", "b", "c", "d"]
    for ending, start in ((".svg", b"<?xml"), (".png", b"\x89PNG"), (".pdf", b"%PDF")):
        edgewise("draw", "line.json", "-o", f"strip{ending}", "--layout", "built-in")
        assert (tmp_path / f"strip{ending}").read_bytes().startswith(start)
    drawn = json.loads(edgewise("draw", "line.json", "-o", "few.svg", "--top", 6, "--json").stdout)
    assert drawn["edges"] <= 6 < drawn["edges_total"] == len(found.timeline.union)
    refused = edgewise("draw", "line.json", "-o", "strip.dot", status=1).output
    assert "Accepted: .svg, .png, .pdf" in refused


def test_the_commands_select_by_signed_scores(
    edgewise: Run, run: Path, pairs: Path, tmp_path: Path
) -> None:
    asked = ("--task", pairs, "--method", "eap-ig", "--steps", 2, "--top", 16, "--signed")
    shown = edgewise("timeline", run, *asked, "--no-cache", "-o", "line.json").output
    assert "the 16 edges of largest score" in shown
    last = find_checkpoints(str(run))[-1]
    edgewise("discover", "--model", last, *asked, "-o", "last.json", "--scores")
    line, alone = read_timeline(tmp_path / "line.json"), read_circuit(tmp_path / "last.json")
    scores = read_scores(tmp_path / "last.scores.safetensors").scores
    assert line.timeline.circuits[-1] == alone.circuit == scores.top(16, absolute=False)
    assert alone.circuit != scores.top(16)
    assert line.discovery["signed"] is alone.discovery["signed"] is True
    assert (
        "nothing says how many"
        in edgewise("timeline", run, *asked[:-3], "--signed", status=2).output
    )


def test_the_command_keeps_nothing_if_told_so(
    edgewise: Run, run: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEWISE_CACHE", str(tmp_path / "cache"))
    asked = ("timeline", run, "--task", pairs, "--method", "eap", "--top", 5)
    edgewise(*asked, "--no-cache")
    assert not (tmp_path / "cache").exists()
    (tmp_path / "file").write_text("")
    assert "cannot" in edgewise(*asked, "--cache", tmp_path / "file" / "x", status=1).output
    assert "one of them" in edgewise(*asked, "--cache", "x", "--no-cache", status=2).output
    monkeypatch.setenv("EDGEWISE_CACHE", str(tmp_path / "file"))
    assert "Going on without" in edgewise(*asked).output
    assert "2 labels are given" in edgewise(*asked, "--labels", "a,b", status=1).output


def test_a_choice_of_pairs_is_a_value() -> None:
    choice = TaskSpec("ioi")
    assert choice.but(seed=1) != choice
