"""Methods on known circuits: do they rank the true edges first, and what do these keep?

1. Run each method on each case's pairs, where an option says how many edges are wanted, on as many
   as are true.
2. Hold its scores against the truth: the area under the curve of true against false edges, and of
   as many of its strongest edges as are true, or of its own circuit, how many are.
3. Measure that circuit on held-out pairs, and the areas CPR and CMD of the scores.

A method that scores nodes alone is held against the nodes that write along a true edge.

Methods of gradients score by `logit_diff`, as KL has none at the clean run; searches and whatever
measures each edge by itself go by `kl`, which feels every change of the output.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..discovery.evaluation import measured_together
from ..discovery.meaning import Meaningless
from ..discovery.measures.curve import CURVE_SHARES, curve
from ..discovery.registry import methods as registered
from ..discovery.uncertainty.bootstrap import Estimate, faithfulness_estimate
from ..graphs.calls.typed import typed
from ..graphs.circuit import Circuit
from ..graphs.errors import EdgewiseError
from ..graphs.files.tables.known import CaseRow, KnownFile, ScoredRow
from ..graphs.levels.nodes import EDGE, NODE, of_nodes
from ..graphs.scores import Scores
from ..progress import SILENT, Progress
from ..session import make_runner
from ..steps.claims.asked import AskedMethod
from ..steps.found.blocks import spent
from .cases import KnownCase

if TYPE_CHECKING:
    from ..patching.run.runner import Runner

THRESHOLD = 1e-5
"""Least rise of the loss that keeps an edge; known edges have effects far above, or none."""


FLAT = 1e-6
"""A score of less than this part of the largest is none: nothing was seen of the edge."""

UPDATES = 200
"""How often gates are moved: there are few."""


def wanted(truth: Circuit) -> dict[str, object]:
    """Return options by which methods are told what a case asks for: how many edges, or nodes.

    >>> from edgewise import Circuit, ComputationGraph
    >>> graph = ComputationGraph(layers=1, heads=1)
    >>> wanted(Circuit.empty(graph).with_edges(["m0->logits"]))["edges"]
    1
    """
    inner = [node for node in truth.nodes if node.layer is not None]
    size = {"edges": len(truth), "nodes": max(1, len(inner))}
    return {**size, "threshold": THRESHOLD, "updates": UPDATES}


@typed
def usual_methods() -> list[AskedMethod]:
    """Return every method, and those with an option `local` with it too."""
    found = list[AskedMethod]()
    for name, method in registered().items():
        found.append(AskedMethod(name, name))
        if "local" in method.options:
            found.append(AskedMethod.parse(f"{name}:local=true"))
    return found


@typed
def area(scores: Scores, truth: Circuit) -> float:
    """Return the area under the ROC curve of true against other edges, ranked by |score|.

    The share of pairs of a true and another edge in which the true one has the larger |score|,
    equal ones counted half. An edge without a score ranks last. Of scores of nodes the same of
    nodes: true are those with a true edge out of them.

    >>> from edgewise import Circuit, ComputationGraph
    >>> graph = ComputationGraph(layers=1, heads=1)
    >>> truth = Circuit.empty(graph).with_edges(["m0->logits"])
    >>> area(Scores(graph, truth.kept.astype(float)), truth)
    1.0
    """
    from scipy.stats import rankdata

    if scores.level == EDGE:
        strength, true = (one[truth.graph.reads] for one in (scores.values, truth.kept))
    else:
        strength, true = of_nodes(scores.graph, scores.values), _writing(truth)
    strength = np.where(np.isnan(strength), -1.0, np.abs(strength))
    number, rest = int(true.sum()), int((~true).sum())
    if not number or not rest:
        raise EdgewiseError(
            f"the truth has all {scores.level}s, or none; accepted: one with some of both."
        )
    ranks = rankdata(strength)
    return float((ranks[true].sum() - number * (number + 1) / 2) / (number * rest))


def _writing(circuit: Circuit) -> np.ndarray:
    """Tell of each sender whether the circuit keeps an edge out of it, bool [senders]."""
    return np.asarray(circuit.kept.any(0))


@typed
def score_methods(
    cases: Iterable[KnownCase],
    methods: Sequence[AskedMethod],
    progress: Progress | None = None,
    *,
    areas: bool = True,
) -> KnownFile:
    """Run methods on known circuits, and hold what they find against the truth; see the module.

    `areas`: measure CPR and CMD too. A method that refuses a case has a row that says why.
    """
    report, told, rows = progress or SILENT, list[CaseRow](), list[ScoredRow]()
    for case in cases:
        told.append(case_row(case))
        for number, asked in enumerate(methods):
            report(number, len(methods), f"methods run on {case.name}: {asked.label}")
            rows.append(_run(case, asked, areas))
    if not told:
        raise EdgewiseError("there is no known circuit to score methods on; accepted: one or more.")
    return KnownFile(metric_of_circuits(), told, rows)


@typed
def case_row(case: KnownCase) -> CaseRow:
    """Tell of a case what a file does."""
    edges = case.truth.graph.edge_count
    return CaseRow(
        case=case.name, kind=case.kind, ablation=case.ablation, edges=edges, true=len(case.truth)
    )


@typed
def metric_of_circuits() -> str:
    """Return by which metric circuits are measured."""
    from ..patching.metrics.registry import default_metric

    return default_metric(searching=False)


def _run(case: KnownCase, asked: AskedMethod, areas: bool) -> ScoredRow:
    from ..patching.metrics.registry import default_metric

    method, options = asked.chosen, dict(asked.options)
    for key, value in wanted(case.truth).items():
        if key in method.options and f"{key}=" not in asked.label:
            options[key] = value
    searching = method.selects or not method.gradient
    metric = asked.metric or default_metric(searching=searching)
    begun = spent(case.session)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Meaningless)
            runner = make_runner(case.session, case.pairs, metric=metric, ablation=case.ablation)
            own = {**method.suited(runner.ablation), **options}
            level = NODE if method.nodes_only else EDGE
            found = method.at(level)(runner, None, per_example=False, **own)
    except EdgewiseError as error:
        return _refused(asked.label, case, str(error))
    seconds = spent(case.session) - begun
    circuit = found.circuit if method.selects else None
    return scored_row(asked.label, case, found.scores, circuit, seconds=seconds, areas=areas)


def _refused(label: str, case: KnownCase, why: str) -> ScoredRow:
    return ScoredRow(
        method=label, case=case.name, AUC=None, precision=None, recall=None, kept=None, f=None,
        low=None, high=None, CPR=None, CMD=None, missed=None, flat=None, seconds=None, refused=why,
    )  # fmt: skip


@typed
def scored_row(
    label: str,
    case: KnownCase,
    scores: Scores | None,
    circuit: Circuit | None = None,
    *,
    seconds: float | None = None,
    areas: bool = True,
) -> ScoredRow:
    """Hold scores, or a circuit that was selected otherwise, against a case's truth.

    Raises:
        EdgewiseError: neither is there; they are of another graph.
    """
    truth = case.truth
    if circuit is None and scores is None:
        raise EdgewiseError(f"{label} has neither scores nor a circuit; accepted: either.")
    for what in (one.graph for one in (scores, circuit) if one is not None):
        if unequal := "; ".join(what.differences(truth.graph)):
            raise EdgewiseError(
                f"{label} is not of the graph of {case.name}: they differ in {unequal} (found and "
                "known)."
            )
    ranks = scores is not None and not np.isnan(scores.values[truth.graph.reads]).any()
    if ranks or circuit is None:
        ranking = scores
    else:
        ranking = Scores(truth.graph, np.where(truth.graph.reads, circuit.kept, np.nan))
    assert ranking is not None
    number = len(truth) if ranking.level == EDGE else int(_writing(truth).sum())
    own = ranking.top(number) if circuit is None else circuit
    if ranking.level == EDGE:
        right = len(own & truth)
    else:
        right = int((_writing(own) & _writing(truth)).sum())
    kept = ranking.count(own)
    missed, flat = _missed(ranking, own, truth)
    metric = metric_of_circuits()
    tester = make_runner(case.session, case.test, metric=metric, ablation=case.ablation)
    f, low, high = _faithfulness(tester, own).numbers
    cpr = cmd = None
    if areas and ranks:
        found = curve(tester, ranking, CURVE_SHARES)
        cpr, cmd = (None, None) if found.undefined else (found.cpr, found.cmd)
    row = ScoredRow(
        method=label, case=case.name, AUC=area(ranking, truth), kept=kept,
        precision=right / kept if kept else None, recall=right / number,
        f=f, low=low, high=high, CPR=cpr, CMD=cmd,
        missed=missed, flat=flat if ranks else None, seconds=seconds, refused=None,
    )  # fmt: skip
    if ranking.level != EDGE:
        row["level"] = ranking.level
    return row


def _missed(ranking: Scores, own: Circuit, truth: Circuit) -> tuple[int, int]:
    """Count the true edges, or nodes, that are not kept, and those of them without a score."""
    values = np.abs(np.nan_to_num(ranking.values))
    if ranking.level == EDGE:
        left = truth.kept & ~own.kept
    else:
        left, values = _writing(truth) & ~_writing(own), values.max(0)
    return int(left.sum()), int((values[left] <= FLAT * values.max()).sum())


def _faithfulness(tester: Runner, circuit: Circuit) -> Estimate:
    from ..graphs.example_scores import clusters_of

    graph = tester.graph
    every = [Circuit.full(graph), Circuit.empty(graph), circuit]
    full, empty, own = measured_together(tester, every, None, "")
    return faithfulness_estimate(full, own, empty, clusters_of(tester.pairs.groups), tester.floor)
