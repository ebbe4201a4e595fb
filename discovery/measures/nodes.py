"""Exact effects of nodes: activation patching of what every sender writes, everywhere at once."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ...graphs.example_scores import ExampleScores
    from ...graphs.graph import ComputationGraph
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

    With `per_example` on each example too. At spans each node is patched at one span at a time.

    Layers before a node are not run again; at most `at_once` nodes are run together.
    """
    from ...graphs.example_scores import ExampleScores, new_values
    from ...graphs.levels.nodes import NODE
    from ...graphs.scores import Scores
    from ...patching.run.runner import refuse_nan

    graph = runner.graph
    full = runner.mask_losses_each(graph.reads[None])  # [1, examples]
    spans, senders = graph.positions, len(graph.senders)
    found = np.zeros((len(runner.pairs), spans * senders))  # at each span, one after the other
    done = 0
    for row, nodes in _groups(graph, at_once):
        masks = np.repeat(graph.reads[None], len(nodes), 0)
        for mask, node in zip(masks, nodes, strict=True):
            span, sender = divmod(node, senders)
            mask[span::spans, sender] = False
        found[:, nodes] = (runner.mask_losses_each(masks, row) - full).T
        done += len(nodes)
        if progress is not None:
            progress(done, found.shape[1], "nodes measured")
    refuse_nan(found, f"the metric '{runner.metric.name}'")
    scores = Scores.of_nodes(graph, found.mean(0))
    if not per_example:
        return scores, None
    each = new_values(graph, len(found))
    rows, columns = graph.reads.nonzero()
    each[:] = found[:, rows % spans * senders + columns]
    return scores, ExampleScores(graph, each, runner.pairs.groups, NODE)


def _groups(graph: ComputationGraph, at_once: int) -> list[tuple[int, list[int]]]:
    """Cut the nodes that something reads by the first port that does, with its row.

    A node is a sender, at each span one after the other.
    """
    first = graph.reads.argmax(0).tolist()
    senders = np.flatnonzero(graph.reads.any(0)).tolist()
    found = []
    for row, same in itertools.groupby(senders, key=first.__getitem__):
        some = list(same)
        nodes = [span * len(first) + one for span in range(graph.positions) for one in some]
        found += [(row, nodes[i : i + at_once]) for i in range(0, len(nodes), at_once)]
    return found
