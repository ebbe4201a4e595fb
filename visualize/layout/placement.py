"""Horizontal places for ordered rows: straight trunks, short branches, no overlap. Exact.

Gansner, Koutsofios, North and Vo 1993 (section 4) place vertices by the linear programme

    minimise   sum of pull * |x_u - x_v| over segments
    subject to x_right - x_left >= separation for neighbours in a row.

Its dual is a circulation of least cost: an arc from left to right of cost -separation for each
pair of neighbours, and arcs of capacity `pull` both ways for each segment. The places are the
potentials of the optimal flow, shortest distances in its residual graph. Of the many optimal
solutions the mean of the leftmost and the rightmost looks balanced.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import ceil

import numpy as np

from .skeleton import Skeleton

NODE_GAP, TRUNK_GAP = 10.0, 5.0
_GRID = 10  # places are multiples of a tenth of a point; the flow needs whole numbers


def separation(skeleton: Skeleton, left: int, right: int) -> float:
    """Return the least distance of the middles of two vertices that stand side by side."""
    a, b = skeleton.vertices[left], skeleton.vertices[right]
    gaps = [TRUNK_GAP if v.node is None else NODE_GAP for v in (a, b)]
    return (a.width + b.width + sum(gaps)) / 2


def place_rows(skeleton: Skeleton, order: Sequence[Sequence[int]]) -> list[float]:
    """Return every vertex's x, the smallest 0, for rows ordered from left to right."""
    arcs, count = _residual_arcs(skeleton, order), len(skeleton.vertices)
    both = _distances(count, arcs[:, [1, 0, 2]]) - _distances(count, arcs)
    return [*map(float, (both - both.min()) / (2 * _GRID))]


def _residual_arcs(skeleton: Skeleton, order: Sequence[Sequence[int]]) -> np.ndarray:
    """Solve the circulation; return its residual arcs as int [arcs, (from, to, cost)]."""
    import networkx

    network = networkx.DiGraph()
    network.add_nodes_from(range(len(skeleton.vertices)), demand=0)
    for left, right in (pair for row in order for pair in pairwise(row)):
        network.add_edge(left, right, weight=-ceil(separation(skeleton, left, right) * _GRID))
    for s in skeleton.segments:
        network.add_edge(s.lower, s.upper, capacity=s.pull, weight=0)
        network.add_edge(s.upper, s.lower, capacity=s.pull, weight=0)
    _, flow = networkx.network_simplex(network)
    arcs = []
    for a, b, data in network.edges(data=True):
        if "capacity" not in data or flow[a][b] < data["capacity"]:
            arcs.append((a, b, data["weight"]))
        if flow[a][b] > 0:
            arcs.append((b, a, -data["weight"]))
    return np.array(arcs, dtype=np.int64).reshape(-1, 3)


def _distances(count: int, arcs: np.ndarray) -> np.ndarray:
    """Return each vertex's shortest distance from anywhere (Bellman and Ford), int [vertices]."""
    distance = np.zeros(count, dtype=np.int64)
    for _ in range(count + 1):
        relaxed = distance.copy()
        np.minimum.at(relaxed, arcs[:, 1], distance[arcs[:, 0]] + arcs[:, 2])
        if (relaxed == distance).all():
            break
        distance = relaxed
    return distance
