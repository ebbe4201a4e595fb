"""Learned masks from the command line: the file, going on, and beside other methods."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgewise.discovery.masks import training
from edgewise.graphs.errors import FileFormatError, JournalMismatch
from edgewise.graphs.files import read_circuit, read_scores
from edgewise.store.journal import JournalFile
from edgewise.store.state import State, read_state, state_path, write_state

STATE = Path("a.state.safetensors")


def content(path: str) -> dict[str, Any]:
    """Return a circuit file without what is measured anew in every session."""
    document: dict[str, Any] = json.loads(Path(path).read_text())
    for key in ("seconds", "forward_equivalents"):
        del document["discovery"][key]
    return document


@pytest.fixture
def command(models: Any, pairs: Path) -> list[object]:
    return [
        "discover", "--model", models["llama"], "--task", pairs, "--method", "edge-pruning",
        "--edges", 20, "--updates", 6, "--minibatch", 3, "--threads", 1, "--scores", "-o",
    ]  # fmt: skip


@pytest.fixture
def stopped(edgewise: Any, command: list[object], monkeypatch: Any) -> dict[str, Any]:
    """Run the command to its end as b.json, and as a.json until two updates are kept."""
    monkeypatch.setattr(training, "KEPT_SECONDS", -1.0)
    edgewise(*command, "b.json")
    save, kept = JournalFile.save, []

    def stop(self: JournalFile, arrays: Any) -> None:
        if len(kept) == 2:
            raise KeyboardInterrupt
        kept.append(save(self, arrays))

    with monkeypatch.context() as patch:
        patch.setattr(JournalFile, "save", stop)
        result = edgewise(*command, "a.json", status=130)
    assert "--resume goes on from it." in result.stderr
    return content("b.json")


def test_a_training_that_is_stopped_ends_in_the_same_file(
    edgewise: Any, command: list[object], stopped: dict[str, Any]
) -> None:
    assert STATE.exists()
    edgewise(*command, "a.json", "--resume")
    assert content("a.json") == stopped
    assert not STATE.exists()
    assert not Path("a.journal.jsonl").exists()
    one, two = (read_scores(name).scores.values for name in ("a.json", "b.json"))
    np.testing.assert_array_equal(one, two)


def test_a_state_that_was_changed_or_is_of_another_request_is_refused(
    edgewise: Any, command: list[object], stopped: dict[str, Any]
) -> None:
    whole = STATE.read_bytes()
    for damaged, words in (
        (whole[:-8] + bytes(8), "was changed after it was written; start anew without --resume"),
        (whole[:100], "is damaged"),
    ):
        STATE.write_bytes(damaged)
        assert words in " ".join(edgewise(*command, "a.json", "--resume", status=1).stderr.split())
    STATE.write_bytes(whole)
    other = [20 if part == 6 else part for part in command]
    result = edgewise(*other, "a.json", "--resume", status=1)
    assert "is of another request" in result.stderr
    edgewise(*command, "a.json")  # anew
    assert content("a.json") == stopped


def test_the_file_says_what_was_learned(edgewise: Any, command: list[object]) -> None:
    edgewise(*command, "a.json", "--trainings", 2)
    file = read_circuit("a.json")
    noted: Any = file.discovery
    assert 0 < len(file.circuit) <= 20
    assert (noted["method"], noted["metric"], noted["updates"]) == ("edge-pruning", "kl", 6)
    assert [len(one["losses"]) for one in noted["trained"]] == [6, 6]
    assert noted["loss_search"] == min(one["loss"] for one in noted["trained"])
    scores = read_scores("a.json").scores
    assert not np.isnan(scores.values[file.circuit.graph.reads]).any()
    assert scores.top(len(file.circuit) + 40).kept[file.circuit.kept].mean() > 0.9


def test_methods_are_compared_with_what_is_learned(edgewise: Any, models: Any, pairs: Path) -> None:
    result = edgewise(
        "methods", "--compare", "eap,edge-pruning:edges=20:updates=4,subnetwork-probing:updates=4",
        "--model", models["gpt2"], "--task", pairs, "--test", 3, "--metric", "logit_diff",
        "--exact", 10, "--top", 5, "--sizes", "10", "--json",
    )  # fmt: skip
    rows = {row["method"]: row for row in json.loads(result.stdout)["methods"]}
    learned = rows["edge-pruning:edges=20:updates=4"]
    assert learned["edges"] <= 20
    assert learned["Spearman"] is not None
    assert rows["eap"]["edges"] is None
    assert rows["subnetwork-probing:updates=4"]["passes"] > 0


def test_wrong_options_are_refused_before_anything_is_loaded(
    edgewise: Any, command: list[object]
) -> None:
    for more, words in (
        (("--sparsity", 0.9), "sparsity 0.9 and 20 edges are both given; accepted: one of them"),
        (("--top", 9), "selects its edges itself"),
        (("--metric", "accuracy"), "has no gradient"),
        (("--updates", 0), "accepted: at least 1"),
    ):
        result = edgewise(*command, "a.json", *more, status=2)
        assert words in " ".join(result.stderr.split())


# -- the state's file ---------------------------------------------------------------------------


def test_a_state_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = state_path(tmp_path / "x.journal.jsonl")
    state = State({"at": np.arange(6.0).reshape(2, 3), "done": np.array([1.0])}, "seal", 2.5)
    assert read_state(path, "seal") is None
    write_state(path, state)
    found = read_state(path, "seal")
    assert found is not None
    assert found.seconds == 2.5
    for key, array in state.arrays.items():
        np.testing.assert_array_equal(found.arrays[key], array)
    with pytest.raises(FileFormatError, match="belongs to another journal"):
        read_state(path, "other")
    path.write_bytes(b"nothing")
    with pytest.raises(FileFormatError, match="is damaged"):
        read_state(path, "seal")


def test_a_journal_of_another_request_keeps_its_state(tmp_path: Path) -> None:
    path = tmp_path / "x.journal.jsonl"
    first = JournalFile(path)
    first.begin({"method": "a"})
    first.save({"x": np.ones(2)})
    first.close()
    with pytest.raises(JournalMismatch):
        JournalFile(path, resume=True).begin({"method": "b"})
    again = JournalFile(path, resume=True)
    again.begin({"method": "a"})
    saved = again.saved()
    assert saved is not None
    np.testing.assert_array_equal(saved["x"], np.ones(2))
    again.remove()
    assert not list(tmp_path.iterdir())
    state_path(path).write_bytes(b"broken")
    path.write_bytes(b"")
    other = JournalFile(path, resume=True, or_anew=True)
    other.begin({"method": "b"})
    assert other.saved() is None
    other.remove()
