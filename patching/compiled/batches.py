"""Prompt pairs as arrays of few shapes, so that a run of many chunks compiles once or twice.

Pairs are sorted by length and by where clean and corrupted prompt first differ, as the runner does,
and cut into chunks of equal size. Each chunk is padded to the shape of its class: there are two
classes at most, and one where two would save little. What is added has no weight: examples that are
copies of the first, positions that no query sees, tokens whose differences are zero.

Shapes: B runs (an example each, of answers of one token), P pairs, T positions, R reads, N steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from ...graphs.lift.lifted import LiftedModel
from ..prompts.pairs import Batch, Pair, PromptPairs
from .losses import Goal, WholeReads

WORTH = 1.25
"""Two shapes are compiled in place of one where one would compute so many times as much."""


class Prompts(NamedTuple):
    """A padded chunk; a tree.

    `row`, `position`: int [R], where logits are read. `share`: [P], 1 of real pairs, 0 of added
    ones. `tokens`: int [n], the tokens of the window at which something moves, as places in
    B·(T − start), and `moves`, [n], 0 at those that are added.
    """

    clean: Array
    corrupted: Array
    mask: Array
    ids: Array
    row: Array
    position: Array
    share: Array
    goal: Goal
    tokens: Array
    moves: Array


@dataclass(frozen=True)
class Sizes:
    """The shape that a chunk is padded to."""

    runs: int
    length: int
    start: int
    tokens: int
    pairs: int
    reads: int
    steps: int
    answers: int
    distractors: int

    def beside(self, other: Sizes) -> Sizes:
        """Return the least shape that both fit in."""
        both = (
            (one.name, getattr(self, one.name), getattr(other, one.name)) for one in fields(self)
        )
        return Sizes(**{name: (min if name == "start" else max)(a, b) for name, a, b in both})

    @property
    def cost(self) -> int:
        """Estimate the work, in tokens: runs of the window, and products of what moves."""
        return self.runs * (self.length - self.start) + self.tokens


@dataclass(frozen=True)
class PairChunk:
    """A chunk: its pairs' numbers, the pairs as a batch, and the shape it is padded to."""

    rows: list[int]
    batch: Batch
    sizes: Sizes


