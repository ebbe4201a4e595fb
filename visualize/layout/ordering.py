"""Crossing reduction: the order of the vertices in each row of a skeleton.

Sugiyama, Tagawa and Toda 1981: sweeps up and down that sort each row by the barycentre of its
neighbours; then sifting (Matuszewski et al. 1999) of single vertices. Of several starts the one
with the fewest crossings is kept. Trunks of several lines weigh double, which keeps them straight.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from .skeleton import Skeleton

Order = list[list[int]]
Near = list[list[int]]
"""Each vertex's neighbours in the row below, or above."""
LARGE = 900


def order_rows(skeleton: Skeleton, *, starts: int = 8, sweeps: int = 16) -> Order:
    """Return the vertices of each row from left to right, with few crossings."""
    down, up = neighbours(skeleton)
    generator = random.Random(0)
    best: Order = [list(row) for row in skeleton.rows]
    fewest = count_crossings(best, up)
    for start in range(starts if len(skeleton.vertices) < LARGE else 2):
        order: Order = [list(row) for row in skeleton.rows]
        for row in order if start else ():
            generator.shuffle(row)
        found, crossings = _improve(order, down, up, sweeps)
        if crossings < fewest:
            best, fewest = found, crossings
        if not fewest:
            break
    return best


def _improve(order: Order, down: Near, up: Near, sweeps: int) -> tuple[Order, int]:
    """Sweep, keep the best order met, and sift it until that helps no more; count its crossings."""
    met = [(count_crossings(order, up), [list(row) for row in order])]
    for sweep in range(sweeps):
        _sweep(order, down, up, upward=sweep % 2 == 0)
        met.append((count_crossings(order, up), [list(row) for row in order]))
    fewest, best = min(met, key=lambda one: one[0])
    for _ in range(12):
        sifted = [list(row) for row in best]
        _sift_all(sifted, down, up)
        crossings = count_crossings(sifted, up)
        if crossings >= fewest:
            break
        best, fewest = sifted, crossings
    return best, fewest


def neighbours(skeleton: Skeleton) -> tuple[Near, Near]:
    """List each vertex's neighbours below and above, as often as their segments weigh."""
    down: Near = [[] for _ in skeleton.vertices]
    up: Near = [[] for _ in skeleton.vertices]
    for segment in skeleton.segments:
        down[segment.upper] += [segment.lower] * segment.crossing_weight
        up[segment.lower] += [segment.upper] * segment.crossing_weight
    return down, up


def count_crossings(order: Sequence[Sequence[int]], up: Sequence[Sequence[int]]) -> int:
    """Count the pairs of segments that cross.

    >>> count_crossings([[0, 1], [2, 3]], [[3], [2], [], []])
    1
    """
    total = 0
    for lower, upper in pairwise(order):
        at = {v: i for i, v in enumerate(upper)}
        ends = np.array([n for v in lower for n in sorted(at[w] for w in up[v])])
        total += int(np.triu(ends[:, None] > ends[None, :]).sum())
    return total


def _sweep(order: Order, down: Near, up: Near, *, upward: bool) -> None:
    """Sort each row by the barycentre of the row before it; vertices without one stay put."""
    for r in range(1, len(order)) if upward else range(len(order) - 2, -1, -1):
        fixed, near = (order[r - 1], down) if upward else (order[r + 1], up)
        at = {v: i / max(1, len(fixed) - 1) for i, v in enumerate(fixed)}
        keys = []
        for i, v in enumerate(order[r]):
            own = i / max(1, len(order[r]) - 1)
            keys.append((sum(at[n] for n in near[v]) / len(near[v]) if near[v] else own, own, v))
        order[r] = [v for _, _, v in sorted(keys)]


def _sift_all(order: Order, down: Near, up: Near) -> None:
    """Move each vertex of each row to where it has the fewest crossings."""
    for r in [*range(len(order)), *range(len(order) - 2, -1, -1)]:
        row = order[r]
        cost = np.zeros((len(row), len(row)), dtype=np.int64)
        if r:
            cost += _pair_costs(row, order[r - 1], down)
        if r + 1 < len(order):
            cost += _pair_costs(row, order[r + 1], up)
        order[r] = [row[i] for i in _sift(cost)]


def _pair_costs(row: list[int], fixed: list[int], near: Near) -> np.ndarray:
    """Count, for every i and j of a row, the crossings of their segments when i stands left."""
    at = {v: i for i, v in enumerate(fixed)}
    counts = np.zeros((len(row), len(fixed)), dtype=np.int64)
    for i, v in enumerate(row):
        for n in near[v]:
            counts[i, at[n]] += 1
    smaller = np.cumsum(counts, axis=1) - counts
    return counts @ smaller.T


def _sift(cost: np.ndarray) -> list[int]:
    """Order items so that the sum of cost[left, right] is locally smallest."""
    order = list(range(len(cost)))
    for item in range(len(cost)):
        rest = [i for i in order if i != item]
        # after[p]: cost of standing before rest[p], ...; before[p]: of standing after it
        left = np.concatenate([[0], np.cumsum(cost[rest, item])])
        right = np.concatenate([[0], np.cumsum(cost[item, rest])])
        totals = left + right[-1] - right
        spot = int(totals.argmin())
        if totals[spot] < totals[order.index(item)]:
            order = [*rest[:spot], item, *rest[spot:]]
    return order
