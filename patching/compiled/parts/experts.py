"""Mixtures of experts; the counterpart of `graphs/lift/experts.py`.

Every expert reads every token here, and writes zero where the router does not choose it: shapes do
not depend on what is chosen.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from ..crossing import ArrayPart, widest
from .mlp import ACTIVATIONS, plain
from .norms import normalise, product, rounded


def logits_of(routing: ArrayPart, router: Array, x: Array) -> Array:
    """Return the router's logits of tokens x [N, D], [N, E]."""
    wide = widest(x.dtype)
    weight = router.astype(wide) if routing.wide else router
    logits = product("...d,ed->...e", x, weight).astype(wide)
    logits = logits if routing.bias is None else logits + routing.bias
    if routing.softcap is None:
        return logits
    return jnp.tanh(logits / routing.softcap) * routing.softcap


def choose(routing: ArrayPart, logits: Array, chosen: int) -> tuple[Array, Array]:
    """Return the scores of the chosen experts of each token, [N, chosen], and which."""
    if routing.score == "sparsemixer":
        return _one_after_the_other(routing, logits, chosen)
    scores = logits
    if routing.score != "chosen":
        sigmoid = routing.score == "sigmoid"
        scores = jax.nn.sigmoid(logits) if sigmoid else jax.nn.softmax(logits, -1)
    ranked = logits if routing.early else scores
    ranked = ranked if routing.correction is None else ranked + routing.correction
    if routing.groups > 1:
        ranked = _open(routing, ranked)
    expert = jax.lax.top_k(jax.lax.stop_gradient(ranked), chosen)[1]
    weight = jnp.take_along_axis(scores, expert, -1)
    return (jax.nn.softmax(weight, -1) if routing.score == "chosen" else weight), expert


def _open(routing: ArrayPart, ranked: Array) -> Array:
    """Put the experts of closed groups last."""
    apart = ranked.reshape(*ranked.shape[:-1], routing.groups, -1)
    best = jax.lax.top_k(apart, routing.best)[0].sum(-1)
    opened = jax.lax.top_k(best, routing.open_groups)[1]
    is_open = jax.nn.one_hot(opened, routing.groups, dtype=bool).any(-2)
    return jnp.where(is_open[..., None], apart, -jnp.inf).reshape(ranked.shape)


def _one_after_the_other(routing: ArrayPart, logits: Array, chosen: int) -> tuple[Array, Array]:
    """Choose as in Liu et al. 2024 (sparsemixer-v2), in evaluation."""
    left, weights, experts, fixed = logits, [], [], jax.lax.stop_gradient(logits)
    for _ in range(chosen):
        expert = jnp.argmax(left, -1, keepdims=True)
        top = jnp.take_along_axis(jax.lax.stop_gradient(left), expert, -1)
        behind = (top - fixed) / jnp.maximum(jnp.abs(fixed), top)
        near = jnp.where(behind > 2 * routing.jitter, -jnp.inf, left)
        weights.append(jnp.take_along_axis(jax.nn.softmax(near, -1), expert, -1))
        experts.append(expert)
        taken = jax.nn.one_hot(expert[..., 0], logits.shape[-1], dtype=bool)
        left = jnp.where(taken, -jnp.inf, left)
    return jnp.concatenate(weights, -1), jnp.concatenate(experts, -1)


def weigh(experts: ArrayPart, weight: Array, expert: Array) -> Array:
    """Return the weights of chosen experts from their scores, both [N, chosen]."""
    routing = experts.routing
    if experts.renormalise:
        total = weight.sum(-1, keepdims=True) + routing.epsilon
        weight = weight / jnp.where(routing.least > 0, jnp.maximum(total, routing.least), total)
    weight = weight * routing.scale
    return weight if routing.scales is None else weight * routing.scales[expert]


def shares(experts: ArrayPart, x: Array) -> tuple[Array, Array]:
    """Return the weight of every expert at tokens x [N, D], 0 where not chosen, and who is."""
    logits = logits_of(experts.routing, experts.router, normalise(experts.router_norm, x))
    weight, expert = choose(experts.routing, logits, experts.chosen)
    weight = weigh(experts, weight, expert)
    if experts.round_weights:  # as the models do, which then read them in their own type
        weight = rounded(weight, experts.up.dtype)
    where = jax.nn.one_hot(expert, experts.router.shape[0], dtype=weight.dtype)
    return jnp.einsum("...c,...ce->...e", weight, where), where.any(-2)


def outputs(experts: ArrayPart, x: Array) -> Array:
    """Return what each expert, and last the shared one, writes of x [N, D], [n, N, D]."""
    own, chosen = shares(experts, x)
    own, chosen = (jnp.moveaxis(y, -1, 0)[..., None] for y in (own, chosen))  # [E, N, 1]
    read = normalise(experts.experts_norm, x)
    if experts.weigh_input:
        out = jnp.where(chosen, _write(experts, read * own), 0)
    else:
        out = _write(experts, jnp.broadcast_to(read, (own.shape[0], *read.shape))) * own
    if experts.shared is not None:
        out = jnp.concatenate((out, _shared(experts.shared, x)[None]))
    return out * experts.output_scale


def together(experts: ArrayPart, x: Array) -> Array:
    """Map normalised features [N, D] to what all experts write together, [N, D]."""
    return outputs(experts, x).sum(0)


def _shared(shared: ArrayPart, x: Array) -> Array:
    out = plain(shared.mlp, x)
    if shared.gate is None:
        return out
    return jax.nn.sigmoid(product("...d,od->...o", x, shared.gate)) * out


def _write(experts: ArrayPart, x: Array) -> Array:
    """Return what each expert makes of its own tokens, [E, N, D] both."""

    def project(weight: Array, bias: Array | None, x: Array) -> Array:
        out = product("e...d,eid->e...i", x, weight)
        return out if bias is None else out + bias.reshape(len(bias), *[1] * (x.ndim - 2), -1)

    act, clamp = ACTIVATIONS[experts.activation], experts.clamp
    up = project(experts.up, experts.up_bias, x)
    if experts.gate is None:
        inner = act(up)
    else:
        gate = project(experts.gate, experts.gate_bias, x)
        inner = act(gate) * up if clamp is None else _clamped(clamp, gate, up, experts.activation)
    return project(experts.down, experts.down_bias, inner)


def _clamped(clamp: ArrayPart, gate: Array, up: Array, activation: str) -> Array:
    """Return what goes into the last projection, with both projections kept within a limit."""
    gate, up = jnp.minimum(gate, clamp.limit), jnp.clip(up, -clamp.limit, clamp.limit)
    if clamp.alpha is None:
        return ACTIVATIONS[activation](gate) * (up + clamp.offset)
    return gate * jax.nn.sigmoid(gate * clamp.alpha) * (up + clamp.offset)


def beside(part: ArrayPart, x: Array) -> Array:
    """Map what the port holds, [N, D], to what an MLP and a mixture write together, [N, D]."""
    own = plain(part.mlp, normalise(part.mlp_norm, x))
    own = normalise(part.mlp_post_norm, own)
    return own + normalise(part.experts_post_norm, together(part.experts, x))
