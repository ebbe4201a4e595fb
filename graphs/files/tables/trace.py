"""Trace files: where putting something back of a clean run brings a fact's answer back, as JSON.

The format is `edgewise/trace`, version 1, told in docs/reference/file-formats.md: one model and
task, how the subject was made unknown, the `prompts`, what all of them measure (`totals`), the mean
effects by kind, token and layer (`effects`), and each prompt's own (`maps`).
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

FORMAT, VERSION = "edgewise/trace", 1
TABLES = ("prompts", "totals", "effects", "maps")


class TraceBlock(TypedDict):
    """How it was measured.

    `deviation`: the standard deviation of the noise, which is `deviations` times that of the
    subjects' embeddings; `window`: over how many layers MLPs and attention were put back; `span`:
    which is the subject; `known`: only prompts were kept that the model answers rightly.
    """

    kinds: list[str]
    window: int
    draws: int
    deviation: float
    deviations: float
    noise_seed: int
    span: str
    known: bool
    seconds: NotRequired[float]
    dtype: NotRequired[str]
    device: NotRequired[str]


class TracedPrompt(TypedDict):
    """One prompt: its tokens, which of them are the subject's, and the answer's probabilities.

    `clean`: as it is; `corrupted`: with the noise, mean of the draws; `right`: the model's most
    probable token is the answer's.
    """

    tokens: list[str]
    subject: list[int]
    answer: str
    group: str
    clean: float
    corrupted: float
    right: bool


class TotalRow(TypedDict):
    """A mean over prompts: of `clean`, `corrupted`, or their difference, the `total effect`.

    `low`, `high`: 95% over prompts (and the draws of each); `noise_low`, `noise_high`: over draws
    of the noise, the prompts as given.
    """

    what: str
    p: float
    low: float | None
    high: float | None
    noise_low: float | None
    noise_high: float | None


class EffectRow(TypedDict):
    """The indirect effect of a kind at a layer and token, in probability; ends as of totals.

    Each prompt counts once, with the mean over its tokens that are called so; `prompts` have some.
    `share`: of the total effect of these prompts, ratio of means, null where that is not apart
    from 0.
    """

    kind: str
    token: str
    layer: int
    effect: float
    low: float | None
    high: float | None
    noise_low: float | None
    noise_high: float | None
    share: float | None
    share_low: float | None
    share_high: float | None
    prompts: int


class MapRow(TypedDict):
    """One prompt's effects of a kind at one token, from the first layer to the last."""

    prompt: int
    kind: str
    position: int
    effects: list[float]


class TraceDocument(TypedDict):
    """A trace file."""

    model: ModelBlock
    task: TaskBlock
    trace: TraceBlock
    prompts: Annotated[list[TracedPrompt], Field(min_length=1)]
    totals: list[TotalRow]
    effects: Annotated[list[EffectRow], Field(min_length=1)]
    maps: list[MapRow]


@typed
@dataclass(frozen=True, eq=False)
class TraceFile:
    """What was traced in one model; `extra`: unknown keys."""

    model: ModelBlock
    task: TaskBlock
    trace: TraceBlock
    prompts: Sequence[TracedPrompt]
    totals: Sequence[TotalRow]
    effects: Sequence[EffectRow]
    maps: Sequence[MapRow] = ()
    extra: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        make_plain(self, "model", "task", "trace", *TABLES, "extra")

    def __repr__(self) -> str:
        number = f"{len(self.prompts)} prompt{'s' * (len(self.prompts) != 1)}"
        return f"TraceFile({number} of {self.task['name']!r}, in {self.model['name']!r})"

    @property
    def kinds(self) -> list[str]:
        """List the kinds of what was put back."""
        return list(dict.fromkeys(row["kind"] for row in self.effects))

    @property
    def tokens(self) -> list[str]:
        """List what tokens are to the subject, in the prompt's order, as far as there are any."""
        return list(dict.fromkeys(row["token"] for row in self.effects))

    @property
    def layers(self) -> int:
        """Count the layers."""
        return 1 + max(row["layer"] for row in self.effects)

    @typed
    def rows(self, kind: str, token: str) -> list[EffectRow]:
        """Return the effects of a kind at a token, from the first layer to the last."""
        rows = [one for one in self.effects if (one["kind"], one["token"]) == (kind, token)]
        return sorted(rows, key=lambda one: one["layer"])

    def as_dict(self) -> dict[str, object]:
        """Return the document; equal files give equal ones."""
        blocks = {
            "model": ordered(self.model, PROVENANCE["model"]),
            "task": ordered(self.task, PROVENANCE["task"]),
            "trace": ordered(self.trace, ("kinds", "window", "draws", "deviation")),
        }
        tables = {name: getattr(self, name) for name in TABLES}
        return table_document((FORMAT, VERSION), blocks, self.extra, tables)


@typed
def write_trace(path: str | Path, file: TraceFile) -> None:
    """Write a trace file, all or nothing."""
    write_text(path, dump_document(file.as_dict(), rows=TABLES))


@typed
def read_trace(path: str | Path, parsed: dict[str, object] | None = None) -> TraceFile:
    """Read and check a trace file, parsed or not; a FileFormatError says what is wrong."""
    document = parsed or read_document(path, "a trace file", {FORMAT: VERSION})
    with form_of(path, document, TraceDocument) as file:
        pass
    cells = [(row["kind"], row["token"], row["layer"]) for row in file["effects"]]
    layers = 1 + max(layer for _, _, layer in cells)
    if len(set(cells)) < len(cells) or any(layer < 0 for _, _, layer in cells):
        raise FileFormatError(f"{path} contradicts itself: an effect is there twice.")
    wanted = {(kind, token) for kind, token, _ in cells}
    if len(cells) != len(wanted) * layers:
        raise FileFormatError(
            f"{path}: its {len(cells)} effects are not one for each of {layers} layers; it is "
            "damaged."
        )
    for row in file["maps"]:
        here = 0 <= row["prompt"] < len(file["prompts"])
        tokens = len(file["prompts"][row["prompt"]]["tokens"]) if here else 0
        if not 0 <= row["position"] < tokens or len(row["effects"]) != layers:
            raise FileFormatError(
                f"{path} contradicts itself: it maps position {row['position']} of prompt "
                f"{row['prompt']} in {len(row['effects'])} layers, which there is not."
            )
    return TraceFile(
        file["model"], file["task"], file["trace"], file["prompts"], file["totals"],
        file["effects"], file["maps"], others(document, "model", "task", "trace", *TABLES),
    )  # fmt: skip
