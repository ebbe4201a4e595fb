"""What a circuit may be put to beside its measures: random circuits, tests, worst case, control."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypedDict

from ...discovery.random_circuits import Baseline, baseline
from ...experiment.spec import DiscoverySpec, EvaluationSpec
from ...graphs.circuit import Circuit
from ...graphs.errors import EdgewiseError
from ...graphs.files import CircuitFile
from ...progress import Progress
from ...session import Session
from .control import Control, control
from .hypotheses import HypothesisTests, hypothesis_tests
from .rivals import Rivals, rivals
from .worst import WorstCase, worst_case

if TYPE_CHECKING:
    from ...patching.prompts.pairs import PromptPairs
    from ...patching.run.runner import Runner


class Claims(TypedDict, total=False):
    """What was asked for, and found."""

    random: Baseline
    tests: HypothesisTests
    worst: WorstCase
    control: Control
    rivals: Rivals


def claims_of(
    model: Session | Runner,
    circuit: CircuitFile | Circuit,
    measured: tuple[Runner, PromptPairs],
    spec: EvaluationSpec,
    progress: Progress | None = None,
    found_by: DiscoverySpec | None = None,
) -> Claims:
    """Put a circuit to what a spec asks for.

    `measured`: by what it is measured, and all else is, on held-out pairs if there are any;
    and the pairs on which the control repeats its discovery, `found_by`; default: its file's.

    Raises:
        EdgewiseError: a control of a circuit whose discovery is not known, or without its model.
    """
    found: Claims = {}
    runner, pairs = measured
    whole = circuit.circuit if isinstance(circuit, CircuitFile) else circuit
    if spec.random:
        found["random"] = baseline(runner, whole, spec.random, spec.draw_seed, progress)
    if spec.tests:
        found["tests"] = hypothesis_tests(runner, whole, spec.draws, spec.draw_seed, progress)
    if spec.worst:
        found["worst"] = worst_case(runner, whole, progress, spec.draw_seed)
    if not (spec.control or spec.rivals):
        return found
    if not isinstance(model, Session) or not isinstance(circuit, CircuitFile):
        what = "a control repeats" if spec.control else "rivals repeat"
        raise EdgewiseError(
            f"{what} the circuit's discovery, and neither a runner nor a circuit alone says how it "
            "was found; accepted: an open model and a circuit's file."
        )
    discovery = found_by or DiscoverySpec.of_circuit(circuit)
    if spec.control:
        seed = spec.draw_seed
        found["control"] = control(model, pairs, runner, discovery, whole, progress, seed)
    if spec.rivals:
        how = (spec.rivals, spec.penalty)
        found["rivals"] = rivals(model, (runner, pairs), discovery, whole, how, progress)
    return found


def claims_block(claims: Claims) -> dict[str, object]:
    """Return what a circuit was put to as plain values, by the names of `Claims`."""
    random, tests = claims.get("random"), claims.get("tests")
    worst, control = claims.get("worst"), claims.get("control")
    found = {"random": random, "tests": tests, "worst": worst, "control": control}
    plain: dict[str, object] = {
        name: one.as_dict() for name, one in found.items() if one is not None
    }
    others = claims.get("rivals")
    return plain if others is None else {**plain, "rivals": others.as_dict()}


def read_claims(measured: Mapping[str, Any]) -> Claims:
    """Return what a file says that a circuit was put to, as the values' `as_dict` wrote it."""
    found: Claims = {}
    if "random" in measured:
        found["random"] = Baseline.from_dict(measured["random"])
    if "tests" in measured:
        found["tests"] = HypothesisTests.from_dict(measured["tests"])
    if "worst" in measured:
        found["worst"] = WorstCase.from_dict(measured["worst"])
    if "control" in measured:
        found["control"] = Control.from_dict(measured["control"])
    if "rivals" in measured:
        found["rivals"] = Rivals.from_dict(measured["rivals"])
    return found
