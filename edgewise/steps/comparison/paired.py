"""Compare two models edge by edge on the same prompts: which scores changed by more than δ?

Both models are scored on the pairs of the comparison (see `scored`), and the difference of every
edge on every example is tested (see `discovery.uncertainty.paired`). Pairs on which neither circuit
was found are taken, where there are such: the edges in which the circuits differ were chosen by
their scores on the discovery's pairs, whose chance deviations would be told as changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from ...discovery.registry import get_method, scoring_method
from ...discovery.uncertainty.bootstrap import dealt_in_two
from ...discovery.uncertainty.paired import (
    PairedTest,
    independent,
    paired_test,
    unpaired_test,
)
from ...experiment.spec import ComparisonSpec, DiscoverySpec, Experiment
from ...experiment.task import TaskSpec
from ...graphs.comparison import Comparison, Controls, EdgeChange
from ...graphs.diff import CircuitDiff
from ...graphs.errors import EdgewiseError
from ...graphs.files import CircuitFile
from ...graphs.levels.nodes import EDGE, NEURON
from ...patching.ablations.registry import get_ablation
from ...patching.metrics.functions import as_metric
from ...patching.prompts.pairs import PromptPairs
from ...patching.prompts.splits import PromptSplit, seen_in
from ...session import Session, make_test_pairs, open_vocabulary
from ..stored import circuit_split, stored_pairs
from .scored import ScoredModel, weights_correlation

LEAST_OTHERS = 16
"""Fewer pairs than these, and than those of the discovery, are not tested on instead of them."""

SHOWN = 0.9
"""In this share of the circuits' edges a change of `detectable` would probably have been found."""


@dataclass(frozen=True)
class ComparedPairs:
    """The prompt pairs on which edges are tested; `held_out`: neither circuit was found on them."""

    pairs: PromptPairs
    held_out: bool = False


def tested_pairs(
    files: tuple[CircuitFile, CircuitFile], session: Session, pairs: PromptPairs
) -> ComparedPairs:
    """Return the pairs to test two models on; `pairs`: those on which A's circuit was found.

    Those that A's file holds out count, or of a built-in task as many others; without those on
    which B's circuit was found. Where they are too few the test is on `pairs`.
    """
    of_b, others = stored_pairs(files[1]), circuit_split(files[0], session)[0].test
    if others is None:
        try:
            return other_pairs(TaskSpec.of_circuit(files[0]), pairs, session, of_b)
        except EdgewiseError:  # the file names no task
            return ComparedPairs(pairs)
    return _without(others, pairs, of_b)


def held_out_pairs(parted: PromptSplit) -> ComparedPairs:
    """Return the pairs of a split to test models on: those held out, unless they are too few."""
    if parted.test is None:
        return ComparedPairs(parted.discovery)
    return _without(parted.test, parted.discovery, None)


def other_pairs(
    task: TaskSpec, pairs: PromptPairs, model: Session | str, taken: PromptPairs | None = None
) -> ComparedPairs:
    """Return as many other pairs of a built-in task, or of a file these pairs themselves."""
    if task.file is not None:
        return ComparedPairs(pairs)
    made = make_test_pairs(task, pairs, len(pairs), open_vocabulary(model))
    return ComparedPairs(pairs) if made is None else _without(made, pairs, taken)


def _without(others: PromptPairs, pairs: PromptPairs, taken: PromptPairs | None) -> ComparedPairs:
    """Leave out pairs that are taken; if too few are left, return the first `pairs` instead."""
    gone = set(() if taken is None else seen_in(others, taken))
    left = tuple(pair for i, pair in enumerate(others) if i not in gone)
    if len(left) < min(len(pairs), LEAST_OTHERS):
        return ComparedPairs(pairs)
    return ComparedPairs(replace(others, pairs=left), held_out=True)


