"""Training of gates: the loop that every learned mask shares, its options, and how it goes on.

1. Cut the pairs into minibatches, once.
2. An update draws gates, asks for the loss on the next minibatch and its gradient in every gate,
   and moves the gates' parameters by Adam. Gradients of all gates come from those at ports.
3. After the last update the gates are rounded to a circuit, and its loss on all pairs is measured.
4. Do this `trainings` times, each from draws of its own, and take the circuit of least loss.

What an update draws follows from the seed and its number alone. So a training that is stopped goes
on from the parameters of the last update that was kept, and ends as if it had not been stopped.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Protocol

import numpy as np

from ...graphs.errors import FileFormatError
from ..journal import StateJournal
from ..registry import Discovery, Option
from .adam import Adam, Arrays

if TYPE_CHECKING:
    from ...graphs.circuit import Circuit
    from ...graphs.scores import Scores
    from ...patching.run.runner import Progress, Runner
    from ..journal import Journal

KEPT_SECONDS = 20.0
"""How much of a training that is stopped may be lost."""

GatedLoss = Callable[[np.ndarray], tuple[float, np.ndarray]]
"""The loss at gates, float64 [ports, senders] from 0 to 1, and its gradient in each."""


@dataclass(frozen=True)
class Training:
    """How gates are trained; every learned mask has these options."""

    updates: Annotated[int, Option("how often the gates are moved", 1, 1_000_000)] = 300
    minibatch: Annotated[int, Option("how many pairs an update looks at", 1, 1_000_000)] = 8
    train_seed: Annotated[int, Option("decides what the training draws", 0)] = 0
    trainings: Annotated[
        int,
        Option("how often to train, with other draws; the circuit of least loss is taken", 1, 100),
    ] = 1


USUAL_TRAINING = Training()


@dataclass(frozen=True)
class Seen:
    """What an update saw: its loss, how many gates are open, and how many are to be by then."""

    loss: float
    open: float
    wanted: float = np.nan


class Learner(Protocol):
    """What is trained: parameters, what an update asks of them, and what they end as."""

    @property
    def rates(self) -> Mapping[str, float]:
        """Return how far Adam moves each parameter, and up its slope where that is below 0."""

    @property
    def drawn(self) -> int:
        """Return how many masks an update draws; each is for a part of the minibatch."""

    def begin(self) -> Arrays:
        """Return the parameters before the first update."""

    def update(
        self, at: Arrays, done: float, draw: np.random.Generator, losses: Sequence[GatedLoss]
    ) -> tuple[Seen, Arrays]:
        """Ask for losses at drawn gates; return what was seen, and each parameter's slope.

        `done`: which part of the training this update ends.
        """

    def scores(self, at: Arrays) -> Scores:
        """Rank every edge by how surely its gate is open."""

    def circuit(self, at: Arrays) -> Circuit:
        """Round the gates to a circuit without dangling edges."""


@dataclass
class _Way:
    """How far it is: parameters and updates of trainings that have ended, and of the one under way.

    All of it is arrays, so that a journal can keep it.
    """

    ended: list[tuple[Arrays, np.ndarray]]
    adam: Adam
    seen: list[tuple[float, float, float]]

    def arrays(self) -> Arrays:
        found = {
            "done": np.array([self.adam.done]),
            "seen": _table(self.seen),
            **self.adam.arrays(),
        }
        for number, (at, seen) in enumerate(self.ended):
            found[f"{number}.seen"] = seen
            found |= {f"{number}.at.{key}": x for key, x in at.items()}
        return found

    @staticmethod
    def of(arrays: Mapping[str, np.ndarray], begun: Adam) -> _Way:
        """Return what the arrays say; FileFormatError unless they are a training's like `begun`."""
        keys, ended = list(begun.parameters), list[tuple[Arrays, np.ndarray]]()
        shapes = {name: x.shape for name, x in _Way([], begun, []).arrays().items()}
        while f"{len(ended)}.seen" in arrays:
            number = len(ended)
            at = {key: arrays.get(f"{number}.at.{key}", np.empty(0)) for key in keys}
            shapes |= {f"{number}.at.{key}": x.shape for key, x in begun.parameters.items()}
            ended.append((at, arrays[f"{number}.seen"]))
        fits = all(
            name in arrays and arrays[name].shape == shape
            for name, shape in shapes.items()
            if name != "seen"
        )
        tables = [arrays.get("seen", np.empty(0)), *(seen for _, seen in ended)]
        if not fits or any(table.shape[1:] != (3,) for table in tables):
            raise FileFormatError(
                "what the journal keeps is no state of this training; start anew without `resume`."
            )
        seen = [(float(a), float(b), float(c)) for a, b, c in tables[0]]
        return _Way(ended, Adam.of(arrays, keys, int(arrays["done"][0])), seen)


