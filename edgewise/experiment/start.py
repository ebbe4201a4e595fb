"""Scores that a method starts from: those of a file, or the kept edges of a circuit."""

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
    from ..graphs.graph import ComputationGraph
    from ..graphs.scores import Scores


@dataclass(frozen=True, eq=False)
class Start:
    """Scores that a method starts from, and what a circuit file says of them.

    `said`: what was understood of another tool's file, if they are from one.
    """

    scores: Scores
    about: Mapping[str, object]
    said: str = ""

    def on(self, graph: ComputationGraph) -> Scores:
        """Return the scores on a model's graph that has their ports, whatever its groups are."""
        from ..graphs.scores import Scores

        own = self.scores.graph
        alike = (own.senders, own.ports, own.parallel) == (
            graph.senders,
            graph.ports,
            graph.parallel,
        )
        return Scores(graph, self.scores.values) if alike else self.scores

    def counted(self) -> object:
        """Return what it is of, and a hash of the scores."""
        return {**self.about, "sha256": hashlib.sha256(self.scores.values.tobytes()).hexdigest()}


@typed
def read_start(path: str | Path) -> Start:
    """Read a file of scores, or the kept edges of a circuit; those without a score stand first.

    A circuit may be a graph of EAP-IG; one that keeps no edge gives the scores of all.

    Raises:
        FileFormatError: the file is neither, or something in it is wrong.
    """
    import numpy as np

    from ..graphs.files import read_circuit, read_scores, scores_path
    from ..graphs.files.exchange import is_foreign
    from ..graphs.files.scores import ABOUT

    about: dict[str, object]
    said = ""
    if str(scores_path(path)) == str(path):
        file = read_scores(path)
        scores, about = file.scores, {**file.about}
    elif is_foreign(path):
        scores, about, said = _of_another_tool(path)
    else:
        found = read_circuit(path)
        assert found.edge_scores is not None  # CircuitFile.__post_init__
        scores = _ranked(found.circuit, found.edge_scores)
        about = {key: str(found.discovery[key]) for key in ABOUT}  # type: ignore[literal-required]
    return Start(scores, {**about, "edges": int((~np.isnan(scores.values)).sum())}, said)


def _ranked(circuit: Circuit, values: np.ndarray) -> Scores:
    """Return the scores of kept edges, of those without one an infinite."""
    import numpy as np

    from ..graphs.scores import Scores

    values = np.where(np.isnan(values), np.inf, values)
    return Scores(circuit.graph, np.where(circuit.kept, values, np.nan))


def _of_another_tool(path: str | Path) -> tuple[Scores, dict[str, object], str]:
    import numpy as np

    from ..graphs.errors import FileFormatError
    from ..graphs.files.exchange import read_foreign

    found = read_foreign(path)
    if found.shape is None:
        raise FileFormatError(
            f"{path} is an edge list of {found.tool}, which does not tell its graph; make a "
            "circuit file of it with `edgewise import`, and start from that."
        )
    circuit, scores = found.on(found.shape)
    if scores is None or len(circuit):
        none = np.full(circuit.kept.shape, np.nan)
        scores = _ranked(circuit, none if scores is None else scores.values)
    about: dict[str, object] = {"tool": found.tool, "file": found.path.name}
    about["file_sha256"] = found.sha256
    return scores, about, str(found)
