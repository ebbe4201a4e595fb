"""Evaluation as one step: how faithful and complete a circuit is, and what else is asked of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..discovery.evaluation import HELD_OUT, IN_SAMPLE, Evaluation, fitted_to_its_prompts, measure
from ..discovery.measures.curve import Curve
from ..discovery.measures.curve import curve as measure_curve
from ..discovery.measures.leaving_out import minimality as leave_each_out
from ..discovery.random_circuits import Baseline
from ..discovery.registry import scoring_method
from ..experiment.parts import split
from ..experiment.spec import IMPORTED, ComputeSpec, EvaluationSpec
from ..graphs.calls.typed import typed
from ..graphs.circuit import Circuit
from ..graphs.errors import EdgewiseError, within_memory
from ..graphs.files import CircuitFile
from ..graphs.names import Edge
from ..graphs.scores import Scores
from ..patching.engines import about_engine
from ..patching.metrics.functions import stored_metric
from ..patching.prompts.pairs import PromptPairs
from ..patching.prompts.splits import PromptSplit, clean_seen_in
from ..progress import Progress
from ..session import Session, make_runner
from .claims.claims import claims_of
from .claims.control import Control
from .claims.hypotheses import HypothesisTests
from .claims.rivals import Rivals
from .claims.worst import WorstCase
from .discover import held_out_runner
from .found.blocks import measured_block
from .stored import stored_pairs

if TYPE_CHECKING:
    from ..patching.run.runner import Runner


@typed
@dataclass(frozen=True)
class Evaluated(Evaluation):
    """What was measured of a circuit, and what else was asked for.

    The measures are those on the pairs that were given: the circuit's own, or others. `held_out`:
    those on pairs that were held out beside them; then `curve`, `minimality` and `random` are of
    these too. `seen`: how many of the given pairs have a clean prompt that the circuit was found
    on; None if its file does not say. `minimality`: by how much the loss rises without each kept
    edge; up to `floor` it is rounding. `engine`: name and version of what ran circuits.
    """

    curve: Curve | None = None
    minimality: Scores | None = None
    random: Baseline | None = None
    floor: float = 0.0
    tests: HypothesisTests | None = None
    worst: WorstCase | None = None
    control: Control | None = None
    rivals: Rivals | None = None
    held_out: Evaluation | None = None
    seen: int | None = field(default=None, compare=False)
    engine: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def measured_on(self) -> str:
        """Name the side that curve, minimality and random circuits are of; empty if unknown."""
        if self.held_out is not None or self.seen == 0:
            return HELD_OUT
        return IN_SAMPLE if self.seen == self.examples else ""

    @property
    def sides(self) -> dict[str, Evaluation]:
        """Return what was measured in sample and held out, as far as these pairs are either."""
        own = {self.measured_on: self.evaluation} if self.measured_on else {}
        if self.held_out is None:
            return own
        return {IN_SAMPLE: self.evaluation, HELD_OUT: self.held_out}

    @property
    def gap(self) -> str | None:
        """Say how far it does otherwise on other prompts than on its own, if beyond chance."""
        other = self.held_out
        return None if other is None else fitted_to_its_prompts(self.evaluation, other)

    @property
    def evaluation(self) -> Evaluation:
        """Return the measures alone."""
        return Evaluation(**{name: getattr(self, name) for name in Evaluation.__dataclass_fields__})

    def as_dict(self) -> dict[str, object]:
        """Return everything as plain values."""
        found: dict[str, object] = self.evaluation.as_dict()
        parts = (self.curve, self.random, self.tests, self.worst, self.control, self.rivals)
        names = ("curve", "random", "tests", "worst", "control", "rivals")
        found |= {k: one.as_dict() for k, one in zip(names, parts, strict=True) if one is not None}
        if self.minimality is not None:
            edges = [[str(edge.sender), str(edge.port), rise] for edge, rise in self.rises]
            found["minimality"] = {"useless": self.useless, "edges": edges}
        found |= {name: measured_block(one) for name, one in self.sides.items()}
        found |= {"engine": dict(self.engine)} if self.engine else {}
        return found | {"seen": self.seen, "measured_on": self.measured_on or None}

    @property
    def useless(self) -> int:
        """Count the kept edges without which the loss rises by no more than rounding."""
        return sum(rise <= self.floor for _, rise in self.rises)

    @property
    def rises(self) -> list[tuple[Edge, float]]:
        """List the kept edges with the loss's rise without them, the least needed first."""
        if self.minimality is None:
            return []
        values, graph = self.minimality.values, self.minimality.graph
        places = np.argwhere(~np.isnan(values))
        found = [(graph.edge_at(row, at), float(values[row, at])) for row, at in places]
        return sorted(found, key=lambda one: one[1])


