"""`discover --resume`: whatever stops a walk, the same command ends in the same file."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgewise.discovery.journal import Entry
from edgewise.discovery.registry import Discovery
from edgewise.graphs.errors import DriftError, EdgewiseError, JournalMismatch
from edgewise.graphs.files import read_circuit, scores_path
from edgewise.graphs.graph import ComputationGraph
from edgewise.graphs.scores import Scores
from edgewise.patching.incremental.search import BaseKind
from edgewise.steps import discover as finding
from edgewise.store.journal import JournalFile, journal_path

JOURNAL = Path("a.journal.jsonl")


def content(path: Path) -> str:
    """Return a circuit file without what is measured anew in every session."""
    document = json.loads(path.read_text())
    for key in ("seconds", "forward_equivalents"):
        del document["discovery"][key]
    return json.dumps(document)


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def command(models: Any, pairs: Path) -> list[object]:
    return [
        "discover", "--model", models["llama"], "--task", pairs, "--method", "acdc",
        "--threshold", 0.05, "--threads", 1, "--scores", "-o",
    ]  # fmt: skip


@pytest.fixture
def stopped(edgewise: Any, command: list[object], one_thread: None, monkeypatch: Any) -> list[str]:
    """Run the command to its end as b.json, and as a.json until four steps are decided."""
    edgewise(*command, "b.json")
    append, count = JournalFile.append, []

    def stop(self: JournalFile, entry: Any) -> None:
        if len(count) == 4:
            raise KeyboardInterrupt
        count.append(append(self, entry))

    with monkeypatch.context() as patch:
        patch.setattr(JournalFile, "append", stop)
        result = edgewise(*command, "a.json", status=130)
    assert f"{JOURNAL} is kept: --resume goes on from it." in result.stderr
    assert not Path("a.json").exists()
    lines = JOURNAL.read_text().splitlines()
    assert len(lines) == 5
    return lines


# -- killed --------------------------------------------------------------------------------------

SLOW = """
import sys, time
from edgewise.steps import discover as finding
from edgewise.store.journal import JournalFile
append, measure = JournalFile.append, finding.check_drift
def slow(self, entry):
    append(self, entry)
    time.sleep(0.2)
def wait(*given):
    print("walked", flush=True)
    time.sleep(60)
