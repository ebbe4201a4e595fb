"""Tables as charts: which drawing a table's file has, and how it is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ...graphs.files import (
    KnockoutFile,
    KnownFile,
    MatrixFile,
    MethodsFile,
    TokensFile,
    TraceFile,
)
from ..scene import Scene
from .knockout import draw_knockout
from .known import draw_known
from .matrix import draw_matrix
from .methods import draw_methods
from .tokens import draw_tokens
from .trace import draw_trace


@dataclass(frozen=True)
class TableChart:
    """A table's drawing: `kind` of table, `what` it is called, a usual `title`, what it counts.

    `draw`: make the scene, given a title.
    """

    kind: str
    what: str
    title: str
    counts: Mapping[str, int]
    draw: Callable[[str], Scene]


TABLES = (KnockoutFile, KnownFile, MatrixFile, MethodsFile, TokensFile, TraceFile)
"""The values of tables' files, each of which has a drawing."""

Table = KnockoutFile | KnownFile | MatrixFile | MethodsFile | TokensFile | TraceFile


def table_chart(file: Table) -> TableChart:
    """Return the drawing of a table's file."""
    if isinstance(file, KnownFile):
        return TableChart(
            "known", "scores on known circuits", "Methods on known circuits",
            {"methods": len(file.methods), "cases": len(file.cases)},
            lambda title: draw_known(file, title=title),
        )  # fmt: skip
    model = Path(str(file.model["name"])).name
    if isinstance(file, MatrixFile):
        return TableChart(
            "matrix", "a matrix", f"Circuits and tasks in {model}",
            {"tasks": len(file.tasks), "circuits": len(file.circuits)},
            lambda title: draw_matrix(file, title=title),
        )  # fmt: skip
    if isinstance(file, TokensFile):
        return TableChart(
            "tokens", "a table of tokens", f"Tokens on {file.task['name']} in {model}",
            {"prompts": len(file.prompts), "tokens": len(file.tokens)},
            lambda title: draw_tokens(file, title=title),
        )  # fmt: skip
    if isinstance(file, TraceFile | KnockoutFile):
        return _of_facts(file, model)
    return TableChart(
        "methods", "a comparison of methods", f"Methods on {file.task['name']} in {model}",
        {"methods": len(file.methods)}, lambda title: draw_methods(file, title=title),
    )  # fmt: skip


def _of_facts(file: TraceFile | KnockoutFile, model: str) -> TableChart:
    one = file.prompts[0]
    subject = "".join(one["tokens"][at] for at in one["subject"]).strip()
    fact = f"{subject} → {one['answer'].strip()}"
    which = file.task["name"] if len(file.prompts) > 1 else fact
    counts = {"prompts": len(file.prompts), "layers": file.layers}
    if isinstance(file, TraceFile):
        return TableChart(
            "trace", "a trace", f"Where {model} has {which}", counts,
            lambda title: draw_trace(file, title=title),
        )  # fmt: skip
    return TableChart(
        "knockout", "a knockout", f"Attention cut in {model}, {which}", counts,
        lambda title: draw_knockout(file, title=title),
    )  # fmt: skip
