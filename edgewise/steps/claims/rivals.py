"""Rivals: further circuits for the same behaviour, with a penalty on edges of those before.

What a discovery returns is one circuit, not the circuit: other edges may do as well. So it is done
again, N times, and each time an edge that k earlier circuits keep counts for less:

1. Scores are divided by 1 + penalty · k before the selection chooses; a search that starts from
   scores starts from these. A walk that asks about every edge keeps one only if the loss rises by
   1 + penalty · k times its threshold.
2. An infinite penalty leaves no edge to a circuit that one before has; there may be no way from the
   embedding to the logits then.
3. Every circuit is measured on the pairs that are held out, if any are. What all of them share is
   needed, as far as these searches show; what only some have can be done otherwise.

It ends early where a search finds no circuit, or one that was found before.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...discovery.evaluation import measure
from ...discovery.registry import Discovery, scoring_method
from ...experiment.spec import DiscoverySpec, Experiment
from ...graphs.circuit import Circuit
from ...graphs.errors import EdgewiseError
from ...graphs.example_scores import ExampleScores
from ...graphs.levels.nodes import EDGE
from ...graphs.scores import Scores
from ...patching.prompts.pairs import PromptPairs
from ...patching.prompts.splits import PromptSplit
from ...progress import Progress, named
from ...session import Session, make_runner
from ..discover import Found, held_out_runner
from ..found.selection import selected

if TYPE_CHECKING:
    from ...patching.run.runner import Runner

Name = tuple[str, str]


@dataclass(frozen=True)
class Rival:
    """A circuit: its edges by sender and port, how many of them none before has, how it does.

    `faithfulness` is None where it is undefined; `interval`: its 95% interval.
    """

    edges: tuple[Name, ...]
    new: int
    faithfulness: float | None
    interval: tuple[float, float] | None

    def as_dict(self) -> dict[str, object]:
        """Return everything as plain values."""
        interval = None if self.interval is None else list(self.interval)
        own = {"edges": len(self.edges), "new": self.new, "faithfulness": self.faithfulness}
        return {**own, "interval": interval, "kept": [list(one) for one in self.edges]}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Rival:
        """Return what `as_dict` wrote."""
        ends, kept = values["interval"], values["kept"]
        interval = None if ends is None else (ends[0], ends[1])
        edges = tuple((one[0], one[1]) for one in kept)
        return Rival(edges, values["new"], values["faithfulness"], interval)


@dataclass(frozen=True)
class Rivals:
    """A circuit and those found apart from it, in their order; `ended`: why there are no more.

    `held_out`: whether they are measured on pairs that no search saw.
    """

    metric: str
    examples: int
    held_out: bool
    penalty: float
    circuits: tuple[Rival, ...]
    ended: str | None = None

    @property
    def counts(self) -> dict[Name, int]:
        """Tell of every edge how many of the circuits have it, the most shared first."""
        found = Counter(edge for one in self.circuits for edge in one.edges)
        return dict(found.most_common())

    @property
    def shared(self) -> list[Name]:
        """List the edges that all circuits have."""
        return [edge for edge, count in self.counts.items() if count == len(self.circuits)]

    @property
    def only_some(self) -> list[Name]:
        """List the edges that only some circuits have, the most shared first."""
        return [edge for edge, count in self.counts.items() if count < len(self.circuits)]

    def as_dict(self) -> dict[str, object]:
        """Return everything as plain values; an infinite penalty as a text, as JSON has none."""
        counts = self.counts
        return {
            "metric": self.metric,
            "examples": self.examples,
            "held_out": self.held_out,
            "penalty": self.penalty if math.isfinite(self.penalty) else "inf",
            "circuits": [one.as_dict() for one in self.circuits],
            "shared": [list(edge) for edge in self.shared],
            "only_some": [[*edge, counts[edge]] for edge in self.only_some],
            "ended": self.ended,
        }

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Rivals:
        """Return what `as_dict` wrote."""
        own = {key: values[key] for key in ("metric", "examples", "held_out", "ended")}
        circuits = tuple(Rival.from_dict(one) for one in values["circuits"])
        return Rivals(**own, penalty=float(values["penalty"]), circuits=circuits)


def rivals(
    session: Session,
    measured: tuple[Runner, PromptPairs],
    spec: DiscoverySpec,
    circuit: Circuit,
    asked: tuple[int, float],
    progress: Progress | None = None,
    known: Discovery | None = None,
) -> Rivals:
    """Find circuits that keep other edges than those before, where they can.

    Args:
        measured: what measures the circuits, and the pairs on which they are searched.
        spec: how the first circuit was found.
        asked: how many more are searched, and the penalty.
        known: what the method scored, if that is at hand.

    Raises:
        EdgewiseError: nothing selects edges, or the method knows no penalty on edges.
    """
    judge, pairs = measured
    number, penalty = asked
    refuse_rivals(spec)
    runner = make_runner(session, pairs, metric=spec.metric, ablation=spec.ablation,
                         batch_size=min(judge.batch_size, len(pairs)))  # fmt: skip
    found, ended = [circuit], None
    for one in range(1, number + 1):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # doubts are said of the first circuit
            try:
                tell = named(progress, f"rival {one}")
                if known is None:
                    known = _scored(runner, spec, session, tell)
                other = _apart(runner, spec, known, burden(found, penalty), tell)
            except EdgewiseError as error:
                ended = f"no further circuit was found: {error}"
                break
        if not len(other) or other in found:
            empty = "with this penalty no edge is left" if not len(other) else None
            ended = empty or "the search found a circuit again that was found before"
            break
        found.append(other)
    kept = np.zeros_like(circuit.kept)
    told = []
    for other in found:
        estimate = measure(judge, other).estimate("faithfulness")
        names = tuple((str(edge.sender), str(edge.port)) for edge in other.edges)
        new = int((other.kept & ~kept).sum())
        told.append(Rival(names, new, estimate.value, estimate.interval))
        kept |= other.kept
    apart = judge.pairs.sha256 != pairs.sha256
    examples, metric = len(judge.pairs), judge.metric.name
    return Rivals(metric, examples, apart, penalty, tuple(told), ended)


def refuse_rivals(spec: DiscoverySpec) -> None:
    """Refuse a discovery that cannot be done apart from circuits found before."""
    method = spec.chosen
    if spec.keeps_all:
        raise EdgewiseError(
            "rivals are circuits, and nothing says which edges to keep, so that every edge is; "
            "accepted: top, above, faithfulness or target."
        )
    if method.selects and not (method.starts or method.rival):
        raise EdgewiseError(
            f"method '{method.name}' knows no penalty on edges that circuits before have, so it "
            "finds no rivals; accepted: methods that score edges, start from scores, or walk."
        )


def burden(found: Sequence[Circuit], penalty: float) -> np.ndarray:
    """Return by how much each edge counts for less, [ports, senders], where circuits keep it.

    >>> from edgewise.graphs.graph import ComputationGraph
    >>> graph = ComputationGraph(layers=1, heads=1)
    >>> sorted(set(burden([Circuit.full(graph)] * 2, 0.5).ravel().tolist()))
    [1.0, 2.0]
    """
    kept = np.stack([one.kept for one in found]).sum(0)
    return np.where(kept > 0, 1.0 + penalty * np.maximum(kept, 1), 1.0)


def _scored(
    runner: Runner, spec: DiscoverySpec, session: Session, progress: Progress | None
) -> Discovery:
    """Return the scores to which the penalty is put: the method's, or those that it starts from."""
    method, given = spec.chosen, spec.start
    start = None if given is None else given.on(runner.graph, session.lifted.d_model)
    if not method.selects:
        by_example = spec.by_example
        return method(runner, progress, None, start, per_example=by_example, **spec.options)
    if start is not None:
        return Discovery(start)
    if method.rival is not None:
        return Discovery(Scores(runner.graph, np.full(runner.graph.size, np.nan, np.float32)))
    other = scoring_method()
    suited: dict[str, Any] = other.suited(runner.ablation)
    return other(runner, progress, **suited)


