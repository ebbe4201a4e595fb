"""A circuit or a diff in the DOT language, for Graphviz and the tools that read it."""

from __future__ import annotations

from collections import defaultdict

from ..graphs.names import Node
from .layout import links
from .style import FAINT, NODE_STYLES, edge_width
from .subject import Line, Subject

_SHAPES = {
    "pill": "ellipse",
    "box": "box",
    "cut": "octagon",
    "hexagon": "hexagon",
    "foot": "trapezium",
    "crown": "invtrapezium",
}


def quote(text: str) -> str:
    r"""Quote a text as a DOT string.

    >>> print(quote('a "b" \\ c'))
    "a \"b\" \\ c"
    """
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def to_dot(subject: Subject, *, title: str = "", caption: str = "") -> str:
    """Write the subject's nodes, one rank for each layer's step, and its edges with their ports."""
    words = "\n".join(part for part in (title, caption) if part)
    lines = [
        "digraph circuit {",
        f"  graph [rankdir=BT, ranksep=0.35, nodesep=0.15, newrank=true, label={quote(words)}];",
        '  node [fontname="Helvetica", fontsize=10, height=0.25, margin="0.08,0.03", '
        "style=filled];",
        '  edge [fontname="Helvetica", fontsize=7, arrowsize=0.4];',
    ]
    ranks: dict[tuple[str, int | None], list[str]] = defaultdict(list)
    for node, stroke in subject.nodes:
        lines.append(f"  {quote(str(node))} [{_node_attributes(node, stroke)}];")
        ranks[node.kind.value, node.layer].append(quote(str(node)))
    lines += [f"  {{rank=same; {' '.join(f'{n};' for n in names)}}}" for names in ranks.values()]
    nodes = [node for node, _ in subject.nodes]
    for low, high in links(subject.graph, nodes):
        ends = f"{quote(str(nodes[low]))} -> {quote(str(nodes[high]))}"
        lines.append(f'  {ends} [style=dotted, arrowhead=none, color="{FAINT}"];')
    lines += [_edge(line, subject.letters) for line in subject.lines]
    return "\n".join([*lines, "}", ""])


def _node_attributes(node: Node, stroke: str) -> str:
    style = NODE_STYLES[node.kind]
    return (
        f'shape={_SHAPES[style.shape]}, fillcolor="{style.fill}", color="{stroke}", '
        f'fontcolor="{stroke}", tooltip={quote(f"{node}  {style.words}")}'
    )


def _edge(line: Line, letters: bool) -> str:
    port = line.edge.port
    attributes = [
        f'color="{line.colour}"',
        f"penwidth={edge_width(line.strength):.2f}",
        f"tooltip={quote(line.tooltip)}",
        f"edgetooltip={quote(line.tooltip)}",
    ]
    if port.letter:
        attributes.append(f'class="{port.letter}"')
        if letters:
            attributes.append(f'headlabel="{port.letter}"')
    if line.negative:
        attributes.append("style=dashed")
    ends = f"{quote(str(line.edge.sender))} -> {quote(str(port.node))}"
    return f"  {ends} [{', '.join(attributes)}];"
