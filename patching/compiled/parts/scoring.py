"""The product that gives scores: gradients at ports with the deltas of all senders before them.

A port reads the senders of its own layer and of those before it. Layers of one run are scored in a
few groups: a group's ports together, with what is written up to the group's last layer. What is
multiplied only to be dropped is little that way, the deltas are read once for many ports, and
compiling costs one product for each group.

Shapes: P ports of a layer, S senders, n tokens at which something moves, D d_model, N what is added
up: n·D or, where examples stay apart, what one example has of it. A leading B stands there too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from .norms import product

GROUPS = 8
"""Groups of a run's layers: of the product that scores take, 1/2 + 1/16 is computed."""


class Place(NamedTuple):
    """Where a layer's gradients are put among its group's, and what is done then.

    `group`: 0 while more layers of the group come, else one more than the group's number.
    """

    slot: Array
    group: Array


@dataclass(frozen=True)
class Products:
    """The deltas of all senders, in blocks: of the embedding, then of each run of layers.

    `examples`: how many stay apart; None if scores are sums over them.
    """

    blocks: Sequence[Array]
    examples: int | None

    @staticmethod
    def of(deltas: Sequence[Array], examples: int | None) -> Products:
        """Return those of deltas [S, n, D]."""
        return Products([_flat(block, examples) for block in deltas], examples)

    def flat(self, gradients: Array) -> Array:
        """Put what is added up side by side: gradients [P, n, D] as [P, N]."""
        return _flat(gradients, self.examples)

    def scores(self, gradients: Array, blocks: Sequence[Array]) -> Array:
        """Multiply gradients [P, N] with deltas: [P, S]."""
        spec = "pn,sn->ps" if self.examples is None else "bpn,bsn->bps"
        # delta is clean − ablated, so the score has the opposite sign
        return jnp.concatenate([-product(spec, gradients, block) for block in blocks], -1)


class RunScores:
    """Scores of the ports of a run whose pattern is repeated so many times, [times, P, S].

    Repetitions come from the last to the first; `run` is the run's number.
    """

    def __init__(self, products: Products, run: int, times: int) -> None:
        self.products, self.times = products, times
        self.before, self.own = products.blocks[: run + 1], products.blocks[run + 1]
        self.each: int = self.own.shape[-2] // times
        self.groups = cut_evenly(times, GROUPS)

    def places(self) -> Place:
        """Return each repetition's place, [times]."""
        each = [(at, g + 1) for g, group in enumerate(self.groups) for at in range(len(group))]
        return Place(
            jnp.array([at for at, _ in each]), jnp.array([0 if at else end for at, end in each])
        )

    def start(self, gradients: jax.ShapeDtypeStruct) -> tuple[Array, Array]:
        """Return room for a group's gradients, of [P, N] each, and all scores, which are none."""
        *lead, ports, _ = gradients.shape
        width = self._width(self.groups[-1])
        room = jnp.zeros((len(max(self.groups, key=len)), *gradients.shape), gradients.dtype)
        wide = jax.eval_shape(partial(self._of_group, 0), room)  # the type that sums are of
        return room, jnp.zeros((self.times, *lead, ports, width), wide.dtype)

    def add(self, carry: tuple[Array, Array], gradients: Array, at: Place) -> tuple[Array, Array]:
        """Take one repetition's gradients, and score the group if it is the last of it."""
        room, scores = carry
        room = room.at[at.slot].set(gradients)
        put = [partial(self._put, g) for g in range(len(self.groups))]
        return room, jax.lax.switch(at.group, [lambda _, found: found, *put], room, scores)

    def _put(self, group: int, room: Array, scores: Array) -> Array:
        part = self.groups[group]
        found = self._of_group(group, room)
        return scores.at[part.start : part.stop, ..., : found.shape[-1]].set(found)

    def _of_group(self, group: int, room: Array) -> Array:
        part = self.groups[group]
        own = jnp.moveaxis(room[: len(part)], 0, -3)
        flat = own.reshape(*own.shape[:-3], -1, own.shape[-1])
        here = self.own[..., : self.each * part.stop, :]
        found = self.products.scores(flat, [*self.before, here])
        return jnp.moveaxis(found.reshape(*own.shape[:-1], found.shape[-1]), -3, 0)

    def _width(self, group: range) -> int:
        before = sum(int(block.shape[-2]) for block in self.before)
        return before + self.each * group.stop


def cut_evenly(count: int, most: int) -> list[range]:
    """Cut the numbers below a count into so many groups at most, about equal, none empty.

    >>> cut_evenly(5, 2), cut_evenly(2, 8)
    ([range(0, 2), range(2, 5)], [range(0, 1), range(1, 2)])
    """
    number = min(count, most)
    ends = [count * i // number for i in range(number + 1)]
    return [range(a, b) for a, b in pairwise(ends)]


def _flat(x: Array, examples: int | None) -> Array:
    if examples is None:
        return x.reshape(len(x), -1)
    return jnp.moveaxis(x.reshape(len(x), examples, -1), 1, 0)
