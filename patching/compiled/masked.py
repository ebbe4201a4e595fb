"""Runs of circuits: logits, losses, and gradients in each edge's gate, of one or of many at once.

At a port p the stream is  x_p = base + Σ_u g_u (o_u − a_u), with gates g from 0 to 1; of a circuit
they are 0 and 1. Each layer's ports take one product of their gates with what all senders before
the layer write. Every node runs, whatever the circuit: what differs between circuits is the gates
alone, so that many run together.

Shapes: C circuits, P ports, S senders, B examples, T positions, D d_model, H heads, K d_head.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from .attribution import Carries, MeasuredBy
from .batches import Prompts
from .crossing import ArrayPart, has_heads
from .losses import Goal, loss_of
from .model import ModelPlan, Weights, embed, give, logits
from .parts import attention as heads
from .parts.attention import Positions
from .parts.deltas import Wrote
from .parts.layers import BlockShape, norm_of, whole_keys, writes
from .parts.norms import linear, normalise, product
from .runs import Layer, layers, past_before, read_at, run
from .segments import over


@dataclass(frozen=True)
class Question:
    """What is compiled, beside the shapes of what it is given.

    `rows`, `columns`: of each run's pattern, how many ports and senders a layer has. `start`: where
    the window begins, before which nothing moves. `measured`: where gradients are asked for.
    `pieces`: what senders write is kept in three pieces of 16 bits; see `in_pieces`.
    """

    plan: ModelPlan
    rows: tuple[tuple[int, ...], ...]
    columns: tuple[tuple[int, ...], ...]
    start: int = 0
    measured: MeasuredBy | None = None
    pieces: bool = False


class MaskedWorld(NamedTuple):
    """What runs of a chunk's circuits start from; a tree.

    `deltas`, `given_deltas`: of the embedding's senders; `base_given`: what their ablated edges
    carry past the stream. By run and place, [times, …]: `wrote`, what senders' ablated edges carry,
    `ports`, what a layer's ports hold where every edge is ablated, and `past`, its keys and values
    before the window. `final`: what `logits` holds where every edge is ablated. `clean`: the full
    model's stream where logits are read, [R, D].
    """

    deltas: Array
    base_given: Any
    given_deltas: Any
    wrote: Any
    ports: Any
    past: Any
    final: Array
    clean: Array


class _Ports(NamedTuple):
    x: Array
    keys: Array
    summed: Array | None
    middle: Array


@partial(jax.jit, static_argnums=0)
def start(
    question: Question, weights: Weights, prompts: Prompts, base: Carries | None
) -> MaskedWorld:
    """Run the clean prompts, and what ablated edges carry, once for all circuits."""
    plan, begin = question.plan, question.start
    everywhere = Positions(prompts.mask, prompts.ids)
    sources = embed(weights, plan, prompts.clean, prompts.ids)
    given = give(weights, plan, prompts.clean)
    before, through = past_before(begin), layers(weights, given)
    final, _, past = run(
        plan, sources.sum(0), everywhere, through, lambda layer, _, keys, ran: before(layer, keys)
    )
    clean = _read(final, prompts, 0)
    sources = sources[..., begin:, :]
    given = jax.tree_util.tree_map(lambda x: x[..., begin:, :], given)
    if base is None:
        ids, at = prompts.corrupted[:, begin:], Positions(prompts.mask, prompts.ids, begin)
        own = embed(weights, plan, ids, prompts.ids[:, begin:])
        own_given = give(weights, plan, ids)
        through = layers(weights, own_given, past)
        _, _, wrote = run(plan, own.sum(0), at, through, _keep)
        base = Carries(own, own_given, tuple(wrote))
    final, ports = _empty(plan, weights, base)
    given_deltas = jax.tree_util.tree_map(lambda x, y: x - y, given, base.given)
    deltas = sources - base.sources
    return MaskedWorld(deltas, base.given, given_deltas, base.layers, ports, past, final, clean)


def _keep(layer: Layer, x: Array, keys: Array, ran: Any) -> Wrote:
    return Wrote(ran.z, ran.post, ran.writes)


def _empty(plan: ModelPlan, weights: Weights, base: Carries) -> tuple[Array, Any]:
    """Add up what every port holds where all edges are ablated: `logits`, and those of layers."""

    def step(carry: Any, layer: Layer) -> tuple[Any, _Ports]:
        x, kept = carry
        block, wrote = layer.block, layer.more
        keys = x if block.shared is None else kept[block.shared.source]
        middle, summed = x, None
        if has_heads(block):
            summed = heads.merge(block.attention, wrote.z)
            middle = x + (summed if wrote.post is None else wrote.post)
        if kept is not None:
            kept = kept.at[layer.store].set(x, mode="drop")
        read = x if plan.shape.parallel else middle
        return (middle + wrote.writes.sum(0), kept), _Ports(x, keys, summed, read)

    stream = base.sources.sum(0)
    kept = jnp.zeros((plan.kept, *stream.shape), stream.dtype) if plan.kept else None
    through = layers(weights, more=base.layers)
    (final, _), ports = over(plan.runs, step, (stream, kept), through)
    return final, ports


def _read(stream: Array, prompts: Prompts, begin: int) -> Array:
    """Return what a window's stream [..., B, T, D] holds where logits are read, [..., R, D]."""
    row = None if prompts.goal.reads is None else prompts.row
    return read_at(stream, prompts.position - begin, row)


