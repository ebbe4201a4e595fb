"""Prompt pairs: clean and corrupted prompts that align token by token, and their answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...graphs.errors import PromptError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Pair:
    """One clean and corrupted prompt as token ids; the answer is predicted at `answer_position`.

    `spans` names positions of the prompts, as (name, position); no result depends on them.
    """

    clean: tuple[int, ...]
    corrupted: tuple[int, ...]
    answers: tuple[int, ...]
    distractors: tuple[int, ...] = ()
    answer_position: int = -1
    group: str = ""
    spans: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        if not self.clean:
            raise PromptError("a prompt pair is empty; accepted: at least one token.")
        if len(self.clean) != len(self.corrupted):
            raise PromptError(
                f"clean has {len(self.clean)} tokens and corrupted {len(self.corrupted)}; a pair "
                "must align token by token, so both need the same number."
            )
        if not self.answers:
            raise PromptError("a prompt pair has no answer; accepted: at least one answer token.")
        position = self.answer_position + len(self.clean) * (self.answer_position < 0)
        if not 0 <= position < len(self.clean):
            raise PromptError(
                f"answer_position {self.answer_position} lies outside the {len(self.clean)} tokens."
            )
        object.__setattr__(self, "answer_position", position)


@dataclass(frozen=True)
class Batch:
    """Padded pairs as tensors; B examples, T positions.

    `clean`, `corrupted`: int64 [B, T]. `mask`: bool [B, T], True on real tokens.
    `position_ids`: int64 [B, T], counted over real tokens. `answer_position`: int64 [B], column.
    `answers`, `distractors`: int64 [B, A], padded with -1.
    """

    clean: Tensor
    corrupted: Tensor
    mask: Tensor
    position_ids: Tensor
    answer_position: Tensor
    answers: Tensor
    distractors: Tensor

    def __len__(self) -> int:
        return int(self.clean.shape[0])


@dataclass(frozen=True)
class PromptPairs:
    """The prompt pairs of one task, validated; `origin` tells how to make them again.

    >>> pairs = PromptPairs((Pair((5, 17, 3), (5, 9, 3), (40,), (41,)),), name="mine")
    >>> len(pairs), pairs.batch().clean.tolist()
    (1, [[5, 17, 3]])
    """

    pairs: tuple[Pair, ...]
    name: str = "pairs"
    seed: int | None = None
    bos_prepended: bool | None = None
    origin: Mapping[str, object] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.pairs:
            raise PromptError(f"'{self.name}' holds no prompt pairs; accepted: at least one.")

    def __repr__(self) -> str:
        return f"PromptPairs({len(self):,} pairs, name={self.name!r}, seed={self.seed})"

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[Pair]:
        return iter(self.pairs)

    def batch(
        self, indices: Sequence[int] | None = None, *, device: str = "cpu", padding: str = "right"
    ) -> Batch:
        """Pad some of the pairs (default: all) to tensors on a device."""
        import torch

        chosen = self.pairs if indices is None else [self.pairs[i] for i in indices]
        length = max(len(p.clean) for p in chosen)
        mask = torch.zeros(len(chosen), length, dtype=torch.bool)
        clean = torch.zeros(len(chosen), length, dtype=torch.long)
        corrupted = torch.zeros_like(clean)
        position = torch.zeros(len(chosen), dtype=torch.long)
        for row, pair in enumerate(chosen):
            start = 0 if padding == "right" else length - len(pair.clean)
            real = slice(start, start + len(pair.clean))
            mask[row, real] = True
            clean[row, real] = torch.tensor(pair.clean)
            corrupted[row, real] = torch.tensor(pair.corrupted)
            position[row] = start + pair.answer_position
        position_ids = (mask.long().cumsum(-1) - 1).clamp(min=0)
        words = (_ragged([p.answers for p in chosen]), _ragged([p.distractors for p in chosen]))
        tensors = (clean, corrupted, mask, position_ids, position, *words)
        return Batch(*(t.to(device) for t in tensors))

    @property
    def sha256(self) -> str:
        """Return a hash of everything a result depends on: ids, answers, positions, groups."""
        rows = [
            [p.clean, p.corrupted, p.answers, p.distractors, p.answer_position, p.group]
            for p in self.pairs
        ]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _ragged(rows: Sequence[Sequence[int]]) -> Tensor:
    """Stack rows of unequal length, padded with -1."""
    import torch

    width = max(1, max(len(r) for r in rows))
    return torch.tensor([[*r, *[-1] * (width - len(r))] for r in rows], dtype=torch.long)
