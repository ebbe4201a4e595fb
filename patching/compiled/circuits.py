"""Runs of circuits, many together, by the compiled engine; see `masked.py`.

What is compiled runs circuits up to where logits are read. Logits and metrics of these few streams
are torch's own, so that every metric there is, also a Python function, is the same on both engines.
A program is compiled for each number of circuits that run together, which is therefore one of few.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import jax
import numpy as np
import torch
from jax import Array
from torch import Tensor

from ...graphs.circuit import Circuit
from ...graphs.graph import ComputationGraph
from ..engines import JAX, runs_circuits
from ..metrics.metric import Metric
from ..run.answer_logits import AnswerReader
from ..run.runner import Runner, refuse_nan
from .attribution import Carries, MeasuredBy
from .batches import PairChunk, Prompts, cut, padded
from .carried import Carrying
from .crossing import to_tensor
from .engine import base_of, budget, precision
from .losses import counterpart
from .masked import MaskedWorld, Question, answers_of, empty_answers, gate_gradients, start
from .model import CompiledModel, compiled, layer_sizes

COPIES = 4
"""About how many times what all senders write a circuit's run takes."""

STEP = 4
"""By what factor the numbers of circuits that run together differ."""


@dataclass(frozen=True)
class CompiledChunk:
    """Some pairs' circuits, ready to run, and what reads them; see `floors.Ends`."""

    circuits: CompiledCircuits
    chunk: PairChunk
    prompts: Prompts
    world: MaskedWorld
    question: Question

    @cached_property
    def reading(self) -> AnswerReader:
        """Return what reads streams at the answers."""
        model, batch = self.circuits.runner.model, self.chunk.batch
        if model.device.type != "cpu":
            pairs = self.circuits.runner.pairs
            batch = pairs.batch(self.chunk.rows, device=str(model.device))
        return AnswerReader(model, batch, lambda: self._tensor(self.world.clean))

    @property
    def empty_logits(self) -> Tensor:
        """Return the logits at the answers where every edge is ablated, [R, V]."""
        with precision(self.circuits.runner.model):
            found = empty_answers(self.question, self.prompts, self.world)
        return self.reading.model.logits(self._tensor(found))

    def answers(self, masks: np.ndarray) -> Iterator[tuple[int, Tensor]]:
        """Yield the streams of circuits where logits are read, [C, R, D], some C at a time."""
        model = self.circuits.model
        for i, gates in groups(masks, self._together()):
            found = answers_of(self.question, model.weights, self.prompts, self.world, gates)
            yield i, self._tensor(found)[: len(masks) - i]

    @property
    def reads(self) -> int:
        """Count where logits are read."""
        return len(self.chunk.batch.answer_position)

    def _tensor(self, x: Array) -> Tensor:
        """Hand a stream over to torch, [..., R, D], without what was added to the batch."""
        own = to_tensor(x).to(self.circuits.runner.model.device)
        return own[..., : self.reads, :]

    def _together(self) -> int:
        """Return how many circuits are run at once."""
        positions = self.chunk.sizes.length - self.chunk.sizes.start
        row = self.circuits.per_position * positions * self.chunk.sizes.runs
        return max(1, budget(self.circuits.model) // row)


@runs_circuits(JAX)
@dataclass
class CompiledCircuits:
    """Run circuits on a runner's prompt pairs, whatever its metric.

    What all runs start from is kept, if that of all pairs fits in the runner's budget.
    """

    runner: Runner
    _kept: list[CompiledChunk] = field(default_factory=list)

    def losses(self, circuits: Sequence[Circuit]) -> np.ndarray:
        """Return each circuit's loss on each example, float64 [circuits, examples]."""
        masks = np.stack([circuit.kept for circuit in circuits])
        (found,) = self.values(masks, [self.runner.metric], losses=True)
        refuse_nan(found.mean(-1), f"the metric '{self.runner.metric.name}'")
        return np.asarray(found)

    @torch.no_grad()
    def values(
        self,
        masks: np.ndarray,
        metrics: Sequence[Metric],
        losses: bool,
        progress: Callable[[int, int], object] | None = None,
    ) -> np.ndarray:
        """Return each example's value, or loss, by each metric; see `Runner.measure_each`."""
        found = np.empty((len(metrics), len(masks), len(self.runner.pairs)))
        with precision(self.runner.model):
            for done, (chunk, of) in enumerate(self._numbered()):
                at_once = self._read_at_once(chunk)
                for i, answers in chunk.answers(masks):
                    for j in range(0, len(answers), at_once):
                        some = chunk.reading.values(answers[j : j + at_once], metrics, losses)
                        for m, value in enumerate(some):
                            own = value.cpu().double().numpy()
                            found[m, i + j : i + j + len(own), chunk.chunk.rows] = own.T
                    if progress is not None:
                        ran = i + len(answers)
                        progress((done * len(masks) + ran) // of, len(masks))
        return found

    @torch.no_grad()
    def logits(self, circuits: Sequence[Circuit]) -> np.ndarray:
        """Return logits where they are read, [circuits, examples, V]; see `Runner.logits`."""
        masks = np.stack([circuit.kept for circuit in circuits])
        parts, order = list[Tensor](), list[int]()
        with precision(self.runner.model):
            for chunk in self.chunks():
                model, rows = self.runner.model, chunk.chunk.rows
                parts.append(torch.cat([model.logits(x) for _, x in chunk.answers(masks)]))
                steps = chunk.chunk.batch.steps
                order += rows if steps is None else [rows[i] for i in steps.pair.tolist()]
        wide = torch.float64 if self.runner.model.dtype == torch.float64 else torch.float32
        return torch.cat(parts, 1).to(wide).cpu().numpy()[:, np.argsort(order, kind="stable")]

    def gradients(self, gates: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the mean loss under gates, float [P, S], and its gradient in each."""
        metric = self.runner.metric
        metric.require_gradient(at_clean_only=False)
        counterpart(metric)
        loss, total = 0.0, np.zeros(gates.shape)
        own = np.where(self.runner.graph.reads, gates, 0).astype(np.float32)
        with precision(self.runner.model):
            for chunk in self.chunks():
                question = replace(chunk.question, measured=MeasuredBy(metric), pieces=False)
                one, more = gate_gradients(
                    question, self.model.weights, chunk.prompts, chunk.world, own
                )
                loss, total = loss + float(one), total + np.asarray(more, dtype=np.float64)
        count = len(self.runner.pairs)
        return loss / count, np.where(self.runner.graph.reads, total / count, 0.0)

    @property
    def model(self) -> CompiledModel:
        """Return the model, handed over."""
        return compiled(self.runner.model)

    @property
    def per_position(self) -> int:
        """Estimate the bytes that one circuit's run takes of each position."""
        size = 8 if self.runner.model.dtype == torch.float64 else 4
        return COPIES * size * self.runner.model.d_model * len(self.runner.graph.senders)

    def _numbered(self) -> Iterator[tuple[CompiledChunk, int]]:
        """Yield the chunks, each with how many there are."""
        cuts = self._cuts
        for chunk in self.chunks():
            yield chunk, len(cuts)

    def _read_at_once(self, chunk: CompiledChunk) -> int:
        """Return of how many circuits logits are read together."""
        row = 4 * chunk.reads * len(self.runner.model.unembed.weight)
        return max(1, self.runner.budget.logits // (COPIES * row))

    @cached_property
    def _cuts(self) -> list[PairChunk]:
        runner = self.runner
        longest = max(pair.longest * len(pair.runs) for pair in runner.pairs)
        fit = max(1, budget(self.model) // (self.per_position * longest))
        most, paired = min(runner.batch_size, fit), runner.ablation.paired
        return cut(runner.model, runner.pairs, most, paired=paired, apart=True)

    @cached_property
    def _carrying(self) -> Carrying | None:
        paired = self.runner.ablation.paired
        return None if paired else Carrying(self.runner, self.model, self._cuts)

    def chunks(self) -> Iterator[CompiledChunk]:
        """Yield the pairs, cut into chunks, ready to run; EdgewiseError if the model changed."""
        runner = self.runner
        runner.require_unchanged()
        if self._kept:
            yield from self._kept
            return
        tokens = sum(chunk.sizes.runs * chunk.sizes.length for chunk in self._cuts)
        keep = 8 * runner.graph.layers * runner.model.d_model * 4 * tokens < runner.budget.cache
        made = []
        for chunk in self._cuts:
            with precision(runner.model):
                made.append(self._made(chunk))
            yield made[-1]
            if not keep:
                made.clear()
        self._kept.extend(made)

    def _made(self, chunk: PairChunk) -> CompiledChunk:
        runner, model, paired = self.runner, self.model, self.runner.ablation.paired
        prompts = padded(runner.model, chunk, model.device, paired=paired, apart=True)
        base: Carries | None = None
        if self._carrying is not None:
            base = base_of(self._carrying.values(chunk), model, chunk)
        rows, columns = _ports_each(runner.graph), _senders_each(runner.graph)
        runs = model.plan.runs
        question = Question(
            model.plan, layer_sizes(runs, rows), layer_sizes(runs, columns), chunk.sizes.start,
            pieces=takes_pieces(model),
        )  # fmt: skip
        world = start(question, model.weights, prompts, base)
        return CompiledChunk(self, chunk, prompts, world, question)


def takes_pieces(model: CompiledModel) -> bool:
    """Tell whether what senders write is summed in pieces: on a card, but of float64."""
    wide = model.weights.embed_scale.dtype == np.float64
    return model.device.platform != "cpu" and not wide


def together(count: int, most: int) -> list[int]:
    """Cut a number of circuits into groups of few sizes, the last at most twice what is left.

    >>> together(20, 100), together(3, 100), together(11, 100), together(5, 2)
    ([16, 4], [4], [16], [1, 1, 1, 1, 1])
    """
    found = list[int]()
    while count > 0:
        size = 1
        while size * STEP <= most and size * STEP <= 2 * count:
            size *= STEP
        found.append(size)
        count -= size
    return found


def groups(masks: np.ndarray, most: int) -> Iterator[tuple[int, Any]]:
    """Yield masks in groups, as gates [C, P, S]; the last mask fills the last group."""
    i = 0
    for size in together(len(masks), most):
        own = masks[np.minimum(np.arange(i, i + size), len(masks) - 1)]
        yield i, jax.device_put(own.astype(np.float32))
        i += size


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
