"""Circuits of other tools as circuit files: put on a model's graph, certified, and measured.

Their formats tell neither which model nor which prompts a circuit is of, so both are named here.
The model is lifted and its lift certified as for a discovery; the graph must be the file's. What
the file was, its name, form and hash, stands in `discovery.source`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..discovery.evaluation import Evaluation, measure
from ..discovery.registry import Discovery
from ..experiment.parts import split
from ..experiment.spec import (
    IMPORTED,
    ComputeSpec,
    EvaluationSpec,
    GraphSpec,
    Selection,
    measured_by,
)
from ..experiment.task import TaskSpec
from ..graphs.calls.typed import typed
from ..graphs.circuit import Circuit
from ..graphs.errors import EdgewiseError, unknown_argument, within_memory
from ..graphs.files import CircuitFile, ScoresFile, model_block
from ..graphs.files.circuit import PROMPTS, CertificateBlock, DiscoveryBlock, ModelBlock, TaskBlock
from ..graphs.files.exchange import Foreign, read_foreign
from ..graphs.graph import ComputationGraph
from ..graphs.levels.nodes import EDGE
from ..graphs.scores import Scores
from ..patching.engines import about_engine
from ..patching.prompts.pair_files import pair_rows
from ..patching.prompts.pairs import PromptPairs
from ..progress import Progress, prompts_are_there
from ..session import Session, make_runner, open_model, open_task
from .found.blocks import circumstances, measures, task_block
from .found.selection import selected

if TYPE_CHECKING:
    from ..patching.run.runner import Runner

NOWHERE: TaskBlock = {"name": "", "sha256": None, "examples": 0, "seed": None}
"""What a circuit file says of a task that is not known."""


@typed
@dataclass(frozen=True, eq=False)
class Imported:
    """An imported circuit in its model: its file, its scores if it has some, what was measured.

    `pairs`, `evaluation`: None where no prompts were given.
    """

    file: CircuitFile
    scores: ScoresFile | None
    session: Session
    pairs: PromptPairs | None
    evaluation: Evaluation | None


@typed
@within_memory()
def import_circuit(
    path: Foreign | str | Path,
    model: Session | Any,
    task: PromptPairs | TaskSpec | str | None = None,
    select: Selection | None = None,
    compute: ComputeSpec | None = None,
    *,
    progress: Progress | None = None,
    **fields: Any,
) -> Imported:
    """Make a circuit file of a circuit that another tool found.

    Args:
        path: a file of EAP-IG, ACDC or Edge-Pruning, a folder of MIB's, or what `read_foreign` made
            of it.
        model: what a user types for MODEL, or an open session: the model the circuit was found in.
        task: the prompts it was found on, with which it is measured and which the file then holds;
            default: none, and the file says so.
        select: which edges to keep by their scores, in place of those the file keeps. A file that
            keeps none but has scores gives every edge with its score, as a discovery without a
            selection does.
        compute, fields: where and how to compute, `percent` of a folder of several sizes, and the
            `metric` and `ablation` that it is measured by; `try_family`, see `GraphSpec`.

    Raises:
        FileFormatError: the file is none of these, or an entry is of a wrong kind.
        GraphMismatch: the model is of another shape than the file's.
        EdgewiseError: the file keeps no edge and has no scores to choose by.
    """
    how, measured, percent = _sorted(fields)
    compute = (compute or ComputeSpec()).but(**how)
    found = path if isinstance(path, Foreign) else read_foreign(path, percent=percent)
    session = open_for_foreign(found, model, compute, progress, fields.get("try_family"))
    circuit, scores = found.on(session.graph, session.lifted.d_model)
    pairs = task
    if task is not None and not isinstance(task, PromptPairs):
        pairs, _ = open_task(session, task)
        prompts_are_there(progress, pairs.origin)
    runner, evaluation, certificate = None, None, session.certificate
    if isinstance(pairs, PromptPairs):
        certificate = session.certify(pairs)
        runner = make_runner(
            session, pairs, metric=measured["metric"], ablation=measured["ablation"],
            batch_size=compute.batch_size,
        )  # fmt: skip
    circuit = _chosen(found, circuit, scores, select, runner)
    level = EDGE if scores is None else scores.level
    if runner is not None:
        evaluation = measure(runner, circuit)
    file = CircuitFile(
        circuit=circuit,
        model=session.model_block,
        task=NOWHERE if runner is None else task_block(runner.pairs),
        discovery=_discovery(found, select, measured, session, runner, level),
        certificate=certificate.as_dict(),
        measures={}
        if evaluation is None or runner is None
        else measures(evaluation, engine=about_engine(runner.runs_by)),
        edge_scores=None if scores is None else scores.values,
        extra={} if runner is None else {PROMPTS: pair_rows(runner.pairs)},
    )
    kept = None if scores is None else ScoresFile(scores, IMPORTED, **measured)
    return Imported(file, kept, session, None if runner is None else runner.pairs, evaluation)


def _sorted(fields: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str], float | None]:
    """Sort keyword arguments: how to compute, by what to measure, and which size."""
    own = {key: fields.get(key) for key in ("metric", "ablation", "percent", "try_family")}
    known = [*own, *ComputeSpec.names()]
    for key in fields:
        if key not in known:
            raise unknown_argument("import_circuit", key, known)
    (how,) = split("import_circuit", {k: v for k, v in fields.items() if k not in own}, ComputeSpec)
    percent = own["percent"]
    if percent is not None and (isinstance(percent, bool) or not isinstance(percent, int | float)):
        raise EdgewiseError(f"percent is {percent!r}; accepted: a number, such as 0.5.")
    EvaluationSpec(ablation=own["ablation"])
    return how, measured_by(own["metric"], own["ablation"]), percent


def open_for_foreign(
    found: Foreign,
    model: Session | Any,
    compute: ComputeSpec,
    progress: Progress | None = None,
    try_family: str | None = None,
) -> Session:
    """Open a model with the ports that a circuit of another tool has; see `Foreign.grouped_kv`."""
    if isinstance(model, Session):
        session = model
    else:
        options = GraphSpec(split_embedding=found.split_embedding, try_family=try_family)
        session = open_model(model, options, compute, progress=progress)
    graph = session.graph
    grouped = found.grouped_kv(graph.heads, graph.kv_heads)
    wanted = GraphSpec(grouped, found.split_embedding, session.tried)
    if GraphSpec.of_graph(graph, session.tried) != wanted:
        session = open_model(session.loaded, wanted, compute, progress=progress)
    return session


def _chosen(
    found: Foreign,
    circuit: Circuit,
    scores: Scores | None,
    select: Selection | None,
    runner: Runner | None,
) -> Circuit:
    """Return the edges that are asked for: by their scores, or those that the file keeps."""
    asked = {} if select is None else select.as_dict()
    if not asked and not found.only_scored:
        return circuit
    if scores is None:
        why = (
            "keeps no edge, and its edges have no scores" if found.only_scored else "has no scores"
        )
        raise EdgewiseError(f"{found.path} {why}. Accepted: scores of edges, or kept edges.")
    if select is None or not asked:
        return Circuit.full(scores.graph)
    if select.faithfulness is not None and runner is None:
        raise EdgewiseError("faithfulness is measured on prompts; give them with `task`.")
    return selected(cast("Runner", runner), Discovery(scores), select).circuit


def _discovery(
    found: Foreign,
    select: Selection | None,
    measured: Mapping[str, str],
    session: Session,
    runner: Runner | None,
    level: str,
) -> DiscoveryBlock:
    """Return where the circuit came from, as its file says it."""
    block: dict[str, object] = {
        "method": IMPORTED,
        **({} if select is None else select.as_dict()),
        **({} if level == EDGE else {"level": level}),
        **measured,
        "source": source_block(found),
    }
    if runner is None:
        block["dtype"] = session.loaded.dtype
    else:
        block["prompts"] = {"where": "inline", "sha256": runner.pairs.sha256}
        block |= circumstances(session, runner, runner.runs_by)
    return cast("DiscoveryBlock", block)


def source_block(found: Foreign) -> dict[str, object]:
    """Return what a circuit file says of the file it was imported from."""
    about = {"tool": found.tool, "form": found.form, "file": found.path.name}
    return {
        **about,
        "sha256": found.sha256,
        **({"notes": list(found.notes)} if found.notes else {}),
    }


def unnamed_file(
    found: Foreign,
    graph: ComputationGraph | None = None,
    d_model: int | None = None,
    option: str = "`model`",
) -> CircuitFile:
    """Make a circuit file, to be drawn or compared, without a model: on the graph that fits it.

    Raises:
        EdgewiseError: no graph is given, and the file states none.
    """
    graph = graph or found.shape
    if graph is None:
        raise EdgewiseError(
            f"{found.path} is an edge list of {found.tool}, which does not tell its graph; name "
            f"its model with {option}."
        )
    circuit, scores = found.on(graph)
    if found.only_scored and scores is not None:
        circuit = Circuit.full(graph)
    none: CertificateBlock = {"kept_all": None, "kept_none": None, "stream": None}
    model: ModelBlock = model_block(
        graph, name="", revision=None, weights_sha256=None, family="",
        d_model=found.d_model or d_model or 1,
    )  # fmt: skip
    how = {"method": IMPORTED, **measured_by(None, None), "source": source_block(found)}
    return CircuitFile(
        circuit, model, NOWHERE, cast("DiscoveryBlock", how), none,
        edge_scores=None if scores is None else scores.values,
    )  # fmt: skip
