"""What every command and every declared experiment is made of, as functions to call from Python.

    session = open_model("smollm2-135m")
    pairs, report = open_task(session, "ioi", examples=32)
    found = discover(session, pairs, method="eap-ig", select=Selection(top=200))
    write_circuit("ioi.json", found.file)

Nothing is printed; errors are `EdgewiseError`; progress goes to a callback that receives what is
done, the total, and a word of what is being done.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .experiment.parts import split
from .experiment.spec import DiscoverySpec, Experiment, Selection
from .experiment.start import Start, read_start
from .experiment.task import EXAMPLES, check_task, is_file
from .graphs.calls.typed import typed
from .graphs.errors import unknown_argument, within_memory
from .graphs.files.diff import diff_files as compare
from .progress import Progress
from .session import Session, make_pairs, make_runner, open_model, open_split, open_task
from .steps.discover import Found, discover
from .steps.evaluate import Evaluated, evaluate
from .steps.found.blocks import task_block
from .steps.imported import Imported, import_circuit
from .steps.stored import (
    circuit_pairs,
    circuit_split,
    stored_model,
    stored_pairs,
    stored_task,
)

if TYPE_CHECKING:
    from .graphs.files import CircuitFile
    from .graphs.scores import Scores
    from .patching.paths import PathEffect
    from .patching.prompts.pairs import PromptPairs

__all__ = [
    "EXAMPLES", "Evaluated", "Experiment", "Found", "Imported", "Progress", "Selection", "Session",
    "Start", "beside_scores", "check_task", "circuit_pairs", "circuit_split", "compare",
    "discover", "evaluate", "import_circuit", "is_file", "make_pairs", "make_runner", "open_model",
    "open_split", "open_task", "patch", "read_start", "request", "stored_model", "stored_pairs",
    "stored_task", "task_block",
]  # fmt: skip


@typed
def request(method: str, **fields: Any) -> DiscoverySpec:
    """Check what a discovery asks for, before a model is loaded, and fill in the defaults.

    >>> request("acdc", options={"threshold": 0.1}).metric
    'kl'
    """
    (own,) = split("request", fields, DiscoverySpec)
    return DiscoverySpec.of(method=method, **own)


@typed
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

    known = ("metric", "ablation", "batch_size")
    for name in measure:
        if name not in known:
            raise unknown_argument("patch", name, known)
    runner = make_runner(session, pairs, **measure)
    session.certify(pairs)
    return patch_paths(runner, paths, denoise=denoise, together=together)


@typed
def beside_scores(path: str, file: CircuitFile) -> Scores | None:
    """Return the scores in the sidecar of a circuit's file, None if there is no sidecar.

    Raises:
        FileFormatError: it is damaged, of another graph, or of an earlier circuit of that name.
    """
    from pathlib import Path

    from .graphs.files import read_scores_of, scores_path

    there = scores_path(path).is_file()
    return read_scores_of(file.at(Path(path))).scores if there else None
