"""What every command and every declared experiment is made of, as functions to call from Python.

    session = open_model("smollm2-135m")
    pairs, report = open_task(session, "ioi", examples=32)
    found = discover(session, pairs, method="eap-ig", select=Selection(top=200))
    write_circuit("ioi.json", found.file)

Nothing is printed; errors are `EdgewiseError`; progress goes to a callback that receives what is
done, the total, and a word of what is being done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .experiment.parts import split
from .experiment.spec import (
    EXAMPLES,
    ComputeSpec,
    DiscoverySpec,
    EvaluationSpec,
    Experiment,
    Selection,
    Start,
    check_task,
    is_file,
    read_start,
)
from .graphs.errors import EdgewiseError, within_memory
from .session import (
    Progress,
    Session,
    make_pairs,
    make_runner,
    open_model,
    open_task,
)
from .steps.discover import Found, discover, task_block
from .steps.stored import circuit_pairs, stored_model, stored_pairs, stored_task

if TYPE_CHECKING:
    from .discovery.evaluation import Curve, Evaluation
    from .discovery.random_circuits import Baseline
    from .graphs.circuit import Circuit
    from .graphs.files import CircuitFile, DiffFile
    from .graphs.names import Edge
    from .graphs.scores import Scores
    from .patching.paths import PathEffect
    from .patching.prompts.pairs import PromptPairs

__all__ = [
    "EXAMPLES",
    "Evaluated",
    "Experiment",
    "Found",
    "Progress",
    "Selection",
    "Session",
    "Start",
    "beside_scores",
    "check_task",
    "circuit_pairs",
    "compare",
    "discover",
    "evaluate",
    "is_file",
    "make_pairs",
    "make_runner",
    "open_model",
    "open_task",
    "patch",
    "read_start",
    "request",
    "stored_model",
    "stored_pairs",
    "stored_task",
    "task_block",
]


def request(method: str, **fields: Any) -> DiscoverySpec:
    """Check what a discovery asks for, before a model is loaded, and fill in the defaults.

    >>> request("acdc", options={"threshold": 0.1}).metric
    'kl'

    Raises:
        EdgewiseError: as `DiscoverySpec`.
    """
    (own,) = split("request", fields, DiscoverySpec)
    return DiscoverySpec.of(method=method, **own)


@dataclass(frozen=True)
class Evaluated:
    """What was measured of a circuit, and what else was asked for.

    Args:
        evaluation: the measures.
        curve: faithfulness over sizes.
        minimality: by how much the loss rises without each kept edge.
        random: where it stands among random circuits.
        floor: rises of the loss up to this are rounding.
    """

    evaluation: Evaluation
    curve: Curve | None = None
    minimality: Scores | None = None
    random: Baseline | None = None
    floor: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        found = self.evaluation.as_dict()
        if self.curve is not None:
            found["curve"] = self.curve.as_dict()
        if self.random is not None:
            found["random"] = self.random.as_dict()
        if self.minimality is not None:
            edges = [[str(edge.sender), str(edge.port), rise] for edge, rise in self.rises]
            found["minimality"] = {"useless": self.useless, "edges": edges}
        return found

    @property
    def useless(self) -> int:
        """Count the kept edges without which the loss rises by no more than rounding."""
        return sum(rise <= self.floor for _, rise in self.rises)

    @property
    def rises(self) -> list[tuple[Edge, float]]:
        """List the kept edges with the loss's rise without them, the least needed first."""
        import numpy as np

        if self.minimality is None:
            return []
        values, graph = self.minimality.values, self.minimality.graph
        order = np.argsort(values, axis=None, kind="stable")[: int((~np.isnan(values)).sum())]
        places = zip(*np.unravel_index(order, values.shape), strict=True)
        return [(graph.edge_at(row, at), float(values[row, at])) for row, at in places]


