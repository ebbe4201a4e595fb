"""The block `stability` of a circuit file: how often resampled prompts keep each of its edges.

    "stability": {"resamples": 1000, "examples": 64, "clusters": 24, "drawn": "groups",
                  "jaccard": .75, "jaccard_with_all": .8, "selected": 200, "least": .9,
                  "jaccard_stable": .75, "jaccard_stable_with_all": .82,
                  "edges": [[sender, port, share], …]}

`clusters`: how many groups the examples are of; `drawn`: whether these, or the examples, were
drawn. `jaccard`: how alike the resamples' circuits are, `jaccard_with_all` how like that of all
prompts (absent from older files); `selected`: the edges of the selection; `least`, `jaccard_stable`
and `jaccard_stable_with_all` (else null): the stability that was asked for, and the same of
circuits of such edges.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from typing_extensions import NotRequired, TypedDict

from ..calls.typed import typed
from ..circuit import Circuit
from ..errors import FileFormatError
from ..names import Edge
from .circuit import CircuitFile, edge_rows, read_rows, unscored
from .reading import checked

KEY = "stability"
GROUPS, EXAMPLES = "groups", "examples"


class StabilityBlock(TypedDict):
    """What resampled prompts say of a circuit."""

    resamples: int
    examples: int
    clusters: int
    drawn: str
    jaccard: float
    selected: int
    least: float | None
    jaccard_stable: float | None
    jaccard_with_all: NotRequired[float | None]
    jaccard_stable_with_all: NotRequired[float | None]
    edges: object


class _Holder(TypedDict):
    stability: StabilityBlock


@dataclass(frozen=True, eq=False)
class EdgeStability:
    """How stable a circuit's edges are; see the module.

    `shares`: float32 [ports, senders], NaN of edges that are not kept.
    """

    circuit: Circuit
    shares: np.ndarray = field(repr=False)
    resamples: int
    examples: int
    clusters: int
    drawn: str
    jaccard: float
    selected: int
    least: float | None = None
    jaccard_stable: float | None = None
    jaccard_with_all: float | None = None
    jaccard_stable_with_all: float | None = None

    def __getitem__(self, edge: Edge | str) -> float:
        return float(self.shares[self.circuit.graph.locate(edge)])

    def count(self, least: float) -> int:
        """Count the edges of at least a stability."""
        return int((self.shares[self.circuit.kept] >= least).sum())

    def cut_at(self, least: float, between: float, with_all: float) -> EdgeStability:
        """Add what stability edges have at least, and how alike circuits of such edges are."""
        return replace(self, least=least, jaccard_stable=between, jaccard_stable_with_all=with_all)

    @property
    def by_edge(self) -> dict[Edge, float]:
        """Return the share of resamples that keep each edge of the circuit."""
        return {edge: self[edge] for edge in self.circuit.edges}

    @property
    def block(self) -> dict[str, object]:
        """Return what a circuit file says of it."""
        left_out = ("circuit", "shares")
        found = {key: value for key, value in vars(self).items() if key not in left_out}
        return {**found, "edges": edge_rows(self.circuit, self.shares)}

    def words(self) -> str:
        """Say how stable the circuit is, and of what it was drawn."""
        few = self.clusters < self.examples and self.drawn == EXAMPLES
        groups = f"{self.clusters:,} group{'s' * (self.clusters > 1)}"
        of = f"{groups} of prompts" if self.drawn == GROUPS else f"{self.examples:,} prompts"
        if few:
            of += f" (of {groups}, too few to draw from: nothing is said of other ones)"
        said = f"mean Jaccard {self.jaccard:.2f} between circuits of {self.resamples:,} resamples "
        said += f"of {of}"
        if self.least is None:
            return f"{said}; {self.count(0.9):,} edges are in at least 90% of them"
        kept = f"{len(self.circuit):,} of {self.selected:,} edges kept, in at least "
        kept += f"{self.least:.0%} of them"
        return f"{said}; {kept}{self._again()}"

    def _again(self) -> str:
        """Say how alike circuits of such edges are, beside those before the cut."""
        if self.jaccard_stable is None:
            return ""
        found = f"between such: {self.jaccard_stable:.2f}"
        if self.jaccard_stable_with_all is not None and self.jaccard_with_all is not None:
            found += f"; such with these: {self.jaccard_stable_with_all:.2f}, "
            found += f"before the cut: {self.jaccard_with_all:.2f}"
        return f" ({found})"


@typed
def stability_of(file: CircuitFile) -> EdgeStability | None:
    """Return how stable a file's edges are, None if it does not say; FileFormatError if wrongly."""
    if KEY not in file.extra:
        return None
    where = file.path or "the circuit"
    document = {KEY: file.extra[KEY]}
    graph = file.circuit.graph
    shares = unscored(graph, 1)
    block = checked(where, document, _Holder)["stability"]
    read_rows(where, graph, f"{KEY}.edges", block["edges"], shares)
    if (wrong := ((shares < 0) | (shares > 1))[0]).any():
        edge = graph.edge_at(*np.argwhere(wrong)[0])
        raise FileFormatError(
            f"{where}: the stability of {edge} is {shares[0][wrong][0]:.4g}; accepted: a share, "
            "from 0 to 1."
        )
    shares[0][~file.circuit.kept] = np.nan
    return EdgeStability(
        file.circuit, shares[0], block["resamples"], block["examples"], block["clusters"],
        block["drawn"], block["jaccard"], block["selected"], block["least"],
        block["jaccard_stable"], block.get("jaccard_with_all"),
        block.get("jaccard_stable_with_all"),
    )  # fmt: skip
