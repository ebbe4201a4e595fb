"""Circuits that a command is given: files of this project, or of another tool, told by content."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from . import show

if TYPE_CHECKING:
    from ..experiment.spec import ComputeSpec
    from ..graphs.files import CircuitFile
    from ..graphs.files.exchange import Foreign
    from ..progress import Progress
    from ..steps.imported import Imported
    from .flags import Flags

Read = TypeVar("Read")


def read_given(path: str, percent: float | None = None) -> CircuitFile | Foreign:
    """Read a circuit; of another tool's, say on standard error what was understood.

    `percent`: which size is meant where the path is a folder of several.
    """
    from ..graphs.files import read_circuit
    from ..graphs.files.exchange import is_foreign

    if is_foreign(path):
        return foreign(path, percent if is_folder(path) else None)
    return read_own(path, read_circuit)


def read_all(percent: float | None, *paths: str) -> list[CircuitFile | Foreign]:
    """Read circuits as `read_given` does; refuse a size where no folder has several."""
    check_percent(percent, *paths)
    return [read_given(path, percent) for path in paths]


def read_own(path: str, read: Callable[[str], Read]) -> Read:
    """Read a file of this project; of one that is of none, say which others are taken too."""
    from ..graphs.errors import FileFormatError
    from ..graphs.files.exchange import TOOLS
    from ..graphs.files.exchange.kinds import is_native
    from ..graphs.files.reading import PAIRS_HINT

    try:
        return read(path)
    except FileFormatError as error:
        there = os.path.exists(os.path.expanduser(path))
        if is_native(path) or not there or PAIRS_HINT in str(error):
            raise
        raise FileFormatError(f"{error} Of other tools are taken: {TOOLS}.") from None


def foreign(path: str, percent: float | None = None) -> Foreign:
    """Read a circuit of another tool, and say on standard error what was understood."""
    from ..graphs.files.exchange import read_foreign

    found = read_foreign(path, percent=percent)
    show.aside(f"{found}.")
    return found


def check_percent(percent: float | None, *paths: str) -> None:
    """Refuse a size where no folder is given in which to choose one."""
    if percent is not None and not any(map(is_folder, paths)):
        raise click.UsageError(
            "--percent chooses among the sizes in a folder of MIB's, and no folder is given; leave "
            "it out."
        )


def sized(path: str, percent: float | None) -> str:
    """Return the path of the circuit that is meant in a folder of several sizes."""
    from ..graphs.files.exchange import read_foreign

    check_percent(percent, path)
    return str(read_foreign(path, percent=percent).path) if is_folder(path) else path


def is_folder(path: str) -> bool:
    """Tell whether a path, as it was typed, is that of a folder."""
    return os.path.isdir(os.path.expanduser(path))


def require(given: Foreign, **options: object) -> None:
    """Refuse a circuit of another tool for which an option that it needs is not given."""
    what = {
        "model": "the model it was found in",
        "task": "the prompts to measure it on",
    }
    lacking = [name for name, value in options.items() if value is None]
    if lacking:
        needs = " and ".join(
            f"{what[name.partition('_')[0]]} (--{name.replace('_', '-')})" for name in lacking
        )
        raise click.UsageError(
            f"{given.path} is a circuit of {given.tool}, whose file names neither model nor task; "
            f"give {needs}."
        )


def refuse_scores_alone(given: Foreign) -> None:
    """Refuse a file that keeps no edge where a circuit is needed; say how edges are chosen."""
    from ..graphs.errors import EdgewiseError

    if given.only_scored:
        raise EdgewiseError(
            f"{given.path} keeps no edge: its scores tell how important edges are. Choose some "
            f"with `edgewise import {given.path} --model MODEL --top 200 -o circuit.json`, and "
            "give that file."
        )


def in_model(
    given: Foreign,
    model: object,
    compute: ComputeSpec,
    progress: Progress | None = None,
    curve: bool = False,
    **more: Any,
) -> Imported:
    """Put a circuit of another tool on its model's graph; `more`: as in `import_circuit`.

    `curve`: of a file that keeps no edge the scores are what is asked for, so that every edge is.
    """
    from ..steps.imported import import_circuit

    if not curve:
        refuse_scores_alone(given)
    return import_circuit(given, model, compute=compute, progress=progress, **more)


def compared(
    given: Sequence[CircuitFile | Foreign],
    models: Sequence[str | None],
    flags: Flags,
    progress: Progress,
    *,
    closer: bool,
) -> tuple[CircuitFile, CircuitFile]:
    """Return two circuits as files; those of other tools in the models that are named.

    Where none is named, one is put on the graph that its file states, or on that of the other
    circuit. `closer`: they are to be run, on the prompts that are given or those of the other.
    """
    from ..graphs.files import CircuitFile
    from ..steps.imported import unnamed_file

    made: dict[int, CircuitFile] = {}
    for side, one in enumerate(given):
        if isinstance(one, CircuitFile):
            made[side] = one
    for side, one in enumerate(given):
        model, own = models[side], made.get(1 - side)
        if not isinstance(one, CircuitFile) and (model is not None or closer):
            made[side] = _in_its_model(one, own, model, flags, progress if closer else None)
    known = dict(made)  # their graphs are those of models
    for side, one in enumerate(given):
        if not isinstance(one, CircuitFile) and side not in made:
            refuse_scores_alone(one)
            other, beside = known.get(1 - side), given[1 - side]
            graph, width = (other.circuit.graph, other.model["d_model"]) if other else (None, None)
            if other is None and not isinstance(beside, CircuitFile) and _stands_on(one, beside):
                graph, width = beside.shape, beside.d_model
            made[side] = unnamed_file(one, graph, width, option=f"`models[{side}]`")
    return made[0], made[1]


def _stands_on(one: Foreign, beside: Foreign) -> bool:
    """Tell whether a list means the same on another file's graph, whatever model that is of.

    What EAP-IG writes does not tell how many key/value heads there are; a list may name these.
    """
    shape = beside.shape
    if shape is None or one.shape is not None:
        return False
    return not (one.names_keys_or_values and one.grouped_kv(shape.heads, shape.heads - 1))


def _in_its_model(
    one: Foreign,
    own: CircuitFile | None,
    model: str | None,
    flags: Flags,
    closer: Progress | None,
) -> CircuitFile:
    """Make a file of one of two circuits that are compared, beside one of this project, if any."""
    from ..steps.imported import open_for_foreign
    from ..steps.stored import circuit_pairs

    if model is None:
        raise click.UsageError(
            f"the file of {one.tool}, {one.path}, names no model to run its circuit in; give "
            "--model-a or --model-b, of the one it is."
        )
    refuse_scores_alone(one)
    compute = flags.compute(own)
    session = open_for_foreign(one, model, compute, closer, flags["try_family"])
    if closer is None:
        return in_model(one, session, compute).file
    task: object = flags.task()
    if task is None and own is not None:
        task, _ = circuit_pairs(own, session)
    if task is None:
        require(one, task=None)
    block = {} if own is None else dict(own.discovery)
    measure: dict[str, Any] = {key: block[key] for key in ("metric", "ablation") if key in block}
    return in_model(one, session, compute, closer, task=task, **measure).file
