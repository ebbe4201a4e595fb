"""Write files so that a stopped or failed run never leaves half of one.

Content goes to a temporary file in the same directory, is flushed to the disk, and takes the
real name in one step. Whatever happens before that, the old file stays and the temporary goes;
where the process was killed, the next one that writes there removes it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import re
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..calls.typed import typed
from ..errors import EdgewiseError

ABANDONED_SECONDS = 24 * 3600.0
"""The age at which a temporary counts as left behind, whoever wrote it."""

TEMPORARY = re.compile(r"\.edgewise-(?:(\d+)-([0-9a-f]{6})-)?[0-9a-f]{12}(?:\..*)?")
"""The names of temporaries: process, machine, a random part; the first two are newer."""


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give the path of an empty temporary file that becomes `path` if the block succeeds.

    It has the same suffix. An EdgewiseError says why the file cannot be written there.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with replacing(folder / "a.txt") as temporary:
    ...     _ = temporary.write_text("all of it")
    >>> [(file.name, file.read_text()) for file in folder.iterdir()]
    [('a.txt', 'all of it')]
    """
    final = _final(path)
    temporary = _create_temporary(path, final)
    try:
        yield temporary
        with temporary.open("rb+") as opened:
            os.fsync(opened.fileno())
        if final.exists():
            temporary.chmod(final.stat().st_mode & 0o777)
        os.replace(temporary, final)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file, all or nothing; an EdgewiseError says why it cannot be."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | Path, content: str) -> None:
    """Write a text file in UTF-8, all or nothing, as `write_bytes` does."""
    write_bytes(path, content.encode("utf-8", "backslashreplace"))


@typed
def check_writable(path: str | Path, *inputs: str | Path) -> None:
    """Refuse, before long work, a path that could not be written then, or that is an input."""
    final = _final(path)
    for given in inputs:
        if final.exists() and os.path.exists(given) and final.samefile(given):
            raise EdgewiseError(
                f"cannot write {path}: it is the input {given}, which would be lost; give another "
                "name."
            )
    _create_temporary(path, final).unlink()


def _final(path: str | Path) -> Path:
    """Follow symbolic links, so that a link stays one; refuse what is no place for a file."""
    final = Path(os.path.realpath(path))
    try:
        mode = final.stat().st_mode
        if stat.S_ISDIR(mode):
            raise EdgewiseError(
                f"cannot write {path}: it is a directory; give a file's name in it."
            )
        if not stat.S_ISREG(mode):  # renaming over a device such as /dev/null would destroy it
            raise EdgewiseError(
                f"cannot write {path}: it is a device or pipe, not a file; give a file's name."
            )
    except FileNotFoundError:
        if not final.parent.exists():
            raise EdgewiseError(
                f"cannot write {path}: the directory {final.parent} does not exist; create it or "
                "choose another."
            ) from None
    except OSError as error:  # a name too long, a file in place of a directory
        raise unwritable(path, error) from error
    return final


def _create_temporary(path: str | Path, final: Path) -> Path:
    sweep(final.parent)
    name = f".edgewise-{os.getpid()}-{_here()}-{secrets.token_hex(6)}{final.suffix[:20]}"
    temporary = final.with_name(name)
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise unwritable(path, error) from error
    return temporary


def sweep(folder: Path) -> None:
    """Remove the temporaries of processes that ended without removing them."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            named = TEMPORARY.fullmatch(entry.name)
            if not named or not entry.is_file(follow_symlinks=False):
                continue
            with suppress(OSError):
                old = time.time() - entry.stat().st_mtime > ABANDONED_SECONDS
                if old or (named[2] == _here() and _ended(int(named[1]))):
                    os.unlink(entry)


def _ended(process: int) -> bool:
    if os.name == "posix":  # elsewhere, signal 0 ends a process
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        except (OSError, OverflowError):
            pass
    return False


def _here() -> str:
    """Name what process numbers are counted in: the machine, and on it the container."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return hashlib.sha256(f"{platform.node()} {space}".encode()).hexdigest()[:6]


def unwritable(path: str | Path, error: OSError) -> EdgewiseError:
    """Say why a path cannot be written, and what to do."""
    reason = error.strerror or str(error)
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    todo = "make room there, or choose another place" if full else "choose a place you can write to"
    return EdgewiseError(f"cannot write {path}: {reason[:1].lower()}{reason[1:]}; {todo}.")
