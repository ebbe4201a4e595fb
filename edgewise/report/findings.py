"""What a run found, as a value: every number of its report, and what each sentence depends on.

The words are in the templates. Nothing is claimed beyond what was measured: an edge is called
changed only if its change on the same prompts is significant, and whether edges matter is told of
circuits that ran.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..discovery.evaluation import HELD_OUT, Evaluation, fitted_to_its_prompts
from ..discovery.measures.curve import Curve
from ..discovery.random_circuits import Baseline
from ..discovery.searches.orders import survived
from ..discovery.searches.stopping import stopped
from ..discovery.uncertainty.bootstrap import Estimate
from ..experiment.spec import Experiment, ModelSpec
from ..graphs.comparison import Changes, Floor
from ..graphs.diff import DiffSummary
from ..graphs.files import CircuitFile, DiffFile, read_circuit, read_diff, read_scores, unlike
from ..graphs.files.reading import read_json
from ..graphs.files.stability import EdgeStability, stability_of
from ..graphs.graph import ComputationGraph
from ..graphs.names import Edge
from ..graphs.roles import HeadRoles
from ..patching.ablations.registry import get_ablation
from ..steps.claims.claims import read_claims
from ..steps.claims.control import Control
from ..steps.claims.hypotheses import HypothesisTests
from ..steps.claims.rivals import Rivals
from ..steps.claims.worst import WorstCase
from ..store import names

STRONGEST = 10  # of a circuit's edges are listed
CHANGED = 15  # of the edges of changed score are listed
AREAS = ("cpr", "cmd")  # under a curve
MATTERS = 0.05  # differences of faithfulness below this are called little


class ReportPicture(NamedTuple):
    """The files that show one picture, one for each format, and what it shows."""

    words: str
    files: Sequence[str]

    @property
    def shown(self) -> list[str]:
        """Return the one file that a page can show; none if there is none."""
        usable = [one for end in (".png", ".svg") for one in self.files if one.endswith(end)]
        return usable[:1]


class CircuitFindings(NamedTuple):
    """What was found and measured in one model: its circuit, from the file `source`.

    `measured` has one evaluation for each of the spec's metrics, `pictures` the circuit's and its
    node scores', `strongest` the edges of largest |score|. `control`: what the same discovery finds
    with the weights redrawn, if it was run; so `random`, `tests`, `worst`, `rivals`. `measured` is
    in sample; `held_out` the same on pairs that were held out, if any were: all else is of these.
    """

    name: str
    source: str
    file: CircuitFile
    measured: Sequence[Evaluation]
    curve: Curve | None
    pictures: Sequence[ReportPicture]
    strongest: Sequence[tuple[Edge, float]]
    control: Control | None = None
    held_out: Sequence[Evaluation] = ()
    random: Baseline | None = None
    tests: HypothesisTests | None = None
    worst: WorstCase | None = None
    rivals: Rivals | None = None

    def side(self, number: int, held_out: bool) -> Evaluation | None:
        """Return what was measured by one of the metrics, held out or in sample, if it was."""
        measured = self.held_out if held_out else self.measured
        return measured[number] if number < len(measured) else None

    @property
    def in_sample(self) -> Evaluation | None:
        """Return the measure by the discovery's metric on the pairs the circuit was found on."""
        return self._by_its_metric(self.measured)

    @property
    def first(self) -> Evaluation | None:
        """Return the measure by the discovery's metric, held out if there is one."""
        return self._by_its_metric([*self.held_out, *self.measured])

    def _by_its_metric(self, measured: Sequence[Evaluation]) -> Evaluation | None:
        metric = self.file.discovery["metric"]
        return next((one for one in measured if one.metric == metric), None)

    @property
    def gap(self) -> str | None:
        """Say how far it does otherwise on other prompts than on its own, if beyond chance."""
        first, own = self.first, self.in_sample
        if first is None or own is None or not self.held_out:
            return None
        return fitted_to_its_prompts(own, first)

    @property
    def searched(self) -> list[str]:
        """Say where a search stopped, and what survives of several orders, if its file does."""
        where, most = stopped(self.file.discovery), survived(self.file.discovery)
        return [*([f"it stopped {where}"] if where else []), *([most] if most else [])]

    @property
    def stability(self) -> EdgeStability | None:
        """Return how stable the circuit's edges are under resampled prompts, if its file says."""
        return stability_of(self.file)


class ScoreChange(NamedTuple):
    """An edge's score in A and in B, and the name of the model whose circuit has it."""

    edge: Edge
    a: float
    b: float
    within: str


class Similarities(NamedTuple):
    """How alike pairs of circuits are: the middle, least and largest index, and how many pairs."""

    median: float | None = None
    least: float | None = None
    most: float | None = None
    pairs: int = 0


