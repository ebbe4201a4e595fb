"""What every sender writes in one run, and the stream it adds up to.

Runs can be confined to a window, the last T positions: keys and values of the positions before it
are then taken from another run (`Past`), which is exact when both runs agree there.

Shapes: B examples, T positions, D d_model, H heads, G key/value heads, K d_head, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..graphs.lift.attention import project as project_by
from ..graphs.lift.devices import place
from ..graphs.lift.lifted import Attention, AttentionContext, Block, LiftedModel


@dataclass(frozen=True)
class Values:
    """What each sender writes.

    `sources`: [sources, B, T, D]; `z`: per layer [B, T, H, K], the heads' mixtures before the
    output projection (which makes their outputs), or what a mixer taken whole writes,
    [B, T, 1, D], or nothing, [B, T, 0, 1]; `mlp`: per layer [n, B, T, D], of the MLP (n is 1), of
    each expert, or of none; `post`, in post-norm models, what `o{l}` writes: per layer [B, T, D],
    or nothing, [B, T, 0]; `given`: what the embedding sends to each `m{l}` past the stream, per
    layer [B, T, P], in models that have it.
    """

    sources: Tensor
    z: tuple[Tensor, ...]
    mlp: tuple[Tensor, ...]
    post: tuple[Tensor, ...] = ()
    given: tuple[Tensor, ...] = ()

    def map(self, change: Callable[..., Tensor], *others: Values) -> Values:
        """Change what all senders write, and `others` beside it, each with [B, T, …] first."""

        def senders_last(*x: Tensor) -> Tensor:
            return change(*(y.movedim(0, 2) for y in x)).movedim(2, 0)

        every = (self, *others)
        return Values(
            senders_last(*(v.sources for v in every)),
            tuple(change(*x) for x in zip(*(v.z for v in every), strict=True)),
            tuple(senders_last(*x) for x in zip(*(v.mlp for v in every), strict=True)),
            tuple(change(*x) for x in zip(*(v.post for v in every), strict=True)),
            tuple(change(*x) for x in zip(*(v.given for v in every), strict=True)),
        )

    def zeros(self) -> Values:
        """Return values of the same shapes where no sender writes anything."""
        return self.map(lambda x: x.new_zeros(()).expand_as(x))


Past = tuple[tuple[Tensor, Tensor], ...]
"""Keys and values of the positions before a window, per layer [B, start, G, K] each."""


@dataclass(frozen=True)
class Streams:
    """What ports read: before attention, before the MLP (per layer), and at the end.

    What the embedding sends to an MLP past the stream stands behind it, [B, T, D + P].
    `post`: in post-norm models the sum of each layer's heads and its constant.
    """

    attention: tuple[Tensor, ...]
    mlp: tuple[Tensor, ...]
    final: Tensor
    post: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Trace:
    """A run's values and streams."""

    model: LiftedModel
    values: Values

    @cached_property
    def streams(self) -> Streams:
        """Add up the senders and constants before each port, [B, T, D] each."""
        stream = self.values.sources.sum(0)
        attention, mlp, post = [], [], []
        graph, values = self.model.graph, self.values
        for layer, block in enumerate(self.model.blocks):
            attention.append(stream)
            summed = place(sum_heads(block, values.z[layer]), stream.device)
            if graph.post_norm:
                post.append(summed)
                summed = values.post[layer] if graph.has_post(layer) else summed
            middle = stream + summed
            mlp.append(with_given(stream if graph.parallel else middle, values.given, layer))
            stream = middle + together(values.mlp[layer])
        return Streams(tuple(attention), tuple(mlp), stream, tuple(post))


def with_given(x: Tensor, given: Sequence[Tensor], layer: int) -> Tensor:
    """Put behind a stream what the embedding sends to a layer's MLP past it, if anything."""
    return torch.cat((x, given[layer]), -1) if given else x


def together(writes: Tensor) -> Tensor:
    """Add up what the senders of one port write, [n, ...] to [...]."""
    return writes[0] if len(writes) == 1 else writes.sum(0)


