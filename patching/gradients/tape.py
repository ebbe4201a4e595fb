"""A run of a full model, with each layer's parts on tapes of their own, in which parameters are
constants.

Shapes: K points, B examples, T positions, D d_model, H heads, d d_head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...graphs.lift.devices import place
from ...graphs.lift.lifted import Attention, Block, LiftedModel
from ...graphs.names import Kind
from ..run.chunk import Chunk
from ..trace import (
    of_keys,
    past_of,
    project_all,
    repeat_kv,
    sum_heads,
    together,
    with_given,
)


@dataclass(frozen=True)
class Heads:
    """The leaves of a layer's heads, the streams they read, and what was computed.

    `keys`: the stream that keys and values are made of.
    """

    stream: Tensor
    keys: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    z: Tensor


@dataclass(frozen=True)
class WritingPlace:
    """Where senders write together: `kind` None is the embedding; of a layer its heads (or what
    mixes tokens in their place, of kind `HEAD` too), the norm behind them, or its MLP (or experts).
    """

    kind: Kind | None
    layer: int = 0


@dataclass(frozen=True)
class LayerTape:
    """One layer's leaves and what was computed from them, [K·B, T, …]; None: no such part."""

    heads: Heads | None
    mlp: tuple[Tensor, Tensor] | None
    post: tuple[Tensor, Tensor] | None = None
    whole: tuple[Tensor, Tensor] | None = None
    """What `m{l}`, `o{l}` and `s{l}` write, and read."""


def tapes_of(
    model: LiftedModel, chunk: Chunk, points: Sequence[float]
) -> tuple[list[LayerTape], Tensor]:
    """Run a chunk from points between both embeddings; return tapes and the stream at `logits`.

    `model`: the chunk's, or one of the same values. All points together are one batch, [K·B, …].
    """
    clean, base = (t.values.sources.sum(0) for t in (chunk.clean, chunk.base))
    streams = [torch.cat([base + point * (clean - base) for point in points])]
    both = zip(chunk.base.values.given, chunk.given_delta, strict=True)
    given = [torch.cat([a + point * more for point in points]) for a, more in both]
    run, tapes = _Run(model, chunk, (len(points), len(chunk.batch))), []
    for layer, block in enumerate(model.blocks):
        tape, behind = run.tape(layer, block, streams, given)
        tapes.append(tape)
        streams.append(behind)
    return tapes, streams[-1]


def tapes_behind(
    model: LiftedModel, chunk: Chunk, shares: Sequence[float], at: WritingPlace
) -> tuple[list[LayerTape], Tensor]:
    """Run a chunk with what the senders at one place write led towards what ablation gives.

    They write o + share · (a − o), with o and a the clean and the ablated values; everything later
    is recomputed. All shares together are one batch, [K·B, …]. Layers, and parts of the place's own
    layer, that do not read what is written there have empty tapes.
    """
    if at.kind is None:
        return tapes_of(model, chunk, [1 - share for share in shares])
    layer, block = at.layer, model.blocks[at.layer]
    clean, base, streams = chunk.clean.values, chunk.base.values, chunk.clean.streams

    def every(x: Tensor) -> Tensor:
        return torch.cat([x] * len(shares))

    def led(x: Tensor, y: Tensor) -> Tensor:
        return torch.cat([x + share * (y - x) for share in shares])

    given = [every(x) for x in clean.given]
    before = [every(x) for x in streams.attention[: layer + 1]]
    post = mlp = None
    of_heads = at.kind is Kind.HEAD
    z = led(clean.z[layer], base.z[layer]) if of_heads else every(clean.z[layer])
    with torch.no_grad():
        summed = place(sum_heads(block, z), before[-1].device)
    if model.graph.has_post(layer):
        if of_heads:
            post = _taped(block.write_post, summed)
            summed = post[0].detach()
        else:
            old, new = clean.post[layer], base.post[layer]
            summed = led(old, new) if at.kind is Kind.POST else every(old)
    middle = before[-1] + summed
    if at.kind is Kind.MLP:
        middle = middle + led(together(clean.mlp[layer]), together(base.mlp[layer]))
    elif model.graph.parallel:
        middle = middle + every(together(clean.mlp[layer]))
    elif block.mlp is not None:
        mlp = _taped(block.write, with_given(middle, given, layer))
        middle = middle + mlp[0].detach()
    tapes = [LayerTape(None, None)] * layer + [LayerTape(None, mlp, post)]
    before.append(middle)
    run = _Run(model, chunk, (len(shares), len(chunk.batch)))
    for later in range(layer + 1, len(model.blocks)):
        tape, behind = run.tape(later, model.blocks[later], before, given)
        tapes.append(tape)
        before.append(behind)
    return tapes, before[-1]


def _taped(write: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Return what a part writes, and the leaf it read it from."""
    leaf = x.detach().requires_grad_()
    with torch.enable_grad():
        return write(leaf), leaf


@dataclass(frozen=True)
class _Run:
    """A run of a chunk; `shape`: K, B."""

    model: LiftedModel
    chunk: Chunk
    shape: tuple[int, int]

    def tape(
        self, layer: int, block: Block, streams: Sequence[Tensor], given: Sequence[Tensor]
    ) -> tuple[LayerTape, Tensor]:
        """Run a layer, given the streams before it and earlier ones; return tape and stream."""
        heads = whole = post = mlp = None
        middle = stream = streams[layer]
        if isinstance(block.attention, Attention):
            heads = self._heads(layer, block, stream, of_keys(block, streams, layer))
            with torch.no_grad():
                summed = place(sum_heads(block, heads.z), stream.device)
            if self.model.graph.post_norm:
                post = _taped(block.write_post, summed)
                summed = post[0]
            middle = stream + summed.detach()
        elif block.attention is not None:
            whole = _taped(self._mixed(block), stream)
            middle = stream + whole[0].detach()
        if block.mlp is not None:
            read = stream if self.model.graph.parallel else middle
            mlp = _taped(block.write, with_given(read, given, layer))
            middle = middle + mlp[0].detach()
        return LayerTape(heads, mlp, post, whole), middle

    def _mixed(self, block: Block) -> Callable[[Tensor], Tensor]:
        """Return what a mixer taken whole writes when its port holds x, [K·B, T, D]."""
        context = self.chunk.context
        return lambda x: block.write_whole(x.unflatten(0, self.shape), context).flatten(0, 1)

    def _heads(self, layer: int, block: Block, stream: Tensor, keys: Tensor) -> Heads:
        with torch.no_grad():
            q, k, v = project_all(block, stream, keys)
            q, k, v = (
                x.detach().requires_grad_() for x in (q, repeat_kv(block, k), repeat_kv(block, v))
            )
        with torch.enable_grad():  # points are an axis of their own, so that the batch's tables fit
            qs, ks, vs = (x.unflatten(0, self.shape) for x in (q, k, v))
            past = past_of(block, layer, self.chunk.past)
            z = block.by_head.mix(qs, ks, vs, self.chunk.context, past).flatten(0, 1)
        return Heads(stream, keys, q, k, v, z)
