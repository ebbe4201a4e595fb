"""What a donor's senders wrote on clean prompts, kept after the donor is closed.

Heads are kept as their mixtures before the output projection, which take less room than what they
write, with a copy of the projection. See `transplant.py` for what it is used for.

Shapes: B examples, T positions, D d_model, H heads, K d_head, V vocabulary.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...graphs.errors import GraphMismatch
from ...graphs.graph import ComputationGraph
from ...graphs.lift.devices import place
from ...graphs.lift.lifted import Attention, LiftedModel
from ...graphs.names import Kind, Node
from ..ablations.zero import zero
from ..metrics.metric import Metric, Target
from ..prompts.pairs import PromptPairs
from ..run.chunk import Chunk
from ..run.floors import rounding_floor
from ..run.runner import Runner, refuse_nan
from ..trace import Values

WARN_BYTES = 2 << 30  # donor values that take more memory than this are warned of

Projection = tuple[Tensor, float]
"""A layer's output projection [H, K, D] and its scale."""


def clean_runner(
    model: LiftedModel, pairs: PromptPairs, metric: str | Metric, batch_size: int | None = None
) -> Runner:
    """Return a runner whose clean runs cover whole prompts; nothing of it is ever ablated."""
    return Runner.create(model, pairs, metric=metric, ablation=zero, batch_size=batch_size)


@dataclass(frozen=True, eq=False)
class DonorChunk:
    """What the donor's senders wrote on one chunk of prompts.

    `values`: heads as mixtures; layers that are not wanted are empty. `stream`: [B, D], the sum of
    all senders, without constants, at the answers. `logits`: [B, V] there, if the metric needs any.
    """

    values: Values
    stream: Tensor
    logits: Tensor | None


@dataclass(frozen=True, eq=False)
class DonorValues:
    """A donor's clean runs, without the donor: what senders wrote, and what it measures.

    `wanted`: the columns of the senders that were recorded. `each`: the metric of every example, in
    the pairs' order; `floor`: how far rounding alone may move its mean.
    """

    graph: ComputationGraph
    d_model: int
    metric: Metric
    pairs: PromptPairs
    batch_size: int
    wanted: frozenset[int]
    projections: dict[int, Projection]
    parts: tuple[DonorChunk, ...]
    each: np.ndarray
    floor: float

    @property
    def value(self) -> float:
        """Return the metric's mean."""
        return float(self.each.mean())


@torch.no_grad()
def record(runner: Runner, nodes: Iterable[Node] | None = None) -> DonorValues:
    """Keep what some of a donor's senders write on clean prompts (default: all)."""
    model, graph = runner.model, runner.graph
    senders = graph.senders if nodes is None else tuple(nodes)
    wanted = frozenset(column_of(graph, node) for node in senders)
    layers = {graph.senders[u].layer for u in wanted if graph.senders[u].kind is Kind.HEAD}
    projections = {
        layer: (block.by_head.wo.clone(), block.by_head.output_scale)
        for layer, block in enumerate(model.blocks)
        if layer in layers
    }
    _warn_of_size(runner, wanted, projections)
    parts, each = [], np.empty(len(runner.pairs))
    for rows, chunk in runner.rows_and_chunks():
        logits = chunk.logits(chunk.clean.streams.final)
        target = target_of(chunk, runner.metric, logits)
        each[rows] = runner.metric(logits, target).cpu().double().numpy()
        kept = logits.cpu() if runner.metric.needs_clean_logits else None
        values = _trimmed(graph, chunk.clean.values, wanted)
        parts.append(DonorChunk(values, summed(chunk).cpu(), kept))
    refuse_nan(each, f"the metric '{runner.metric.name}'")
    return DonorValues(
        graph, model.d_model, runner.metric, runner.pairs, runner.batch_size, wanted, projections,
        tuple(parts), each,
        rounding_floor(runner.chunks(), runner.metric, unlike=True),
    )  # fmt: skip


def column_of(graph: ComputationGraph, node: Node) -> int:
    """Return a sender's column; GraphMismatch if there is no such sender."""
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


def target_of(chunk: Chunk, metric: Metric, logits: Tensor | None) -> Target:
    """Return what runs are compared with: answers, distractors, and the donor's logits."""
    compared = logits if metric.needs_clean_logits else None
    if compared is not None:
        compared = place(compared, chunk.clean.values.sources.device)
    return chunk.compared_with(compared)


def summed(chunk: Chunk) -> Tensor:
    """Add up all senders of the clean run at the answers, without constants, [B, D]."""
    total = chunk.at_answers(chunk.clean.streams.final)
    if not chunk.model.graph.post_norm:
        mixers = (block.attention for block in chunk.model.blocks)
        for attention in mixers:
            if isinstance(attention, Attention) and attention.constant is not None:
                total = total - place(attention.constant, total.device)
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
        some(values.z, Kind.HEAD, Kind.MIXER),
        some(values.mlp, Kind.MLP, Kind.EXPERT, Kind.SHARED),
        some(values.post, Kind.POST),
        tuple(x.cpu() for x in values.given) if sources else (),
    )


def written(
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
    elif node.kind is Kind.MIXER:
        found = values.z[node.layer].squeeze(-2)
    elif node.kind is Kind.POST:
        found = values.post[node.layer]
    else:
        found = values.mlp[node.layer][sender - graph.mlp_columns[node.layer].start]
    return found.to(torch.promote_types(found.dtype, torch.float32))


def _warn_of_size(
    runner: Runner, wanted: frozenset[int], projections: dict[int, Projection]
) -> None:
    tokens = sum(len(pair.clean) for pair in runner.pairs)
    width = sum(weight[..., 0].numel() for weight, _ in projections.values())
    others = sum(runner.graph.senders[u].kind is not Kind.HEAD for u in wanted)
    size = tokens * (width + others * runner.model.d_model) * runner.model.tokens.element_size()
    if size > WARN_BYTES:
        warnings.warn(
            f"keeping what the donor wrote takes {size / 2**30:.1f} GiB of memory; fewer examples, "
            "or fewer nodes, take less.",
            stacklevel=3,
        )
