"""Circuit files: a circuit with its scores and everything that led to it, as JSON.

The format is `edgewise/circuit`, version 1. Blocks may hold keys beyond the required ones; those,
and unknown top-level keys, are kept and written back.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
from pydantic import AfterValidator, SkipValidation
from typing_extensions import NotRequired, TypedDict

from ..calls.typed import typed
from ..circuit import Circuit
from ..errors import EdgewiseError, FileFormatError, GraphMismatch, NameSyntaxError
from ..graph import MOST_CELLS, ComputationGraph
from ..names import Node, Port
from .atomic import write_text
from .json_files import dump_document, make_plain, ordered, others, read_document
from .places import Paths, moved
from .reading import form_of, is_number, listed, problems, short, take_rows

FORMAT = "edgewise/circuit"
VERSION = 1

FREE_MEMORY, MEMORY_PER_BYTE = 2**27, 2**18
"""Most bytes of memory that any file's graph may take, and that a byte of a larger file adds."""

SHAPE = ("layers", "heads", "kv_heads", "parallel", "post_norm")
"""The keys of the block `model` that give the graph's shape."""

SPARSE = ("experts", "shared_experts")
"""Further keys of that block, which only files of models with experts have."""

PARTS = ("mixers", "without_mlp", "kv_sources")
"""Further keys of that block, which only files of models have that differ there from the usual."""

OPTIONS = ("grouped_kv", "split_embedding")
"""The keys of the block `graph` that give the graph's options."""

TOLD = ("spans", "neurons")
"""Further keys of that block, which only files of circuits have that tell such apart."""

COUNTS = ("senders", "ports", "edges")

PROMPTS = "prompts"
"""The key of the prompt pairs a circuit was found on, as token ids, one pair an entry."""

TEST_PROMPTS = "test_prompts"
"""The key of the prompt pairs that were held out to measure it on."""

PROVENANCE = {
    "model": ("name", "revision", "weights_sha256", "family", *SHAPE[:3], "d_model", *SHAPE[3:]),
    "task": ("name", "sha256", "examples", "seed"),
    "discovery": ("method", "metric", "ablation"),
    "certificate": ("kept_all", "kept_none", "stream"),
    "measures": (),
}
"""The blocks that tell where a circuit comes from, with their required keys in file order."""

_ABSENT: Mapping[str, object] = {
    "experts": [], "shared_experts": False, "mixers": [], "without_mlp": [], "kv_sources": [],
}  # fmt: skip


class ModelBlock(TypedDict):
    """Where a model is from, what its weights are, and the graph's shape."""

    name: str
    revision: str | None
    weights_sha256: str | None
    family: str
    layers: int
    heads: int
    kv_heads: int
    d_model: int
    parallel: bool
    post_norm: bool
    paths: NotRequired[Paths]
    experts: NotRequired[Annotated[list[int], SkipValidation]]  # `graph_of` checks it
    shared_experts: NotRequired[bool]
    tried_family: NotRequired[str | None]
    trusted_settings: NotRequired[list[str]]
    mixers: NotRequired[Annotated[list[str], SkipValidation]]
    without_mlp: NotRequired[Annotated[list[int], SkipValidation]]
    kv_sources: NotRequired[Annotated[list[int], SkipValidation]]


class ShapeBlock(TypedDict):
    """What was understood of a file of prompt pairs: its shape, and all of it in words."""

    name: str
    kind: NotRequired[str]
    understood: NotRequired[str]
    left_out: NotRequired[dict[str, int]]
    native: NotRequired[bool]


class AskedBlock(TypedDict):
    """How many examples and test pairs have to be asked for, for the same split again."""

    examples: int | None
    test: int | None


class HeldOutBlock(TypedDict):
    """Which prompt pairs were held out: they are none of those the circuit was found on.

    `seed`: what they are made from, or drawn by. `words`: what was done.
    """

    examples: int
    sha256: str
    seed: NotRequired[int | None]
    asked: NotRequired[AskedBlock]
    words: NotRequired[str]
    tokens_sha256: NotRequired[str]


class TaskBlock(TypedDict):
    """Which prompt pairs were used, and what makes a built-in task's again.

    `test`: which were held out; `nothing_held_out`: why none were, where that was not asked for.
    """

    name: str
    sha256: str | None
    examples: int
    seed: int | None
    file: NotRequired[str | None]
    bos: NotRequired[bool | None]
    answers: NotRequired[str | None]
    system: NotRequired[str | None]
    continued: NotRequired[str | None]
    bos_prepended: NotRequired[bool | None]
    options: NotRequired[dict[str, object]]
    paths: NotRequired[Paths]
    tokens_sha256: NotRequired[str]
    shape: NotRequired[ShapeBlock]
    test: NotRequired[HeldOutBlock]
    nothing_held_out: NotRequired[str]
    spans: NotRequired[bool]


