"""How much of a behaviour the paths of a hypothesis explain, held against other paths of its shape.

For each hypothesis (see `patching.path_tree`), of a metric's means m over the pairs:

1. *explained*, (m(H) − m(∅)) / (m(full) − m(∅)): how much is there if its paths alone carry clean
   values and all others ablated ones;
2. *left without it*, the same of the model in which its paths alone carry ablated values;
3. *random*: what sets of paths of the same shape explain, in which heads and layers are others.
   Nodes are renamed, each in the same way on all paths, so that what paths share stays shared.

Source: Goldowsky-Dill et al. 2023. Intervals are those of faithfulness (`uncertainty.bootstrap`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from ...discovery.uncertainty.bootstrap import Estimate, faithfulness_estimate, mean_estimate
from ...graphs.calls.typed import typed
from ...graphs.errors import EdgewiseError
from ...graphs.example_scores import clusters_of
from ...graphs.graph import ComputationGraph
from ...graphs.names import Edge, Kind, Node, Port
from ...progress import SILENT, Progress

if TYPE_CHECKING:
    from ...patching.paths import Path
    from ...patching.run.runner import Runner

DRAWS = 20
"""How many random sets of paths stand beside each hypothesis unless told otherwise."""

TRIES = 50  # for each draw, to find one that is not there yet


@dataclass(frozen=True)
class ExplainedEffect:
    """What one hypothesis explains.

    `paths`: each one of them, by name. `value`: the metric if they alone carry clean values.
    `random`: what sets of paths of its shape explain; none where there is no other, or no ratio.
    """

    name: str
    paths: tuple[str, ...]
    value: Estimate
    explained: Estimate
    left: Estimate
    random: tuple[float, ...]

    @property
    def above(self) -> float | None:
        """Return the share of random sets that explain less, None where there are none."""
        value = self.explained.value
        if value is None or not self.random:
            return None
        return sum(one < value for one in self.random) / len(self.random)

    def as_dict(self) -> dict[str, object]:
        """Return everything as plain values."""
        parts = {key: getattr(self, key).as_dict() for key in ("value", "explained", "left")}
        about = {"name": self.name, "paths": list(self.paths), "random": list(self.random)}
        return {**about, **parts, "above_random": self.above}


@dataclass(frozen=True)
class ExplainedEffects:
    """What hypotheses explain, with the metric of the whole model and of no path."""

    full: Estimate
    empty: Estimate
    examples: int
    draws: int
    seed: int
    hypotheses: tuple[ExplainedEffect, ...]

    def as_dict(self) -> dict[str, object]:
        """Return everything as plain values."""
        ends = {"full": self.full.as_dict(), "empty": self.empty.as_dict()}
        counts = {key: getattr(self, key) for key in ("examples", "draws", "seed")}
        return {**counts, **ends, "hypotheses": [one.as_dict() for one in self.hypotheses]}


@typed
def explained_effects(
    runner: Runner,
    hypotheses: Mapping[str, Sequence[str]],
    *,
    draws: int = DRAWS,
    seed: int = 0,
    progress: Progress | None = None,
) -> ExplainedEffects:
    """Measure what each hypothesis, paths by their names under its own, explains.

    `draws`: how many random sets of paths stand beside each, 0: none.

    Raises:
        NameSyntaxError, GraphMismatch: a path that is none, or not of the model's graph.
        EdgewiseError: no hypothesis, or one without a path.
    """
    from ...patching.path_tree import path_values

    if draws < 0:
        raise EdgewiseError(f"draws is {draws}; accepted: 0 or more.")
    sets, report = parsed(hypotheses, runner.graph), progress or SILENT
    rng, clusters = np.random.default_rng(seed), clusters_of(runner.pairs.groups)
    others = [renamed(runner.graph, paths, draws, rng) for paths in sets.values()]
    every = [[], *sets.values(), *(one for drawn in others for one in drawn)]

    def say(done: int, total: int) -> None:
        report(done, total, "sets of paths run")

    empty, *kept = path_values(runner, every, progress=say)
    full, *cut = path_values(runner, [[], *sets.values()], without=True)
    random = iter(kept[len(sets) :])

    def ratio(values: np.ndarray) -> Estimate:
        return faithfulness_estimate(full, values, empty, clusters, runner.floor)

    found = []
    for (name, paths), own, rest, drawn in zip(sets.items(), kept, cut, others, strict=False):
        each = [ratio(values).value for values in islice(random, len(drawn))]
        known = tuple(value for value in each if value is not None)
        names, value = tuple(path.name for path in paths), mean_estimate(own, clusters)
        found.append(ExplainedEffect(name, names, value, ratio(own), ratio(rest), known))
    ends = mean_estimate(full, clusters), mean_estimate(empty, clusters)
    return ExplainedEffects(*ends, len(runner.pairs), draws, seed, tuple(found))


@typed
def parsed(
    hypotheses: Mapping[str, Sequence[str]], graph: ComputationGraph
) -> dict[str, list[Path]]:
    """Read the paths of hypotheses, each path once; `*` stands for every head of a layer.

    >>> graph = ComputationGraph(layers=2, heads=2)
    >>> found = parsed({"direct": ["embed->logits"], "any head": ["a1.*->logits"]}, graph)
    >>> [len(paths) for paths in found.values()]
    [1, 2]
    """
    from ...patching.paths import Path

    if not hypotheses:
        raise EdgewiseError(
            "no hypothesis is given; accepted: one or more, each a name with its paths."
        )
    found = {}
    for name, texts in hypotheses.items():
        paths = [path for text in texts for path in Path.parse(text, graph)]
        if not paths:
            raise EdgewiseError(
                f"hypothesis '{name}' has no path; accepted: one or more, such as embed->logits."
            )
        found[name] = list({path.name: path for path in paths}.values())
    return found


def renamed(
    graph: ComputationGraph, paths: Sequence[Path], number: int, rng: np.random.Generator
) -> list[list[Path]]:
    """Draw other sets of paths of the same shape, as many as are found, none twice.

    The layers of a set become others in the same order, its heads others of these, all at random;
    what is one node on two paths stays one node.
    """
    found: dict[frozenset[frozenset[Edge]], list[Path]] = {}
    own = frozenset(frozenset(path.edges) for path in paths)
    nodes = {node for path in paths for edge in path.edges for node in _ends(edge)}
    for _ in range(TRIES * number):
        if len(found) == number:
            break
        others = _drawn(graph, nodes, rng)
        if others is None:
            continue
        edges = [tuple(_renamed(edge, others) for edge in path.edges) for path in paths]
        key = frozenset(map(frozenset, edges))
        if key != own and all(_there(graph, edge) for one in edges for edge in one):
            made = zip(paths, edges, strict=True)
            found.setdefault(
                key,
                [replace(path, start=others.get(path.start, path.start), edges=e, name="")
                 for path, e in made],
            )  # fmt: skip
    return list(found.values())


def _drawn(
    graph: ComputationGraph, nodes: set[Node], rng: np.random.Generator
) -> dict[Node, Node] | None:
    """Draw another node for each that is of a layer; None where a layer has too few heads.

    A group of keys and values becomes any other, and its heads become heads of that.
    """
    layers = sorted({node.layer for node in nodes if node.layer is not None})
    chosen = sorted(rng.choice(graph.layers, len(layers), replace=False).tolist())
    found = {}
    for old, new in zip(layers, chosen, strict=True):
        here = sorted(
            (n for n in nodes if n.layer == old), key=lambda n: (n.kind.value, n.index or 0)
        )
        size = graph.heads // graph.kv_heads if graph.grouped_kv else 1
        if not graph.heads_of(new) and any(n.kind in (Kind.HEAD, Kind.KV) for n in here):
            return None
        groups = rng.permutation(graph.heads // size).tolist()
        inside = [rng.permutation(size).tolist() for _ in groups]
        for node in here:
            index = node.index
            if node.kind is Kind.KV and index is not None:
                index = groups[index]
            elif node.kind is Kind.HEAD and index is not None:
                group, place = divmod(index, size)
                index = groups[group] * size + inside[group][place]
            found[node] = Node(node.kind, new, index)
    return found


def _ends(edge: Edge) -> tuple[Node, Node]:
    return edge.sender, edge.port.node


def _renamed(edge: Edge, others: Mapping[Node, Node]) -> Edge:
    port = edge.port
    node = others.get(port.node, port.node)
    return Edge(others.get(edge.sender, edge.sender), Port(node, port.letter))


def _there(graph: ComputationGraph, edge: Edge) -> bool:
    row, column = graph.port_index.get(edge.port), graph.sender_index.get(edge.sender)
    return row is not None and column is not None and bool(graph.reads[row, column])
