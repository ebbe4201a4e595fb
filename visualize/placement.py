"""Horizontal places for ordered rows: straight trunks, nodes near their neighbours, no overlap.

Brandes and Köpf 2002: align each vertex with a median neighbour in four ways (from below or
above, leftmost or rightmost), pack the aligned blocks, and take the mean of the two middle
results. Trunks take part as inner segments do there, and so come out vertical. Then blocks are
drawn towards their neighbours as far as the order allows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from .ordering import neighbours
from .skeleton import Skeleton

NODE_GAP, TRUNK_GAP = 9.0, 4.5


def separation(skeleton: Skeleton, left: int, right: int) -> float:
    """Return the least distance of the middles of two vertices that stand side by side."""
    a, b = skeleton.vertices[left], skeleton.vertices[right]
    gap = TRUNK_GAP if a.node is None and b.node is None else NODE_GAP
    if (a.node is None) != (b.node is None):
        gap = (TRUNK_GAP + NODE_GAP) / 2
    return (a.width + b.width) / 2 + gap


def place_rows(skeleton: Skeleton, order: Sequence[Sequence[int]]) -> list[float]:
    """Return every vertex's x."""
    results = []
    for upward in (True, False):
        for leftward in (True, False):
            rows = [list(row) if leftward else list(row)[::-1] for row in order]
            blocks = _align(skeleton, rows, upward=upward)
            x = _pack(skeleton, rows, blocks)
            results.append(x if leftward else [-value for value in x])
    spans = [max(x) - min(x) for x in results]
    narrow = results[spans.index(min(spans))]
    for i, x in enumerate(results):
        shift = min(narrow) - min(x) if i % 2 == 0 else max(narrow) - max(x)
        results[i] = [value + shift for value in x]
    mean = [(a + b) / 2 for _, a, b, _ in (sorted(v) for v in zip(*results, strict=True))]
    return relax(skeleton, order, mean)


def _inner(skeleton: Skeleton) -> set[tuple[int, int]]:
    """List the segments inside trunks."""
    vertices = skeleton.vertices
    return {
        (s.lower, s.upper)
        for s in skeleton.segments
        if s.main and vertices[s.lower].node is None and vertices[s.upper].node is None
    }


def _conflicts(skeleton: Skeleton, rows: list[list[int]]) -> set[tuple[int, int]]:
    """Mark the segments that cross a segment inside a trunk: they yield."""
    inner = _inner(skeleton)
    place = {v: i for row in rows for i, v in enumerate(row)}
    gaps: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for s in skeleton.segments:
        gaps[skeleton.vertices[s.lower].row].append((s.lower, s.upper))
    marked = set()
    for gap in gaps.values():
        straight = [(place[a], place[b]) for a, b in gap if (a, b) in inner]
        for a, b in gap:
            if (a, b) not in inner and any(
                (place[a] - p) * (place[b] - q) < 0 for p, q in straight
            ):
                marked.add((a, b))
    return marked


def _align(skeleton: Skeleton, rows: list[list[int]], *, upward: bool) -> list[int]:
    """Join vertices to blocks; return each vertex's block, named by its first vertex."""
    marked = _conflicts(skeleton, rows)
    main = {(s.lower, s.upper) for s in skeleton.segments if s.main}
    down, up = neighbours(skeleton)
    place = {v: i for row in rows for i, v in enumerate(row)}
    root = list(range(len(skeleton.vertices)))
    for row in rows[1:] if upward else rows[-2::-1]:
        used: set[int] = set()
        reach = -1
        for v in row:
            pairs = [((n, v) if upward else (v, n), n) for n in (down if upward else up)[v]]
            if any(pair in main for pair, _ in pairs):
                pairs = [(pair, n) for pair, n in pairs if pair in main]
            pairs.sort(key=lambda item: place[item[1]])
            middle = (len(pairs) - 1) // 2
            for pair, n in pairs[middle : len(pairs) // 2 + 1]:
                if pair not in marked and place[n] > reach and n not in used:
                    root[v] = root[n]
                    reach = place[n]
                    used.add(n)
                    break
    return root


def _pack(skeleton: Skeleton, rows: list[list[int]], root: list[int]) -> list[float]:
    """Give blocks the smallest x the order allows, then pull each up to its right neighbours."""
    after: dict[int, dict[int, float]] = defaultdict(dict)
    waiting: dict[int, int] = defaultdict(int)
    for row in rows:
        for left, right in zip(row, row[1:], strict=False):
            a, b = root[left], root[right]
            gap = separation(skeleton, left, right)
            if b not in after[a]:
                waiting[b] += 1
            after[a][b] = max(gap, after[a].get(b, 0.0))
    blocks = sorted(set(root))
    ready = [b for b in blocks if not waiting[b]]
    x = dict.fromkeys(blocks, 0.0)
    sequence = []
    while ready:
        block = ready.pop()
        sequence.append(block)
        for following, gap in after[block].items():
            x[following] = max(x[following], x[block] + gap)
            waiting[following] -= 1
            if not waiting[following]:
                ready.append(following)
    for block in reversed(sequence):
        if after[block]:
            x[block] = max(x[block], min(x[f] - gap for f, gap in after[block].items()))
    return [x[root[v]] for v in range(len(root))]


def relax(
    skeleton: Skeleton, order: Sequence[Sequence[int]], x: Sequence[float], *, rounds: int = 40
) -> list[float]:
    """Draw straight runs of vertices towards the median of their neighbours, keeping the order."""
    at = list(x)
    place = {v: (r, i) for r, row in enumerate(order) for i, v in enumerate(row)}
    runs = _straight_runs(skeleton, at)
    member = {v: n for n, run in enumerate(runs) for v in run}
    down, up = neighbours(skeleton)
    for turn in range(rounds):
        for n in range(len(runs)) if turn % 2 == 0 else reversed(range(len(runs))):
            run = runs[n]
            pulls = sorted(at[w] for v in run for w in (*down[v], *up[v]) if member[w] != n)
            if not pulls:
                continue
            wish = (pulls[(len(pulls) - 1) // 2] + pulls[len(pulls) // 2]) / 2
            low, high = -float("inf"), float("inf")
            for v in run:
                r, i = place[v]
                if i:
                    low = max(low, at[order[r][i - 1]] + separation(skeleton, order[r][i - 1], v))
                if i + 1 < len(order[r]):
                    right = order[r][i + 1]
                    high = min(high, at[right] - separation(skeleton, v, right))
            if low <= high:
                move = min(max(wish, low), high)
                for v in run:
                    at[v] = move
    return at


def _straight_runs(skeleton: Skeleton, x: Sequence[float]) -> list[list[int]]:
    """Join the ends of main segments that already stand straight above each other."""
    root = list(range(len(x)))

    def find(v: int) -> int:
        while root[v] != v:
            root[v] = root[root[v]]
            v = root[v]
        return v

    for s in skeleton.segments:
        if s.main and abs(x[s.lower] - x[s.upper]) < 0.01:
            root[find(s.upper)] = find(s.lower)
    runs: dict[int, list[int]] = defaultdict(list)
    for v in range(len(x)):
        runs[find(v)].append(v)
    return list(runs.values())
