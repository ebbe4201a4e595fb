"""The layered graph that a layout arranges: nodes in rows, and trunks through the rows between.

All edges of one sender run along one trunk and branch off below their receivers, or all edges into
one receiver join its trunk above their senders. Each edge is in one trunk only, so a drawing says
of every branch where it comes from and where it goes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

MAIN_PULL, MOST_PULL, _STRAND_GAP = 12, 120, 0.8
Pair: TypeAlias = tuple[int, int]
Trunk: TypeAlias = tuple[bool, int]
"""Whether a trunk belongs to the target of its lines, and the number of the node it belongs to."""


@dataclass(frozen=True)
class Wire:
    """A line from node `source` to node `target` (numbers).

    Lines of one trunk with equal strand lie upon each other, others side by side. `strand` holds
    in the source's trunk, `joined_strand` in the target's.
    """

    source: int
    target: int
    strand: tuple[int, ...]
    joined_strand: tuple[int, ...]
    width: float


@dataclass(frozen=True)
class Vertex:
    """A place in a row: a node (`node` is its number), or a trunk passing through."""

    row: int
    width: float
    node: int | None = None


@dataclass(frozen=True)
class Segment:
    """A connection of two vertices in neighbouring rows; a larger `pull` means straighter."""

    lower: int
    upper: int
    pull: int

    @property
    def crossing_weight(self) -> int:
        """Return how many crossings it counts as to cross this segment."""
        return 2 if self.pull >= 2 * MAIN_PULL else 1


@dataclass(frozen=True)
class Skeleton:
    """Vertices (the nodes first), their rows from the bottom, segments, and each wire's way.

    `routes` lists each wire's vertices from source to target, `offsets` how far it runs beside the
    middle of its trunk, `joined` whether the trunk belongs to its target.
    """

    vertices: tuple[Vertex, ...]
    rows: tuple[tuple[int, ...], ...]
    segments: tuple[Segment, ...]
    routes: tuple[tuple[int, ...], ...]
    offsets: tuple[float, ...]
    joined: tuple[bool, ...]


def build(
    rows: Sequence[int], widths: Sequence[float], wires: Sequence[Wire], ties: Sequence[Pair] = ()
) -> Skeleton:
    """Lay trunks for wires between nodes whose rows and widths are given.

    `ties` are pairs of nodes in neighbouring rows that should stand near each other.

    >>> wires = [Wire(0, 1, (0,), (0,), 1), Wire(0, 2, (0,), (0,), 1)]
    >>> build([0, 1, 3], [9, 9, 9], wires).routes
    ((0, 1), (0, 3, 4, 2))
    """
    joined = choose_trunks(rows, wires)
    trunks = [(t, w.target if t else w.source) for w, t in zip(wires, joined, strict=True)]
    offsets, thickness = _strands(wires, trunks)
    vertices = [Vertex(*one, i) for i, one in enumerate(zip(rows, widths, strict=True))]
    number: dict[tuple[Trunk, int], int] = {}  # of the vertex where a trunk passes a row
    routes = []
    for wire, trunk in zip(wires, trunks, strict=True):
        between = [(trunk, row) for row in range(rows[wire.source] + 1, rows[wire.target])]
        for passing in between:
            if passing not in number:
                number[passing] = len(vertices)
                vertices.append(Vertex(passing[1], thickness[trunk]))
        routes.append((wire.source, *(number[passing] for passing in between), wire.target))
    owner = {vertex: trunk for (trunk, _), vertex in number.items()}
    segments = _segments(wires, routes, owner, ties)
    ranked: list[list[int]] = [[] for _ in range(max(rows, default=-1) + 1)]
    for i, vertex in enumerate(vertices):
        ranked[vertex.row].append(i)
    levels = tuple(map(tuple, ranked))
    return Skeleton(tuple(vertices), levels, segments, tuple(routes), offsets, joined)


def _segments(
    wires: Sequence[Wire],
    routes: Sequence[tuple[int, ...]],
    owner: dict[int, Trunk],
    ties: Sequence[Pair],
) -> tuple[Segment, ...]:
    """List the distinct connections; those within a trunk or to its owner pull hardest."""
    found: dict[Pair, int] = dict.fromkeys(ties, MAIN_PULL)
    for wire, route in zip(wires, routes, strict=True):
        for lower, upper in pairwise(route):
            a, b = owner.get(lower), owner.get(upper)
            pull, so_far = max(1, round(wire.width)), found.get((lower, upper), 0)
            if (a and a == b) or b == (False, lower) or a == (True, upper):
                found[lower, upper] = min(so_far + MAIN_PULL, MOST_PULL)
            else:
                found[lower, upper] = max(pull, so_far)
    return tuple(Segment(lower, upper, pull) for (lower, upper), pull in found.items())


def _strands(
    wires: Sequence[Wire], trunks: Sequence[Trunk]
) -> tuple[tuple[float, ...], dict[Trunk, float]]:
    """Give every wire its offset inside its trunk, and every trunk its thickness."""
    widest: dict[Trunk, dict[tuple[int, ...], float]] = defaultdict(dict)
    chosen = [w.joined_strand if t else w.strand for w, (t, _) in zip(wires, trunks, strict=True)]
    for wire, trunk, strand in zip(wires, trunks, chosen, strict=True):
        widest[trunk][strand] = max(wire.width, widest[trunk].get(strand, 0.0))
    middle: dict[tuple[Trunk, tuple[int, ...]], float] = {}
    thickness: dict[Trunk, float] = {}
    for trunk, strands in widest.items():
        thickness[trunk] = sum(strands.values()) + _STRAND_GAP * (len(strands) - 1)
        at = -thickness[trunk] / 2
        for strand in sorted(strands):
            middle[trunk, strand] = at + strands[strand] / 2
            at += strands[strand] + _STRAND_GAP
    return tuple(middle[key] for key in zip(trunks, chosen, strict=True)), thickness


def choose_trunks(rows: Sequence[int], wires: Sequence[Wire]) -> tuple[bool, ...]:
    """Decide for each wire whether it runs in its target's trunk (True) or its source's.

    A local search for few trunk places in all: a target takes over the wires from one row upward
    when that shortens the sources' trunks by more than its own grows.
    """
    above: dict[int, set[int]] = defaultdict(set)  # source: targets in the source's trunk
    below: dict[int, set[int]] = defaultdict(set)  # target: all its sources
    for wire in wires:
        above[wire.source].add(wire.target)
        below[wire.target].add(wire.source)
    taken: dict[int, set[int]] = {target: set() for target in below}
    for _ in range(4):
        before = dict(taken)
        for target in sorted(below, key=lambda t: (-len(below[t]), t)):
            saving = {}  # how many rows a source's trunk would be shorter
            for source in below[target]:
                above[source].discard(target)
                reach = max((rows[t] for t in above[source]), default=rows[source] + 1)
                saving[source] = max(0, rows[target] - reach)
            best, floor = 0, rows[target]
            for row in sorted({rows[s] for s in saving}):
                gain = sum(g for s, g in saving.items() if rows[s] >= row)
                gain -= rows[target] - row - 1
                if gain > best:
                    best, floor = gain, row
            taken[target] = {s for s, g in saving.items() if rows[s] >= floor and g}
            for source in below[target] - taken[target]:
                above[source].add(target)
        if before == taken:
            break
    return tuple(w.source in taken[w.target] for w in wires)
