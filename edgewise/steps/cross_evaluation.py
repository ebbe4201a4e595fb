"""Function beside structure: two circuits, what they share and their union, run in both models.

Faithfulness of circuit i in model j on the same prompts tells whether edges that only one circuit
has matter there. Random circuits show what that many edges do anyhow: they keep, of each kind of
port, as many edges as the larger of the two circuits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..graphs.errors import EdgewiseError

if TYPE_CHECKING:
    from ..graphs.circuit import Circuit
    from ..graphs.diff import CircuitDiff
    from ..patching.run.runner import Runner
    from ..session import Progress

RANDOM = 20
"""How many random circuits are run in each model."""

ROWS = {"A": "circuit A", "B": "circuit B", "both": "their intersection", "either": "their union"}


@dataclass(frozen=True)
class CrossPlan:
    """Hold the circuits that are run in both models."""

    circuits: Mapping[str, Circuit]
    drawn: tuple[Circuit, ...]

    @staticmethod
    def of(diff: CircuitDiff, random: int = RANDOM, seed: int = 0) -> CrossPlan:
        """Take the four circuits of a diff and draw the random ones."""
        from ..discovery.random_circuits import random_circuits

        graph = diff.a.graph
        counts = [graph.count_by_kind(circuit.kept) for circuit in (diff.a, diff.b)]
        most = {kind: max(count[kind] for count in counts) for kind in counts[0]}
        circuits = (diff.a, diff.b, diff.shared, diff.a | diff.b)
        drawn = random_circuits(graph, most, random, seed)
        return CrossPlan(dict(zip(ROWS, circuits, strict=True)), tuple(drawn))


def measure_all(
    runner: Runner, plan: CrossPlan, progress: Progress | None = None
) -> dict[str, list[float]]:
    """Measure in one model: `ends` (the full and the empty circuit), `circuits`, `random`.

    Raises:
        EdgewiseError: full and empty circuit measure the same, so there is no faithfulness.
    """
    from ..discovery.evaluation import different_ends

    found = {"ends": list(different_ends(runner)), "circuits": [], "random": []}
    total = len(plan.circuits) + len(plan.drawn)
    for key, circuits in (("circuits", plan.circuits.values()), ("random", plan.drawn)):
        for circuit in circuits:
            found[key].append(float(runner.measure([circuit])[0, 0]))
            if progress is not None:
                progress(len(found["circuits"]) + len(found["random"]), total, "circuits run")
    return found


def cross_block(
    plan: CrossPlan,
    measured: Sequence[Mapping[str, Sequence[float]]],
    *,
    metric: str,
    names: Sequence[str],
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """Put what was measured in both models together, as the block `cross` of a diff file.

    Args:
        plan: the circuits.
        measured: what `measure_all` returned in model A and in model B.
        metric: the metric's name.
        names: of the two models.
        about: what else to note.
    """
    ratios = [
        {key: [_faithful(value, one["ends"]) for value in one[key]] for key in one}
        for one in measured
    ]
    return {
        "metric": metric,
        **about,
        "models": list(names),
        "rows": [
            {
                "circuit": name,
                "edges": len(circuit),
                "value": [one["circuits"][i] for one in measured],
                "faithfulness": [one["circuits"][i] for one in ratios],
            }
            for i, (name, circuit) in enumerate(plan.circuits.items())
        ],
        "random": {
            "circuits": len(plan.drawn),
            "edges": len(plan.drawn[0]) if plan.drawn else 0,
            "faithfulness": [one["random"] for one in ratios],
        },
        "full": [one["ends"][0] for one in measured],
        "empty": [one["ends"][1] for one in measured],
    }


def _faithful(value: float, ends: Sequence[float]) -> float:
    from ..discovery.evaluation import ratio

    found = ratio(value, ends[0], ends[1])
    if found is None:
        raise EdgewiseError("full and empty circuit measure the same; there is no faithfulness.")
    return found
