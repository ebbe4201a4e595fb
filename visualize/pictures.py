"""Which edges of a circuit or a diff a readable picture shows, and the caption that says so.

A circuit of thousands of edges is a black page, so a picture shows the strongest that connect.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..graphs.calls.typed import typed
from ..graphs.circuit import Circuit
from ..graphs.diff import CircuitDiff
from ..graphs.files import CircuitFile
from ..graphs.files.stability import stability_of
from ..graphs.levels.nodes import told
from ..graphs.names import Edge
from ..graphs.scores import Scores
from .compose import READING
from .subject import Drawing, Fade

if TYPE_CHECKING:
    from ..graphs.comparison import Changes, Floor
    from ..graphs.files import DiffFile

SHARES = (0.4, 0.3, 0.3)
"""How many of a diff picture's edges are the strongest shared ones, those only in A, only in B."""


class Picture(NamedTuple):
    """What of a circuit or a diff is drawn, and how; `visualize.draw` takes both."""

    subject: Circuit | CircuitDiff
    drawing: Drawing

    @property
    def edges(self) -> int:
        """Return how many edges are drawn."""
        shown = self.subject
        return len(shown) if isinstance(shown, Circuit) else len(shown.a | shown.b)


@typed
def make_picture(file: CircuitFile | DiffFile, names: tuple[str, str], top: int) -> Picture:
    """Choose what a picture of a circuit, or of a diff of circuits called so, shows."""
    if isinstance(file, CircuitFile):
        return circuit_picture(file, top)
    return diff_picture(file, names, top)


@typed
def circuit_picture(file: CircuitFile, top: int) -> Picture:
    """Show a circuit's strongest edges that connect, at most `top` of them."""
    circuit, scores = file.circuit, file.edge_scores
    assert scores is not None  # CircuitFile.__post_init__
    of = f"the circuit's {len(circuit):,} edges ({circuit.graph.edge_count:,} in the model)"
    shown, count = most_that_connect(lambda n: strongest(circuit, scores, n), top, len(circuit))
    words = f"The {count:,} strongest of {of}{_without(count - len(shown))}"
    if len(circuit) <= top:
        words = f"All of {of}"
    drawn = f"{len(shown):,} edges and {len(shown.nodes):,} nodes are drawn"
    level = told(file.discovery.get("level"), circuit)
    words += "" if level is None else f" ({level})"
    caption = f"{words}. {drawn}. {measured_words(file)}{READING}"
    found = stability_of(file)
    if found is not None:
        caption += (
            " The fainter an edge, the fewer of "
            f"{found.resamples:,} resamples of the prompts keep it."
        )
    stable = None if found is None else found.by_edge
    labels = spans_above(shown)
    caption += " Above nodes: at which spans of the prompt they read." if labels else ""
    drawing = Drawing(
        Scores(circuit.graph, scores), stability=stable, labels=labels, caption=caption
    )
    return Picture(shown, drawing)


def spans_above(circuit: Circuit) -> dict[str, str]:
    """Say of each node that a circuit keeps an edge into at which spans; of none without spans.

    >>> from edgewise.graphs.graph import ComputationGraph
    >>> graph = ComputationGraph(layers=1, heads=1, spans=("s2", "end"))
    >>> edges = ["embed->m0@s2", "embed->m0@end", "m0->logits@end"]
    >>> spans_above(Circuit.empty(graph).with_edges(edges))
    {'m0': 's2, end', 'logits': 'end'}
    """
    if not circuit.graph.spans:
        return {}
    found: dict[str, dict[str, None]] = {}
    for edge in circuit.edges:
        if edge.port.span is not None:
            found.setdefault(str(edge.port.node), {})[edge.port.span] = None
    order = circuit.graph.spans
    return {node: ", ".join(name for name in order if name in at) for node, at in found.items()}


@typed
def measured_words(file: CircuitFile) -> str:
    """Say how faithful a circuit is, held out first; empty where its file does not tell intervals.

    A file without held-out pairs says 'in sample only'.
    """
    blocks = [file.measures.get(name) for name in ("held_out", "in_sample")]
    said = []
    for words, block in zip(("held out", "in sample"), blocks, strict=True):
        if not isinstance(block, dict):
            continue
        value, interval = block["faithfulness"], block["interval"]
        ends = "" if interval is None else f" [{interval[0]:.2f}, {interval[1]:.2f}]"
        found = "undefined" if value is None else f"{value:.2f}{ends}"
        said.append(f"{found} {words} ({block['examples']:,} pairs)")
    if not said:
        return ""
    only = " only" if len(said) == 1 and blocks[0] is None else ""
    return f"Faithfulness: {', '.join(said)}{only}. "


