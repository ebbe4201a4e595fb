"""Write files so that a stopped or failed run never leaves half of one.

Content goes to a temporary file in the same directory, is flushed to the disk, and takes the
real name in one step. Whatever happens before that, the old file stays and the temporary goes.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import EdgewiseError


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give the path of an empty temporary file that becomes `path` if the block succeeds.

    The temporary has the same suffix, for writers that choose a format by it.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with replacing(folder / "a.txt") as temporary:
    ...     _ = temporary.write_text("all of it")
    >>> [(file.name, file.read_text()) for file in folder.iterdir()]
    [('a.txt', 'all of it')]

    Raises:
        EdgewiseError: the file cannot be written there; says why.
    """
    final = _final(path)
    temporary = _create_temporary(path, final)
    try:
        yield temporary
        _flush(temporary)
        if final.exists():
            temporary.chmod(final.stat().st_mode & 0o777)
        os.replace(temporary, final)
    except OSError as error:
        raise _cannot(path, error) from error
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file, all or nothing.

    Raises:
        EdgewiseError: the file cannot be written there; says why.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | Path, content: str) -> None:
    """Write a text file in UTF-8, all or nothing.

    Raises:
        EdgewiseError: the file cannot be written there; says why.
    """
    write_bytes(path, content.encode("utf-8", "backslashreplace"))


def check_writable(path: str | Path, *inputs: str | Path) -> None:
    """Refuse, before long work, a path that could not be written at its end, or that is an input.

    Raises:
        EdgewiseError: the path is a directory, a device or one of the inputs, or its directory is
            missing or not writable.
    """
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
        raise _cannot(path, error) from error
    return final


def _create_temporary(path: str | Path, final: Path) -> Path:
    temporary = final.with_name(f".edgewise-{secrets.token_hex(6)}{final.suffix[:20]}")
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise _cannot(path, error) from error
    return temporary


def _flush(file: Path) -> None:
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())


def _cannot(path: str | Path, error: OSError) -> EdgewiseError:
    reason = error.strerror or str(error)
    return EdgewiseError(
        f"cannot write {path}: {reason[:1].lower()}{reason[1:]}; choose a place you can write to."
    )