class Transfer(NamedTuple):
    """How the circuit of `there` does in the model `here`, beside its own.

    `own`, `other`, `both` and `random` are faithfulness: of the circuit found here, of that found
    there, of what the two share, and of random circuits; the nearer to 1, the better. `changed`:
    whether any edge of only one circuit changed on the same prompts (None: unknown).
    """

    here: str
    there: str
    own: float
    other: float
    both: float
    random: Sequence[float]
    changed: bool | None
    undefined: bool = False
    apart: Sequence[tuple[float, float]] = ()

    @property
    def far(self) -> bool:
        """Tell whether neither circuit comes within half of the whole model."""
        return min(abs(1 - self.own), abs(1 - self.other)) > 0.5

    def _by_intervals(self, better: str) -> str:
        beyond = [low > MATTERS or high < -MATTERS for low, high in self.apart]
        if beyond[0]:
            return better
        if all(low > -MATTERS and high < MATTERS for low, high in self.apart):
            return "little"
        return "either" if any(beyond) else "unsure"

    @property
    def between(self) -> str:
        """Write the interval of how far apart the two circuits are, in points; empty if unknown.

        Where 0 is not in it, as it is not if either is said to do better.
        """
        if not self.apart or self.apart[0][0] <= 0 <= self.apart[0][1]:
            return ""
        low, high = sorted(100 * abs(end) for end in self.apart[0])
        return f" [{low:.0f}, {high:.0f}]"

    @property
    def verdict(self) -> str:
        """Say what follows for the edges in which the two circuits differ, and no more.

        `undefined` if full model and no edge are not apart. Where the differences were resampled on
        the pairs (`apart`: own and other, each and what they share), one is beyond `MATTERS` if its
        whole interval is, within it likewise; `unsure` if neither can be said.
        `nothing` if a random circuit does as well; `own` or `other` if that one does better, so
        that the edges matter; else `little` or `either`: two circuits that do equally well may each
        need what the other lacks, so only if what they share does as well, too, they matter little.
        """
        if self.undefined:
            return "undefined"
        here, there = abs(1 - self.own), abs(1 - self.other)
        if any(abs(1 - value) <= min(here, there) for value in self.random):
            return "nothing"
        if self.apart:
            return self._by_intervals("own" if here <= there else "other")
        if abs(self.own - self.other) >= MATTERS:
            return "own" if here <= there else "other"
        lost = max(abs(self.own - self.both), abs(self.other - self.both))
        return "little" if lost < MATTERS else "either"


@dataclass(frozen=True)
class DiffFindings:
    """How the circuits of the models called `a` and `b` differ, by the diff's file at `source`.

    `pictures`: of the diff, and of node scores; `changes`: the edges whose score changed most.
    """

    a: str
    b: str
    file: DiffFile
    source: str = ""
    pictures: Sequence[ReportPicture] = (ReportPicture("", ()),) * 2
    changes: Sequence[ScoreChange] = ()

    @cached_property
    def summary(self) -> DiffSummary:
        """Return the overlaps of edges and nodes."""
        return self.file.diff.summary()

    @cached_property
    def compared(self) -> Changes | None:
        """Return which edges changed, if that was tested."""
        return self.file.compared

    @cached_property
    def floor(self) -> Floor | None:
        """Return the noise floor, if it was measured."""
        return self.file.floor

    @property
    def unlike(self) -> list[str]:
        """List what else differs than the model."""
        return unlike(self.file.a, self.file.b)

    @property
    def similarities(self) -> Iterator[Similarities]:
        """Yield how alike repetitions' circuits are: within A, within B, and between the two."""
        assert self.floor is not None
        for _, found in self.floor.measured.likeness():
            ends = (min(found), max(found), len(found)) if len(found) else (None, None, 0)
            yield Similarities(float(np.median(found)) if len(found) else None, *ends)

    @property
    def transfers(self) -> Iterator[Transfer]:
        """Yield what running both circuits in each of the models says."""
        cross, compared = self.file.cross, self.compared
        assert cross is not None
        changed = None if compared is None else bool(compared.changed("only_a", "only_b"))
        for model, (here, there) in enumerate(((self.a, self.b), (self.b, self.a))):
            keys = ("AB"[model], "BA"[model], "both")
            own, other, both = (cross.row(key).faithfulness[model] for key in keys)
            random = cross.random.faithfulness[model]
            apart = [one for one in cross.differences[model].values() if one is not None]
            known = apart if len(apart) == 3 else ()
            undefined = cross.undefined[model]
            yield Transfer(here, there, own, other, both, random, changed, undefined, known)

    @property
    def other_roles(self) -> list[tuple[HeadRoles, HeadRoles]]:
        """List the heads whose role is another one in B than in A."""
        heads = [] if self.file.roles is None else self.file.roles.heads
        return [(one, other) for one, other in heads if one.role != other.role]


