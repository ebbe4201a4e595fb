"""Methods side by side: what their circuits keep, how their scores agree with exact effects.

1. Run each method on the discovery's pairs, and note its time and the memory it took.
2. Measure circuits of its strongest edges on held-out pairs: the curve of the Mechanistic
   Interpretability Benchmark with its areas, and a few fixed sizes.
3. Ask exact questions about the edges that any method ranks high and about some drawn at random,
   on the discovery's pairs, and compare each method's scores with the answers; of nodes about all.
4. Resample the prompts of its scores on each example: how alike are the circuits?

Scores drawn at random stand beside: what the areas are where nothing was found.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import numpy as np

from ...discovery.evaluation import measured_together
from ...discovery.meaning import Meaningless
from ...discovery.measures.agreement import Agreement
from ...discovery.measures.curve import CURVE_SHARES, Curve, curve
from ...discovery.registry import Discovery
from ...discovery.uncertainty.bootstrap import UNDEFINED, Estimate, faithfulness_estimate
from ...discovery.uncertainty.stability import EdgeRule, stability
from ...experiment.spec import ComputeSpec, DiscoverySpec
from ...graphs.calls.typed import typed
from ...graphs.circuit import Circuit
from ...graphs.errors import EdgewiseError, GraphMismatch, within_memory
from ...graphs.example_scores import clusters_of
from ...graphs.files.tables.methods import (
    MethodRow,
    MethodsBlock,
    MethodsFile,
    SizeRow,
)
from ...graphs.graph import ComputationGraph
from ...graphs.levels.nodes import EDGE, NODE
from ...graphs.scores import Scores
from ...patching.prompts.pairs import PromptPairs
from ...patching.prompts.splits import PromptSplit
from ...progress import SILENT, Progress, named
from ...session import Session, make_runner
from ..discover import held_out_runner
from ..found.blocks import circumstances, forward_seconds, spent, task_block
from .asked import AskedMethod, Asking, FoundMethod, GivenScores
from .peak import PeakMemory
from .questions import exact_answers

if TYPE_CHECKING:
    from ...patching.run.runner import Runner

RANDOM = "random"
"""What the row of random scores is called."""

ALIKE = 200
"""Of circuits of how many edges it is told how alike they are."""


@typed
@within_memory()
def compare_methods(
    session: Session,
    pairs: PromptPairs | PromptSplit,
    methods: Sequence[AskedMethod | GivenScores | FoundMethod],
    spec: DiscoverySpec | None = None,
    asking: Asking | None = None,
    compute: ComputeSpec | None = None,
    progress: Progress | None = None,
) -> MethodsFile:
    """Run methods on the same pairs, and tell what each is worth; see the module.

    Args:
        pairs: those that methods see, with others that are held out, as `open_split` gives them.
        methods: which, each once; what `run_method` found of some; and scores that are there, which
            must be of every edge.
        spec: by which metric and ablation, and whether edges or nodes are scored; its method does
            not count.
        asking: what is measured of each.

    Raises:
        EdgewiseError: two are called alike; a method cannot take the metric, or does not work at
            the level; a size is larger than the graph.
        GraphMismatch: given scores are not of the model's graph.
    """
    spec, compute = spec or DiscoverySpec.usual(), compute or ComputeSpec()
    report = progress or SILENT
    parted = pairs if isinstance(pairs, PromptSplit) else PromptSplit(pairs)
    level = _level(spec)
    random = _random(session.graph, level, asking or Asking())
    sizes, top = (asking or Asking()).at(level, random.units)
    asking = replace(asking or Asking(), sizes=sizes, top=top)
    _check(session, methods, asking, random)
    runner = _runner(session, parted, spec, compute)
    for asked in methods:
        if isinstance(asked, AskedMethod):
            _checked(asked, level, runner)
    session.certify(parted.discovery)
    found = list[FoundMethod]()
    for one in methods:
        if isinstance(one, AskedMethod):
            one = run_method(session, parted, one, spec, compute, report)
        elif isinstance(one, GivenScores):
            one = FoundMethod(one.label, one.scores)
        found.append(one)
    tester = runner if parted.test is None else held_out_runner(session, parted, runner)
    ranked = [one.scores for one in found if one.ranks]
    found.append(FoundMethod(RANDOM, random))
    exact = None
    if asking.drawn and ranked:
        exact = exact_answers(runner, ranked, asking, top, report)
    forward = forward_seconds(session, runner, progress, spent)
    rows, by_size, undefined = list[MethodRow](), list[SizeRow](), False
    for one in found:
        told = named(report, f"circuits of {one.label}")
        areas = None if not one.ranks else curve(tester, one.scores, CURVE_SHARES, told)
        undefined = undefined or (areas is not None and areas.undefined)
        agreed = None if exact is None or not one.ranks else exact.agreement(one.scores)
        rows.append(_row(one, tester, areas, agreed, forward))
        if areas is not None:
            others = [size for size in sizes if size not in areas.sizes]
            by_size += [*_curve_rows(one.label, areas), *_sizes(one, tester, others)]
    around = circumstances(session, runner, tester.runs_by)
    how = MethodsBlock(
        metric=runner.metric.name, ablation=runner.ablation.name,
        held_out=parted.test is not None, examples=len(tester.pairs),
        asked=None if exact is None else exact.block(), alike_edges=ALIKE,
        sizes=list(sizes), undefined=undefined,
    )  # fmt: skip
    if level != EDGE:
        how["level"] = level
    more = {key: around[key] for key in ("dtype", "device", "engine")}
    return MethodsFile(
        runner.graph, session.model_block, task_block(parted),
        cast("MethodsBlock", {**how, **more}), rows, by_size,
    )  # fmt: skip


def _level(spec: DiscoverySpec) -> str:
    """Return what is scored; refuse neurons, of which the model's graph has none."""
    if spec.level not in (EDGE, NODE):
        raise EdgewiseError(
            f"methods are not compared at level {spec.level}; accepted: level {EDGE} or {NODE}. "
            f"`discover` at level {spec.level}, then `evaluate`, measures one."
        )
    return spec.level


