"""The true circuit: which edges have an effect, by ablating every one alone.

What is true depends on the ablation and on the prompts: an edge that carries what is the same in
every prompt has an effect when it is set to zero, and none when it carries another prompt's value.
So a truth is of one ablation and of given pairs. It is brute force on purpose: whole runs of the
model without an edge, no attribution and no search.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..graphs.calls.typed import typed
from ..graphs.circuit import Circuit

if TYPE_CHECKING:
    from ..patching.run.runner import Runner

LEAST = 1e-3
"""How much an edge must change some logit at an answer; compiled programs leave a gap there."""

_AT_ONCE = 32


@typed
def effects_of_edges(runner: Runner) -> np.ndarray:
    """Ablate every edge alone; return the largest change of any logit where answers are read.

    Float64 [ports, senders]; 0 where there is no edge. The runner's metric does not count.
    """
    graph = runner.graph
    full = Circuit.full(graph)
    before = runner.logits([full])[0]
    effects = np.zeros(graph.reads.shape)
    places = np.argwhere(graph.reads)
    for first in range(0, len(places), _AT_ONCE):
        some = places[first : first + _AT_ONCE]
        circuits = []
        for row, column in some:
            kept = full.kept.copy()
            kept[row, column] = False
            circuits.append(Circuit(graph, kept))
        after = runner.logits(circuits)
        change = (after - before).abs().flatten(1).amax(1).double().cpu().numpy()
        effects[some[:, 0], some[:, 1]] = change
    return effects


@typed
def true_edges(runner: Runner, least: float = LEAST) -> Circuit:
    """Return the edges whose ablation alone changes a logit by more than `least`."""
    return Circuit(runner.graph, effects_of_edges(runner) > least)
