"""Scores on each example: `NAME.examples.safetensors` beside `NAME.json`.

One tensor `scores` [examples, edges], float16, or float32 where half precision does not hold the
scores or on request; edges in the order of the mask, row by row over [ports, senders]. Metadata as
in a scores file, and `groups` (JSON list of the examples' labels) and `pairs_sha256`.

A circuit that is written anew without them leaves those of the earlier one beside it. So whoever
reads them is told where they are of other pairs, of another graph, or by another method.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..calls.typed import typed
from ..errors import EdgewiseError, FileFormatError
from ..example_scores import ExampleScores
from ..graph import ComputationGraph
from ..levels.nodes import EDGE
from .atomic import replacing
from .circuit import FORMAT, CircuitFile, read_circuit
from .reading import parse_json, read_json, short
from .scores import (
    ABOUT,
    METADATA,
    beside,
    check_names,
    checked_metadata,
    graph_metadata,
    header,
    leveled,
    opened_scores,
    stated_graph,
)

SUFFIX = ".examples.safetensors"
WIRE = {"F16": "<f2", "F32": "<f4"}
ROWS_BYTES = 1 << 26
"""Bytes of scores that are turned into what a file holds together."""

MOST = float(np.finfo(np.float16).max)
LEAST = 2.0**-6
"""Half precision is too coarse where all scores are below this: it has steps of 2^-24 near 0."""


@typed
@dataclass(frozen=True)
class ExampleScoresFile:
    """Scores of the edges of a graph on each example, and what they are scores of.

    `engine`: name and version of what computed them, as JSON; empty in older files.
    """

    scores: ExampleScores
    method: str
    metric: str
    ablation: str
    pairs_sha256: str
    engine: str = ""

    @property
    def about(self) -> dict[str, str]:
        """Return what they are scores of."""
        return {key: getattr(self, key) for key in ABOUT}


@typed
def examples_path(path: str | Path) -> Path:
    """Return where the sidecar of a circuit file stands.

    >>> examples_path("runs/ioi.json").as_posix()
    'runs/ioi.examples.safetensors'
    """
    return beside(path, SUFFIX)


@typed
def write_example_scores(
    path: str | Path,
    scores: ExampleScores,
    *,
    about: Mapping[str, str],
    pairs_sha256: str,
    engine: str = "",
    half: bool = True,
) -> Path:
    """Write the sidecar of a circuit file (or at its own path), all or nothing; return where.

    `about`: method, metric and ablation, and `engine`, as of a `ScoresFile`. `half`: in half
    precision, unless that does not hold the scores; the values are turned and written some examples
    at a time.
    """
    lowest, highest = _ends(scores.values)
    if not np.isfinite(lowest + highest):
        raise EdgewiseError(
            "the scores on each example cannot be saved: some are not finite; look at the metric."
        )
    largest = max(-lowest, highest)
    fits = largest == 0 or LEAST <= largest <= MOST
    name = "F16" if half and fits else "F32"
    metadata = graph_metadata(scores.graph, {key: about[key] for key in ABOUT})
    metadata |= {"groups": json.dumps(list(scores.groups)), "pairs_sha256": pairs_sha256}
    metadata |= {"engine": engine} if engine else {}
    metadata |= {} if scores.level == EDGE else {"level": scores.level}
    target = examples_path(path)
    with replacing(target) as temporary, temporary.open("wb") as file:
        file.write(header(name, scores.values.shape, metadata))
        for some in _blocks(scores.values):
            file.write(some.astype(WIRE[name]).tobytes())
    return target


def _blocks(values: np.ndarray) -> Iterator[np.ndarray]:
    """Cut scores [examples, edges] into rows of some examples."""
    rows = max(1, ROWS_BYTES // max(1, 4 * values.shape[1]))
    return (values[i : i + rows] for i in range(0, len(values), rows))


def _ends(values: np.ndarray) -> tuple[float, float]:
    """Return the smallest and the largest score; NaN if one is."""
    blocks = list(_blocks(values))
    return float(np.min([x.min() for x in blocks])), float(np.max([x.max() for x in blocks]))


@typed
def read_example_scores(
    path: str | Path, graph: ComputationGraph | None = None
) -> ExampleScoresFile:
    """Read the sidecar of a circuit file (or at its own path), and check that it fits the graph.

    Raises:
        FileFormatError: there is none, it is damaged, or it is not of the circuit beside it.
    """
    file = Path(path) if Path(path).suffix == ".safetensors" else examples_path(path)
    if not file.is_file():
        raise FileFormatError(
            f"{file} does not exist; a discovery with `per_example` writes scores on each example."
        )
    beside_it = _circuit_beside(file)
    if graph is None and beside_it is not None:
        graph = beside_it.circuit.graph
    with opened_scores(file) as opened:
        found = _read(file, opened, graph)
    if beside_it is not None:
        _check_belongs(file, found, beside_it)
    return found


@typed
def example_scores_of(circuit: CircuitFile) -> ExampleScoresFile | None:
    """Return the scores on each example beside a circuit's file, None if there are none."""
    if circuit.path is None or not examples_path(circuit.path).is_file():
        return None
    return read_example_scores(circuit.path)


