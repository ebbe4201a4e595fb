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
from jax import Array

from ..metrics.metric import Metric
from .batches import Prompts
from .crossing import ArrayPart, has_heads
from .losses import Goal, few_logits, loss_of, renumbered
from .model import ModelPlan, Weights, embed, give, logits, scale_logits
from .parts import attention as heads
from .parts.attention import Positions
from .parts.layers import Past, RanLayer, project_all, whole_keys, written
from .parts.norms import normalise, product
from .parts.ports import attention_ports
from .runs import Layer, keys_of, layers, past_before, read_at, run
from .segments import over_run, rows_of


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


class Wrote(NamedTuple):
    """What a layer's senders write on some run, as `RanLayer`."""

    z: Array
    post: Array | None
    writes: Array


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

    `first`: what each layer's `m{l}` has of the embedding past the stream.
    """

    layers: Any
    first: Any
    logits: Array


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
    clean_logits = None
    if program.measured.metric.needs_clean_logits:
        clean_logits = logits(weights, _at_answers(final, prompts, start))

    deltas = _Deltas(program, prompts)
    if base is None:
        base_sources, base_given, written_apart = _corrupted(
            program, weights, prompts, past, clean, deltas
        )
    else:
        base_sources, base_given = base.sources, base.given
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
    gradient = _loss_gradient(program, weights, prompts, final, shares, clean_logits)
    back = _Back(program, at, deltas, blocks, kept)
    return back.scores(gradient, layers(weights, given, past, _pairs(tapes, given_deltas)))


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
    deltas: _Deltas,
) -> tuple[Array, Any, Any]:
    """Run the corrupted prompts; return what the embedding writes, and senders' differences."""
    start, plan = program.start, program.plan
    ids, at = prompts.corrupted[:, start:], Positions(prompts.mask, prompts.ids, start)
    sources = embed(weights, plan, ids, prompts.ids[:, start:])
    given = give(weights, plan, ids)

    def keep(layer: Layer, x: Array, keys: Array, ran: RanLayer) -> Array:
        return deltas.of(layer.block, layer.more.wrote, Wrote(ran.z, ran.post, ran.writes))

    through = layers(weights, given, past, clean)
    return sources, given, run(plan, sources.sum(0), at, through, keep)[2]


def _differences(deltas: _Deltas, through: Any) -> Any:
    """Return senders' differences between the clean run and values that are given."""

    def step(carry: None, layer: Layer) -> tuple[None, Array]:
        kept, base = layer.more
        return carry, deltas.of(layer.block, kept.wrote, base)

    return [over_run(step, None, own)[1] for own in through]


class _Deltas:
    """What senders write on the clean run minus what their ablated edges carry, [S, n, D]."""

    def __init__(self, program: ScoreProgram, prompts: Prompts) -> None:
        self.tokens, self.moves = prompts.tokens, prompts.moves

    def select(self, x: Array, lead: int) -> Array:
        """Keep the tokens that move: x [..., B, T, …] with `lead` axes before B, [..., n, …]."""
        flat = x.reshape(*x.shape[:lead], -1, *x.shape[lead + 2 :])
        return jnp.take(flat, self.tokens, lead)

    def of(self, block: ArrayPart, clean: Wrote, base: Wrote) -> Array:
        """Return those of one layer, in the order of its senders."""
        dtype, parts = _factor(block), list[Array]()
        if has_heads(block):
            own = block.attention
            parts.append(heads.outputs(own, self.select(clean.z - base.z, 0)))
        if clean.post is not None and base.post is not None:
            parts.append(self.select(clean.post - base.post, 0)[None])
        if block.mlp is not None:
            parts.append(self.select(clean.writes - base.writes, 1))
        return self._moving(jnp.concatenate([x.astype(dtype) for x in parts]))

    def of_sources(self, delta: Array) -> Array:
        """Return those of the embedding's senders, [sources, n, D]."""
        return self._moving(self.select(delta, 1))

    def _moving(self, x: Array) -> Array:
        return jnp.where(self.moves[:, None] > 0, x, 0)


