"""Results that are kept: circuits by what they were made from, so that nothing is done twice.

A folder, by default `results` in the user's cache, holds a store for each result. Its name is a
hash of everything the result depends on, so a result never goes out of date: other weights,
prompts, options or another version have other names. One that is damaged, cut off or was altered
is not used; a warning says so, and it is made again.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..experiment.key import digest
from ..graphs.errors import EdgewiseError
from ..graphs.files import CircuitFile, read_circuit, read_scores, write_circuit, write_scores
from ..graphs.files.atomic import check_writable, write_text
from ..graphs.files.json_files import dump_document
from ..graphs.files.reading import read_json
from ..graphs.load.builtin.cache import cache_directory
from ..graphs.scores import Scores
from .journal import JournalFile
from .store import Store

FORMAT = 2  # raised when results come out, or are kept, otherwise, so that old ones are not used
OLD = re.compile(r"[0-9a-f]{64}\.(json|scores\.safetensors|journal\.jsonl)")
"""What a result was kept in before format 2, which reads none of it: plain files, not folders."""

CIRCUIT, SCORES, MEASURED = "circuit.json", "circuit.scores.safetensors", "measured.json"


@dataclass(frozen=True, eq=False)
class Kept:
    """A result: the circuit, the scores of all edges, and by metric what else was measured."""

    file: CircuitFile
    scores: Scores
    measured: Mapping[str, Mapping[str, object]]


class Results:
    """The folder of kept results; it is made when it is opened."""

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = Path(folder or cache_directory() / "results").expanduser()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EdgewiseError(
                f"results cannot be kept in '{self.folder}': {error.strerror or error}; choose "
                "another folder, or keep none."
            ) from error
        check_writable(self.folder / "probe.json")
        for path in self.folder.iterdir():
            if OLD.fullmatch(path.name):
                with suppress(OSError):  # a folder, or another process was first
                    path.unlink()

    def get(
        self,
        key: str,
        make: Callable[[JournalFile], Kept],
        waiting: Callable[[str], None] | None = None,
    ) -> Kept:
        """Return the result with a key, made and kept if it is not there.

        What a search has decided goes to the journal. `waiting`: told who makes the same result
        now; that one is waited for.
        """
        folder = self.folder / digest({"format": FORMAT, "key": key})
        with Store(folder, waiting or (lambda text: None), own=True) as store:

            def work() -> None:
                if "result" in store or store.damaged:
                    warnings.warn(
                        f"a kept result is damaged and is made again: '{folder}' is not as it was "
                        "written.",
                        stacklevel=2,
                    )
                journal = store.journal(CIRCUIT)
                kept = make(journal)
                found = kept.file.discovery
                about = {key: str(found[key]) for key in ("method", "metric", "ablation")}
                engine = json.dumps(dict(found)["engine"])
                write_circuit(store.path(CIRCUIT), kept.file)
                write_scores(store.path(CIRCUIT), kept.scores, **about, engine=engine)
                write_text(store.path(MEASURED), dump_document(kept.measured, rows=()))
                journal.remove()

            store.get("result", key, (CIRCUIT, SCORES, MEASURED), work)
            file = read_circuit(folder / CIRCUIT).at(None)
            scores = read_scores(folder / CIRCUIT, file.circuit.graph).scores
            measured = read_json(folder / MEASURED)
        return Kept(file, scores, measured)

    def file(
        self,
        key: str,
        name: str,
        write: Callable[[Path], None],
        waiting: Callable[[str], None] | None = None,
    ) -> Path:
        """Return where a file with a key and a name is kept, written if it is not there."""
        folder = self.folder / digest({"format": FORMAT, "key": key, "file": name})
        with Store(folder, waiting or (lambda text: None), own=True) as store:
            store.get("result", key, (name,), lambda: write(store.path(name)))
        return folder / name
