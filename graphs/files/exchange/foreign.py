"""Tell other tools' circuits apart by what is in them, and read them without a model.

What a file says is read whole and checked at once; putting it `on` a graph, which only its model
tells (key/value groups; of an edge list everything), comes after.
"""

from __future__ import annotations

import hashlib
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
from .acdc import AcdcList, acdc_on, parse_acdc
from .eap_ig import EapIg, parse_eap_ig
from .edge_pruning import PrunedList, parse_edge_pruning, pruned_on
from .kinds import kind_of

TOOLS = "EAP-IG's JSON and .pt, MIB's folders of these, edge lists of ACDC and Edge-Pruning"
"""What `read_foreign` reads, in words."""

_ENDINGS = (".json", ".pt")


@typed
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

    @property
    def names_keys_or_values(self) -> bool:
        """Tell whether an edge ends at the keys or values of a head; a graph has all of them."""
        return isinstance(self.found, EapIg) or self.found.keys_or_values

    @typed
    def grouped_kv(self, heads: int, kv_heads: int) -> bool:
        """Tell whether it has ports of key/value heads in a model of so many.

        Edge-Pruning's circuits have, unless they name more of them than there are.
        """
        pruned = isinstance(self.found, PrunedList)
        return pruned and kv_heads < heads and self.found.groups <= kv_heads  # type: ignore[union-attr]

    @typed
    def misfit(self, graph: ComputationGraph) -> str | None:
        """Say which option a graph lacks, or has, for the senders and ports that a list names."""
        if isinstance(self.found, EapIg):
            return None
        reason, grouped = None, self.grouped_kv(graph.heads, graph.kv_heads)
        if self.split_embedding and not graph.split_embedding:
            reason = (
                "it has token and position embedding as two senders; accepted: a graph with these, "
                "which `split_embedding` of a discovery makes"
            )
        elif self.found.whole_embedding and graph.split_embedding:
            reason = (
                "it has the embedding as one sender, and the graph's is split; accepted: a graph "
                "made without `split_embedding`"
            )
        elif self.names_keys_or_values and grouped and not graph.grouped_kv:
            reason = (
                f"its keys and values are those of {graph.kv_heads} key/value heads, and each of "
                f"the graph's {graph.heads} query heads has its own; accepted: a graph with ports "
                "for key/value heads, which `grouped_kv` of a discovery makes"
            )
        elif self.names_keys_or_values and graph.grouped_kv and not grouped:
            reason = (
                "each query head has keys and values of its own in it, and the graph's are those "
                f"of {graph.kv_heads} key/value heads; accepted: a graph made without `grouped_kv`"
            )
        return reason

    @property
    def only_scored(self) -> bool:
        """Tell whether no edge is kept, but edges or nodes have scores to choose by."""
        return isinstance(self.found, EapIg) and not len(self.found.circuit)

    @property
    def kept(self) -> int:
        """Count the edges that the file keeps; of a list those that it names."""
        found = self.found
        return len(found.circuit) if isinstance(found, EapIg) else len(found.edges)

    @typed
    def on(
        self, graph: ComputationGraph, d_model: int | None = None
    ) -> tuple[Circuit, Scores | None]:
        """Put it on a model's graph; return the circuit, and its scores where it has some.

        `d_model`: the model's width, if it is to be compared with the one that the file states.

        Raises:
            GraphMismatch: the file states another shape than the graph's, or another width.
            FileFormatError: it names edges that the graph has not.
        """
        if None not in (self.d_model, d_model) and self.d_model != d_model:
            raise GraphMismatch(
                f"{self.path} is no circuit of this model: it was found in one of d_model "
                f"{self.d_model}, and this one's is {d_model}. Accepted: the model that "
                f"{self.tool} was run on."
            )
        if reason := self.misfit(graph):
            raise GraphMismatch(f"{self.path} does not fit the graph: {reason}.")
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
        return circuit, None if scores is None else Scores(graph, scores.values, scores.level)

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
        return kind_of(place) is not None
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
    kind = kind_of(place)
    if kind is None:
        read_bounded(place, RESULT_BYTES, "a circuit of another tool")  # says why, if it cannot be
        raise FileFormatError(f"{path} is no circuit of another tool; accepted: {TOOLS}.")
    return _READERS[kind](place)


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
    return [one for one in files if kind_of(one) in ("graph", "tensors")]


def _folders_in(folder: Path) -> list[str]:
    """List the folders in a folder, and in its folders, that hold graphs of EAP-IG."""
    inner = [one for one in sorted(folder.iterdir()) if one.is_dir()]
    deeper = [two for one in inner for two in sorted(one.iterdir()) if two.is_dir()]
    return [str(one.relative_to(folder)) for one in (*inner, *deeper) if _circuits_in(one)]


def _files_of(folder: Path) -> list[Path]:
    """List the circuits of a folder of one task and model; refuse one that has none."""
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
    return files


@typed
def read_sizes(path: str | Path) -> tuple[Foreign, ...]:
    """Read every circuit in a folder of MIB's, the smallest first; of a file the one it holds.

    Raises:
        FileFormatError: the folder holds none, or something in a file is wrong.
    """
    place = at_home(path)
    if not place.is_dir():
        return (read_foreign(place),)
    found = map(read_foreign, _files_of(place))
    return tuple(sorted(found, key=lambda one: (one.kept, one.path.name)))


def _of_folder(folder: Path, percent: float | None) -> Foreign:
    """Read the circuit of a folder, or the one of a size."""
    files = _files_of(folder)
    if len(files) == 1 and percent is None:
        return read_foreign(files[0])
    found = read_sizes(folder)
    sizes = [f"{one.path.name} {one.kept:,} edges" for one in found]
    if percent is None:
        raise FileFormatError(
            f"{folder} holds {len(found)} circuits: {listed(sizes, most=20)}. Give one of these "
            "files, or choose with `percent` the largest that has at most so many percent of all "
            "edges; `edgewise import` with a folder for its output makes circuit files of all."
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
