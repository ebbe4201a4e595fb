"""Matrix files: what each of several circuits measures on each of several tasks, as JSON.

The format is `edgewise/matrix`, version 1, told in docs/reference/file-formats.md: one model and
graph, `tasks` and `circuits` by name, how they were measured, and three tables of one object a row:
`kept` (faithfulness of each circuit on each task), `cut` (what is left of each task without the
circuit) and `overlap` (of every two circuits). A ratio that means nothing is null.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from ...calls.typed import typed
from ...errors import EdgewiseError, FileFormatError, unknown
from ...graph import ComputationGraph
from ..atomic import write_text
from ..circuit import PROVENANCE, GraphBlock, ModelBlock, TaskBlock, graph_block, read_graph
from ..json_files import dump_document, make_plain, ordered, others, read_document, table_document
from ..reading import form_of

FORMAT = "edgewise/matrix"
VERSION = 1
TABLES = ("kept", "cut", "overlap")


class MeasuredTask(TypedDict):
    """A task's prompt pairs, and what the whole model and the model without any edge measure.

    `held_out`: the circuits that were found for the matrix were found on other pairs.
    """

    name: str
    task: TaskBlock
    held_out: bool
    full: float
    empty: float


class MeasuredCircuit(TypedDict):
    """A circuit: how many edges and nodes, and where it is from.

    `file`: where it is, if it was given; `of`: the task it was found on; `method`;
    `seen`: by task, how many of the pairs it is measured on it was found on, where there are any.
    """

    name: str
    edges: int
    nodes: int
    file: NotRequired[str | None]
    of: NotRequired[str | None]
    method: NotRequired[str | None]
    seen: NotRequired[dict[str, int]]


class MatrixRow(TypedDict):
    """One circuit on one task: f with its 95% interval, and random circuits of its size.

    `random`: their median; `beats`: the percentile of f among theirs (of `cut`: how many of them
    leave more); each with the ends of its 95% interval, of the median over draws and prompts, of
    the percentile over draws. Older files have no such ends.
    """

    task: str
    circuit: str
    f: float | None
    low: float | None
    high: float | None
    random: float | None
    beats: float | None
    random_low: NotRequired[float | None]
    random_high: NotRequired[float | None]
    beats_low: NotRequired[float | None]
    beats_high: NotRequired[float | None]


class OverlapRow(TypedDict):
    """Two circuits: Jaccard index of their edges and nodes, each with what chance gives."""

    circuit: str
    other: str
    edges: float
    chance: float
    nodes: float
    by_chance: float


class MatrixBlock(TypedDict):
    """By what was measured, and the number and first seed of the random circuits."""

    metric: str
    ablation: str
    random: int
    draw_seed: int
    seconds: NotRequired[float]
    dtype: NotRequired[str]
    device: NotRequired[str]
    engine: NotRequired[dict[str, str]]


Some = Annotated[list[MeasuredTask], Field(min_length=1)]


class MatrixDocument(TypedDict):
    """A matrix file."""

    model: ModelBlock
    graph: GraphBlock
    matrix: MatrixBlock
    tasks: Some
    circuits: Annotated[list[MeasuredCircuit], Field(min_length=1)]
    kept: list[MatrixRow]
    cut: list[MatrixRow]
    overlap: list[OverlapRow]


@typed
@dataclass(frozen=True, eq=False)
class MatrixFile:
    """What circuits measure on tasks, all in one model of this graph.

    `kept` and `cut` have a row for each task and circuit, tasks first; `extra`: unknown keys.
    """

    graph: ComputationGraph
    model: ModelBlock
    matrix: MatrixBlock
    tasks: Sequence[MeasuredTask]
    circuits: Sequence[MeasuredCircuit]
    kept: Sequence[MatrixRow]
    cut: Sequence[MatrixRow]
    overlap: Sequence[OverlapRow] = ()
    extra: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        make_plain(self, "model", "matrix", "tasks", "circuits", *TABLES, "extra")

    def __repr__(self) -> str:
        tasks, circuits = (
            ", ".join(one["name"] for one in many) for many in (self.tasks, self.circuits)
        )
        return f"MatrixFile(tasks: {tasks}; circuits: {circuits}; in {self.model['name']!r})"

    @typed
    def row(self, table: str, task: str, circuit: str) -> MatrixRow:
        """Return what a table, `kept` or `cut`, has of a circuit on a task."""
        if table not in ("kept", "cut"):
            raise unknown("table", table, ("kept", "cut"))
        rows: Sequence[MatrixRow] = getattr(self, table)
        found = {(one["task"], one["circuit"]): one for one in rows}
        if (task, circuit) not in found:
            known = ", ".join(f"{one} on {other}" for other, one in found) or "nothing"
            raise EdgewiseError(
                f"row: `task` is '{task}' and `circuit` is '{circuit}', which were not measured; "
                f"accepted: {known}."
            )
        return found[task, circuit]

    def as_dict(self) -> dict[str, object]:
        """Return the document; equal files give equal ones."""
        blocks = {
            "model": ordered(self.model, PROVENANCE["model"]),
            "graph": graph_block(self.graph, {}),
            "matrix": ordered(self.matrix, ("metric", "ablation", "random", "draw_seed")),
            "tasks": list(self.tasks),
            "circuits": list(self.circuits),
        }
        tables = {name: getattr(self, name) for name in TABLES}
        return table_document((FORMAT, VERSION), blocks, self.extra, tables)


@typed
def write_matrix(path: str | Path, file: MatrixFile) -> None:
    """Write a matrix file, all or nothing."""
    write_text(path, dump_document(file.as_dict(), rows=TABLES))


@typed
def read_matrix(path: str | Path, parsed: dict[str, object] | None = None) -> MatrixFile:
    """Read and check a matrix file, parsed or not; a FileFormatError says what is wrong."""
    document = parsed or read_document(path, "a matrix file", {FORMAT: VERSION})
    with form_of(path, document, MatrixDocument) as file:
        pass
    graph = read_graph(path, file["model"], file["graph"], scores=0)
    tasks, circuits = ([one["name"] for one in file[key]] for key in ("tasks", "circuits"))
    for what, names in (("task", tasks), ("circuit", circuits)):
        if len(set(names)) < len(names):
            raise FileFormatError(f"{path} contradicts itself: two {what}s have the same name.")
    wanted = [(task, circuit) for task in tasks for circuit in circuits]
    for name, rows in (("kept", file["kept"]), ("cut", file["cut"])):
        found = [(row["task"], row["circuit"]) for row in rows]
        if sorted(found) != sorted(wanted):
            raise FileFormatError(
                f"{path}: {name} has {len(found)} rows, which are not one for each of "
                f"{len(tasks)} tasks and {len(circuits)} circuits; it is damaged."
            )
    return MatrixFile(
        graph, file["model"], file["matrix"], file["tasks"], file["circuits"], file["kept"],
        file["cut"], file["overlap"],
        others(document, "model", "graph", "matrix", "tasks", "circuits", *TABLES),
    )  # fmt: skip
