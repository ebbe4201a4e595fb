"""Hypotheses of paths: the behaviour of a model in which some paths carry clean values, no others.

Paths that go through one head and then part are told apart here, which circuits of edges cannot do.
A set of paths is a tree that begins at `logits`: each port on it reads some senders, each of these
has ports of its own, and one sender stands in the tree as often as paths lead on from it in another
way. Every sender of the tree is computed at its own place, from

    x_p = (ablated x_p) + Σ_{u read there} (o_u − a_u)

where o_u is what u writes at *that* place: recomputed in the same way or, where a path starts, what
it writes in the clean run. Everything that is in no path carries its ablated value. The other way
round, *without* the paths, they carry ablated values in the clean run. Source: Goldowsky-Dill et
al. 2023 (their treeified model).

Shapes: S senders, P ports, G values from outside, N = B·T·D numbers of a stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from ..graphs.calls.typed import typed
from ..graphs.errors import EdgewiseError
from ..graphs.graph import ComputationGraph
from .paths import Path
from .run.chunk import Chunk, given_deltas, sender_deltas
from .run.masked_run import World, run_masked
from .run.plan import make_plan
from .run.runner import Runner, refuse_nan
from .trace import Trace

Senders = dict[int, "Ports | None"]
"""What a port reads, by the sender's column: its ports, or None for all that it writes."""

Ports = dict[int, Senders]
"""What the ports of a sender read, by row."""


@typed
def path_tree(graph: ComputationGraph, paths: Sequence[Path]) -> Senders:
    """Return what `logits` reads along some paths; a path that starts at a node takes it whole.

    >>> graph = ComputationGraph(layers=2, heads=1)
    >>> texts = "embed->a0.h0<v>->a1.h0<k>->logits", "embed->a0.h0<v>->logits"
    >>> tree = path_tree(graph, [path for text in texts for path in Path.parse(text, graph)])
    >>> [str(graph.senders[column]) for column in tree]
    ['a1.h0', 'a0.h0']
    """
    tree: Senders = {}
    for path in paths:
        _grow(graph, tree, _steps(graph, path))
    return tree


