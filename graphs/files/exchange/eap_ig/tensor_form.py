"""EAP-IG's graphs as torch's tensors: nothing in the file is run, every tensor is checked."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from ....circuit import Circuit
from ....errors import FileFormatError
from ....graph import ComputationGraph
from ...circuit import unscored
from ...reading import RESULT_BYTES, read_bounded, short
from .values import FLAG, WHAT, ReadGraph, is_tensor, name_of, refuse, stated_graph

if TYPE_CHECKING:
    import torch

_MATRICES = ("edges_scores", "edges_in_graph", "edges")
_OF_NODES = ("nodes_in_graph", "nodes_scores")
_OF_NEURONS = ("neurons_in_graph", "neurons", "neurons_scores")
_TENSOR_KEYS = ("cfg", "src_nodes", "dst_nodes", *_MATRICES, *_OF_NODES, *_OF_NEURONS)


def of_tensors(path: str | Path, document: Any, kv_heads: int) -> ReadGraph:
    """Read what `load_tensors` gave; a FileFormatError names what is wrong in it."""
    graph, width = stated_graph(path, document, ("edges_in_graph",), kv_heads)
    senders, ports = graph.size[::-1]
    _check_names(path, document, graph)
    key = "edges_scores" if "edges_scores" in document else "edges"
    values = unscored(graph, 1)[0]
    if key in document:
        values = _scores(path, key, document, (senders, ports)).T
        infinite = np.argwhere(np.isinf(values) & graph.reads)
        refuse(
            path,
            [
                f"edge '{_edge(graph, row, column)}': {key} is {values[row, column]:g}; accepted: "
                "a finite number, or NaN for none"
                for row, column in infinite
            ],
        )
    kept = _flags(path, "edges_in_graph", document, (senders, ports))
    wrong = np.argwhere(graph.reads & ~_zero_or_one(kept).T)
    refuse(
        path,
        [
            f"edge '{_edge(graph, row, column)}': edges_in_graph is {kept[column, row]:g}; "
            f"accepted: {FLAG}"
            for row, column in wrong
        ],
    )
    circuit = Circuit(graph, (kept.T != 0) & graph.reads)  # EAP-IG marks places without an edge too
    flags, nodes = _node_tensors(path, document, graph)
    neurons, sums = _neuron_tensors(path, document, graph, width)
    unread = {str(key)[:60] for key in document if key not in _TENSOR_KEYS}
    own = any(nodes.values())
    return ReadGraph(
        circuit, values, width, unread, flags, neurons, nodes if own else sums, summed=not own
    )


def _edge(graph: ComputationGraph, row: int, column: int) -> str:
    return f"{name_of(graph.senders[column])}->{graph.ports[row]}"


def _zero_or_one(values: np.ndarray) -> np.ndarray:
    return np.asarray((values == 0) | (values == 1))


def _check_names(path: str | Path, document: Mapping[str, object], graph: ComputationGraph) -> None:
    """Refuse lists of names that are not those of the matrices' rows and columns, in order."""
    for key, things in (
        ("src_nodes", [name_of(node) for node in graph.senders]),
        ("dst_nodes", [str(port) for port in graph.ports]),
    ):
        if key not in document:
            continue
        given = document[key]
        if not isinstance(given, list | tuple | dict):
            raise FileFormatError(f"{path}: {key} is {short(given)}; accepted: a list of names.")
        names = list(given)
        if names != things:
            at = next((i for i, (a, b) in enumerate(zip(names, things, strict=False)) if a != b), 0)
            raise FileFormatError(
                f"{path} contradicts itself: {key} has {len(names)} names, at place {at} "
                f"{short(names[at : at + 1])}, where its cfg makes {len(things)}, there "
                f"{things[at : at + 1]}."
            )


def _node_tensors(
    path: str | Path, document: Mapping[str, object], graph: ComputationGraph
) -> tuple[dict[str, bool], dict[str, float]]:
    """Read the nodes' flags, and their scores."""
    names, flags = [name_of(node) for node in graph.senders], dict[str, bool]()
    if "nodes_in_graph" in document:
        given = _flags(path, "nodes_in_graph", document, (len(names),))
        refuse(
            path,
            [
                f"node '{name}': nodes_in_graph is {value:g}; accepted: {FLAG}"
                for name, value in zip(names, given.tolist(), strict=True)
                if value not in (0, 1)
            ],
        )
        flags = dict(zip(names, map(bool, given.tolist()), strict=True))
    if document.get("nodes_scores") is None:
        return flags, {}
    scores = _finite(path, "nodes_scores", document, (len(names),))
    return flags, dict(zip(names, scores.tolist(), strict=True))


