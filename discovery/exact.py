"""Exact effects: activation patching of every single edge, or of chosen ones alone.

1. For each port, from the first: for each edge into it, run the full circuit without this edge.
2. Its score is loss(full without the edge) − loss(full); with `per_example` of each example too.

At level `node` all edges out of a node are ablated at once: its output is patched everywhere.

With `start`, scores or a circuit or a list of edges, only the edges that have a score there are
measured; the others have none, and are not kept.

Only what an edge changes is computed again, several edges of a port at a time (see
incremental/candidates.py); an edge into an early layer still costs a good part of a forward pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np

from ..graphs.errors import EdgewiseError
from ..graphs.levels.nodes import EDGE, NODE
from .measures.leaving_out import effects_of_leaving_out, leave_out, single_questions
from .measures.nodes import node_effects
from .registry import Discovery, Option, Page, method

if TYPE_CHECKING:
    from ..graphs.example_scores import ExampleScores
    from ..graphs.scores import Scores
    from ..patching.incremental.search import Search
    from ..patching.run.runner import Progress, Runner


@method(
    "exact",
    summary="measure every edge, or node, or chosen edges, by ablating it alone",
    selects=False,
    spans=True,
    chosen_by="edges",
    page=Page(
        (
            "Ablate every edge, or every edge of a given file, alone in the full model, and "
            "measure the loss.",
            "Its score is by how much the loss rises.",
            "At level `node` ablate all edges out of a node at once: its output is patched.",
        ),
        "Activation patching of single edges: Vig et al. 2020; Goldowsky-Dill et al. 2023, "
        "Localizing model behavior with path patching",
        "0.02 to 0.09 forward passes for each edge; all 123,211 of SmolLM2-135M about 3,000",
        "As the truth that other scores are held against. Edges that stand in for each other show "
        "no effect alone, so its strongest edges need not make the best circuit.",
    ),
)
def exact(
    runner: Runner,
    *,
    candidates: Annotated[
        int, Option("edges run together; no influence on the result", 1, 1024, only_time=True)
    ] = 32,
    start: Scores | None = None,
    per_example: bool = False,
    level: str = EDGE,
    progress: Progress | None = None,
) -> Discovery:
    """Measure the effect of ablating every edge, or all edges out of every node, alone.

    `start`: the edges that alone are measured, if not all.
    """
    if start is not None and level == NODE:
        raise EdgewiseError(
            "a list of edges is measured at level edge, and nodes are to be; accepted: either."
        )
    if level == NODE:
        scores, examples = node_effects(
            runner, per_example=per_example, at_once=candidates, progress=progress
        )
        return Discovery(scores, questions=scores.units, examples=examples)
    from ..patching.incremental.search import make_search

    if start is not None:
        runner.require_graph(start.graph, "the list of edges")
        if per_example:
            raise EdgewiseError(
                "scores on each example are those of all edges, and only chosen ones are to be "
                "measured; accepted: the one or the other, and no selection that needs such "
                "scores (`target`, `stable`)."
            )
        return _of_chosen(make_search(runner), runner, start, candidates, progress)
    search = make_search(runner)
    if per_example:
        scores, examples = _on_examples(search, runner, candidates, progress)
        return Discovery(scores, questions=search.questions, examples=examples)
    scores = effects_of_leaving_out(search, runner.graph, progress, candidates)
    return Discovery(scores, questions=search.questions)


def _of_chosen(
    search: Search, runner: Runner, start: Scores, at_once: int, progress: Progress | None
) -> Discovery:
    """Measure the edges that have a score."""
    from ..graphs.scores import Scores

    graph, among = runner.graph, ~np.isnan(start.values)
    values = np.where(among, 0.0, np.nan)  # an edge with no way to the logits does nothing
    done, total, full = 0, int(among.sum()), search.loss.value()
    for row, senders, losses in leave_out(search, graph, among, at_once):
        values[row, senders] = losses.values() - full
        done += len(senders)
        if progress is not None:
            progress(done, total, f"edges measured, at {graph.ports[row]}")
    return Discovery(Scores(graph, values), questions=search.questions)


def _on_examples(
    search: Search, runner: Runner, at_once: int, progress: Progress | None
) -> tuple[Scores, ExampleScores]:
    """Measure by how much each example's loss rises without each edge."""
    from ..graphs.example_scores import ExampleScores, edge_starts, new_values
    from ..graphs.scores import Scores
    from ..patching.run.runner import refuse_nan

    graph = runner.graph
    values, starts = new_values(graph, len(runner.pairs)), edge_starts(graph)
    means = np.where(graph.reads, 0.0, np.nan)
    full = runner.mask_losses_each(graph.reads[None])  # [1, examples]
    done = 0
    for row, senders, single in single_questions(search, graph, at_once=at_once):
        columns = starts[row] + graph.reads[row].cumsum()[senders] - 1
        effects = search.ask_each((row,), single) - full
        refuse_nan(effects, f"the metric '{runner.metric.name}'")
        values[:, columns], means[row, senders] = effects.T, effects.mean(1)
        done += len(senders)
        if progress is not None:
            progress(done, graph.edge_count, f"edges measured, at {graph.ports[row]}")
    return Scores(graph, means), ExampleScores(graph, values, runner.pairs.groups)
