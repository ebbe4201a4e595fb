"""Tokens files: what each token of each prompt does, as JSON.

The format is `edgewise/tokens`, version 1, told in docs/reference/file-formats.md: one model and
task, how it was measured, the `prompts`, the mean effects by span (`spans`), and each token's own
(`tokens`).
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
from ..circuit import PROVENANCE, ModelBlock, TaskBlock
from ..json_files import dump_document, make_plain, ordered, others, read_document, table_document
from ..reading import form_of

FORMAT, VERSION = "edgewise/tokens", 1
TABLES = ("prompts", "spans", "tokens")


class TokensBlock(TypedDict):
    """How it was measured; effects are rises of the metric's loss.

    `steps`: points of the integral; `whole`: the rise with every embedding ablated, mean over
    prompts with the ends of its 95% interval; `gap`: by how much the integrated effects of a prompt
    miss it, in the mean of absolute values.
    """

    metric: str
    ablation: str
    steps: int
    whole: float
    whole_low: float | None
    whole_high: float | None
    gap: float
    dtype: NotRequired[str]
    device: NotRequired[str]


class PromptRow(TypedDict):
    """One prompt: its answers and distractors, group, and the rise with all of it ablated."""

    answers: list[str]
    distractors: list[str]
    group: str
    whole: float


class SpanRow(TypedDict):
    """Effects of the tokens that a span names, added up, in the mean over the prompts that have it.

    `rest`: tokens that no span names. Ends are those of 95% intervals over prompts.
    """

    span: str
    prompts: int
    integrated: float
    integrated_low: float | None
    integrated_high: float | None
    exact: float
    exact_low: float | None
    exact_high: float | None


class TokenRow(TypedDict):
    """One token of a prompt, counted from 0, and its effects."""

    prompt: int
    position: int
    text: str
    span: str | None
    integrated: float
    exact: float


class TokensDocument(TypedDict):
    """A tokens file."""

    model: ModelBlock
    task: TaskBlock
    measured: TokensBlock
    prompts: Annotated[list[PromptRow], Field(min_length=1)]
    spans: list[SpanRow]
    tokens: Annotated[list[TokenRow], Field(min_length=1)]


@typed
@dataclass(frozen=True, eq=False)
class TokensFile:
    """What each token does in one model; `extra`: unknown keys."""

    model: ModelBlock
    task: TaskBlock
    measured: TokensBlock
    prompts: Sequence[PromptRow]
    spans: Sequence[SpanRow]
    tokens: Sequence[TokenRow]
    extra: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        make_plain(self, "model", "task", "measured", *TABLES, "extra")

    def __repr__(self) -> str:
        return (
            f"TokensFile({len(self.tokens):,} tokens of {len(self.prompts):,} prompts; "
            f"{self.task['name']!r} in {self.model['name']!r})"
        )

    @typed
    def of_prompt(self, number: int) -> list[TokenRow]:
        """Return the tokens of one prompt, in order."""
        own = [row for row in self.tokens if row["prompt"] == number]
        return sorted(own, key=lambda row: row["position"])

    def as_dict(self) -> dict[str, object]:
        """Return the document; equal files give equal ones."""
        blocks = {
            "model": ordered(self.model, PROVENANCE["model"]),
            "task": ordered(self.task, PROVENANCE["task"]),
            "measured": ordered(self.measured, ("metric", "ablation", "steps", "whole")),
        }
        tables = {name: getattr(self, name) for name in TABLES}
        return table_document((FORMAT, VERSION), blocks, self.extra, tables)


@typed
def write_tokens(path: str | Path, file: TokensFile) -> None:
    """Write a tokens file, all or nothing."""
    write_text(path, dump_document(file.as_dict(), rows=TABLES))


@typed
def read_tokens(path: str | Path, parsed: dict[str, object] | None = None) -> TokensFile:
    """Read and check a tokens file, parsed or not; a FileFormatError says what is wrong."""
    document = parsed or read_document(path, "a tokens file", {FORMAT: VERSION})
    with form_of(path, document, TokensDocument) as file:
        pass
    number = len(file["prompts"])
    for row in file["tokens"]:
        if not 0 <= row["prompt"] < number:
            raise FileFormatError(
                f"{path} contradicts itself: a token is of prompt {row['prompt']}; accepted: 0 to "
                f"{number - 1}, as there are {number}."
            )
    places = {(row["prompt"], row["position"]) for row in file["tokens"]}
    if len(places) < len(file["tokens"]):
        raise FileFormatError(f"{path} contradicts itself: it tells of a token twice.")
    return TokensFile(
        file["model"], file["task"], file["measured"], file["prompts"], file["spans"],
        file["tokens"], others(document, "model", "task", "measured", *TABLES),
    )  # fmt: skip
