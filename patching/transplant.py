"""Cross-model patching: some edges or nodes take the values of another model's run.

On the same clean prompts the *receiver* runs with, for each chosen edge u→p, what u wrote in the
clean run of the *donor* (Prakash et al. 2024, cross-model activation patching; here by edges):

    x_p = Σ_{u→p not chosen} o_u  +  Σ_{u→p chosen} o_u^donor  +  the receiver's constants

where o_u is what u writes in this very run. A chosen node is a sender all of whose edges are
chosen. Values cross, weights do not: the stream's constants (biases of output projections), the
final norm and the unembedding stay the receiver's, so the values of all nodes together give the
donor's logits only if those are equal in both models.

What the chosen parts carry is  (m(receiver with them) − m(receiver)) / (m(donor) − m(receiver)),
dataset means first, the ratio second, never clamped; shares of several parts need not add up.
Metrics that compare with the full model, such as `kl`, compare with the donor.

For the dense runner the receiver's clean run is the base, and o_u^donor − o_u^clean is added to the
ports from outside: what no chosen value reaches is not computed again, and values that are the same
in both models change nothing, exactly.

Shapes: B examples, T positions, D d_model, S senders, G chosen senders, C choices, V vocabulary.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ..errors import EdgewiseError, GraphMismatch, PromptError
from ..graphs.devices import place
from ..graphs.graph import ComputationGraph
from ..graphs.lifted import LiftedModel
from ..graphs.names import Edge, Kind, Node
from .dense import World, run_masked
from .metrics import Metric, Target
from .plan import make_plan
from .prompts import PromptPairs
from .runner import RUN_BYTES, Chunk, Runner, refuse_nan
from .trace import Values, at_answers

WARN_BYTES = 2 << 30
"""A donation that takes more memory than this is warned of."""

SAME = 1e-6
"""Two models whose metrics are nearer than this share of them measure the same."""

Projection = tuple[Tensor, float]
"""A layer's output projection [H, K, D] and its scale."""


def quiet_runner(
    model: LiftedModel,
    pairs: PromptPairs,
    metric: str | Metric,
    batch_size: int | None = None,
) -> Runner:
    """Return a runner whose clean runs cover whole prompts; nothing of it is ever ablated."""
    return Runner.create(model, pairs, metric=metric, ablation="zero", batch_size=batch_size)


@dataclass(frozen=True, eq=False)
class Part:
    """Hold what the donor's senders wrote on one chunk of prompts.

    `values`: heads as mixtures; layers that are not wanted are empty. `stream`: [B, D], the sum of
    all senders, without constants, at the answers. `logits`: [B, V] there, if the metric compares
    with them.
    """

    values: Values
    stream: Tensor
    logits: Tensor | None


@dataclass(frozen=True, eq=False)
class Donation:
    """Hold a donor's clean runs, without the donor: what senders wrote, and what it measures.

    `wanted`: the columns of the senders that were recorded. `value`: the metric's mean.
    """

    graph: ComputationGraph
    d_model: int
    metric: Metric
    pairs: PromptPairs
    batch_size: int
    wanted: frozenset[int]
    projections: dict[int, Projection]
    parts: tuple[Part, ...]
    value: float


@torch.no_grad()
def record(runner: Runner, nodes: Iterable[Node] | None = None) -> Donation:
    """Run the donor on the clean prompts and keep what some senders wrote (default: all).

    Nothing of the model itself is kept but copies of output projections, so that the donor can be
    closed before the receiver is opened.

    Raises:
        GraphMismatch: the graph has no such sender.
    """
    model, graph = runner.model, runner.graph
    senders = graph.senders if nodes is None else tuple(nodes)
    wanted = frozenset(column_of(graph, node) for node in senders)
    _warn_of_size(runner, wanted)
    layers = {graph.senders[u].layer for u in wanted if graph.senders[u].kind is Kind.HEAD}
    projections = {
        layer: (block.attention.wo.clone(), block.attention.output_scale)
        for layer, block in enumerate(model.blocks)
        if layer in layers
    }
    parts, total = [], 0.0
    for chunk in runner.chunks():
        logits = chunk.logits(chunk.clean.streams.final)
        target = _target(chunk, runner.metric, logits)
        total += float(runner.metric(logits, target).cpu().double().sum())
        kept = logits.cpu() if runner.metric.needs_clean_logits else None
        values = _trimmed(graph, chunk.clean.values, wanted)
        parts.append(Part(values, _summed(chunk).cpu(), kept))
    refuse_nan(np.array([total]), f"the metric '{runner.metric.name}'")
    return Donation(
        graph, model.d_model, runner.metric, runner.pairs, runner.batch_size, wanted, projections,
        tuple(parts), total / len(runner.pairs),
    )  # fmt: skip


