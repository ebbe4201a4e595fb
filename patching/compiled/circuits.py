"""Losses and logits of circuits, many together, by the compiled engine; see `masked.py`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from ...graphs.circuit import Circuit
from ...graphs.graph import ComputationGraph
from ..run.runner import Runner, refuse_nan
from .attribution import Carries, MeasuredBy
from .batches import PairChunk, Prompts, cut, padded
from .carried import Carrying
from .engine import base_of, budget, precision
from .losses import counterpart
from .masked import MaskedWorld, Question, gate_gradients, logits_of, losses_of, start
from .model import CompiledModel, compiled, layer_sizes

COPIES = 4
"""About how many times what all senders write a circuit's run takes."""


@dataclass
class CompiledCircuits:
    """Run circuits on a runner's prompt pairs; what all runs start from is computed once.

    `measured`: False where only logits are asked for, of whatever metric.
    """

    runner: Runner
    measured: bool = True
    _ready: list[tuple[PairChunk, Prompts, MaskedWorld]] = field(default_factory=list)

    def losses(self, circuits: Sequence[Circuit]) -> np.ndarray:
        """Return each circuit's loss on each example, float64 [circuits, examples]."""
        found = np.empty((len(circuits), len(self.runner.pairs)))
        masks = [circuit.kept for circuit in circuits]
        with precision(self.runner.model):
            for chunk, prompts, world in self._chunks():
                at = self._together(prompts)
                for i, gates in _groups(masks, at):
                    own = losses_of(self._question, self._model.weights, prompts, world, gates)
                    some = np.asarray(own, dtype=np.float64)[: len(masks) - i, : len(chunk.rows)]
                    found[i : i + at, chunk.rows] = some
        refuse_nan(found.mean(-1), f"the metric '{self.runner.metric.name}'")
        return found

    def logits(self, circuits: Sequence[Circuit]) -> np.ndarray:
        """Return logits where they are read, [circuits, examples, V]; of answers of one token."""
        masks = [circuit.kept for circuit in circuits]
        found: np.ndarray | None = None
        with precision(self.runner.model):
            for chunk, prompts, world in self._chunks():
                at = self._together(prompts)
                for i, gates in _groups(masks, at):
                    own = logits_of(self._question, self._model.weights, prompts, world, gates)
                    some = np.asarray(own)[: len(masks) - i, : len(chunk.rows)]
                    if found is None:
                        shape = (len(masks), len(self.runner.pairs), some.shape[-1])
                        found = np.empty(shape, dtype=some.dtype)
                    found[i : i + at, chunk.rows] = some
        assert found is not None
        return found

    def gradients(self, gates: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the mean loss under gates, float [P, S], and its gradient in each."""
        self.runner.metric.require_gradient(at_clean_only=False)
        loss, total = 0.0, np.zeros(gates.shape)
        own = np.where(self.runner.graph.reads, gates, 0).astype(np.float32)
        with precision(self.runner.model):
            for _, prompts, world in self._chunks():
                one, more = gate_gradients(self._question, self._model.weights, prompts, world, own)
                loss, total = loss + float(one), total + np.asarray(more, dtype=np.float64)
        count = len(self.runner.pairs)
        return loss / count, np.where(self.runner.graph.reads, total / count, 0.0)

    @property
    def _model(self) -> CompiledModel:
        return compiled(self.runner.model)

    @property
    def _question(self) -> Question:
        plan, graph = self._model.plan, self.runner.graph
        measured = MeasuredBy(self.runner.metric) if self.measured else None
        rows, columns = _ports_each(graph), _senders_each(graph)
        return Question(
            plan, measured, layer_sizes(plan.runs, rows), layer_sizes(plan.runs, columns)
        )

    def _together(self, prompts: Prompts) -> int:
        """Return how many circuits are run at once."""
        size = 4 * prompts.clean.size * self.runner.model.d_model * len(self.runner.graph.senders)
        fit: int = budget(self._model) // (COPIES * size)
        return max(1, fit)

    def _chunks(self) -> Iterator[tuple[PairChunk, Prompts, MaskedWorld]]:
        runner = self.runner
        runner.require_unchanged()
        if self.measured:
            counterpart(runner.metric)
        if not self._ready:
            model, paired = self._model, runner.ablation.paired
            cuts = cut(runner.model, runner.pairs, runner.batch_size, paired=False)
            carrying = None if paired else Carrying(runner, model, cuts)
            for chunk in cuts:
                prompts = padded(runner.model, chunk, model.device, paired=False, apart=False)
                base: Carries | None = None
                if carrying is not None:
                    base = base_of(carrying.values(chunk), model, chunk)
                world = start(self._question, model.weights, prompts, base)
                self._ready.append((chunk, prompts, world))
        yield from self._ready


def _groups(masks: Sequence[np.ndarray], size: int) -> Iterator[tuple[int, Any]]:
    """Yield masks in groups of one size, as gates [size, P, S]; the last mask fills the last."""
    size = min(size, len(masks))
    for i in range(0, len(masks), size):
        own = list(masks[i : i + size])
        own += [own[-1]] * (size - len(own))
        yield i, jax.device_put(np.stack(own).astype(np.float32))


def _ports_each(graph: ComputationGraph) -> list[int]:
    counts = [0] * graph.layers
    for port in graph.ports:
        if port.node.layer is not None:
            counts[port.node.layer] += 1
    return counts


def _senders_each(graph: ComputationGraph) -> list[int]:
    counts = [0] * graph.layers
    for sender in graph.senders:
        if sender.layer is not None:
            counts[sender.layer] += 1
    return counts
