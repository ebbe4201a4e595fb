"""Methods files: what circuits and scores of several methods are worth, as JSON.

The format is `edgewise/methods`, version 1, told in docs/reference/file-formats.md: one model, task
and graph, how was measured, and two tables of one object a row: `methods`, and `sizes`, what the
strongest edges of each method's scores keep. A number that there is not, or that means nothing, is
null.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from ...calls.typed import typed
from ...errors import FileFormatError
from ...graph import ComputationGraph
from ..atomic import write_text
from ..circuit import PROVENANCE, GraphBlock, ModelBlock, TaskBlock, graph_block, read_graph
from ..json_files import dump_document, make_plain, ordered, others, read_document, table_document
from ..reading import form_of

FORMAT = "edgewise/methods"
VERSION = 1
TABLES = ("methods", "sizes")

MethodRow = TypedDict(
    "MethodRow",
    {
        "method": str,
        "CPR": float | None,
        "CPR low": float | None,
        "CPR high": float | None,
        "CMD": float | None,
        "CMD low": float | None,
        "CMD high": float | None,
        "Pearson": float | None,
        "rest": float | None,
        "rest low": float | None,
        "rest high": float | None,
        "Spearman": float | None,
        "Spearman low": float | None,
        "Spearman high": float | None,
        "top": float | None,
        "sign": float | None,
        "alike": float | None,
        "passes": float | None,
        "seconds": float | None,
        "MB": float | None,
        "edges": int | None,
        "f": float | None,
        "low": float | None,
        "high": float | None,
    },
)
"""What one method is worth: the areas of its curve on held-out pairs, how its scores agree with
exact effects (`rest`: Pearson without the edge of largest effect), how alike circuits of resampled
prompts are, what it cost; of a method that selects a circuit itself its `edges` and faithfulness
`f`; each with the ends of its 95% interval."""


class SizeRow(TypedDict):
    """What the strongest edges of a method's scores keep, by score and by |score|."""

    method: str
    edges: int
    signed: float | None
    signed_low: float | None
    signed_high: float | None
    absolute: float | None
    absolute_low: float | None
    absolute_high: float | None


class QuestionsBlock(TypedDict):
    """Exact effects that were asked: `certain` of the methods' strongest edges, others `drawn`.

    `top`: of how many edges of largest effect `top` and `sign` are shares; `missed`: how many edges
    of the whole graph may have a larger effect than the last of these, and were not asked.
    """

    certain: int
    drawn: int
    draw_seed: int
    top: int
    missed: float
    seconds: float
    largest: str | None


class MethodsBlock(TypedDict):
    """By what, and on which pairs, methods are compared.

    `asked`: exact questions; `sizes`: those that were to be measured; `level`: of what, edges if it
    is not told.
    """

    metric: str
    ablation: str
    held_out: bool
    examples: int
    asked: QuestionsBlock | None
    alike_edges: int
    sizes: list[int]
    undefined: NotRequired[bool]
    level: NotRequired[str]
    dtype: NotRequired[str]
    device: NotRequired[str]
    engine: NotRequired[dict[str, str]]


class MethodsDocument(TypedDict):
    """A methods file."""

    model: ModelBlock
    graph: GraphBlock
    task: TaskBlock
    comparison: MethodsBlock
    methods: Annotated[list[MethodRow], Field(min_length=1)]
    sizes: list[SizeRow]


@typed
@dataclass(frozen=True, eq=False)
class MethodsFile:
    """What methods are worth on one task; the last row is that of random scores.

    `extra`: keys that are not known here.
    """

    graph: ComputationGraph
    model: ModelBlock
    task: TaskBlock
    comparison: MethodsBlock
    methods: Sequence[MethodRow]
    sizes: Sequence[SizeRow] = ()
    extra: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        make_plain(self, "model", "task", "comparison", *TABLES, "extra")

    def __repr__(self) -> str:
        names = ", ".join(row["method"] for row in self.methods)
        return f"MethodsFile({names}; {self.task['name']!r} in {self.model['name']!r})"

    def as_dict(self) -> dict[str, object]:
        """Return the document; equal files give equal ones."""
        blocks = {
            "model": ordered(self.model, PROVENANCE["model"]),
            "graph": graph_block(self.graph, {}),
            "task": ordered(self.task, PROVENANCE["task"]),
            "comparison": ordered(self.comparison, ("metric", "ablation", "held_out", "examples")),
        }
        tables = {name: getattr(self, name) for name in TABLES}
        return table_document((FORMAT, VERSION), blocks, self.extra, tables)


@typed
def write_methods(path: str | Path, file: MethodsFile) -> None:
    """Write a methods file, all or nothing."""
    write_text(path, dump_document(file.as_dict(), rows=TABLES))


@typed
def read_methods(path: str | Path, parsed: dict[str, object] | None = None) -> MethodsFile:
    """Read and check a methods file, parsed or not; a FileFormatError says what is wrong."""
    document = parsed or read_document(path, "a methods file", {FORMAT: VERSION})
    with form_of(path, document, MethodsDocument) as file:
        pass
    graph = read_graph(path, file["model"], file["graph"], scores=0)
    names = [row["method"] for row in file["methods"]]
    if len(set(names)) < len(names):
        raise FileFormatError(f"{path} contradicts itself: two methods have the same name.")
    if strange := {row["method"] for row in file["sizes"]} - set(names):
        raise FileFormatError(
            f"{path} contradicts itself: sizes has rows of '{min(strange)}', which is not among "
            "its methods."
        )
    return MethodsFile(
        graph, file["model"], file["task"], file["comparison"], file["methods"], file["sizes"],
        others(document, "model", "graph", "task", "comparison", *TABLES),
    )  # fmt: skip