def diff_picture(file: DiffFile, names: tuple[str, str], top: int) -> Picture:
    """Show at most `top` edges that connect, the strongest of each: shared, only in A, only in B.

    All three get a part of the picture (`SHARES`), or what changed, being mostly weak, would not be
    seen. Edges of one circuit that changed come before stronger ones.
    """
    diff, floor, compared = file.diff, file.floor, file.compared
    scores = (Scores(diff.a.graph, file.scores_a), Scores(diff.a.graph, file.scores_b))
    largest = np.fmax(np.abs(file.scores_a), np.abs(file.scores_b))
    fade = fade_of(floor, compared)
    if fade is not None:
        first = float(np.nan_to_num(largest).max()) + 1.0
        for edge in fade.changed:
            if edge not in diff.shared:
                largest[diff.a.graph.locate(edge)] += first
    parts = (diff.shared, diff.only_a, diff.only_b)
    sizes = [len(part) for part in parts]

    def union(total: int) -> Circuit:
        counts = zip(parts, share_out(total, sizes), strict=True)
        a, b, c = (strongest(part, largest, count) for part, count in counts)
        return a | b | c

    shown, count = most_that_connect(union, top, sum(sizes))
    words = f"The strongest edges of each kind{_without(count - len(shown))}"
    if sum(sizes) <= top:
        words = "All edges"
    groups = zip(parts, ("shared", f"only in {names[0]}", f"only in {names[1]}"), strict=True)
    counts = ", ".join(f"{len(part & shown):,} of {len(part):,} {who}" for part, who in groups)
    subject = CircuitDiff(shown & diff.a, shown & diff.b)
    caption, labels = f"{words}: {counts}. {READING}", role_changes(file)
    if floor is not None:
        caption += (
            f" Faint edges are those that few of {floor.measured.repetitions} repeated discoveries "
            "keep in the model whose circuit has them (of shared edges, in the one that keeps them "
            "less often)."
        )
    if compared is not None:
        told = compared.measured
        by = f"changed by more than {told.amount(told.delta)} (q < {told.level:g})"
        every = fade.changed if fade is not None else frozenset()
        drawn = sum(edge in every for edge in shown.edges)
        solid = f" Solid edges {by}: {drawn:,} of {len(every):,} such edges are drawn."
        caption += solid if every else f" None of these edges {by}."
    if not labels:
        labels = spans_above(shown)
        caption += " Above nodes: at which spans of the prompt they read." if labels else ""
    elif labels:
        caption += " Above heads: their measured role in either model."
    return Picture(subject, Drawing(scores, names, diff, fade, labels, caption=caption))


@typed
def role_changes(file: DiffFile) -> dict[str, str]:
    """Say of a diff's heads what they do in A and in B; 'induction .91 / .85' if it is the same."""
    found = {}
    for one, other in file.roles.heads if file.roles is not None else ():
        first, second = one.named(most=1), other.named(most=1)
        if one.role is not None and one.role == other.role:
            found[str(one.node)] = f"{first} / {second.rpartition(' ')[2]}"
        elif first or second:
            found[str(one.node)] = f"{first or 'none'} → {second or 'none'}"
    return found


def fade_of(floor: Floor | None, compared: Changes | None) -> Fade | None:
    """Tell how stable each edge of the two circuits is, and which changed; None if neither is told.

    Where nothing changed and no discovery was repeated, no edge is fainter than another.
    """
    groups = ("shared", "only_a", "only_b")
    rows = () if compared is None else compared.changed(*groups)
    changed = frozenset(Edge.parse(row.edge) for row in rows)
    level = None if compared is None else compared.measured.level
    if floor is None:
        return Fade(None, changed, level) if changed else None
    survival = {}
    for group in groups:
        for row in floor.rows[group]:
            kept = {"only_a": row.survival_a, "only_b": row.survival_b}
            least = kept.get(group, min(row.survival_a, row.survival_b))
            survival[Edge.parse(row.edge)] = float(least)
    return Fade(survival, changed, level)


def most_that_connect(
    choose: Callable[[int], Circuit], most: int, total: int
) -> tuple[Circuit, int]:
    """Choose n of `total` edges, the most of which at most so many connect; return those, and n.

    Where all may be shown, those that lead nowhere are shown too.
    """
    if total <= most:
        return choose(total), total
    low, high = most, total + 1
    while high - low > 1:
        middle = (low + high) // 2
        fits = len(choose(middle).prune_dangling()) <= most
        low, high = (middle, high) if fits else (low, middle)
    return choose(low).prune_dangling(), low


def strongest(circuit: Circuit, scores: np.ndarray, most: int) -> Circuit:
    """Keep a circuit's edges of largest absolute score; edges without a score come last.

    >>> from edgewise.graphs.graph import ComputationGraph
    >>> full = Circuit.full(ComputationGraph(layers=1, heads=1))
    >>> scores = np.where(full.kept, 1.0, np.nan)
    >>> len(strongest(full, scores, 3))
    3
    """
    key = np.where(circuit.kept, np.nan_to_num(np.abs(scores), nan=-1.0), -np.inf)
    order = np.argsort(-key, kind="stable", axis=None)[: min(most, len(circuit))]
    kept = np.zeros_like(circuit.kept)
    kept.flat[order] = True
    return Circuit(circuit.graph, kept)


def share_out(total: int, available: Sequence[int]) -> list[int]:
    """Divide a number of edges by `SHARES`; what one part cannot use goes to the others.

    >>> share_out(100, [1000, 1000, 1000]), share_out(100, [1000, 10, 0])
    ([40, 30, 30], [90, 10, 0])
    """
    counts = [min(round(total * part), n) for part, n in zip(SHARES, available, strict=True)]
    for i in (1, 2, 0):
        counts[i] += min(total - sum(counts), available[i] - counts[i])
    return counts


def _without(dangling: int) -> str:
    return f", without {dangling:,} that lead nowhere among them" if dangling else ""
