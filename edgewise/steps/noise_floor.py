"""The noise floor of a diff: what differs between two models by more than prompts make it differ?

1. The discovery is repeated R times in each model on independent sets of prompts (`repeating`).
2. Every edge of the graph is tested on the scores of the repetitions (`discovery.significance`).
3. An edge that only one circuit keeps *changed* if its q-value is below the level; the others are
   within the noise, whatever the two circuits say. Shared edges whose score changed, and edges
   that neither circuit keeps, are listed as well.
4. Beside each edge stands its survival: the share of repetitions whose circuit keeps it; and beside
   the circuits' overlap that of repetitions in one model, and of repetitions in different ones.

The block `noise_floor` of a diff file holds it all as plain values.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..graphs.errors import EdgewiseError
from ..graphs.files.diff import reading_block

if TYPE_CHECKING:
    from ..graphs.diff import CircuitDiff
    from ..graphs.files import CircuitFile, DiffFile
    from ..session import Progress
    from .compare import Source
    from .repeat import PromptSets, Recipe, Repeats

LEVEL = 0.05
"""The share of false changes that is accepted, unless told otherwise."""

PLACES = {"only_a": "only in A", "only_b": "only in B", "shared": "shared", "outside": "in neither"}


class FloorRow(NamedTuple):
    """Hold what the repetitions say of an edge.

    `survival_a`, `survival_b`: shares of the repetitions whose circuit keeps it. `mean_a`,
    `mean_b`: of its scores. `p`, `q`: see `discovery.significance`.
    """

    sender: str
    port: str
    survival_a: float
    survival_b: float
    mean_a: float
    mean_b: float
    p: float
    q: float

    @property
    def edge(self) -> str:
        """Return the edge's name."""
        return f"{self.sender}->{self.port}"


