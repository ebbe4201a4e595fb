"""EAP-IG's graphs, as JSON and as torch's tensors: checked entry by entry, and written.

What counts is what EAP-IG itself goes by when it runs a graph: the edges' `in_graph`. It makes the
nodes' anew from the edges, so a node's flag decides nothing; where the two disagree, that is said.
A flag is true, false, 1 or 0; a score is a number, and null, NaN or nothing where an edge has none.
Edges and nodes that a file does not list are not in the circuit.

Nodes may keep some of their neurons only. Circuits here are of whole edges, so a graph is read only
if every node that writes a kept edge keeps all of its neurons.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from ...calls.typed import typed
from ...circuit import Circuit
from ...errors import EdgewiseError, FileFormatError, GraphMismatch
from ...graph import ComputationGraph
from ...names import Kind, Node
from ...scores import Scores
from ..atomic import write_bytes, write_text
from ..circuit import graph_of, unscored
from ..reading import RESULT_BYTES, is_number, listed, parse_json, read_bounded, read_text, short
from .kinds import holds_tensors

if TYPE_CHECKING:
    import torch

_UNLISTED = 2**23
"""Most places of a mask for a file that lists few edges: twice that of Llama-3.1-8B."""

_CFG = {"layers": "n_layers", "heads": "n_heads", "parallel": "parallel_attn_mlp"}
_WHAT = "an EAP-IG graph"
FLAG = "true, false, 1 or 0"
_NODE_KEYS = ("in_graph", "score", "neurons", "neurons_scores")
_EDGE_KEYS = ("in_graph", "score")
_MATRICES = ("edges_scores", "edges_in_graph", "edges")
_OF_NODES = ("nodes_in_graph", "nodes_scores")
_OF_NEURONS = ("neurons_in_graph", "neurons", "neurons_scores")
_TENSOR_KEYS = ("cfg", "src_nodes", "dst_nodes", *_MATRICES, *_OF_NODES, *_OF_NEURONS)


@dataclass(frozen=True, eq=False)
class EapIg:
    """What a graph of EAP-IG says: the circuit and scores of its edges, and what else to know.

    `scores` is None where no edge has one, or all are 0. `notes`: what is said of it beside.
    `other_scores`: whether nodes or neurons have scores, which are not read.
    """

    circuit: Circuit
    scores: Scores | None
    d_model: int | None
    notes: tuple[str, ...]
    other_scores: bool


@typed
def read_eap_ig(path: str | Path, *, kv_heads: int = 0) -> tuple[Circuit, Scores]:
    """Read a graph saved by EAP-IG, which does not tell `kv_heads`; nothing in a `.pt` is run.

    Raises:
        FileFormatError: it is no such graph, an entry is of a wrong kind, or nodes keep only some
            of their neurons; names the first few places.
    """
    found = parse_eap_ig(path, kv_heads=kv_heads)
    scores = found.scores
    if scores is None:
        scores = Scores(found.circuit.graph, unscored(found.circuit.graph, 1)[0])
    return found.circuit, scores


def parse_eap_ig(path: str | Path, document: object = None, *, kv_heads: int = 0) -> EapIg:
    """Read a graph of EAP-IG with everything that is to be said of it; `document`: its JSON."""
    if document is None and holds_tensors(path):
        return _of_tensors(path, _load_tensors(path), kv_heads)
    if document is None:
        document = parse_json(path, read_text(path, _WHAT), _WHAT, allow_nan=True)
    return _of_json(path, document, kv_heads)


def _graph(path: str | Path, document: Any, keys: tuple[str, ...], kv_heads: int) -> Any:
    """Return the graph that `cfg` describes, and the model's width where it says it."""
    if not isinstance(document, dict):
        raise FileFormatError(
            f"{path} is no EAP-IG graph: it holds {_what_it_is(document)}; accepted: a mapping "
            f"with cfg and {' and '.join(keys)}, as EAP-IG writes it."
        )
    cfg = document["cfg"] if isinstance(document.get("cfg"), dict) else {}
    lacking = [f"cfg.{key}" for key in _CFG.values() if key not in cfg]
    lacking += [key for key in keys if key not in document]
    if lacking:
        found = ", ".join(f"'{str(key)[:40]}'" for key in list(document)[:8]) or "nothing"
        raise FileFormatError(
            f"{path} is no EAP-IG graph; missing: {', '.join(lacking)}; it holds {found}. "
            "Accepted: what EAP-IG's to_json or to_pt writes."
        )
    width = cfg.get("d_model")
    if width is not None and (type(width) is not int or width < 1):
        raise FileFormatError(f"{path}: cfg.d_model is {short(width)}; accepted: a number.")
    shape = {ours: cfg[theirs] for ours, theirs in _CFG.items()}
    groups = kv_heads or cfg.get("n_key_value_heads") or shape["heads"]
    return graph_of(path, {**shape, "kv_heads": groups}), width


