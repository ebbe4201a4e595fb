"""Edge scores from gradients at every port, as one compiled program; see `patching.gradients`.

1. Run the clean prompts, keep what every sender writes, and the keys and values before the window.
2. Do the same for what ablated edges carry: the corrupted prompts' run, or values that are given.
   Their difference is `delta`, of the tokens at which something moves, [S, n, D].
3. Run the points between both embeddings, keep the stream before each layer and in its middle.
4. Go back through the layers: take one layer's vector-Jacobian products, form the gradient at each
   of its ports, and multiply these with the deltas of all senders before the layer.

Layers run as scans. Everything is float32 at least but products with weights, and the product that
gives scores, whose factors have the weights' type; sums are float32.

Shapes: K points, B examples, T positions of the window, n tokens at which something moves,
D d_model, H heads, d d_head, S senders, P ports.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..metrics.metric import Metric
from .batches import Prompts
from .crossing import has_heads
from .model import ModelPlan, Weights, embed, give, logits
from .parts import attention as heads
from .parts.attention import Positions
from .parts.deltas import Deltas, Wrote, factor_type
from .parts.layers import Past, RanLayer, project_all, whole_keys, written
from .parts.norms import normalise, product
from .parts.ports import attention_ports
from .parts.readout import at_answers, loss_gradient, rounded_by
from .parts.scoring import Products, RunScores
from .parts.sharing import whole
from .runs import Layer, keys_of, layers, past_before, run
from .segments import over, over_run, rows_of


@dataclass(frozen=True)
class MeasuredBy:
    """A metric, told apart by its name, as part of what is compiled."""

    metric: Metric

    def __hash__(self) -> int:
        return hash(self.metric.name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MeasuredBy) and (
            (self.metric.name, self.metric.larger_is_better, self.metric.known)
            == (other.metric.name, other.metric.larger_is_better, other.metric.known)
        )


@dataclass(frozen=True)
class ScoreProgram:
    """What is compiled, beside the shapes of what it is given.

    `at_clean`: the clean run is the only point. `paired`: the corrupted prompts' run is what
    ablated edges carry. `apart`: scores on each example.
    """

    plan: ModelPlan
    measured: MeasuredBy
    start: int
    at_clean: bool
    paired: bool
    apart: bool


class Carries(NamedTuple):
    """What ablated edges carry, of all senders: `layers` by run and place, [times, …] of each."""

    sources: Array
    given: Any
    layers: Any


class _Kept(NamedTuple):
    """What is kept of a layer of the clean run: in the window, and the past before it."""

    wrote: Wrote
    x: Array
    middle: Array
    past: Past | None


class _Tape(NamedTuple):
    """The stream before a layer, and in its middle, at all points, [K, B, T, D]."""

    x: Array
    middle: Array


class SummedScores(NamedTuple):
    """Scores, [P, S] each (or [B, P, S]), by run and place, [times, …]; and of `logits`.

    `first`: what each layer's `m{l}` has of the embedding past the stream. `rounded`: [R], by how
    much rounding moves each read's loss; see `rounded_by`.
    """

    layers: Any
    first: Any
    logits: Array
    rounded: Array


@partial(jax.jit, static_argnums=0)
def scores(
    program: ScoreProgram,
    weights: Weights,
    prompts: Prompts,
    points: Array,
    shares: Array,
    base: Carries | None,
) -> SummedScores:
    """Score every edge, summed over a chunk's examples; points [K] have shares [K] of it."""
    plan, start = program.plan, program.start
    everywhere = Positions(prompts.mask, prompts.ids)
    at = Positions(prompts.mask, prompts.ids, start)
    sources = embed(weights, plan, prompts.clean, prompts.ids)
    given = give(weights, plan, prompts.clean)
    through = layers(weights, given)
    final, kept, clean = run(plan, sources.sum(0), everywhere, through, _keep_clean(start))
    sources, final = sources[..., start:, :], final[..., start:, :]
    given, kept = (jax.tree_util.tree_map(lambda x: x[..., start:, :], x) for x in (given, kept))
    past = [tuple(one.past for one in own) for own in clean]
    clean_logits = logits(weights, at_answers(final, prompts, start))

    deltas = Deltas(prompts.tokens, prompts.moves)
    if base is None:
        base_sources, base_given, empty, written_apart = _corrupted(
            program, weights, prompts, past, clean, deltas
        )
    else:
        base_sources, base_given = base.sources, base.given
        empty = _all_ablated(plan, weights, base)
        beside = zip(clean, base.layers, strict=True)
        both = layers(weights, more=[tuple(zip(*own, strict=True)) for own in beside])
        written_apart = _differences(deltas, both)
    blocks = [deltas.of_sources(sources - base_sources), *rows_of(written_apart)]
    given_deltas = jax.tree_util.tree_map(lambda x, y: x - y, given, base_given)

    if program.at_clean:
        tapes = [tuple(_Tape(one.x[:, None], one.middle[:, None]) for one in own) for own in clean]
        final, kept = final[None], None if kept is None else kept[:, None]
        given = jax.tree_util.tree_map(lambda x: x[:, None], given)
    else:
        along = points[:, None, None, None]
        before = base_sources.sum(0)
        stream = before + along * (sources.sum(0) - before)
        given = jax.tree_util.tree_map(
            lambda x, more: x[:, None] + along * more[:, None], base_given, given_deltas
        )
        final, kept, tapes = run(plan, stream, at, layers(weights, given, past), _keep_tape)
    metric, back = program.measured.metric, _Back(program, at, deltas, blocks, kept)
    gradient = loss_gradient(metric, weights, prompts, final, start, shares, clean_logits)
    through = layers(weights, given, past, _pairs(tapes, given_deltas))
    base_logits = logits(weights, at_answers(empty, prompts, start))
    rounded = rounded_by(metric, prompts.goal, clean_logits, base_logits)
    return SummedScores(*back.scores(gradient, through), rounded)