class PromptsBlock(TypedDict):
    """Where the prompt pairs are: `inline`, in the circuit file itself."""

    where: str
    sha256: str


class FittedBlock(TypedDict):
    """What a circuit whose size was chosen reached there; see `discovery.uncertainty.cross_fit`."""

    faithfulness: float
    halves: int
    signed: NotRequired[bool]
    best_signed: NotRequired[float]


class DiscoveryBlock(TypedDict):
    """How the edges were chosen; a method's own options stand here too."""

    method: str
    metric: str
    ablation: str
    metric_function: NotRequired[dict[str, object] | None]
    dtype: NotRequired[str | None]
    prompts: NotRequired[PromptsBlock]
    top: NotRequired[int | None]
    above: NotRequired[float | None]
    faithfulness: NotRequired[float | None]
    target: NotRequired[float | None]
    signed: NotRequired[bool | None]
    connected: NotRequired[bool | None]
    stable: NotRequired[float | None]
    greedy: NotRequired[bool | None]
    level: NotRequired[str | None]
    mlps: NotRequired[list[int] | None]
    fitted: NotRequired[FittedBlock | None]
    order: NotRequired[str | None]
    batch_size: NotRequired[int | None]
    seconds: NotRequired[float | None]
    questions: NotRequired[int | None]
    forward_equivalents: NotRequired[float | None]


class CertificateBlock(TypedDict):
    """By how much the lifted model differs from the original; null where it is not finite.

    `prompts`, `longest`: on how many prompts, and the tokens of the longest. `rounding_original`,
    `rounding_lift`: see `patching.run.certificate.Rounding`.
    """

    kept_all: float | None
    kept_none: float | None
    stream: float | None
    blocks: NotRequired[float | None]
    prompts: NotRequired[int]
    longest: NotRequired[int]
    rounding_original: NotRequired[float | None]
    rounding_lift: NotRequired[float | None]
    compared: NotRequired[bool]


def _two_ends(ends: list[float]) -> list[float]:
    from pydantic_core import PydanticCustomError

    if len(ends) != 2:
        raise PydanticCustomError("interval", "two numbers, [low, high]")
    return ends


Interval = Annotated[list[float], AfterValidator(_two_ends)]
"""The ends of a 95% interval, [low, high]."""


class MeasuredBlock(TypedDict):
    """What was measured on one side of a split; null where it is undefined, or has no interval."""

    examples: int
    faithfulness: float | None
    interval: Interval | None


class MeasuresBlock(TypedDict):
    """What was measured on the pairs a circuit was found on, and on others, held out.

    The other keys are those of older files and mean what `in_sample` means, but that their ratios
    are those of means whatever their error: `undefined` says why they mean nothing, if so.
    """

    undefined: NotRequired[str | None]
    in_sample: NotRequired[MeasuredBlock]
    held_out: NotRequired[MeasuredBlock]


class GraphBlock(TypedDict):
    """A graph's options and counts, which its shape must have, and what it tells apart."""

    grouped_kv: bool
    split_embedding: NotRequired[bool]
    spans: NotRequired[Annotated[list[str], SkipValidation]]
    neurons: NotRequired[Annotated[list[int], SkipValidation]]
    senders: int
    ports: int
    edges: int


class Provenance(TypedDict):
    """The blocks that tell where a circuit comes from."""

    model: ModelBlock
    task: TaskBlock
    discovery: DiscoveryBlock
    certificate: CertificateBlock
    measures: MeasuresBlock


class CircuitDocument(Provenance):
    """A circuit file."""

    graph: GraphBlock
    prompts: NotRequired[list[object]]
    test_prompts: NotRequired[list[object]]
    edges: object