def _refuse(path: str | Path, problems: list[str]) -> None:
    if problems:
        raise FileFormatError(f"{path} cannot be read as {_WHAT}: {listed(problems)}.")


# -- JSON ----------------------------------------------------------------------------------------


def _of_json(path: str | Path, document: Any, kv_heads: int) -> EapIg:
    graph, width = _graph(path, document, ("edges",), kv_heads)
    edges, nodes = document["edges"], document.get("nodes", {})
    _refuse(
        path,
        [
            f"{key} is {short(value)}; accepted: an object of entries by their names"
            for key, value in (("edges", edges), ("nodes", nodes))
            if not isinstance(value, dict)
        ],
    )
    ports, senders = graph.size
    if ports * senders > max(_UNLISTED, 100 * len(edges)):
        raise FileFormatError(
            f"{path} describes a graph of {ports} ports and {senders} senders, but lists only "
            f"{len(edges)} edges; EAP-IG lists them all."
        )
    problems: list[str] = []
    unread = {key for key in document if key not in ("cfg", "nodes", "edges", "neurons")}
    kept, values = np.zeros_like(graph.reads), unscored(graph, 1)[0]
    columns = {_name(node): column for column, node in enumerate(graph.senders)}
    rows = {str(port): row for row, port in enumerate(graph.ports)}
    for name, entry in edges.items():
        sender, _, port = name.partition("->")
        at = (rows.get(port, -1), columns.get(sender, -1))
        if min(at) < 0 or not graph.reads[at]:
            problems.append(f"edge '{name[:60]}': {_no_edge(graph, name)}")
            continue
        wrong = list(_wrong_entry(f"edge '{name}'", entry, _EDGE_KEYS))
        problems += wrong
        if not wrong:
            unread.update(f"{key} of edges" for key in entry if key not in _EDGE_KEYS)
            kept[at] = bool(entry["in_graph"])
            score = entry.get("score")
            values[at] = np.nan if score is None else score
    flags, neurons, scored = _nodes(graph, nodes, unread, problems)
    if "neurons" in document:
        of_all = document["neurons"]
        if isinstance(of_all, dict):
            neurons |= of_all
        else:
            problems.append(f"neurons is {short(of_all)}; accepted: lists by the nodes' names")
    _refuse(path, problems)
    whole = {
        name: _kept_neurons(path, f"node '{name}'", entry, width, graph.heads)
        for name, entry in neurons.items()
    }
    circuit = Circuit(graph, kept)
    _refuse_parts(path, circuit, whole, width)
    return _found(circuit, values, width, unread, flags, scored=scored)


def _no_edge(graph: ComputationGraph, name: str) -> str:
    """Say why a name is no edge of the graph."""
    try:
        graph.locate("embed" + name[5:] if name.startswith("input->") else name)
    except EdgewiseError as error:
        return str(error).rstrip(".")
    return "no such edge; EAP-IG writes edges as input->a0.h1<q>, a0.h1->m2, m2->logits"


def _wrong_entry(place: str, entry: object, keys: tuple[str, ...]) -> Iterator[str]:
    """Yield what is of a wrong kind in one entry, with its place."""
    if not isinstance(entry, dict):
        yield f"{place} is {short(entry)}; accepted: an object with {' and '.join(keys)}"
        return
    if "in_graph" not in entry:
        yield f"{place}: 'in_graph' is missing; accepted: {FLAG}"
    elif not _is_flag(entry["in_graph"]):
        yield f"{place}: in_graph is {short(entry['in_graph'])}; accepted: {FLAG}"
    score = entry.get("score")
    if score is not None and (not is_number(score) or _infinite(score)):
        yield f"{place}: score is {short(score)}; accepted: a finite number, or null for none"


def _is_flag(value: object) -> bool:
    return isinstance(value, bool) or (is_number(value) and value in (0, 1))


def _infinite(value: float) -> bool:
    """Tell a number that no float32 holds."""
    return abs(value) >= 3.4e38  # NaN is not


