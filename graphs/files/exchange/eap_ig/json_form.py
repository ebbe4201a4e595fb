"""EAP-IG's graphs as JSON, checked entry by entry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ....circuit import Circuit
from ....errors import EdgewiseError, FileFormatError
from ....graph import ComputationGraph
from ...circuit import unscored
from ...reading import is_number, short
from .values import FLAG, WHAT, ReadGraph, flat, infinite, is_flag, name_of, refuse, stated_graph

_UNLISTED = 2**23
"""Most places of a mask for a file that lists few edges: twice that of Llama-3.1-8B."""

_NODE_KEYS = ("in_graph", "score", "neurons", "neurons_scores")
_EDGE_KEYS = ("in_graph", "score")


@dataclass
class _Nodes:
    """What a file says of nodes, by name; `neurons` as they stand; `sums`: of their scores."""

    flags: dict[str, bool] = field(default_factory=dict)
    neurons: dict[str, object] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    sums: dict[str, float] = field(default_factory=dict)


def of_json(path: str | Path, document: Any, kv_heads: int) -> ReadGraph:
    """Read a document; a FileFormatError names what is wrong in it."""
    graph, width = stated_graph(path, document, ("edges",), kv_heads)
    edges, nodes = document["edges"], document.get("nodes", {})
    refuse(
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
    columns = {name_of(node): column for column, node in enumerate(graph.senders)}
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
    found = _nodes(graph, nodes, unread, problems)
    if "neurons" in document:
        of_all = document["neurons"]
        if isinstance(of_all, dict):
            found.neurons |= of_all
        else:
            problems.append(f"neurons is {short(of_all)}; accepted: lists by the nodes' names")
    refuse(path, problems)
    neurons = {
        name: _kept_neurons(path, name, entry, width, graph.heads)
        for name, entry in found.neurons.items()
    }
    own = any(found.scores.values())
    return ReadGraph(
        Circuit(graph, kept), values, width, unread, found.flags, neurons,
        found.scores if own else found.sums, summed=not own,
    )  # fmt: skip


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
    elif not is_flag(entry["in_graph"]):
        yield f"{place}: in_graph is {short(entry['in_graph'])}; accepted: {FLAG}"
    score = entry.get("score")
    if score is not None and (not is_number(score) or infinite(score)):
        yield f"{place}: score is {short(score)}; accepted: a finite number, or null for none"


def _nodes(
    graph: ComputationGraph, nodes: Mapping[str, Any], unread: set[str], problems: list[str]
) -> _Nodes:
    """Read nodes: their flags, lists of neurons, and scores."""
    known, found = {*map(name_of, graph.senders), "logits"}, _Nodes()
    for name, entry in nodes.items():
        if name not in known:
            problems.append(f"node {short(name)} is not in a graph of {graph.describe()}")
            continue
        if isinstance(entry, bool):  # the form of EAP-IG's first years
            found.flags[name] = entry
            continue
        wrong = list(_wrong_entry(f"node '{name}'", entry, ("in_graph",)))
        problems += wrong
        if wrong:
            continue
        unread.update(f"{key} of nodes" for key in entry if key not in _NODE_KEYS)
        found.flags[name] = bool(entry["in_graph"])
        if "neurons" in entry:
            found.neurons[name] = entry["neurons"]
        if "neurons_scores" in entry:
            values = _numbers(f"node '{name}'", "neurons_scores", entry, problems)
            own = [one for _, one in flat(_own(name, values, graph.heads))]
            found.sums[name] = float(np.nansum(np.array(own, dtype=np.float64)))
        score = entry.get("score")
        found.scores[name] = 0.0 if score is None or score != score else float(score)  # noqa: PLR0124
    return found


def _own(name: str, values: Sequence[Any], heads: int) -> Sequence[Any]:
    """Return a head's own list where it has those of all heads of its layer, as EAP-IG writes."""
    _, dot, number = name.partition(".h")
    nested = bool(values) and all(isinstance(one, list) for one in values)
    return values[int(number)] if nested and dot and len(values) == heads else values


def _numbers(place: str, key: str, entry: Mapping[str, object], problems: list[str]) -> list[Any]:
    """Return a list of numbers, or of lists of them; nothing where something else is in it."""
    values = entry[key]
    every = list(flat(values)) if isinstance(values, list) else [("", values)]
    wrong = [(at, one) for at, one in every if not at or not _finite(one)]
    problems += [
        f"{place}: {key}{at} is {short(one)}; accepted: a list of numbers" for at, one in wrong[:1]
    ]
    return [] if wrong or not isinstance(values, list) else values


def _finite(value: Any) -> bool:
    return is_number(value) and not infinite(value)


def _kept_neurons(
    path: str | Path, name: str, entry: object, width: int | None, heads: int
) -> tuple[int, int]:
    """Return how many neurons of a node are kept, and of how many."""
    place = f"node '{name}'"
    if not isinstance(entry, list) or not entry:
        raise FileFormatError(
            f"{path} cannot be read as {WHAT}: {place}: neurons is {short(entry)}; accepted: a "
            "list with one flag for each neuron."
        )
    every = list(flat(entry))
    refuse(
        path,
        [
            f"{place}: neurons{at} is {short(value)}; accepted: {FLAG}"
            for at, value in every
            if not is_flag(value)
        ],
    )
    nested = isinstance(entry[0], list)
    if width is not None and len(every) != width * (heads if nested else 1):
        raise FileFormatError(
            f"{path} cannot be read as {WHAT}: {place}: neurons has {len(every)} flags; accepted: "
            f"{width}, as cfg.d_model says."
        )
    own = [value for _, value in flat(_own(name, entry, heads))]
    return sum(map(bool, own)), len(own)
