"""From places to curves: the rows' heights, and each wire's path.

Lines change sides only in the gaps between rows and pass every row vertically in their trunk's
own place, so no line runs through a node that is not its end.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

from ..scene import Command, PathData, Point
from ..style import NODE_HEIGHT
from .skeleton import Skeleton

_MIN_GAP, _MAX_GAP, _ROOMY = 10.0, 38.0, 20


def gap_heights(skeleton: Skeleton, x: Sequence[float]) -> list[float]:
    """Return the height of the gap above each row: more where lines go far to the side."""
    moves: dict[int, list[float]] = defaultdict(list)
    for segment in skeleton.segments:
        row = skeleton.vertices[segment.lower].row
        moves[row].append(abs(x[segment.lower] - x[segment.upper]))
    heights, extra = [], max(0.0, 14.0 * (1 - len(skeleton.rows) / _ROOMY))
    for row in range(len(skeleton.rows) - 1):
        sideways = sorted(m for m in moves[row] if m > 2)
        far = sideways[-1 - len(sideways) // 8] if sideways else 0.0
        heights.append(extra + min(_MAX_GAP, _MIN_GAP + 0.7 * far**0.5 + 0.22 * len(sideways)))
    return heights


def wire_path(skeleton: Skeleton, number: int, at: Sequence[Point], ends: Point) -> PathData:
    """Return one wire's path from its source's middle to its target's middle.

    `at` are the middles of all vertices, `ends` how far from those of its nodes, to the side, the
    wire leaves and arrives.
    """
    route, offset = skeleton.routes[number], skeleton.offsets[number]
    shift = [ends[0], *(offset for _ in route[2:]), ends[1]]
    points = [(at[v][0] + s, at[v][1]) for v, s in zip(route, shift, strict=True)]
    path: list[Command] = [("M", points[0])]
    for i, ((x0, y0), (x1, y1)) in enumerate(pairwise(points)):
        if abs(x0 - x1) < 0.05:
            _straight(path, x0, y1)
            continue
        low, high = y0 - NODE_HEIGHT / 2, y1 + NODE_HEIGHT / 2
        # a line at the right of its trunk turns right below the others, and left above them
        aside = (shift[i] + shift[i + 1]) / 2 * (1 if x1 > x0 else -1)
        bend = (low + high) / 2 + max(-0.3, min(0.3, 1.3 * aside / (low - high))) * (low - high)
        _straight(path, x0, low)
        path.append(("C", (x0, bend, x1, bend, x1, high)))
        _straight(path, x1, y1)
    return tuple(path)


def _straight(path: list[Command], x: float, y: float) -> None:
    """Go on vertically, lengthening a vertical line that is already there."""
    if path[-1][0] == "L":
        path[-1] = ("L", (path[-1][1][0], y))
    else:
        path.append(("L", (x, y)))
