"""Put together what was read of a graph of EAP-IG, and say what it holds beside.

EAP-IG's neurons are the coordinates of what a node writes to the stream, not hidden units of an
MLP, which are the neurons here. A node's score is the sum of its neurons', exactly: both are
(ablated − clean) · gradient, coordinate by coordinate. A circuit keeps or ablates all that a node
writes on an edge, so of the nodes that write kept edges

* those that keep all of their neurons are as they were,
* those that keep some are whole here, which is said,
* those that keep none write nothing there, and their edges are left out; if that leaves no edge,
  the file is refused.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ....circuit import Circuit
from ....errors import FileFormatError
from ....graph import ComputationGraph
from ....levels.nodes import NODE, fan_out, spread
from ....scores import Scores
from ...reading import listed
from .values import LARGEST, EapIg, ReadGraph, name_of, refuse


def put_together(path: str | Path, read: ReadGraph) -> EapIg:
    """Return the circuit and the scores, with notes on what else the file says."""
    circuit, notes = _of_whole_nodes(path, read)
    graph = circuit.graph
    if read.unread:
        notes.insert(0, f"not read: {', '.join(sorted(map(str, read.unread))[:5])}")
    some = bool((np.nan_to_num(read.values[graph.reads]) != 0).any())
    scores = Scores(graph, read.values) if some else None
    if any(read.nodes.values()):
        writers = np.asarray(circuit.kept.any(axis=0))
        whole = np.array_equal(circuit.kept, fan_out(graph, writers))
        if some or (len(circuit) and not whole):
            why = "edges have theirs" if some else "edges are kept, and not whole nodes"
            notes.append(f"scores of nodes and neurons are not read, as {why}")
        else:
            how = "each the sum over its neurons" if read.summed else "as no edge has one"
            notes.append(f"scored are nodes, {how}")
            scores = _of_nodes(path, graph, read)
    pruned = circuit.prune_dangling()
    live = {name_of(node) for node in pruned.nodes if node in graph.sender_index}
    left_out = sorted(name for name in live if read.flags.get(name) is False)
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
    return EapIg(circuit, scores, read.width, tuple(notes))


def _of_nodes(path: str | Path, graph: ComputationGraph, read: ReadGraph) -> Scores:
    """Return the nodes' scores, each at all edges out of the node; one without has 0."""
    values = np.array([read.nodes.get(name_of(node), 0.0) for node in graph.senders])
    large = [name_of(graph.senders[i]) for i in np.flatnonzero(np.abs(values) >= LARGEST)]
    refuse(path, [f"node '{name}': its score is no finite number" for name in large])
    return Scores(graph, spread(graph, np.nan_to_num(values)), level=NODE)


def _of_whole_nodes(path: str | Path, read: ReadGraph) -> tuple[Circuit, list[str]]:
    """Return the circuit without the edges of nodes that keep no neuron, and what is said of it."""
    circuit = read.kept
    if not read.neurons or not len(circuit):
        return circuit, []
    graph, kept = circuit.graph, circuit.kept.copy()
    every = read.width or max(total for _, total in read.neurons.values())
    partly, empty = list[str](), list[str]()
    for column in np.flatnonzero(circuit.kept.any(axis=0)):
        name = name_of(graph.senders[column])
        own, total = read.neurons.get(name, (0, every))
        if not own:
            kept[:, column] = False
            empty.append(f"{name} none of {total}")
        elif own < total:
            partly.append(f"{name} {own} of {total}")
    left = Circuit(graph, kept)
    if not len(left):
        raise FileFormatError(
            f"{path} is a circuit of neurons, which cannot be read: all nodes that write its "
            f"{len(circuit):,} kept edges keep none of their neurons ({listed(empty)}), so that "
            "nothing is left of it. Accepted: graphs in which nodes keep neurons, or that have no "
            "`neurons`."
        )
    notes = []
    if partly:
        notes.append(
            f"{len(partly)} nodes keep only some of their neurons ({listed(partly)}); here they "
            "are whole"
        )
    if empty:
        notes.append(
            f"{len(empty)} nodes keep none of their neurons ({listed(empty)}), so the "
            f"{len(circuit) - len(left):,} edges that they write are left out"
        )
    return left, notes