def noise_floor(
    file_a: CircuitFile,
    file_b: CircuitFile,
    repetitions: int,
    *,
    level: float = LEVEL,
    models: tuple[Source, Source] = (None, None),
    batch_size: int | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Repeat the discovery of two circuits in their models; return the block `noise_floor`.

    One model is in memory at a time.

    Args:
        file_a, file_b: circuits found in the same way, on equal graphs.
        repetitions: how often in each model.
        level: of q-values, for the edges listed beside those of the two circuits.
        models: references or open sessions in place of the models the files name.
        batch_size, device: how to compute.
        progress: told what is done.

    Raises:
        EdgewiseError: the circuits were found in different ways, or the prompts are too few.
        GraphMismatch: a model is not of its circuit's shape.
    """
    from ..graphs.files import diff_files
    from .compare import Asked, look_closer

    asked = Asked(repetitions=repetitions, level=level, batch_size=batch_size, device=device)
    found, _ = look_closer(diff_files(file_a, file_b), (file_a, file_b), asked, models, progress)
    block: dict[str, Any] = found.extra["noise_floor"]
    return block


def check_level(level: float) -> float:
    """Refuse a level that is none.

    Raises:
        EdgewiseError: not between 0 and 1.
    """
    if not 0 < level < 1:
        raise EdgewiseError(f"level is {level}; accepted: a number between 0 and 1, such as 0.05.")
    return level


def floor_block(
    diff: CircuitDiff,
    repeats: tuple[Repeats, Repeats],
    recipe: Recipe,
    sets: PromptSets,
    level: float = LEVEL,
) -> dict[str, Any]:
    """Test every edge on the repetitions in both models; return the block of a diff file."""
    from ..discovery.significance import compare_edges, jaccard_matrix, label_permutation

    a, b = repeats
    graph = diff.a.graph
    test = compare_edges(graph, a.scores, b.scores)
    alike = label_permutation(jaccard_matrix(np.concatenate([a.kept, b.kept])), len(a))
    survival = (a.kept.mean(0), b.kept.mean(0))
    columns = (*survival, test.mean_a, test.mean_b, test.p, test.q)
    listed = diff.a.kept | diff.b.kept | (np.nan_to_num(test.q, nan=1.0) < level)
    name, options = recipe.scored_by
    return {
        "repetitions": len(a),
        "examples": sets.examples,
        "seeds_a": list(sets.seeds_a),
        "seeds_b": list(sets.seeds_b),
        "prompts": "new seeds" if sets.seeds_a else "disjoint groups of the file's pairs",
        "method": recipe.method,
        "scores": name,
        "scores_options": options,
        "metric": recipe.metric,
        "ablation": recipe.ablation,
        "level": check_level(level),
        "edges_tested": graph.edge_count,
        "test": (
            f"Welch's t-test of the {name} scores of {len(a)} repetitions in A and {len(b)} in B, "
            f"each on {sets.examples} pairs of its own, for each of the {graph.edge_count} edges; "
            "q-values after Benjamini and Hochberg over all of them"
        ),
        "jaccard": {
            "within_a": alike.within_a,
            "within_b": alike.within_b,
            "between": alike.between,
            "p": alike.p,
        },
        "edges": [
            [*_names(diff, row, sender), *(float(column[row, sender]) for column in columns)]
            for row, sender in np.argwhere(listed)
        ],
    }


def _names(diff: CircuitDiff, row: int, sender: int) -> tuple[str, str]:
    edge = diff.a.graph.edge_at(row, sender)
    return str(edge.sender), str(edge.port)


# -- what it allows to say -----------------------------------------------------------------------


@dataclass(frozen=True)
class Floor:
    """Hold a diff's noise floor, its edges by where the diff has them.

    Args:
        block: the block `noise_floor` of the diff file.
        rows: by `only_a`, `only_b`, `shared` and `outside`, those of least q first.
    """

    block: Mapping[str, Any]
    rows: Mapping[str, tuple[FloorRow, ...]]

    @staticmethod
    def of(found: DiffFile) -> Floor | None:
        """Read the noise floor of a diff; None if none was measured.

        Raises:
            FileFormatError: the block cannot be read.
        """
        block = found.extra.get("noise_floor")
        if block is None:
            return None
        with reading_block("noise_floor"):
            rows = sorted((FloorRow(*row) for row in block["edges"]), key=lambda row: row.q)
            float(block["level"])
            _least_p(block)
            for key in ("within_a", "within_b", "between", "p"):
                np.array(block["jaccard"][key], dtype=float)
            places = {name: tuple(_of_place(found.diff, rows, name)) for name in PLACES}
        return Floor(block, places)

    @property
    def level(self) -> float:
        """Return the level of q-values."""
        return float(self.block["level"])

    @property
    def least_p(self) -> float:
        """Return the least p-value that dealing this many repetitions out to two groups allows."""
        return _least_p(self.block)

    def changed(self, place: str) -> tuple[FloorRow, ...]:
        """List the edges of a place that changed beyond the noise floor."""
        return tuple(row for row in self.rows[place] if row.q < self.level)

    def sentences(self, names: tuple[str, str] = ("A", "B")) -> list[str]:
        """Say what the noise floor allows to say, in a few sentences."""
        a, b = names
        beyond = f"changed beyond the noise floor (q < {self.level:g})"
        lines = []
        for place, where, of in (
            ("only_a", f"only in {a}", "of these"),
            ("only_b", f"only in {b}", "of these"),
            ("shared", "shared", "the scores of"),
        ):
            number = len(self.changed(place))
            counted = f"; {of} {number:,} {beyond}" if self.rows[place] else ""
            lines.append(f"{_edges(self.rows[place])} {where}{counted}{self._directions(place, b)}")
        outside = len(self.changed("outside"))
        if outside:
            directions = self._directions("outside", b)
            lines.append(f"{_edges(range(outside))} in neither circuit {beyond}{directions}")
        return lines

    def _directions(self, place: str, b: str) -> str:
        """Say how many of a place's changed edges are stronger and weaker in B, by |score|.

        Where circuits keep the strongest edges, one that others overtook is lost although its own
        effect has grown.
        """
        changed = self.changed(place)
        stronger = sum(abs(row.mean_b) > abs(row.mean_a) for row in changed)
        if not changed:
            return ""
        return f": {stronger:,} stronger in {b}, {len(changed) - stronger:,} weaker"

    def likeness(self) -> Iterator[tuple[str, float, float, float, int]]:
        """Yield pairs of repetitions' mean, least and largest Jaccard index, and how many pairs."""
        names = {
            "within_a": "two repetitions in A",
            "within_b": "two repetitions in B",
            "between": "one in A, one in B",
        }
        for key, name in names.items():
            values = np.array(self.block["jaccard"][key], dtype=float)
            yield name, values.mean(), values.min(), values.max(), len(values)


def _least_p(block: Mapping[str, Any]) -> float:
    repetitions = int(block["repetitions"])
    return 2 / math.comb(2 * repetitions, repetitions)


def _of_place(diff: CircuitDiff, rows: Sequence[FloorRow], place: str) -> Iterator[FloorRow]:
    for row in rows:
        edge = row.edge
        where = {(True, True): "shared", (True, False): "only_a", (False, True): "only_b"}
        if where.get((edge in diff.a, edge in diff.b), "outside") == place:
            yield row


def _edges(things: Sequence[Any]) -> str:
    return "1 edge" if len(things) == 1 else f"{len(things):,} edges"
