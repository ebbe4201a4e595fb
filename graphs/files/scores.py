"""Scores sidecars: `NAME.scores.safetensors` beside `NAME.json`.

One float32 tensor `scores` [ports, senders], NaN where no edge exists or none was measured, and
string metadata: `senders` and `ports` (JSON lists in that order), `method`, `metric`, `ablation`,
and `graph` (the shape as a JSON object, so that the sidecar can be read alone). `level`: `node`
where all edges out of a node have one score; absent where each edge has its own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..calls.typed import typed
from ..errors import EdgewiseError, FileFormatError
from ..graph import ComputationGraph
from ..levels.nodes import EDGE
from ..scores import Scores
from .atomic import write_bytes
from .circuit import OPTIONS, SHAPE, TOLD, CircuitFile, graph_of, rarer_keys
from .reading import listed, parse_json, short

SUFFIX = ".scores.safetensors"
ABOUT = ("method", "metric", "ablation")
METADATA = ("senders", "ports", *ABOUT)
SAME = 1e-4
"""By how much of itself a score may differ from the one that a circuit's file has."""

WIDTHS = {"F16": 2, "F32": 4, "U8": 1}
"""Bytes of a number, by its name in safetensors files."""


@typed
@dataclass(frozen=True)
class ScoresFile:
    """Scores of the edges of a graph, and what they are scores of.

    `engine`: name and version of what computed them, as JSON; empty in older files.
    """

    scores: Scores
    method: str
    metric: str
    ablation: str
    engine: str = ""

    @property
    def about(self) -> dict[str, str]:
        """Return what they are scores of."""
        return {key: getattr(self, key) for key in ABOUT}


@typed
def scores_path(path: str | Path) -> Path:
    """Return where the sidecar of a circuit file stands.

    >>> scores_path("runs/ioi.json").as_posix(), scores_path("a.scores.safetensors").as_posix()
    ('runs/ioi.scores.safetensors', 'a.scores.safetensors')
    """
    return beside(path, SUFFIX)


def beside(path: str | Path, suffix: str) -> Path:
    """Return where a circuit file's sidecar of a kind stands, or the path of one itself."""
    given = Path(path)
    if given.name.endswith(suffix):
        return given
    stem = given.name[: -len(".json")] if given.suffix == ".json" else given.name
    return given.with_name(stem + suffix)


@typed
def write_scores(
    path: str | Path, scores: Scores, *, method: str, metric: str, ablation: str, engine: str = ""
) -> Path:
    """Write the sidecar of a circuit file (or at its own path), all or nothing; return where.

    `engine`: as of a `ScoresFile`.
    """
    if np.isinf(scores.values).any():
        raise EdgewiseError("the scores cannot be saved: some are infinite; look at the metric.")
    metadata = graph_metadata(scores.graph, ScoresFile(scores, method, metric, ablation).about)
    metadata |= {"engine": engine} if engine else {}
    metadata |= {} if scores.level == EDGE else {"level": scores.level}
    content = np.ascontiguousarray(scores.values, dtype="<f4").tobytes()
    write_bytes(scores_path(path), header("F32", scores.values.shape, metadata) + content)
    return scores_path(path)


def graph_metadata(graph: ComputationGraph, about: Mapping[str, str]) -> dict[str, str]:
    """Return a sidecar's metadata: the graph's names, what the scores are of, and its shape."""
    usual = (*SHAPE, *OPTIONS, *(key for key in TOLD if getattr(graph, key)))
    shape = {k: v for k, v in asdict(graph).items() if k in usual or k in rarer_keys(graph)}
    return {
        "senders": json.dumps([str(node) for node in graph.senders]),
        "ports": json.dumps([str(port) for port in graph.ports]),
        **about,
        "graph": json.dumps(shape),
    }


def header(
    dtype: str, shape: Sequence[int], metadata: Mapping[str, str], name: str = "scores"
) -> bytes:
    """Return what precedes the values of a safetensors file with one tensor.

    The library's own order of metadata is random.
    """
    size = WIDTHS[dtype] * math.prod(shape)
    tensor = {"dtype": dtype, "shape": list(shape), "data_offsets": [0, size]}
    text = json.dumps({"__metadata__": dict(metadata), name: tensor}).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


@typed
def read_scores(path: str | Path, graph: ComputationGraph | None = None) -> ScoresFile:
    """Read the sidecar of a circuit file (or at its own path), and check that it fits the graph."""
    file = Path(path) if Path(path).suffix == ".safetensors" else scores_path(path)
    if not file.is_file():
        raise FileFormatError(f"{file} does not exist; `write_scores` writes scores.")
    with opened_scores(file) as opened:
        return _read(file, opened, graph)