def _factor(block: ArrayPart) -> Any:
    """Return the type of the factors of scores: the weights'."""
    if has_heads(block):
        return block.attention.wo.dtype
    part = block.mlp
    return part.up.weight.dtype if part.kind == "MLP" else part.up.dtype


def _at_answers(stream: Array, prompts: Prompts, start: int) -> Array:
    row = None if prompts.goal.reads is None else prompts.row
    return read_at(stream, prompts.position - start, row)


def _loss_gradient(
    program: ScoreProgram,
    weights: Weights,
    prompts: Prompts,
    final: Array,
    shares: Array,
    clean_logits: Array | None,
) -> Array:
    """Return ∂loss/∂(stream at logits), [K, B, T, D]; the loss summed over shares of examples."""
    measured, goal = program.measured.metric, prompts.goal._replace(clean_logits=clean_logits)
    loss, few = loss_of(measured), measured.reads_few and goal.reads is None

    def total(stream: Array) -> Array:
        read = _at_answers(stream, prompts, program.start)
        losses = loss(*(_few(weights, read, goal) if few else (logits(weights, read), goal)))
        counted = jnp.where(prompts.share > 0, losses, 0)  # [K, P]
        return (counted.sum(-1) * shares).sum()

    gradient: Array = jax.grad(total)(final)
    return gradient


def _few(weights: Weights, read: Array, goal: Goal) -> tuple[Array, Goal]:
    """Return the logits of answers and distractors alone, and a goal that counts these."""
    ids = jnp.concatenate((goal.answers, goal.distractors), -1)
    y = normalise(weights.final_norm, read)
    out = few_logits(weights.unembed.weight, weights.unembed.bias, y, ids)
    return scale_logits(weights, out), renumbered(goal)


class _Back:
    """The way back through the layers."""

    def __init__(
        self, program: ScoreProgram, at: Positions, deltas: _Deltas, blocks: list[Array], kept: Any
    ) -> None:
        self.program, self.at, self.deltas, self.kept = program, at, deltas, kept
        self.shape, self.examples = program.plan.shape, at.mask.shape[0]
        self.flat = [self._flat(block) for block in blocks]

    def scores(self, gradient: Array, through: list[tuple[Layer, ...]]) -> SummedScores:
        """Go back from the gradient at `logits`, [K, B, T, D]."""
        last = self._score(self.select(gradient).sum(0)[None], len(self.flat))
        kept = None if self.kept is None else jnp.zeros_like(self.kept)
        carry: Any = (gradient, kept)
        found: list[Any] = []
        for i in reversed(range(len(through))):
            step = partial(self._layer, i + 2)
            carry, own = over_run(step, carry, through[i], reverse=True)
            found.insert(0, own)
        own_scores = [tuple(one[0] for one in own) for own in found]
        first = [tuple(one[1] for one in own) for own in found]
        return SummedScores(own_scores, first, last)

    def select(self, x: Array) -> Array:
        """Keep the tokens that move, [K, B, T, …] to [K, n, …]."""
        return self.deltas.select(x, 1)

    def _flat(self, x: Array) -> Array:
        """Put the features of tokens side by side: [S, n, D] to [S, n·D], or [B, S, n/B·D]."""
        if not self.program.apart:
            return x.reshape(len(x), -1)
        return jnp.moveaxis(x.reshape(len(x), self.examples, -1), 1, 0)

    def _score(self, gradient: Array, blocks: int) -> Array:
        """Multiply gradients at ports, [P, n, D], with the deltas of the first blocks."""
        flat = self._flat(gradient)
        spec = "bpn,bsn->bps" if self.program.apart else "pn,sn->ps"
        # delta is clean − ablated, so the score has the opposite sign
        parts = [-product(spec, flat, block) for block in self.flat[:blocks]]
        return jnp.concatenate(parts, -1)

    def _layer(self, blocks: int, carry: Any, layer: Layer) -> tuple[Any, Any]:
        """Score one layer's ports, given the gradient behind it; carry on that before it."""
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
        found = self._score(jnp.concatenate(own), blocks)
        return (gradient, elsewhere), (found, first)

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
