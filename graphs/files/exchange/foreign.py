"""Tell other tools' circuits apart by what is in them, and read them without a model.

What a file says is read whole and checked at once; putting it `on` a graph, which only its model
tells (key/value groups; of an edge list everything), comes after.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NoReturn

from ...calls.typed import typed
from ...circuit import Circuit
from ...errors import FileFormatError, GraphMismatch
from ...graph import ComputationGraph
from ...scores import Scores
from ..reading import (
    LINES_BYTES,
    RESULT_BYTES,
    at_home,
    listed,
    parse_json,
    read_bounded,
    read_text,
)
from .acdc import AcdcList, acdc_on, is_acdc, parse_acdc
from .eap_ig import EapIg, holds_tensors, parse_eap_ig
from .edge_pruning import PrunedList, parse_edge_pruning, pruned_on

TOOLS = "EAP-IG's JSON and .pt, MIB's folders of these, edge lists of ACDC and Edge-Pruning"
"""What `read_foreign` reads, in words."""

_HEAD = 2**16
_NATIVE = re.compile(r'"format"\s*:\s*"edgewise/')
_OF_EAP_IG = re.compile(r'"cfg"\s*:\s*\{|"(?:edges|nodes)"\s*:\s*\{')
_OF_PRUNED = re.compile(r'\[\s*\[\s*"(?:(?:tok_|pos_)?embeds|a\d+\.h\d+(?:\.[qkv])?|m\d+)"\s*,')
_OF_ACDC = re.compile(r'\[\s*[\["\s]*[\w.]*hook_')
_ENDINGS = (".json", ".pt")


@dataclass(frozen=True, eq=False)
class Foreign:
    """A circuit that another tool found, as its file has it; `form`: of the file."""

    tool: str
    form: str
    path: Path
    found: EapIg | AcdcList | PrunedList

    @cached_property
    def sha256(self) -> str:
        """Hash the file's bytes."""
        return hashlib.sha256(read_bounded(self.path, RESULT_BYTES, "a circuit")).hexdigest()

    @property
    def shape(self) -> ComputationGraph | None:
        """Return the graph that the file itself states, None if it states none."""
        return self.found.circuit.graph if isinstance(self.found, EapIg) else None

    @property
    def d_model(self) -> int | None:
        """Return the model's width where the file states it."""
        return self.found.d_model if isinstance(self.found, EapIg) else None

    @property
    def split_embedding(self) -> bool:
        """Tell whether token and position embedding are senders of their own."""
        return not isinstance(self.found, EapIg) and self.found.split_embedding

    @typed
    def grouped_kv(self, heads: int, kv_heads: int) -> bool:
        """Tell whether it has ports of key/value heads in a model of so many.

        Edge-Pruning's circuits have, unless they name more of them than there are.
        """
        pruned = isinstance(self.found, PrunedList)
        return pruned and kv_heads < heads and self.found.groups <= kv_heads  # type: ignore[union-attr]

    @property
    def only_scored(self) -> bool:
        """Tell whether no edge is kept, but edges have scores to choose by."""
        return isinstance(self.found, EapIg) and not len(self.found.circuit)

    @property
    def scores_others(self) -> bool:
        """Tell whether nodes or neurons have scores, which are not read."""
        return isinstance(self.found, EapIg) and self.found.other_scores

    @property
    def kept(self) -> int:
        """Count the edges that the file keeps; of a list those that it names."""
        found = self.found
        return len(found.circuit) if isinstance(found, EapIg) else len(found.edges)

    @typed
    def on(self, graph: ComputationGraph) -> tuple[Circuit, Scores | None]:
        """Put it on a model's graph; return the circuit, and its scores where it has some.

        Raises:
            GraphMismatch: the file states another shape than the graph's.
            FileFormatError: it names edges that the graph has not.
        """
        if isinstance(self.found, AcdcList):
            return acdc_on(self.path, self.found, graph)
        if isinstance(self.found, PrunedList):
            return pruned_on(self.path, self.found, graph), None
        own, scores = self.found.circuit.graph, self.found.scores
        words = [
            f"{key} {getattr(own, key)} and {getattr(graph, key)}"
            for key in ("layers", "heads", "parallel")
            if getattr(own, key) != getattr(graph, key)
        ]
        if not words and (own.senders, own.ports) != (graph.senders, graph.ports):
            words = own.differences(graph)
            words = [word for word in words if not word.startswith("kv_heads ")]
        if words:
            raise GraphMismatch(
                f"{self.path} is no circuit of this model: their graphs differ in "
                f"{'; '.join(words)} (file and model). Accepted: the model that {self.tool} was "
                "run on, with a port for each query head."
            )
        circuit = Circuit(graph, self.found.circuit.kept)
        return circuit, None if scores is None else Scores(graph, scores.values)

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what is to be said of it beside."""
        found = self.found
        if isinstance(found, EapIg):
            return found.notes
        if isinstance(found, AcdcList):
            return (f"{len(found.direct)} ports have a direct edge",) if found.direct else ()
        return (
            () if found.embedding_listed else ("it lists no edge of the embedding: all are kept",)
        )

    def __str__(self) -> str:
        said = f"{self.path}: {self.tool} ({self.form})"
        if isinstance(self.found, EapIg):
            graph, scored = self.found.circuit.graph, self.found.scores is not None
            shape = f"{graph.layers} layers, {graph.heads} heads" + ", parallel" * graph.parallel
            said += f", {shape}, {self.kept:,} of {graph.edge_count:,} edges kept"
            said += ", scored" if scored else ", without scores"
        else:
            said += f", {self.kept:,} edges"
        return "; ".join([said, *self.notes])


@typed
def is_foreign(path: str | Path) -> bool:
    """Tell whether a file looks like a circuit of another tool, or a folder holds some.

    A file of this project, or one that cannot be read, is none.
    """
    place = at_home(path)
    try:
        if place.is_dir():
            return bool(_circuits_in(place) or _folders_in(place))
        return _kind(place) is not None
    except (OSError, ValueError):
        return False


@typed
def read_foreign(path: str | Path, *, percent: float | None = None) -> Foreign:
    """Read a circuit of another tool, told by what is in the file; nothing in it is run.

    Args:
        path: a file, or a folder of MIB's with one circuit, or with one of each size.
        percent: of a folder of several sizes, the largest with at most so many percent of edges.

    Raises:
        FileFormatError: it is none of these, an entry is of a wrong kind, or a folder has several.
    """
    place = at_home(path)
    if place.is_dir():
        return _of_folder(place, percent)
    if percent is not None:
        raise FileFormatError(
            f"{path} is one circuit; `percent` chooses among the sizes in a folder of MIB's. "
            "Accepted: a folder, or no `percent`."
        )
    kind = _kind(place)
    if kind is None:
        read_bounded(place, RESULT_BYTES, "a circuit of another tool")  # says why, if it cannot be
        raise FileFormatError(f"{path} is no circuit of another tool; accepted: {TOOLS}.")
    return _READERS[kind](place)


def _kind(path: Path) -> str | None:
    """Tell by a file's name and first bytes what it holds."""
    if holds_tensors(path) or not path.is_file():
        return "tensors" if holds_tensors(path) else None
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if head.startswith(b"\x80"):
        return "pickle"
    return _kind_of_text(head.decode("utf-8", "ignore").lstrip("\ufeff \t\r\n"))


