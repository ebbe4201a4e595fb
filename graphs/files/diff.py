"""Diff files: two circuits on equal graphs side by side, as JSON.

The format is `edgewise/diff`, version 1, told in docs/reference/file-formats.md: a graph, the
blocks of both circuit files, statistics, the edges `shared`, `only_a` and `only_b` with their score
in A and in B, and what else was found (see `graphs.diff` and `graphs.comparison`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn, TypeVar, cast

import numpy as np
from typing_extensions import NotRequired, TypedDict

from ..calls.typed import typed
from ..circuit import Circuit
from ..comparison import (
    ChangedFunction,
    Changes,
    Comparison,
    CrossEvaluation,
    Floor,
    NoiseFloor,
    RolesComparison,
    RolesInModel,
)
from ..diff import CircuitDiff, ScoreComparison, changes, compare_scores, shape_differences
from ..errors import EdgewiseError, FileFormatError, GraphMismatch
from ..levels.nodes import EDGE
from ..names import Edge
from ..roles import HeadRoles
from .atomic import write_text
from .circuit import (
    CertificateBlock,
    CircuitFile,
    DiscoveryBlock,
    GraphBlock,
    MeasuresBlock,
    ModelBlock,
    TaskBlock,
    edge_rows,
    graph_block,
    ordered_blocks,
    read_graph,
    read_rows,
    unscored,
)
from .json_files import dump_document, make_plain, ordered, others, read_document, to_plain
from .reading import form_of

if TYPE_CHECKING:
    from ..graph import ComputationGraph
    from ..scores import Scores

Block = TypeVar("Block")

FORMAT = "edgewise/diff"
VERSION = 1
PARTS = ("shared", "only_a", "only_b")
BLOCKS = ("scores", "comparison", "function", "noise_floor", "cross", "roles")


class Side(TypedDict):
    """Where one of the circuits comes from: its file, and the blocks of that file."""

    file: NotRequired[str | None]
    model: ModelBlock
    task: NotRequired[TaskBlock]
    discovery: NotRequired[DiscoveryBlock]
    certificate: NotRequired[CertificateBlock]
    measures: NotRequired[MeasuresBlock]


class DiffDocument(TypedDict):
    """A diff file, but for what was found in the models."""

    graph: GraphBlock
    a: Side
    b: Side
    shared: object
    only_a: object
    only_b: object


@typed
@dataclass(frozen=True, eq=False)
class DiffFile:
    """Two circuits side by side, where each comes from, and what was found beside them.

    `scores_a`, `scores_b`: float32 [ports, senders], NaN where an edge has no score; `alike` tells
    how alike they are, None in an older file. `comparison`, `function`, `noise_floor`, `cross`,
    `roles`: what was found in the models, None where nothing was. `extra`: unknown top-level keys.
    """

    diff: CircuitDiff
    a: Side
    b: Side
    scores_a: np.ndarray
    scores_b: np.ndarray
    alike: ScoreComparison | None = None
    comparison: Comparison | None = None
    function: ChangedFunction | None = None
    noise_floor: NoiseFloor | None = None
    cross: CrossEvaluation | None = None
    roles: RolesComparison | None = None
    extra: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        make_plain(self, "a", "b", "extra")

    def __repr__(self) -> str:
        names = (side["model"]["name"] for side in (self.a, self.b))
        return "DiffFile(a={!r}, b={!r}, {!r})".format(*names, self.diff)

    @property
    def scores(self) -> ScoreComparison:
        """Return how alike the scores are; of an older file, as far as its kept edges tell."""
        return self.alike or compare_scores(self.diff, (self.scores_a, self.scores_b))

    @property
    def compared(self) -> Changes | None:
        """Return the comparison with its edges sorted by where the diff has them."""
        return None if self.comparison is None else Changes(self.comparison, self.diff)

    @property
    def floor(self) -> Floor | None:
        """Return the noise floor with its edges sorted by where the diff has them."""
        return None if self.noise_floor is None else Floor(self.noise_floor, self.diff)

    @property
    def changes(self) -> list[tuple[Edge, float, float, float]]:
        """List shared edges with their score in A, in B, and the change, the largest first."""
        return changes(self.diff, self.scores_a, self.scores_b)

    @property
    def blocks(self) -> dict[str, object]:
        """Return what was found in the models as plain values, by the names of their blocks."""
        found: dict[str, object] = {}
        if self.comparison is not None:
            found["comparison"] = asdict(self.comparison)
        if self.function is not None:
            found["function"] = asdict(self.function)
        if self.noise_floor is not None:
            stated = {k: v for k, v in asdict(self.noise_floor).items() if v is not None}
            rows = [[x for x in row if x is not None] for row in self.noise_floor.edges]
            found["noise_floor"] = {**stated, "edges": rows}
        if self.cross is not None:
            found["cross"] = asdict(self.cross)
        if self.roles is not None:
            layers, sides = self.diff.a.graph.layers, vars(self.roles)
            heads = {key: [head.as_dict(layers) for head in s.heads] for key, s in sides.items()}
            found["roles"] = {**heads, "notes": {key: s.notes for key, s in sides.items()}}
        return to_plain(found, "diff")  # type: ignore[no-any-return]


@typed
def diff_files(
    a: CircuitFile,
    b: CircuitFile,
    *,
    names: tuple[str, str] = ("A", "B"),
    scores: tuple[Scores | None, Scores | None] = (None, None),
) -> DiffFile:
    """Compare two circuits on equal graphs; `names` are their paths or labels.

    `scores`: of all edges of each; with both, the rank correlation is over all edges. A
    GraphMismatch lists all that differs of graphs and models' width.
    """
    widths = (a.model["d_model"], b.model["d_model"])
    differences = shape_differences(a.circuit.graph, b.circuit.graph, widths)
    if differences:
        both = " and ".join(
            f"{name} ({f.model['name']})" for name, f in zip(names, (a, b), strict=True)
        )
        raise GraphMismatch(
            f"{both} cannot be compared: their graphs differ in {'; '.join(differences)}. Compare "
            "circuits of one model, or of models of one shape, found with the same graph options; "
            f"`edgewise roles {names[0]} {names[1]}` compares what the heads of two unlike "
            "circuits do."
        )
    assert a.edge_scores is not None
    assert b.edge_scores is not None
    diff, kept = CircuitDiff(a.circuit, b.circuit), (a.edge_scores, b.edge_scores)
    for one in scores:
        if one is not None:
            diff.a & Circuit.empty(one.graph)  # refuses those of another graph
    first, second = scores
    everything = None if first is None or second is None else (first.values, second.values)
    return DiffFile(
        diff,
        {"file": names[0], **a.at(None).provenance},
        {"file": names[1], **b.at(None).provenance},
        *kept,
        alike=compare_scores(diff, kept, everything),
    )


@typed
def unlike(a: Side, b: Side) -> list[str]:
    """List in words what else differs between two circuits' provenance than the model.

    >>> a, b = ({"task": {"name": name}, "discovery": {"metric": "kl"}} for name in ("ioi", "sva"))
    >>> unlike(a, b)
    ['task.name ioi and sva']
    """
    keys = {
        "task": ("name", "sha256", "examples"),
        "discovery": (
            "method",
            "metric",
            "ablation",
            "threshold",
            "top",
            "order",
            "dtype",
            "level",
        ),
    }
    usual = {"level": EDGE}
    sides = cast("tuple[Mapping[str, Mapping[str, object]], ...]", (a, b))
    pairs = {
        f"{block}.{key}": [side.get(block, {}).get(key, usual.get(key)) for side in sides]
        for block, names in keys.items()
        for key in names
    }
    tasks = [side.get("task", {}).get("name") for side in sides]
    if "" in tasks and tasks[0] != tasks[1]:  # an imported circuit that was measured on none
        pairs = {key: both for key, both in pairs.items() if not key.startswith("task.")}
        pairs["task"] = [name or "not known" for name in tasks]
    return [
        f"{key} {first} and {second}" for key, (first, second) in pairs.items() if first != second
    ]


@typed
def write_diff(path: str | Path, file: DiffFile) -> None:
    """Write a diff file, all or nothing; equal diffs give equal bytes."""
    scores = (file.scores_a, file.scores_b)
    scored = {} if file.alike is None else {"scores": vars(file.alike)}
    document = {
        "format": FORMAT,
        "version": VERSION,
        "graph": graph_block(file.diff.a.graph, {}),
        **{name: ordered_blocks(getattr(file, name)) for name in ("a", "b")},
        "statistics": file.diff.summary().to_dict(),
        **ordered({**file.blocks, **scored, **file.extra}, ()),
        **{part: edge_rows(getattr(file.diff, part), *scores) for part in PARTS},
    }
    write_text(
        path, dump_document(document, rows=(*PARTS, "comparison.edges", "noise_floor.edges"))
    )


@typed
def read_diff(path: str | Path, parsed: dict[str, object] | None = None) -> DiffFile:
    """Read and check a diff file, parsed or not; a FileFormatError says what is wrong."""
    document = parsed or read_document(path, "a diff file", {FORMAT: VERSION})
    with form_of(path, document, DiffDocument) as file:
        graph = read_graph(path, file["a"]["model"], file["graph"], scores=2)
    scores = unscored(graph, 2)
    shared, only_a, only_b = (
        read_rows(path, graph, part, document[part], scores) for part in PARTS
    )
    twice = (shared & (only_a | only_b)) | (only_a & only_b)
    if twice.any():
        edge = graph.edge_at(*np.argwhere(twice)[0])
        raise FileFormatError(f"{path} contradicts itself: {edge} stands in two of its lists.")
    return DiffFile(
        CircuitDiff(Circuit(graph, shared | only_a), Circuit(graph, shared | only_b)),
        file["a"], file["b"], scores[0], scores[1],
        alike=_read(path, document, "scores", ScoreComparison),
        comparison=_read_edges(path, document, graph, "comparison", Comparison),
        function=_read(path, document, "function", ChangedFunction),
        noise_floor=_read_edges(path, document, graph, "noise_floor", NoiseFloor),
        cross=_read(path, document, "cross", CrossEvaluation),
        roles=_read_roles(path, document, graph),
        extra=others(document, "graph", "a", "b", "statistics", *PARTS, *BLOCKS),
    )  # fmt: skip


# -- what was found in the models ---------------------------------------------------------------


def _read(
    path: str | Path, document: Mapping[str, object], name: str, kind: type[Block]
) -> Block | None:
    """Read a block as a value of a kind, every field checked; None if there is none."""
    from pydantic import TypeAdapter, ValidationError

    if document.get(name) is None:
        return None
    try:
        return TypeAdapter(kind).validate_json(json.dumps(document[name]), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        _damaged(path, name, first["msg"], *first["loc"])


def _damaged(path: str | Path, name: str, why: str, *place: int | str) -> NoReturn:
    where = ".".join(map(str, (name, *place)))
    raise FileFormatError(
        f"{path}: the diff's block {name} cannot be read ({where}: {why}); make the diff again."
    )


Measured = TypeVar("Measured", Comparison, NoiseFloor)


def _read_edges(
    path: str | Path,
    document: Mapping[str, object],
    graph: ComputationGraph,
    name: str,
    kind: type[Measured],
) -> Measured | None:
    """Read a block of rows of edges, which must be the graph's."""
    found = _read(path, document, name, kind)
    for number, row in enumerate(found.edges if found is not None else ()):
        try:
            graph.locate(row.edge)
        except EdgewiseError as error:
            _damaged(path, name, str(error).rstrip("."), "edges", number)
    return found