def cut(
    model: LiftedModel, pairs: PromptPairs, most: int, *, paired: bool, apart: bool = False
) -> list[PairChunk]:
    """Cut pairs into chunks of at most so many, each with its shape.

    `paired`: nothing moves before a pair's first difference. `apart`: all tokens are looked at, so
    that examples stay apart.
    """
    order = sorted(range(len(pairs)), key=lambda i: _key(pairs.pairs[i]))
    number = -(-len(order) // most)
    each = -(-len(order) // number)
    chunks = [order[i : i + each] for i in range(0, len(order), each)]
    batches = [pairs.batch(rows) for rows in chunks]
    exact = [_sizes(model, batch, each, paired, apart) for batch in batches]
    found = dict[int, PairChunk]()
    for spelled in (False, True):  # answers of several tokens are read otherwise
        own = [i for i, batch in enumerate(batches) if (batch.steps is not None) == spelled]
        for i, sizes in zip(own, _classes([exact[i] for i in own]), strict=True):
            found[i] = PairChunk(chunks[i], batches[i], sizes)
    return [found[i] for i in range(len(chunks))]


def _key(pair: Pair) -> tuple[int, int]:
    both = zip(pair.clean, pair.twin, strict=True)
    first = next((t for t, (a, b) in enumerate(both) if a != b), len(pair.clean))
    return pair.longest, first


def _classes(exact: Sequence[Sizes]) -> list[Sizes]:
    """Give each of some sorted chunks one of two shapes at most, each that of neighbours."""
    if not exact:
        return []

    def largest(some: Sequence[Sizes]) -> Sizes:
        found = some[0]
        for one in some[1:]:
            found = found.beside(one)
        return found

    def shared(at: int) -> list[Sizes]:
        parts = [part for part in (exact[:at], exact[at:]) if part]
        return [size for part in parts for size in [largest(part)] * len(part)]

    def cost(sizes: Sequence[Sizes]) -> int:
        return sum(size.cost for size in sizes)

    best = min(map(shared, range(len(exact))), key=cost)
    return best if cost(shared(0)) > WORTH * cost(best) else shared(0)


def _sizes(model: LiftedModel, batch: Batch, pairs: int, paired: bool, apart: bool) -> Sizes:
    """Return the shape of a chunk, rounded so that chunks of other prompts may have it too."""
    start = _start(model, batch) if paired else 0
    start -= start % _step(start)
    length, runs, steps = batch.clean.shape[1], len(batch), batch.steps
    length = _rounded(length)
    if model.max_positions is not None:
        length = max(batch.clean.shape[1], min(length, model.max_positions))
    spare = steps is not None  # a pair that takes what is added
    moving = int(moves(model, batch, paired)[:, start:].sum())
    runs = max(runs, pairs) if steps is None else _rounded(runs)
    return Sizes(
        runs=runs,
        length=length,
        start=start,
        tokens=runs * (length - start) if apart else _rounded(max(1, moving)),
        pairs=pairs + spare,
        reads=runs if steps is None else _rounded(len(batch.row)),
        steps=0 if steps is None else _rounded(len(steps.read)),
        answers=batch.answers.shape[1],
        distractors=batch.distractors.shape[1],
    )


def _start(model: LiftedModel, batch: Batch) -> int:
    """Return the first position at which something moves: see `Chunk.start`."""
    if not model.windowed:
        return 0
    differs = (batch.clean != batch.corrupted).any(0)
    first = int(differs.nonzero()[0, 0]) if bool(differs.any()) else len(differs)
    return min(first, int(batch.answer_position.min()))


def moves(model: LiftedModel, batch: Batch, paired: bool) -> np.ndarray:
    """Tell at which tokens an ablation can matter, bool [B, T]: see `Chunk.moving_tokens`."""
    mask = np.asarray(batch.mask)
    if not model.causal:
        return mask
    found: np.ndarray = mask & (np.arange(mask.shape[1]) <= np.asarray(batch.last)[:, None])
    if paired:
        found &= np.asarray(batch.clean != batch.corrupted).cumsum(1) > 0
    return found


def _step(size: int) -> int:
    return 4 if size <= 64 else 16 if size <= 512 else 64


def _rounded(size: int) -> int:
    """Round a size up, by a twelfth at most where it is not small."""
    step = 4
    while size > 16 * step:
        step *= 2
    return -(-size // step) * step


def padded(
    model: LiftedModel, chunk: PairChunk, device: Any, *, paired: bool, apart: bool
) -> Prompts:
    """Return a chunk as arrays of its class's shape."""
    batch, sizes = chunk.batch, chunk.sizes
    shape = (sizes.runs, sizes.length)
    ids = _edge(batch.position_ids, shape)
    moving = np.zeros(shape, dtype=bool)
    exact = moves(model, batch, paired)
    moving[: exact.shape[0], : exact.shape[1]] = exact
    flat = moving[:, sizes.start :].ravel()
    tokens = np.arange(flat.size) if apart else flat.nonzero()[0]
    share = np.zeros(sizes.pairs, dtype=np.float32)
    share[: batch.examples] = 1
    rows = np.asarray(batch.row) if batch.steps is not None else np.arange(sizes.runs)
    found = Prompts(
        clean=_edge(batch.clean, shape),
        corrupted=_edge(batch.corrupted, shape),
        mask=_mask(batch, shape),
        ids=ids,
        row=_fill(rows, sizes.reads, 0),
        position=_fill(batch.answer_position, sizes.reads, batch.answer_position[0]),
        share=share,
        goal=_goal(batch, sizes),
        tokens=_fill(tokens, sizes.tokens, 0),
        moves=_fill(flat[tokens], sizes.tokens, False).astype(np.float32),
    )
    found = jax.tree_util.tree_map(
        lambda x: x.astype(np.int32) if x.dtype == np.int64 else x, found
    )
    put: Prompts = jax.device_put(found, device)
    return put


def _mask(batch: Batch, shape: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    own = np.asarray(batch.mask)
    mask[: len(own), : own.shape[1]] = own
    mask[len(own) :, : own.shape[1]] = own[0]
    return mask


def _edge(x: Any, shape: tuple[int, int]) -> np.ndarray:
    """Pad [B, T] by what stands last in each row, and by the first row."""
    own = np.asarray(x)
    wide = np.concatenate((own, np.repeat(own[:, -1:], shape[1] - own.shape[1], 1)), 1)
    return np.concatenate((wide, np.repeat(wide[:1], shape[0] - len(wide), 0)))


def _fill(x: Any, size: int, value: Any) -> np.ndarray:
    own = np.asarray(x)
    found = np.full((size, *own.shape[1:]), value, dtype=own.dtype)
    found[: len(own)] = own[:size]
    return found


def _ids(x: Any, pairs: int, width: int, value: Any) -> np.ndarray:
    """Pad the ids [P, A] of pairs with -1, and by pairs of one id."""
    own = np.asarray(x)
    found = np.full((pairs, width), -1, dtype=np.int32)
    found[: len(own), : own.shape[1]] = own
    found[len(own) :, 0] = value
    return found


def _goal(batch: Batch, sizes: Sizes) -> Goal:
    steps, pairs = batch.steps, sizes.pairs
    answers = _ids(batch.answers, pairs, sizes.answers, 0)
    distractors = _ids(batch.distractors, pairs, sizes.distractors, 0)
    if steps is None:
        return Goal(answers, distractors)
    last = pairs * (sizes.answers + sizes.distractors) - 1  # an answer that no pair has
    return Goal(
        answers,
        distractors,
        reads=WholeReads(
            read=_fill(steps.read, sizes.steps, 0).astype(np.int32),
            token=_fill(steps.token, sizes.steps, 0).astype(np.int32),
            answer=_fill(steps.answer, sizes.steps, last).astype(np.int32),
            answers=_ids(steps.answers, pairs, sizes.answers, last),
            distractors=_ids(steps.distractors, pairs, sizes.distractors, last),
            pair=_fill(steps.pair, sizes.reads, pairs - 1).astype(np.int32),
            share=_fill(steps.share, sizes.reads, 0).astype(np.float32),
        ),
    )


def unpadded(cuts: Sequence[PairChunk]) -> Iterator[tuple[list[int], Batch]]:
    """Yield each chunk's rows and batch as they are."""
    for one in cuts:
        yield one.rows, one.batch
