"""What a circuit or a diff asks to be drawn: its lines with colour and strength, and its nodes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from ..graphs.calls.text import visible
from ..graphs.calls.typed import typed
from ..graphs.circuit import Circuit
from ..graphs.diff import CircuitDiff
from ..graphs.errors import EdgewiseError, GraphMismatch
from ..graphs.graph import ComputationGraph
from ..graphs.names import KIND_WORDS, Edge, Node
from ..graphs.scores import Scores
from .style import (
    INK,
    KIND_COLOURS,
    ONLY_A,
    ONLY_B,
    SHARED,
    edge_opacity,
    stable_colour,
    stable_opacity,
)

EdgeScores: TypeAlias = Scores | Mapping[Edge, float] | Mapping[str, float]
"""Scores of edges: a `Scores` value, or a mapping from edges or their names."""

PairOfScores: TypeAlias = tuple[EdgeScores | None, EdgeScores | None]

_KINDS = tuple(KIND_COLOURS)


UNKNOWN = 0.5
"""How stable an edge is taken to be where no discovery was repeated."""


@typed
@dataclass(frozen=True)
class Fade:
    """Which of a diff's edges are faint: how stable they are, and which changed.

    `survival` is the part (0 to 1) of a model's repetitions that keep an edge, in the model whose
    circuit has it, the smaller of both for a shared edge; of an edge that is missing it is 0. It is
    None where no discovery was repeated. `changed` differ significantly between the models, at the
    false discovery rate `level`; None where that was not tested.
    """

    survival: Mapping[Edge, float] | None
    changed: frozenset[Edge]
    level: float | None

    @property
    def samples(self) -> dict[str, tuple[float, bool]]:
        """Return what a legend shows: words, and how stable an edge is and whether it changed."""
        found = {f"kept in {kept:.0%}": (kept, False) for kept in (0.0, 0.5, 1.0)}
        if self.survival is None:
            found = {"faint: did not": (UNKNOWN, False)}
        if self.level is not None:
            found[f"solid: changed, q < {self.level:g}"] = (1.0, True)
        return found


@typed
@dataclass(frozen=True)
class Drawing:
    """How a circuit or a diff is drawn: what is beside its edges, in words, and who places it.

    Args:
        scores: of a circuit, a `Scores` or a mapping from edges; of a diff, a pair of those.
        names: what a diff's two circuits are called.
        whole: of a diff, the one it is a part of, which then says who has a node.
        fade: of a diff, how stable its edges are, and which changed significantly.
        labels: what is written above nodes, by their names, such as head roles.
        title: printed above, if not empty.
        caption: printed below; by default the numbers of edges and nodes.
        layout: `dot`, `built-in`, or `auto`: Graphviz's `dot` where the machine has it.
        timeout: seconds that `dot` may take; then the built-in layout does it, with a warning.
        stability: of a circuit, the share of resampled prompts that keep each edge, by which lines
            are more or less opaque; of an edge that is missing it is 0.
    """

    scores: EdgeScores | PairOfScores | None = None
    names: tuple[str, str] = ("A", "B")
    whole: CircuitDiff | None = None
    fade: Fade | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    title: str = ""
    caption: str | None = None
    layout: str = "auto"
    timeout: float = 20.0
    stability: Mapping[Edge, float] | None = None


@dataclass(frozen=True)
class Line:
    """One kept edge: `strength` is |score| over the largest; None: not measured.

    `survival`, of a diff: the share of repeated discoveries that keep it. `stability`, of a
    circuit: the share of resampled prompts that do.
    """

    edge: Edge
    group: int
    colour: str
    strength: float | None
    negative: bool
    tooltip: str
    survival: float | None = None
    changed: bool = False
    stability: float | None = None

    @property
    def opacity(self) -> float:
        """Return how opaque the line is: by its score, unless its stability is shown instead."""
        if self.stability is not None:
            return stable_opacity(self.stability)
        return edge_opacity(self.strength) if self.survival is None else 1.0

    @property
    def shade(self) -> str:
        """Return the colour, faded by how stable the line is if that is known."""
        if self.survival is None:
            return self.colour
        return stable_colour(self.colour, self.survival, changed=self.changed)

    @property
    def rank(self) -> tuple[bool, float, bool, float]:
        """Return what lines are drawn by, the largest last and so on top."""
        kept = self.survival or self.stability or 0.0
        return (self.changed, kept, self.group > 0, self.strength or 0.0)

    def strand(self, *, joined: bool, by_kind: bool) -> tuple[int, ...]:
        """Return what sets lines of one trunk apart.

        In their receiver's trunk the port's kind must, or nobody could tell where a line goes; in
        a sender's it may (`by_kind`), for its colour's sake.
        """
        kind = _KINDS.index(self.edge.port.kind) if joined or by_kind else 0
        return (kind, self.group, int(self.negative and (by_kind or not joined)))


@dataclass(frozen=True)
class Subject:
    """What is drawn, in graph order; `largest` is the largest |score|, 0 without scores.

    `groups` are words and a colour for the legend; so are `samples` of how lines fade, None where
    they do not. `resampled`: lines are as opaque as they are stable.
    """

    graph: ComputationGraph
    lines: tuple[Line, ...]
    nodes: tuple[tuple[Node, str], ...]
    groups: tuple[tuple[str, str], ...]
    largest: float
    caption: str
    letters: bool
    samples: Mapping[str, tuple[float, bool]] | None = None
    labels: Mapping[Node, str] = field(default_factory=dict)
    resampled: bool = False


@typed
def read_subject(subject: Circuit | CircuitDiff, drawing: Drawing) -> Subject:
    """Read a circuit or a diff with its scores, and what is written above the nodes drawn."""
    scores = drawing.scores
    if isinstance(subject, CircuitDiff):
        if scores is not None and not (isinstance(scores, tuple) and len(scores) == 2):
            raise EdgewiseError(
                f"a diff was given scores of type {type(scores).__name__}; accepted: a pair, the "
                "scores of A and of B (either may be None)."
            )
        read = _read_diff(subject, scores or (None, None), drawing)
    elif isinstance(subject, Circuit):
        if isinstance(scores, tuple):
            raise EdgewiseError("a circuit was given a pair of scores; accepted: one.")
        read = _read_circuit(subject, scores, drawing.stability)
    else:
        raise EdgewiseError(
            f"a {type(subject).__name__} cannot be drawn; accepted: a Circuit or a CircuitDiff."
        )
    above = {node: drawing.labels.get(str(node)) for node, _ in read.nodes}
    return replace(read, labels={node: visible(text) for node, text in above.items() if text})


def _read_circuit(
    circuit: Circuit, scores: EdgeScores | None, stability: Mapping[Edge, float] | None
) -> Subject:
    """Colour a circuit's edges by the kind of port they end in."""
    values = score_table(circuit, scores)
    largest = max(map(abs, values.values()), default=0.0)
    lines = []
    for edge in circuit.edges:
        value = values.get(edge)
        words = f"{edge}" if value is None else f"{edge}  score {value:.4g}"
        share = None if stability is None else stability.get(edge, 0.0)
        words += "" if share is None else f"  in {share:.0%} of resamples"
        look = (KIND_COLOURS[edge.port.kind], *_strength(value, largest))
        lines.append(Line(edge, 0, *look, words, stability=share))
    counts = circuit.graph.count_by_kind(circuit.kept)
    groups = tuple(
        (f"{KIND_WORDS[k]} ({counts[k]:,})", KIND_COLOURS[k]) for k in _KINDS if counts.get(k)
    )
    nodes = tuple((node, INK) for node in circuit.nodes)
    caption = f"{len(lines):,} of {circuit.graph.edge_count:,} edges kept, {len(nodes)} nodes."
    if not lines:
        caption = "The circuit keeps no edge; only the logits are drawn."
    resampled = stability is not None and bool(lines)
    return Subject(
        circuit.graph, tuple(lines), nodes, groups, largest, caption, False, resampled=resampled
    )