@contextmanager
def opened_scores(file: Path) -> Iterator[Any]:
    """Open a safetensors file; a FileFormatError says if it is none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np") as opened:
            yield opened
    except (SafetensorError, OSError) as error:
        raise FileFormatError(
            f"{file} is damaged or no safetensors file ({error}); make the scores again."
        ) from None


def _read(file: Path, opened: Any, graph: ComputationGraph | None) -> ScoresFile:
    """Read an opened sidecar; its header is checked before anything of its size is made."""
    metadata = checked_metadata(file, opened, "scores file", METADATA)
    tensor = opened.get_slice("scores")
    dtype, shape = tensor.get_dtype(), tensor.get_shape()
    if "groups" in metadata:
        raise FileFormatError(
            f"{file} holds scores on each example, not those of the circuit; accepted: a file of "
            f"scores, NAME{SUFFIX}."
        )
    stated, graph = graph is None, stated_graph(file, metadata) if graph is None else graph
    fits = dtype == "F32" and shape == list(graph.size)
    if fits or not stated:
        check_names(file, metadata, graph)
    if not fits:
        raise FileFormatError(
            f"{file}: scores are {dtype} of shape {shape}; accepted: float32 of shape "
            f"{list(graph.size)} [ports, senders]."
        )
    values = opened.get_tensor("scores")
    wrong = ~np.isnan(values) & ~graph.reads
    if wrong.any():
        raise FileFormatError(
            f"{file}: {int(wrong.sum())} scores stand where no edge exists (first: "
            f"{graph.edge_at(*np.argwhere(wrong)[0])}); accepted there: NaN."
        )
    if np.isinf(values).any():
        edge = graph.edge_at(*np.argwhere(np.isinf(values))[0])
        raise FileFormatError(f"{file}: the score of {edge} is infinite.")
    about = (*(metadata[key] for key in ABOUT), metadata.get("engine", ""))
    return ScoresFile(leveled(file, metadata, partial(Scores, graph, values)), *about)


T = TypeVar("T")


def leveled(file: Path, metadata: Mapping[str, str], make: Callable[..., T]) -> T:
    """Make scores of the level that a file states; a FileFormatError says if they are not of it."""
    try:
        return make(level=metadata.get("level", EDGE))
    except EdgewiseError as error:
        raise FileFormatError(f"{file}: {error}") from None


def checked_metadata(file: Path, opened: Any, what: str, keys: Sequence[str]) -> dict[str, str]:
    """Return the metadata of a file with one tensor, `scores`; refuse others, and missing keys."""
    names = list(opened.keys())
    if names != ["scores"]:
        raise FileFormatError(
            f"{file} is no {what}: it holds the tensors {listed(names) or '(none)'}; "
            "accepted: exactly one, scores."
        )
    metadata = dict(opened.metadata() or {})
    if lacking := [key for key in keys if key not in metadata]:
        raise FileFormatError(f"{file} is no {what}; its metadata lacks {', '.join(lacking)}.")
    return metadata


def stated_graph(file: Path, metadata: Mapping[str, str]) -> ComputationGraph:
    """Return the graph that a sidecar states."""
    if "graph" not in metadata:
        raise FileFormatError(f"{file} does not say its graph; read it with its circuit's.")
    fields = parse_json(file, metadata["graph"], "a scores file")
    if not isinstance(fields, dict):
        raise FileFormatError(f"{file}: its graph is {short(fields)}; accepted: an object.")
    return graph_of(file, fields)


def check_names(file: Path, metadata: Mapping[str, str], graph: ComputationGraph) -> None:
    """Refuse a sidecar whose senders or ports are not the graph's."""
    for key, expected in (("senders", graph.senders), ("ports", graph.ports)):
        _check_names(file, key, metadata, [str(one) for one in expected])


def _check_names(file: Path, key: str, metadata: Mapping[str, str], expected: list[str]) -> None:
    found = parse_json(file, metadata[key], "a scores file")
    if not isinstance(found, list):
        raise FileFormatError(f"{file}: its {key} cannot be read; accepted: a JSON list of names.")
    if found != expected:
        first = next(
            (i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b),
            min(len(found), len(expected)),
        )
        names = [str(x[first])[:60] if first < len(x) else "none" for x in (found, expected)]
        raise FileFormatError(
            f"{file} is of another graph: it has {len(found)} {key} for {len(expected)}, and "
            f"number {first + 1} is {names[0]} where {names[1]} is expected."
        )


@typed
def read_scores_of(circuit: CircuitFile) -> ScoresFile:
    """Read the sidecar beside a circuit's file; those of an earlier circuit are refused.

    They are by the circuit's method, metric and ablation, and have its edges' own scores.
    """
    if circuit.path is None:
        raise EdgewiseError("the circuit is of no file, so nothing stands beside it.")
    path, graph = scores_path(circuit.path), circuit.circuit.graph
    found = read_scores(circuit.path, graph)
    noted = {key: str(circuit.discovery.get(key)) for key in ABOUT}
    unequal = [f"{key} {found.about[key]} and {noted[key]}" for key in ABOUT
               if found.about[key] != noted[key]]  # fmt: skip
    own, beside = circuit.edge_scores, found.scores.values
    assert own is not None  # CircuitFile.__post_init__
    with np.errstate(invalid="ignore"):
        other = np.abs(own - beside) > SAME * np.maximum(np.abs(own), np.abs(beside))
    if not unequal and other.any():
        row, column = (int(i) for i in np.argwhere(other)[0])
        edge = graph.edge_at(row, column)
        unequal.append(f"{edge}, of score {beside[row, column]:.4g} and {own[row, column]:.4g}")
    if unequal:
        raise FileFormatError(
            f"{path} is not of the circuit beside it: they differ in {', '.join(unequal)} (scores "
            "and circuit). It is of an earlier circuit; find the circuit again with `scores`, or "
            "move the file away."
        )
    return found
