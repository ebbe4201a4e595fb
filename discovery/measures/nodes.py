"""Exact effects of nodes: activation patching of what every sender writes, everywhere at once."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ...graphs.example_scores import ExampleScores
    from ...graphs.scores import Scores
    from ...patching.run.runner import Progress, Runner


def node_effects(
    runner: Runner,
    *,
    per_example: bool = False,
    at_once: int = 32,
    progress: Progress | None = None,
) -> tuple[Scores, ExampleScores | None]:
    """Measure by how much the loss rises where all edges out of one node are ablated.

    With `per_example` on each example too.

    Layers before a node are not run again; at most `at_once` nodes are run together.
    """
    from ...graphs.example_scores import ExampleScores, new_values
    from ...graphs.levels.nodes import NODE
    from ...graphs.scores import Scores
    from ...patching.run.runner import refuse_nan

    graph = runner.graph
    full = runner.mask_losses_each(graph.reads[None])  # [1, examples]
    found = np.zeros((len(runner.pairs), len(graph.senders)))
    done = 0
    for row, nodes in _groups(graph.reads, at_once):
        masks = np.repeat(graph.reads[None], len(nodes), 0)
        for mask, node in zip(masks, nodes, strict=True):
            mask[:, node] = False
        found[:, nodes] = (runner.mask_losses_each(masks, row) - full).T
        done += len(nodes)
        if progress is not None:
            progress(done, len(graph.senders), "nodes measured")
    refuse_nan(found, f"the metric '{runner.metric.name}'")
    scores = Scores.of_nodes(graph, found.mean(0))
    if not per_example:
        return scores, None
    each = new_values(graph, len(found))
    each[:] = found[:, graph.reads.nonzero()[1]]
    return scores, ExampleScores(graph, each, runner.pairs.groups, NODE)


def _groups(reads: np.ndarray, at_once: int) -> list[tuple[int, list[int]]]:
    """Cut the senders that something reads by the first port that does, with its row."""
    first = reads.argmax(0).tolist()
    senders = np.flatnonzero(reads.any(0)).tolist()
    found = []
    for row, same in itertools.groupby(senders, key=first.__getitem__):
        nodes = list(same)
        found += [(row, nodes[i : i + at_once]) for i in range(0, len(nodes), at_once)]
    return found
