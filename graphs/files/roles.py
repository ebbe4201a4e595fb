"""Roles files: what was measured of the heads of one or more models, as JSON.

The format is `edgewise/roles`, version 1: `rules`, a block of `models` for each model, their
`comparison`, and a row of `heads` for each head:

    {"model": 0, "head": "a5.h1", "depth": 0.1724, "role": "induction", "label": "induction .91",
     "roles": [["induction", 0.91]], "scores": {"previous": 0.02, …}, "spans": {"first": 0.5, …}}

With `--causal` each model has a block `causal`, and a row of `nodes` stands for each sender:

    {"model": 0, "node": "a20.h0", "roles": ["S-inhibition"], "patterns": {…}, "attention": {…},
     "effects": {"direct": {"in_sample": {"mean": 0.04, "interval": [0.01, 0.06]}, …}, …},
     "evidence": [{"role": "S-inhibition", "way": "→ name mover<q>", "confirmed": true, …}]}

`model` of a row counts the models from 0. Names and the comparison follow from scores, and are
computed anew when a file is read. Unknown top-level keys are kept and written back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from ..calls.typed import typed
from ..errors import EdgewiseError, FileFormatError
from ..names import Kind, Node
from ..roles import RULES, SCORES, SPANS, HeadRoles, ModelRoles, RoleRow, compare_roles
from .atomic import write_text
from .json_files import dump_document, make_plain, ordered, others, read_document, to_plain
from .reading import checked, is_number, short, take_rows

FORMAT = "edgewise/roles"
VERSION = 1
BLOCKS = ("model", "tokens", "task", "measures")
_ROW = ("model", "head", "scores", "spans")
_NODE = ("model", "node", "roles", "effects", "evidence")


class _Shape(TypedDict):
    name: str
    layers: Annotated[int, Field(ge=1)]
    heads: Annotated[int, Field(ge=1)]


class _Model(TypedDict):
    circuit: NotRequired[str | None]
    model: _Shape
    tokens: dict[str, object]
    task: NotRequired[dict[str, object] | None]
    measures: NotRequired[dict[str, float | None] | None]
    notes: NotRequired[list[str] | None]
    heads: int
    causal: NotRequired[dict[str, object] | None]


class _Document(TypedDict):
    models: Annotated[list[_Model], Field(min_length=1)]
    heads: list[object]
    nodes: NotRequired[list[object]]


@typed
@dataclass(frozen=True, eq=False)
class RolesFile:
    """What was measured of the heads of one model or more, in order, and unknown top-level keys."""

    models: tuple[ModelRoles, ...]
    extra: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.models:
            raise EdgewiseError("a roles file needs a model; accepted: one or more.")
        models = (
            replace(one, **{key: to_plain(getattr(one, key), key) for key in (*BLOCKS, "causal")})
            for one in self.models
        )
        object.__setattr__(self, "models", tuple(models))
        make_plain(self, "extra")

    @property
    def comparison(self) -> list[RoleRow]:
        """Return the models' heads side by side by role; empty for a single model."""
        return compare_roles(self.models) if len(self.models) > 1 else []


@typed
def write_roles(path: str | Path, file: RolesFile) -> None:
    """Write a roles file, all or nothing; equal values give equal bytes."""
    write_text(path, dump_roles(file))


def dump_roles(file: RolesFile, more: Mapping[str, object] | None = None) -> str:
    """Return a roles file's text; `more` are further top-level keys, before the heads."""
    document = {
        "format": FORMAT,
        "version": VERSION,
        "rules": {name: asdict(rule) for name, rule in RULES.items()},
        "models": [
            {
                "circuit": one.circuit,
                **{key: getattr(one, key) for key in BLOCKS},
                "notes": list(one.notes),
                "heads": len(one.heads),
                **({} if one.causal is None else {"causal": _without_nodes(one.causal)}),
            }
            for one in file.models
        ],
        "comparison": to_plain(file.comparison, "comparison"),
        **ordered(file.extra, ()),
        **(more or {}),
        "heads": [
            {"model": number, **to_plain(row, str(row["head"]))}
            for number, one in enumerate(file.models)
            for row in one.rows
        ],
    }
    nodes = [
        {"model": number, **to_plain(row, "nodes")}
        for number, one in enumerate(file.models)
        for row in cast("Sequence[Any]", (one.causal or {}).get("nodes", ()))
    ]
    document |= {"nodes": nodes} if nodes else {}
    return dump_document(document, rows={"comparison", "heads", "nodes"})


