"""Scores that a method starts from, or edges that it is about, of a file of any kind."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..graphs.calls.typed import typed

if TYPE_CHECKING:
    import numpy as np

    from ..graphs.circuit import Circuit
    from ..graphs.files.exchange import Foreign, NamedEdges
    from ..graphs.graph import ComputationGraph
    from ..graphs.scores import Scores


@typed
@dataclass(frozen=True, eq=False)
class Start:
    """Scores that a method starts from, and what a circuit file says of them.

    `circuit`: another tool's, if they are from one; `named`: edges by name. `scores` is None where
    only the model tells its graph.
    """

    scores: Scores | None
    about: Mapping[str, object]
    circuit: Foreign | None = None
    named: NamedEdges | None = None

    @property
    def said(self) -> str:
        """Say what was understood of another tool's file, or of a list, if they are from one."""
        if self.named is not None:
            return f"{self.named.path}: {len(set(self.named.edges)):,} edges by name"
        return "" if self.circuit is None else str(self.circuit)

    @typed
    def on(self, graph: ComputationGraph, d_model: int | None = None) -> Scores:
        """Return the scores on a model's graph that has their ports, whatever its groups are.

        `d_model`: the model's width, which must be that of another tool's file if it states one.

        Raises:
            GraphMismatch: another tool's circuit does not fit the graph; says with which options.
            FileFormatError: a list names edges that the graph has not.
        """
        from ..graphs.scores import Scores

        if self.named is not None:
            return _kept_or_scored(self.named.on(graph), None)
        if self.circuit is not None:
            return _kept_or_scored(*self.circuit.on(graph, d_model))
        assert self.scores is not None
        own = self.scores.graph
        alike = (own.senders, own.ports, own.parallel) == (
            graph.senders,
            graph.ports,
            graph.parallel,
        )
        return Scores(graph, self.scores.values) if alike else self.scores

    def counted(self) -> object:
        """Return what it is of, and a hash of the scores."""
        if self.scores is None:  # the hash of its file is among what is said of it
            return dict(self.about)
        return {**self.about, "sha256": hashlib.sha256(self.scores.values.tobytes()).hexdigest()}


@typed
def read_start(path: str | Path) -> Start:
    """Read a file of scores, or the kept edges of a circuit; those without a score stand first.

    A circuit may be another tool's: a graph of EAP-IG, or an edge list, whose edges are put on the
    graph of the model once that is known. A graph that keeps no edge gives the scores of all. Edges
    may stand in a list by their own names too, as text or JSON.

    Raises:
        FileFormatError: the file is none of these, or something in it is wrong.
    """
    from ..graphs.errors import FileFormatError
    from ..graphs.files import read_circuit, read_scores, scores_path
    from ..graphs.files.exchange import is_foreign, is_named
    from ..graphs.files.reading import is_there
    from ..graphs.files.scores import ABOUT

    about: dict[str, object]
    if not is_there(path):
        raise FileFormatError(
            f"{path} does not exist; expected scores, a circuit, or a list of edges by their names."
        )
    if str(scores_path(path)) == str(path):
        file = read_scores(path)
        scores, about = file.scores, {**file.about}
    elif is_named(path):
        return _of_list(path)
    elif is_foreign(path):
        return _of_another_tool(path)
    else:
        found = read_circuit(path)
        assert found.edge_scores is not None  # CircuitFile.__post_init__
        scores = _ranked(found.circuit, found.edge_scores)
        about = {key: str(found.discovery[key]) for key in ABOUT}  # type: ignore[literal-required]
    return Start(scores, {**about, "edges": _known(scores)})


def _known(scores: Scores) -> int:
    import numpy as np

    return int((~np.isnan(scores.values)).sum())


def _ranked(circuit: Circuit, values: np.ndarray) -> Scores:
    """Return the scores of kept edges, of those without one an infinite."""
    import numpy as np

    from ..graphs.scores import Scores

    values = np.where(np.isnan(values), np.inf, values)
    return Scores(circuit.graph, np.where(circuit.kept, values, np.nan))


def _kept_or_scored(circuit: Circuit, scores: Scores | None) -> Scores:
    """Return the scores of the edges a circuit keeps; of one that keeps none, those of all."""
    import numpy as np

    if scores is not None and not len(circuit):
        return scores
    none = np.full(circuit.kept.shape, np.nan)
    return _ranked(circuit, none if scores is None else scores.values)


def _of_list(path: str | Path) -> Start:
    from ..graphs.files.exchange import read_named

    found = read_named(path)
    about = {"file": found.path.name, "file_sha256": found.sha256, "edges": len(found.edges)}
    return Start(None, about, named=found)


def _of_another_tool(path: str | Path) -> Start:
    from ..graphs.files.exchange import read_foreign

    found = read_foreign(path)
    about: dict[str, object] = {"tool": found.tool, "file": found.path.name}
    about["file_sha256"] = found.sha256
    if found.shape is None:
        return Start(None, {**about, "edges": found.kept}, found)
    scores = _kept_or_scored(*found.on(found.shape))
    return Start(scores, {**about, "edges": _known(scores)}, found)