def _circuit_beside(file: Path) -> CircuitFile | None:
    """Return the circuit whose sidecar stands here, None where there is no such file."""
    stem = file.with_name(file.name.removesuffix(SUFFIX))
    path = stem.with_name(f"{stem.name}.json")
    if not file.name.endswith(SUFFIX) or not path.is_file():
        return None
    try:
        parsed = read_json(path)
    except FileFormatError:
        return None  # no file of this program: whose scores these are cannot be told
    its = isinstance(parsed, dict) and parsed.get("format") == FORMAT
    return read_circuit(path, parsed) if its else None


def _check_belongs(file: Path, found: ExampleScoresFile, circuit: CircuitFile) -> None:
    """Refuse scores that were written with an earlier circuit of that name."""
    noted = {key: str(circuit.discovery.get(key)) for key in ABOUT}
    task = circuit.task
    unequal = [
        f"{key} {found.about[key]} and {noted[key]}"
        for key in ABOUT
        if found.about[key] != noted[key]
    ]
    if found.pairs_sha256 != task["sha256"]:
        hashes = (str(one)[:12] for one in (found.pairs_sha256, task["sha256"]))
        unequal.append("prompt pairs {} and {}".format(*hashes))
    elif len(found.scores) != task["examples"]:
        unequal.append(f"pairs {len(found.scores):,} and {task['examples']:,}")
    if unequal:
        raise FileFormatError(
            f"{file} is not of the circuit beside it: they differ in {', '.join(unequal)} (scores "
            "and circuit). It is of an earlier circuit; find the circuit again with `per_example`, "
            "or move the file away."
        )


def _read(file: Path, opened: Any, graph: ComputationGraph | None) -> ExampleScoresFile:
    """Read an opened sidecar; its header is checked before anything of its size is made."""
    keys = (*METADATA, "groups", "pairs_sha256")
    metadata = checked_metadata(file, opened, "file of scores on each example", keys)
    tensor = opened.get_slice("scores")
    dtype, shape = tensor.get_dtype(), tensor.get_shape()
    graph = stated_graph(file, metadata) if graph is None else graph
    check_names(file, metadata, graph)
    if dtype not in WIRE or len(shape) != 2 or not shape[0] or shape[1] != graph.edge_count:
        raise FileFormatError(
            f"{file}: scores are {dtype} of shape {shape}; accepted: float16 or float32 of shape "
            f"[examples, {graph.edge_count}], an edge of the graph a column."
        )
    groups = parse_json(file, metadata["groups"], "a file of scores on each example")
    if not isinstance(groups, list) or not all(isinstance(one, str) for one in groups):
        raise FileFormatError(f"{file}: its groups are {short(groups)}; accepted: a list of texts.")
    if len(groups) != shape[0]:
        raise FileFormatError(
            f"{file}: it has {len(groups)} groups for {shape[0]} examples; accepted: one for each."
        )
    values = opened.get_tensor("scores")
    lowest, highest = _ends(values)
    if not np.isfinite(lowest + highest):
        example, column = np.argwhere(~np.isfinite(values))[0].tolist()
        edge = graph.edge_at(*np.argwhere(graph.reads)[column])
        raise FileFormatError(
            f"{file}: the score of {edge} on example {example + 1} is {values[example, column]}; "
            "accepted: finite numbers. Make the scores again."
        )
    found = leveled(file, metadata, partial(ExampleScores, graph, values, tuple(groups)))
    about = (*(metadata[key] for key in (*ABOUT, "pairs_sha256")), metadata.get("engine", ""))
    return ExampleScoresFile(found, *about)