@typed
@dataclass(frozen=True, eq=False)
class CircuitFile:
    """A circuit, where it comes from, and what was measured of it.

    The blocks have the keys of `PROVENANCE`; the model's shape is the graph's. `edge_scores`:
    float32 [ports, senders], NaN where an edge has no score or is not kept. `extra`: unknown
    top-level keys, and under `graph` those of that block. `path`: the file it was read from.
    An EdgewiseError names all keys that are missing, a GraphMismatch what does not fit the graph.
    """

    circuit: Circuit
    model: ModelBlock
    task: TaskBlock
    discovery: DiscoveryBlock
    certificate: CertificateBlock = field(repr=False)
    measures: Mapping[str, Any] = field(default_factory=dict, repr=False)
    edge_scores: np.ndarray | None = field(default=None, repr=False)
    extra: Mapping[str, object] = field(default_factory=dict, repr=False)
    path: Path | None = None

    def __post_init__(self) -> None:
        make_plain(self, *PROVENANCE, "extra")
        missing, wrong = problems(vars(self), Provenance)
        if missing or wrong:
            found = f"these are missing: {', '.join(missing)}" if missing else listed(wrong)
            raise EdgewiseError(f"the circuit cannot be saved: {found}.")
        graph, kept = self.circuit.graph, self.circuit.kept
        given = np.float32(np.nan) if self.edge_scores is None else self.edge_scores
        if np.shape(given) not in ((), kept.shape):
            raise GraphMismatch(
                f"scores of shape {np.shape(given)} do not fit a mask of {kept.shape}."
            )
        scores = np.where(kept, given, np.float32(np.nan)).astype(np.float32, copy=False)
        scores.setflags(write=False)
        object.__setattr__(self, "edge_scores", scores)
        stated: Mapping[str, object] = {**_ABSENT, **self.model}
        true = {key: getattr(graph, key) for key in (*SHAPE, *_ABSENT)}
        true |= {key: list(getattr(graph, key)) for key in ("experts", *PARTS)}
        wrong = [f"{key} {stated[key]} and {true[key]}" for key in true if stated[key] != true[key]]
        if wrong:
            raise GraphMismatch(
                f"the model's shape is not the circuit's graph's: {', '.join(wrong)}."
            )

    @property
    def provenance(self) -> Provenance:
        """Return the blocks that tell where the circuit comes from."""
        return cast("Provenance", {block: getattr(self, block) for block in PROVENANCE})

    @typed
    def at(self, path: Path | None) -> CircuitFile:
        """Return the same as it stands in a file, with paths relative to it; or in none."""
        model, task = self.model, self.task
        if "paths" in model:
            model = {**model, "paths": moved(model["paths"], self.path, path)}
        if "paths" in task:
            task = {**task, "paths": moved(task["paths"], self.path, path)}
        return replace(self, model=model, task=task, path=path)


@typed
def model_block(
    graph: ComputationGraph,
    *,
    name: str,
    revision: str | None,
    weights_sha256: str | None,
    family: str,
    d_model: int,
) -> ModelBlock:
    """Build the block `model` from a graph and what the graph does not know."""
    shape = {key: getattr(graph, key) for key in (*SHAPE, *rarer_keys(graph))}
    known = {"name": name, "revision": revision, "weights_sha256": weights_sha256}
    block = {**shape, **known, "family": family, "d_model": d_model}
    return cast("ModelBlock", ordered(block, PROVENANCE["model"]))


def rarer_keys(graph: ComputationGraph) -> tuple[str, ...]:
    """List the keys of a graph's shape that stand only in files of graphs that have such parts."""
    parts = tuple(key for key in PARTS if getattr(graph, key))
    return (*(SPARSE if graph.experts else ()), *parts)


@typed
def write_circuit(path: str | Path, file: CircuitFile) -> None:
    """Write a circuit file, all or nothing; equal circuits give equal bytes."""
    write_text(path, dump_circuit(file.at(Path(path))))


def dump_circuit(file: CircuitFile) -> str:
    """Return a circuit file's text."""
    assert file.edge_scores is not None  # CircuitFile.__post_init__
    extra, blocks = ordered(file.extra, ()), ordered_blocks(file.provenance)
    more = extra.pop("graph", None)
    document = {
        "format": FORMAT,
        "version": VERSION,
        "model": blocks.pop("model"),
        "graph": graph_block(file.circuit.graph, more if isinstance(more, dict) else {}),
        **blocks,
        **extra,
        "edges": edge_rows(file.circuit, file.edge_scores),
    }
    return dump_document(document, rows={PROMPTS, TEST_PROMPTS, "edges", "stability.edges"})


def ordered_blocks(blocks: Mapping[str, object]) -> dict[str, object]:
    """Return blocks in the order of files, with the keys of `PROVENANCE` first in each."""
    found = {key: blocks[key] for key in ("file", *PROVENANCE) if key in blocks} | dict(blocks)
    for key, first in PROVENANCE.items():
        if isinstance(block := found.get(key), dict):
            found[key] = ordered(block, first)
    return found


