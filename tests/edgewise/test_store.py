"""A store: nothing is done twice, nothing that was changed is used, one process writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgewise.graphs.errors import EdgewiseError, FileFormatError
from edgewise.graphs.files import read_circuit, read_scores
from edgewise.graphs.graph import ComputationGraph
from edgewise.steps.repeat import Repeats
from edgewise.store.results import Kept, Results
from edgewise.store.store import Store

CONTENT = {"circuits/a.json": "[1, 2]\n", "evaluation.json": '{"models": {"a": {"kl": 0.25}}}\n'}
STEP = ("circuit of a", "0" * 64, ["circuits/a.json", "evaluation.json#a"])


def make_in(folder: Path) -> bool:
    """Let the step of the tests write its files, unless that is done; tell whether it was now."""

    def work() -> None:
        for name, text in CONTENT.items():
            store.path(name).write_text(text)

    with Store(folder) as store:
        return store.get(*STEP, work)


def flips(path: Path) -> Iterator[int]:
    """Flip a bit of each byte of a file in turn."""
    whole = path.read_bytes()
    for i in range(len(whole)):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 4]) + whole[i + 1 :])
        yield i


@pytest.mark.parametrize("name", ["run.json", "circuits/a.json", "evaluation.json"])
def test_a_flipped_byte_is_noticed_or_makes_no_difference(tmp_path: Path, name: str) -> None:
    assert make_in(tmp_path)
    for i in flips(tmp_path / name):
        if name == "evaluation.json" and not 12 < i < 29:
            continue  # of what steps share, each seals its own part
        make_in(tmp_path)
        assert not make_in(tmp_path)
        for file, text in CONTENT.items():
            assert json.loads((tmp_path / file).read_text()) == json.loads(text), i


def test_an_entry_that_was_edited_with_its_file_is_not_trusted(tmp_path: Path) -> None:
    from edgewise.store.hashes import file_sha256

    make_in(tmp_path)
    ledger, file = tmp_path / "run.json", tmp_path / "circuits/a.json"
    before = file_sha256(file)
    file.write_text("[1, 3]\n")
    ledger.write_text(ledger.read_text().replace(before, file_sha256(file)))
    assert make_in(tmp_path)
    assert file.read_text() == CONTENT["circuits/a.json"]


def test_a_directory_of_the_last_version_is_accepted_and_made_again(tmp_path: Path) -> None:
    make_in(tmp_path)
    document = json.loads((tmp_path / "run.json").read_text())
    for step in document["steps"].values():
        del step["seal"]  # which version 0.1 did not write
    (tmp_path / "run.json").write_text(json.dumps(document))
    assert make_in(tmp_path)
    assert not make_in(tmp_path)


# -- one process at a time ------------------------------------------------------------------------

OPEN = """
import sys, time
from edgewise.store.store import Store
def work():
    store.path("circuits/a.json").write_text("half of")
    print("begun", flush=True)
    time.sleep(60)
with Store(sys.argv[1]) as store:
    store.get("circuit of a", "0" * 64, ["circuits/a.json"], work)
