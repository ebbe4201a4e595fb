"""Effects of many senders, each along its own set of paths, on every example.

A *route* is a set of edges that leads from one start to `logits`: the start takes its ablated
value, every other sender on the route is recomputed from what comes to it along the route, and all
else stays as in the clean run. It is path patching as `patching.paths` does it for named paths, for
as many starts in one run as do not stand on each other's routes. The effect is the rise of the
loss: positive, if what flows along the route helps.

A sender's *direct* effect is that of the route of its one edge into `logits`, which is also the
exact effect of ablating this edge. It can be measured with some nodes cut as well: all their edges
ablated, everything behind them recomputed (Wang et al. 2022, section 3.4: backup name movers).

Shapes: B examples, T positions, D d_model, P ports, S senders.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from ...graphs.names import Edge, Kind, Node, Port
from ..run.chunk import Chunk, given_deltas
from ..run.masked_run import MaskedRun, World, run_masked
from ..run.plan import BASE, Sum, make_plan
from ..run.runner import Progress, Runner, refuse_nan
from .along import Route, can_follow, follow, pieces

TOGETHER = 32
"""Most routes of one run, each of which has a mask of the whole graph."""

LOGITS = Port(Node(Kind.LOGITS))


def together(routes: Sequence[Route], most: int = TOGETHER) -> Iterator[list[int]]:
    """Divide routes into runs in which no start stands on the way of another.

    >>> def route(*names):
    ...     edges = [Edge.parse(name) for name in names]
    ...     return Route(edges[0].sender, frozenset(edges))
    >>> list(together([route("a0.h0->a1.h0<q>", "a1.h0->logits"), route("a1.h0->logits")]))
    [[0], [1]]
    """
    left = list(range(len(routes)))
    while left:
        some: list[int] = []
        starts: set[Node] = set()
        inner: set[Node] = set()
        for i in left:
            one = routes[i]
            if len(some) < most and one.start not in inner and not one.inner & starts:
                some.append(i)
                starts.add(one.start)
                inner |= one.inner
        yield some
        left = [i for i in left if i not in some]


@torch.no_grad()
def route_effects(
    runner: Runner, routes: Sequence[Route], progress: Progress | None = None
) -> np.ndarray:
    """Return by how much each example's loss rises along each route, float64 [routes, examples]."""
    runner.require_plain("an effect along routes")
    found = np.zeros((len(routes), len(runner.pairs)))
    runs = list(together(routes))
    for rows, chunk in runner.numbered_chunks():
        before = _losses(runner, chunk, chunk.clean.streams.final[None])
        for number, some in enumerate(runs):
            after = _patched(runner, chunk, [routes[i] for i in some])
            found[np.ix_(some, rows)] = after - before
            if progress is not None:
                progress(number + 1, len(runs), "path patching")
    refuse_nan(found, f"the metric '{runner.metric.name}'")
    return found


def _clean_world(runner: Runner, chunk: Chunk) -> World:
    """Return what runs start from in which ablated values enter the clean one."""
    given = given_deltas(chunk.base, chunk.clean)
    return World(runner.model, chunk.context, chunk.clean, -chunk.delta, chunk.past, given=given)


def _patched(runner: Runner, chunk: Chunk, routes: list[Route]) -> np.ndarray:
    """Return losses along routes of one run, [routes, B], in as many parts as fit in memory."""
    if can_follow(chunk, routes):
        step = pieces(chunk, len(routes))
        parts = [follow(chunk, routes[i : i + step]) for i in range(0, len(routes), step)]
        return np.concatenate([_values(runner, chunk, part) for part in parts])
    graph, world = runner.graph, _clean_world(runner, chunk)
    masks = np.zeros((len(routes), *graph.size), dtype=bool)
    for mask, route in zip(masks, routes, strict=True):
        for edge in route.edges:
            mask[graph.locate(edge)] = True
    starts = frozenset(graph.sender_index[route.start] for route in routes)
    plan = make_plan(graph, masks, consistent=True, fixed=starts)
    streams = len(routes) * max(1, max(len(step.sums) for step in plan.layers))
    if len(routes) > 1 and 4 * streams * world.base.streams.final.numel() > runner.budget.run:
        half = len(routes) // 2
        halves = (routes[:half], routes[half:])
        return np.concatenate([_patched(runner, chunk, part) for part in halves])
    losses = _losses(runner, chunk, run_masked(world, plan, len(routes)))
    return np.broadcast_to(losses, (len(routes), losses.shape[1]))


def _losses(runner: Runner, chunk: Chunk, stream: torch.Tensor) -> np.ndarray:
    return _values(runner, chunk, chunk.at_answers(stream))


def _values(runner: Runner, chunk: Chunk, read: torch.Tensor) -> np.ndarray:
    (found,) = chunk.reading.values(read, [runner.metric], losses=True)
    return np.asarray(found.cpu().double())


def end_losses(runner: Runner) -> tuple[float, float]:
    """Return the mean loss of the full model and with every edge ablated."""
    sums = np.zeros(2)
    for chunk in runner.chunks():
        ends = torch.stack([run.streams.final for run in (chunk.clean, chunk.base)])
        sums += _losses(runner, chunk, ends).sum(-1)
    refuse_nan(sums, f"the metric '{runner.metric.name}'")
    full, empty = (sums / len(runner.pairs)).tolist()
    return full, empty


@torch.no_grad()
def direct_effects(runner: Runner, starts: Sequence[Node], cut: Sequence[Node] = ()) -> np.ndarray:
    """Return by how much each example's loss rises without each start's edge into `logits`.

    float64 [starts, examples]. `cut`: nodes all of whose edges are ablated before; their own effect
    is then 0.
    """
    if not cut:
        edges = [frozenset({Edge(start, LOGITS)}) for start in starts]
        return route_effects(runner, [Route(*one) for one in zip(starts, edges, strict=True)])
    graph = runner.graph
    kept = graph.reads.copy()
    kept[:, [graph.sender_index[node] for node in cut]] = False
    plan = make_plan(graph, kept[None], consistent=runner.ablation.consistent)
    on = kept[-1] & plan.moving
    logits = Sum(BASE, on.astype(np.float32)[None])  # so that what each sender adds is noted
    plan = replace(plan, logits=logits, needed=plan.needed | on)
    found = np.zeros((len(starts), len(runner.pairs)))
    for rows, chunk in runner.numbered_chunks():
        run = MaskedRun(chunk.world, plan, 1, {})
        stream = run.final()  # [1, B, T, D]
        written, nothing = run.deltas.noted(), torch.zeros_like(stream[0]).flatten()
        before = _losses(runner, chunk, stream)
        for first in range(0, len(starts), TOGETHER):
            some = starts[first : first + TOGETHER]
            columns = (graph.sender_index[start] for start in some)
            own = [written.get(i, nothing) if on[i] else nothing for i in columns]
            less = stream - torch.stack(own).view(-1, *stream.shape[1:]).to(stream.dtype)
            found[first : first + len(some), rows] = _losses(runner, chunk, less) - before
    refuse_nan(found, f"the metric '{runner.metric.name}'")
    return found