def _pairs(tapes: Any, given_deltas: Any) -> Any:
    """Put beside each tape the deltas of what tokens give its layer, or None."""
    return [
        tuple(
            (tape, None if given_deltas is None else given_deltas[i][at])
            for at, tape in enumerate(own)
        )
        for i, own in enumerate(tapes)
    ]


def _keep_clean(start: int) -> Any:
    of_past = past_before(start)

    def keep(layer: Layer, x: Array, keys: Array, ran: RanLayer) -> _Kept:
        post = None if ran.post is None else ran.post[:, start:]
        wrote = Wrote(ran.z[:, start:], post, ran.writes[:, :, start:])
        return _Kept(wrote, x[:, start:], ran.middle[:, start:], of_past(layer, keys))

    return keep


def _keep_tape(layer: Layer, x: Array, keys: Array, ran: RanLayer) -> _Tape:
    return _Tape(x, ran.middle)


def _corrupted(
    program: ScoreProgram,
    weights: Weights,
    prompts: Prompts,
    past: Any,
    clean: Any,
    deltas: Deltas,
) -> tuple[Array, Any, Array, Any]:
    """Run the corrupted prompts: what the embedding writes and gives, the stream at `logits`, and
    senders' differences."""
    start, plan = program.start, program.plan
    ids, at = prompts.corrupted[:, start:], Positions(prompts.mask, prompts.ids, start)
    sources = embed(weights, plan, ids, prompts.ids[:, start:])
    given = give(weights, plan, ids)

    def keep(layer: Layer, x: Array, keys: Array, ran: RanLayer) -> Array:
        return deltas.of(layer.block, layer.more.wrote, Wrote(ran.z, ran.post, ran.writes))

    through = layers(weights, given, past, clean)
    final, _, written_apart = run(plan, sources.sum(0), at, through, keep)
    return sources, given, final, written_apart


def _differences(deltas: Deltas, through: Any) -> Any:
    """Return senders' differences between the clean run and values that are given."""

    def step(carry: None, layer: Layer) -> tuple[None, Array]:
        kept, base = layer.more
        return carry, deltas.of(layer.block, kept.wrote, base)

    return [over_run(step, None, own)[1] for own in through]


def _all_ablated(plan: ModelPlan, weights: Weights, base: Carries) -> Array:
    """Return what the stream at `logits` holds where every edge is ablated, [B, T, D]."""

    def step(stream: Array, layer: Layer) -> tuple[Array, None]:
        wrote = layer.more
        if wrote.post is not None:
            stream = stream + wrote.post
        elif has_heads(layer.block):
            stream = stream + heads.merge(layer.block.attention, wrote.z)
        return stream + wrote.writes.sum(0), None

    stream: Array = over(plan.runs, step, base.sources.sum(0), layers(weights, more=base.layers))[0]
    return stream


