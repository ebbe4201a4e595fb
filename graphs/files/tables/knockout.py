"""Knockout files: what the answer's probability becomes where attention is cut, as JSON.

The format is `edgewise/knockout`, version 1, told in docs/reference/file-formats.md: one model and
task, which attention was cut, the `prompts`, the mean probabilities by span and layer (`cuts`),
each prompt's own (`curves`), and the attributes rate by layer (`attributes`), if it was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from ...calls.typed import typed
from ...errors import FileFormatError, unknown
from ..atomic import write_text
from ..circuit import PROVENANCE, ModelBlock, TaskBlock
from ..json_files import dump_document, make_plain, ordered, others, read_document, table_document
from ..reading import form_of

FORMAT, VERSION = "edgewise/knockout", 1
TABLES = ("prompts", "cuts", "curves", "attributes")


class KnockoutBlock(TypedDict):
    """Which attention was cut: from spans `sources` to the span `to`, in `window` layers.

    `attributes`: the file they are of; `top`: among how many tokens they were looked for.
    """

    sources: list[str]
    to: str
    window: int
    span: str
    known: bool
    attributes: NotRequired[str]
    top: NotRequired[int]
    seconds: NotRequired[float]
    dtype: NotRequired[str]
    device: NotRequired[str]


class CutPrompt(TypedDict):
    """One prompt: its tokens, which of them are the subject's, its answer's probability."""

    tokens: list[str]
    subject: list[int]
    answer: str
    group: str
    clean: float
    right: bool


CutRow = TypedDict(
    "CutRow",
    {
        "from": str,
        "layer": "int | None",
        "p": float,
        "low": "float | None",
        "high": "float | None",
        "change": float,
        "change_low": "float | None",
        "change_high": "float | None",
        "prompts": int,
    },
)
"""The mean probability `p` with attention cut from a span in the window around a layer (null: in
all layers), and the mean of its relative `change` in each prompt, both with 95% intervals."""

CurveRow = TypedDict("CurveRow", {"prompt": int, "from": str, "p": list[float], "all": float})
"""One prompt's own probabilities, by the window's middle layer, and with all layers cut."""


class AttributeRow(TypedDict):
    """The attributes rate behind a layer, with its interval; `others`: of other subjects'."""

    layer: int
    rate: float
    low: float | None
    high: float | None
    others: float | None
    others_low: float | None
    others_high: float | None
    prompts: int


class KnockoutDocument(TypedDict):
    """A knockout file."""

    model: ModelBlock
    task: TaskBlock
    knockout: KnockoutBlock
    prompts: Annotated[list[CutPrompt], Field(min_length=1)]
    cuts: Annotated[list[CutRow], Field(min_length=1)]
    curves: list[CurveRow]
    attributes: list[AttributeRow]


@typed
@dataclass(frozen=True, eq=False)
class KnockoutFile:
    """What was cut in one model; `extra`: unknown keys."""

    model: ModelBlock
    task: TaskBlock
    knockout: KnockoutBlock
    prompts: Sequence[CutPrompt]
    cuts: Sequence[CutRow]
    curves: Sequence[CurveRow] = ()
    attributes: Sequence[AttributeRow] = ()
    extra: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        make_plain(self, "model", "task", "knockout", *TABLES, "extra")

    def __repr__(self) -> str:
        number = f"{len(self.prompts)} prompt{'s' * (len(self.prompts) != 1)}"
        return f"KnockoutFile({number} of {self.task['name']!r}, in {self.model['name']!r})"

    @property
    def sources(self) -> list[str]:
        """List the spans that attention was cut from, as far as prompts have them."""
        return list(dict.fromkeys(row["from"] for row in self.cuts))

    @property
    def layers(self) -> int:
        """Count the layers."""
        return 1 + max(row["layer"] for row in self.cuts if row["layer"] is not None)

    @typed
    def curve(self, source: str) -> list[CutRow]:
        """Return what cutting from a span does, from the first layer to the last."""
        rows = [row for row in self.cuts if row["from"] == source and row["layer"] is not None]
        return sorted(rows, key=lambda row: row["layer"] or 0)

    @typed
    def everywhere(self, source: str) -> CutRow:
        """Return what cutting from a span in all layers does."""
        found = {row["from"]: row for row in self.cuts if row["layer"] is None}
        if source not in found:
            raise unknown("source", source, found)
        return found[source]

    def as_dict(self) -> dict[str, object]:
        """Return the document; equal files give equal ones."""
        blocks = {
            "model": ordered(self.model, PROVENANCE["model"]),
            "task": ordered(self.task, PROVENANCE["task"]),
            "knockout": ordered(self.knockout, ("sources", "to", "window")),
        }
        tables = {name: getattr(self, name) for name in TABLES}
        return table_document((FORMAT, VERSION), blocks, self.extra, tables)


@typed
def write_knockout(path: str | Path, file: KnockoutFile) -> None:
    """Write a knockout file, all or nothing."""
    write_text(path, dump_document(file.as_dict(), rows=TABLES))


@typed
def read_knockout(path: str | Path, parsed: dict[str, object] | None = None) -> KnockoutFile:
    """Read and check a knockout file, parsed or not; a FileFormatError says what is wrong."""
    document = parsed or read_document(path, "a knockout file", {FORMAT: VERSION})
    with form_of(path, document, KnockoutDocument) as file:
        pass
    cells = [(row["from"], row["layer"]) for row in file["cuts"]]
    layers = {layer for _, layer in cells if layer is not None}
    wanted = {(name, at) for name, _ in cells for at in (*range(len(layers)), None)}
    if set(cells) != wanted or len(cells) != len(wanted):
        raise FileFormatError(
            f"{path}: its {len(cells)} cuts are not one for each layer, and one for all, of each "
            "span; it is damaged."
        )
    for row in file["curves"]:
        if not 0 <= row["prompt"] < len(file["prompts"]) or len(row["p"]) != len(layers):
            raise FileFormatError(
                f"{path} contradicts itself: it has a curve of prompt {row['prompt']} with "
                f"{len(row['p'])} layers, which there is not."
            )
    return KnockoutFile(
        file["model"], file["task"], file["knockout"], file["prompts"], file["cuts"],
        file["curves"], file["attributes"],
        others(document, "model", "task", "knockout", *TABLES),
    )  # fmt: skip
