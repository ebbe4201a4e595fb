"""The runner: what is the loss, or a metric, of this circuit on these prompt pairs?

Everything is an average over all examples, which are run in chunks of like length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ...graphs.calls.typed import typed
from ...graphs.circuit import Circuit
from ...graphs.errors import EdgewiseError, GraphMismatch, PromptError
from ...graphs.graph import ComputationGraph
from ...graphs.lift.lifted import LiftedModel
from ...graphs.lift.lifting import tensors_of
from ...graphs.lift.watching import Watch
from ..ablations.registry import Ablation, Carried, default_ablation, get_ablation
from ..engines import AUTO, TORCH, CircuitRuns, check_engine, circuit_runs, engine_of
from ..metrics.functions import Given, as_metric, tried
from ..metrics.metric import Metric
from ..metrics.registry import default_metric
from ..prompts.pairs import PromptPairs
from .checks import all_at_once, check_metric, check_prompts
from .chunk import Chunk
from .floors import rounding_floor
from .masked_run import run_masked
from .memory import Budget
from .plan import make_plan
from .span_run import run_at_spans

Progress = Callable[[int, int, str], None]  # of how much is done, the total, and what is done


@dataclass
class _Kept:
    """What runners that differ in their metric alone share: runs, and the prepared ablation.

    `floors`: of each metric, where it is known.
    """

    chunks: dict[int, Chunk]
    carried: Carried | None = None
    floors: dict[Metric, float] = field(default_factory=dict)
    runs: CircuitRuns | None = None


@typed
@dataclass(frozen=True)
class Runner:
    """Evaluate circuits of a lifted model on prompt pairs.

    `metric`: what the loss is made of. `ablation`: what ablated edges carry. `batch_size`: examples
    run at once; default: as many as fit the budget, a quarter gigabyte on a processor. `reference`:
    the pairs an ablation takes its values from where it needs more than one example; default: the
    pairs themselves. `engine`: what takes gradients and runs circuits; see `patching.engines`.
    `budget`: how much memory each piece of work takes; see `memory`.
    """

    model: LiftedModel
    pairs: PromptPairs
    metric: Metric
    ablation: Ablation
    batch_size: int
    reference: PromptPairs
    budget: Budget = field(repr=False, compare=False)
    _watch: Watch = field(repr=False, compare=False)
    engine: str = AUTO
    _kept: _Kept = field(default_factory=lambda: _Kept({}), repr=False, compare=False)

    @staticmethod
    @typed
    def create(
        model: LiftedModel,
        pairs: PromptPairs,
        *,
        metric: str | Metric | Given | None = None,
        ablation: str | Ablation | None = None,
        batch_size: int | None = None,
        reference: PromptPairs | None = None,
        engine: str = AUTO,
    ) -> Runner:
        """Return a runner; PromptError if the prompts do not fit the model, metric or ablation."""
        engine = TORCH if pairs.told_apart and engine == AUTO else check_engine(engine)
        metric = default_metric(searching=False) if metric is None else metric
        chosen = as_metric(metric)
        if batch_size is not None and batch_size < 1:
            raise PromptError(f"batch size {batch_size} is impossible; accepted: 1 or more.")
        ablation = default_ablation() if ablation is None else ablation
        carries = get_ablation(ablation) if isinstance(ablation, str) else ablation
        check_prompts(model, pairs)
        if pairs.told_apart and engine != TORCH:
            raise EdgewiseError(
                f"engine '{engine}' does not tell spans of positions apart; accepted: engine "
                f"'{TORCH}' or '{AUTO}'."
            )
        others = pairs if reference is None else reference
        all_at_once(lambda: check_metric(pairs, chosen), lambda: carries.check(pairs, others))
        budget = Budget.of(model)
        if batch_size is None:
            longest = max(pair.longest * len(pair.runs) for pair in pairs)
            row = len(model.graph.senders) * longest * model.d_model * 4
            batch_size = max(1, min(len(pairs), budget.batch // row))
        if reference is None:
            reference = pairs
        else:
            check_prompts(model, reference)
        live = model.model
        watch = Watch(tensors_of(model)) if live is None else Watch.over(live)
        made = Runner(model, pairs, chosen, carries, batch_size, reference, budget, watch, engine)
        return made._tried()

    def _tried(self) -> Runner:
        """Return the same; a metric that is a Python function is called once, and checked."""
        if self.metric.given is None:
            return self
        of_kind: dict[bool, Chunk] = {}
        for chunk in self.chunks():  # answers of one token, and of several, are given otherwise
            of_kind.setdefault(chunk.batch.steps is None, chunk)
            if len(of_kind) == 1 + self._mixed:
                break
        found = []
        for chunk in of_kind.values():
            logits = chunk.target.clean_logits
            assert logits is not None  # of a chunk there always are
            found.append(tried(self.metric, logits, chunk.target))
        smooth = all(one.differentiable for one in found)
        flat = all(one.flat_at_clean for one in found)
        return replace(self, metric=replace(self.metric, differentiable=smooth, flat_at_clean=flat))

    @property
    def _mixed(self) -> bool:
        """Tell whether some chunks have answers of one token each only, and others have not."""
        spelled = [any(self.pairs.pairs[i].spelled for i in rows) for rows in self._rows]
        return len(set(spelled)) == 2

    @cached_property
    def graph(self) -> ComputationGraph:
        """Return the graph whose circuits can be run: at spans, if the pairs tell some apart."""
        return self.model.graph.at_spans(self.pairs.told_apart)

    @property
    def floor(self) -> float:
        """Return how far rounding alone may move the metric's mean; see `floors`."""
        return self.floor_of(self.metric)

    @typed
    def floor_of(self, metric: Metric) -> float:
        """Return the same of another metric."""
        floors = self._kept.floors
        if metric not in floors:
            runs = self._other_runs()
            chunks = self.chunks() if runs is None else runs.chunks()
            floors[metric] = rounding_floor(chunks, metric)
        return floors[metric]

    @typed
    def note_floor(self, floor: float) -> None:
        """Keep what `floor` is, found by whoever ran the full and the empty circuit anyway."""
        self._kept.floors[self.metric] = floor

    @typed
    def require_plain(self, what: str) -> None:
        """Refuse what knows no spans where the pairs tell some apart."""
        if self.graph.spans:
            raise EdgewiseError(
                f"{what} does not tell spans of positions apart, and these pairs do; accepted: "
                "pairs without (leave out `spans`)."
            )

    @cached_property
    def runs_by(self) -> str:
        """Return the engine that runs circuits; an EdgewiseError says why one cannot be had."""
        return engine_of(self.engine, self.model)

    def _other_runs(self) -> CircuitRuns | None:
        """Return what runs circuits by another engine than torch, if one does."""
        if self.runs_by == TORCH:
            return None
        if self._kept.runs is None:
            self._kept.runs = circuit_runs(self.runs_by)(self)
        return self._kept.runs

    @property
    def about(self) -> dict[str, str]:
        """Return what is measured and what ablated edges carry, by name."""
        return {key: getattr(self, key).name for key in ("metric", "ablation")}

    @typed
    def with_metric(self, metric: str | Metric | Given) -> Runner:
        """Return a runner that shares all runs and measures something else."""
        chosen = as_metric(metric)
        check_metric(self.pairs, chosen)
        return replace(self, metric=chosen)._tried()

    @typed
    def on(self, pairs: PromptPairs, batch_size: int | None = None) -> Runner:
        """Return a runner of some of the pairs; what ablated edges carry is prepared as here."""
        size = self.batch_size if batch_size is None else batch_size
        if pairs is self.pairs and size == self.batch_size:
            return self
        kept = _Kept({}, self.carried())
        return replace(self, pairs=pairs, batch_size=min(size, len(pairs)), _kept=kept)

    @typed
    def require_graph(self, graph: ComputationGraph, what: str = "the circuit") -> None:
        """Refuse what was made for another graph than the model's, by a GraphMismatch."""
        if graph != self.graph:
            raise GraphMismatch(
                f"{what} does not fit the model's graph: {'; '.join(graph.differences(self.graph))}"
                f" ({what.removeprefix('the ')} and model)."
            )

    @cached_property
    def _rows(self) -> list[list[int]]:
        """Cut the examples into chunks, sorted by length and by where a pair first differs."""

        def key(i: int) -> tuple[int, int]:
            pair = self.pairs.pairs[i]
            both = zip(pair.clean, pair.twin, strict=True)
            first = next((t for t, (a, b) in enumerate(both) if a != b), len(pair.clean))
            return pair.longest, first

        order = sorted(range(len(self.pairs)), key=key)
        return [order[i : i + self.batch_size] for i in range(0, len(order), self.batch_size)]

    def require_unchanged(self) -> None:
        """Refuse to go on, by an EdgewiseError, if the model has changed since."""
        if what := self._watch.changed():
            raise EdgewiseError(
                f"the model's {what} have changed since this runner was made, and what it knows of "
                "earlier runs is of the old ones; make a new runner, of a model lifted anew."
            )

    def chunks(self) -> Iterator[Chunk]:
        """Yield the chunks, kept if they fit in memory; EdgewiseError if the model has changed."""
        self.require_unchanged()
        tokens = sum(len(ids) for pair in self.pairs for ids, _ in pair.runs)
        per_token = (len(self.graph.senders) + 8 * self.graph.layers) * self.model.d_model * 4
        for index, rows in enumerate(self._rows):
            chunk = self._kept.chunks.get(index)
            if chunk is None:
                batch = self.pairs.batch(rows, device=str(self.model.device))
                near = None if self.model.device.type == "cpu" else self.pairs.batch(rows)
                chunk = Chunk(self.model, batch, self.ablation, self.carried(), self.budget, near)
                if tokens * per_token < self.budget.cache:
                    self._kept.chunks[index] = chunk
            yield chunk

    def numbered_chunks(self) -> Iterator[tuple[list[int], Chunk]]:
        """Yield the chunks, each with the numbers of its examples among the pairs."""
        return zip(self._rows, self.chunks(), strict=True)

    def rows_and_chunks(self) -> Iterator[tuple[list[int], Chunk]]:
        """Yield the chunks, each with the numbers of its pairs."""
        yield from zip(self._rows, self.chunks(), strict=True)

    def carried(self) -> Carried:
        """Return what tells what ablated edges carry; the reference set is looked at once."""
        if self._kept.carried is None:
            kept = _Kept({}, lambda runs: runs.clean.values)  # there nothing is ablated
            reference = replace(self, pairs=self.reference, _kept=kept)
            self._kept.carried = self.ablation.prepare(reference)
        return self._kept.carried

    @typed
    @torch.no_grad()
    def logits(self, circuits: Sequence[Circuit]) -> Tensor:
        """Return logits at the answer positions, [circuits, examples, V], in the pairs' order.

        Of answers of several tokens at each read, a pair's in the order of its batch.
        """
        if (runs := self._other_runs()) is not None:
            self._masks(circuits)
            return torch.from_numpy(runs.logits(circuits)).to(self.model.device)
        masks, found, order = self._masks(circuits), [], list[int]()
        for rows, chunk in self.numbered_chunks():
            found.append(self.chunk_logits(chunk, masks))
            steps = chunk.batch.steps
            order += rows if steps is None else [rows[i] for i in steps.pair.tolist()]
        places = torch.tensor(order).argsort(stable=True)
        return torch.cat(found, 1)[:, places.to(found[0].device)]

    @typed
    @torch.no_grad()
    def measure(
        self,
        circuits: Sequence[Circuit],
        metrics: Sequence[Metric] | None = None,
        losses: bool = False,
    ) -> np.ndarray:
        """Return the mean of each metric, or of its loss, for each circuit, [metrics, circuits]."""
        return np.asarray(self.measure_each(circuits, metrics, losses).mean(-1))

    @typed
    @torch.no_grad()
    def measure_each(
        self,
        circuits: Sequence[Circuit],
        metrics: Sequence[Metric] | None = None,
        losses: bool = False,
        *,
        progress: Callable[[int, int], object] | None = None,
    ) -> np.ndarray:
        """Return each example's value, or loss, by each metric, for each circuit.

        float64 [metrics, circuits, examples], in the pairs' order. Many circuits should be given
        together: where the runs of a chunk do not fit in memory, each call makes them anew.
        `progress`: told how many circuits' worth of work is done, and how many circuits there are.
        """
        metrics = [self.metric] if metrics is None else metrics
        masks, runs = self._masks(circuits), self._other_runs()
        how = self._values if runs is None else runs.values
        each = how(masks, metrics, losses, progress)
        for metric, values in zip(metrics, each.mean(-1), strict=True):
            refuse_nan(values, f"the metric '{metric.name}'")
        return each

    def _values(
        self,
        masks: np.ndarray,
        metrics: Sequence[Metric],
        losses: bool,
        progress: Callable[[int, int], object] | None,
    ) -> np.ndarray:
        """Return the same by torch, one circuit after the other."""
        of = len(self._rows)
        found: list[list[Tensor]] = []  # left where they are until all is done: [C, B] by metric
        for i, chunk in enumerate(self.chunks()):
            parts = []
            for c in range(len(masks)):
                parts.append(self._read(chunk, masks[c : c + 1], metrics, losses))
                if progress is not None:
                    progress((i * len(masks) + c + 1) // of, len(masks))
            found.append([torch.cat(values) for values in zip(*parts, strict=True)])
        each = np.empty((len(metrics), len(masks), len(self.pairs)))
        for rows, values_here in zip(self._rows, found, strict=True):
            for m, value in enumerate(values_here):
                each[m][:, rows] = _on_host(value)
        return each

    @typed
    def losses(self, circuits: Sequence[Circuit]) -> np.ndarray:
        """Return the mean loss of each circuit, float64 [circuits]; larger is worse."""
        return np.asarray(self.measure(circuits, losses=True)[0])

    @typed
    def loss(self, circuit: Circuit) -> float:
        """Return the mean loss of one circuit."""
        return float(self.losses([circuit])[0])

    @typed
    @torch.no_grad()
    def mask_losses(self, masks: np.ndarray, start_row: int = 0) -> np.ndarray:
        """Return the mean loss of masks [n, P, S] that are full before a port, float64 [n]."""
        if (runs := self._other_runs()) is not None:
            masks = self._checked(masks, start_row)
            total = np.asarray(runs.values(masks, [self.metric], losses=True)[0].sum(-1))
        else:
            total = np.zeros(len(masks))
            for here in self._losses_of_chunks(masks, start_row):
                total += here.cpu().double().sum(-1).numpy()
        refuse_nan(total, f"the metric '{self.metric.name}'")
        return total / len(self.pairs)

    @typed
    @torch.no_grad()
    def mask_losses_each(self, masks: np.ndarray, start_row: int = 0) -> np.ndarray:
        """Return the same on each example, float64 [n, examples], in the pairs' order."""
        if (runs := self._other_runs()) is not None:
            masks = self._checked(masks, start_row)
            return np.asarray(runs.values(masks, [self.metric], losses=True)[0])
        losses = np.empty((len(masks), len(self.pairs)))
        found = self._losses_of_chunks(masks, start_row)
        for rows, values in zip(self._rows, found, strict=True):
            losses[:, rows] = _on_host(values)
        return losses

    def _losses_of_chunks(self, masks: np.ndarray, start_row: int) -> list[Tensor]:
        """Return the loss of masks [n, P, S] on each chunk, [n, B]; no chunk waits for another."""
        runs = (self._read(c, masks, [self.metric], True, start_row) for c in self.chunks())
        return [found for (found,) in runs]

    @typed
    def chunk_logits(self, chunk: Chunk, masks: np.ndarray, start_row: int = 0) -> Tensor:
        """Return the logits of masks [C, P, S] on one chunk, [C, R, V]; see `mask_losses`."""
        parts = self._streams(chunk, masks, start_row)
        return torch.cat([chunk.logits_with_grad(x).expand(n, -1, -1) for n, x in parts])

    def _read(
        self, chunk: Chunk, masks: np.ndarray, metrics: Sequence[Metric], losses: bool, row: int = 0
    ) -> list[Tensor]:
        """Return values or losses of metrics, of masks [C, P, S] on one chunk, [C, B] each."""
        parts = [
            [value.expand(n, -1) for value in chunk.read(stream, metrics, losses)]
            for n, stream in self._streams(chunk, masks, row)
        ]
        return [torch.cat(values) for values in zip(*parts, strict=True)]

    def _streams(self, chunk: Chunk, masks: np.ndarray, row: int) -> Iterator[tuple[int, Tensor]]:
        """Yield the stream at `logits`, [n or 1, B, T, D], of as many masks as fit in memory."""
        masks = self._checked(masks, row)
        if self.graph.spans:
            yield from ((1, run_at_spans(chunk, mask, row)) for mask in masks)
            return
        consistent = self.ablation.consistent
        plan = make_plan(self.graph, masks, consistent=consistent, start_row=row)
        world = chunk.restart_world if row else chunk.world
        streams = len(masks) * max(len(step.sums) for step in plan.layers)
        if len(masks) > 1 and 4 * streams * world.base.streams.final.numel() > self.budget.run:
            for part in (masks[: len(masks) // 2], masks[len(masks) // 2 :]):
                yield from self._streams(chunk, part, row)
        else:
            yield len(masks), run_masked(world, plan, len(masks))

    def _checked(self, masks: np.ndarray, row: int) -> np.ndarray:
        """Return masks of booleans, or refuse those that are not of the graph's size."""
        size = self.graph.size
        if np.shape(masks)[1:] != size or not 0 <= row < size[0]:
            raise EdgewiseError(
                f"`masks` have shape {list(np.shape(masks))} and `start_row` is {row}; accepted: "
                f"[n, {size[0]}, {size[1]}], and a row from 0 to {size[0] - 1}."
            )
        return np.asarray(masks, dtype=bool)

    def _masks(self, circuits: Sequence[Circuit]) -> np.ndarray:
        if not circuits:
            raise EdgewiseError("no circuits are given; accepted: a list of one or more.")
        for circuit in circuits:
            self.require_graph(circuit.graph)
        return np.stack([circuit.kept for circuit in circuits])


def _on_host(values: Tensor) -> np.ndarray:
    """Return values as float64 on the processor; waits for the device."""
    return np.asarray(values.cpu().double().numpy())


def refuse_nan(values: np.ndarray, what: str) -> None:
    """Refuse results that are not numbers, with which no edge can be judged."""
    if wrong := int(np.isnan(values).sum()):
        raise EdgewiseError(
            f"{what} is not a number (NaN) in {wrong:,} of {values.size:,} results. In float16 a "
            "model's activations can overflow: load it with dtype float32 or bfloat16. A metric "
            "given as an expression may have no value there, such as the log of a negative number."
        )
