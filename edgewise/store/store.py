"""Nothing twice: a directory whose files are known by what they were made from.

`run.json` in it holds for every finished step a hash of its inputs, the hashes of the files it
wrote, and a seal over both. A step is finished if its inputs are the same and everything is as the
step left it; anything else is made again. An entry is written after its step's files, so that a
run that was stopped goes on where it was. One process at a time has a store open.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from ..experiment.key import digest
from ..graphs.errors import EdgewiseError, FileFormatError, SpecError
from ..graphs.files.atomic import TEMPORARY, check_writable, write_bytes
from ..graphs.files.json_files import dump_document, read_document
from ..graphs.files.reading import read_json
from .hashes import file_sha256
from .journal import JournalFile, journal_path
from .locks import lock_path, writing

NAME = "run.json"
FORMAT, VERSION = "edgewise/run", 1


class FinishedStep(NamedTuple):
    """A finished step: the hash of its inputs, and of each file that it wrote."""

    inputs: str
    files: Mapping[str, str | None]

    def seal(self, name: str) -> str:
        """Hash the step with its name, so that an entry that was edited shows."""
        return digest({"step": name, "inputs": self.inputs, "files": dict(self.files)})


class Store:
    """A directory of results: steps by name, files with names for people.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> def greet() -> None:
    ...     store.path("words/hello.txt").write_text("hello Ann")
    >>> with Store(folder) as store:
    ...     store.get("greeting", digest({"name": "Ann"}), ["words/hello.txt"], greet)
    ...     store.get("greeting", digest({"name": "Ann"}), ["words/hello.txt"], greet)
    True
    False

    `waiting`: if another process has the store open, it is told which, and then waits; without it
    the store is refused. `own`: nobody else names the directory, so whatever it holds is replaced.

    Raises (as it is entered):
        SpecError: the directory is a file, or holds something else than a store's files.
        EdgewiseError: it cannot be written to, or another process has it open.
    """

    def __init__(
        self, folder: str | Path, waiting: Callable[[str], None] | None = None, own: bool = False
    ) -> None:
        self.folder, self._waiting, self._own = Path(folder), waiting, own
        self.damaged = False
        self._steps: dict[str, FinishedStep] = {}

    def __enter__(self) -> Store:
        folder, ledger = self.folder, self.folder / NAME
        if folder.exists() and not folder.is_dir():
            raise SpecError(f"the output '{folder}' is a file; give a directory, existing or new.")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            check_writable(ledger)
        except OSError as error:
            raise EdgewiseError(
                f"the output directory '{folder}' cannot be used: {error.strerror or error}; "
                "choose a place you can write to."
            ) from error
        with ExitStack() as held:
            held.enter_context(writing(ledger, self._waiting))
            if not self._own:
                _check(folder)
            if ledger.exists():
                self._steps, self.damaged = _read(ledger)
            self._write()
            self._held = held.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def __contains__(self, name: str) -> bool:
        """Tell whether a step of this name was ever finished."""
        return name in self._steps

    def get(self, name: str, key: str, files: Sequence[str], make: Callable[[], object]) -> bool:
        """Let a step write its files, unless that is done; tell whether it was done now.

        A file that several steps share is named with a step's part, as in `evaluation.json#base`:
        its top-level object `models` has a key `base`. `key`: a hash of all the files depend on.
        """
        found = FinishedStep(key, {file: self._hash(file) for file in files})
        if self._steps.get(name) == found and None not in found.files.values():
            return False
        for file in files:
            self.path(file.partition("#")[0])
        make()
        self._steps[name] = FinishedStep(key, {file: self._hash(file) for file in files})
        self._write()
        return True

    def write(self, name: str, text: str) -> None:
        """Write a text file, unless it holds that already."""
        path, content = self.path(name), text.encode("utf-8", "backslashreplace")
        if not path.is_file() or path.read_bytes() != content:
            write_bytes(path, content)

    def path(self, name: str) -> Path:
        """Return the place of a file, `name` relative to the directory; make its folder."""
        path = self.folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EdgewiseError(f"cannot write {path}: {error.strerror or error}.") from error
        return path

    def journal(self, name: str) -> JournalFile:
        """Return the journal of the search for a circuit file, from which a stopped one goes on."""
        return JournalFile(journal_path(self.path(name)), resume=True, or_anew=True)

    def sha256(self, *names: str) -> list[str]:
        """Return the hashes of finished files, as inputs of the next step."""
        return [file_sha256(self.folder / name) for name in names]

    def _hash(self, name: str) -> str | None:
        """Hash a file or a part of one; None if it is not there."""
        file, _, part = name.partition("#")
        path = self.folder / file
        if not path.is_file():
            return None
        if not part:
            return file_sha256(path)
        try:
            return digest(read_json(path)["models"][part])
        except (FileFormatError, KeyError, TypeError):
            return None

    def _write(self) -> None:
        found = sorted(self._steps.items())
        steps = {name: {**step._asdict(), "seal": step.seal(name)} for name, step in found}
        document = {"format": FORMAT, "version": VERSION, "steps": steps}
        self.write(NAME, dump_document(document, rows=()))


def _check(folder: Path) -> None:
    """Refuse a directory with files that no store wrote."""
    own = lock_path(folder / NAME).name
    found = sorted(path.name for path in folder.iterdir())
    found = [name for name in found if name != own and not TEMPORARY.fullmatch(name)]
    if found and NAME not in found:
        held = f"a file that no run made ({found[0]})"
        if len(found) > 1:
            held = f"files that no run made ({found[0]} and others, but no {NAME})"
        raise SpecError(
            f"the output directory '{folder}' holds {held}; choose a new or empty directory, so "
            "that nothing is overwritten."
        )


def _read(path: Path) -> tuple[dict[str, FinishedStep], bool]:
    """Read the finished steps, and whether there are entries that cannot be trusted."""
    sound = {}
    try:
        entries: Any = read_document(path, "a run's ledger", {FORMAT: VERSION})["steps"]
        for name, entry in entries.items():
            step = FinishedStep(entry["inputs"], entry["files"])
            if step.seal(name) == entry["seal"]:
                sound[name] = step
    except (FileFormatError, AttributeError, KeyError, TypeError, ValueError):
        return {}, True  # then everything is made again
    return sound, len(sound) < len(entries)
