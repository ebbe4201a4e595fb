"""Walks with larger and larger thresholds, each on what the one before kept, and where they stop.

1. The first walk is by the threshold given, from the full circuit.
2. Each other one is by `FACTOR` times the threshold before, and starts from the circuit before, so
   that it asks about few edges only. It goes on until no edge is left, or smaller circuits are
   worse on the pairs kept from the search.
3. Which of these circuits is returned: `stopping`. Its scores are the increments of its own walk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from ...graphs.errors import EdgewiseError
from ..registry import Discovery
from .parts import part_of
from .stopping import KEY, WORSE, Stop

if TYPE_CHECKING:
    from ...graphs.circuit import Circuit
    from ...patching.run.runner import Progress
    from ..journal import Journal

FACTOR, MOST = 2**0.5, 48
"""By what each threshold is larger than the one before, and how many there are at most."""

Walk = Callable[[float, "Circuit | None", "Progress | None", "Journal | None"], Discovery]


def coarser(
    walk: Walk,
    stop: Stop,
    threshold: float,
    progress: Progress | None = None,
    journal: Journal | None = None,
) -> Discovery:
    """Walk with one threshold after another; return the smallest circuit that is as good."""
    if not threshold:
        raise EdgewiseError(
            "stop_on tries larger and larger thresholds from the one given, which is 0; accepted: "
            "a threshold above 0 to begin with, or no stop_on."
        )
    found: list[Discovery] = []
    circuit: Circuit | None = None
    questions, end = 0, "the thresholds tried end there"
    for number in range(MOST):
        name = f"threshold {threshold:.6g}" if number else ""
        one = walk(threshold, circuit, _named(progress, name), part_of(journal, name))
        questions += one.questions
        assert one.circuit is not None  # walks select
        if not len(one.circuit):
            end = f"with threshold {threshold:.3g} none is left"
            found = found or [one]
            break
        if one.circuit != circuit:
            found.append(one)
            stop.note(one.circuit, threshold)
        circuit = one.circuit
        if stop.enough:
            end = WORSE
            break
        threshold *= FACTOR
    if not stop.curve:
        return found[0]
    chosen = stop.choose()
    best = found[chosen]
    assert best.circuit is not None
    loss = stop.drifted(best.notes["loss_search"], best.circuit)
    notes = {**best.notes, "loss_search": loss, KEY: stop.block(chosen, end)}
    return replace(best, questions=questions, notes=notes)


def _named(progress: Progress | None, name: str) -> Progress | None:
    """Return what tells a walk's progress with its name."""
    if progress is None or not name:
        return progress
    tell = progress  # of its own, for the type checker
    return lambda done, total, words: tell(done, total, f"{words}, {name}")
