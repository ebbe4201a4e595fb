"""A trained model as a directory that every command takes, with prompt pairs and its true edges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...discovery.exact import exact
from ...graphs.calls.typed import typed
from ...graphs.circuit import Circuit
from ...graphs.errors import PromptError
from ...graphs.lift.lifted import LiftedModel
from ...graphs.lift.lifting import describe
from ...patching.ablations.registry import ablations
from ...patching.metrics.registry import default_metric
from ...patching.prompts.pair_files import write_pairs
from ...patching.prompts.pairs import PromptPairs
from ...patching.run.runner import Runner
from ..programs import PAIRS, TRUTH, TRUTH_UNDER, write_edges
from .causal import CausalModel

LEAST = 1e-3
"""Edges whose ablation makes the outputs diverge by less carry nothing that it changes."""


@typed
def write_trained(folder: str | Path, model: Any, causal: CausalModel, count: int = 128) -> None:
    """Write a live model's directory: its weights, prompt pairs, and the edges that it was taught.

    `truth.txt` has all of them. Some may carry nothing that an ablation changes, as what follows
    from positions alone is the same in every prompt: where that is so, and the pairs allow the
    ablation, `truth-ABLATION.txt` has the others. There is none of an ablation under which some
    edge that was not taught matters as much as one that was.
    """
    place = Path(folder)
    model.save_pretrained(place)
    lifted, pairs = describe(model), causal.pairs(count)
    circuit = causal.circuit(lifted.graph)
    write_pairs(place / PAIRS, pairs)
    write_edges(place / TRUTH, circuit, f"{causal.name}: what the model was trained to compute by")
    for name in ablations():
        carrying = edges_that_carry(lifted, pairs, circuit, name)
        if carrying is not None and carrying != circuit:
            what = f"{causal.name}: of {TRUTH} the edges that carry something under {name} ablation"
            write_edges(place / TRUTH_UNDER.format(name), carrying, what)


def edges_that_carry(
    model: LiftedModel, pairs: PromptPairs, circuit: Circuit, ablation: str
) -> Circuit | None:
    """Return the edges of a circuit whose ablation alone matters.

    None: the pairs do not allow the ablation, or other edges matter as much as one of these.
    """
    metric = default_metric(searching=True)
    try:
        runner = Runner.create(model, pairs, metric=metric, ablation=ablation)
    except PromptError:
        return None
    effects = np.abs(np.nan_to_num(exact(runner).scores.values))
    kept = circuit.kept & (effects >= LEAST)
    apart = kept.any() and effects[kept].min() > effects[circuit.graph.reads & ~circuit.kept].max()
    return Circuit(circuit.graph, kept) if apart else None
