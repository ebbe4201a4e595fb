"""A timeline becomes a `Scene`: one panel for each checkpoint, all on one layout, and a curve.

The union of all circuits is placed once, so that a node stands in the same place in every panel,
and what differs from panel to panel is the circuit. Below each row of panels stand the values of a
metric, each point under the middle of its panel.

An edge of a panel is new (not in the checkpoint before), leaving (not in the next one), both, or
neither; the edges of the first checkpoint are not new, and those of the last are not leaving. What
a checkpoint lacks is drawn faint.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...graphs.circuit import Circuit
from ...graphs.diff import CircuitDiff
from ...graphs.errors import EdgewiseError, unknown
from ...graphs.names import Edge, Node
from ...graphs.scores import Scores
from ...graphs.timeline import Timeline
from ..compose import make_scene
from ..draw import FORMATS, write_scene
from ..legend import MARGIN, heading, paragraph
from ..pictures import most_that_fit, strongest
from ..scene import Band, EdgeMark, Legend, NodeMark, PathData, Scene, Text
from ..style import (
    DASHES,
    FAINT,
    INK,
    SMALL_FONT,
    STRIPE,
    edge_opacity,
    edge_width,
    text_width,
)
from ..subject import Drawing

if TYPE_CHECKING:
    from ...graphs.files import TimelineFile

NEW, LEAVING, PASSING, STAYING, ABSENT = "#009e73", "#d55e00", "#cc79a7", "#4d4d4d", "#d9d9d9"
WIDEST = 1150.0
"""How wide a row of panels may be before another is begun."""

_GAP, _PAD, _SCALE = 12.0, 8.0, 0.8
_LINE, _CURVE, _AXIS = 15.0, 74.0, 42.0


@dataclass(frozen=True)
class MetricLine:
    """A metric's values at every checkpoint, None where there is none, and how it is drawn."""

    words: str
    values: Sequence[float | None]
    colour: str = INK
    dashes: tuple[float, ...] = ()


def make_timeline_scene(
    timeline: Timeline,
    drawing: Drawing | None = None,
    *,
    shown: Circuit | None = None,
    curves: Sequence[MetricLine] = (),
    axis: str = "",
    **fields: Any,
) -> Scene:
    """Turn a timeline into a drawing's values.

    Args:
        timeline: the circuits, and scores for the widths.
        drawing: title, caption and layout.
        shown: which edges are drawn; default: all that any checkpoint has.
        curves: what is plotted below the panels, on one scale.
        axis: what the curves measure.
        fields: those of `Drawing` in place of the given ones.

    Raises:
        EdgewiseError: no checkpoint has an edge, or there are more than a drawing can show.

    >>> from edgewise.graphs.graph import ComputationGraph
    >>> empty = Circuit.empty(ComputationGraph(1, 1))
    >>> line = Timeline(("0", "9"), (empty, empty.with_edges(["embed->logits"])))
    >>> scene = make_timeline_scene(line, layout="built-in")
    >>> [(mark.name, mark.colour == NEW) for mark in scene.edges]
    [('embed->logits', False), ('embed->logits', True)]
    """
    union = timeline.union if shown is None else timeline.union & shown
    if not len(union):
        raise EdgewiseError("no checkpoint's circuit has an edge, so there is nothing to draw.")
    drawing, peaks = Drawing.of(drawing, fields), Scores(timeline.graph, timeline.peaks)
    plain = Drawing((peaks, peaks), layout=drawing.layout, timeout=drawing.timeout)
    base = make_scene(CircuitDiff(union, union), plain)
    strip = _Strip(timeline, base, tuple(curves), axis)
    return strip.scene(drawing.title, drawing.caption or "")