def graph_block(graph: ComputationGraph, extra: Mapping[str, object]) -> dict[str, object]:
    """Build the block `graph`: options, then counts."""
    counts = (len(graph.senders), len(graph.ports), graph.edge_count)
    options = {key: getattr(graph, key) for key in OPTIONS}
    options |= {key: list(getattr(graph, key)) for key in TOLD if getattr(graph, key)}
    return {**options, **dict(zip(COUNTS, counts, strict=True)), **ordered(extra, ())}


def edge_rows(circuit: Circuit, *scores: np.ndarray) -> list[list[Any]]:
    """List the kept edges in graph order as [sender, port, score, …], None where it is NaN."""
    senders = [str(node) for node in circuit.graph.senders]
    ports = [str(port) for port in circuit.graph.ports]
    rows, columns = np.nonzero(circuit.kept)
    numbers = [
        [None if text in ("nan", "inf", "-inf") else float(text) for text in texts]
        for texts in (values[rows, columns].astype(np.float32).astype(str) for values in scores)
    ]  # as text, float32 has its shortest decimal
    return [
        [senders[column], ports[row], *own]
        for row, column, *own in zip(rows.tolist(), columns.tolist(), *numbers, strict=True)
    ]


@typed
def read_circuit(path: str | Path, parsed: dict[str, object] | None = None) -> CircuitFile:
    """Read and check a circuit file, parsed or not; a FileFormatError says what is wrong."""
    document = parsed or read_document(path, "a circuit file", {FORMAT: VERSION})
    with form_of(path, document, CircuitDocument) as file:
        graph = read_graph(path, file["model"], file["graph"], scores=1)
    scores = unscored(graph, 1)
    circuit = Circuit(graph, read_rows(path, graph, "edges", file["edges"], scores))
    blocks = (file["model"], file["task"], file["discovery"], file["certificate"], file["measures"])
    extra = others(document, "edges", "graph", *PROVENANCE)
    if more := {k: v for k, v in file["graph"].items() if k not in (*OPTIONS, *TOLD, *COUNTS)}:
        extra["graph"] = more
    return CircuitFile(circuit, *blocks, edge_scores=scores[0], extra=extra, path=Path(path))


def read_graph(
    path: str | Path, model: Mapping[str, object], block: Mapping[str, object], scores: int
) -> ComputationGraph:
    """Build the graph a file describes, of its counts, and of a size that such a file can fill."""
    counts = {key: block[key] for key in COUNTS} | {"d_model": model["d_model"]}
    shape = {key: {**_ABSENT, **model}[key] for key in (*SHAPE, *_ABSENT)}
    shape |= {key: block.get(key, False) for key in OPTIONS} | {
        key: block.get(key, []) for key in TOLD
    }
    graph = graph_of(path, shape, counts)
    size = dict(zip(COUNTS, graph.size[::-1], strict=False))
    if all(block[key] == count for key, count in size.items()):
        memory = 8 * (1 + scores) * math.prod(graph.size) + 500 * sum(graph.size)
        held = os.stat(path).st_size
        if memory > max(FREE_MEMORY, MEMORY_PER_BYTE * held):
            raise FileFormatError(
                f"{path} describes a graph of {size['ports']} ports and {size['senders']} senders, "
                f"which takes about {memory >> 20} MB of memory, and holds {held} bytes; accepted: "
                "graphs that such a file can have found edges in. It is damaged, or not what it "
                "says."
            )
        size["edges"] = graph.edge_count  # only now something of the graph's size is made
    wrong = [
        f"{block[key]} {key}, but its shape has {count}"
        for key, count in size.items()
        if block[key] != count
    ]
    if wrong:
        raise FileFormatError(f"{path} contradicts itself: it states {'; '.join(wrong)}.")
    return graph


