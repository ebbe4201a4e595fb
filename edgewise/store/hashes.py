"""What results depend on: hashes of files, and of what a model's name means."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ..graphs.errors import EdgewiseError
from ..graphs.files.reading import is_there
from ..graphs.load.adapters import base_reference
from ..graphs.load.builtin.models import BUILT_IN
from ..graphs.load.references import Form, find

_OF_A_MODEL = (".json", ".safetensors", ".gguf", ".bin", ".model", ".txt", ".jinja")


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
    """
    source = find(reference)
    if source.form is Form.GGUF:
        return ["file", file_sha256(source.path)]
    if source.name in BUILT_IN or (source.revision and not is_there(reference)):
        return ["release", source.name, source.revision or "", source.path.name]
    files = sorted(path for path in source.path.iterdir() if path.suffix in _OF_A_MODEL)
    found = ["files", *(f"{path.name} {file_sha256(path)}" for path in files if path.is_file())]
    if source.form is Form.ADAPTER:
        name, revision = base_reference(source.path)
        found += ["base", *fingerprint(f"{name}@{revision}" if revision else name)]
    return found
