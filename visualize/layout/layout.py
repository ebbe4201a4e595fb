"""The layout of a subject: which row each node is in, and where every vertex stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from shutil import which

from ...graphs.errors import unknown
from ...graphs.graph import ComputationGraph
from ...graphs.names import Kind, Node, Port
from ..style import LABEL_FONT, NODE_FONT, NODE_PAD, edge_width, text_width
from ..subject import Subject
from .dot_layout import DotFailed, order_with_dot
from .ordering import Order, order_rows
from .placement import place_rows
from .skeleton import Skeleton, Wire, build

LAYOUTS = ("auto", "dot", "built-in")
TALL = 22
_STEPS = {
    Kind.KV: 0, Kind.HEAD: 1, Kind.MIXER: 1, Kind.POST: 2, Kind.MLP: 3, Kind.EXPERT: 4,
    Kind.SHARED: 4, Kind.NEURON: 4, Kind.REST: 4,
}  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """A skeleton, every vertex's x, each row's layer (None: embedding or logits), notes."""

    skeleton: Skeleton
    x: tuple[float, ...]
    layers: tuple[int | None, ...]
    notes: tuple[str, ...]


def arrange(subject: Subject, *, layout: str = "auto", timeout: float = 20.0) -> Layout:
    """Put the subject's nodes in rows and everything in its place, as a `Drawing` says.

    Raises:
        UnknownName: no such layout.
    """
    if layout not in LAYOUTS:
        raise unknown("layout", layout, LAYOUTS)
    nodes = [node for node, _ in subject.nodes]
    rows, layers = rows_of(subject)
    number = {node: i for i, node in enumerate(nodes)}
    wires = []
    for line in subject.lines:
        source, target = number[line.edge.sender], number[line.edge.port.node]
        own, joined = (line.strand(joined=j, by_kind=not subject.letters) for j in (False, True))
        wires.append(Wire(source, target, own, joined, edge_width(line.strength)))
    widths = []
    for node in nodes:
        above = text_width(subject.labels.get(node, ""), LABEL_FONT) + 2
        widths.append(round(max(node_width(node), above), 1))
    ties = [(number[low], number[high]) for low, high in links(subject.graph, nodes)]
    skeleton = build(rows, widths, wires, ties)
    order, notes = _order(skeleton, layout, timeout)
    x = place_rows(skeleton, order)
    # what would come out as a narrow tower is widened
    factor = min(2.5, max(1.0, 0.6 * len(skeleton.rows) * 40.0 / (max(x) or 1.0)))
    return Layout(skeleton, tuple(round(at * factor, 2) for at in x), tuple(layers), notes)


def node_width(node: Node) -> float:
    """Return the width that a node's label needs."""
    return round(text_width(str(node), NODE_FONT) + 2 * NODE_PAD, 1)


def links(graph: ComputationGraph, nodes: Sequence[Node]) -> list[tuple[Node, Node]]:
    """Pair what only reads with the drawn senders that compute from it.

    A key/value head with the heads that use it; an MLP port with the experts that read it.
    """
    found, drawn, graph = [], set(nodes), graph.plain
    for node in nodes:
        if node.kind is Kind.KV or (node.kind is Kind.MLP and node not in graph.sender_index):
            port = Port(node, "k" if node.kind is Kind.KV else None)
            users = (graph.senders[i] for i in graph.feeds[graph.port_index[port]])
            found += [(node, user) for user in users if user in drawn]
    return found


def rows_of(subject: Subject) -> tuple[list[int], list[int | None]]:
    """Give each node its row (rows without a node are left out), and each row its layer.

    An MLP stands above the heads, or the whole mixer, of its layer, experts above the port they
    read; beside the heads in parallel blocks, and in tall drawings if none of them feeds it.
    """
    graph, nodes = subject.graph, [node for node, _ in subject.nodes]
    ends = [(line.edge.sender, line.edge.port.node) for line in subject.lines]
    fed = {b.layer for a, b in ends if b.kind is Kind.MLP and a.layer == b.layer}

    def key(node: Node, compact: bool) -> tuple[int, int]:
        if node.layer is None:
            return (graph.layers if node.kind is Kind.LOGITS else -1, 0)
        beside = (compact or graph.parallel) and not graph.post_norm and node.layer not in fed
        return (node.layer, _STEPS[Kind.HEAD if node.kind is Kind.MLP and beside else node.kind])

    keys = [key(node, False) for node in nodes]
    if len(set(keys)) > TALL:
        keys = [key(node, True) for node in nodes]
    levels = sorted(set(keys))
    layers = [layer if 0 <= layer < graph.layers else None for layer, _ in levels]
    return [levels.index(k) for k in keys], layers


def _order(skeleton: Skeleton, layout: str, timeout: float) -> tuple[Order, tuple[str, ...]]:
    """Let `dot` or the built-in layout order the rows; say so if `dot` could not."""
    problem = "was not found" if layout == "dot" else ""
    program = which("dot") if layout != "built-in" else None
    if program is not None:
        try:
            return order_with_dot(skeleton, program, timeout=timeout), ()
        except DotFailed as failure:
            problem = str(failure)
    notes = [f"Graphviz's dot {problem}; the built-in layout was used instead."] if problem else []
    return order_rows(skeleton), tuple(notes)