def read_comparisons(
    path: str | Path, document: Mapping[str, object], graph: ComputationGraph
) -> tuple[Comparison, ...]:
    """Read what `comparisons` has: one block after another, as a diff's `comparison`."""
    blocks = document.get("comparisons") or ()
    if not isinstance(blocks, list | tuple):
        raise FileFormatError(f"{path}: comparisons is no list; make the timeline again.")
    found = []
    for block in blocks:
        one = _read_edges(path, {"comparison": block}, graph, "comparison", Comparison)
        if one is None:
            raise FileFormatError(f"{path}: a comparison is missing; make the timeline again.")
        found.append(one)
    return tuple(found)


class _Head(TypedDict):
    head: str
    scores: dict[str, float | None]
    spans: dict[str, float | None]


class _Roles(TypedDict):
    a: list[_Head]
    b: list[_Head]
    notes: NotRequired[dict[str, list[str]]]


def _read_roles(
    path: str | Path, document: Mapping[str, object], graph: ComputationGraph
) -> RolesComparison | None:
    """Read the block `roles`; what heads are called is told anew by their scores."""
    found = _read(path, document, "roles", _Roles)
    if found is None:
        return None

    def side(name: Literal["a", "b"]) -> RolesInModel:
        heads = []
        for number, row in enumerate(found[name]):
            try:
                heads.append(HeadRoles.of(row["head"], row["scores"], row["spans"]))
                if heads[-1].node not in graph.sender_index:
                    raise GraphMismatch(f"{heads[-1].node} is not in the graph")
            except EdgewiseError as error:
                _damaged(path, "roles", str(error).rstrip("."), name, number)
        return RolesInModel(tuple(heads), tuple(found.get("notes", {}).get(name, ())))

    return RolesComparison(side("a"), side("b"))
