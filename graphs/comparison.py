"""What stands beside a diff once its two models were run: changes, stability, function, roles.

Values without models, as a diff file holds them; what makes them is told in `edgewise.steps`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from .circuit import Circuit
from .diff import CircuitDiff
from .graph import ComputationGraph
from .roles import HeadRoles

Pair = tuple[float, float]
"""A number in model A, and in model B."""

PLACES = {"only_a": "only in A", "only_b": "only in B", "shared": "shared", "outside": "in neither"}
"""Where an edge can stand in a diff."""

UNRELATED = 0.1
"""Below this correlation of their weights two models are not two states of one training."""


def _place(diff: CircuitDiff, edge: str) -> str:
    where = {(True, True): "shared", (True, False): "only_a", (False, True): "only_b"}
    return where.get((edge in diff.a, edge in diff.b), "outside")


# -- the same prompts in both models --------------------------------------------------------------


class EdgeChange(NamedTuple):
    """What the same prompts in both models tell of an edge.

    `mean_a`, `mean_b`: its scores; `change`: the second minus the first, with its 95% interval
    `low` to `high`; `q`: see `discovery.uncertainty.paired`.
    """

    sender: str
    port: str
    mean_a: float
    mean_b: float
    change: float
    low: float
    high: float
    q: float

    @property
    def edge(self) -> str:
        """Return the edge's name."""
        return f"{self.sender}->{self.port}"


