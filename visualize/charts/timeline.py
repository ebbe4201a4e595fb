"""A timeline becomes a `Scene`: one panel for each checkpoint, all on one layout, and a curve.

The union of all circuits is placed once, so that a node stands in the same place in every panel.
An edge is new (not in the checkpoint before), leaving (not in the next one), both, or neither; the
edges of the first checkpoint are not new, and those of the last are not leaving.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...graphs.calls.typed import typed
from ...graphs.circuit import Circuit
from ...graphs.diff import CircuitDiff
from ...graphs.errors import EdgewiseError
from ...graphs.names import Edge
from ...graphs.scores import Scores
from ...graphs.timeline import Timeline
from ..compose import make_scene
from ..draw import write_scene
from ..legend import MARGIN, LegendSample, heading, paragraph, place_samples
from ..pictures import most_that_connect, strongest
from ..scene import Cell, EdgeMark, Legend, NodeMark, Scene, Text, straight
from ..style import DASHES, FAINT, INK, PAPER, SMALL_FONT, STRIPE, edge_opacity, edge_width
from ..subject import Drawing

if TYPE_CHECKING:
    from ...graphs.files import TimelineFile

NEW, LEAVING, PASSING, STAYING, ABSENT = "#009e73", "#d55e00", "#cc79a7", "#4d4d4d", "#d9d9d9"
WIDEST = 1150.0
"""How wide a row of panels may be before another is begun."""

_GAP, _PAD, _SCALE = 12.0, 8.0, 0.8
_LINE, _CURVE, _AXIS = 15.0, 74.0, 42.0


@typed
@dataclass(frozen=True)
class MetricLine:
    """A metric's values at every checkpoint, None where there is none, and how it is drawn.

    `intervals`: ends of each value's interval, drawn as a bar; None where there is none. `notes`:
    what else a dot's tooltip says.
    """

    words: str
    values: Sequence[float | None]
    colour: str = INK
    dashes: tuple[float, ...] = ()
    intervals: Sequence[Sequence[float] | None] = ()
    notes: Sequence[str] = ()

    @typed
    def interval(self, i: int) -> Sequence[float] | None:
        """Return the interval at a checkpoint, if there is one."""
        return self.intervals[i] if self.intervals else None

    @typed
    def at(self, i: int) -> str:
        """Say what was measured at a checkpoint, by its number from 0."""
        if not 0 <= i < len(self.values):
            raise EdgewiseError(f"i is {i}; accepted: 0 to {len(self.values) - 1}.")
        ends = self.interval(i)
        around = "" if ends is None else f" [{ends[0]:.4g}, {ends[1]:.4g}]"
        note = f", {self.notes[i]}" if self.notes and self.notes[i] else ""
        return f"{self.words} {self.values[i]:.4g}{around}{note}"


@typed
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
        drawing, fields: title, caption and layout; those of `Drawing`.
        shown: which edges are drawn; default: all that any checkpoint has.
        curves, axis: what is plotted below the panels on one scale, and what it measures.

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
    drawing = replace(drawing or Drawing(), **fields)
    peaks = Scores(timeline.graph, timeline.peaks)
    plain = Drawing((peaks, peaks), layout=drawing.layout, timeout=drawing.timeout)
    base = make_scene(CircuitDiff(union, union), plain)
    return _Strip(timeline, base, curves, axis).scene(drawing.title, drawing.caption or "")


@typed
def draw_checkpoints(
    file: TimelineFile, path: str | os.PathLike[str], top: int, **look: str
) -> int:
    """Draw at most `top` of a timeline's edges, the strongest that connect; return how many.

    `look` is `title` and `layout`.
    """
    line, metric = file.timeline, file.metric
    shown, _ = most_that_connect(
        lambda count: strongest(line.union, line.peaks, count), top, len(line.union)
    )
    caption = (
        f"{len(shown):,} of the {len(line.union):,} edges that any checkpoint's circuit has, each "
        f"in its place; {len(line.core):,} are in all. An edge's width follows its score at the "
        f"checkpoint, dashed if that is negative. Edges run upward.{measured_words(file)}"
    )
    curves = measured_lines(file)
    draw_timeline(line, path, shown=shown, curves=curves, axis=metric, caption=caption, **look)
    return len(shown)


@typed
def measured_lines(file: TimelineFile) -> list[MetricLine]:
    """Return the curves of a timeline's metric: held out, if anything is, with its intervals."""
    looks = (
        ("full", "of the full model", INK, ()),
        ("circuit", "of the circuit", "#0072b2", ()),
        ("empty", "without any edge", FAINT, DASHES),
    )
    if not file.sides:  # an older file
        return [
            MetricLine(words, file.values(file.metric, key), colour, dashes)
            for key, words, colour, dashes in looks
        ]
    told = file.measured(file.metric, file.sides[0])
    notes = []
    for one in told:
        f, ends = (None, None) if one is None else (one["faithfulness"], one["interval"])
        around = "" if ends is None else f" [{ends[0]:.2f}, {ends[1]:.2f}]"
        notes.append("faithfulness " + ("undefined" if f is None else f"{f:.3f}{around}"))
    return [
        MetricLine(
            words, [None if one is None else one[key] for one in told],  # type: ignore[literal-required]
            colour, dashes,
            [None if one is None else one["intervals"].get(key) for one in told],
            notes if key == "circuit" else (),
        )
        for key, words, colour, dashes in looks
    ]  # fmt: skip