@dataclass(frozen=True)
class Findings:
    """What a run's directory holds, as a report tells it; `prompts` are the facts of task.json."""

    spec: Experiment
    prompts: Mapping[str, object]
    circuits: Sequence[CircuitFindings]
    diffs: Sequence[DiffFindings]
    overlaps: ReportPicture

    @property
    def held_out(self) -> bool:
        """Tell whether anything was measured on pairs that were held out."""
        return any(one.held_out for one in self.circuits)

    @property
    def paired(self) -> bool:
        """Tell whether ablated edges carry what the corrupted prompt gives."""
        return get_ablation(self.spec.discovery.ablation).paired

    @property
    def kind_rows(self) -> list[tuple[str, list[int]]]:
        """List the kinds of edges, with how many the model has and how many each circuit keeps."""
        circuits = [one.file.circuit for one in self.circuits]
        counts = [one.graph.count_by_kind(one.kept) for one in circuits]
        totals = circuits[0].graph.count_by_kind()
        return [(kind, [n, *(one.get(kind, 0) for one in counts)]) for kind, n in totals.items()]

    @property
    def area_intervals(self) -> list[tuple[str, list[tuple[float, float] | None]]]:
        """List the areas with the 95% interval of every circuit's; empty: none was measured."""
        curves = [one.curve for one in self.circuits if one.curve is not None]
        if not any(one.interval(name) for one in curves for name in AREAS):
            return []
        return [(f"{name.upper()}, 95%", [one.interval(name) for one in curves]) for name in AREAS]

    @property
    def curve_rows(self) -> list[tuple[str, list[Estimate]]]:
        """List sizes with the faithfulness of every circuit, and the areas; empty: not measured."""
        curves = [one.curve for one in self.circuits if one.curve is not None]
        if not curves:
            return []

        def known(curve: Curve, value: float | None) -> Estimate:
            return Estimate(None if curve.undefined else value, math.nan, math.nan)

        rows = [
            (f"{size:,}", [known(one, one.faithfulness_absolute[i]) for one in curves])
            for i, size in enumerate(curves[0].sizes)
        ]
        areas = [(name.upper(), [known(c, getattr(c, name)) for c in curves]) for name in AREAS]
        return [*rows, *areas]


def read_findings(spec: Experiment, folder: Path) -> Findings:
    """Read what a finished run found; a FileFormatError says which file is missing or damaged."""
    task, evaluated = (read_json(folder / name) for name in (names.TASK, names.EVALUATION))
    options = (task.get("origin") or {}).get("options") or {}
    prompts = {"left_out": None, "test": None, "held_out": None, **task, "options": options}
    circuits = []
    for model in spec.models:
        source, found = names.circuit_name(model), evaluated["models"][model.name]
        file = read_circuit(folder / source)
        assert file.edge_scores is not None  # CircuitFile.__post_init__
        most = min(STRONGEST, len(file.circuit))
        measured, held_out = (
            [Evaluation.from_dict(one) for one in found.get(key, [])]
            for key in ("metrics", HELD_OUT)
        )
        curve = Curve(**found["curve"]) if "curve" in found else None
        pictures = _pictures(spec, source, f"the circuit of {model.name}", model.name)
        strongest = _strongest(file.circuit.graph, file.edge_scores, most)
        circuits.append(
            CircuitFindings(
                model.name,
                source,
                file,
                measured,
                curve,
                pictures,
                strongest,
                held_out=held_out,
                **read_claims(found),
            )
        )
    diffs = [_diff(spec, folder, variant) for variant in spec.variants]
    overlaps = ReportPicture("overlap of every two circuits", names.overlap_names(spec))
    return Findings(spec, prompts, circuits, diffs, overlaps)


def _diff(spec: Experiment, folder: Path, variant: ModelSpec) -> DiffFindings:
    models = (spec.base, variant)
    a, b = (model.name for model in models)
    source = names.diff_name(*models)
    file = read_diff(folder / source)
    graph, paths = file.diff.a.graph, [folder / names.circuit_name(model) for model in models]
    before, after = (read_scores(path, graph).scores for path in paths)
    within = {(True, True): "both", (True, False): a, (False, True): b}
    changes = []
    for edge, change in _strongest(graph, after.values - before.values, CHANGED):
        where = within.get((edge in file.diff.a, edge in file.diff.b), "neither")
        if change:
            changes.append(ScoreChange(edge, before[edge], after[edge], where))
    pictures = _pictures(spec, source, f"{a} and {b}", f"{a} and {b}")
    return DiffFindings(a, b, file, source, pictures, changes)


def _pictures(spec: Experiment, source: str, words: str, scored: str) -> list[ReportPicture]:
    drawn, scores = names.image_names(spec, source), names.heat_map_names(spec, source)
    return [ReportPicture(words, drawn), ReportPicture(f"node scores of {scored}", scores)]


def _strongest(graph: ComputationGraph, values: np.ndarray, most: int) -> list[tuple[Edge, float]]:
    """List the edges of the largest |value|, the largest first, without those that have none."""
    order = np.argsort(-np.nan_to_num(np.abs(values), nan=-1.0), axis=None, kind="stable")[:most]
    places = zip(*np.unravel_index(order, values.shape), strict=True)
    found = [(graph.edge_at(*place), float(values[place])) for place in places]
    return [(edge, value) for edge, value in found if not np.isnan(value)]
