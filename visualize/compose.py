"""A circuit or a diff becomes a `Scene`: rows, marks, layer stripes, legend and caption."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

from ..graphs.calls.typed import typed
from ..graphs.circuit import Circuit
from ..graphs.diff import CircuitDiff
from ..graphs.errors import EdgewiseError
from ..graphs.names import Kind, Node
from .layout.layout import Layout, arrange, links, node_width
from .layout.routing import gap_heights, wire_path
from .legend import MARGIN, build_legend, heading, least_width
from .scene import Cell, EdgeMark, NodeMark, Point, Scene, Text
from .style import (
    DASHES,
    DOTS,
    FAINT,
    INK,
    LABEL_FONT,
    LABEL_ROOM,
    NODE_FONT,
    NODE_HEIGHT,
    NODE_STYLES,
    SMALL_FONT,
    STRIPE,
    edge_width,
)
from .subject import Drawing, Subject, read_subject

_LABELS, _LAYER_GAP = 44.0, 3.0
MOST_EDGES = 4000
READING = "Edges run upward; those of one sender, or into one receiver, may share a trunk."
_ENTRY = {"q": -0.27, "k": 0.0, "v": 0.27}


@typed
def make_scene(
    subject: Circuit | CircuitDiff, drawing: Drawing | None = None, **fields: Any
) -> Scene:
    """Turn a circuit, or a diff, into a drawing's values.

    Args:
        subject: what to draw.
        drawing: how; default: plainly.
        fields: those of `Drawing`, such as `scores` and `title`, in place of the given ones.

    Raises:
        EdgewiseError: more edges than a drawing can show.

    >>> from edgewise.graphs.graph import ComputationGraph
    >>> circuit = Circuit.empty(ComputationGraph(1, 1)).with_edges(["embed->logits"])
    >>> [node.name for node in make_scene(circuit, layout="built-in").nodes]
    ['embed', 'logits']
    """
    drawing = replace(drawing or Drawing(), **fields)
    drawn = read_subject(subject, drawing)
    if len(drawn.lines) > MOST_EDGES:
        raise EdgewiseError(
            f"{len(drawn.lines):,} edges cannot be drawn readably; accepted: at most "
            f"{MOST_EDGES:,}. Keep fewer (Scores.top, a larger threshold), or write a .dot file."
        )
    placed = arrange(drawn, layout=drawing.layout, timeout=drawing.timeout)
    caption = drawing.caption
    if caption is None:
        caption = f"{drawn.caption} {READING}" if drawn.lines else drawn.caption
    return _Builder(drawn, placed, drawing.title).scene(caption)


class _Builder:
    """A placed subject whose marks are being made."""

    def __init__(self, subject: Subject, placed: Layout, title: str) -> None:
        self.subject, self.placed, self.title = subject, placed, title
        vertices = placed.skeleton.vertices
        left = min(x - v.width / 2 for x, v in zip(placed.x, vertices, strict=True))
        shift = MARGIN + _LABELS - left + 6
        self.x = [x + shift for x in placed.x]
        right = max(x + v.width / 2 for x, v in zip(self.x, vertices, strict=True))
        own = right + 10 + MARGIN
        self.width = max(own, 430.0, least_width(subject, MARGIN))
        middle = (self.width - MARGIN + MARGIN + _LABELS) / 2
        move = middle - (min(self.x) + max(self.x)) / 2 if self.width > own else 0.0
        self.x = [x + move for x in self.x]
        self.heading, top = heading(title, self.width)
        self.y = self._row_middles(top + (8 if title else 0))
        self.places = [(x, self.y[v.row]) for x, v in zip(self.x, vertices, strict=True)]
        nodes = (node for node, _ in subject.nodes)
        self.at: dict[Node, Point] = dict(zip(nodes, self.places, strict=False))

    def _row_middles(self, top: float) -> list[float]:
        """Stack the rows from the top down, the last row first."""
        gaps = gap_heights(self.placed.skeleton, self.x)
        room = LABEL_ROOM if self.subject.labels else 0.0
        layers = self.placed.layers
        y = [0.0] * len(layers)
        at = top + NODE_HEIGHT / 2
        for row in reversed(range(len(layers))):
            y[row] = round(at, 2)
            if row:
                border = _LAYER_GAP if layers[row] != layers[row - 1] else 0.0
                at += NODE_HEIGHT + gaps[row - 1] + border + room
        return y

    def scene(self, caption: str) -> Scene:
        """Make all marks."""
        bottom = self.y[0] + NODE_HEIGHT / 2 + 16
        legend, height = build_legend(self.subject, caption, MARGIN, bottom, self.width)
        bands, labels = self._layers()
        texts = (*self.heading, *labels, *self._letters(), *self._labels())
        return Scene(
            round(self.width, 1), round(height + MARGIN, 1), self.title or caption, tuple(bands),
            tuple(self._links()), tuple(self._edges()), tuple(self._nodes()), texts, legend,
            self.placed.notes,
        )  # fmt: skip

    def _layers(self) -> tuple[list[Cell], list[Text]]:
        """Stripe every other layer and name each at the left."""
        bands, labels, layers = [], [], self.placed.layers
        around = [self.y[0] + 2 * NODE_HEIGHT, *self.y, self.y[-1] - 2 * NODE_HEIGHT]
        borders = [round((low + high) / 2, 2) for low, high in pairwise(around)]  # below each row
        for i, layer in enumerate(dict.fromkeys(n for n in layers if n is not None)):
            row = layers.index(layer)
            low, high = borders[row], borders[row + layers.count(layer)]
            if i % 2 == 0:
                bands.append(Cell("", MARGIN, high, self.width - 2 * MARGIN, low - high, STRIPE))
            where = (MARGIN + 5, (low + high) / 2)
            labels.append(Text(*where, f"layer {layer}", SMALL_FONT, FAINT, "start"))
        return bands, labels

    def _nodes(self) -> Iterator[NodeMark]:
        for node, stroke in self.subject.nodes:
            (x, y), style = self.at[node], NODE_STYLES[node.kind]
            words = "  ".join(filter(None, (str(node), style.words, self.subject.labels.get(node))))
            where = (round(x, 2), y, node_width(node), NODE_HEIGHT)
            look = (style.shape, style.fill, stroke, stroke)
            yield NodeMark(str(node), *where, *look, NODE_FONT, words)

    def _edges(self) -> Iterator[EdgeMark]:
        """Draw weak edges first; in a diff shared ones, or, if that is known, unstable ones."""
        skeleton, lines = self.placed.skeleton, self.subject.lines
        for number in sorted(range(len(lines)), key=lambda number: lines[number].rank):
            line = lines[number]
            limit = skeleton.vertices[skeleton.routes[number][0]].width * 0.36
            arrive = _ENTRY.get(line.edge.port.letter or "", 0.0) * node_width(line.edge.port.node)
            ends = (max(-limit, min(limit, skeleton.offsets[number])), arrive)
            path = wire_path(skeleton, number, self.places, ends)
            width, opacity = round(edge_width(line.strength), 2), round(line.opacity, 2)
            dashes = DASHES if line.negative else ()
            yield EdgeMark(str(line.edge), path, line.shade, width, opacity, dashes, line.tooltip)

    def _links(self) -> Iterator[EdgeMark]:
        """Tie each node that only reads to the drawn senders that compute from it."""
        for low, high in links(self.subject.graph, [*self.at]):
            (x0, below), (x1, above) = self.at[low], self.at[high]
            y0, y1 = below - NODE_HEIGHT / 2, above + NODE_HEIGHT / 2
            bend = (y0 - y1) / 2
            path = (("M", (x0, y0)), ("C", (x0, y0 - bend, x1, y1 + bend, x1, y1)))
            what = "keys and values" if low.kind is Kind.KV else "input"
            words = f"{low} gives {high} its {what}"
            yield EdgeMark("", path, FAINT, 0.8, 1.0, DOTS, words)

    def _letters(self) -> Iterator[Text]:
        """Write q, k and v below the nodes of a diff, whose colours say something else."""
        drawn = dict.fromkeys(line.edge.port for line in self.subject.lines)
        for port in drawn if self.subject.letters else ():
            if port.letter:
                x, y = self.at[port.node]
                x = round(x + _ENTRY[port.letter] * node_width(port.node), 2)
                yield Text(x, round(y + NODE_HEIGHT / 2 + 3.6, 2), port.letter, 6.0, INK, halo=True)

    def _labels(self) -> Iterator[Text]:
        """Write labels above their nodes."""
        for node, words in self.subject.labels.items():
            x, y = self.at[node]
            y = round(y - NODE_HEIGHT / 2 - LABEL_ROOM / 2, 2)
            yield Text(round(x, 2), y, words, LABEL_FONT, INK, halo=True)