"""


def test_the_second_is_refused_and_what_was_killed_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    program = [sys.executable, "-c", OPEN, str(folder)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        before = (folder / "run.json").read_bytes()
        with pytest.raises(EdgewiseError, match=f"process {process.pid} on .* is writing it"):
            make_in(folder)
        assert (folder / "run.json").read_bytes() == before
        assert (folder / "circuits/a.json").read_text() == "half of"
        process.kill()
    assert make_in(folder)
    assert not make_in(folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "circuits", "evaluation.json", "run.json",
    ]  # fmt: skip


def test_two_runs_into_one_directory(edgewise: Any, models: Any, pairs: Path) -> None:
    Path("spec.toml").write_text(
        f'[[models]]\nsource = "{models["llama"]}"\n[task]\nfile = "{pairs}"\n'
        '[discovery]\nmethod = "eap-ig"\ntop = 5\n[drawing]\nformats = []\n'
    )
    with Store("out"):
        result = edgewise("run", "spec.toml", "-o", "out", status=1)
        assert f"cannot write out/run.json: process {os.getpid()} on " in result.output
        assert "wait until that ends, stop it, or give another name." in result.output
        assert sorted(os.listdir("out")) == [".run.lock", "run.json"]
    edgewise("run", "spec.toml", "-o", "out")
    again = edgewise("run", "spec.toml", "-o", "out")
    assert "0 done" in again.stdout
    assert not [name for name in os.listdir("out") if name.startswith(".")]


def test_a_directory_that_was_killed_at_its_start_can_be_used(tmp_path: Path) -> None:
    (tmp_path / ".run.lock").write_text("process 1")
    (tmp_path / ".edgewise-1-ffffff-0123456789ab.json").write_text("")
    assert make_in(tmp_path)


# -- kept results ---------------------------------------------------------------------------------


def kept_from(circuit: Path) -> Kept:
    file = read_circuit(circuit)
    scores = read_scores(circuit, file.circuit.graph).scores
    return Kept(file, scores, {"kl": {"full": 0.1 + 0.2, "faithfulness": None}})


def as_values(kept: Kept) -> tuple[object, ...]:
    file = kept.file
    rows = file.circuit, file.provenance, dict(kept.measured)
    return (*rows, kept.scores.values.tobytes())


@pytest.mark.filterwarnings("ignore:a kept result is damaged:UserWarning")
def test_a_flipped_byte_of_a_kept_result_never_gives_another(tmp_path: Path, circuit: Path) -> None:
    results, made = Results(tmp_path / "kept"), []

    def make(journal: object) -> Kept:
        made.append(journal)
        return kept_from(circuit)

    expected = as_values(results.get("key", make))
    assert as_values(results.get("key", make)) == expected
    assert len(made) == 1
    files = [path for path in results.folder.rglob("*") if path.is_file()]
    assert len(files) == 4
    for path in files:
        whole = path.read_bytes()
        for i in range(0, len(whole), max(1, len(whole) // 40)):
            path.write_bytes(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :])
            assert as_values(results.get("key", make)) == expected
            assert as_values(results.get("key", make)) == expected
    assert len(made) > 100
    for path in files:  # the ledger too: nobody else can clear up
        so_far = len(made)
        path.unlink()
        assert as_values(results.get("key", make)) == expected
        assert len(made) == so_far + 1, path


def test_results_of_an_older_format_are_swept(tmp_path: Path, circuit: Path) -> None:
    """They were plain files; no other file, and no result of today, goes."""
    made = Results(tmp_path).get("a", lambda journal: kept_from(circuit))
    before = set(tmp_path.iterdir())
    (tmp_path / "notes.json").write_text("mine")
    for ending in ("json", "scores.safetensors", "journal.jsonl"):
        (tmp_path / f"{'0a' * 32}.{ending}").write_text("of format 1")
    kept = Results(tmp_path).get("a", lambda journal: pytest.fail("made again"))
    assert as_values(kept) == as_values(made)
    assert set(tmp_path.iterdir()) == {*before, tmp_path / "notes.json"}


def test_a_result_is_kept_by_its_key_and_by_how_results_are_kept(
    tmp_path: Path, circuit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def make(journal: object) -> Kept:
        made.append(journal)
        return kept_from(circuit)

    found = Results(tmp_path / "kept")
    for key, count in (("a", 1), ("b", 2), ("a", 2), ("b", 2)):
        kept = found.get(key, make)
        assert len(made) == count
        assert kept.file.path is None  # not the folder of results, whose paths mean nothing
        assert kept.measured == {"kl": {"full": 0.1 + 0.2, "faithfulness": None}}
    monkeypatch.setattr("edgewise.store.results.FORMAT", 99)  # results come out otherwise
    found.get("a", make)
    assert len(made) == 3


def test_two_that_want_the_same_result_make_it_once(tmp_path: Path, circuit: Path) -> None:
    begun, made, told = threading.Event(), [], []

    def make(journal: object) -> Kept:
        made.append(journal)
        begun.set()
        waits.wait(20)
        return kept_from(circuit)

    waits, found = threading.Event(), []

    def get() -> None:
        found.append(as_values(Results(tmp_path / "kept").get("key", make, wait)))

    def wait(text: str) -> None:
        told.append(text)
        waits.set()

    threads = [threading.Thread(target=get) for _ in range(2)]
    threads[0].start()
    assert begun.wait(20)
    threads[1].start()
    for thread in threads:
        thread.join(40)
    assert len(made) == 1
    assert len(told) == 1 and told[0].startswith(f"waiting for process {os.getpid()} on ")
    assert found[0] == found[1]


# -- repetitions ----------------------------------------------------------------------------------


def test_a_flipped_byte_of_a_file_of_repetitions_is_refused(tmp_path: Path) -> None:
    graph, path = ComputationGraph(1, 1), tmp_path / "a.safetensors"
    kept = np.stack([graph.reads, ~graph.reads])
    Repeats(graph, kept).write(path)
    for i in flips(path):
        try:
            read = Repeats.read(path, graph)
        except FileFormatError:
            continue
        np.testing.assert_array_equal(read.kept, kept, err_msg=str(i))
