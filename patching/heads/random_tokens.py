"""Random tokens to measure heads on: a start, a block of distinct random tokens, the block again.

In the second copy every token is a duplicate and its successor is known. Block lengths vary, so
that attending a fixed number of tokens back does not look like finding a token again.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...graphs.errors import PromptError
from ..prompts.tokens import Tokens

if TYPE_CHECKING:
    from ...graphs.lift.lifted import LiftedModel

LEAST, LONGEST = 4, 40  # tokens of the shortest block that can be used, of the longest made
SEQUENCES = 32
VARIED = 4  # fewer different block lengths than this are worth a note


@dataclass(frozen=True)
class RandomBlocks:
    """Sequences of `lead` first tokens, a block of distinct tokens, and the same block.

    `lengths`: of the blocks; `bos`: the first tokens are the model's own start, else a random one.
    """

    sequences: tuple[tuple[int, ...], ...]
    lengths: tuple[int, ...]
    lead: int
    bos: bool
    vocabulary: int
    seed: int

    def as_dict(self) -> dict[str, object]:
        """Return how the sequences were made, as plain values."""
        lengths = {"shortest": min(self.lengths), "longest": max(self.lengths)}
        drawn = {"vocabulary": self.vocabulary, "seed": self.seed}
        first = "bos" if self.bos else "random"
        return {"sequences": len(self.sequences), **lengths, "first": first, **drawn}

    def notes(self) -> Iterator[str]:
        """Say what limits what is measured on these sequences."""
        if (longest := max(self.lengths)) < LONGEST:
            yield (
                f"blocks of random tokens are at most {longest} tokens long, not {LONGEST}: the "
                "model has no more positions or tokens."
            )
        if len(set(self.lengths)) < VARIED:
            yield (
                "blocks of random tokens hardly vary in length, so a head that attends a fixed "
                "number of tokens back can score as duplicate-token or induction head."
            )


def random_blocks(
    pool: Sequence[int],
    *,
    start: Sequence[int] = (),
    positions: int | None = None,
    sequences: int = SEQUENCES,
    seed: int = 0,
) -> RandomBlocks:
    """Draw sequences; block lengths run evenly from a third of the longest to the longest.

    `pool`: the token ids to draw from. `start`: what every sequence begins with; if empty, a random
    token of its own. `positions`: the most tokens a sequence may have.

    >>> blocks = random_blocks(range(1, 9), start=[0], positions=11, sequences=2)
    >>> blocks.lengths, [len(one) for one in blocks.sequences], blocks.sequences[0][0]
    ((4, 5), [9, 11], 0)
    """
    if sequences < 1:
        raise PromptError(f"sequences is {sequences}; accepted: a whole number from 1 up.")
    usable = [token for token in dict.fromkeys(pool) if token not in start]
    alone = 0 if start else 1
    lead = len(start) + alone
    longest = min(LONGEST, len(usable) - alone)
    longest = longest if positions is None else min(longest, (positions - lead) // 2)
    if longest < LEAST:
        room = "any number of" if positions is None else str(positions)
        raise PromptError(
            f"heads cannot be measured on repeated random tokens: there are {len(usable)} tokens "
            f"to draw from and {room} positions; needed: {LEAST + alone} tokens and "
            f"{lead + 2 * LEAST} positions or more."
        )
    draw = random.Random(seed)
    lengths = _lengths(max(LEAST, longest // 3), longest, sequences)
    drawn = [draw.sample(usable, length + alone) for length in lengths]
    found = tuple((*start, *tokens, *tokens[alone:]) for tokens in drawn)
    return RandomBlocks(found, tuple(lengths), lead, bool(start), len(usable), seed)


def _lengths(shortest: int, longest: int, number: int) -> list[int]:
    """Vary lengths evenly; a few of them reach from end to end, a single one is the longest."""
    steps = longest - shortest
    if number > steps:
        return [shortest + i * (steps + 1) // number for i in range(number)]
    return sorted(longest - i * steps // max(1, number - 1) for i in range(number))


def model_blocks(
    model: LiftedModel, tokenizer: Any = None, *, sequences: int = SEQUENCES, seed: int = 0
) -> RandomBlocks:
    """Draw sequences that a model accepts: its own start token, tokens, and number of positions.

    With a tokenizer, blocks are made of its plain words (see `Tokens.ordinary`) and start as its
    prompts do; else they are made of all the model's tokens but those its config calls special.
    """
    config = getattr(model.model, "config", None)
    size = len(model.tokens)
    special = {key: _ids(config, f"{key}_token_id", size) for key in ("bos", "eos", "pad")}
    start: tuple[int, ...] = special["bos"][:1]
    if tokenizer is not None:
        tokens = Tokens(tokenizer)
        bos = getattr(tokenizer, "bos_token_id", None)
        pool: Sequence[int] = tokens.ordinary(size)
        start = tokens.prefix or (() if bos is None or bos >= size else (bos,))
    else:
        images: frozenset[int] = getattr(model.model, "placeholders", frozenset())
        pool = sorted(set(range(size)).difference(*special.values(), images))
    names = ("max_position_embeddings", "n_positions")
    limits = [model.max_positions, *(getattr(config, name, None) for name in names)]
    positions = min((x for x in limits if isinstance(x, int) and x > 0), default=None)
    return random_blocks(pool, start=start, positions=positions, sequences=sequences, seed=seed)


def _ids(config: Any, name: str, size: int) -> tuple[int, ...]:
    """Read one or several ids from a config; those outside the vocabulary do not count."""
    value = getattr(config, name, None)
    values = value if isinstance(value, list | tuple) else [value]
    return tuple(one for one in values if isinstance(one, int) and 0 <= one < size)