def _kind_of_text(text: str) -> str | None:
    if text.startswith("{"):
        return "graph" if not _NATIVE.search(text) and _OF_EAP_IG.search(text) else None
    if text.startswith("["):
        return next((name for name, form in _LISTS.items() if form.match(text)), None)
    return "hooks" if is_acdc(text) else None


_LISTS = {"hooks": _OF_ACDC, "pruned": _OF_PRUNED}


def _graph(path: Path) -> Foreign:
    what = "an EAP-IG graph"
    document = parse_json(path, read_text(path, what), what, allow_nan=True)
    return Foreign("EAP-IG", "JSON", path, parse_eap_ig(path, document))


def _tensors(path: Path) -> Foreign:
    with path.open("rb") as file:
        pickled = file.read(1) == b"\x80"
    return _pickle(path) if pickled else Foreign("EAP-IG", "torch", path, parse_eap_ig(path))


def _hooks(path: Path) -> Foreign:
    text = read_text(path, "an edge list of ACDC", LINES_BYTES)
    form = "JSON" if text.lstrip().startswith("[") else "lines"
    return Foreign("ACDC", form, path, parse_acdc(path, text))


def _pruned(path: Path) -> Foreign:
    return Foreign("Edge-Pruning", "JSON", path, parse_edge_pruning(path))


def _pickle(path: Path) -> NoReturn:
    raise FileFormatError(
        f"{path} is a pickle, which can run code and is never read. If it is ACDC's list of edges, "
        "write it as JSON where you trust it: json.dump([[list(map(str, edge)), effect] for edge, "
        "effect in pickle.load(file)], …), with each index as a list."
    )


_READERS: dict[str, Callable[[Path], Foreign]] = {
    "graph": _graph,
    "tensors": _tensors,
    "hooks": _hooks,
    "pruned": _pruned,
    "pickle": _pickle,
}


# -- folders -------------------------------------------------------------------------------------


def _circuits_in(folder: Path) -> list[Path]:
    """List the graphs of EAP-IG in a folder."""
    files = (one for one in sorted(folder.iterdir()) if one.suffix in _ENDINGS and one.is_file())
    return [one for one in files if _kind(one) in ("graph", "tensors")]


def _folders_in(folder: Path) -> list[str]:
    """List the folders in a folder that hold graphs of EAP-IG."""
    inner = (one for one in sorted(folder.iterdir()) if one.is_dir())
    return [one.name for one in inner if _circuits_in(one)]


def _of_folder(folder: Path, percent: float | None) -> Foreign:
    """Read the circuit of a folder, or the one of a size."""
    files = _circuits_in(folder)
    if not files:
        inner = _folders_in(folder)
        if inner:
            raise FileFormatError(
                f"{folder} holds the circuits of several tasks and models; give one of its "
                f"folders: {listed(inner, most=20)}."
            )
        raise FileFormatError(
            f"{folder} holds no circuit (.json or .pt) of EAP-IG; accepted: a folder of MIB's, "
            "with importances or with a circuit of each size."
        )
    if len(files) == 1 and percent is None:
        return read_foreign(files[0])
    found = sorted((read_foreign(one) for one in files), key=lambda one: one.kept)
    sizes = [f"{one.path.name} {one.kept:,} edges" for one in found]
    if percent is None:
        raise FileFormatError(
            f"{folder} holds {len(found)} circuits: {listed(sizes, most=20)}. Give one of these "
            "files, or choose with `percent` the largest that has at most so many percent of all "
            "edges."
        )
    small = [one for one in found if 100 * one.kept <= percent * _edges(one)]
    if not small:
        raise FileFormatError(
            f"{folder} holds no circuit of at most {percent:g} percent of the edges: "
            f"{listed(sizes, most=20)} of {_edges(found[0]):,}."
        )
    return small[-1]


def _edges(one: Foreign) -> int:
    assert one.shape is not None  # folders hold graphs of EAP-IG
    return one.shape.edge_count