class _Back:
    """The way back through the layers."""

    def __init__(
        self, program: ScoreProgram, at: Positions, deltas: Deltas, blocks: list[Array], kept: Any
    ) -> None:
        self.program, self.at, self.deltas, self.kept = program, at, deltas, kept
        self.shape, self.examples = program.plan.shape, at.mask.shape[0]
        self.products = Products.of(blocks, self.examples if program.apart else None)

    def scores(
        self, gradient: Array, through: list[tuple[Layer, ...]]
    ) -> tuple[list[Any], list[Any], Array]:
        """Go back from the gradient at `logits`, [K, B, T, D]."""
        products = self.products
        last = products.scores(products.flat(self.select(gradient).sum(0)[None]), products.blocks)
        kept = None if self.kept is None else jnp.zeros_like(self.kept)
        behind: Any = (gradient, kept)
        found, first = list[Any](), list[Any]()
        for i in reversed(range(len(through))):
            behind, own, given = self._run(i, behind, through[i])
            found.insert(0, own)
            first.insert(0, given)
        return found, first, last

    def select(self, x: Array) -> Array:
        """Keep the tokens that move, [K, B, T, …] to [K, n, …]."""
        return self.deltas.select(x, 1)

    def _run(self, i: int, behind: Any, own: tuple[Layer, ...]) -> tuple[Any, Any, Any]:
        """Go back through a run: scores, and those of what tokens give, by place, [times, …]."""
        times, counts = len(own[0].store), list[int]()
        grouped = RunScores(self.products, i, times)

        def repetition(behind: Any, layers: tuple[Layer, ...]) -> tuple[Any, Array, Any]:
            rows, first = list[Any](), list[Any]()
            for layer in reversed(layers):
                behind, ports, given = self._layer(behind, layer)
                rows.insert(0, self.products.flat(ports).astype(factor_type(layer.block)))
                first.insert(0, given)
            counts[:] = [one.shape[-2] for one in rows]
            return behind, jnp.concatenate(rows, -2), tuple(first)

        def step(carry: Any, given: Any) -> tuple[Any, Any]:
            layers, place = given
            behind, gradients, first = repetition(carry[0], layers)
            return (behind, grouped.add(carry[1], gradients, place)), first

        one = whole(jax.tree_util.tree_map(lambda x: x[0], own))
        _, gradients, _ = jax.eval_shape(repetition, behind, one)
        carry = behind, grouped.start(gradients)
        (behind, (_, scores)), first = over_run(
            step, carry, [(own, grouped.places())], reverse=True
        )
        return behind, jnp.split(scores, np.cumsum(counts)[:-1], -2), first[0]

    def _layer(self, carry: Any, layer: Layer) -> tuple[Any, Array, Any]:
        """Go back through one layer: what is carried, its ports' gradients [P, n, D], and the score
        of what tokens give it."""
        behind, elsewhere = carry
        block, (tape, given_delta) = layer.block, layer.more
        gradient, own, first = behind, list[Array](), None
        if block.mlp is not None:
            into_mlp, first = self._mlp(layer, tape, behind, given_delta)
            gradient = gradient + into_mlp
        into = behind if self.shape.parallel else gradient
        if has_heads(block):
            ports, through, of_keys = self._attention(layer, tape, into)
            own += ports
            gradient = gradient + through
            if block.shared is not None:
                elsewhere = elsewhere.at[block.shared.source].add(of_keys)
        if block.mlp is not None:
            own.append(self.select(into_mlp).sum(0)[None])
        if elsewhere is not None:
            back = elsewhere.at[layer.store].get(mode="fill", fill_value=0)
            gradient = gradient + back
        return (gradient, elsewhere), jnp.concatenate(own), first

    def _mlp(
        self, layer: Layer, tape: _Tape, behind: Array, given_delta: Array | None
    ) -> tuple[Array, Array | None]:
        """Return the gradient at `m{l}`, and the score of what tokens give it past the stream."""
        read = tape.x if self.shape.parallel else tape.middle
        if layer.given is None:
            _, back = jax.vjp(lambda x: written(layer.block, x), read)
            (own,) = back(behind)
            return own, None
        _, back = jax.vjp(lambda x, given: written(layer.block, x, given), read, layer.given)
        own, past = back(behind)
        moved = self.deltas.select(past.sum(0) * given_delta, 0) * self.deltas.moves[:, None]
        if not self.program.apart:
            return own, -moved.sum()
        return own, -moved.reshape(self.examples, -1).sum(-1)

    def _attention(
        self, layer: Layer, tape: _Tape, into: Array
    ) -> tuple[list[Array], Array, Array]:
        """Return the gradients at a layer's attention ports, and what flows back through them."""
        block, attention = layer.block, layer.block.attention
        keys = keys_of(block, tape.x, self.kept)
        q, k, v = project_all(block, tape.x, keys)
        k, v = (heads.repeat_kv(attention, x) for x in (k, v))
        past = layer.past

        def mix(q: Array, k: Array, v: Array) -> Array:
            if past is not None:
                k, v = whole_keys(attention, k, past.k, 1), whole_keys(attention, v, past.v, 1)
            return heads.mix(attention, q, k, v, self.at)

        z, back = jax.vjp(mix, q, k, v)
        own: list[Array] = []
        if block.attention_post_norm is not None:
            summed = heads.merge(attention, z)
            _, post = jax.vjp(lambda x: normalise(block.attention_post_norm, x), summed)
            (into,) = post(into)
            own = [self.select(into).sum(0)[None]]
        g_z = product("...d,hkd->...hk", into, attention.wo) * attention.output_scale
        grads = dict(zip("qkv", back(g_z), strict=True))
        ports, through, of_keys = attention_ports(
            block, self.shape, (tape.x, keys), grads, self.select
        )
        return [*ports, *own], through, of_keys
