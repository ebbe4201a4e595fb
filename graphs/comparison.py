"""What stands beside a diff once its two models were run: noise floor, cross-evaluation, roles.

Values without models, as a diff file holds them; what makes them is told in `edgewise.steps`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sized
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from .diff import CircuitDiff
from .roles import HeadRoles

# -- noise floor ---------------------------------------------------------------------------------

PLACES = {"only_a": "only in A", "only_b": "only in B", "shared": "shared", "outside": "in neither"}
"""Where an edge can stand in a diff."""


class FloorRow(NamedTuple):
    """What the repetitions tell of an edge.

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


@dataclass(frozen=True)
class Likeness:
    """Jaccard indices of repetitions' circuits: within A, within B and between the two.

    `p`: how often two groups of such circuits are as much less alike between than within by chance.
    """

    within_a: tuple[float, ...]
    within_b: tuple[float, ...]
    between: tuple[float, ...]
    p: float


@dataclass(frozen=True, kw_only=True)
class NoiseFloor:
    """What differs between two models by more than prompts make it differ.

    In each model `repetitions` discoveries were done on `examples` pairs each; `prompts` says in
    words which, `seeds_a` and `seeds_b` what a built-in task made them from. `scores` names the
    method whose scores were tested, `test` says how; an edge counts as changed below the `level` of
    q-values. `edges` has those of either circuit, and every other one that changed.
    """

    repetitions: int
    examples: int
    seeds_a: tuple[int, ...] = ()
    seeds_b: tuple[int, ...] = ()
    prompts: str = ""
    method: str = ""
    scores: str = ""
    scores_options: Mapping[str, object] = field(default_factory=dict)
    metric: str = ""
    ablation: str = ""
    level: float
    edges_tested: int = 0
    test: str = "not stated"
    jaccard: Likeness = field(repr=False)
    edges: tuple[FloorRow, ...] = field(repr=False)

    def __post_init__(self) -> None:
        if self.repetitions < 2 or not 0 < self.level < 1:
            raise ValueError("accepted: repetitions from 2 up, a level between 0 and 1")

    @property
    def least_p(self) -> float:
        """Return the least p-value that dealing this many repetitions out to two groups allows."""
        few = self.repetitions < 500  # of more, the number of ways is too large for a float
        return 2 / math.comb(2 * self.repetitions, self.repetitions) if few else 0.0

    def likeness(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield what is compared, and the Jaccard indices of every such pair of circuits."""
        yield "two repetitions in A", np.array(self.jaccard.within_a)
        yield "two repetitions in B", np.array(self.jaccard.within_b)
        yield "one in A, one in B", np.array(self.jaccard.between)


@dataclass(frozen=True)
class Floor:
    """A noise floor's edges by where the diff has them, and what that allows to say."""

    measured: NoiseFloor
    diff: CircuitDiff

    @cached_property
    def rows(self) -> Mapping[str, tuple[FloorRow, ...]]:
        """Return the rows by `PLACES`, those of least q first."""
        found: dict[str, list[FloorRow]] = {place: [] for place in PLACES}
        where = {(True, True): "shared", (True, False): "only_a", (False, True): "only_b"}
        for row in sorted(self.measured.edges, key=lambda row: row.q):
            place = where.get((row.edge in self.diff.a, row.edge in self.diff.b), "outside")
            found[place].append(row)
        return {place: tuple(rows) for place, rows in found.items()}

    def changed(self, place: str) -> tuple[FloorRow, ...]:
        """List the edges of a place that changed beyond the noise floor."""
        return tuple(row for row in self.rows[place] if row.q < self.measured.level)

    def sentences(self, names: tuple[str, str] = ("A", "B")) -> list[str]:
        """Say what the noise floor allows to say, in a few sentences."""
        a, b = names
        beyond = f"changed beyond the noise floor (q < {self.measured.level:g})"
        lines = []
        for place, where, of in (
            ("only_a", f"only in {a}", "of these"),
            ("only_b", f"only in {b}", "of these"),
            ("shared", "shared", "the scores of"),
        ):
            number = len(self.changed(place))
            counted = f"; {of} {number:,} {beyond}" if self.rows[place] else ""
            lines.append(f"{_edges(self.rows[place])} {where}{counted}{self._directions(place, b)}")
        outside = self.changed("outside")
        if outside:
            directions = self._directions("outside", b)
            lines.append(f"{_edges(outside)} in neither circuit {beyond}{directions}")
        return lines

    def _directions(self, place: str, b: str) -> str:
        """Say how many of a place's changed edges are stronger and weaker in B, by |score|."""
        changed = self.changed(place)  # one that others overtook is lost though it may be stronger
        if not changed:
            return ""
        stronger = sum(abs(row.mean_b) > abs(row.mean_a) for row in changed)
        return f": {stronger:,} stronger in {b}, {len(changed) - stronger:,} weaker"


def _edges(things: Sized) -> str:
    return "1 edge" if len(things) == 1 else f"{len(things):,} edges"


# -- cross-evaluation ----------------------------------------------------------------------------

ROWS = {"A": "circuit A", "B": "circuit B", "both": "their intersection", "either": "their union"}
"""The circuits that are run in both models."""

Pair = tuple[float, float]
"""A number in model A, and in model B."""


@dataclass(frozen=True)
class CrossRow:
    """What one of `ROWS` measures, and how faithful it is, in either model."""

    circuit: str
    edges: int
    value: Pair
    faithfulness: Pair


@dataclass(frozen=True)
class RandomCircuits:
    """How faithful random circuits of so many edges are in model A, and in model B."""

    circuits: int
    edges: int
    faithfulness: tuple[tuple[float, ...], tuple[float, ...]]

    def ends(self) -> Iterator[tuple[str, Pair]]:
        """Yield the least and the most faithful one in either model, with words for a table."""
        for words, pick in (("least", min), ("most", max)):
            if self.circuits:
                a, b = map(pick, self.faithfulness)
                yield f"{self.circuits} random ones, {words} faithful", (a, b)


@dataclass(frozen=True, kw_only=True)
class CrossEvaluation:
    """What two circuits, what they share and their union do in both models.

    They were measured on so many `examples`, whose hash is `sha256`. `rows` has one for each of
    `ROWS`, `random` what as many edges do anyhow; `full` and `empty` are the metric with all edges
    and with none.
    """

    metric: str
    ablation: str = ""
    examples: int = 0
    sha256: str | None = None
    models: tuple[str, str]
    rows: tuple[CrossRow, ...]
    random: RandomCircuits
    full: Pair
    empty: Pair

    def __post_init__(self) -> None:
        if [row.circuit for row in self.rows] != list(ROWS):
            raise ValueError(f"accepted: rows of {', '.join(ROWS)}")
        if any(len(values) != self.random.circuits for values in self.random.faithfulness):
            raise ValueError("accepted: the random faithfulness of every circuit")

    def row(self, circuit: str) -> CrossRow:
        """Return the row of one of `ROWS`."""
        return next(row for row in self.rows if row.circuit == circuit)


# -- roles ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RolesInModel:
    """What some heads do in one model; `notes` limit what that means, in sentences."""

    heads: tuple[HeadRoles, ...] = field(default=(), repr=False)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class RolesComparison:
    """What the heads of two circuits do in model A, and in model B."""

    a: RolesInModel
    b: RolesInModel

    @property
    def heads(self) -> list[tuple[HeadRoles, HeadRoles]]:
        """List the heads that were measured in both models, with what they do in A and in B."""
        there = {head.node: head for head in self.b.heads}
        return [(head, there[head.node]) for head in self.a.heads if head.node in there]

    def notes(self, names: tuple[str, str] = ("A", "B")) -> list[str]:
        """Say what limits the roles, each note once, with the models it is of."""
        found: dict[str, list[str]] = {}
        for side, name in zip((self.a, self.b), names, strict=True):
            for note in side.notes:
                found.setdefault(note, []).append(name)
        return [f"roles in {' and '.join(where)}: {note}" for note, where in found.items()]


# -- what the edges that changed do ---------------------------------------------------------------


class Ratio(NamedTuple):
    """A measured value with its 95% interval; None where it is undefined, or has no interval."""

    value: float | None
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        """Write the value and its interval.

        >>> str(Ratio(0.5, 0.4, 0.6)), str(Ratio(None))
        ('.50 [.40, .60]', 'undefined')
        """
        if self.value is None:
            return "undefined"
        if self.low is None or self.high is None:
            return _short(self.value)
        return f"{_short(self.value)} [{_short(self.low)}, {_short(self.high)}]"

    def within(self, margin: float) -> bool:
        """Tell whether the whole interval lies within ±margin."""
        known = self.low is not None and self.high is not None
        return known and max(abs(self.low or 0.0), abs(self.high or 0.0)) <= margin

    @property
    def has_zero(self) -> bool:
        """Tell whether the interval has 0 in it, or there is none."""
        return self.low is None or self.high is None or self.low <= 0 <= self.high


def _short(value: float) -> str:
    text = f"{value:.2f}" if abs(value) < 10 else f"{value:.3g}"
    return text.replace("0.", ".", 1) if abs(value) < 1 else text


@dataclass(frozen=True, kw_only=True)
class ChangedFunction:
    """What the edges that changed do in models A and B, on so many `examples`.

    `value`: what the metric is in either; `gain`: B's minus A's. `alone`, `without`: faithfulness
    of the changed edges by themselves, and of all edges but them, in A and in B; `random_without`:
    the mean of all edges but as many random ones of each kind, over `random` sets.
    `carried_by_edges`, `carried_by_senders`, `carried_by_all`: which share of the gain A's run
    takes with B's values on the changed edges, on all edges of their `senders`, on all edges.
    """

    metric: str
    ablation: str = ""
    examples: int = 0
    sha256: str | None = None
    edges: int
    senders: int
    value: Pair
    gain: Ratio
    alone: tuple[Ratio, Ratio]
    without: tuple[Ratio, Ratio]
    random: int = 0
    random_without: tuple[Ratio, Ratio]
    carried_by_edges: Ratio
    carried_by_senders: Ratio
    carried_by_all: Ratio

    def sentences(self, margin: float, names: tuple[str, str] = ("A", "B")) -> list[str]:
        """Say what the changed edges do, and whether function changed by more than a margin."""
        a, b = names
        them = "the edge that changed" if self.edges == 1 else f"the {self.edges:,} changed edges"
        was, now = (f"{value:.4g}" for value in self.value)
        lines = [f"{self.metric} is {was} in {a} and {now} in {b}: {self.gain} more in {b}"]
        if self.gain.within(margin):
            lines[0] += (
                f", within ±{margin:.3g}: function did not change, whatever changed in structure"
            )
        elif self.gain.has_zero:
            lines[0] += ": these prompts do not show that function changed"
        lines.append(
            f"alone, {them} keep {self.alone[0]} of the behaviour in {a} and {self.alone[1]} in {b}"
        )
        lines.append(
            f"cut out, they leave {self.without[0]} in {a} and {self.without[1]} in {b}; as many "
            f"random edges leave {self.random_without[0]} and {self.random_without[1]}"
        )
        if self.carried_by_edges.value is not None:
            lines.append(
                f"with {b}'s values on them, {a} gains {self.carried_by_edges} of the difference; "
                f"with those of all edges of their {self.senders:,} senders "
                f"{self.carried_by_senders}, of every edge {self.carried_by_all}"
            )
        return lines
