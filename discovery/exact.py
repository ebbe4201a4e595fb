"""Exact effects: activation patching of every single edge.

1. For each port, from the first: for each edge into it, run the full circuit without this edge.
2. Its score is loss(full without the edge) − loss(full).

Only what an edge changes is computed again, several edges of a port at a time (see
incremental/candidates.py); an edge into an early layer still costs a good part of a forward pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from .evaluation import effects_of_leaving_out
from .registry import Discovery, Option, method

if TYPE_CHECKING:
    from ..patching.run.runner import Progress, Runner


@method("exact", summary="measure every edge by ablating it alone", selects=False)
def exact(
    runner: Runner,
    *,
    candidates: Annotated[
        int, Option("edges run together; no influence on the result", 1, 1024, only_time=True)
    ] = 32,
    progress: Progress | None = None,
) -> Discovery:
    """Measure the effect of ablating every edge alone."""
    from ..patching.incremental.search import make_search

    search = make_search(runner)
    scores = effects_of_leaving_out(search, runner.graph, progress, candidates)
    return Discovery(scores, questions=search.questions)
