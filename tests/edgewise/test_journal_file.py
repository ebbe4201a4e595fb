"""A journal's file: whatever was changed in it is refused, or makes no difference."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgewise.discovery.acdc import Rule, walk
from edgewise.discovery.journal import Entry
from edgewise.graphs.errors import EdgewiseError, FileFormatError, JournalMismatch
from edgewise.patching.incremental.search import BaseKind, IncrementalSearch
from edgewise.patching.run.runner import Runner
from edgewise.store.journal import JournalFile
from tests.engine import tiny_lift, tiny_pairs

REQUEST = {"method": "acdc", "threshold": 0.1, "torch": "2.9"}


def opened(path: Path) -> JournalFile:
    journal = JournalFile(path, resume=True)
    try:
        journal.begin(REQUEST)
    finally:
        journal.close()
    return journal


def changes(text: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield a text with each character changed in several ways, left out, and doubled."""
    for i, byte in enumerate(text):
        for new in (
            bytes([byte ^ 1]),
            bytes([byte ^ 32]),
            b"7",
            b" ",
            b"\n",
            b"",
            bytes([byte]) * 2,
        ):
            if new != text[i : i + 1]:
                yield i, text[:i] + new + text[i + 1 :]


def test_every_change_of_a_character_is_refused_or_ends_in_the_same_circuit(tmp_path: Path) -> None:
    runner = Runner.create(tiny_lift("gpt2", 0), tiny_pairs(0, (5, 4, 5)), metric="kl")

    def find(path: Path) -> tuple[object, bytes]:
        journal = JournalFile(path, resume=True)
        journal.begin(REQUEST)
        found = walk(IncrementalSearch(runner, 0.1), runner.graph, Rule(0.1), journal=journal)
        journal.close()
        return found.circuit, found.scores.values.tobytes()

    path = tmp_path / "a.journal.jsonl"
    expected = find(path)
    whole, text = opened(path).entries, path.read_bytes()
    last = len(text) - len(text.splitlines()[-1]) - 1
    assert len(whole) > 5
    accepted = {}
    for i, changed in changes(text):
        path.write_bytes(changed)
        try:
            entries = opened(path).entries
        except (FileFormatError, JournalMismatch):
            continue
        assert i >= last - 1, changed  # only the last line may be torn
        assert entries == whole[: len(entries)]
        accepted[len(entries)] = changed
    assert set(accepted) <= {len(whole) - 2, len(whole) - 1, len(whole)}
    for changed in accepted.values():
        path.write_bytes(changed)
        assert find(path) == expected


# -- full disks -----------------------------------------------------------------------------------


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Let files grow to a size only: what exceeds it is written in part, then refused."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


ENTRIES = [Entry(f"m{i}", {"embed": i / 7}, 1, i, 0, BaseKind.SAME) for i in range(20)]


@pytest.mark.parametrize("size", [700, 701, 760, 830])
def test_a_full_disk_leaves_a_journal_that_can_be_resumed(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.journal.jsonl"
    journal = JournalFile(path)
    journal.begin(REQUEST)
    written = 0
    with (
        room_for(size),
        pytest.raises(EdgewiseError, match=r"cannot write the journal .*make room"),
    ):
        for entry in ENTRIES:
            journal.append(entry)
            written += 1
    journal.close()
    assert 0 < written < len(ENTRIES)
    assert path.read_bytes().endswith(b"}\n")
    assert [entry.step for entry in opened(path).entries] == [f"m{i}" for i in range(written)]
    with room_for(100), pytest.raises(EdgewiseError, match="cannot write the journal"):
        JournalFile(tmp_path / "b.journal.jsonl").begin(REQUEST)
