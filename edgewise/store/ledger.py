"""Nothing twice: which files of an output directory are finished, and what they were made from.

`run.json` in the directory holds, for every finished step, a hash of its inputs and the hashes of
the files it wrote. A step is done if its inputs are the same and its files still are what it
wrote; anything else is made again. The ledger is written after a step's files, so that a run that
was stopped goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..graphs.errors import EdgewiseError, FileFormatError, SpecError
from ..graphs.files.atomic import check_writable, write_text
from ..graphs.files.json_files import dump_document, ordered, read_document
from ..graphs.load.references import Form, find

NAME = "run.json"
FORMAT, VERSION = "edgewise/run", 1
_OF_A_MODEL = (".json", ".safetensors", ".gguf", ".bin", ".model", ".txt", ".jinja")


class Ledger:
    """Hold what is finished in one output directory."""

    def __init__(self, folder: str | Path) -> None:
        """Make the directory, or go on in one that a run made.

        Raises:
            SpecError: it is a file, or holds something else than a run's results.
            EdgewiseError: it cannot be written to.
        """
        self.folder = Path(folder)
        _prepare(self.folder)
        self._steps: dict[str, Any] = {}
        if (self.folder / NAME).exists():
            try:
                document = read_document(self.folder / NAME, "a run's ledger", {FORMAT: VERSION})
                self._steps = dict(document["steps"])
            except (FileFormatError, KeyError, TypeError, ValueError):
                self._steps = {}  # then everything is made again
        self._write()

    def path(self, name: str) -> Path:
        """Return the place of a file, `name` relative to the directory; make its folder."""
        path = self.folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EdgewiseError(f"cannot write {path}: {error.strerror or error}.") from error
        return path

    def done(self, step: str, inputs: str) -> bool:
        """Tell whether a step was finished from these inputs and its files are as it left them."""
        known = self._steps.get(step)
        if not isinstance(known, dict) or known.get("inputs") != inputs:
            return False
        files = known.get("files")
        return isinstance(files, dict) and all(
            sha is not None and self._hash(name) == sha for name, sha in files.items()
        )

    def record(self, step: str, inputs: str, files: Sequence[str]) -> None:
        """Note that a step is finished and its files are complete.

        A file several steps share is named with a step's part, as in `evaluation.json#base`: its
        top-level object `models` has a key `base`.
        """
        hashes = {name: self._hash(name) for name in files}
        self._steps[step] = {"inputs": inputs, "files": hashes}
        self._write()

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
            return digest(json.loads(path.read_text(encoding="utf-8"))["models"][part])
        except (ValueError, KeyError, TypeError):
            return None

    def _write(self) -> None:
        document = {"format": FORMAT, "version": VERSION, "steps": ordered(self._steps, ())}
        text = dump_document(document, rows=())
        path = self.folder / NAME
        if not path.is_file() or path.read_text(encoding="utf-8", errors="replace") != text:
            write_text(path, text)


def _prepare(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise SpecError(f"the output '{folder}' is a file; give a directory, existing or new.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        found = sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        raise EdgewiseError(
            f"the output directory '{folder}' cannot be used: {error.strerror or error}; choose a "
            "place you can write to."
        ) from error
    if found and NAME not in found:
        raise SpecError(
            f"the output directory '{folder}' holds files that no run made ({found[0]} and others, "
            f"but no {NAME}); choose a new or empty directory, so that nothing is overwritten."
            if len(found) > 1
            else f"the output directory '{folder}' holds a file that no run made ({found[0]}); "
            "choose a new or empty directory, so that nothing is overwritten."
        )
    check_writable(folder / NAME)


def digest(inputs: Mapping[str, Any]) -> str:
    """Hash plain values; equal values give equal hashes.

    >>> digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    True
    """
    text = json.dumps(inputs, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()


def file_sha256(path: Path) -> str:
    """Hash a file's content."""
    try:
        with path.open("rb") as opened:
            found = hashlib.sha256()
            while block := opened.read(1 << 22):
                found.update(block)
            return found.hexdigest()
    except OSError as error:
        raise EdgewiseError(f"cannot read {path}: {error.strerror or error}.") from error


def fingerprint(reference: str) -> list[str]:
    """Identify what a model's reference stands for now, without loading the model.

    A hub's or built-in model by its name and commit; local files by their content; an adapter by
    its files and its base model.

    Raises:
        ModelNotFound: there is no such model.
    """
    from ..graphs.load.adapters import base_reference
    from ..graphs.load.builtin import ALIAS

    source = find(reference)
    if source.form is Form.GGUF:
        return ["file", file_sha256(source.path)]
    if source.name == ALIAS or (source.revision and not Path(reference).exists()):
        return ["release", source.name, source.revision or "", source.path.name]
    files = sorted(path for path in source.path.iterdir() if path.suffix in _OF_A_MODEL)
    found = ["files", *(f"{path.name} {file_sha256(path)}" for path in files if path.is_file())]
    if source.form is Form.ADAPTER:
        name, revision = base_reference(source.path)
        found += ["base", *fingerprint(f"{name}@{revision}" if revision else name)]
    return found