@typed
@within_memory()
def evaluate(
    model: Session | Runner,
    circuit: CircuitFile | Circuit,
    pairs: PromptPairs | PromptSplit | None = None,
    spec: EvaluationSpec | None = None,
    *,
    scores: Scores | None = None,
    progress: Progress | None = None,
    **fields: Any,
) -> Evaluated:
    """Measure a circuit in a model, which need not be the one it was found in.

    Args:
        model: an open one; or a runner, which has its own pairs, metric, ablation and batch size.
        pairs: the prompts, of an open model; or those with others that are held out.
        spec: what to measure. Metric and ablation default to those of the circuit's file; a curve
            needs scores of all edges; minimality takes a question for each kept edge; `random`
            circuits of as many edges of each kind say what faithfulness so many edges have anyhow.
        scores: of all edges.
        fields: of `EvaluationSpec`, as in `curve=True`; also `metric`, a name, an expression or a
            function of logits and a target, and `batch_size`.

    Raises:
        GraphMismatch: the circuit's graph is not the model's.
        EdgewiseError: a curve without scores, or with scores of some edges only; a model without
            pairs, or a runner with what it has already.
    """
    metric, tester = fields.pop("metric", None), None
    own, how = split("evaluate", fields, EvaluationSpec, ComputeSpec)
    spec, compute = (spec or EvaluationSpec()).but(**own), ComputeSpec.of(**how)
    if isinstance(model, Session):
        if pairs is None:
            raise EdgewiseError("nothing can be measured without prompts; give the pairs too.")
        parted = pairs if isinstance(pairs, PromptSplit) else PromptSplit(pairs)
        whole = circuit.circuit if isinstance(circuit, CircuitFile) else circuit
        parted = parted.at_spans(whole.graph.spans)
        stored: Mapping[str, Any] = circuit.discovery if isinstance(circuit, CircuitFile) else {}
        runner = make_runner(
            model,
            parted.discovery,
            metric=stored_metric(stored, metric or next(iter(spec.metrics), None)) or None,
            ablation=spec.ablation or stored.get("ablation"),
            batch_size=compute.batch_size,
            engine=compute.engine,
            mlps=whole.graph.layers_of_neurons,
        )
        model.certify(parted.discovery)
        if parted.test is not None:
            tester = held_out_runner(model, parted, runner)
    elif pairs is not None or metric or spec.metrics or spec.ablation or how:
        raise EdgewiseError(
            "a runner has its own pairs, metric, ablation and batch size; give an open model in "
            "its place, or leave them out."
        )
    else:
        runner = model
    whole = circuit.circuit if isinstance(circuit, CircuitFile) else circuit
    curve = minimality = None
    first = runner if tester is None else tester
    if spec.curve:
        curve = measure_curve(first, _complete(scores), progress=progress)
    if spec.minimality:
        minimality = leave_each_out(first, whole, progress)
    claims = claims_of(model, circuit, (first, runner.pairs), spec, progress)
    return Evaluated(
        **vars(measure(runner, whole)),
        curve=curve,
        minimality=minimality,
        floor=first.floor,
        held_out=None if tester is None else measure(tester, whole),
        seen=_seen(circuit, runner.pairs),
        engine=about_engine(runner.runs_by),
        **claims,
    )


def _seen(circuit: CircuitFile | Circuit, pairs: PromptPairs) -> int | None:
    """Count the pairs on whose clean prompts a circuit was found, as far as its file says."""
    if not isinstance(circuit, CircuitFile) or circuit.discovery["method"] == IMPORTED:
        return None
    if circuit.task["sha256"] == pairs.sha256:
        return len(pairs)
    found = stored_pairs(circuit)
    return None if found is None else len(clean_seen_in(pairs, found))


def _complete(scores: Scores | None) -> Scores:
    """Refuse scores that do not rank every edge."""
    needed = "a curve needs scores of all edges"
    if scores is None:
        raise EdgewiseError(f"{needed}; give those found with the circuit.")
    lacking = int((np.isnan(scores.values) & scores.graph.reads).sum())
    if lacking:
        raise EdgewiseError(
            f"{needed}, and {lacking:,} of {scores.graph.edge_count:,} have none; accepted: scores "
            f"of a method that scores every edge, such as {scoring_method().name}."
        )
    return scores