def _read_diff(diff: CircuitDiff, scores: PairOfScores, drawing: Drawing) -> Subject:
    """Colour the union's edges by who has them; width follows the larger |score| of those."""
    names, fade = [visible(name) for name in drawing.names], drawing.fade
    whole = drawing.whole or diff
    values_a, values_b = score_table(diff.a, scores[0]), score_table(diff.b, scores[1])
    union = diff.a | diff.b
    parts = (diff.shared, diff.only_a, diff.only_b)
    colours = (SHARED, ONLY_A, ONLY_B)
    words = ("in both", f"only in {names[0]}", f"only in {names[1]}")
    largest = max(map(abs, (*values_a.values(), *values_b.values())), default=0.0)
    lines = []
    for edge in union.edges:
        group = next(i for i, part in enumerate(parts) if edge in part)
        pairs = zip(names, (values_a, values_b), strict=True)
        found = [(name, table[edge]) for name, table in pairs if edge in table]
        value = max((v for _, v in found), key=abs, default=None)
        scored = "".join(f"  score in {name} {v:.4g}" for name, v in found)
        tooltip, survival, changed = f"{edge}  {words[group]}{scored}", None, False
        if fade is not None:
            survival, changed = UNKNOWN, edge in fade.changed
            if fade.survival is not None:
                survival = fade.survival.get(edge, 0.0)
                tooltip += f"  kept in {survival:.0%} of the repetitions"
            tooltip += f"  changed, q < {fade.level:g}" if changed else ""
        look = (colours[group], *_strength(value, largest))
        lines.append(Line(edge, group, *look, tooltip, survival, changed))
    in_a, in_b = set(whole.a.nodes), set(whole.b.nodes)
    nodes = tuple(
        (n, INK if n in in_a and n in in_b else ONLY_A if n in in_a else ONLY_B)
        for n in union.nodes
    )
    counted = [f"{where} ({len(part):,})" for where, part in zip(words, parts, strict=True)]
    groups = tuple(zip(counted, colours, strict=True))
    caption = f"{names[0]}: {len(diff.a):,} edges. {names[1]}: {len(diff.b):,} edges. "
    caption += f"{len(union):,} in all, {len(nodes)} nodes."
    if not lines:
        caption = "Neither circuit keeps an edge; only the logits are drawn."
    samples = None if fade is None else fade.samples
    return Subject(diff.a.graph, tuple(lines), nodes, groups, largest, caption, True, samples)