@dataclass(frozen=True)
class Controls:
    """How many edges change where nothing has changed; None where that was not looked at.

    `other_prompts`: in one model, from one half of the prompts to the other, of A and of B
    together. `rounded_weights`: from B to B with its weights rounded to bfloat16.
    """

    other_prompts: int | None = None
    rounded_weights: int | None = None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Which edges' scores differ between two models, on the same prompts, by more than δ.

    Every example counts once in both models; of the `examples`, `clusters` count as independent.
    `scores` names the method whose scores were tested. An edge changed if its q-value is below the
    `level`: then it changed by more than `delta`, in `unit` (that of the metric), which is
    `delta_share` of the larger model's difference between all edges and none; `full` and `empty`
    are the metric with all and with none, in A and in B. A change of `detectable` would probably
    have been found in nine of ten of the circuits' edges. `templates`: how many labels the examples
    have between them, 0 where each has its own or none. `held_out`: neither circuit was found on
    these prompts. `edges` has every edge in which the circuits differ, and every one that changed.
    """

    test: str = "paired"
    examples: int
    clusters: int
    templates: int = 0
    metric: str
    unit: str = ""
    ablation: str = ""
    scores: str = ""
    scores_options: Mapping[str, object] = field(default_factory=dict)
    held_out: bool = False
    sha256: str | None = None
    delta: float
    delta_share: float | None = None
    detectable: float
    level: float
    edges_tested: int = 0
    full: Pair | None = None
    empty: Pair | None = None
    weights_correlation: float | None = None
    controls: Controls = Controls()
    edges: tuple[EdgeChange, ...] = field(repr=False)

    def __post_init__(self) -> None:
        if not (0 < self.level < 1 and self.delta >= 0 and self.examples >= self.clusters >= 2):
            raise ValueError(
                "accepted: a level between 0 and 1, a delta from 0 up, two clusters or more"
            )

    def amount(self, value: float) -> str:
        """Write a number of the metric with its unit."""
        return f"{value:.3g} {self.unit}" if self.unit else f"{value:.3g} of {self.metric}"

    @property
    def prompts(self) -> str:
        """Say on how many prompts it was tested."""
        clusters = "" if self.clusters == self.examples else f" of {self.clusters} templates"
        return f"{self.examples} {'held-out ' * self.held_out}prompts{clusters}"

    @property
    def significant(self) -> tuple[EdgeChange, ...]:
        """List the edges that changed."""
        return tuple(row for row in self.edges if row.q < self.level)


def changed_edges(measured: Comparison, graph: ComputationGraph) -> Circuit:
    """Keep the edges that changed: the circuit of which to ask what the change does."""
    return Circuit.empty(graph).with_edges([row.edge for row in measured.significant])


@dataclass(frozen=True)
class Changes:
    """A comparison's edges by where the diff has them, and what that allows to say."""

    measured: Comparison
    diff: CircuitDiff

    @cached_property
    def rows(self) -> Mapping[str, tuple[EdgeChange, ...]]:
        """Return the rows by `PLACES`: those that changed first, then by the size of the change."""
        level = self.measured.level
        found: dict[str, list[EdgeChange]] = {place: [] for place in PLACES}
        for row in sorted(self.measured.edges, key=lambda row: (row.q >= level, -abs(row.change))):
            found[_place(self.diff, row.edge)].append(row)
        return {place: tuple(rows) for place, rows in found.items()}

    def changed(self, *places: str) -> tuple[EdgeChange, ...]:
        """List the edges of some places that changed; default: of all."""
        level = self.measured.level
        return tuple(r for place in places or PLACES for r in self.rows[place] if r.q < level)

    @cached_property
    def circuit(self) -> Circuit:
        """Keep the edges that changed, wherever the diff has them."""
        return changed_edges(self.measured, self.diff.a.graph)

    def sentences(self, names: tuple[str, str] = ("A", "B")) -> list[str]:
        """Say what the comparison allows to say, in a few sentences."""
        found, (a, b) = self.measured, names
        every, more = self.changed(), found.amount(found.delta)
        test = f"q < {found.level:g}, {found.prompts}"
        least = found.amount(found.detectable)
        if every:
            lines = [
                f"{_edges(every)} changed by more than {more} ({test}){_directions(every, b)}",
                f"the smallest change that {found.prompts} would have shown is {least}",
            ]
        else:
            lines = [
                f"no edge changed by more than {more} ({test}): none above {least}, the smallest "
                f"change that {found.prompts} would have shown"
            ]
        if found.templates and found.clusters == found.examples:
            lines.append(
                f"this is told of these {found.templates} templates, too few to stand for others"
            )
        lone = len(self.diff.only_a) + len(self.diff.only_b)
        for place, where in (
            ("only_a", f"only in {a}"), ("only_b", f"only in {b}"), ("shared", "shared"),
            ("outside", "in neither circuit"),
        ):  # fmt: skip
            changed, total = self.changed(place), len(getattr(self.diff, place, ()))
            if every and (changed or place != "outside"):
                of = "" if place == "outside" else f" of {total:,}"
                lines.append(f"{where}: {len(changed):,}{of} changed{_directions(changed, b)}")
        if lone and not self.changed("only_a", "only_b"):
            lines.append(
                f"the circuits differ in {lone:,} edges, and none of these changed: as far as "
                "these prompts tell, that difference of sets is within the noise of selection"
            )
        return lines

    def warnings(self, names: tuple[str, str] = ("A", "B")) -> list[str]:
        """Say what makes the comparison doubtful, if anything does."""
        found, (a, b) = self.measured, names
        lines = []
        if found.weights_correlation is not None and found.weights_correlation < UNRELATED:
            lines.append(
                f"the weights of {a} and {b} are unrelated (correlation "
                f"{found.weights_correlation:.2f}), as those of two trainings from different "
                "starts: their heads do not correspond one by one, so edges of one name need not "
                "be the same edge; compare what heads do instead (`edgewise roles`)"
            )
        for number, what in (
            (found.controls.other_prompts, "between two halves of the prompts in one model"),
            (found.controls.rounded_weights, f"between {b} and itself with rounded weights"),
        ):
            if number:
                are, edges = ("is", "edge") if number == 1 else ("are", "edges")
                lines.append(
                    f"{number:,} {edges} {are} found to change {what}, where nothing changed: "
                    "trust no single edge here; more prompts, or a larger delta, may mend it"
                )
        return lines

    def controls(self, names: tuple[str, str] = ("A", "B")) -> str | None:
        """Say what the controls found, None where none was looked at."""
        of, looked = self.measured.controls, []
        if of.other_prompts is not None:
            looked.append(
                f"one half of the prompts against the other, in one model: {of.other_prompts:,}"
            )
        if of.rounded_weights is not None:
            looked.append(
                f"{names[1]} against itself with weights rounded to bfloat16: "
                f"{of.rounded_weights:,}"
            )
        if not looked:
            return None
        return f"edges that change where nothing changed: {'; '.join(looked)} (expected: none)"