@within_memory()
def evaluate(
    session: Session,
    circuit: CircuitFile | Circuit,
    pairs: PromptPairs,
    spec: EvaluationSpec | None = None,
    *,
    scores: Scores | None = None,
    progress: Progress | None = None,
    **fields: Any,
) -> Evaluated:
    """Measure a circuit in the session's model, which need not be the one it was found in.

    Args:
        session, circuit, pairs: the model, the circuit and the prompt pairs.
        spec: what to measure. Metric and ablation default to those of the circuit's file; a curve
            needs scores of all edges; minimality takes a question for each kept edge; `random`
            circuits of as many edges of each kind say what faithfulness so many edges have anyhow.
        scores: of all edges.
        progress: told what is done.
        fields: of `EvaluationSpec`, as in `curve=True`; also `metric` and `batch_size`.

    Raises:
        GraphMismatch: the circuit's graph is not the model's.
        EdgewiseError: a curve without scores, or with scores of some edges only.
    """
    from .discovery.evaluation import curve as measure_curve
    from .discovery.evaluation import evaluate as measure
    from .discovery.evaluation import minimality as measure_minimality
    from .discovery.random_circuits import baseline
    from .graphs.files import CircuitFile

    metric = fields.pop("metric", None)
    own, how = split("evaluate", fields, EvaluationSpec, ComputeSpec)
    spec = (spec or EvaluationSpec()).but(**own)
    stored: Mapping[str, Any] = circuit.discovery if isinstance(circuit, CircuitFile) else {}
    runner = make_runner(
        session,
        pairs,
        metric=metric or next(iter(spec.metrics), stored.get("metric")),
        ablation=spec.ablation or stored.get("ablation"),
        batch_size=ComputeSpec.of(**how).batch_size,
    )
    whole = circuit.circuit if isinstance(circuit, CircuitFile) else circuit
    return Evaluated(
        measure(runner, whole),
        measure_curve(runner, _complete(scores), progress=progress) if spec.curve else None,
        measure_minimality(runner, whole, progress) if spec.minimality else None,
        baseline(runner, whole, spec.random, progress=progress) if spec.random else None,
        runner.floor,
    )


@within_memory()
def patch(
    session: Session,
    pairs: PromptPairs,
    paths: Sequence[str],
    *,
    denoise: bool = False,
    together: bool = False,
    **measure: Any,
) -> list[PathEffect]:
    """Measure what flows along named paths; see `patching.paths.patch_paths`.

    `measure`: metric, ablation and batch size, as in `make_runner`.
    """
    from .patching.paths import patch_paths

    runner = make_runner(session, pairs, **measure)
    return patch_paths(runner, paths, denoise=denoise, together=together)


def compare(
    a: CircuitFile,
    b: CircuitFile,
    *,
    names: tuple[str, str] = ("A", "B"),
    scores: tuple[Scores | None, Scores | None] = (None, None),
) -> DiffFile:
    """Compare two circuits on equal graphs; `scores`: of all edges of each, where they are known.

    Raises:
        GraphMismatch: the graphs differ; says in what.
    """
    from .graphs.files import diff_files

    return diff_files(a, b, names=names, scores=scores)


def beside_scores(path: str, file: CircuitFile) -> Scores | None:
    """Return the scores in the sidecar of a circuit's file, None if there is no sidecar.

    Raises:
        FileFormatError: it is damaged or of another graph.
    """
    from .graphs.files import read_scores, scores_path

    if not scores_path(path).is_file():
        return None
    return read_scores(path, file.circuit.graph).scores


def _complete(scores: Scores | None) -> Scores:
    """Refuse scores that do not rank every edge."""
    import numpy as np

    if scores is None:
        raise EdgewiseError(
            "a curve needs scores of all edges; accepted: a circuit found with --scores."
        )
    lacking = int((np.isnan(scores.values) & scores.graph.reads).sum())
    if lacking:
        raise EdgewiseError(
            f"a curve needs scores of all edges, and {lacking:,} of {scores.graph.edge_count:,} "
            "have none; accepted: scores of a method that scores every edge, such as eap-ig."
        )
    return scores