def graph_of(
    path: str | Path, shape: Mapping[str, object], counts: Mapping[str, object] | None = None
) -> ComputationGraph:
    """Build the graph whose fields a file states, unchecked; `counts` must be numbers too."""
    numbers = {key: shape.get(key) for key in SHAPE[:3]} | dict(counts or {})
    least = dict.fromkeys(SHAPE[1:3], 0) if shape.get("mixers") else {}  # there may be no heads
    wrong = [
        f"{key} {short(number)} (accepted: a number)"
        for key, number in numbers.items()
        if type(number) is not int or not least.get(key, 1) <= number <= MOST_CELLS
    ]
    wrong += [
        f"{key} {short(shape[key])} (accepted: true, false)"
        for key in (*SHAPE[3:], *OPTIONS, SPARSE[1])
        if not isinstance(shape.get(key, False), bool)
    ]
    experts = shape.get("experts", [])
    if not isinstance(experts, list) or not all(
        type(n) is int and 0 <= n <= MOST_CELLS for n in experts
    ):
        wrong.append(f"experts {short(experts)} (accepted: a number for each layer)")
    mixers, lacking, sources = (shape.get(key, []) for key in PARTS)
    if not isinstance(mixers, list) or not all(isinstance(one, str) for one in mixers):
        wrong.append(f"mixers {short(mixers)} (accepted: a word for each layer)")
    if not isinstance(lacking, list) or not all(type(i) is int for i in lacking):
        wrong.append(f"without_mlp {short(lacking)} (accepted: numbers of layers)")
    spans, neurons = (shape.get(key, []) for key in TOLD)
    if not isinstance(neurons, list) or not all(
        type(n) is int and 0 <= n <= MOST_CELLS for n in neurons
    ):
        wrong.append(f"neurons {short(neurons)} (accepted: a number for each layer)")
    if not isinstance(spans, list) or not all(isinstance(one, str) for one in spans):
        wrong.append(f"spans {short(spans)} (accepted: names of spans)")
    if not isinstance(sources, list) or not all(type(i) is int for i in sources):
        wrong.append(f"kv_sources {short(sources)} (accepted: a layer for each layer)")
    if wrong:
        raise FileFormatError(f"{path} describes no graph: {'; '.join(wrong)}.")
    try:
        lists = {"experts": experts, "mixers": mixers, "without_mlp": lacking}
        lists |= {"kv_sources": sources, "spans": spans, "neurons": neurons}
        fields: Any = {**shape, **{k: tuple(cast("list[Any]", v)) for k, v in lists.items()}}
        return ComputationGraph(**fields)
    except (GraphMismatch, TypeError) as error:  # TypeError: a field that graphs do not have
        raise FileFormatError(f"{path} describes no graph: {str(error).rstrip('.')}.") from None


def unscored(graph: ComputationGraph, count: int) -> np.ndarray:
    """Return so many scores of no edge, NaN, float32 [count, ports, senders]."""
    return np.full((count, *graph.size), np.nan, dtype=np.float32)


def read_rows(
    path: str | Path, graph: ComputationGraph, key: str, rows: Any, scores: np.ndarray
) -> np.ndarray:
    """Read rows [sender, port, score, …] to a bool mask, and into scores [n, ports, senders]."""
    if not isinstance(rows, list):
        raise FileFormatError(f"{path}: {key} is no list; accepted: [[sender, port, score], …].")
    kept = np.zeros_like(graph.reads)
    senders = {str(node): i for i, node in enumerate(graph.senders)}
    ports = {str(port): i for i, port in enumerate(graph.ports)}

    def take(row: Any) -> str | None:
        if problem := _row_problem(row, len(scores)):
            return problem
        sender, port, *numbers = row
        at = (ports.get(port, -1), senders.get(sender, -1))
        problem = _name_problem(graph, sender, port) if min(at) < 0 else None
        if not problem and not graph.reads[at]:
            problem = f"no such edge, {sender} does not write before {port} reads"
        if problem or kept[at]:
            return f"{sender}->{port}: {problem or 'stands twice'}"
        kept[at] = True
        for values, score in zip(scores, numbers, strict=True):
            values[at] = np.nan if score is None else score
        return None

    take_rows(path, key, rows, take)
    return kept


def _row_problem(row: Any, scores: int) -> str | None:
    if not isinstance(row, list) or len(row) != 2 + scores:
        return f"{short(row)}: accepted: [sender, port{', score' * scores}]"
    if not all(isinstance(name, str) for name in row[:2]):
        return f"{short(row)}: sender and port must be names"
    for score in row[2:]:
        if score is not None and not is_number(score):
            return f"{short(row)}: a score is a number or null, found {short(score)}"
        if score is not None and not abs(score) < 3.4e38:
            return f"{short(row)}: the score is not a finite float32"
    return None


def _name_problem(graph: ComputationGraph, sender: str, port: str) -> str:
    try:
        if Node.parse(sender) not in graph.sender_index:
            return f"the graph has no sender {sender}; it has {graph.describe()}"
        if Port.parse(port) not in graph.port_index:
            return f"the graph has no port {port}; it has {graph.describe()}"
    except NameSyntaxError as error:
        return str(error).rstrip(".")
    return f"write it as {Node.parse(sender)}->{Port.parse(port)}"