def _random(graph: ComputationGraph, level: str, asking: Asking) -> Scores:
    """Draw scores of all edges, or nodes."""
    rng = np.random.default_rng(asking.draw_seed)
    if level == EDGE:
        return Scores(graph, np.where(graph.reads, rng.uniform(-1, 1, graph.reads.shape), np.nan))
    return Scores.of_nodes(graph, rng.uniform(-1, 1, len(graph.senders) * graph.positions))


def _check(
    session: Session,
    methods: Sequence[AskedMethod | GivenScores | FoundMethod],
    asking: Asking,
    random: Scores,
) -> None:
    names = [one.label for one in methods]
    if not names or len({*names, RANDOM}) <= len(names):
        raise EdgewiseError(
            f"the methods {', '.join(names) or '(none)'} cannot be compared; accepted: one or "
            f"more, each once ('{RANDOM}' stands beside them anyway)."
        )
    for one in methods:
        if not isinstance(one, AskedMethod):
            graph, values = session.graph, one.scores.values
            if unequal := "; ".join(one.scores.graph.differences(graph)):
                raise GraphMismatch(
                    f"the scores '{one.label}' are not of the model's graph: they differ in "
                    f"{unequal} (scores and model)."
                )
            if one.scores.level != random.level:
                raise EdgewiseError(
                    f"the scores '{one.label}' are of {one.scores.level}s, and {random.level}s are "
                    f"compared; accepted: scores of {random.level}s, or level {one.scores.level}, "
                    "for all."
                )
            chosen = isinstance(one, FoundMethod) and one.circuit is not None
            if (lacking := int(np.isnan(values[graph.reads]).sum())) and not chosen:
                raise EdgewiseError(
                    f"the scores '{one.label}' lack {lacking:,} of {graph.edge_count:,} edges; "
                    "accepted: scores of all."
                )
    total, what = random.units, f"{random.level}s"
    if wrong := [size for size in asking.sizes or () if not 1 <= size <= total]:
        raise EdgewiseError(
            f"a circuit of {wrong[0]:,} {what} is asked for; accepted: 1 to {total:,}."
        )
    if asking.drawn < 0 or (asking.top or 0) < 1:
        raise EdgewiseError(
            f"{asking.drawn} {what} are drawn and {asking.top} asked of each method; accepted: "
            "whole numbers from 0 up and from 1 up."
        )


@typed
def run_method(
    session: Session,
    pairs: PromptPairs | PromptSplit,
    asked: AskedMethod,
    spec: DiscoverySpec | None = None,
    compute: ComputeSpec | None = None,
    progress: Progress | None = None,
) -> FoundMethod:
    """Run one method as `compare_methods` does, which takes what this returns in its place.

    So a long comparison can be done method by method, and kept. Scores of edges are taken on each
    example if the method gives them. For the arguments see `compare_methods`.
    """
    spec, compute = spec or DiscoverySpec.usual(), compute or ComputeSpec()
    parted = pairs if isinstance(pairs, PromptSplit) else PromptSplit(pairs)
    level = _level(spec)
    runner = _checked(asked, level, _runner(session, parted, spec, compute))
    method, options = asked.chosen.at(level), dict(asked.options)
    by_example = method.by_example and level == EDGE  # nodes' likeness is not told
    told = named(progress or SILENT, asked.label)
    with warnings.catch_warnings(), PeakMemory(session.device) as memory:
        warnings.simplefilter("ignore", Meaningless)
        begun = spent(session)
        found: Discovery = method(runner, told, per_example=by_example, **options)
        seconds = spent(session) - begun
    alike = None
    if found.examples is not None:
        size = min(ALIKE, runner.graph.edge_count)
        alike = stability(found.examples, EdgeRule(absolute=True, size=size)).likeness.between
    circuit = found.circuit if method.selects else None
    return FoundMethod(asked.label, found.scores, circuit, seconds, memory.bytes, alike)