def _directions(changed: Sequence[EdgeChange], b: str) -> str:
    """Say how many of some changed edges are stronger and weaker in B, by |score|."""
    if not changed:
        return ""
    stronger = sum(abs(row.mean_b) > abs(row.mean_a) for row in changed)
    return f": {stronger:,} stronger in {b}, {len(changed) - stronger:,} weaker"


# -- repeated discovery --------------------------------------------------------------------------


class FloorRow(NamedTuple):
    """The shares of the repetitions whose circuit keeps an edge.

    `mean_a` to `q` are of files of version 0.1, which tested scores over repetitions too; no longer
    shown, because so few repetitions find next to nothing.
    """

    sender: str
    port: str
    survival_a: float
    survival_b: float
    mean_a: float | None = None
    mean_b: float | None = None
    p: float | None = None
    q: float | None = None

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
    """How stable two circuits are, as sets of edges, when other prompts are drawn.

    In each model `repetitions` discoveries were done on `examples` pairs each; `prompts` says in
    words which, `seeds_a` and `seeds_b` what a built-in task made them from. The likeness of sets
    counts as different below `level`. `edges` has those of either circuit. `scores`,
    `scores_options`, `edges_tested` and `test` are of files of version 0.1.
    """

    repetitions: int
    examples: int
    seeds_a: tuple[int, ...] = ()
    seeds_b: tuple[int, ...] = ()
    prompts: str = ""
    method: str = ""
    scores: str | None = None
    scores_options: Mapping[str, object] | None = None
    metric: str = ""
    ablation: str = ""
    level: float
    edges_tested: int | None = None
    test: str | None = None
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
    """A noise floor's edges by where the diff has them."""

    measured: NoiseFloor
    diff: CircuitDiff

    @cached_property
    def rows(self) -> Mapping[str, tuple[FloorRow, ...]]:
        """Return the rows by `PLACES`, in the order of the file."""
        found: dict[str, list[FloorRow]] = {place: [] for place in PLACES}
        for row in self.measured.edges:
            found[_place(self.diff, row.edge)].append(row)
        return {place: tuple(rows) for place, rows in found.items()}

    def sentences(self, names: tuple[str, str] = ("A", "B")) -> list[str]:
        """Say how many edges of either circuit most repetitions keep, and of the other model."""
        lines = []
        for side, place in enumerate(("only_a", "only_b")):
            kept = [(row.survival_a, row.survival_b) for row in self.rows[place]]
            own, other = (sum(both[i] > 0.5 for both in kept) for i in (side, 1 - side))
            if kept:
                lines.append(
                    f"{_edges(kept)} only in {names[side]}; most repetitions keep {own:,} of these "
                    f"in {names[side]}, and {other:,} in {names[1 - side]}"
                )
        shared = self.rows["shared"]
        if shared:
            often = sum(min(row.survival_a, row.survival_b) > 0.5 for row in shared)
            lines.append(f"{_edges(shared)} shared; most repetitions in both keep {often:,}")
        return lines


def _edges(things: Sized) -> str:
    return "1 edge" if len(things) == 1 else f"{len(things):,} edges"


# -- cross-evaluation ----------------------------------------------------------------------------

ROWS = {"A": "circuit A", "B": "circuit B", "both": "their intersection", "either": "their union"}
"""The circuits that are run in both models."""


@dataclass(frozen=True)
class CrossRow:
    """What one of `ROWS` measures, and how faithful it is, in either model."""

    circuit: str
    edges: int
    value: Pair
    faithfulness: Pair
    interval: tuple[Pair | None, Pair | None] = (None, None)


