"""The state of a training that was stopped: `NAME.state.safetensors` beside its journal.

Float64 tensors by name, and string metadata: `journal`, the first seal of the journal it belongs
to, `seconds`, how long the training took so far, and `sha256`, over the tensors, so that what was
changed after it was written is refused. It is replaced as a whole, and goes with the journal.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..graphs.errors import FileFormatError
from ..graphs.files.atomic import write_bytes

FORMAT = "edgewise/state 1"


@dataclass(frozen=True)
class State:
    """The arrays of a training, the seal of the journal they belong to, and the time taken."""

    arrays: Mapping[str, np.ndarray]
    journal: str
    seconds: float = 0.0

    @property
    def sha256(self) -> str:
        """Return the hash over all arrays and what they are called."""
        found = hashlib.sha256(f"{self.journal} {self.seconds!r}".encode())
        for name in sorted(self.arrays):
            array = np.ascontiguousarray(self.arrays[name], dtype="<f8")
            found.update(f"{name} {list(array.shape)}".encode())
            found.update(array.tobytes())
        return found.hexdigest()


def state_path(journal: Path) -> Path:
    """Return where the state of a training stands.

    >>> state_path(Path("ioi.journal.jsonl")).name
    'ioi.state.safetensors'
    """
    return journal.with_name(f"{journal.name.removesuffix('.journal.jsonl')}.state.safetensors")


def write_state(path: Path, state: State) -> None:
    """Write a state, all or nothing."""
    from safetensors.numpy import save

    arrays = {key: np.array(x, dtype="<f8", ndmin=1) for key, x in state.arrays.items()}
    about = {"format": FORMAT, "journal": state.journal, "seconds": repr(state.seconds)}
    plain = State(arrays, state.journal, state.seconds)
    write_bytes(path, save(arrays, {**about, "sha256": plain.sha256}))


def read_state(path: Path, journal: str) -> State | None:
    """Read the state that belongs to a journal; None if there is none.

    Raises:
        FileFormatError: the file is damaged, was changed, or belongs to another journal.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="np") as opened:
            about = opened.metadata() or {}
            if about.get("format") != FORMAT:
                raise _refused(path, "is no state of a training")
            if about.get("journal") != journal:
                raise _refused(path, "belongs to another journal")
            arrays = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise _refused(path, f"is damaged ({error})") from None
    seconds = math.nan
    with suppress(ValueError):
        seconds = float(about.get("seconds", ""))
    found = State(arrays, journal, seconds)
    if not math.isfinite(seconds) or found.sha256 != about.get("sha256"):
        raise _refused(path, "was changed after it was written")
    return found


def _refused(path: Path, why: str) -> FileFormatError:
    return FileFormatError(f"{path} {why}; start anew without `resume`.")
