"""Scores of methods on known circuits, as JSON.

The format is `edgewise/known`, version 1, told in docs/reference/file-formats.md: the `cases`,
models with the edges that are true of them under one ablation, and `scored`, one row for each
method and case. A number that there is not, or that means nothing, is null.
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
from ..atomic import write_text
from ..json_files import dump_document, make_plain, others, read_document, table_document
from ..reading import form_of

FORMAT, VERSION = "edgewise/known", 1
TABLES = ("cases", "scored")


class CaseRow(TypedDict):
    """A known circuit: `true` of the graph's `edges` have an effect under the ablation."""

    case: str
    kind: str
    ablation: str
    edges: int
    true: int


class ScoredRow(TypedDict):
    """What a method found on a case.

    `AUC`: of ranking true edges before others, by |score|; of a method that selects a circuit
    itself, of kept before others. `precision`, `recall`: of its own circuit, or of as many of its
    strongest edges as are true, where both are the same. `f`: what these keep on held-out pairs,
    with the ends of its 95% interval. `missed`: how many true edges these lack, and `flat` how many
    of those have a score of 0, or less than a millionth of the largest. `refused`: why it could not
    be run. `level`: `node` where a method scores nodes alone: then all this is of nodes, true being
    those that write along a true edge.
    """

    method: str
    case: str
    AUC: float | None
    precision: float | None
    recall: float | None
    kept: int | None
    f: float | None
    low: float | None
    high: float | None
    CPR: float | None
    CMD: float | None
    missed: NotRequired[int | None]
    flat: NotRequired[int | None]
    seconds: float | None
    refused: str | None
    level: NotRequired[str]


class KnownDocument(TypedDict):
    """A file of scores on known circuits."""

    metric: str
    cases: Annotated[list[CaseRow], Field(min_length=1)]
    scored: list[ScoredRow]


@typed
@dataclass(frozen=True, eq=False)
class KnownFile:
    """Methods on known circuits; `metric`: of `f`, `CPR` and `CMD`. `extra`: other keys."""

    metric: str
    cases: Sequence[CaseRow]
    scored: Sequence[ScoredRow]
    extra: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        make_plain(self, *TABLES, "extra")

    def __repr__(self) -> str:
        return f"KnownFile({len(self.cases)} cases; {', '.join(self.methods)})"

    @property
    def methods(self) -> list[str]:
        """List the methods, in the order of their first rows."""
        return list(dict.fromkeys(row["method"] for row in self.scored))

    @typed
    def row(self, method: str, case: str) -> ScoredRow | None:
        """Return what a method found on a case; None if it was not run there."""
        rows = (one for one in self.scored if (one["method"], one["case"]) == (method, case))
        return next(rows, None)

    def as_dict(self) -> dict[str, object]:
        """Return the document; equal files give equal ones."""
        blocks = {
            "metric": self.metric,
        }
        tables = {name: getattr(self, name) for name in TABLES}
        return table_document((FORMAT, VERSION), blocks, self.extra, tables)


@typed
def write_known(path: str | Path, file: KnownFile) -> None:
    """Write scores on known circuits, all or nothing."""
    write_text(path, dump_document(file.as_dict(), rows=TABLES))


@typed
def read_known(path: str | Path, parsed: dict[str, object] | None = None) -> KnownFile:
    """Read and check a file of scores on known circuits; a FileFormatError says what is wrong."""
    document = parsed or read_document(path, "scores on known circuits", {FORMAT: VERSION})
    with form_of(path, document, KnownDocument) as file:
        pass
    names = {row["case"] for row in file["cases"]}
    if strange := sorted({row["case"] for row in file["scored"]} - names):
        raise FileFormatError(
            f"{path} contradicts itself: '{strange[0]}' is scored and is not among its cases."
        )
    return KnownFile(
        file["metric"], file["cases"], file["scored"], others(document, "metric", *TABLES)
    )