def _without_nodes(causal: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in causal.items() if key != "nodes"}


@typed
def read_roles(path: str | Path) -> RolesFile:
    """Read and check a roles file; a FileFormatError says what is wrong."""
    document = read_document(path, "a roles file", {FORMAT: VERSION})
    file = checked(path, document, _Document)
    models, rows = file["models"], file["heads"]
    heads = _read_rows(path, models, rows)
    wrong = [
        f"model {number} has {len(found)} heads, its entry says {one['heads']}"
        for number, (one, found) in enumerate(zip(models, heads, strict=True))
        if one["heads"] != len(found)
    ]
    if wrong:
        raise FileFormatError(f"{path} contradicts itself: {'; '.join(wrong)}.")
    read = (
        ModelRoles(
            tuple(found), one["model"], one["tokens"], one.get("task"),
            cast("Mapping[str, float]", one.get("measures") or {}),
            one.get("circuit"), tuple(one.get("notes") or ()), causal,
        )
        for one, found, causal in zip(models, heads, _read_causal(path, file), strict=True)
    )  # fmt: skip
    own = ("rules", "models", "comparison", "heads", "nodes")
    return RolesFile(tuple(read), others(document, *own))


def _read_causal(path: str | Path, file: _Document) -> list[dict[str, object] | None]:
    """Return each model's block of what senders cause, with its rows of nodes."""
    models = file["models"]
    found: list[list[dict[str, object]]] = [[] for _ in models]

    def take(row: Any) -> str | None:
        if not isinstance(row, Mapping) or any(key not in row for key in _NODE):
            return f"accepted: an object with {', '.join(_NODE)}"
        number = row["model"]
        if type(number) is not int or not 0 <= number < len(models):
            return f"model is {short(number)}; accepted: 0 to {len(models) - 1}"
        if models[number].get("causal") is None:
            return f"model {number} has no block 'causal'; accepted: rows of models that have one"
        Node.parse(str(row["node"]))
        found[number].append({key: value for key, value in row.items() if key != "model"})
        return None

    take_rows(path, "nodes", file.get("nodes", []), take, "entry {}: {}")
    return [
        None if (block := one.get("causal")) is None else {**block, "nodes": rows}
        for one, rows in zip(models, found, strict=True)
    ]


def _read_rows(
    path: str | Path, models: Sequence[_Model], rows: Sequence[Any]
) -> list[list[HeadRoles]]:
    found: list[dict[Node, HeadRoles]] = [{} for _ in models]

    def take(row: Any) -> str | None:
        if not isinstance(row, Mapping) or any(key not in row for key in _ROW):
            return f"accepted: an object with {', '.join(_ROW)}"
        number, node = row["model"], Node.parse(str(row["head"]))
        if type(number) is not int or not 0 <= number < len(models):
            return f"model is {short(number)}; accepted: 0 to {len(models) - 1}"
        if node.kind is not Kind.HEAD:
            return f"{node} is no attention head"
        layers, heads = models[number]["model"]["layers"], models[number]["model"]["heads"]
        if (node.layer or 0) >= layers or (node.index or 0) >= heads:
            return f"{node} is not in a model of {layers} layers and {heads} heads"
        problem = _values_problem(node, row)
        if node in found[number]:
            problem = problem or f"{node} of model {number} stands twice"
        if not problem:
            found[number][node] = HeadRoles.of(node, row["scores"], row["spans"])
        return problem

    take_rows(path, "heads", rows, take, "entry {}: {}")
    return [list(heads.values()) for heads in found]


def _values_problem(node: Node, row: Mapping[str, object]) -> str | None:
    for key, accepted in (("scores", SCORES), ("spans", SPANS)):
        values = row[key]
        if not isinstance(values, Mapping) or set(values) != set(accepted):
            return f"{key} of {node}; accepted: an object with {', '.join(accepted)}"
        for name, value in values.items():
            if value is not None and not is_number(value):
                return f"{name} of {node} is {short(value)}; accepted: a number or null"
    return None
