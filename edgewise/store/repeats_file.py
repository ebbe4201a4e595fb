"""Files of repetitions: what R discoveries in one model found, as safetensors.

`scores`: float32 [R, ports, senders], NaN where no edge exists; `kept`: uint8 of the same shape.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..graphs.errors import FileFormatError
from ..graphs.files.atomic import write_bytes
from ..graphs.graph import ComputationGraph
from ..steps.repeat import Repeats


def write_repeats(path: Path, repeats: Repeats) -> None:
    """Write repetitions, all or nothing.

    Raises:
        EdgewiseError: the file cannot be written there.
    """
    from safetensors.numpy import save

    kept = repeats.kept.astype(np.uint8)
    write_bytes(path, save({"kept": kept, "scores": repeats.scores.astype(np.float32)}))


def read_repeats(path: Path, graph: ComputationGraph) -> Repeats:
    """Read repetitions on a graph.

    Raises:
        FileFormatError: the file is missing, damaged or of another graph.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        found = load(path.read_bytes())
        scores, kept = found["scores"], found["kept"]
    except (OSError, SafetensorError, KeyError) as error:
        raise FileFormatError(f"{path} cannot be read ({error}); make it again.") from None
    if scores.shape[1:] != graph.reads.shape or kept.shape != scores.shape:
        raise FileFormatError(f"{path} is of another graph; make it again.")
    return Repeats(graph, scores, kept.astype(bool))
