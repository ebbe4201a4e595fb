"""Rotary positions: queries and keys turned by angles position · frequency (Su et al. 2021).

Shape letters: B examples, T positions, H heads, K d_head, R features that turn.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .devices import place


@dataclass(frozen=True)
class Growth:
    """How frequencies follow the length of a prompt that exceeds `limit` ("dynamic" scaling).

    The base grows to  base · (factor·length/limit − (factor − 1))^(R/(R−2)).
    """

    base: float
    factor: float
    limit: int

    def frequencies(self, lengths: Tensor, size: int) -> Tensor:
        """Return the frequencies of prompts of these lengths [B], [B, size/2]."""
        length = lengths.clamp(min=self.limit)
        stretch = (self.factor * length / self.limit) - (self.factor - 1)
        base = self.base * stretch ** (size / (size - 2))
        steps = torch.arange(0, size, 2, device=lengths.device).float() / size
        return 1.0 / (base[:, None] ** steps)


@dataclass(frozen=True)
class Rotary:
    """By how much queries and keys are rotated, and which of their features.

    `frequencies`: [R/2] for the first R features of a head, or those from `start` on. `factor`
    scales cosine and sine. Features i and i + R/2 turn together, or 2i and 2i + 1 if `interleaved`.
    Some models choose frequencies by the prompt's own length: beyond `limit` tokens those of
    `growth`, or `long` [R/2]. Others hold a table of their own, `stored` [positions, R]: the sines
    of each position, then the cosines, rounded to the type that the table is stored in.
    """

    frequencies: Tensor = field(metadata={"derived": True})
    factor: float = 1.0
    interleaved: bool = False
    limit: int | None = None
    long: Tensor | None = field(default=None, metadata={"derived": True})
    growth: Growth | None = None
    start: int = 0
    stored: Tensor | None = field(default=None, metadata={"derived": True})

    @property
    def size(self) -> int:
        """Count the features that turn, R."""
        return 2 * self.frequencies.shape[0]

    def frequencies_of(self, lengths: Tensor) -> Tensor:
        """Return what prompts of these lengths [B] turn by, [R/2] or [B, 1, R/2]."""
        usual = place(self.frequencies, lengths.device).float()
        if self.limit is None:
            return usual
        if self.growth is not None:
            far = self.growth.frequencies(lengths, self.size)
        else:
            assert self.long is not None
            far = place(self.long, lengths.device).float()
        return torch.where(lengths[:, None] > self.limit, far, usual)[:, None]

    def tables(self, position_ids: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return cosine and sine, [B, T, 1, R], of positions [B, T] of whole prompts."""
        if self.stored is not None:
            sin, cos = place(self.stored, position_ids.device)[position_ids].chunk(2, -1)
        else:
            lengths = position_ids.amax(-1) + 1
            angle = position_ids[..., None].float() * self.frequencies_of(lengths)
            cos, sin = angle.cos() * self.factor, angle.sin() * self.factor

        def each(x: Tensor) -> Tensor:
            twice = x.repeat_interleave(2, -1) if self.interleaved else torch.cat((x, x), -1)
            return twice[:, :, None].to(dtype)

        return each(cos), each(sin)

    def __call__(self, x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
        """Rotate x, [..., B, T, H, K], whose tables are those of its positions."""
        cos, sin = tables
        end = self.start + cos.shape[-1]
        before, turn, rest = x[..., : self.start], x[..., self.start : end], x[..., end:]
        if self.interleaved:
            crossed = torch.stack((-turn[..., 1::2], turn[..., ::2]), -1).flatten(-2)
        else:
            low, high = turn.chunk(2, -1)
            crossed = torch.cat((-high, low), -1)
        turned = turn * cos + crossed * sin
        parts = [part for part in (before, turned, rest) if part.shape[-1]]
        return torch.cat(parts, -1) if len(parts) > 1 else turned
