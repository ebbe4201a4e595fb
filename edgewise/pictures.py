"""Which edges of a circuit or a diff a readable picture shows, and the caption that says so.

A circuit of thousands of edges is a black page, so a picture shows the strongest ones. Of those,
edges that lead nowhere within the picture (dangling ones) are left out. Whether an edge is in both
circuits of a diff or in one is always told from the whole circuits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .graphs.circuit import Circuit
from .graphs.diff import CircuitDiff
from .graphs.scores import Scores

if TYPE_CHECKING:
    from .graphs.files import CircuitFile, DiffFile

SHARES = (0.4, 0.3, 0.3)
"""How many of a diff picture's edges are the strongest shared ones, those only in A, only in B."""


@dataclass(frozen=True)
class Picture:
    """Hold what `visualize.draw` takes."""

    subject: Circuit | CircuitDiff
    scores: Scores | tuple[Scores, Scores]
    caption: str


def make_picture(file: CircuitFile | DiffFile, names: tuple[str, str], top: int) -> Picture:
    """Choose what a picture of a circuit, or of a diff of circuits called so, shows."""
    from .graphs.files import CircuitFile

    if isinstance(file, CircuitFile):
        return circuit_picture(file, top)
    return diff_picture(file, names, top)


def circuit_picture(file: CircuitFile, top: int) -> Picture:
    """Show a circuit's `top` edges of largest absolute score."""
    circuit = file.circuit
    assert file.edge_scores is not None
    scores = Scores(circuit.graph, file.edge_scores)
    chosen = strongest(circuit, file.edge_scores, top)
    shown = chosen if len(chosen) == len(circuit) else chosen.prune_dangling()
    of = f"the circuit's {len(circuit):,} edges ({circuit.graph.edge_count:,} in the model)"
    if len(chosen) == len(circuit):
        words = f"All of {of}. "
    else:
        words = f"The {len(chosen):,} strongest of {of}{_without(chosen, shown)}. "
    return Picture(shown, scores, words + _nodes(shown) + _READING)


def diff_picture(file: DiffFile, names: tuple[str, str], top: int) -> Picture:
    """Show `top` edges of a diff, the strongest of those shared, only in A and only in B."""
    diff = file.diff
    scores = (Scores(diff.a.graph, file.scores_a), Scores(diff.a.graph, file.scores_b))
    largest = np.fmax(np.abs(file.scores_a), np.abs(file.scores_b))
    parts = (diff.shared, diff.only_a, diff.only_b)
    chosen = [
        strongest(part, largest, count)
        for part, count in zip(parts, share_out(top, [len(part) for part in parts]), strict=True)
    ]
    union = chosen[0] | chosen[1] | chosen[2]
    if len(union) == sum(len(part) for part in parts):
        shown, words = union, "All edges: "
    else:
        shown, words = union.prune_dangling(), "The strongest edges of each kind: "
    places = ("shared", f"only in {names[0]}", f"only in {names[1]}")
    counts = ", ".join(
        f"{len(part & shown):,} of {len(part):,} {place}"
        for part, place in zip(parts, places, strict=True)
    )
    subject = CircuitDiff(shown & diff.a, shown & diff.b)
    return Picture(subject, scores, f"{words}{counts}. {_READING}")


def strongest(circuit: Circuit, scores: np.ndarray, most: int) -> Circuit:
    """Keep a circuit's edges of largest absolute score; edges without a score come last.

    >>> from edgewise.graphs.graph import ComputationGraph
    >>> full = Circuit.full(ComputationGraph(layers=1, heads=1))
    >>> scores = np.where(full.kept, 1.0, np.nan)
    >>> len(strongest(full, scores, 3))
    3
    """
    key = np.where(circuit.kept, np.nan_to_num(np.abs(scores), nan=-1.0), -np.inf).ravel()
    order = np.argsort(-key, kind="stable")[: min(most, len(circuit))]
    kept = np.zeros(key.shape, dtype=bool)
    kept[order] = True
    return Circuit(circuit.graph, kept.reshape(circuit.kept.shape))


def share_out(total: int, available: Sequence[int]) -> list[int]:
    """Divide a number of edges by `SHARES`; what one part cannot use goes to the others.

    >>> share_out(100, [1000, 1000, 1000]), share_out(100, [1000, 10, 0])
    ([40, 30, 30], [90, 10, 0])
    """
    counts = [min(round(total * share), n) for share, n in zip(SHARES, available, strict=True)]
    for i in (1, 2, 0):
        counts[i] += min(total - sum(counts), available[i] - counts[i])
    return counts


_READING = "Edges run upward; those of one sender, or into one receiver, may share a trunk."


def _nodes(circuit: Circuit) -> str:
    return f"{len(circuit):,} edges and {len(circuit.nodes):,} nodes are drawn. "


def _without(chosen: Circuit, shown: Circuit) -> str:
    dangling = len(chosen) - len(shown)
    return f", without {dangling:,} that lead nowhere among them" if dangling else ""
