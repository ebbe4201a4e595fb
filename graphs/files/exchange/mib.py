"""MIB's submissions: folders by method, task and model (Mueller et al. 2025).

    FOLDER/METHOD_ABLATION_LEVEL/TASK_MODEL/importances.json    every edge's, or node's, score
    FOLDER/METHOD_ABLATION_LEVEL/TASK_MODEL/circuit_0.1.json    or a circuit of each of `PERCENT`

The files are graphs of EAP-IG. The benchmark knows its tasks and models by short names; a model
that is one of its own is called so, others by the last part of their name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...calls.typed import typed
from ...circuit import Circuit
from ...errors import EdgewiseError, unknown
from ...levels.nodes import EDGE
from ...scores import Scores
from ..circuit import CircuitFile
from .eap_ig import write_eap_ig

PERCENT = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
"""The sizes of the benchmark's circuits, in percent of all edges."""

IMPORTANCES = "importances"
"""How the file of all scores is called, without its ending."""

FORMS = ("json", "pt")
"""In what form a graph is written: text, or torch's tensors."""

_MODELS = {
    "gpt2": "gpt2",
    "gpt2-small": "gpt2",
    "Qwen2.5-0.5B": "qwen2.5",
    "gemma-2-2b": "gemma2",
    "Llama-3.1-8B": "llama3",
}


@typed
@dataclass(frozen=True, eq=False)
class Submitted:
    """What of one circuit file goes into a submission.

    `scores`: of all edges or nodes where there are some. `name`: the folder of task and model;
    default: as the file's. `by_size`: a circuit of each size in place of the scores, chosen by
    |score|, or `signed` by score.
    """

    file: CircuitFile
    scores: Scores | None = None
    name: str | None = None
    by_size: bool = False
    signed: bool = False

    @property
    def level(self) -> str:
        """Return what has scores: edges or nodes."""
        return str(self.file.discovery.get("level", EDGE))

    @property
    def folder(self) -> Path:
        """Return the folder within the submission, METHOD_ABLATION_LEVEL/TASK_MODEL."""
        block = self.file.discovery
        method = f"{_plain(block['method'])}_{_plain(block['ablation'])}_{self.level}"
        return Path(method) / (self.name or self._task_and_model())

    def _task_and_model(self) -> str:
        task, model = Path(str(self.file.task["name"])).stem, str(self.file.model["name"])
        if not task or not model:
            raise EdgewiseError(
                "the circuit's file names no task, or no model, by which a submission calls its "
                "folder; accepted: a name for it, TASK_MODEL, such as ioi_gpt2."
            )
        last = model.rstrip("/\\").replace("\\", "/").rpartition("/")[2]
        return f"{_plain(task).replace('_', '-')}_{_MODELS.get(last, _plain(last))}"

    def graphs(self) -> Iterator[tuple[str, Circuit, Scores | None]]:
        """Yield the files' names without their ending, their circuits, and their scores.

        Raises:
            EdgewiseError: importances, or sizes, without scores of all edges.
        """
        circuit, scores = self.file.circuit, self.scores
        graph = circuit.graph
        if scores is None or (known := _known(scores)) < graph.edge_count:
            found = 0 if scores is None else known
            raise EdgewiseError(
                f"a submission needs a score of every edge, and {found:,} of {graph.edge_count:,} "
                "have one; accepted: a circuit with its scores beside it (`scores` of a discovery, "
                "by a method that scores all edges), or a single file, .json or .pt, which takes "
                "the edges that are kept."
            )
        if not self.by_size:
            whole = len(circuit) == graph.edge_count  # no selection, which EAP-IG leaves empty
            yield IMPORTANCES, Circuit.empty(graph) if whole else circuit, scores
            return
        for percent in PERCENT:
            size = max(1, round(percent / 100 * scores.units))
            chosen = scores.top(size, absolute=not self.signed)
            yield f"circuit_{percent:g}", chosen, scores


def places(submitted: Submitted, folder: str | Path, form: str = FORMS[0]) -> list[Path]:
    """List the files that `write_submission` would write."""
    names = [f"circuit_{one:g}" for one in PERCENT] if submitted.by_size else [IMPORTANCES]
    return [Path(folder) / submitted.folder / f"{name}.{form}" for name in names]


@typed
def write_submission(
    folder: str | Path, submitted: Submitted, form: str = FORMS[0]
) -> tuple[Path, ...]:
    """Write what a submission holds of one circuit file; return the files.

    Raises:
        EdgewiseError: a file without scores of all edges, or that cannot be written.
        GraphMismatch: a graph that EAP-IG's format has not.
    """
    if form not in FORMS:
        raise unknown("form", form, FORMS)
    graphs = list(submitted.graphs())
    targets = places(submitted, folder, form)
    try:
        targets[0].parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EdgewiseError(
            f"cannot make the folder {targets[0].parent}: {error.strerror or error}; give another."
        ) from error
    d_model = submitted.file.model["d_model"]
    for place, (_, circuit, scores) in zip(targets, graphs, strict=True):
        write_eap_ig(place, circuit, scores, d_model=d_model)
    return tuple(targets)


def _known(scores: Scores) -> int:
    return int((~np.isnan(scores.values[scores.graph.reads])).sum())


def _plain(text: str) -> str:
    """Write a name so that it can name a folder.

    >>> _plain("logit(answer) / 2")
    'logit-answer-2'
    """
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", text).strip("-.") or "unnamed"
