"""What the readers of edge lists share: edges by name, put on a graph."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ...circuit import Circuit
from ...errors import EdgewiseError, FileFormatError
from ...graph import ComputationGraph
from ..reading import listed


def circuit_of(path: str | Path, graph: ComputationGraph, edges: Iterable[str]) -> Circuit:
    """Keep the edges of these names; a FileFormatError names those that the graph has not."""
    kept, problems = np.zeros_like(graph.reads), []
    for name in edges:
        try:
            kept[graph.locate(name)] = True
        except EdgewiseError as error:
            problems.append(str(error).rstrip("."))
    if problems:
        raise FileFormatError(f"{path} does not fit the graph: {listed(problems)}.")
    return Circuit(graph, kept)