def _nodes(
    graph: ComputationGraph, nodes: Mapping[str, Any], unread: set[str], problems: list[str]
) -> tuple[dict[str, bool], dict[str, object], bool]:
    """Read nodes: their flags, their lists of neurons, and whether they have scores."""
    known = {*map(_name, graph.senders), "logits"}
    flags, neurons, scored = dict[str, bool](), dict[str, object](), False
    for name, entry in nodes.items():
        if name not in known:
            problems.append(f"node {short(name)} is not in a graph of {graph.describe()}")
            continue
        if isinstance(entry, bool):  # the form of EAP-IG's first years
            flags[name] = entry
            continue
        wrong = list(_wrong_entry(f"node '{name}'", entry, ("in_graph",)))
        problems += wrong
        if wrong:
            continue
        unread.update(f"{key} of nodes" for key in entry if key not in _NODE_KEYS)
        flags[name] = bool(entry["in_graph"])
        if "neurons" in entry:
            neurons[name] = entry["neurons"]
        if "neurons_scores" in entry:
            values = np.asarray(_numbers(f"node '{name}'", "neurons_scores", entry, problems))
            scored |= bool((np.nan_to_num(values) != 0).any())
        score: float = entry.get("score") or 0.0
        scored |= score == score and score != 0  # noqa: PLR0124 - NaN is no score
    return flags, neurons, scored


def _numbers(place: str, key: str, entry: Mapping[str, object], problems: list[str]) -> list[float]:
    """Return the numbers of a list, or of the lists in it; note what is something else."""
    values = entry[key]
    flat = list(_flat(values)) if isinstance(values, list) else [("", values)]
    wrong = [(at, one) for at, one in flat if not at or not is_number(one)]
    problems += [
        f"{place}: {key}{at} is {short(one)}; accepted: a list of numbers" for at, one in wrong[:1]
    ]
    numbers: list[Any] = [] if wrong else [one for _, one in flat]
    return numbers


def _flat(values: Any) -> Iterator[tuple[str, Any]]:
    """Yield the items of a list, or of the lists that it holds, with their places."""
    for i, value in enumerate(values):
        if isinstance(value, list):
            yield from ((f"[{i}][{j}]", inner) for j, inner in enumerate(value))
        else:
            yield f"[{i}]", value


def _kept_neurons(
    path: str | Path, place: str, entry: object, width: int | None, heads: int
) -> tuple[int, int]:
    """Return how many neurons of a node are kept, and of how many.

    EAP-IG writes for each head the lists of all heads of its layer: a node is then whole if all
    of these are.
    """
    if not isinstance(entry, list) or not entry:
        raise FileFormatError(
            f"{path} cannot be read as {_WHAT}: {place}: neurons is {short(entry)}; accepted: a "
            "list with one flag for each neuron."
        )
    flat = list(_flat(entry))
    _refuse(
        path,
        [
            f"{place}: neurons{at} is {short(value)}; accepted: {FLAG}"
            for at, value in flat
            if not _is_flag(value)
        ],
    )
    nested = isinstance(entry[0], list)
    if width is not None and len(flat) != width * (heads if nested else 1):
        raise FileFormatError(
            f"{path} cannot be read as {_WHAT}: {place}: neurons has {len(flat)} flags; accepted: "
            f"{width}, as cfg.d_model says."
        )
    return sum(bool(value) for _, value in flat), len(flat)


def _refuse_parts(
    path: str | Path, circuit: Circuit, neurons: Mapping[str, tuple[int, int]], width: int | None
) -> None:
    """Refuse a circuit in which a node that writes a kept edge lacks neurons."""
    if not neurons:
        return
    writers = np.flatnonzero(circuit.kept.any(axis=0))
    names = [_name(circuit.graph.senders[column]) for column in writers]
    every = width or max(total for _, total in neurons.values())
    in_part = []
    for name in names:
        kept, total = neurons.get(name, (0, every))
        if kept < total:
            in_part.append(f"{name} {kept or 'none'} of {total}")
    if in_part:
        raise FileFormatError(
            f"{path} is a circuit of neurons, which cannot be read: of the nodes that write its "
            f"{len(circuit):,} kept edges, {len(in_part)} keep only some of their neurons, or none "
            f"({listed(in_part)}). Circuits here are of whole edges. Accepted: graphs whose nodes "
            "keep all of their neurons, or that have no `neurons`, until there is a neuron level."
        )


