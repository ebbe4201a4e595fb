"""What the edges that changed do: a changed structure need not be a changed function.

On the same prompts, with an interval over prompts for every share:

1. Alone and cut out, in each model: faithfulness of the circuit of the changed edges by themselves,
   and of all edges but them. Beside it, random sets of as many edges of each kind are cut out.
2. Transplanted: B's values on the changed edges, and on all edges of their senders, in A's clean
   run; the share of B's gain over A that they carry (see `patching.transplant`).
3. The gain itself, m(B) − m(A): where its interval lies within ±δ, function did not change.

B is run first and then closed, so that one model is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...discovery.evaluation import measured_together
from ...discovery.random_circuits import random_circuits
from ...discovery.uncertainty.bootstrap import Estimate, faithfulness_estimate
from ...graphs.circuit import Circuit
from ...graphs.comparison import ChangedFunction, Ratio
from ...graphs.example_scores import clusters_of
from ...patching.prompts.pairs import PromptPairs
from ...progress import Progress, named
from ...session import Session, make_runner
from .gain import MeasuredGain

if TYPE_CHECKING:
    from ...patching.transplant.donor import DonorValues

RANDOM = 10  # sets of edges that are cut out beside those that changed


@dataclass(frozen=True, eq=False)
class ChangedInModel:
    """What the changed edges do in one model, by its metric, of every example.

    `values`: float64 [4, examples], of all edges, none, the changed ones alone, and all but them;
    `random`: [sets, examples], of all but a random set. `floor`: what rounding may move a mean by.
    """

    values: np.ndarray
    random: np.ndarray
    floor: float


@dataclass(frozen=True, eq=False)
class CarriedGain:
    """A's metric of every example with B's values, and both models' own, [examples] each.

    `floor`: what rounding may move a mean by; `compared`: the metric compares with B's logits.
    """

    receiver: np.ndarray
    donor: np.ndarray
    edges: np.ndarray
    senders: np.ndarray
    everything: np.ndarray
    floor: float
    compared: bool


def changed_in(
    session: Session,
    pairs: PromptPairs,
    changed: Circuit,
    measure: tuple[str, str],
    *,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> ChangedInModel:
    """Run the changed edges alone, and all edges but them, in one model."""
    metric, ablation = measure
    runner = make_runner(
        session, pairs, metric=metric, ablation=ablation, batch_size=batch_size,
        mlps=changed.graph.layers_of_neurons,
    )  # fmt: skip
    graph = runner.graph
    drawn = random_circuits(graph, graph.count_by_kind(changed.kept), RANDOM)
    circuits = [Circuit.full(graph), Circuit.empty(graph), changed, changed.complement]
    circuits += [one.complement for one in drawn]
    found = measured_together(runner, circuits, progress, "sets of changed edges run")
    return ChangedInModel(found[:4], found[4:], runner.floor)


def senders_of(changed: Circuit) -> Circuit:
    """Keep every edge out of the senders of some edges."""
    graph = changed.graph
    return Circuit(graph, graph.reads & changed.kept.any(0, keepdims=True))


def donated(
    session: Session, pairs: PromptPairs, changed: Circuit, metric: str, batch_size: int | None
) -> DonorValues:
    """Keep what the senders of the changed edges write in B, which can be closed then."""
    from ...patching.transplant.donor import clean_runner, record

    nodes = [node for u, node in enumerate(changed.graph.senders) if changed.kept[:, u].any()]
    return record(clean_runner(session.lifted, pairs, metric, batch_size), nodes)


def carried_in(session: Session, given: DonorValues, changed: Circuit) -> CarriedGain:
    """Put B's values on the changed edges, and on all edges of their senders, into A's run."""
    from ...patching.transplant.transplant import Transplant

    both = Transplant.create(session.lifted, given.pairs, given)
    edges, senders = both.measure_each(np.stack([changed.kept, senders_of(changed).kept]))
    rounding = max(given.floor, both.rounding)
    return CarriedGain(
        both.receiver_each, given.each, edges, senders, both.everything_each, rounding,
        given.metric.needs_clean_logits,
    )  # fmt: skip


def function_of(
    changed: Circuit,
    sides: tuple[ChangedInModel, ChangedInModel],
    carried: CarriedGain,
    pairs: PromptPairs,
    measure: tuple[str, str],
) -> ChangedFunction:
    """Put together what the changed edges do in models A and B, with intervals over prompts."""
    clusters = clusters_of(pairs.groups)

    def share(circuit: np.ndarray, side: ChangedInModel) -> Ratio:
        full, empty = side.values[:2]
        return _ratio(faithfulness_estimate(full, circuit, empty, clusters, side.floor))

    gain = MeasuredGain(carried.receiver, carried.donor, clusters, carried.floor)

    def gained(values: np.ndarray) -> Ratio:
        return _ratio(gain.share(values))

    a, b = sides
    cut = [share(side.random.mean(0), side) for side in sides]
    return ChangedFunction(
        metric=measure[0], ablation=measure[1], examples=len(pairs), sha256=pairs.sha256,
        edges=len(changed), senders=int(changed.kept.any(0).sum()),
        from_b=carried.compared,
        value=(float(carried.receiver.mean()), float(carried.donor.mean())),
        gain=_ratio(gain.estimate()),
        alone=(share(a.values[2], a), share(b.values[2], b)),
        without=(share(a.values[3], a), share(b.values[3], b)),
        random=RANDOM, random_without=(cut[0], cut[1]),
        carried_by_edges=gained(carried.edges), carried_by_senders=gained(carried.senders),
        carried_by_all=gained(carried.everything),
    )  # fmt: skip


def function_between(
    changed: Circuit,
    opened: Callable[[int], Session],
    pairs: PromptPairs,
    measure: tuple[str, str],
    *,
    batch_sizes: tuple[int | None, int | None] = (None, None),
    progress: Progress | None = None,
) -> ChangedFunction:
    """Measure what changed edges do between two models; `opened` opens A (0) or B (1)."""
    session = opened(1)
    report = named(progress, "model B")
    b = changed_in(session, pairs, changed, measure, batch_size=batch_sizes[1], progress=report)
    given = donated(session, pairs, changed, measure[0], batch_sizes[1])
    del session  # one model is in memory at a time
    session = opened(0)
    report = named(progress, "model A")
    a = changed_in(session, pairs, changed, measure, batch_size=batch_sizes[0], progress=report)
    carried = carried_in(session, given, changed)
    return function_of(changed, (a, b), carried, pairs, measure)


def _ratio(found: Estimate) -> Ratio:
    low, high = found.interval or (None, None)
    return Ratio(found.value, low, high)