class Probe(NamedTuple):
    """What a run is differentiated in: added to each port, [P, B, T, D], and to the gates [P] of
    what tokens give MLPs past the stream."""

    ports: Array
    past: Array


def run_gates(
    question: Question,
    weights: Weights,
    prompts: Prompts,
    world: MaskedWorld,
    gates: Array,
    probe: Probe | None = None,
) -> tuple[Array, Array]:
    """Run one circuit, gates [P, S]; return the stream at `logits`, and all senders' deltas.

    In pieces gates must be 0 or 1, and the deltas that are returned are in pieces too.
    """
    moved = None if probe is None else probe.ports
    past = gates[:, 0] if probe is None else gates[:, 0] + probe.past
    plan, at = question.plan, Positions(prompts.mask, prompts.ids, question.start)
    senders = gates.shape[1]
    deltas = _no_deltas(question, senders, world.final)
    deltas = _put(deltas, world.deltas, 0, senders)
    first_row, first_column = 0, len(world.deltas)
    for i, one in enumerate(plan.runs):
        rows, columns = question.rows[i], question.columns[i]
        more: list[Any] = []
        for place in range(one.period):
            firsts = [
                (first_row + sum(rows) * n + sum(rows[:place]),
                 first_column + sum(columns) * n + sum(columns[:place]))
                for n in range(one.times)
            ]  # fmt: skip
            at_rows = jnp.array([row for row, _ in firsts])
            own = _rows_of(gates, at_rows, rows[place])
            added = None if moved is None else _rows_of(moved, at_rows, rows[place])
            more.append(
                (own, added, _rows_of(past, at_rows, rows[place]),
                 jnp.array([column for _, column in firsts]),
                 world.ports[i][place], world.wrote[i][place],
                 None if world.given_deltas is None else world.given_deltas[i][place])
            )  # fmt: skip
        through = tuple(
            Layer(
                weights.layers[i][place],
                weights.marks[i][place],
                None if world.base_given is None else world.base_given[i][place],
                world.past[i][place],
                more[place],
            )
            for place in range(one.period)
        )
        step = partial(_layer, plan.shape, at)
        deltas, _ = over([one], step, deltas, [through])
        first_row += sum(rows) * one.times
        first_column += sum(columns) * one.times
    final = world.final + _summed(gates[-1:], deltas)[0]
    return final if moved is None else final + moved[-1], deltas


def in_pieces(x: Array) -> list[Array]:
    """Cut float32 numbers into three of bfloat16 that add up to them.

    A product of gates, 0 or 1, with all three is exact, and takes the matrix units of a card, which
    float32 does not: so it is several times faster there.
    """
    first = jax.lax.reduce_precision(x, 8, 7)  # a cast there and back may be left out by XLA
    second = jax.lax.reduce_precision(x - first, 8, 7)
    return [one.astype(jnp.bfloat16) for one in (first, second, x - first - second)]


def _no_deltas(question: Question, senders: int, stream: Array) -> Array:
    """Return room for what senders write, [S, B, T, D]; in pieces [3 S, B, T, D]."""
    if question.pieces:
        return jnp.zeros((3 * senders, *stream.shape), jnp.bfloat16)
    return jnp.zeros((senders, *stream.shape), stream.dtype)


def _put(deltas: Array, new: Array, column: Any, senders: int) -> Array:
    """Put what some senders write, [n, B, T, D], among the deltas, from a column on."""
    if len(deltas) == senders:
        return jax.lax.dynamic_update_slice_in_dim(deltas, new.astype(deltas.dtype), column, 0)
    for i, piece in enumerate(in_pieces(new.astype(jnp.float32))):
        deltas = jax.lax.dynamic_update_slice_in_dim(deltas, piece, column + i * senders, 0)
    return deltas


def _summed(gates: Array, deltas: Array) -> Array:
    """Add up what ports with gates [p, S] hold of the deltas, [p, B, T, D]."""
    if len(deltas) == gates.shape[1]:
        return jnp.einsum("ps,s...->p...", gates, deltas)
    same = jnp.concatenate([gates] * 3, 1).astype(deltas.dtype)
    return jnp.einsum("ps,s...->p...", same, deltas, preferred_element_type=jnp.float32)


def _rows_of(x: Array, firsts: Array, count: int) -> Array:
    """Return runs of rows of x, [times, count, …]."""
    return x[firsts[:, None] + jnp.arange(count)]