def _runner(
    session: Session, parted: PromptSplit, spec: DiscoverySpec, compute: ComputeSpec
) -> Runner:
    return make_runner(
        session, parted.discovery, metric=spec.metric, ablation=spec.ablation,
        batch_size=compute.batch_size, engine=compute.engine,
    )  # fmt: skip


def _checked(asked: AskedMethod, level: str, runner: Runner) -> Runner:
    """Return a method's runner; refuse what does not work at the level, or by its metric."""
    own = runner if asked.metric is None else runner.with_metric(asked.metric)
    asked.chosen.at(level).engine(own)
    asked.chosen.check_metric(own.metric)
    return own


def _curve_rows(label: str, found: Curve) -> list[SizeRow]:
    """Return what a curve has measured; small shares of a small graph are one size."""
    rows = []
    for i, edges in enumerate(found.sizes):
        if edges in found.sizes[:i]:
            continue
        values = (found.faithfulness[i], found.faithfulness_absolute[i])
        ends = [
            found.interval(name, i) or (None, None)
            for name in ("faithfulness", "faithfulness_absolute")
        ]
        signed, absolute = (None, None) if found.undefined else values
        rows.append(
            SizeRow(
                method=label,
                edges=edges,
                signed=signed,
                signed_low=ends[0][0],
                signed_high=ends[0][1],
                absolute=absolute,
                absolute_low=ends[1][0],
                absolute_high=ends[1][1],
            )
        )
    return rows


def _sizes(found: FoundMethod, tester: Runner, sizes: Sequence[int]) -> list[SizeRow]:
    """Measure the strongest edges on held-out pairs, by score and by |score|."""
    tops = [found.scores.top(size, absolute=how) for size in sizes for how in (False, True)]
    every = _estimates(tester, tops)
    rows = []
    for i, size in enumerate(sizes):
        (a, low, high), (b, least, most) = (one.numbers for one in every[2 * i : 2 * i + 2])
        rows.append(
            SizeRow(
                method=found.label,
                edges=size,
                signed=a,
                signed_low=low,
                signed_high=high,
                absolute=b,
                absolute_low=least,
                absolute_high=most,
            )
        )
    return rows


def _estimates(tester: Runner, circuits: Sequence[Circuit]) -> list[Estimate]:
    graph, clusters = tester.graph, clusters_of(tester.pairs.groups)
    every = [Circuit.full(graph), Circuit.empty(graph), *circuits]
    full, empty, *each = measured_together(tester, every, None, "")
    return [faithfulness_estimate(full, one, empty, clusters, tester.floor) for one in each]


def _row(
    found: FoundMethod,
    tester: Runner,
    areas: Curve | None,
    exact: Agreement | None,
    forward: float,
) -> MethodRow:
    own = UNDEFINED if found.circuit is None else _estimates(tester, [found.circuit])[0]
    rest, spearman = (
        one.numbers for one in ((exact.rest, exact.spearman) if exact else (UNDEFINED,) * 2)
    )  # fmt: skip
    cpr, cmd = (_area(areas, name) for name in ("cpr", "cmd"))
    f, low, high = own.numbers
    pearson = None if exact is None else exact.pearson.numbers[0]
    return MethodRow(
        {
            "method": found.label,
            "CPR": cpr[0], "CPR low": cpr[1], "CPR high": cpr[2],
            "CMD": cmd[0], "CMD low": cmd[1], "CMD high": cmd[2],
            "Pearson": pearson,
            "rest": rest[0], "rest low": rest[1], "rest high": rest[2],
            "Spearman": spearman[0], "Spearman low": spearman[1], "Spearman high": spearman[2],
            "top": None if exact is None else exact.overlap,
            "sign": None if exact is None else exact.sign,
            "alike": found.alike,
            "passes": None if found.seconds is None else found.seconds / forward,
            "seconds": found.seconds,
            "MB": None if found.peak is None else found.peak / 1e6,
            "edges": None if found.circuit is None else len(found.circuit),
            "f": f, "low": low, "high": high,
        }
    )  # fmt: skip


Ends = tuple[float | None, float | None, float | None]


def _area(found: Curve | None, name: str) -> Ends:
    """Return an area with the ends of its interval; nothing where the ratios mean nothing."""
    if found is None or found.undefined:
        return None, None, None
    return getattr(found, name), *(found.interval(name) or (None, None))
