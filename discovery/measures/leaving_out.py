"""What is lost without each edge of a circuit: minimality, and the questions that it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...graphs.circuit import Circuit
from ...graphs.scores import Scores

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ...graphs.graph import ComputationGraph
    from ...patching.incremental.losses import Losses
    from ...patching.incremental.search import Search
    from ...patching.run.runner import Progress, Runner


def minimality(runner: Runner, circuit: Circuit, progress: Progress | None = None) -> Scores:
    """Measure by how much the loss rises without each kept edge: above `floor` the edge helps."""
    from ...patching.incremental.search import make_search

    runner.require_graph(circuit.graph)
    search = make_search(runner)
    search.restart(circuit.kept)
    return effects_of_leaving_out(search, runner.graph, progress)


def effects_of_leaving_out(
    search: Search,
    graph: ComputationGraph,
    progress: Progress | None = None,
    at_once: int | None = None,
) -> Scores:
    """Measure the loss's rise without each edge of the search's circuit, 0 for dead ones."""
    kept, loss = search.kept, search.loss.value()
    values = np.where(kept, 0.0, np.nan)
    live = kept & graph.live(kept)[0][:, None]
    done, total = int(kept.sum() - live.sum()), int(kept.sum())
    for row, senders, losses in leave_out(search, graph, at_once=at_once):
        values[row, senders] = losses.values() - loss
        done += len(senders)
        if progress is not None:
            what = "measured" if at_once else "left out one by one"
            progress(done, total, f"edges {what}, at {graph.ports[row]}")
    return Scores(graph, values)


def leave_out(
    search: Search,
    graph: ComputationGraph,
    among: np.ndarray | None = None,
    at_once: int | None = None,
) -> Iterator[tuple[int, np.ndarray, Losses]]:
    """Ask about the search's current circuit without each edge, `at_once` of a port together.

    Yields the row of a port with a way to `logits`, the senders [n] of its kept edges (those of
    `among`, bool [ports, senders], if given), and the losses.
    """
    for row, senders, single in single_questions(search, graph, among, at_once):
        yield row, senders, search.ask((row,), single)


def single_questions(
    search: Search,
    graph: ComputationGraph,
    among: np.ndarray | None = None,
    at_once: int | None = None,
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """List what `leave_out` asks: a port's row, senders [n], and the questions [n, 1, senders]."""
    kept = search.kept if among is None else search.kept & among
    for row in np.flatnonzero(kept.any(1) & graph.live(search.kept)[0]).tolist():
        every = np.flatnonzero(kept[row])
        for start in range(0, len(every), at_once or len(every)):
            senders = every[start : start + (at_once or len(every))]
            yield row, senders, senders[:, None, None] == np.arange(kept.shape[1])
