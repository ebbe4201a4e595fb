"""Results that are kept: circuits by what they were made from, so that nothing is done twice.

A folder, by default `results` in the user's cache, holds for each result a circuit file and the
scores of all edges. Its name is a hash of everything the result depends on (`Key`), so an entry
never goes out of date: other weights, prompts, options or another version have other names. An
entry that is damaged, cut off or was altered is not used; a warning says so, and it is made again.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..graphs.errors import EdgewiseError
from ..graphs.files.json_files import to_plain
from ..graphs.load.builtin import cache_directory
from .journal import JournalFile, journal_path
from .ledger import digest

if TYPE_CHECKING:
    import numpy as np

    from ..graphs.files import CircuitFile
    from ..graphs.scores import Scores

FORMAT = 1
"""Raise when results come out otherwise, or are kept otherwise, so that old ones are not used."""

BLOCK = "kept_result"
"""The top-level key in a kept circuit's file: what it was made from, and the seals."""


def results_directory() -> Path:
    """Return the default folder: `results` in `$EDGEWISE_CACHE`, else in the XDG cache's."""
    return cache_directory() / "results"


@dataclass(frozen=True, eq=False)
class Kept:
    """Hold one result: the circuit, the scores of all edges, and what else was measured."""

    file: CircuitFile
    scores: Scores
    measured: Mapping[str, Any]


class Results:
    """Hold the folder of kept results; it is made when it is opened.

    Raises:
        EdgewiseError: the folder cannot be made or written to.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        from ..graphs.files import check_writable

        self.folder = Path(folder or results_directory()).expanduser()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EdgewiseError(
                f"results cannot be kept in '{self.folder}': {error.strerror or error}; choose "
                "another folder, or keep none."
            ) from error
        check_writable(self.folder / "probe.json")

    def path(self, inputs: Mapping[str, Any]) -> Path:
        """Return the place of the result that is made from these inputs."""
        return self.folder / f"{_key(inputs)}.json"

    def journal(self, inputs: Mapping[str, Any]) -> JournalFile:
        """Return the journal of a search for that result, from which a stopped one goes on."""
        return JournalFile(journal_path(self.path(inputs)), resume=True, or_anew=True)

    def read(self, inputs: Mapping[str, Any]) -> Kept | None:
        """Return the result made from these inputs; None if there is none, or it is damaged."""
        path = self.path(inputs)
        if not path.exists():
            return None
        try:
            return _read(path, _key(inputs))
        except (EdgewiseError, KeyError, TypeError, ValueError) as error:
            warnings.warn(
                f"a kept result is damaged and is made again: {_reason(error)}",
                stacklevel=2,
            )
            return None

    def write(self, inputs: Mapping[str, Any], kept: Kept) -> None:
        """Keep a result; the circuit's file, which makes it count, is written last."""
        from dataclasses import replace

        from ..graphs.files import write_circuit, write_scores

        measured = to_plain(kept.measured, "measured")
        path, found = self.path(inputs), kept.file.discovery
        about = {key: found[key] for key in ("method", "metric", "ablation")}
        with suppress(FileNotFoundError):
            path.unlink()  # it and its scores are never of two runs
        write_scores(path, kept.scores, **about)
        block = {
            "key": _key(inputs),
            "inputs": dict(inputs),
            "measured": measured,
            "scores": _array_sha256(kept.scores.values),
            "seal": _seal(kept.file, measured),
        }
        write_circuit(path, replace(kept.file, extra={**kept.file.extra, BLOCK: block}))


def _read(path: Path, key: str) -> Kept:
    """Read an entry and check that it is whole and of this key."""
    from dataclasses import replace

    from ..graphs.files import read_circuit, read_scores

    file = read_circuit(path)
    block = file.extra.get(BLOCK)
    if not isinstance(block, Mapping) or block.get("key") != key:
        raise EdgewiseError(f"{path} is not the result its name says.")
    scores = read_scores(path, file.circuit.graph).scores
    extra = {name: value for name, value in file.extra.items() if name != BLOCK}
    kept = Kept(replace(file, extra=extra), scores, block["measured"])
    if block["seal"] != _seal(kept.file, kept.measured):
        raise EdgewiseError(f"{path} was altered after it was written.")
    if block["scores"] != _array_sha256(scores.values):
        raise EdgewiseError(f"the scores beside {path} are not those it was written with.")
    return kept


def _reason(error: Exception) -> str:
    """Tell what is wrong with an entry."""
    return str(error) if isinstance(error, EdgewiseError) else f"{type(error).__name__}: {error}."


def _key(inputs: Mapping[str, Any]) -> str:
    return digest({"format": FORMAT, **inputs})


def _seal(file: CircuitFile, measured: Mapping[str, Any]) -> str:
    """Hash what a result consists of."""
    from ..graphs.files.circuit import edge_rows

    assert file.edge_scores is not None  # CircuitFile.__post_init__
    rows = edge_rows(file.circuit, file.edge_scores)
    return digest({**file.provenance, "measured": dict(measured), "edges": rows})


def _array_sha256(values: np.ndarray) -> str:
    import numpy as np

    finite = np.where(np.isnan(values), np.float32(np.nan), values).astype("<f4")  # one NaN only
    return hashlib.sha256(finite.tobytes()).hexdigest()
