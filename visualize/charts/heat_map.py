"""Node scores by layer and head: one panel for each circuit, and one for their difference.

A node's score is the sum of the scores of its edges out: of those that a circuit keeps, or, from a
scores file, of all. Signed by default, so that what helps and what hurts cancel as they do when
the node is ablated; of EAP and EAP-IG the signed sum over all edges is the node's own attribution.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from ...graphs.calls.typed import typed
from ...graphs.errors import EdgewiseError, GraphMismatch
from ...graphs.graph import WHOLE, ComputationGraph
from ...graphs.names import Kind, Node
from ...graphs.scores import Scores
from ..legend import MARGIN, heading, paragraph, wrap
from ..scene import Cell, Legend, Scene, Text
from ..style import FAINT, INK, SMALL_FONT, text_width
from .scales import ABSENT, BAR, DIFFERENCE, GRID, SCALE_HEIGHT, SCORE, Scale, legend_bar

_GUTTER, _FIRST, _BETWEEN, _SPLIT = 22.0, 46.0, 16.0, 5.0
_TICK, _LINE, _LEAST, _THIN = 7.5, 12.0, 110.0, 0.6
_STEPS = (1, 2, 4, 5, 8, 10, 16, 20, 32, 50)


@typed
@dataclass(frozen=True)
class Panel:
    """One grid: what stands above it, and float values [senders], NaN where a node has none.

    `difference`: it shows differences of scores, which have a colour scale of their own.
    """

    title: str
    values: np.ndarray
    difference: bool = False


@typed
def panels_of(names: Sequence[str], values: Sequence[np.ndarray]) -> list[Panel]:
    """Make a panel of each circuit's node scores, and of two circuits one more of B − A.

    In the difference a node that only one of both has counts as 0 in the other.
    """
    panels = [*map(Panel, names, values)]
    if len(values) == 2:
        a, b = values
        change = np.nan_to_num(b) - np.nan_to_num(a)
        change[np.isnan(a) & np.isnan(b)] = np.nan
        panels.append(Panel(f"{names[1]} − {names[0]}", change, difference=True))
    return panels


@typed
def make_heat_map(
    graph: ComputationGraph, panels: Sequence[Panel], *, title: str = "", caption: str = ""
) -> Scene:
    """Turn node scores into a drawing's values.

    Raises:
        EdgewiseError: no panel, or values that do not fit the graph's senders.

    >>> graph = ComputationGraph(layers=1, heads=2)
    >>> scene = make_heat_map(graph, [Panel("A", np.array([0.5, -1.0, 1.0, np.nan]))])
    >>> [(cell.name, cell.fill) for cell in scene.cells if cell.name][1:]
    [('a0.h0', '#762a83'), ('a0.h1', '#1b7837'), ('m0', '#e6e6e6')]
    """
    wrong = [p.values.shape for p in panels if p.values.shape != (len(graph.senders),)]
    if not panels or wrong:
        raise EdgewiseError(
            f"a heat map of {len(panels)} panels with values of shape {wrong[:1] or None} cannot "
            f"be drawn; accepted: one or more, each of shape [{len(graph.senders)}], the senders."
        )
    return _Builder(graph, panels, title).scene(caption)


@typed
@dataclass(frozen=True)
class ScoredSide:
    """One panel's scores: what it is called, and whether only a circuit's edges have some."""

    name: str
    scores: Scores
    kept: bool = True


@typed
def draw_heat_map(sides: Sequence[ScoredSide], *, title: str = "", absolute: bool = False) -> Scene:
    """Draw the node scores of one circuit, or of two on equal graphs with their difference."""
    if not 1 <= len(sides) <= 2:
        raise EdgewiseError(
            f"a heat map of {len(sides)} circuits cannot be drawn; accepted: one, two, or a diff."
        )
    graph = sides[0].scores.graph
    if differences := graph.differences(sides[-1].scores.graph):
        raise GraphMismatch(
            f"{sides[0].name} and {sides[1].name} cannot be compared node by node: their graphs "
            f"differ in {'; '.join(differences)}. Draw each alone, or compare what their heads do "
            "with `edgewise roles`."
        )
    values = [side.scores.by_sender(absolute=absolute) for side in sides]
    panels = panels_of([side.name for side in sides], values)
    which = "its edges out that the circuit keeps" if sides[0].kept else "all its edges out"
    if len({side.kept for side in sides}) > 1:
        which = "its edges out (of a circuit those it keeps, of a scores file all)"
    words = f"The score of a node is the sum of the {'absolute ' * absolute}scores of {which}"
    if not absolute:
        words += "; above 0, ablating them raises the loss: the node helps"
    if len(sides) == 2:
        words += (
            f". At the right {sides[1].name} less {sides[0].name}; a node without a score counts "
            "as 0 there if the other has one. Its colours have a scale of their own"
        )
    words += ". Colours follow the square root of a value, so that weak ones are seen."
    return make_heat_map(graph, panels, title=title, caption=words)


_OF_NEURONS = (Kind.NEURON, Kind.REST)
_OF_MLPS = [Kind.MLP, Kind.EXPERT, Kind.SHARED, *_OF_NEURONS]


class _Builder:
    """The measures of a grid whose marks are being made."""

    def __init__(self, graph: ComputationGraph, panels: Sequence[Panel], title: str) -> None:
        self.graph, self.panels, self.title = graph, panels, title
        self.cell = max(7.0, min(22.0, 300.0 / max(1, graph.heads)))
        self.row = max(7.0, min(15.0, 440.0 / graph.layers))
        self.kinds = [[Kind.MIXER]] if WHOLE in graph.mixers else []
        self.kinds += [[Kind.POST]] if graph.post_norm else []
        has_mlp = len(graph.without_mlp) < graph.layers
        self.kinds += [_OF_MLPS] if has_mlp else []
        words = {Kind.MIXER: "mixer", Kind.POST: "o"}
        mlp = "experts" if graph.experts else "MLP"
        self.extra = [words.get(kinds[0], mlp) for kinds in self.kinds]
        widths = [max(self.cell, text_width(word, _TICK) + 5) for word in self.extra]
        starts = [*accumulate(widths, initial=graph.heads * self.cell + _SPLIT)]
        self.extras = list(zip(starts, widths, strict=False))
        self.grid = max(starts[-1], _LEAST)
        self.scales = []  # of scores, and of differences: one for all panels of a kind
        for difference, colours in enumerate((SCORE, DIFFERENCE)):
            found = [p.values for p in panels if p.difference == difference]
            largest = max((np.nanmax(np.abs(v), initial=0.0) for v in found), default=0.0)
            self.scales.append(Scale(float(largest), *colours))
        step = self.grid + _GUTTER + _BETWEEN
        self.lefts = [MARGIN + _FIRST + i * step for i in range(len(panels))]
        self.width = max(self.lefts[-1] + self.grid + MARGIN, 430.0)

    def scene(self, caption: str) -> Scene:
        """Make all marks."""
        texts, at = heading(self.title, self.width)
        at += 6 if texts else 0
        names = [wrap(panel.title, self.grid / 1.1, SMALL_FONT) for panel in self.panels]
        lines = max(map(len, names))
        top = at + lines * _LINE + 14
        cells: list[Cell] = []
        for i, (left, words) in enumerate(zip(self.lefts, names, strict=True)):
            for n, word in enumerate(words, lines - len(words)):
                middle = at + (n + 0.5) * _LINE
                texts.append(Text(left, middle, word, SMALL_FONT, INK, "start", bold=True))
            texts += self._ticks(i, top)
            cells += self._cells(self.panels[i], left, top)
        bottom = top + (self.graph.layers + 1) * self.row + _SPLIT
        bars, legend, height = self._legend(bottom + 18, caption)
        # what shows as thin lines behind the cells, or white ones would not be seen
        grid = tuple(
            Cell("", c.x - _THIN, c.y - _THIN, c.width + 2 * _THIN, c.height + 2 * _THIN, GRID)
            for c in cells
        )
        return Scene(
            round(self.width, 1), round(height + MARGIN, 1), self.title or caption, bands=grid,
            texts=tuple(texts), legend=legend, cells=(*cells, *bars),
        )  # fmt: skip

    def _place(self, node: Node) -> tuple[float, float, float]:
        """Return a node's left edge, top and width in a panel; the embedding's is below layer 0."""
        if node.layer is None:
            width = max(self.cell, 14.0)
            return (node.kind is Kind.POS) * width, self.graph.layers * self.row + _SPLIT, width
        y = (self.graph.layers - 1 - node.layer) * self.row
        if node.kind is Kind.HEAD:
            return (node.index or 0) * self.cell, y, self.cell
        x, width = next(e for e, k in zip(self.extras, self.kinds, strict=True) if node.kind in k)
        return x, y, width

    def _cells(self, panel: Panel, left: float, top: float) -> Iterator[Cell]:
        """Make a panel's cells; the experts of a layer are one."""
        scale = self.scales[panel.difference]
        found: dict[tuple[float, float, float], list[int]] = {}
        for i, node in enumerate(self.graph.senders):
            found.setdefault(self._place(node), []).append(i)
        for (x, y, width), members in found.items():
            values, node = panel.values[members], self.graph.senders[members[0]]
            value = math.nan if np.isnan(values).all() else float(np.nansum(values))
            what = "neurons" if node.kind in _OF_NEURONS else "experts"
            name = str(node) if len(members) == 1 else f"{what} of m{node.layer}"
            score = "no score" if math.isnan(value) else f"{value:.4g}"
            corner = (round(left + x, 2), round(top + y, 2))
            size = (round(width - _THIN, 2), round(self.row - _THIN, 2))
            words = f"{name}  {panel.title}  {score}"
            yield Cell(name, *corner, *size, scale.colour(value), words)

    def _ticks(self, panel: int, top: float) -> list[Text]:
        """Number heads above a panel and layers at its left, as many as there is room for."""
        left, graph, above = self.lefts[panel], self.graph, top - 7
        room = text_width(str(max(0, graph.heads - 1)), _TICK) + 3
        heads = range(0, graph.heads, _step(room, self.cell, graph.heads))
        columns = [((h + 0.5) * self.cell, str(h)) for h in heads]
        columns += [(x + w / 2, word) for word, (x, w) in zip(self.extra, self.extras, strict=True)]
        texts = [Text(round(left + x, 2), above, word, _TICK, FAINT) for x, word in columns]
        rows = []
        for layer in range(0, graph.layers, _step(10.0, self.row, graph.layers)):
            y = round(top + (graph.layers - layer - 0.5) * self.row, 2)
            rows.append((y, f"{layer}" if panel else f"layer {layer}"))
        if not panel:
            y = round(top + (graph.layers + 0.5) * self.row + _SPLIT, 2)
            rows += [(above, "head")] if graph.heads else []
            rows.append((y, "tok, pos" if graph.split_embedding else "embed"))
        return texts + [Text(left - 4, y, words, _TICK, FAINT, "end") for y, words in rows]

    def _legend(self, top: float, caption: str) -> tuple[list[Cell], Legend, float]:
        """Place the scales, what grey means, and the caption."""
        bars, texts, y = list[Cell](), list[Text](), top
        for difference in dict.fromkeys(panel.difference for panel in self.panels):
            kind = "difference" if difference else "score"
            cells, numbers = legend_bar(self.scales[difference], kind, MARGIN + 66, y)
            bars, texts, y = bars + cells, texts + numbers, y + SCALE_HEIGHT
        if any(np.isnan(panel.values).any() for panel in self.panels):
            x = MARGIN + 66 + BAR + 30
            bars.append(Cell("", x, top - 4.5, 14.0, 9.0, ABSENT))
            texts.append(Text(x + 19, top, "no score", SMALL_FONT, INK, "start"))
        words, y = paragraph(caption, MARGIN, y, self.width - 2 * MARGIN)
        return bars, Legend(texts=(*texts, *words)), y - _LINE / 2


def _step(room: float, size: float, count: int) -> int:
    """Choose how many cells apart numbers stand, so that none overlap."""
    return next((step for step in _STEPS if step * size >= room), count)