def _found(
    circuit: Circuit,
    values: np.ndarray,
    width: int | None,
    unread: set[str],
    flags: Mapping[str, bool],
    *,
    scored: bool,
) -> EapIg:
    """Put together what was read, with notes on what it says beside."""
    graph, notes = circuit.graph, []
    if unread:
        notes.append(f"not read: {', '.join(sorted(map(str, unread))[:5])}")
    if scored:
        notes.append("scores of nodes and neurons are not read")
    pruned = circuit.prune_dangling()
    live = {_name(node) for node in pruned.nodes if node in graph.sender_index}
    left_out = sorted(name for name in live if flags.get(name) is False)
    if left_out:
        notes.append(
            f"{len(left_out)} nodes are marked as left out, but write and read kept edges "
            f"({listed(left_out)}); the edges decide, as in EAP-IG"
        )
    if loose := len(circuit) - len(pruned):
        notes.append(
            f"{loose:,} kept edges lead nowhere, or come from nowhere; they are kept here, and "
            "EAP-IG drops them when it runs a circuit"
        )
    some = bool((np.nan_to_num(values[graph.reads]) != 0).any())
    return EapIg(circuit, Scores(graph, values) if some else None, width, tuple(notes), scored)


# -- torch's tensors -----------------------------------------------------------------------------


def _of_tensors(path: str | Path, document: Any, kv_heads: int) -> EapIg:
    graph, width = _graph(path, document, ("edges_in_graph",), kv_heads)
    senders, ports = graph.size[::-1]
    _check_names(path, document, graph)
    key = "edges_scores" if "edges_scores" in document else "edges"
    values = unscored(graph, 1)[0]
    if key in document:
        values = _scores(path, key, document, (senders, ports)).T
        infinite = np.argwhere(np.isinf(values) & graph.reads)
        _refuse(
            path,
            [
                f"edge '{_edge(graph, row, column)}': {key} is {values[row, column]:g}; accepted: "
                "a finite number, or NaN for none"
                for row, column in infinite
            ],
        )
    kept = _flags(path, "edges_in_graph", document, (senders, ports))
    wrong = np.argwhere(graph.reads & ~_zero_or_one(kept).T)
    _refuse(
        path,
        [
            f"edge '{_edge(graph, row, column)}': edges_in_graph is {kept[column, row]:g}; "
            f"accepted: {FLAG}"
            for row, column in wrong
        ],
    )
    circuit = Circuit(graph, (kept.T != 0) & graph.reads)  # EAP-IG marks places without an edge too
    flags, scored = _node_tensors(path, document, graph)
    scored |= _neuron_tensors(path, document, circuit, width)
    unread = {str(key)[:60] for key in document if key not in _TENSOR_KEYS}
    return _found(circuit, values, width, unread, flags, scored=scored)


def _edge(graph: ComputationGraph, row: int, column: int) -> str:
    return f"{_name(graph.senders[column])}->{graph.ports[row]}"


def _zero_or_one(values: np.ndarray) -> np.ndarray:
    return np.asarray((values == 0) | (values == 1))


def _check_names(path: str | Path, document: Mapping[str, object], graph: ComputationGraph) -> None:
    """Refuse lists of names that are not those of the matrices' rows and columns, in order."""
    for key, things in (
        ("src_nodes", [_name(node) for node in graph.senders]),
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
) -> tuple[dict[str, bool], bool]:
    """Read the nodes' flags, and whether nodes have scores."""
    names, flags = [_name(node) for node in graph.senders], dict[str, bool]()
    if "nodes_in_graph" in document:
        given = _flags(path, "nodes_in_graph", document, (len(names),))
        _refuse(
            path,
            [
                f"node '{name}': nodes_in_graph is {value:g}; accepted: {FLAG}"
                for name, value in zip(names, given.tolist(), strict=True)
                if value not in (0, 1)
            ],
        )
        flags = dict(zip(names, map(bool, given.tolist()), strict=True))
    if document.get("nodes_scores") is None:
        return flags, False
    scores = _scores(path, "nodes_scores", document, (len(names),))
    return flags, bool((np.nan_to_num(scores) != 0).any())


