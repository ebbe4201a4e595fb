"""Scores that a method starts from: those of a file, or the kept edges of a circuit."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..graphs.scores import Scores


@dataclass(frozen=True, eq=False)
class Start:
    """Scores that a method starts from, and what a circuit file says of them."""

    scores: Scores
    about: Mapping[str, object]

    def counted(self) -> object:
        """Return what it is of, and a hash of the scores."""
        return {**self.about, "sha256": hashlib.sha256(self.scores.values.tobytes()).hexdigest()}


def read_start(path: str | Path) -> Start:
    """Read a file of scores, or the kept edges of a circuit; those without a score stand first.

    Raises:
        FileFormatError: the file is neither, or something in it is wrong.
    """
    import numpy as np

    from ..graphs.files import read_circuit, read_scores, scores_path
    from ..graphs.files.scores import ABOUT
    from ..graphs.scores import Scores

    if str(scores_path(path)) == str(path):
        file = read_scores(path)
        scores, about = file.scores, file.about
    else:
        found = read_circuit(path)
        kept, values = found.circuit.kept, found.edge_scores
        assert values is not None  # CircuitFile.__post_init__
        values = np.where(np.isnan(values), np.inf, values)
        scores = Scores(found.circuit.graph, np.where(kept, values, np.nan))
        about = {key: str(found.discovery[key]) for key in ABOUT}  # type: ignore[literal-required]
    return Start(scores, {**about, "edges": int((~np.isnan(scores.values)).sum())})