@typed
def measured_words(file: TimelineFile) -> str:
    """Say on which pairs the curves are measured, where it is known."""
    if not file.sides:
        return ""
    side = file.sides[0]
    first = file.measured(file.metric, side)[0]
    pairs = "prompt pairs" if first is None else f"{first['examples']:,} prompt pairs"
    where = "held out" if side == "held_out" else "in sample"
    return f" Measured on {pairs}, {where}; bars are 95% intervals."


@typed
def draw_timeline(timeline: Timeline, path: str | os.PathLike[str], **options: Any) -> Path:
    """Draw a timeline to a file; options and errors: `make_timeline_scene` and `write_scene`."""
    return write_scene(make_timeline_scene(timeline, **options), path)


class _Strip:
    """The placed union whose panels are being made."""

    def __init__(
        self, timeline: Timeline, base: Scene, curves: Sequence[MetricLine], axis: str
    ) -> None:
        self.timeline, self.base, self.axis = timeline, base, axis
        self.curves = [c for c in curves if any(v is not None for v in c.values)]
        self.left = min(m.x - m.width / 2 for m in base.nodes) - _PAD
        self.top = min(m.y - m.height / 2 for m in base.nodes) - _PAD
        ends = [x for m in base.edges for _, values in m.path for x in values[::2]]
        right = max(*ends, *(m.x + m.width / 2 for m in base.nodes))
        bottom = max(m.y + m.height / 2 for m in base.nodes)
        self.panel_width = (right + _PAD - self.left) * _SCALE
        self.panel_height = (bottom + _PAD - self.top) * _SCALE
        most = max(1, int((WIDEST - _AXIS) / (self.panel_width + _GAP)))
        rows = -(-len(timeline) // most)
        self.columns = -(-len(timeline) // rows)  # so that the rows are about equally long
        self.width = max(_AXIS + self.columns * (self.panel_width + _GAP) + MARGIN, 480.0)
        self.strongest = max(0.0, float(timeline.peaks.max())) or 1.0

    def scene(self, title: str, caption: str) -> Scene:
        """Make all marks, row by row."""
        texts, y = heading(title, self.width)
        y += 8 if texts else 0
        bands, nodes = list[Cell](), list[NodeMark]()
        edges, links = list[EdgeMark](), list[EdgeMark]()
        for start in range(0, len(self.timeline), self.columns):
            row = range(start, min(start + self.columns, len(self.timeline)))
            for i in row:
                x = _AXIS + (i - start) * (self.panel_width + _GAP)
                bands.append(Cell("", x, y + _LINE, self.panel_width, self.panel_height, STRIPE))
                words = f"{self.timeline.labels[i]}  ({len(self.timeline.circuits[i]):,} edges)"
                middle = round(x + self.panel_width / 2, 2)
                texts.append(Text(middle, y + 5, words, SMALL_FONT, INK, bold=True))
                dx, dy = x - self.left * _SCALE, y + _LINE - self.top * _SCALE
                links += [_moved(mark, dx, dy) for mark in self.base.links]
                edges += self._edges(i, dx, dy)
                nodes += self._nodes(i, dx, dy)
                texts += self._letters(i, dx, dy)
            y += _LINE + self.panel_height
            if self.curves:
                marks, dots, numbers = self._plot(row, y + 10)
                edges, nodes, texts = edges + marks, nodes + dots, texts + numbers
                y += 10 + _CURVE
            y += 14
        legend = Legend()
        states = [LegendSample(w, None, c, 0.8 if c == ABSENT else 2.4) for c, w in _WORDS.items()]
        measured = [
            LegendSample(f"{self.axis} {c.words}", None, c.colour, 1.4, 1.0, c.dashes)
            for c in self.curves
        ]
        for entries in (states, measured):
            block, y = place_samples(entries, _AXIS, y, self.width - _AXIS - 2 * MARGIN)
            legend += block
        below, y = paragraph(caption, _AXIS, y, self.width - _AXIS - MARGIN)
        legend += Legend(texts=tuple(below))
        return Scene(
            round(self.width, 1), round(y - _LINE / 2 + MARGIN, 1), title or caption or "timeline",
            tuple(bands), tuple(links), tuple(edges), tuple(nodes), tuple(texts), legend,
            self.base.notes,
        )  # fmt: skip

    def _edges(self, i: int, dx: float, dy: float) -> list[EdgeMark]:
        """Draw what is absent first, then what stays, then what comes and goes."""
        marks = []
        for mark in self.base.edges:
            edge = Edge.parse(mark.name)
            state = self._colour(i, [edge in circuit for circuit in self.timeline.circuits])
            value = float(self.timeline.scores[i][self.timeline.graph.locate(edge)])
            scored = not math.isnan(value)
            width, opacity, dashes = 0.5, 0.7, tuple[float, ...]()
            if state != ABSENT:
                strength = abs(value) / self.strongest if scored else None
                width, opacity = round(edge_width(strength), 2), round(edge_opacity(strength), 2)
                dashes = DASHES if scored and value < 0 else ()
            words = f"{edge}  {_WORDS[state]}" + (f"  score {value:.4g}" if scored else "")
            path = _moved(mark, dx, dy).path
            marks.append(EdgeMark(mark.name, path, state, width, opacity, dashes, words))
        return sorted(marks, key=lambda mark: _RANK.index(mark.colour))

    def _colour(self, i: int, alive: Sequence[bool]) -> str:
        """Return the colour of what is alive at these checkpoints, in panel i."""
        if not alive[i]:
            return ABSENT
        leaving = i + 1 < len(alive) and not alive[i + 1]
        if i and not alive[i - 1]:
            return PASSING if leaving else NEW
        return LEAVING if leaving else STAYING

    def _nodes(self, i: int, dx: float, dy: float) -> Iterator[NodeMark]:
        sets = [set(map(str, circuit.nodes)) for circuit in self.timeline.circuits]
        for mark in self.base.nodes:
            state = self._colour(i, [mark.name in alive for alive in sets])
            yield replace(
                mark, x=round(mark.x * _SCALE + dx, 2), y=round(mark.y * _SCALE + dy, 2),
                width=mark.width * _SCALE, height=mark.height * _SCALE, size=mark.size * _SCALE,
                fill=PAPER if state == ABSENT else mark.fill,
                stroke=INK if state == STAYING else state,
                colour=FAINT if state == ABSENT else INK, tooltip=f"{mark.name}  {_WORDS[state]}",
            )  # fmt: skip

    def _letters(self, i: int, dx: float, dy: float) -> Iterator[Text]:
        """Write q, k and v where the panel's circuit has an edge into that port."""
        drawn = [Edge.parse(mark.name) for mark in self.base.edges]
        here = [edge.port for edge in drawn if edge in self.timeline.circuits[i]]
        ports = {(str(port.node), port.letter) for port in here}
        for text in self.base.texts:
            owner = min(self.base.nodes, key=lambda m: abs(m.x - text.x) + 3 * abs(m.y - text.y))
            if text.halo and (owner.name, text.text) in ports:
                x, y = text.x * _SCALE + dx, text.y * _SCALE + dy
                yield replace(text, x=round(x, 2), y=round(y, 2))

    def _plot(self, row: range, y: float) -> tuple[list[EdgeMark], list[NodeMark], list[Text]]:
        """Plot the curves of one row of panels, from y downward."""
        known = [v for curve in self.curves for v in curve.values if v is not None]
        known += [v for curve in self.curves for ends in curve.intervals for v in ends or ()]
        low, high = min(known), max(known)
        scale = (_CURVE - 16) / (high - low or 1.0)
        middles = {i: _AXIS + (n + 0.5) * self.panel_width + n * _GAP for n, i in enumerate(row)}

        def at(value: float) -> float:
            return round(y + 8 + (high - value) * scale, 2)

        marks, dots = [], []
        rules = sorted({low, high, *([0.0] if low < 0 < high else [])})
        sides = (_AXIS, middles[row[-1]] + self.panel_width / 2)
        for value in rules:
            path = straight([(x, at(value)) for x in sides])
            marks.append(EdgeMark("", path, "#e0e0e0", 0.6))
        for curve in self.curves:
            values = {i: v for i in row if (v := curve.values[i]) is not None}
            points = [(round(middles[i], 2), at(v)) for i, v in values.items()]
            if len(points) > 1:
                path = straight(points)
                marks.append(EdgeMark("", path, curve.colour, 1.4, dashes=curve.dashes))
            look = ("pill", curve.colour, curve.colour)
            for (px, py), i in zip(points, values, strict=True):
                if ends := curve.interval(i):
                    bar = straight([(px, at(end)) for end in ends])
                    marks.append(EdgeMark("", bar, curve.colour, 1.0, 0.6))
                words = f"{self.timeline.labels[i]}: {curve.at(i)}"
                dots.append(NodeMark("", px, py, 4, 4, *look, tooltip=words))
        texts = [
            Text(_AXIS - 4, at(value), f"{value:.3g}", SMALL_FONT, FAINT, "end")
            for value in rules
            if value in (low, high) or at(high) + SMALL_FONT < at(value) < at(low) - SMALL_FONT
        ]
        return marks, dots, texts


_WORDS = {
    STAYING: "in the checkpoints beside it too",
    NEW: "new here",
    LEAVING: "here for the last time",
    PASSING: "here only",
    ABSENT: "not in this checkpoint",
}
_RANK = (ABSENT, STAYING, LEAVING, PASSING, NEW)


def _moved(mark: EdgeMark, dx: float, dy: float) -> EdgeMark:
    """Scale a mark's path and move it."""
    path = tuple(
        (command, tuple(round(v * _SCALE + (dx, dy)[k % 2], 2) for k, v in enumerate(values)))
        for command, values in mark.path
    )
    return replace(mark, path=path, width=round(mark.width * _SCALE, 2))
