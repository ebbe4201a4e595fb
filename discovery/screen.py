"""Screening: exact questions about the edges on which two scores disagree most.

1. Score all edges with the gradient at the clean run, the owner of each port recomputed (`local`).
2. Score them by the method whose scores stand in for others, which averages gradients. Where both
   agree a score is nearly the exact effect; where they differ something is saturated.
3. Measure the exact effect of the edges on which they differ most, and put it in the score's place.

With all edges measured the scores are the exact effects, with none those of step 1.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import numpy as np

from .eap import Gradients, eap
from .meaning import Meaningless
from .measures.leaving_out import single_questions
from .registry import Discovery, Option, Page, method, scoring_method

if TYPE_CHECKING:
    from ..graphs.scores import Scores
    from ..patching.run.runner import Progress, Runner


@method(
    "screen",
    summary="score all edges locally, and measure those on which another score disagrees most",
    selects=False,
    page=Page(
        (
            "Score all edges by EAP with local: each port's owner recomputed without the edge.",
            "Score them by EAP-IG too. Where both differ something is saturated.",
            "Measure the exact effects of the edges on which they differ most, and put them in "
            "their places.",
        ),
        "Edgewise; the owner's recomputation is the edge form of AtP*'s for queries and keys "
        "(Kramár et al. 2024)",
        "38 forward passes with 100 questions on SmolLM2-135M",
        "Where single edges are to be ranked as exact effects would, at a hundredth of their cost.",
    ),
    gradient="clean",
)
def screen(
    runner: Runner,
    *,
    ask: Annotated[int, Option("how many edges are measured", 0)] = 100,
    per_example: bool = False,
    progress: Progress | None = None,
) -> Discovery:
    """Score every edge, and measure those whose scores are in doubt."""
    local = Gradients(local=True)
    first = eap(runner, gradients=local, per_example=per_example, progress=progress)
    other = scoring_method()
    options = other.suited(runner.ablation)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Meaningless)  # said of the method that was asked for
        second = other(replace(runner, engine="torch"), progress, None, None, False, **options)
    among = most_doubtful(first.scores, second.scores, ask)
    return _measured(runner, first, among, progress) if among.any() else first


def most_doubtful(first: Scores, second: Scores, number: int) -> np.ndarray:
    """Return which edges' scores differ most, bool [ports, senders]; of equals the first.

    >>> from edgewise.graphs.graph import ComputationGraph
    >>> from edgewise.graphs.scores import Scores
    >>> graph = ComputationGraph(layers=1, heads=1)
    >>> ones = np.where(graph.reads, 1.0, np.nan)
    >>> more = ones.copy()
    >>> more[3, 0], more[4, 1] = 3, 0
    >>> np.argwhere(most_doubtful(Scores(graph, ones), Scores(graph, more), 2)).tolist()
    [[3, 0], [4, 1]]
    """
    reads = first.graph.reads
    doubt = np.abs(first.values - second.values)[reads]
    chosen = np.zeros(len(doubt), dtype=bool)
    chosen[np.argsort(-doubt, kind="stable")[:number]] = True
    among = np.zeros_like(reads)
    among[reads] = chosen
    return among


def _measured(
    runner: Runner, first: Discovery, among: np.ndarray, progress: Progress | None
) -> Discovery:
    """Put exact effects in the place of some edges' scores, and of those on each example."""
    from ..graphs.example_scores import ExampleScores, edge_starts
    from ..graphs.scores import Scores
    from ..patching.incremental.search import make_search
    from ..patching.run.runner import refuse_nan

    graph, search = runner.graph, make_search(runner)
    values, starts = first.scores.values.copy(), edge_starts(graph)
    each = None if first.examples is None else first.examples.values.copy()
    full = search.loss.value() if each is None else runner.mask_losses_each(graph.reads[None])
    done, total = 0, int(among.sum())
    for row, senders, single in single_questions(search, graph, among):
        if each is None:
            values[row, senders] = search.ask((row,), single).values() - full
        else:
            effects = search.ask_each((row,), single) - full
            refuse_nan(effects, f"the metric '{runner.metric.name}'")
            columns = starts[row] + graph.reads[row].cumsum()[senders] - 1
            each[:, columns], values[row, senders] = effects.T, effects.mean(1)
        done += len(senders)
        if progress is not None:
            progress(done, total, f"edges in doubt measured, at {graph.ports[row]}")
    examples = None if each is None else ExampleScores(graph, each, runner.pairs.groups)
    return Discovery(Scores(graph, values), questions=search.questions, examples=examples)
