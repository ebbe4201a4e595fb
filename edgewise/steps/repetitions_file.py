"""Files of repetitions: what R discoveries in one model found, as safetensors.

`scores`: float32 [R, ports, senders], NaN where no edge exists; `kept`: uint8 of the same shape.
The metadata's `sha256` seals both against changes.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from ..graphs.errors import FileFormatError
from ..graphs.files.atomic import write_bytes
from ..graphs.graph import ComputationGraph
from .repeat import Repeats


def write_repeats(path: Path, repeats: Repeats) -> None:
    """Write repetitions, all or nothing.

    Raises:
        EdgewiseError: the file cannot be written there.
    """
    from safetensors.numpy import save

    scores, kept = repeats.scores.astype(np.float32), repeats.kept.astype(np.uint8)
    seal = {"sha256": _seal(scores, kept)}
    write_bytes(path, save({"kept": kept, "scores": scores}, metadata=seal))


def read_repeats(path: Path, graph: ComputationGraph) -> Repeats:
    """Read repetitions on a graph.

    Raises:
        FileFormatError: the file is missing, damaged or of another graph.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as found:
            scores, kept = found.get_tensor("scores"), found.get_tensor("kept")
            seal = (found.metadata() or {}).get("sha256")
    except (OSError, SafetensorError, KeyError) as error:
        raise FileFormatError(f"{path} cannot be read ({error}); make it again.") from None
    if scores.shape[1:] != graph.reads.shape or kept.shape != scores.shape:
        raise FileFormatError(f"{path} is of another graph; make it again.")
    if seal is not None and seal != _seal(scores, kept):  # files of version 0.1 have none
        raise FileFormatError(f"{path} was changed after it was written; make it again.")
    return Repeats(graph, scores, kept.astype(bool))


def _seal(scores: np.ndarray, kept: np.ndarray) -> str:
    return hashlib.sha256(scores.tobytes() + kept.tobytes()).hexdigest()
