"""Exact effects: activation patching of every single edge.

1. For each port, from the first: for each edge into it, run the full circuit without this edge.
2. Its score is loss(full without the edge) − loss(full).

Only what an edge changes is computed again, several edges of a port at a time (see
incremental/candidates.py); an edge into an early layer still costs a good part of a forward pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np

from ..graphs.scores import Scores
from .registry import Discovery, Option, method

if TYPE_CHECKING:
    from ..patching.run.runner import Progress, Runner


@method("exact", summary="measure every edge by ablating it alone", selects=False)
def exact(
    runner: Runner,
    *,
    candidates: Annotated[
        int, Option("edges run together; no influence on the result", 1, 1024)
    ] = 32,
    progress: Progress | None = None,
) -> Discovery:
    """Measure the effect of ablating every edge alone."""
    from ..patching.incremental.search import make_search

    graph = runner.graph
    search = make_search(runner)
    values = np.full(graph.reads.shape, np.nan)
    done = 0
    for row, port in enumerate(graph.ports):
        senders = np.flatnonzero(graph.reads[row])
        for start in range(0, len(senders), candidates):
            asked = senders[start : start + candidates]
            single = np.zeros((len(asked), len(graph.senders)), dtype=bool)
            single[np.arange(len(asked)), asked] = True
            values[row, asked] = search.ask((row,), single[:, None]).values() - search.loss.value()
            done += len(asked)
            if progress is not None:
                progress(done, graph.edge_count, f"edges measured, at {port}")
    return Discovery(Scores(graph, values), questions=search.questions)