JournalFile.append, finding.check_drift = slow, wait
from edgewise.cli import main
main()
"""


def lines_of(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.slow
def test_killed_again_and_again(
    edgewise: Any, command: list[object], one_thread: None, tmp_path: Path
) -> None:
    edgewise(*command, "b.json")
    seen = []
    for lines in (1, 3, 8, 10_000):
        arguments = [*map(str, command), "a.json", "--resume"]
        with subprocess.Popen(
            [sys.executable, "-c", SLOW, *arguments], cwd=tmp_path, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            if lines == 10_000:
                assert process.stdout.readline() == b"walked\n"
            while lines_of(JOURNAL) < lines < 10_000:
                assert process.poll() is None
                time.sleep(0.01)
            process.kill()
        assert not Path("a.json").exists()
        seen.append(lines_of(JOURNAL))
    assert sorted(seen) == seen and seen[0] < seen[2] < seen[3]
    edgewise(*command, "a.json", "--resume")
    assert content(Path("a.json")) == content(Path("b.json"))
    assert scores_path("a.json").read_bytes() == scores_path("b.json").read_bytes()
    assert not JOURNAL.exists()


# -- stopped in process --------------------------------------------------------------------------


def test_seconds_are_those_of_all_sessions(
    edgewise: Any, command: list[object], stopped: list[str]
) -> None:
    journal = JournalFile(JOURNAL, resume=True)
    journal.begin(json.loads(stopped[0])["request"])
    *entries, last = journal.entries
    slow = JournalFile(JOURNAL)
    slow.begin(json.loads(stopped[0])["request"])
    for entry in entries:
        slow.append(entry)
    slow.seconds = 1000.0
    slow.append(last)
    slow.close()
    result = edgewise(*command, "a.json", "--resume")
    assert result.stderr == ""
    assert content(Path("a.json")) == content(Path("b.json"))
    assert 1000 < read_circuit("a.json").discovery["seconds"] < 1100


@pytest.mark.parametrize("torn", ['{"step": "a0.h', '{"step": "a0.h0<q>", "ke\0\0\n', "\0\0\0\n"])
def test_a_torn_last_line_is_ignored(
    edgewise: Any, command: list[object], stopped: list[str], torn: str
) -> None:
    with JOURNAL.open("a") as journal:
        journal.write(torn)
    edgewise(*command, "a.json", "--resume")
    assert content(Path("a.json")) == content(Path("b.json"))


def test_a_torn_header_starts_anew(
    edgewise: Any, command: list[object], stopped: list[str]
) -> None:
    JOURNAL.write_text(stopped[0][:50])
    edgewise(*command, "a.json", "--resume")
    assert content(Path("a.json")) == content(Path("b.json"))


def test_another_line_that_is_damaged_is_an_error(
    edgewise: Any, command: list[object], stopped: list[str]
) -> None:
    JOURNAL.write_text("\n".join([*stopped[:2], stopped[2][:20], *stopped[3:]]) + "\n")
    result = edgewise(*command, "a.json", "--resume", status=1)
    assert f"{JOURNAL}, line 3, is damaged; start anew without --resume" in result.stderr
    for number in (1, 2, 4):
        changed = [*stopped]
        changed[number - 1] = changed[number - 1].replace("0", "1", 1)
        JOURNAL.write_text("\n".join(changed) + "\n")
        result = edgewise(*command, "a.json", "--resume", status=1)
        follows = f"does not follow from line {number - 1}: it " if number > 1 else ""
        told = f"{JOURNAL}, line {number}, {follows}was changed after it was written; start anew "
        assert told + "without --resume." in result.stderr
    JOURNAL.write_text("\n".join([*stopped[:2], *stopped[3:]]) + "\n")
    result = edgewise(*command, "a.json", "--resume", status=1)
    assert "line 3, does not follow from line 2" in result.stderr
    JOURNAL.write_text(stopped[0].replace('"version": 2', '"version": 1') + "\n")
    result = edgewise(*command, "a.json", "--resume", status=1)
    assert "is no journal of version 2, whose lines are sealed against changes" in result.stderr
    assert "remove it, or start anew without --resume." in result.stderr
    JOURNAL.write_text('{"format": "something"}\n')
    result = edgewise(*command, "a.json", "--resume", status=1)
    assert f"{JOURNAL} is no journal of version 2" in result.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--threshold", 0.06), "threshold (0.05 there, 0.06 now)"),
        (("--metric", "nll"), "metric (kl there, nll now)"),
        (("--ablation", "zero"), "ablation (resample there, zero now)"),
        (("--batch-size", 2), "batch_size (6 there, 2 now)"),
        (("--candidates", 8), "candidates (64 there, 8 now)"),
        (("--ports-first",), "ports_first (False there, True now)"),
        (("--absolute",), "absolute (False there, True now)"),
        (("--examples", 5), "pairs_sha256 ("),
        (("--dtype", "float64"), "dtype (float32 there, float64 now)"),
        (("--grouped-kv",), "graph ("),
    ],
)
def test_the_journal_of_another_request_is_refused(
    edgewise: Any, command: list[object], stopped: list[str], change: Any, message: str
) -> None:
    result = edgewise(*command, "a.json", "--resume", *change, status=1)
    assert "is of another request; these differ: " in result.stderr
    assert message in result.stderr
    assert JOURNAL.read_text().splitlines() == stopped


def test_another_model_is_another_request(
    edgewise: Any, command: list[object], models: Any, stopped: list[str]
) -> None:
    other = [models["tuned"] if word == models["llama"] else word for word in command]
    result = edgewise(*other, "a.json", "--resume", status=1)
    assert "these differ: weights_sha256 (" in result.stderr


def test_the_same_weights_with_other_settings_are_another_model(
    edgewise: Any, command: list[object], models: Any, stopped: list[str], tmp_path: Path
) -> None:
    """A copy goes on as the model itself; with another constant in its config it does not."""
    copy = shutil.copytree(models["llama"], tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    other = [copy if word == models["llama"] else word for word in command]
    (copy / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.5}))
    result = edgewise(*other, "a.json", "--resume", status=1)
    assert "these differ: config (" in result.stderr
    (copy / "config.json").write_text(json.dumps(config))
    edgewise(*other, "a.json", "--resume")
    assert read_circuit("a.json").circuit == read_circuit("b.json").circuit


class Elsewhere:
    """Another place that computes: what a journal of this one must not be continued in."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.patch = patch

    def torch(self) -> None:
        self.patch.setattr(torch, "__version__", "0.0.1")

    def transformers(self) -> None:
        self.patch.setattr("transformers.__version__", "0.0.1")

    def edgewise(self) -> None:
        self.patch.setattr("edgewise.__version__", "0.0.1")

    def processor(self) -> None:
        self.patch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "ABACUS")

    def threads(self) -> None:
        torch.set_num_threads(2)

    def device(self) -> None:
        self.patch.setattr("edgewise.graphs.lift.lifted.LiftedModel.device", torch.device("cpu:0"))