def _neuron_tensors(
    path: str | Path, document: Mapping[str, object], circuit: Circuit, width: int | None
) -> bool:
    """Refuse nodes that keep some of their neurons only; tell whether neurons have scores."""
    senders = circuit.graph.senders
    for key in ("neurons_in_graph", "neurons"):
        if document.get(key) is None:
            continue
        kept = _flags(path, key, document, (len(senders), width))
        wrong = np.argwhere(~_zero_or_one(kept))
        _refuse(
            path,
            [
                f"node '{_name(senders[row])}': {key}[{column}] is {kept[row, column]:g}; "
                f"accepted: {FLAG}"
                for row, column in wrong
            ],
        )
        counts = (kept != 0).sum(axis=1).tolist()
        found = {_name(node): (n, kept.shape[1]) for node, n in zip(senders, counts, strict=True)}
        _refuse_parts(path, circuit, found, width)
    if document.get("neurons_scores") is None:
        return False
    scores = _scores(path, "neurons_scores", document, (len(senders), width))
    return bool((np.nan_to_num(scores) != 0).any())


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
            f"{path} cannot be read as {_WHAT}: {key} holds true and false; accepted: numbers."
        )
    return np.asarray(tensor.detach().float().numpy())


def _tensor(
    path: str | Path, key: str, document: Mapping[str, object], shape: Shape
) -> torch.Tensor:
    value = document[key]
    if not _is_plain(value, shape):
        sizes = ", ".join("d_model" if size is None else str(size) for size in shape)
        found = f"{value.dtype} of shape {list(value.shape)}" if _is_tensor(value) else short(value)
        raise FileFormatError(
            f"{path}: {key} is no tensor of shape [{sizes}] with its numbers in memory; found: "
            f"{found}; accepted: float, int or bool."
        )
    return value


def _is_tensor(value: object) -> TypeGuard[torch.Tensor]:
    import torch

    return isinstance(value, torch.Tensor)


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


def _load_tensors(path: str | Path) -> Any:
    import torch

    content = read_bounded(path, RESULT_BYTES, _WHAT)
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


def _what_it_is(document: object) -> str:
    """Name what stands in a mapping's place."""
    if isinstance(document, list | tuple):
        return f"a list of {len(document):,}"
    return "a tensor" if _is_tensor(document) else short(document)


# -- writing -------------------------------------------------------------------------------------


@typed
def write_eap_ig(
    path: str | Path, circuit: Circuit, scores: Scores | None = None, *, d_model: int
) -> None:
    """Write a circuit as EAP-IG reads it, as `.json` or `.pt`; edges without a score get 0."""
    graph = circuit.graph
    plain = ComputationGraph(graph.layers, graph.heads, graph.kv_heads, parallel=graph.parallel)
    alien = [
        one.name for one in fields(graph) if getattr(graph, one.name) != getattr(plain, one.name)
    ]
    if alien:
        raise GraphMismatch(f"EAP-IG's format has no graphs with {', '.join(alien)}.")
    if scores is not None and scores.graph != graph:
        raise GraphMismatch("the scores are of another graph than the circuit.")
    values = np.zeros(graph.reads.shape, np.float32) if scores is None else scores.values
    values = np.nan_to_num(values, nan=0.0)
    cfg = {theirs: getattr(graph, ours) for ours, theirs in _CFG.items()} | {"d_model": d_model}
    touched = set(circuit.nodes)
    if Path(path).suffix == ".pt":
        import torch

        tensors = {
            "cfg": cfg,
            "src_nodes": [_name(node) for node in graph.senders],
            "dst_nodes": [str(port) for port in graph.ports],
            "edges_scores": torch.tensor(values.T.copy()),
            "edges_in_graph": torch.tensor(circuit.kept.T.copy()),
            "nodes_in_graph": torch.tensor([node in touched for node in graph.senders]),
        }
        content = io.BytesIO()
        torch.save(tensors, content)  # to a path, it reports a full disk as no other writer does
        write_bytes(path, content.getvalue())
        return
    nodes = [*graph.senders, Node(Kind.LOGITS)]
    document = {
        "cfg": cfg,
        "nodes": {_name(node): {"in_graph": node in touched} for node in nodes},
        "edges": {
            f"{_name(graph.senders[column])}->{graph.ports[row]}": {
                "score": float(values[row, column]),
                "in_graph": bool(circuit.kept[row, column]),
            }
            for row, column in np.argwhere(graph.reads)
        },
    }
    write_text(path, json.dumps(document, allow_nan=False))


def _name(node: Node) -> str:
    """Call a node as EAP-IG does."""
    return "input" if node.kind is Kind.EMBED else str(node)