@dataclass(frozen=True)
class RandomCircuits:
    """How faithful random circuits of so many edges are in model A, and in model B.

    `median`: theirs, with its interval over draws and prompts; none in older files.
    """

    circuits: int
    edges: int
    faithfulness: tuple[tuple[float, ...], tuple[float, ...]]
    median: tuple[Ratio, Ratio] | None = None

    def told(self) -> Iterator[tuple[str, tuple[Ratio, Ratio]]]:
        """Yield in words, and of either model, the least, the middle and the most faithful one."""
        if not self.circuits:
            return
        least, most = (tuple(map(pick, self.faithfulness)) for pick in (min, max))
        yield f"{self.circuits} random ones, least faithful", (Ratio(least[0]), Ratio(least[1]))
        if self.median is not None:
            yield "their median", self.median
        yield f"{self.circuits} random ones, most faithful", (Ratio(most[0]), Ratio(most[1]))


@dataclass(frozen=True, kw_only=True)
class CrossEvaluation:
    """What two circuits, what they share and their union do in both models.

    They were measured on so many `examples`, whose hash is `sha256`. `rows` has one for each of
    `ROWS`, `random` what as many edges do anyhow; `full` and `empty` are the metric with all edges
    and with none. `differences`: in either model the 95% intervals of one circuit's faithfulness
    minus another's, on the same pairs, as `A-B`. `undefined`: in which model full and empty differ
    by less than two standard errors, so that faithfulness means nothing.
    """

    metric: str
    ablation: str = ""
    examples: int = 0
    sha256: str | None = None
    models: tuple[str, str]
    rows: tuple[CrossRow, ...]
    random: RandomCircuits = field(repr=False)
    full: Pair
    empty: Pair
    differences: tuple[dict[str, Pair | None], dict[str, Pair | None]] = ({}, {})
    undefined: tuple[bool, bool] = (False, False)

    def __post_init__(self) -> None:
        if [row.circuit for row in self.rows] != list(ROWS):
            raise ValueError(f"accepted: rows of {', '.join(ROWS)}")
        if any(len(values) != self.random.circuits for values in self.random.faithfulness):
            raise ValueError("accepted: the random faithfulness of every circuit")

    def told(self, shares: tuple[float | None, float | None]) -> tuple[float | None, float | None]:
        """Return shares in A and in B, None where faithfulness is undefined."""
        a, b = (None if no else x for x, no in zip(shares, self.undefined, strict=True))
        return a, b

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

    def __repr__(self) -> str:
        return str(self)

    @property
    def interval(self) -> Pair | None:
        """Return the ends of the interval, None where there are none."""
        return None if self.low is None or self.high is None else (self.low, self.high)

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

    `value`: what the metric is in either; `gain`: B's minus A's; `from_b`: both are measured from
    B's logits, as the metric compares with those of a whole model. `alone`, `without`: faithfulness
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
    from_b: bool = False
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
        one = self.edges == 1
        them = "the edge that changed keeps" if one else f"the {self.edges:,} changed edges keep"
        was, now = (f"{value:.4g}" for value in self.value)
        metric = f"{self.metric} from {b}'s logits" if self.from_b else self.metric
        lines = [f"by {metric} the models differ by {self.gain}: {was} in {a}, {now} in {b}"]
        if self.gain.within(margin):
            lines[0] += (
                f", within ±{margin:.3g}: function did not change, whatever changed in structure"
            )
        elif self.gain.has_zero:
            lines[0] += ": these prompts do not show that function changed"
        lines.append(
            f"alone, {them} {self.alone[0]} of the behaviour in {a} and {self.alone[1]} in {b}"
        )
        lines.append(
            f"without {'it' if one else 'them'}, {self.without[0]} is left in {a} and "
            f"{self.without[1]} in {b}; without as many random edges {self.random_without[0]} and "
            f"{self.random_without[1]}"
        )
        if self.carried_by_edges.value is not None:
            lines.append(
                f"with {b}'s values on {'it' if one else 'them'}, {a} gains "
                f"{self.carried_by_edges} of the difference; on all edges of "
                f"{'its sender' if one else f'their {self.senders:,} senders'} "
                f"{self.carried_by_senders}, on every edge {self.carried_by_all}"
            )
        return lines