def sum_heads(block: Block, z: Tensor) -> Tensor:
    """Add up the heads' outputs and the projection's bias, [..., D]; of a mixer, what it writes.

    Where the layer has none, [..., 1], zero.
    """
    if not isinstance(block.attention, Attention):
        return z.squeeze(-2) if block.attention is not None else z.sum(-2)
    out = block.attention.merge(z)
    constant = block.attention.constant
    return out if constant is None else out + constant


def project(block: Block, letter: str, normed: Tensor) -> Tensor:
    """Project normed [..., D], with a norm of all heads together: [..., H, K], or [..., G, K]."""
    out = project_only(block, letter, normed)
    norm = block.by_head.norm_of_all(letter)
    return out if norm is None else norm(out.flatten(-2)).view_as(out)


def project_only(block: Block, letter: str, normed: Tensor) -> Tensor:
    """Do the same without any norm."""
    return _projected(block, letter, normed, *block.by_head.projection(letter))


def _projected(
    block: Block, letter: str, normed: Tensor, weight: Tensor, bias: Tensor | None
) -> Tensor:
    """Project normed [..., D] by the weight and bias of some heads."""
    latent = block.by_head.latent(letter)
    if latent is not None:
        return latent.project(normed, weight, bias)
    return project_by(normed, weight, bias)


