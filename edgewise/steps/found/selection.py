"""Which edges are kept of a method's scores, how stable they are, and what must be said of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ...discovery.evaluation import Evaluation
from ...discovery.meaning import (
    Ties,
    doubts_of_selection,
    ties,
)
from ...discovery.registry import Discovery
from ...discovery.smallest import smallest_faithful
from ...discovery.uncertainty.cross_fit import Fitted, fewest
from ...discovery.uncertainty.stability import (
    EdgeRule,
    Stability,
    stability,
    stable,
    stable_likeness,
)
from ...experiment.spec import DiscoverySpec, Selection
from ...graphs.circuit import Circuit
from ...graphs.errors import EdgewiseError
from ...graphs.files.stability import EXAMPLES, GROUPS, EdgeStability
from ...graphs.files.stability import KEY as STABILITY
from ...graphs.levels.nodes import EDGE
from ...progress import Progress
from .greedy import greedy

if TYPE_CHECKING:
    from ...patching.run.runner import Runner


@dataclass(frozen=True, eq=False)
class Selected:
    """The circuit that a selection makes of scores; `fitted`: where its size was chosen, if so.

    `rule`: which edges it keeps of scores; `stability`: how often those of resampled prompts do;
    `selected`: how many it keeps before any are left out as not stable.
    """

    circuit: Circuit
    fitted: Fitted | None = None
    rule: EdgeRule | None = None
    stability: Stability | None = None
    selected: int = 0

    def by_score(self, select: Selection) -> bool:
        """Tell whether its edges are those of largest score, not of largest |score|."""
        return select.signed if self.fitted is None else self.fitted.signed


def chosen_circuit(
    runner: Runner, found: Discovery, select: Selection, progress: Progress | None
) -> tuple[Selected, Ties | None, list[str]]:
    """Return the circuit, what ties where it was cut, and what must be said of it."""
    doubts = [found.doubt] if found.doubt else []
    if found.circuit is not None:
        return Selected(found.circuit), None, doubts
    kept, tied = selected(runner, found, select, progress, resampled=True), None
    if select.as_dict():
        cut = select.above is None and not (select.connected or select.greedy)
        if cut and select.stable is None:
            tied = ties(found.scores, kept.circuit, absolute=not kept.by_score(select))
        signed = kept.by_score(select)
        doubts += doubts_of_selection(found.scores, kept.circuit, tied, signed=signed)
    return kept, tied, doubts


def selected(
    runner: Runner,
    found: Discovery,
    select: Selection,
    progress: Progress | None = None,
    *,
    resampled: bool = False,
) -> Selected:
    """Return the circuit a selection makes of a method's scores; without one, every scored edge.

    `resampled`: tell how stable it is, even if nothing is left out for that.
    """
    kept = _selected(runner, found, select, progress)
    if not select.as_dict() or not (resampled or select.stable is not None):
        return kept
    if (
        select.greedy or found.scores.level != EDGE
    ):  # what joins depends on what has; resamples are cut by score alone; edges
        return kept
    if found.examples is None:
        if select.stable is None:
            return kept
        raise EdgewiseError(
            "stable leaves out edges that resampled prompts would not keep, for which each pair's "
            "own scores are needed, and here there are none; accepted: a selection without it, or "
            "a method that scores each pair."
        )
    absolute, above = not kept.by_score(select), select.above
    rule = EdgeRule.of(
        kept.circuit, found.scores, absolute=absolute, connected=select.connected, above=above
    )
    resample = stability(found.examples, rule)
    circuit = kept.circuit
    if select.stable is not None:
        circuit = stable(circuit, resample, select.stable, connected=select.connected)
    return replace(kept, circuit=circuit, rule=rule, stability=resample, selected=len(kept.circuit))


def _selected(
    runner: Runner, found: Discovery, select: Selection, progress: Progress | None
) -> Selected:
    """Return the circuit that a selection makes, before edges are left out as not stable."""
    how = {"absolute": not select.signed, "connected": select.connected}
    scores = found.scores
    if select.top is not None:
        choose = partial(greedy, scores) if select.greedy else scores.top
        return Selected(choose(select.top, **how))
    if select.above is not None:
        circuit = scores.above(select.above, absolute=not select.signed)
        return Selected(circuit.prune_dangling() if select.connected else circuit)
    if select.target is not None:
        if found.examples is None:
            raise EdgewiseError(
                "target chooses a size on pairs that the scores are not of, for which each pair's "
                "own scores are needed, and here there are none; accepted: top, above or "
                "faithfulness, or a method that scores each pair."
            )
        fitted = fewest(runner, found.examples, select.target, progress=progress, **how)
        return Selected(fitted.circuit, fitted)
    if select.faithfulness is not None:
        return Selected(smallest_faithful(runner, scores, select.faithfulness, progress, **how))
    return Selected(Circuit(scores.graph, ~np.isnan(scores.values)))


def stability_block(kept: Selected, found: Discovery, select: Selection) -> dict[str, object]:
    """Return what a circuit file says of how stable its edges are."""
    resample = kept.stability
    if resample is None or found.examples is None or kept.rule is None:
        return {}
    told = edge_stability(kept.circuit, resample, kept.selected)
    if select.stable is not None:
        alike = stable_likeness(found.examples, kept.rule, select.stable)
        told = told.cut_at(select.stable, alike.between, alike.with_all)
    return {STABILITY: told.block}


def edge_stability(circuit: Circuit, found: Stability, selected: int) -> EdgeStability:
    """Return what resamples say of a circuit's edges, of which so many were selected."""
    drawn = GROUPS if found.drawn < found.examples else EXAMPLES
    shares = np.where(circuit.kept, found.by_edge, np.nan)
    return EdgeStability(
        circuit, shares, found.resamples, found.examples, found.clusters, drawn,
        found.likeness.between, selected, jaccard_with_all=found.likeness.with_all,
    )  # fmt: skip


def refuse_meaningless(
    circuit: Circuit, spec: DiscoverySpec, found: Discovery, evaluation: Evaluation, floor: float
) -> None:
    """Refuse a circuit without edges, or chosen by a metric that is the same for every circuit."""
    parts = ("full", "circuit", "empty", "complement")
    values = [getattr(evaluation, f"value_{part}") for part in parts]
    chosen = found.circuit is not None or spec.select.as_dict()
    if found.doubt and chosen and max(values) - min(values) <= floor:
        raise EdgewiseError(f"method '{spec.method}' gives no circuit: {found.doubt}")
    if len(circuit):
        return
    why = "those left had no way from the embedding to the logits; ask for more edges."
    if spec.select.stable is not None:
        raise EdgewiseError(
            f"stable {spec.select.stable:g} leaves no edge: none that the selection keeps is kept "
            "by so large a share of resamples of the prompts; choose a smaller share, or use more "
            "prompts."
        )
    if spec.select.above is not None:
        scores, signed = found.scores.values, spec.select.signed
        largest = np.nanmax(scores if signed else np.abs(scores))
        raise EdgewiseError(
            f"above {spec.select.above:g} keeps no edge: the largest "
            f"{'score' if signed else '|score|'} is {largest:.4g}; choose a smaller value, or "
            "select by top or faithfulness."
        )
    named = f"method '{spec.method}'"
    if "threshold" in spec.options:
        rise = evaluation.loss_empty - evaluation.loss_full
        named = f"{named} with threshold {spec.options['threshold']:g}"
        why = (
            f"without any edge the loss ({spec.metric}) is only {rise:.4g} above the full model's; "
            "choose a smaller threshold."
        )
    raise EdgewiseError(f"{named} keeps no edge: {why}")