def column_of(graph: ComputationGraph, node: Node) -> int:
    """Return a sender's column.

    Raises:
        GraphMismatch: there is no such sender.
    """
    column = graph.sender_index.get(node)
    if column is None:
        why = ""
        if node.kind is Kind.MLP and node.layer is not None and node.layer < graph.layers:
            names = [str(one) for one in graph.mlp_nodes(node.layer)]
            why = f" Where a layer has experts, they are its senders: {', '.join(names)}."
        raise GraphMismatch(
            f"the graph has no node '{node}' that writes; it has {graph.describe()}.{why}"
        )
    return column


def nodes_mask(graph: ComputationGraph, nodes: Iterable[Node]) -> np.ndarray:
    """Choose every edge out of some nodes, bool [ports, senders]."""
    chosen = np.zeros_like(graph.reads)
    for node in nodes:
        column = column_of(graph, node)
        chosen[:, column] = graph.reads[:, column]
    return chosen


def edges_mask(graph: ComputationGraph, edges: Iterable[Edge]) -> np.ndarray:
    """Choose some edges, bool [ports, senders]."""
    chosen = np.zeros_like(graph.reads)
    for edge in edges:
        chosen[graph.locate(edge)] = True
    return chosen


@dataclass(frozen=True, eq=False)
class Transplant:
    """Measure a receiver with parts of a donor.

    Args:
        runner: the receiver on the donation's prompts, with its metric; see `create`.
        donation: what the donor wrote.
    """

    runner: Runner
    donation: Donation

    @staticmethod
    def create(model: LiftedModel, pairs: PromptPairs, donation: Donation) -> Transplant:
        """Check that receiver and donation fit together.

        Raises:
            GraphMismatch: the two models differ in shape.
            PromptError: the prompts are not the donor's.
            EdgewiseError: the metric compares all logits, and the vocabularies differ.
        """
        differences = donation.graph.differences(model.graph)
        if donation.d_model != model.d_model:
            differences.append(f"d_model {donation.d_model} and {model.d_model}")
        if differences:
            raise GraphMismatch(
                "nothing can be transplanted between these models: they differ in "
                f"{'; '.join(differences)} (donor and receiver). Accepted: two models of one shape."
            )
        if pairs.sha256 != donation.pairs.sha256:
            raise PromptError(
                "the receiver's prompts are not those the donor ran on; give both the same pairs."
            )
        seen = donation.parts[0].logits
        if seen is not None and seen.shape[-1] != len(model.unembed.weight):
            raise EdgewiseError(
                f"metric '{donation.metric.name}' compares all logits, and the donor has "
                f"{seen.shape[-1]:,}, the receiver {len(model.unembed.weight):,}; use a metric of "
                "single tokens, such as logit_diff."
            )
        runner = quiet_runner(model, pairs, donation.metric, donation.batch_size)
        return Transplant(runner, donation)

    @property
    def graph(self) -> ComputationGraph:
        """Return the graph of both models."""
        return self.donation.graph

    @cached_property
    def receiver(self) -> float:
        """Return the receiver's own metric."""
        return self._mean(lambda chunk, _: chunk.logits(chunk.clean.streams.final)[None])[0]

    @property
    def donor(self) -> float:
        """Return the donor's metric."""
        return self.donation.value

    @cached_property
    def everything(self) -> float:
        """Return the receiver's metric with the values of all the donor's nodes."""

        def run(chunk: Chunk, part: Part) -> Tensor:
            position = chunk.batch.answer_position
            own = at_answers(chunk.clean.streams.final, position)
            given = place(part.stream, own.device) - _summed(chunk)
            return chunk.model.logits(own + given)[None]

        return self._mean(run)[0]

    def carried(self, value: float) -> float | None:
        """Return which share of the gain a value is; None if the two models measure the same."""
        if math.isclose(self.donor, self.receiver, rel_tol=SAME):
            return None
        return (value - self.receiver) / (self.donor - self.receiver)

    def require_share(self, value: float) -> float:
        """Return the same where there must be a gain.

        Raises:
            EdgewiseError: the two models measure the same.
        """
        share = self.carried(value)
        if share is None:
            raise EdgewiseError(
                f"both models measure {self.runner.metric.name} {self.receiver:.6g} on these "
                "prompts, so there is no gain that a node could carry; use another task or metric."
            )
        return share

    @torch.no_grad()
    def measure(self, chosen: np.ndarray) -> list[float]:
        """Return the metric's mean with the donor's values on each choice of edges.

        Args:
            chosen: bool [C, ports, senders].

        Raises:
            EdgewiseError: the donor was recorded without a sender that is asked for.
        """
        assert not (chosen & ~self.graph.reads).any()
        senders = [int(u) for u in np.flatnonzero(chosen.any((0, 1)))]
        lacking = sorted(set(senders) - self.donation.wanted)
        if lacking:
            names = ", ".join(str(self.graph.senders[u]) for u in lacking)
            raise EdgewiseError(f"the donor was recorded without {names}; record these nodes too.")

        def run(chunk: Chunk, part: Part) -> Tensor:
            given = self._given(chunk, part, senders)
            extra = chosen[:, :, senders] & given.any(1).cpu().numpy()
            return self._logits(chunk, given, self.graph.reads & ~chosen, extra)

        return self._mean(run)

    def _mean(self, run: Callable[[Chunk, Part], Tensor]) -> list[float]:
        """Average the metric of logits [C, B, V] over all chunks."""
        total: np.ndarray | float = 0.0
        metric = self.runner.metric
        with torch.no_grad():
            for chunk, part in zip(self.runner.chunks(), self.donation.parts, strict=True):
                logits = run(chunk, part)
                value = metric(logits, _target(chunk, metric, part.logits))
                total = total + value.cpu().double().sum(-1).numpy()
        means = np.asarray(total) / len(self.runner.pairs)
        refuse_nan(means, f"the metric '{metric.name}'")
        return [float(mean) for mean in means]

    def _given(self, chunk: Chunk, part: Part, senders: Sequence[int]) -> Tensor:
        """Return what the donor's senders wrote minus what the receiver's did, [G, B·T·D]."""
        own = {
            layer: (block.attention.wo, block.attention.output_scale)
            for layer, block in enumerate(chunk.model.blocks)
        }
        values, device = chunk.clean.values, values_device(chunk)
        rows = []
        for sender in senders:
            theirs = _written(self.graph, sender, part.values, self.donation.projections, own)
            ours = _written(self.graph, sender, values, own, own)
            rows.append((place(theirs, device) - place(ours, device)).flatten())
        wide = torch.promote_types(values.sources.dtype, torch.float32)
        count = values.sources[0].numel()
        empty = torch.zeros(0, count, dtype=wide, device=device)
        return torch.stack(rows) if rows else empty

    def _logits(self, chunk: Chunk, given: Tensor, kept: np.ndarray, extra: np.ndarray) -> Tensor:
        """Run choices of edges, in parts if they do not fit in `RUN_BYTES`; [C, B, V]."""
        plan = make_plan(self.graph, kept, consistent=True, fixed=frozenset(), extra=extra)
        nothing = given[:0]
        world = World(chunk.model, chunk.context, chunk.clean, nothing, chunk.past, given)
        streams = len(kept) * max(1, *(len(step.sums) for step in plan.layers))
        if len(kept) > 1 and 4 * streams * world.base.streams.final.numel() > RUN_BYTES:
            half = len(kept) // 2
            parts = ((kept[:half], extra[:half]), (kept[half:], extra[half:]))
            return torch.cat([self._logits(chunk, given, *part) for part in parts])
        logits = chunk.logits(run_masked(world, plan, len(kept)))
        return logits.expand(len(kept), -1, -1)


