"""Faithfulness by size, and the areas CPR and CMD under it (Mueller et al. 2025)."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from typing_extensions import TypedDict

from ...graphs.circuit import Circuit
from ...graphs.example_scores import clusters_of
from ...graphs.levels.nodes import EDGE
from ...graphs.scores import Scores
from ..evaluation import ratio
from ..uncertainty.bootstrap import (
    defined,
    faithfulness_estimate,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...patching.run.runner import Progress, Runner

CURVE_SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""The sizes of the Mechanistic Interpretability Benchmark's curves, as shares of all edges."""


class CurveIntervals(TypedDict, total=False):
    """The ends of 95% intervals, by the names of a curve's fields; None where there are none."""

    faithfulness: list[list[float] | None]
    faithfulness_absolute: list[list[float] | None]
    cpr: list[float] | None
    cmd: list[float] | None


@dataclass(frozen=True)
class Curve:
    """Faithfulness by size: `sizes` edges, `faithfulness` of each, and the two areas.

    CPR is the integral of f over the share of edges with circuits chosen by signed scores, CMD that
    of |1 − f| with circuits chosen by absolute scores, both by trapezoids from .001 to 1.
    `level`: of what sizes are numbers.
    `intervals`: 95%, by the names of the fields. `undefined`: full and empty are not apart, so that
    the ratios mean nothing.
    """

    sizes: tuple[int, ...]
    faithfulness: tuple[float | None, ...]
    faithfulness_absolute: tuple[float | None, ...]
    cpr: float | None
    cmd: float | None
    intervals: CurveIntervals = field(default_factory=CurveIntervals, repr=False)
    undefined: bool = False
    level: str = EDGE

    def as_dict(self) -> dict[str, object]:
        """Return everything as plain values; the level if it is another than that of edges."""
        found = asdict(self)
        return found if self.level != EDGE else {k: v for k, v in found.items() if k != "level"}

    def interval(self, name: str, place: int | None = None) -> tuple[float, float] | None:
        """Return the 95% interval of an area, or of one size's faithfulness by its field's name."""
        by_size = {
            "faithfulness": self.intervals.get("faithfulness"),
            "faithfulness_absolute": self.intervals.get("faithfulness_absolute"),
        }
        areas = {"cpr": self.intervals.get("cpr"), "cmd": self.intervals.get("cmd")}
        found = areas.get(name)
        if place is not None and (every := by_size.get(name)) is not None:
            found = every[place]
        return None if found is None else (float(found[0]), float(found[1]))


def curve(
    runner: Runner,
    scores: Scores,
    shares: Sequence[float] = CURVE_SHARES,
    progress: Progress | None = None,
) -> Curve:
    """Measure top circuits of several sizes, and the areas CPR and CMD (Mueller et al. 2025).

    Of scores of nodes, sizes are numbers, and shares, of nodes.
    """
    sizes = [max(1, round(share * scores.units)) for share in shares]
    graph = runner.graph
    full, empty = runner.measure_each([Circuit.full(graph), Circuit.empty(graph)])[0]
    ends = float(full.mean()), float(empty.mean())
    each: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for i, size in enumerate(sizes):
        tops = [scores.top(size, absolute=absolute) for absolute in (False, True)]
        for side, values in zip(each, runner.measure_each(tops)[0], strict=True):
            side.append(values)
        if progress is not None:
            progress(i + 1, len(sizes), f"circuits measured, {size} {scores.level}s")
    signed, absolute = (
        tuple(ratio(float(one.mean()), *ends, runner.floor) for one in side) for side in each
    )
    cpr = cmd = None
    clusters = clusters_of(runner.pairs.groups)
    intervals = CurveIntervals()
    is_defined = defined(full, empty, clusters, runner.floor)
    if None not in signed and None not in absolute:
        cpr, cmd, intervals = _areas((full, empty), each, shares, clusters)
    if not is_defined:
        intervals = CurveIntervals()
    return Curve(tuple(sizes), signed, absolute, cpr, cmd, intervals, not is_defined, scores.level)


def _areas(
    ends: tuple[np.ndarray, np.ndarray],
    each: tuple[Sequence[np.ndarray], Sequence[np.ndarray]],
    shares: Sequence[float],
    clusters: np.ndarray,
) -> tuple[float, float, CurveIntervals]:
    """Return CPR, CMD and the intervals of a curve, of values on each pair.

    Both areas are ratios of means too: Σ w (c − ∅) over full − ∅, and, as far as no 1 − f changes
    its sign, Σ w sign(1 − f) (full − c), w being the trapezoids' weights.
    """
    full, empty = ends
    steps = np.diff(np.asarray(shares))
    weights = (np.append(steps, 0) + np.insert(steps, 0, 0)) / 2
    gap = float((full - empty).mean())
    signed, absolute = (np.stack(side) for side in each)
    ratios = (absolute - empty).mean(1) / gap
    area = weights @ (signed - empty)
    missed = (weights * np.sign(1 - ratios)) @ (full - absolute)

    def interval(values: np.ndarray, least: float = -math.inf) -> list[float] | None:
        found = faithfulness_estimate(full, empty + values, empty, clusters).interval
        return None if found is None else [max(least, found[0]), found[1]]

    intervals = CurveIntervals(
        faithfulness=[interval(one - empty) for one in signed],
        faithfulness_absolute=[interval(one - empty) for one in absolute],
        cpr=interval(area),
        cmd=interval(missed, least=0.0),
    )
    return float(area.mean() / gap), float(missed.mean() / gap), intervals
