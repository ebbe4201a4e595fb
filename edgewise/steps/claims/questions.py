"""Exact questions about what methods rank high: of single edges, or of all nodes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...discovery.measures.agreement import Agreement, AskedEdges, agreement, agreement_of_nodes
from ...graphs.files.tables.methods import QuestionsBlock
from ...graphs.levels.nodes import EDGE, of_nodes
from ...graphs.scores import Scores
from ...progress import Progress
from .asked import Asking

if TYPE_CHECKING:
    from ...patching.run.runner import Runner


@dataclass(frozen=True, eq=False)
class ExactAnswers:
    """Exact effects of what was asked, NaN of the other edges.

    `asked`: which edges were; None where all nodes were.
    """

    asked: AskedEdges | None
    effects: Scores
    top: int
    draw_seed: int
    seconds: float

    def agreement(self, scores: Scores) -> Agreement:
        """Compare scores with them."""
        if self.asked is None:
            return agreement_of_nodes(scores, self.effects, self.top)
        return agreement(scores, self.effects, self.asked, self.top)

    def block(self) -> QuestionsBlock:
        """Return what was asked, as a file has it."""
        graph, values = self.effects.graph, np.abs(self.effects.values)
        if self.asked is None:
            known = of_nodes(graph, values)
            certain, drawn = int(np.isfinite(known).sum()), 0
            largest = str(graph.senders[int(np.nanargmax(known)) % len(graph.senders)])
        else:
            certain, drawn = int(self.asked.certain.sum()), int(self.asked.drawn.sum())
            row, column = np.unravel_index(int(np.nanargmax(values)), values.shape)
            largest = str(graph.edge_at(int(row), int(column)))
        return QuestionsBlock(
            certain=certain, drawn=drawn, draw_seed=self.draw_seed, top=self.top,
            missed=self.agreement(self.effects).missed, seconds=self.seconds, largest=largest,
        )  # fmt: skip


def exact_answers(
    runner: Runner, ranked: Sequence[Scores], asking: Asking, top: int, progress: Progress
) -> ExactAnswers:
    """Ask about the `top` strongest edges of all scores and about random ones; or about all nodes.

    Nodes are few, so that no draw is needed of them.
    """
    graph, begun = runner.graph, time.perf_counter()
    if ranked[0].level != EDGE:
        from ...discovery.measures.nodes import node_effects

        found, _ = node_effects(runner, progress=progress)
        return ExactAnswers(None, found, top, asking.draw_seed, time.perf_counter() - begun)
    from ...discovery.measures.leaving_out import single_questions
    from ...patching.incremental.search import make_search

    certain = np.zeros(graph.reads.shape, dtype=bool)
    for one in ranked:
        certain |= one.top(min(top, graph.edge_count)).kept
    asked = AskedEdges.of(graph, certain, asking.drawn, asking.draw_seed)
    search, values, done = make_search(runner), np.full(graph.reads.shape, np.nan), 0
    loss, total = search.loss.value(), int(asked.every.sum())
    for row, senders, single in single_questions(search, graph, asked.every, at_once=32):
        values[row, senders] = search.ask((row,), single).values() - loss
        done += len(senders)
        progress(done, total, "exact questions asked")
    values = np.where(asked.every & np.isnan(values), 0.0, values)  # edges with no way to logits
    seconds = time.perf_counter() - begun
    return ExactAnswers(asked, Scores(graph, values), top, asking.draw_seed, seconds)