def values_device(chunk: Chunk) -> torch.device:
    """Return where a chunk's stream lies."""
    return chunk.clean.values.sources.device


def _target(chunk: Chunk, metric: Metric, logits: Tensor | None) -> Target:
    """Return what runs are compared with: answers, distractors, and the donor's logits."""
    if logits is not None:
        logits = place(logits, values_device(chunk))
    compared = logits if metric.needs_clean_logits else None
    return Target(chunk.batch.answers, chunk.batch.distractors, compared)


def _summed(chunk: Chunk) -> Tensor:
    """Add up all senders of the clean run at the answers, without constants, [B, D]."""
    total = at_answers(chunk.clean.streams.final, chunk.batch.answer_position)
    if not chunk.model.graph.post_norm:
        for block in chunk.model.blocks:
            if block.attention.constant is not None:
                total = total - place(block.attention.constant, total.device)
    return total


def _trimmed(graph: ComputationGraph, values: Values, wanted: frozenset[int]) -> Values:
    """Keep the layers that hold a wanted sender; the others are empty."""
    nodes = [graph.senders[u] for u in wanted]

    def some(every: tuple[Tensor, ...], *kinds: Kind) -> tuple[Tensor, ...]:
        layers = {node.layer for node in nodes if node.kind in kinds}
        return tuple(x.cpu() if i in layers else x.new_empty(0) for i, x in enumerate(every))

    sources = any(node.layer is None for node in nodes)
    return Values(
        values.sources.cpu() if sources else values.sources.new_empty(0),
        some(values.z, Kind.HEAD),
        some(values.mlp, Kind.MLP, Kind.EXPERT, Kind.SHARED),
        some(values.post, Kind.POST),
    )