@typed
def score_table(circuit: Circuit, scores: EdgeScores | None) -> dict[Edge, float]:
    """Return the finite scores of the kept edges."""
    if scores is None:
        return {}
    if isinstance(scores, Scores):
        if scores.graph != circuit.graph:
            found = "; ".join(scores.graph.differences(circuit.graph))
            raise GraphMismatch(f"the scores belong to another graph than the circuit: {found}.")
        return {edge: scores[edge] for edge in circuit.edges if math.isfinite(scores[edge])}
    if not isinstance(scores, Mapping):
        raise EdgewiseError(
            f"scores of type {type(scores).__name__} cannot be drawn; accepted: Scores, or a "
            "mapping from edges (or their names) to numbers."
        )
    table = {}
    for key, value in scores.items():
        edge = Edge.parse(key) if isinstance(key, str) else key
        kept = bool(circuit.kept[circuit.graph.locate(edge)])
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise EdgewiseError(f"the score of {edge} is {value!r}; accepted: a number.") from None
        if kept and math.isfinite(number):
            table[edge] = number
    return table


def _strength(value: float | None, largest: float) -> tuple[float | None, bool]:
    """Return |score| as a fraction of the largest, and whether the score is negative."""
    if value is None:
        return None, False
    return (abs(value) / largest if largest else 0.0), value < 0
