"""One writer at a time: a lock beside what is written, which says who holds it.

The lock is the operating system's and vanishes with its process, so a run that was killed blocks
nobody, though the lock's file may stay until the next run. `NAME.json` and what is written with it
(scores, journal) share one lock; the lock of a directory is that of a file in it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..graphs.errors import EdgewiseError

LONGEST_NAME = 240
_WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


def lock_path(path: str | Path) -> Path:
    """Return where the lock of a file stands; that of a link is its target's.

    >>> lock_path("circuits/ioi.json").name
    '.ioi.lock'
    """
    final = Path(os.path.realpath(path))
    name = final.name.removesuffix(".json")
    if len(name.encode(errors="surrogateescape")) > LONGEST_NAME:
        name = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()
    return final.with_name(f".{name}.lock")


@contextmanager
def writing(path: str | Path, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """Let no other process write a path, which need not be there, while the block runs.

    Another process that writes it is refused; or waited for, where `waiting` is told which it is.
    """
    from filelock import FileLock, Timeout

    file = lock_path(path)
    lock = FileLock(file, timeout=0, fallback_to_soft=False)
    try:
        try:
            lock.acquire()
        except Timeout:
            if waiting is None:
                raise EdgewiseError(
                    f"cannot write {path}: {_holder(file)} is writing it; wait until that ends, "
                    "stop it, or give another name."
                ) from None
            waiting(f"waiting for {_holder(file)}, which makes the same")
            lock.acquire(timeout=-1)
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise EdgewiseError(
                f"cannot lock {path} with the file {file}: {error}; remove that file if nothing "
                "writes there, or choose another place."
            ) from error
        warnings.warn(
            f"the file system of {path} has no locks ({error}), so nothing keeps two runs from "
            "writing there at once; start one at a time.",
            stacklevel=1,
        )
    try:
        if lock.is_locked:
            command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])[:300]
            who = f"process {os.getpid()} on {platform.node()}"
            text = f"{who} ({command}, since {time.strftime('%Y-%m-%d %H:%M:%S')})"
            with suppress(OSError):  # a full disk is told when the output is written
                file.write_text(text, encoding="utf-8", errors="backslashreplace")
        yield
    finally:
        with suppress(OSError):  # first, as what is removed while it is locked locks nobody out
            file.unlink()
        lock.release()


def _holder(file: Path) -> str:
    """Tell who holds a lock."""
    with suppress(OSError):
        return file.read_text(encoding="utf-8", errors="replace") or "another process"
    return "another process"