def compare_scored(
    diff: CircuitDiff,
    models: tuple[ScoredModel, ScoredModel],
    spec: DiscoverySpec,
    comparison: ComparisonSpec,
    tested: ComparedPairs,
) -> Comparison:
    """Test every edge on what both models scored; list those that changed, or differ in the diff.

    `spec`: how the edges were scored, on the `tested` pairs.

    Raises:
        EdgewiseError: there are fewer than two examples.
    """
    a, b = models
    graph, clusters = diff.a.graph, independent(a.scores.clusters)
    spans = [abs(one.full - one.empty) for one in models]
    share = comparison.share
    delta = comparison.delta if share is None else share * max(spans)
    assert delta is not None
    level = comparison.level
    test = paired_test(a.scores.values, b.scores.values, clusters, delta=delta, level=level)
    either = (diff.a.kept | diff.b.kept)[graph.reads]
    least = np.quantile(test.detectable[either] if either.any() else test.detectable, SHOWN)
    controls = Controls()
    if comparison.controls:
        controls = Controls(other_prompts(models, clusters, delta, level), None)
        if b.rounded is not None:
            again = paired_test(
                b.scores.values, b.rounded.values, clusters, delta=delta, level=level
            )
            controls = Controls(controls.other_prompts, int(again.changed.sum()))
    metric, (name, options) = as_metric(spec.metric), spec.scored_by
    labels = len(set(a.scores.clusters.tolist()))
    return Comparison(
        examples=test.examples, clusters=test.clusters,
        templates=labels if labels < test.examples else 0, metric=spec.metric, unit=metric.unit,
        ablation=spec.ablation, scores=name, scores_options=options, held_out=tested.held_out,
        sha256=tested.pairs.sha256, delta=float(delta), delta_share=share, detectable=float(least),
        level=level, edges_tested=graph.edge_count, full=(a.full, b.full),
        empty=(a.empty, b.empty), weights_correlation=weights_correlation(a.weights, b.weights),
        controls=controls, edges=_rows(diff, test),
    )  # fmt: skip


def _rows(diff: CircuitDiff, test: PairedTest) -> tuple[EdgeChange, ...]:
    """List the edges in which the circuits differ, and those that changed, in graph order."""
    graph = diff.a.graph
    listed = (diff.a.kept ^ diff.b.kept)[graph.reads] | test.changed
    columns = (test.mean_a, test.mean_b, test.change, test.low, test.high, test.q)
    rows = []
    for number, (row, sender) in enumerate(np.argwhere(graph.reads)):
        if listed[number]:
            edge = graph.edge_at(row, sender)
            numbers = (float(column[number]) for column in columns)
            rows.append(EdgeChange(str(edge.sender), str(edge.port), *numbers))
    return tuple(rows)


def other_prompts(
    models: Sequence[ScoredModel], clusters: np.ndarray, delta: float, level: float
) -> int | None:
    """Count edges that change from half of the prompts to the other half in one model."""
    second = dealt_in_two(clusters)
    own = (clusters[~second], clusters[second])
    if min(len(np.unique(half)) for half in own) < 2:  # one cluster has no variance
        return None
    found = 0
    for one in models:
        sides = [one.scores.values[~second], one.scores.values[second]]
        test = unpaired_test(sides[0], sides[1], own, delta=delta, level=level)
        found += int(test.changed.sum())
    return found


# -- how edges are scored ------------------------------------------------------------------------


def scored_alike(
    files: tuple[CircuitFile, CircuitFile], measure: tuple[str, str]
) -> tuple[DiscoverySpec, list[str]]:
    """Return how the edges of two circuits' models are scored to be tested, and notes on it.

    `measure`: the metric and ablation of both.

    Raises:
        EdgewiseError: the metric has no gradient.
    """
    found: list[DiscoverySpec] = []
    for file in files:
        with suppress(EdgewiseError):  # it started from given scores, or another tool found it
            found.append(DiscoverySpec.of_circuit(file))
    scoring = scoring_of(found if len(found) == len(files) else (), measure)
    names = list(dict.fromkeys(one.scored_by[0] for one in found))
    if len(names) == 1:
        return scoring, []
    return scoring, [
        f"the circuits were scored by {' and '.join(names)}; in the comparison of the models both "
        f"are by {scoring.method}."
    ] * bool(names)


def scoring_for(spec: Experiment) -> DiscoverySpec | None:
    """Return how an experiment's edges are scored to be tested; None if not asked for, or not able.

    Where the test is not asked for, a metric without a gradient leaves it out.
    """
    if spec.comparison.paired is False:
        return None
    found = spec.discovery
    try:
        return scoring_of([found], (found.metric, found.ablation))
    except EdgewiseError:
        return None  # a spec that asks for it is refused before


def scoring_of(found: Sequence[DiscoverySpec], measure: tuple[str, str]) -> DiscoverySpec:
    """Return how edges are scored to be tested, where circuits were found in these ways.

    It is the method that scored them all, if that gives scores of each example; else the one whose
    scores stand in for searches. An EdgewiseError says that the metric has no gradient.
    """
    metric, ablation = measure
    instead = scoring_method()
    name, options = instead.name, dict(instead.suited(get_ablation(ablation)))
    ways = [one.scored_by for one in found]
    if ways and ways.count(ways[0]) == len(ways) and get_method(ways[0][0]).by_example:
        name, options = ways[0][0], dict(ways[0][1])
    get_method(name).check_metric(as_metric(metric))
    mlps = found[0].mlps if len({one.mlps for one in found}) == 1 else ()
    level = NEURON if mlps else EDGE  # whose graph's edges they are; each is tested by itself
    return DiscoverySpec(name, metric, ablation, options, level=level, mlps=mlps)