def _apart(
    runner: Runner,
    spec: DiscoverySpec,
    scored: Discovery,
    weights: np.ndarray,
    progress: Progress | None,
) -> Circuit:
    """Find a circuit in which each edge counts for as much less as its weight says."""
    method, graph = spec.chosen, runner.graph
    if method.rival is not None:
        engine = method.engine(runner, spec.options)
        options = method.check(spec.options)
        found = method.rival(replace(runner, engine=engine), options, weights, progress)
        return found.circuit or Circuit.empty(graph)
    if scored.scores.level != EDGE:  # all edges out of a node stay together
        spans = weights.reshape(-1, graph.positions, weights.shape[1])
        weights = np.tile(spans.max(0), (len(spans), 1))
    values = (scored.scores.values / weights).astype(np.float32)
    lighter = replace(scored.scores, values=np.where(np.isinf(weights), np.float32(np.nan), values))
    if method.selects:
        started = method(runner, progress, None, lighter, **spec.options)
        return started.circuit or Circuit.empty(graph)
    examples = scored.examples
    if examples is not None:
        each = (examples.values / weights[graph.reads]).astype(examples.values.dtype)
        examples = ExampleScores(graph, each, examples.groups, examples.level)
    given = Discovery(lighter, examples=examples)
    circuit = selected(runner, given, spec.select, progress).circuit
    circuit = Circuit(graph, circuit.kept & ~np.isinf(weights))
    return circuit.prune_dangling() if spec.select.connected else circuit


def with_rivals(
    found: Found,
    session: Session,
    pairs: PromptSplit,
    asked: Experiment,
    progress: Progress | None = None,
) -> Found:
    """Search rivals of what was found, if asked for; the file has them as `measures.rivals`."""
    evaluation, spec, file = asked.evaluation, asked.discovery, found.file
    if not evaluation.rivals:
        return found
    judge = make_runner(
        session, pairs.discovery, metric=spec.metric, ablation=spec.ablation,
        batch_size=asked.compute.batch_size,
    )  # fmt: skip
    judge = judge if pairs.test is None else held_out_runner(session, pairs, judge)
    known = None
    if not spec.chosen.selects and (found.examples is not None or not spec.by_example):
        examples = None if found.examples is None else found.examples.scores
        known = Discovery(found.scores.scores, examples=examples)
    how = (evaluation.rivals, evaluation.penalty)
    both = (judge, pairs.discovery)
    made = rivals(session, both, spec, file.circuit, how, progress, known)
    measures = {**file.measures, "rivals": made.as_dict()}
    return replace(found, file=replace(file, measures=measures))