@pytest.mark.parametrize(
    "what", ["torch", "transformers", "edgewise", "processor", "threads", "device"]
)
def test_a_journal_from_elsewhere_is_refused(
    edgewise: Any,
    command: list[object],
    stopped: list[str],
    what: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    getattr(Elsewhere(monkeypatch), what)()
    where = [word for word in command if what != "threads" or word not in ("--threads", 1)]
    result = edgewise(*where, "a.json", "--resume", status=1)
    assert f"these differ: {what} (" in result.stderr
    assert JOURNAL.read_text().splitlines() == stopped


def test_without_resume_a_journal_is_overwritten(
    edgewise: Any, command: list[object], stopped: list[str]
) -> None:
    result = edgewise(*command, "a.json")
    assert result.stderr == f"Overwriting {JOURNAL}; --resume would go on from it.\n"
    assert content(Path("a.json")) == content(Path("b.json"))
    assert not JOURNAL.exists()


def test_resume_without_a_journal_begins(
    edgewise: Any, command: list[object], one_thread: None
) -> None:
    result = edgewise(*command, "a.json", "--resume")
    assert result.stderr == f"There is no journal {JOURNAL}; starting from the beginning.\n"
    assert read_circuit("a.json").discovery["questions"] > 0


def test_a_method_without_a_journal_is_wrong_usage(edgewise: Any, models: Any, pairs: Path) -> None:
    result = edgewise(
        "discover", "--model", models["gpt2"], "--task", pairs, "--method", "eap", "--top", 3,
        "-o", "a.json", "--resume", status=2,
    )  # fmt: skip
    assert "method 'eap' keeps no journal, so it cannot be resumed; accepted: acdc" in result.stderr


def test_the_file_notes_the_searchs_own_loss(
    edgewise: Any, command: list[object], one_thread: None
) -> None:
    edgewise(*command, "a.json")
    file = read_circuit("a.json")
    assert file.discovery["loss_search"] == pytest.approx(file.measures["loss_circuit"], abs=1e-6)
    assert file.discovery["vocabulary_products"] > 0


# -- the journal's file --------------------------------------------------------------------------


def test_a_journal_may_begin_anew_for_another_request(tmp_path: Path) -> None:
    path = tmp_path / "x.journal.jsonl"
    first = JournalFile(path, resume=True)
    first.begin({"method": "acdc", "threshold": 0.1})
    first.append(Entry("logits", {}, 1, 1, 0, BaseKind.SAME))
    first.close()
    with pytest.raises(JournalMismatch, match=r"threshold \(0.1 there, 0.2 now\)"):
        JournalFile(path, resume=True).begin({"method": "acdc", "threshold": 0.2})
    same = JournalFile(path, resume=True, or_anew=True)
    same.begin({"method": "acdc", "threshold": 0.1})
    assert [entry.step for entry in same.entries] == ["logits"]
    assert same.seconds == same.entries[0].seconds > 0
    same.close()
    other = JournalFile(path, resume=True, or_anew=True)
    other.begin({"method": "acdc", "threshold": 0.2})
    assert other.entries == () and other.seconds == 0
    assert lines_of(path) == 1
    other.remove()
    assert not path.exists()


def test_a_journal_that_no_walk_began_is_left_alone(tmp_path: Path) -> None:
    path = journal_path(tmp_path / "x.json")
    path.write_text("precious\n")
    JournalFile(path).remove()
    assert path.read_text() == "precious\n"
    with pytest.raises(EdgewiseError, match="cannot write the journal"):
        JournalFile(tmp_path / "nowhere" / "x").begin({})


# -- drift ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "far"), [("float32", 3e-4), ("bfloat16", 0.3)])
def test_a_search_that_has_drifted_is_an_error(dtype: str, far: float) -> None:
    class Measured:
        loss_full, loss_circuit, loss_empty = 0.0, 0.5, -1.0

    def found(loss: float) -> Discovery:
        graph = ComputationGraph(layers=1, heads=1)
        return Discovery(Scores(graph, np.zeros(graph.size)), notes={"loss_search": loss})

    finding.check_drift(found(0.5 + far / 3), Measured, dtype)  # type: ignore[arg-type]
    for loss in (0.5 + far, 0.5 - far, float("nan")):
        with pytest.raises(DriftError, match=r"measures 0.5 when it is run as a whole.*drifted"):
            finding.check_drift(found(loss), Measured, dtype)  # type: ignore[arg-type]
