"""Cut a circuit down to its stable edges from what is known of each example: no model is run.

A circuit's file holds how often resampled prompts keep each of its edges, if it was found with
scores on each example; a sidecar beside it holds these scores. Either tells which edges are stable;
the scores also tell how alike the circuits of such edges are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import numpy as np

from ...discovery.uncertainty.stability import EdgeRule, stability, stable_likeness
from ...experiment.spec import DiscoverySpec
from ...graphs.calls.typed import typed
from ...graphs.circuit import Circuit
from ...graphs.errors import EdgewiseError
from ...graphs.example_scores import ExampleScores
from ...graphs.files import CircuitFile, example_scores_of
from ...graphs.files.circuit import DiscoveryBlock
from ...graphs.files.stability import KEY as STABILITY
from ...graphs.files.stability import stability_of
from ...graphs.scores import ROUNDING
from .selection import edge_stability


@typed
def stable_part(file: CircuitFile, least: float) -> CircuitFile:
    """Keep of a circuit the edges that at least a share of resampled prompts keep.

    The measures are still those of the whole circuit.

    Raises:
        EdgewiseError: the share makes no sense; neither the file nor a sidecar tells how stable its
            edges are; or no edge is as stable.
        FileFormatError: the sidecar is damaged, or of another circuit.
    """
    if not 0 < least <= 1:
        raise EdgewiseError(f"stable is {least}; accepted: a share above 0, up to 1.")
    sidecar, found = example_scores_of(file), stability_of(file)
    rule = None if sidecar is None else selection_rule(file, sidecar.scores)
    if found is None and sidecar is not None and rule is not None:
        found = edge_stability(file.circuit, stability(sidecar.scores, rule), len(file.circuit))
    if found is None:
        raise EdgewiseError(
            "how stable the circuit's edges are cannot be told: its file does not say, and there "
            "are no scores on each example beside it from which a selection could be made again. "
            "Find it with `per_example` and a selection, such as top."
        )
    graph, steady = file.circuit.graph, np.nan_to_num(found.shares) >= least - ROUNDING
    circuit = Circuit(graph, file.circuit.kept & steady)
    if file.discovery.get("connected"):
        circuit = circuit.prune_dangling()
    if not len(circuit):
        raise EdgewiseError(
            f"stable {least:g} leaves no edge: the most stable one is kept by "
            f"{np.nanmax(found.shares):.0%} of the resamples; choose a smaller share."
        )
    shares = np.where(circuit.kept, found.shares, np.nan)
    cut = replace(found, circuit=circuit, shares=shares, least=least)
    if sidecar is not None and rule is not None:
        alike = stable_likeness(sidecar.scores, rule, least)
        cut = cut.cut_at(least, alike.between, alike.with_all)
    discovery = cast("DiscoveryBlock", {**file.discovery, "stable": least})
    extra = {**file.extra, STABILITY: cut.block}
    return replace(file, circuit=circuit, discovery=discovery, extra=extra)


def selection_rule(file: CircuitFile, examples: ExampleScores) -> EdgeRule | None:
    """Return by which rule a file's circuit was selected of scores, None where that is not known.

    It is not where a method keeps edges by itself, nothing was selected, edges joined greedily, or
    edges on no way or not stable were left out already, of which the circuit does not tell how many
    there were.
    """
    block: Mapping[str, object] = file.discovery
    spec = DiscoverySpec.of_circuit(file)
    select, fitted = spec.select, block.get("fitted")
    if spec.chosen.selects or not select.as_dict() or select.stable is not None or select.greedy:
        return None
    signed = bool(fitted["signed"]) if isinstance(fitted, Mapping) else select.signed
    how = {"absolute": not signed, "connected": select.connected}
    return EdgeRule.of(file.circuit, examples.mean(), above=select.above, **how)