def _layer(shape: BlockShape, at: Positions, deltas: Array, layer: Layer) -> tuple[Array, None]:
    """Run one layer's ports on what they hold; put what its senders write among the deltas."""
    gates, moved, past, column, base, wrote, given_delta = layer.more
    block, row, parts = layer.block, 0, list[Array]()
    held = _summed(gates, deltas)
    held = held if moved is None else held + moved
    if has_heads(block):
        own = block.attention
        ports = {}
        for letter in "qkv":
            count = (
                heads.heads_of(own)
                if letter == "q" or not shape.grouped_kv
                else (heads.kv_heads(own))
            )
            stream = base.x if letter == "q" else base.keys
            ports[letter] = stream + held[row : row + count]
            row += count
        q, k, v = (project_ports(block, letter, ports[letter]) for letter in "qkv")
        before = layer.past
        k = whole_keys(own, k, None if before is None else before.k, 0)
        v = whole_keys(own, v, None if before is None else before.v, 0)
        z = heads.mix(own, q, k, v, at)
        written = heads.outputs(own, z - wrote.z)
        parts.append(written)
        if wrote.post is not None:
            # o{l} reads this layer's heads alone, which have just written
            senders = jax.lax.dynamic_slice_in_dim(gates[row], column, len(written), 0)
            summed = base.summed + jnp.einsum("s,s...->...", senders, written)
            summed = summed if moved is None else summed + moved[row]
            post = normalise(block.attention_post_norm, summed) - wrote.post
            parts.append(post[None])
            row += 1
    if block.mlp is not None:
        here = jnp.concatenate(parts) if parts else None
        stream = base.middle + held[row]
        if here is not None and not shape.parallel:
            senders = jax.lax.dynamic_slice_in_dim(gates[row], column, len(here), 0)
            stream = stream + jnp.einsum("s,s...->...", senders, here)
        given = None if layer.given is None else layer.given + past[row] * given_delta
        parts.append(writes(block, stream, given) - wrote.writes)
    if not parts:
        return deltas, None
    return _put(deltas, jnp.concatenate(parts), column, gates.shape[1]), None


def project_ports(block: ArrayPart, letter: str, x: Array) -> Array:
    """Project what each port of a letter holds, [ports, B, T, D], by its own head: [B, T, h, K]."""
    own = block.attention
    normed = normalise(norm_of(block, letter), x)
    weight, bias = heads.projection(own, letter)
    repeat = len(x) // len(weight)
    if repeat > 1:
        weight = jnp.repeat(weight, repeat, 0)
        bias = None if bias is None else jnp.repeat(bias, repeat, 0)
    together = heads.norm_of_all(own, letter)
    if together is not None:  # a head's own input through every head, and its part of the norm
        every = heads.project(own, letter, normed)
        return jnp.stack([every[i, ..., i // repeat, :] for i in range(len(x))], -2)
    latent, shared = heads.latent_of(own, letter), None
    if latent is not None:
        y, size = linear(latent.down, normed), weight.shape[-1]
        shared, normed = y[..., size:], normalise(latent.norm, y[..., :size])
    out = product("h...d,hkd->...hk", normed, weight)
    out = out if bias is None else out + bias
    if shared is None or not shared.shape[-1]:
        return out
    return jnp.concatenate((out, jnp.moveaxis(shared, 0, -2)), -1)


@partial(jax.jit, static_argnums=0)
def answers_of(
    question: Question, weights: Weights, prompts: Prompts, world: MaskedWorld, gates: Array
) -> Array:
    """Return the streams of circuits, gates [C, P, S], where logits are read: [C, R, D]."""

    def one(gates: Array) -> Array:
        final, _ = run_gates(question, weights, prompts, world, gates)
        return _read(final, prompts, question.start)

    return jax.vmap(one)(gates)


@partial(jax.jit, static_argnums=0)
def empty_answers(question: Question, prompts: Prompts, world: MaskedWorld) -> Array:
    """Return the stream where logits are read if every edge is ablated, [R, D]."""
    return _read(world.final, prompts, question.start)


def _losses(
    question: Question, weights: Weights, prompts: Prompts, world: MaskedWorld, final: Array
) -> Array:
    """Return each example's loss of a stream at `logits`, [P]."""
    assert question.measured is not None
    goal: Goal = prompts.goal._replace(clean_logits=logits(weights, world.clean))
    read = logits(weights, _read(final, prompts, question.start))
    return jnp.where(prompts.share > 0, loss_of(question.measured.metric)(read, goal), 0)


@partial(jax.jit, static_argnums=0)
def gate_gradients(
    question: Question, weights: Weights, prompts: Prompts, world: MaskedWorld, gates: Array
) -> tuple[Array, Array]:
    """Return the loss summed over examples, and its gradient in each gate, [P, S].

    It is (o_u − a_u) · ∂loss/∂x_p, so that no tensor of each edge is kept.
    """

    def total(probe: Probe) -> tuple[Array, Array]:
        final, deltas = run_gates(question, weights, prompts, world, gates, probe)
        return _losses(question, weights, prompts, world, final).sum(), deltas

    dtype = world.final.dtype
    zero = Probe(jnp.zeros((len(gates), *world.final.shape), dtype), jnp.zeros(len(gates), dtype))
    (loss, deltas), at = jax.value_and_grad(total, has_aux=True)(zero)
    return loss, jnp.einsum("pbtd,sbtd->ps", at.ports, deltas).at[:, 0].add(at.past)
