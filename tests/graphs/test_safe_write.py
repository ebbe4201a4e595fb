"""Atomic writing: all of a file or nothing, and a clear word on what cannot be written."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgewise.graphs.errors import EdgewiseError
from edgewise.graphs.files.atomic import check_writable, replacing, write_bytes, write_text


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, RuntimeError, OSError])
def test_whatever_stops_the_writing_the_old_file_stays_and_no_half_file(
    tmp_path: Path, stop: type[BaseException]
) -> None:
    file = tmp_path / "circuit.json"
    file.write_text("old")
    with pytest.raises((stop, EdgewiseError)), replacing(file) as temporary:
        temporary.write_text("half of")
        assert file.read_text() == "old"
        raise stop
    assert names(tmp_path) == ["circuit.json"]
    assert file.read_text() == "old"


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_full_disk_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(EdgewiseError, match=r"cannot write .*a\.json: no space left on device"):
        write_text(tmp_path / "a.json", "text")
    assert names(tmp_path) == []


def test_the_content_arrives_whole_and_the_temporary_has_the_suffix(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.svg") as temporary:
        assert temporary.suffix == ".svg"
        assert temporary.parent == tmp_path
        temporary.write_bytes(b"drawing")
    assert (tmp_path / "a.svg").read_bytes() == b"drawing"
    write_bytes(str(tmp_path / "a.svg"), b"other")
    assert (tmp_path / "a.svg").read_bytes() == b"other"
    assert names(tmp_path) == ["a.svg"]


def test_new_files_have_usual_permissions_and_old_ones_keep_theirs(tmp_path: Path) -> None:
    (tmp_path / "usual").write_text("")
    write_text(tmp_path / "new", "")
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "usual").stat().st_mode
    (tmp_path / "new").chmod(0o600)
    write_text(tmp_path / "new", "again")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o600


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to(tmp_path / "real.json")
    write_text(tmp_path / "link.json", "new")
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "real.json").read_text() == "new"


def test_a_name_of_the_greatest_length_can_be_written(tmp_path: Path) -> None:
    file = tmp_path / ("n" * 250 + ".json")
    write_text(file, "text")
    assert file.read_text() == "text"


def test_text_with_lone_surrogates_is_written(tmp_path: Path) -> None:
    write_text(tmp_path / "a.json", '"\udc80τ"')
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '"\\udc80τ"'


@pytest.mark.parametrize("act", [check_writable, lambda path: write_text(path, "")])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "is a directory; give a file's name"),
        ("missing/a.json", r"the directory .*missing does not exist; create it"),
        ("file/a.json", "not a directory"),
        ("n" * 300, "name too long"),
    ],
)
def test_places_that_cannot_be_written_are_refused(
    tmp_path: Path, act: object, name: str, message: str
) -> None:
    (tmp_path / "file").write_text("")
    assert callable(act)
    with pytest.raises(EdgewiseError, match=message):
        act(tmp_path / name)
    assert names(tmp_path) == ["file"]


def test_a_directory_without_permission_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(EdgewiseError, match="permission denied; choose a place you can write to"):
        check_writable(tmp_path / "a.json")


def test_checking_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text("old")
    check_writable(tmp_path / "old.json")
    check_writable(tmp_path / "new.json")
    assert names(tmp_path) == ["old.json"]
    assert (tmp_path / "old.json").read_text() == "old"


@pytest.mark.parametrize("act", [check_writable, lambda path: write_text(path, "")])
def test_a_pipe_or_device_is_refused_and_stays(tmp_path: Path, act: Callable[[Path], None]) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(EdgewiseError, match="a device or pipe"):
        act(tmp_path / "pipe.json")
    assert (tmp_path / "pipe.json").is_fifo()


def test_an_input_is_never_written_over(tmp_path: Path) -> None:
    given, link = tmp_path / "pairs.jsonl", tmp_path / "link.json"
    given.write_text("pairs")
    link.symlink_to(given)
    for output in (given, link, tmp_path / "." / "pairs.jsonl"):
        with pytest.raises(EdgewiseError, match=r"is the input .*pairs\.jsonl"):
            check_writable(output, "ioi", given)
    check_writable(tmp_path / "new.json", given, tmp_path / "missing.jsonl")


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit there")
def test_a_disk_that_fills_up_while_it_is_written_leaves_the_old_file(tmp_path: Path) -> None:
    import resource

    (tmp_path / "a.json").write_text("old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # then a write is done in part only
    try:
        with pytest.raises(EdgewiseError, match=r"cannot write .*a\.json: file too large"):
            write_text(tmp_path / "a.json", "x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "old"


# -- killed ---------------------------------------------------------------------------------------

HALF = """
import sys, time
from edgewise.graphs.files.atomic import replacing
with replacing(sys.argv[1]) as temporary:
    temporary.write_text("half of it")
    print(temporary.name, flush=True)
    time.sleep(60)
"""


def test_what_a_killed_writer_leaves_goes_with_the_next_one(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("old")
    program = [sys.executable, "-c", HALF, str(tmp_path / "a.json")]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        left = process.stdout.readline().strip()
        write_text(tmp_path / "b.json", "while it lives")
        assert names(tmp_path) == sorted([left, "a.json", "b.json"])
        process.kill()
    assert (tmp_path / "a.json").read_text() == "old"
    assert names(tmp_path) == sorted([left, "a.json", "b.json"])
    write_text(tmp_path / "b.json", "after it died")
    assert names(tmp_path) == ["a.json", "b.json"]


@pytest.mark.parametrize("name", [".edgewise-0123456789ab.json", ".edgewise-1-ffffff-0123456789ab"])
def test_temporaries_of_unknown_processes_go_after_a_day(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("")
    check_writable(tmp_path / "a.json")
    assert names(tmp_path) == [name]
    day_before = time.time() - 25 * 3600
    os.utime(tmp_path / name, (day_before, day_before))
    check_writable(tmp_path / "a.json")
    assert names(tmp_path) == []


def test_files_of_others_are_never_swept(tmp_path: Path) -> None:
    others = [".edgewise-notes.json", ".edgewise-0123456789abc", "x.edgewise-0123456789ab"]
    for name in others:
        (tmp_path / name).write_text("")
    (tmp_path / ".edgewise-0123456789ab.d").mkdir()
    (tmp_path / ".edgewise-0123456789ab.link").symlink_to(tmp_path / others[0])
    for path in tmp_path.iterdir():
        os.utime(path, (0, 0), follow_symlinks=False)
    before = names(tmp_path)
    write_text(tmp_path / "a.json", "")
    assert names(tmp_path) == sorted([*before, "a.json"])