def draw_checkpoints(
    file: TimelineFile, path: str | os.PathLike[str], top: int, **look: str
) -> int:
    """Draw at most so many of a timeline's edges, the strongest that connect; return how many.

    Args:
        file: a timeline with what was measured at its checkpoints.
        path: where to.
        top: how many edges at most.
        look: `title` and `layout`.
    """
    line, metric = file.timeline, file.metric

    def connected(count: int) -> Circuit:
        return strongest(line.union, line.peaks, count).prune_dangling()

    shown = line.union
    if len(shown) > top:
        shown = connected(most_that_fit(lambda n: len(connected(n)), top, len(shown)))
    curves = [
        MetricLine("of the full model", file.values(metric, "full")),
        MetricLine("of the circuit", file.values(metric, "circuit"), "#0072b2"),
        MetricLine("without any edge", file.values(metric, "empty"), "#8a8a8a", (4.0, 2.2)),
    ]
    caption = (
        f"{len(shown):,} of the {len(line.union):,} edges that any checkpoint's circuit has, each "
        f"in its place; {len(line.core):,} are in all. An edge's width follows its score at the "
        "checkpoint. Edges run upward."
    )
    draw_timeline(line, path, shown=shown, curves=curves, axis=metric, caption=caption, **look)
    return len(shown)


def draw_timeline(timeline: Timeline, path: str | os.PathLike[str], **options: Any) -> Path:
    """Draw a timeline to a file; the options are those of `make_timeline_scene`.

    Raises:
        UnknownName: the file's name ends in none of `.svg`, `.png`, `.pdf`.
        EdgewiseError: there is nothing to draw, or the file cannot be written.
    """
    target = Path(path)
    suffix = target.suffix.lower()
    if suffix not in FORMATS:
        raise unknown("ending of a timeline drawing's name", suffix, FORMATS)
    return write_scene(make_timeline_scene(timeline, **options), target)