def train(
    learner: Learner,
    runner: Runner,
    how: Training,
    progress: Progress | None = None,
    journal: Journal | None = None,
) -> Discovery:
    """Train, or go on where the journal's training was stopped; return the best circuit."""
    from ...patching.gates import Minibatches

    each = max(1, how.minibatch // learner.drawn)
    pieces = Minibatches(runner, each, how.train_seed)
    begun = Adam.begin(learner.begin())
    keeper = journal if isinstance(journal, StateJournal) else None
    saved = None if keeper is None else keeper.saved()
    way = _Way([], begun, []) if saved is None else _Way.of(saved, begun)
    kept = time.monotonic()
    while len(way.ended) < how.trainings:
        number, done = len(way.ended), way.adam.done
        seeds = (how.train_seed, number)
        losses = [pieces.at(done * learner.drawn + i, seeds) for i in range(learner.drawn)]
        draw = np.random.default_rng((*seeds, done))
        part = (done + 1) / how.updates
        seen, slopes = learner.update(way.adam.parameters, part, draw, losses)
        way.adam = way.adam.step(slopes, learner.rates)
        way.seen.append((seen.loss, seen.open, seen.wanted))
        if way.adam.done == how.updates:
            way.ended.append((way.adam.parameters, _table(way.seen)))
            way.adam, way.seen = begun, []
        if progress is not None:
            progress(number * how.updates + done + 1, how.trainings * how.updates, _words(seen))
        if keeper is not None and time.monotonic() - kept > KEPT_SECONDS:
            keeper.save(way.arrays())
            kept = time.monotonic()
    return _best(learner, runner, how, way)


def _best(learner: Learner, runner: Runner, how: Training, way: _Way) -> Discovery:
    """Return the circuit of least loss, of equals the first, and what all trainings came to."""
    circuits = [learner.circuit(at) for at, _ in way.ended]
    losses = runner.losses(circuits).tolist()
    best = losses.index(min(losses))
    ended = [
        {"loss": loss, "edges": len(circuit), "losses": seen[:, 0].tolist(),
         "open": seen[:, 1].tolist()}
        for circuit, loss, (_, seen) in zip(circuits, losses, way.ended, strict=True)
    ]  # fmt: skip
    notes: dict[str, object] = {"loss_search": losses[best], "taken": best, "trained": ended}
    if how.trainings > 1:
        pairs = itertools.combinations(circuits, 2)
        alike = [len(a & b) / max(1, len(a | b)) for a, b in pairs]
        notes["alike"] = float(np.mean(alike))
    return Discovery(learner.scores(way.ended[best][0]), circuits[best], notes=notes)


def _table(seen: Sequence[tuple[float, float, float]]) -> np.ndarray:
    return np.array(seen, dtype=np.float64).reshape(-1, 3)


def _words(seen: Seen) -> str:
    wanted = "" if np.isnan(seen.wanted) else f" of {seen.wanted:,.0f} wanted by now"
    return f"updates, loss {seen.loss:.4g}, {seen.open:,.0f} gates open{wanted}"