def _neuron_tensors(
    path: str | Path, document: Mapping[str, object], graph: ComputationGraph, width: int | None
) -> tuple[dict[str, tuple[int, int]], dict[str, float]]:
    """Read how many neurons each node keeps, of how many, and the sums of their scores."""
    names, found = [name_of(node) for node in graph.senders], dict[str, tuple[int, int]]()
    for key in ("neurons_in_graph", "neurons"):
        if document.get(key) is None:
            continue
        kept = _flags(path, key, document, (len(names), width))
        wrong = np.argwhere(~_zero_or_one(kept))
        refuse(
            path,
            [
                f"node '{names[row]}': {key}[{column}] is {kept[row, column]:g}; accepted: {FLAG}"
                for row, column in wrong
            ],
        )
        for name, count in zip(names, (kept != 0).sum(axis=1).tolist(), strict=True):
            own, _ = found.get(name, (count, 0))  # where both are there, the stricter counts
            found[name] = (min(own, count), kept.shape[1])
    if document.get("neurons_scores") is None:
        return found, {}
    scores = _finite(path, "neurons_scores", document, (len(names), width))
    return found, dict(zip(names, scores.sum(axis=1, dtype=np.float64).tolist(), strict=True))


def _finite(path: str | Path, key: str, document: Mapping[str, object], shape: Shape) -> np.ndarray:
    """Return a tensor of scores, 0 where there is none; refuse infinite ones."""
    scores = _scores(path, key, document, shape)
    refuse(
        path,
        [
            f"{key}{list(map(int, place))} is {scores[tuple(place)]:g}; accepted: a finite number, "
            "or NaN for none"
            for place in np.argwhere(np.isinf(scores))
        ],
    )
    return np.asarray(np.nan_to_num(scores))


Shape = tuple["int | None", ...]


def _flags(path: str | Path, key: str, document: Mapping[str, object], shape: Shape) -> np.ndarray:
    """Return a tensor of flags, of bool or of numbers that are still to be checked."""
    tensor = _tensor(path, key, document, shape)
    plain = str(tensor.dtype) == "torch.bool"
    return np.asarray((tensor if plain else tensor.double()).detach().numpy())


def _scores(path: str | Path, key: str, document: Mapping[str, object], shape: Shape) -> np.ndarray:
    """Return a tensor of scores as float32."""
    tensor = _tensor(path, key, document, shape)
    if str(tensor.dtype) == "torch.bool":
        raise FileFormatError(
            f"{path} cannot be read as {WHAT}: {key} holds true and false; accepted: numbers."
        )
    return np.asarray(tensor.detach().float().numpy())


def _tensor(
    path: str | Path, key: str, document: Mapping[str, object], shape: Shape
) -> torch.Tensor:
    value = document[key]
    if not _is_plain(value, shape):
        sizes = ", ".join("d_model" if size is None else str(size) for size in shape)
        found = f"{value.dtype} of shape {list(value.shape)}" if is_tensor(value) else short(value)
        raise FileFormatError(
            f"{path}: {key} is no tensor of shape [{sizes}] with its numbers in memory; found: "
            f"{found}; accepted: float, int or bool."
        )
    return value


def _is_plain(value: object, shape: Shape) -> TypeGuard[torch.Tensor]:
    """Tell a plain tensor of a shape that has its numbers in memory, not one stretched over it."""
    import torch

    whole = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
    return (
        isinstance(value, torch.Tensor)
        and value.dim() == len(shape)
        and all(b is None or a == b for a, b in zip(value.shape, shape, strict=True))
        and value.layout == torch.strided
        and (value.is_floating_point() or value.dtype in whole)
        and value.device.type == "cpu"
        and value.untyped_storage().nbytes() >= value.numel() * value.element_size()
    )


def load_tensors(path: str | Path) -> Any:
    """Load a file of torch that holds tensors, names and numbers only."""
    import torch

    content = read_bounded(path, RESULT_BYTES, WHAT)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:  # what torch.save writes, unpacked
            if sum(part.file_size for part in archive.infolist()) > len(content):
                raise ValueError("it is compressed")
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises what its archive and tensor readers raise
        asked = _ASKED.search(str(error))
        if asked is not None or "weights_only" in str(error):
            what = "something else" if asked is None else asked[1].rstrip(".")
            raise FileFormatError(
                f"{path} holds more than tensors, names and numbers: reading it would run or make "
                f"{what}, so it is not read. Accepted: what EAP-IG's to_pt writes; where you "
                "trust the file, load it yourself and save a mapping of plain tensors."
            ) from None
        reason = (str(error).partition("\n")[0] or type(error).__name__).rstrip(".")
        raise FileFormatError(
            f"{path} is damaged, or no file of torch: {reason}. Accepted: what EAP-IG's to_pt "
            "writes; restore the whole file, or make it again."
        ) from None


_ASKED = re.compile(r"\bGLOBAL ([\w.]+)")
"""How torch names what a file asks for beside tensors."""