def _written(
    graph: ComputationGraph,
    sender: int,
    values: Values,
    projections: dict[int, Projection],
    places: dict[int, Projection],
) -> Tensor:
    """Return what one sender wrote, [B, T, D], float32 at least; `places`: where blocks lie."""
    node = graph.senders[sender]
    if node.layer is None:
        found = values.sources[sender]
    elif node.kind is Kind.HEAD:
        weight, scale = projections[node.layer]
        device = places[node.layer][0].device
        z = place(values.z[node.layer][:, :, node.index], device)
        found = z @ place(weight[node.index], device)
        found = found if scale == 1 else found * scale
    elif node.kind is Kind.POST:
        found = values.post[node.layer]
    else:
        found = values.mlp[node.layer][sender - graph.mlp_columns[node.layer].start]
    return found.to(torch.promote_types(found.dtype, torch.float32))


def _warn_of_size(runner: Runner, wanted: frozenset[int]) -> None:
    """Warn of a donation that takes much memory."""
    model, graph = runner.model, runner.graph
    tokens = sum(len(pair.clean) for pair in runner.pairs)
    layers = {graph.senders[u].layer for u in wanted if graph.senders[u].kind is Kind.HEAD}
    width = sum(
        model.blocks[layer].attention.wo[..., 0].numel() for layer in layers if layer is not None
    )
    others = sum(graph.senders[u].kind is not Kind.HEAD for u in wanted)
    size = tokens * (width + others * model.d_model) * model.tokens.element_size()
    if size > WARN_BYTES:
        warnings.warn(
            f"keeping what the donor wrote takes {size / 2**30:.1f} GiB of memory; fewer examples, "
            "or fewer nodes, take less.",
            stacklevel=3,
        )
