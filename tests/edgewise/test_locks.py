"""One writer at a time: the second is refused and told who the first is; the dead block nobody."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
import pytest

from edgewise.graphs.errors import EdgewiseError
from edgewise.store.locks import lock_path, writing

HOLD = """
import sys, time
from edgewise.store.locks import writing
with writing(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def held_elsewhere(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Let another process hold a path, until it is killed."""
    program = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_the_second_is_refused_and_told_who_the_first_is(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with held_elsewhere(path) as process:
        for _ in range(2):  # and asking changes nothing
            with pytest.raises(EdgewiseError) as refused, writing(path):
                pass
        text = str(refused.value)
        assert f"cannot write {path}: process {process.pid} on " in text
        assert f"(-c {path}, since {time.strftime('%Y-')}" in text
        assert text.endswith("is writing it; wait until that ends, stop it, or give another name.")
        with writing(tmp_path / "b.json"):
            pass
    assert lock_path(path).exists()  # killed, so it could not remove it; but it blocks nobody
    with writing(path):
        assert f"process {os.getpid()} on " in lock_path(path).read_text()
    assert list(tmp_path.iterdir()) == []


def test_a_path_is_free_again_whatever_ends_the_block(tmp_path: Path) -> None:
    for error in (KeyboardInterrupt, EdgewiseError, OSError):
        with pytest.raises(error), writing(tmp_path / "a.json"):
            raise error("stopped")
    assert list(tmp_path.iterdir()) == []


def test_one_that_waits_is_told_for_whom_and_goes_on_after_it(tmp_path: Path) -> None:
    path, told, order = tmp_path / "a.json", [], []
    begun = threading.Event()

    def second() -> None:
        def waiting(text: str) -> None:
            told.append(text)
            begun.set()

        with writing(path, waiting):
            order.append("second")

    with writing(path):
        thread = threading.Thread(target=second)
        thread.start()
        assert begun.wait(20)
        order.append("first")
    thread.join(20)
    assert order == ["first", "second"]
    assert told[0].startswith(f"waiting for process {os.getpid()} on ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("other", ["link.json", "./a.json", "a", "below/../a.json"])
def test_what_is_written_together_shares_a_lock(tmp_path: Path, other: str) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "link.json").symlink_to("a.json")
    with writing(tmp_path / "a.json"):
        with pytest.raises(EdgewiseError, match="is writing it"), writing(tmp_path / other):
            pass
        with writing(tmp_path / "a.svg"):
            pass


def test_names_of_the_greatest_length_have_locks_of_their_own(tmp_path: Path) -> None:
    names = ["n" * 249 + end + ".json" for end in "ab"]
    with writing(tmp_path / names[0]), writing(tmp_path / names[1]):
        pass


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_a_warning_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with pytest.warns(UserWarning, match="has no locks"), writing(tmp_path / "a.json"):
        pass


def test_a_lock_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    lock_path(tmp_path / "a.json").mkdir()
    refused = pytest.raises(EdgewiseError, match=r"cannot lock .*\.a\.lock.*remove that file")
    with refused, writing(tmp_path / "a.json"):
        pass


# -- commands -------------------------------------------------------------------------------------


def test_every_command_that_writes_is_refused_while_another_writes_there(
    edgewise: Any, circuit: Path, models: Any, pairs: Path
) -> None:
    model, other = models["llama"], models["tuned"]
    shutil.copy(circuit, "b.json")
    commands = {
        "discover": ("--model", model, "--task", pairs, "--method", "acdc", "--threads", 1),
        "diff": (circuit, "b.json"),
        "transplant": (model, other, "--task", pairs, "--nodes", "m0"),
        "timeline": (model, other, "--task", pairs, "--method", "eap", "--top", 3, "--no-cache"),
        "roles": (circuit, "--sequences", 2),
        "draw": (circuit,),
    }
    for name, arguments in commands.items():
        output = Path("out.svg" if name == "draw" else "out.json")
        with writing(output):
            result = edgewise(name, *arguments, "-o", output, status=1)
            assert f"cannot write {output}: process {os.getpid()} on " in result.output, name
            assert not output.exists()
        edgewise(name, *arguments, "-o", output)
        assert output.exists() and not lock_path(output).exists(), name
        output.unlink()