def project_heads(
    block: Block, letter: str, normed: Tensor, heads: Sequence[int]
) -> tuple[Tensor, list[int]]:
    """Project normed [..., D] for some query heads: [..., g, K], and each head's place in it."""
    group = 1 if letter == "q" else block.by_head.group_size
    if block.by_head.norm_of_all(letter) is not None:
        return project(block, letter, normed), [head // group for head in heads]
    weight, bias = block.by_head.projection(letter)
    groups = sorted({head // group for head in heads})
    if groups[-1] - groups[0] < len(groups):  # views, no copies
        at = slice(groups[0], groups[-1] + 1)
        weight, bias = weight[at], None if bias is None else bias[at]
    else:
        weight, bias = weight[groups], None if bias is None else bias[groups]
    out = _projected(block, letter, normed, weight, bias)
    return out, [groups.index(head // group) for head in heads]


def repeat_kv(block: Block, x: Tensor) -> Tensor:
    """Repeat key/value heads [..., G, K] for the query heads that share them, [..., H, K]."""
    size = block.by_head.group_size
    return x if size == 1 else x.repeat_interleave(size, -2)


def past_of(
    block: Block, layer: int, past: Past | None, heads: Sequence[int] | None = None
) -> tuple[Tensor, Tensor] | None:
    """Return a layer's past keys and values for each query head, or for some, [B, start, h, K]."""
    if past is None:
        return None
    keys, values = past[layer]
    chosen = range(block.by_head.heads) if heads is None else heads
    groups = [head // block.by_head.group_size for head in chosen]
    whole = groups == list(range(keys.shape[-2]))
    return past[layer] if whole else (keys[..., groups, :], values[..., groups, :])


def run_plain(
    model: LiftedModel,
    ids: Tensor,
    context: AttentionContext,
    past: Past | None = None,
    sources: Tensor | None = None,
    given: tuple[Tensor, ...] | None = None,
) -> Trace:
    """Run the model on ids [B, all]; keep what senders write from the context's `start` on.

    `sources`: what the embedding's senders write, [sources, B, T, D], and `given` (see `Values`);
    default: what the ids give.
    """
    window = slice(context.start, None)
    if sources is None:
        sources = model.embed(ids[:, window], context.position_ids[:, window])
    given = model.give(ids[:, window]) if given is None else given
    before = [sources.sum(0)]  # the stream before each layer
    layers = []
    for layer, block in enumerate(model.blocks):
        keys = of_keys(block, before, layer)
        run = run_layer(model, layer, before[layer], keys, context, past, given)
        layers.append(run)
        before.append(run.stream)
    zs, posts, writes = ([getattr(run, key) for run in layers] for key in ("z", "post", "writes"))
    posts = posts if model.graph.post_norm else []
    return Trace(model, Values(sources, tuple(zs), tuple(writes), tuple(posts), given))


@dataclass(frozen=True)
class LayerRun:
    """What one layer's parts write, as in `Values`, and the stream behind it, [B, T, D]."""

    z: Tensor
    post: Tensor
    writes: Tensor
    stream: Tensor


def run_layer(
    model: LiftedModel,
    layer: int,
    stream: Tensor,
    keys: Tensor,
    context: AttentionContext,
    past: Past | None = None,
    given: Sequence[Tensor] = (),
) -> LayerRun:
    """Run one layer on the stream before it, [B, T, D].

    `keys`: the stream that its keys and values are made of; `given`: see `Values`.
    """
    block, graph = model.blocks[layer], model.graph
    z = run_mixer(block, layer, stream, keys, context, past)
    summed, post = place(sum_heads(block, z), stream.device), stream[..., :0]
    if graph.has_post(layer):
        summed = post = block.write_post(summed)
    middle = stream + summed
    write = block.writes(with_given(stream if graph.parallel else middle, given, layer))
    return LayerRun(z, post, write, middle + together(write))


def run_mixer(
    block: Block,
    layer: int,
    stream: Tensor,
    keys: Tensor,
    context: AttentionContext,
    past: Past | None = None,
) -> Tensor:
    """Return what mixes the tokens of a stream [B, T, D] in one layer: see `Values.z`.

    `keys`: the stream that its keys and values are made of.
    """
    if block.attention is None:
        return stream.new_zeros(*stream.shape[:-1], 0, 1)
    if not isinstance(block.attention, Attention):
        return block.write_whole(stream, context).unsqueeze(-2)
    q, k, v = project_all(block, stream, keys)
    before = past_of(block, layer, past)
    return block.attention.mix(q, repeat_kv(block, k), repeat_kv(block, v), context, before)


def of_keys(block: Block, streams: Sequence[Tensor], layer: int) -> Tensor:
    """Return the stream that a layer's keys and values are made of, of those before layers."""
    return streams[layer if block.shared is None else block.shared.source]


def project_all(
    block: Block, stream: Tensor, keys: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries [..., H, K], keys and values [..., G, K] of one stream.

    `keys`: the stream that keys and values are made of, if it is another.
    """
    normed = block.read(stream)
    other = normed if block.shared is None or keys is None else block.read(keys, "k")
    return project(block, "q", normed), project(block, "k", other), project(block, "v", other)


def patterns(run: Trace, layer: int, context: AttentionContext) -> Tensor:
    """Return the attention of the context's queries in a layer of a run, [B, H, queries, T]."""
    block, streams = run.model.blocks[layer], run.streams.attention
    normed = block.read(streams[layer])
    keys = block.read(of_keys(block, streams, layer), "k")
    context = context.on(normed.device)
    q = project(block, "q", context.queries(normed))
    return block.by_head.pattern(q, repeat_kv(block, project(block, "k", keys)), context)


def split(run: Trace, start: int) -> tuple[Trace, Past]:
    """Cut a run over all positions into the keys and values before a window, and the window."""
    past, streams = [], run.streams.attention
    for layer, block in enumerate(run.model.blocks):
        stream = of_keys(block, streams, layer)
        if block.attention is None:
            past.append((stream[:, :0], stream[:, :0]))
            continue
        normed = block.read(stream[:, :start], "k")
        past.append((project(block, "k", normed), project(block, "v", normed)))
    return Trace(run.model, run.values.map(lambda x: x[:, start:].clone())), tuple(past)


def at_answers(x: Tensor, position: Tensor, row: Tensor | None = None) -> Tensor:
    """Pick each example's answer position: x [..., B, T, D], position [B], gives [..., B, D].

    With `row`, [R], the examples that positions [R] are of: gives [..., R, D].
    """
    if row is not None:
        place = row * x.shape[-2] + position
        return x.flatten(-3, -2).index_select(-2, place)
    index = position.view(*[1] * (x.dim() - 3), -1, 1, 1).expand(*x.shape[:-2], 1, x.shape[-1])
    return x.gather(-2, index).squeeze(-2)
