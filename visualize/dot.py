"""A circuit or a diff in the DOT language, for Graphviz and the tools that read it."""

from __future__ import annotations

import re
from collections import defaultdict

from ..graphs.calls.text import visible
from .layout.layout import links, rows_of
from .style import FAINT, NODE_STYLES, edge_width
from .subject import Line, Subject

_SHAPES = {"pill": "ellipse", "cut": "octagon", "foot": "trapezium", "crown": "invtrapezium"}


def quote(*lines: str) -> str:
    r"""Quote lines as a DOT string, in which Graphviz would take `&lt;` for `<`.

    >>> print(quote('a "b" \\ c', "&lt; & d"))
    "a \"b\" \\ c\n&amp;lt; & d"
    """
    escaped = [re.sub(r'([\\"])', r"\\\1", visible(line)) for line in lines]
    return '"' + re.sub(r"&(?=#?\w+;)", "&amp;", "\\n".join(escaped)) + '"'


def to_dot(subject: Subject, *, title: str = "", caption: str = "") -> str:
    """Write the subject's nodes and edges; each edge's `minlen` makes the layers run upward."""
    font = 'fontname="Helvetica"'
    lines = [
        "digraph circuit {",
        f"  graph [rankdir=BT, ranksep=0.3, nodesep=0.15, {font}, fontsize=10, "
        f"label={quote(*filter(None, (title, caption)))}];",
        f'  node [{font}, fontsize=10, height=0.25, margin="0.08,0.03", style=filled];',
        f"  edge [{font}, fontsize=7, arrowsize=0.4];",
    ]
    nodes = [node for node, _ in subject.nodes]
    rows = dict(zip(nodes, rows_of(subject)[0], strict=True))
    ranks: dict[int, list[str]] = defaultdict(list)
    for node, stroke in subject.nodes:
        label, style = subject.labels.get(node), NODE_STYLES[node.kind]
        words = "" if label is None else f"label={quote(str(node), label)}, "
        lines.append(
            f"  {quote(str(node))} [{words}shape={_SHAPES.get(style.shape, style.shape)}, "
            f'fillcolor="{style.fill}", color="{stroke}", fontcolor="{stroke}", '
            f"tooltip={quote(f'{node}  {style.words}')}];"
        )
        ranks[rows[node]].append(quote(str(node)))
    lines += [f"  {{rank=same; {' '.join(f'{n};' for n in names)}}}" for names in ranks.values()]
    for low, high in links(subject.graph, nodes):
        ends = f"{quote(str(low))} -> {quote(str(high))}"
        lines.append(f'  {ends} [style=dotted, arrowhead=none, color="{FAINT}"];')
    for line in subject.lines:
        sender, port, tooltip = line.edge.sender, line.edge.port, quote(line.tooltip)
        lines.append(
            f'  {quote(str(sender))} -> {quote(str(port.node))} [color="{_colour(line)}", '
            f"penwidth={edge_width(line.strength):.2f}, minlen={rows[port.node] - rows[sender]}, "
            f"tooltip={tooltip}, edgetooltip={tooltip}"
            + (f', class="{port.letter}"' if port.letter else "")
            + (f', headlabel="{port.letter}"' if port.letter and subject.letters else "")
            + (", style=dashed];" if line.negative else "];")
        )
    return "\n".join([*lines, "}", ""])


def _colour(line: Line) -> str:
    """Return a line's colour, less opaque the less stable it is, if that is known."""
    return line.shade if line.stability is None else f"{line.shade}{round(255 * line.opacity):02x}"