class _Strip:
    """The placed union whose panels are being made."""

    def __init__(
        self, timeline: Timeline, base: Scene, curves: tuple[MetricLine, ...], axis: str
    ) -> None:
        self.timeline, self.base, self.axis = timeline, base, axis
        self.curves = tuple(c for c in curves if any(v is not None for v in c.values))
        self.left = min(m.x - m.width / 2 for m in base.nodes) - _PAD
        self.top = min(m.y - m.height / 2 for m in base.nodes) - _PAD
        right = max(
            *(m.x + m.width / 2 for m in base.nodes),
            *(x for m in base.edges for x in _xs(m.path)),
        )
        bottom = max(m.y + m.height / 2 for m in base.nodes)
        self.panel_width = (right + _PAD - self.left) * _SCALE
        self.panel_height = (bottom + _PAD - self.top) * _SCALE
        self.columns = self._columns()
        self.span = _AXIS + self.columns * (self.panel_width + _GAP)
        self.width = max(self.span + MARGIN, 480.0)
        strongest = timeline.peaks.max()
        self.strongest = float(strongest) if strongest > 0 else 1.0

    def _columns(self) -> int:
        """Return how many panels stand in a row, so that the rows are about equally long."""
        count = len(self.timeline)
        most = max(1, int((WIDEST - _AXIS) / (self.panel_width + _GAP)))
        rows = -(-count // most)
        return -(-count // rows)

    def scene(self, title: str, caption: str) -> Scene:
        """Make all marks, row by row."""
        texts, y = heading(title, self.width)
        y += 8 if texts else 0
        bands, nodes = list[Band](), list[NodeMark]()
        edges, links = list[EdgeMark](), list[EdgeMark]()
        for start in range(0, len(self.timeline), self.columns):
            row = range(start, min(start + self.columns, len(self.timeline)))
            for i in row:
                x = _AXIS + (i - start) * (self.panel_width + _GAP)
                bands.append(Band(x, y + _LINE, self.panel_width, self.panel_height, STRIPE))
                texts.append(self._label(i, x, y))
                links += [_moved(m, *self._move(x, y + _LINE)) for m in self.base.links]
                edges += self._edges(i, x, y + _LINE)
                nodes += self._nodes(i, x, y + _LINE)
                texts += self._letters(i, x, y + _LINE)
            y += _LINE + self.panel_height
            if self.curves:
                marks, dots, words = self._plot(row, y + 10)
                edges, nodes, texts = edges + marks, nodes + dots, texts + words
                y += 10 + _CURVE
            y += 14
        legend, y = self._legend(caption, y)
        return Scene(
            round(self.width, 1), round(y + MARGIN, 1), title or caption or "timeline",
            tuple(bands), tuple(links), tuple(edges), tuple(nodes), tuple(texts), legend,
            self.base.notes,
        )  # fmt: skip

    # -- panels ---------------------------------------------------------------------------------

    def _move(self, x: float, y: float) -> tuple[float, float]:
        """Return how far the scaled layout is moved to stand in a panel at x, y."""
        return x - self.left * _SCALE, y - self.top * _SCALE

    def _label(self, i: int, x: float, y: float) -> Text:
        words = f"{self.timeline.labels[i]}  ({len(self.timeline.circuits[i]):,} edges)"
        return Text(round(x + self.panel_width / 2, 2), y + 5, words, SMALL_FONT, INK, bold=True)

    def _edges(self, i: int, x: float, y: float) -> list[EdgeMark]:
        """Draw what is absent first, then what stays, then what comes and goes."""
        marks = []
        for number, mark in enumerate(self.base.edges):
            edge = Edge.parse(mark.name)
            state = self._colour(i, [edge in circuit for circuit in self.timeline.circuits])
            marks.append((_RANK[state], number, self._edge(i, edge, state, mark, (x, y))))
        return [mark for _, _, mark in sorted(marks, key=lambda one: one[:2])]

    def _edge(
        self, i: int, edge: Edge, state: str, mark: EdgeMark, place: tuple[float, float]
    ) -> EdgeMark:
        line = self.timeline
        value = float(line.scores[i][line.graph.locate(edge)])
        scored = not math.isnan(value)
        words = f"{edge}  {_WORDS[state]}" + (f"  score {value:.4g}" if scored else "")
        moved = _moved(mark, *self._move(*place))
        if state == ABSENT:
            return replace(moved, colour=ABSENT, width=0.5, opacity=0.7, dashes=(), tooltip=words)
        strength = abs(value) / self.strongest if scored else None
        return replace(
            moved, colour=state, width=round(edge_width(strength), 2),
            opacity=round(edge_opacity(strength), 2),
            dashes=DASHES if scored and value < 0 else (), tooltip=words,
        )  # fmt: skip

    def _colour(self, i: int, alive: Sequence[bool]) -> str:
        """Return the colour of what is alive at these checkpoints, in panel i."""
        if not alive[i]:
            return ABSENT
        new = i > 0 and not alive[i - 1]
        leaving = i + 1 < len(alive) and not alive[i + 1]
        if new:
            return PASSING if leaving else NEW
        return LEAVING if leaving else STAYING

    def _nodes(self, i: int, x: float, y: float) -> list[NodeMark]:
        sets = [set(circuit.nodes) for circuit in self.timeline.circuits]
        dx, dy = self._move(x, y)
        marks = []
        for mark in self.base.nodes:
            node = Node.parse(mark.name)
            state = self._colour(i, [node in alive for alive in sets])
            marks.append(
                NodeMark(
                    mark.name, round(mark.x * _SCALE + dx, 2), round(mark.y * _SCALE + dy, 2),
                    mark.width * _SCALE, mark.height * _SCALE, mark.shape,
                    fill=mark.fill if state != ABSENT else "#ffffff",
                    stroke=INK if state == STAYING else state,
                    colour=FAINT if state == ABSENT else INK,
                    size=mark.size * _SCALE, tooltip=f"{node}  {_WORDS[state]}",
                )
            )  # fmt: skip
        return marks

    def _letters(self, i: int, x: float, y: float) -> list[Text]:
        """Write q, k and v where the panel's circuit has an edge into that port."""
        dx, dy = self._move(x, y)
        drawn = [Edge.parse(mark.name) for mark in self.base.edges]
        here = {edge.port for edge in drawn if edge in self.timeline.circuits[i]}
        wanted = {(str(port.node), port.letter) for port in here}
        found = []
        for text in self.base.texts:
            owner = min(self.base.nodes, key=lambda m: abs(m.x - text.x) + 3 * abs(m.y - text.y))
            if text.halo and (owner.name, text.text) in wanted:
                x, y = text.x * _SCALE + dx, text.y * _SCALE + dy
                found.append(replace(text, x=round(x, 2), y=round(y, 2)))
        return found

    # -- the curve ------------------------------------------------------------------------------

    def _plot(self, row: range, y: float) -> tuple[list[EdgeMark], list[NodeMark], list[Text]]:
        """Plot the curves of one row of panels, from y downward."""
        known = [v for curve in self.curves for v in curve.values if v is not None]
        low, high = min(known), max(known)
        scale = (_CURVE - 16) / (high - low or 1.0)
        middles = {i: _AXIS + (n + 0.5) * self.panel_width + n * _GAP for n, i in enumerate(row)}

        def at(value: float) -> float:
            return round(y + 8 + (high - value) * scale, 2)

        marks, dots = [], []
        rules = sorted({low, high, *([0.0] if low < 0 < high else [])})
        for value in rules:
            ends = (_AXIS, middles[row[-1]] + self.panel_width / 2)
            marks.append(_line([(ends[0], at(value)), (ends[1], at(value))], "#e0e0e0", 0.6))
        for curve in self.curves:
            values = {i: v for i in row if (v := curve.values[i]) is not None}
            points = [(round(middles[i], 2), at(v)) for i, v in values.items()]
            if len(points) > 1:
                marks.append(_line(points, curve.colour, 1.4, curve.dashes))
            for (px, py), (i, value) in zip(points, values.items(), strict=True):
                words = f"{self.timeline.labels[i]}: {curve.words} {value:.4g}"
                dots.append(
                    NodeMark("", px, py, 4, 4, "pill", curve.colour, curve.colour, INK, 8, words)
                )
        texts = [
            Text(_AXIS - 4, at(value), f"{value:.3g}", SMALL_FONT, FAINT, "end")
            for value in rules
            if value in (low, high) or at(high) + SMALL_FONT < at(value) < at(low) - SMALL_FONT
        ]
        return marks, dots, texts

    # -- the legend -----------------------------------------------------------------------------

    def _legend(self, caption: str, y: float) -> tuple[Legend, float]:
        """Say what colours mean, with how many edges ever had them; then the caption."""
        samples = [
            (colour, 2.4 if colour != ABSENT else 0.8, (), _WORDS[colour]) for colour in _WORDS
        ]
        plotted = [(c.colour, 1.4, c.dashes, f"{self.axis} {c.words}") for c in self.curves]
        lines: list[EdgeMark] = []
        texts: list[Text] = []
        for entries in (samples, plotted):
            x = _AXIS
            for colour, width, dashes, words in entries:
                length = 27 + text_width(words, SMALL_FONT) + 12
                if x > _AXIS and x + length > self.width - MARGIN:
                    x, y = _AXIS, y + _LINE
                lines.append(_line([(x, y), (x + 22, y)], colour, width, dashes))
                texts.append(Text(round(x + 27, 2), y, words, SMALL_FONT, INK, "start"))
                x += length
            y += _LINE if entries else 0
        below, y = paragraph(caption, _AXIS, y, self.width - _AXIS - MARGIN)
        return Legend((), tuple(lines), (*texts, *below)), y - _LINE / 2


_WORDS = {
    STAYING: "in the checkpoints beside it too",
    NEW: "new here",
    LEAVING: "here for the last time",
    PASSING: "here only",
    ABSENT: "not in this checkpoint",
}
_RANK = {ABSENT: 0, STAYING: 1, LEAVING: 2, PASSING: 3, NEW: 4}


def _moved(mark: EdgeMark, dx: float, dy: float) -> EdgeMark:
    """Scale a mark's path and move it."""

    def place(values: Sequence[float]) -> tuple[float, ...]:
        return tuple(round(v * _SCALE + (dy if k % 2 else dx), 2) for k, v in enumerate(values))

    path = tuple((command, place(values)) for command, values in mark.path)
    return replace(mark, path=path, width=round(mark.width * _SCALE, 2))


def _xs(path: PathData) -> list[float]:
    return [x for _, values in path for x in values[::2]]


def _line(
    points: Sequence[tuple[float, float]],
    colour: str,
    width: float,
    dashes: tuple[float, ...] = (),
) -> EdgeMark:
    path = tuple(("L" if i else "M", point) for i, point in enumerate(points))
    return EdgeMark("", path, colour, width, 1.0, dashes)