@typed
@torch.no_grad()
def path_values(
    runner: Runner,
    hypotheses: Sequence[Sequence[Path]],
    *,
    without: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> np.ndarray:
    """Return the metric of each set of paths on each example, float64 [sets, examples].

    Of a model in which these paths alone carry clean values or, if `without`, in which these alone
    carry ablated ones. Without any path that is the circuit of no edge, or the whole model.
    `progress`: told how many sets' worth of work is done, and how many sets there are.
    """
    runner.require_plain("a hypothesis of paths")
    trees = [path_tree(runner.graph, paths) for paths in hypotheses]
    if not trees:
        raise EdgewiseError("no hypothesis is given; accepted: one or more sets of paths.")
    values, done = np.empty((len(trees), len(runner.pairs))), 0
    for rows, chunk in runner.rows_and_chunks():
        base, other = (chunk.clean, chunk.base) if without else (chunk.base, chunk.clean)
        run = _TreeRun(chunk, base, other)
        for number, tree in enumerate(trees):
            (found,) = chunk.read(run.final(tree)[None], [runner.metric], losses=False)
            values[number, rows] = found[0].cpu().double().numpy()
            done += len(rows)
            if progress is not None:
                progress(done // len(runner.pairs), len(trees))
    refuse_nan(values, f"the metric '{runner.metric.name}'")
    return values


def _steps(graph: ComputationGraph, path: Path) -> list[tuple[int, list[int]]]:
    """List a path's ports from `logits` back, each with the senders that it reads there."""
    found = [
        (graph.port_index[port], [graph.sender_index[edge.sender] for edge in edges])
        for port, edges in groupby(path.edges, key=lambda edge: edge.port)
    ]
    return found[::-1]


def _grow(graph: ComputationGraph, tree: Senders, steps: list[tuple[int, list[int]]]) -> None:
    """Add a path to what a port reads; a sender that is read whole stays so."""
    (_, columns), *earlier = steps
    for column in columns:
        if not earlier:
            tree[column] = None
        elif (ports := tree.setdefault(column, {})) is not None:
            _grow(graph, ports.setdefault(earlier[0][0], {}), earlier)


def _frozen(ports: Ports) -> tuple[object, ...]:
    """Return a tree as a value that equal trees share."""
    return tuple(
        (row, tuple((c, own if own is None else _frozen(own)) for c, own in sorted(read.items())))
        for row, read in sorted(ports.items())
    )


class _TreeRun:
    """What the senders of trees write on one chunk; `other` enters `base` along the paths.

    What a sender writes at one place is kept for trees that have the same place, if memory allows.
    """

    def __init__(self, chunk: Chunk, base: Trace, other: Trace) -> None:
        self.chunk, self.base, self.graph = chunk, base, chunk.model.graph
        self.delta = sender_deltas(other, base).flatten(1)  # [S, N]
        self.given = given_deltas(other, base)
        self._written: dict[tuple[object, ...], Tensor] = {}

    def final(self, tree: Senders) -> Tensor:
        """Return the stream at `logits`, [B, T, D]."""
        stream = self.base.streams.final
        return stream + self.brought(tree).view_as(stream).to(stream.dtype)

    def brought(self, senders: Senders) -> Tensor:
        """Add up what a port reads, other minus base, [N]."""
        total = torch.zeros_like(self.delta[0])
        for column, ports in senders.items():
            total = total + (self.delta[column] if ports is None else self.once(column, ports))
        return total

    def once(self, column: int, ports: Ports) -> Tensor:
        """Return what one sender writes on what its ports read, minus the base, [N]."""
        place = (column, _frozen(ports))
        if place in self._written:
            return self._written[place]
        found = self.written(column, ports)
        room = (len(self._written) + 1) * found.numel() * found.element_size()
        if room <= self.chunk.budget.cache:
            self._written[place] = found
        return found

    def written(self, column: int, ports: Ports) -> Tensor:
        """Run one sender on what its ports read.

        Heads that do not write to the stream are run with the `o{l}` that reads them.
        """
        graph, chunk = self.graph, self.chunk
        last = len(graph.ports) - 1
        kept = np.zeros(graph.reads.shape, dtype=bool)
        kept[last, column] = True
        inside = dict(self._inside(ports, kept))
        embedding = [self.delta[0]]  # by itself: what it sends to MLPs past the stream goes with it
        extras = torch.stack([*embedding, *(self.brought(read) for _, read in inside.values())])
        extra = np.zeros((1, len(graph.ports), len(extras)), dtype=bool)
        for place, (row, (embeds, _)) in enumerate(inside.items(), start=1):
            extra[0, row, 0], extra[0, row, place] = embeds, True
        plan = make_plan(graph, kept[None], consistent=True, fixed=frozenset(), extra=extra)
        world = World(
            chunk.model, chunk.context, self.base, self.delta, chunk.past,
            extras=extras, given=self.given, given_outside=True,
        )  # fmt: skip
        return (run_masked(world, plan, 1)[0] - self.base.streams.final).flatten()

    def _inside(self, ports: Ports, kept: np.ndarray) -> Iterator[tuple[int, tuple[bool, Senders]]]:
        """Yield the rows to which values are added: whether the embedding's, and which else."""
        last = len(self.graph.ports) - 1
        for row, senders in ports.items():
            outside: Senders = {}
            for column, own in senders.items():
                if own is None or self.graph.reads[last, column]:
                    outside[column] = own
                else:
                    kept[row, column] = True
                    yield from self._inside(own, kept)
            embeds = 0 in outside
            if outside:
                yield row, (embeds, {c: own for c, own in outside.items() if c})
