"""One layer's attention by head, as data, and what it needs to know of a batch.

Shape letters: N any leading axes, B examples, T positions, D d_model, H query heads, G key/value
heads, K d_head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .devices import place
from .norms import Norm, normalise_heads, working_dtype
from .rotary import Rotary


@dataclass(frozen=True)
class Attention:
    """One layer's attention, by head.

    `wq`: [H, K, D] (or [G, H/G, K, D], where memory holds the groups apart); `wk`, `wv`:
    [G, K, D]; `wo`: [H, K, D]; `bq`: [H, K]; `bk`, `bv`: [G, K]; `bo`: [D].
    `window`: how many last positions a query sees, itself included; `causal`: it sees none after
    its own. `q_norm`, `k_norm` normalise each head's queries and keys before the rotation, with
    one norm for all heads or a tuple of one for each; if `norm_together`, all heads' queries (or
    keys) are normalised together, [H·K] (or [G·K]): a head then projects its own port's input
    through every head and takes its part of the norm. `clip` c keeps queries, keys and values in
    −c … c. `slopes` [H] add slope · the key's position · `slope_scale` to attention scores
    (ALiBi). `softcap` c bends attention scores s to c·tanh(s/c). What heads write is multiplied by
    `output_scale` (which the weights `wo` do not hold; `bo` is multiplied too).
    """

    wq: Tensor
    wk: Tensor
    wv: Tensor
    wo: Tensor
    bq: Tensor | None
    bk: Tensor | None
    bv: Tensor | None
    bo: Tensor | None
    scale: float
    rotary: Rotary | None = None
    window: int | None = None
    q_norm: Norm | tuple[Norm, ...] | None = None
    k_norm: Norm | tuple[Norm, ...] | None = None
    output_scale: float = 1.0
    softcap: float | None = None
    norm_together: bool = False
    clip: float | None = None
    slopes: Tensor | None = field(default=None, metadata={"derived": True})
    slope_scale: float = 1.0
    causal: bool = True

    @property
    def heads(self) -> int:
        """Count the query heads."""
        return self.wo.shape[0]

    @property
    def size(self) -> int:
        """Return the width of a head, K."""
        return self.wq.shape[-2]

    @property
    def kv_heads(self) -> int:
        """Count the key/value heads."""
        return self.wk.shape[0]

    @property
    def group_size(self) -> int:
        """Count the query heads of one key/value head."""
        return self.heads // self.kv_heads

    def projection(self, letter: str) -> tuple[Tensor, Tensor | None]:
        """Return weight and bias of `q`, `k` or `v`, by head."""
        if letter == "q":
            if self.wq.dim() == 3:
                return self.wq, self.bq
            return self.wq.flatten(0, 1), None if self.bq is None else self.bq.flatten(0, 1)
        return (self.wk, self.bk) if letter == "k" else (self.wv, self.bv)

    def norm_of_all(self, letter: str) -> Norm | None:
        """Return the norm of all heads' queries, or keys, together; None if there is none."""
        norm = {"q": self.q_norm, "k": self.k_norm}.get(letter) if self.norm_together else None
        assert not isinstance(norm, tuple)
        return norm

    def mix(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        context: AttentionContext,
        past: tuple[Tensor, Tensor] | None = None,
        heads: Sequence[int] | None = None,
    ) -> Tensor:
        """Attend: q, k, v [..., B, T, h, K] of the same h heads give their z, same shape.

        z is what a head reads from the positions, before the output projection. `past`: keys and
        values [B, start, h, K] of the positions before the context's window. `heads`: which these
        are; default: all.
        """
        if past is not None:
            k, v = (
                torch.cat((old.expand(*new.shape[:-3], -1, -1, -1), new), -3)
                for old, new in zip(past, (k, v), strict=True)
            )
        weight = self.pattern(q, k, context, heads)
        v = (v if self.clip is None else v.clamp(-self.clip, self.clip)).transpose(-2, -3)
        return (weight.to(v.dtype) @ v).transpose(-2, -3)

    def pattern(
        self, q: Tensor, k: Tensor, context: AttentionContext, heads: Sequence[int] | None = None
    ) -> Tensor:
        """Return how queries weigh keys, [..., B, h, queries, keys]; each row sums up to 1.

        q: [..., B, queries, h, K] at the context's queries; k: [..., B, keys, h, K]; both as
        projected, of the same h heads (default: all). The type is float32 at least.
        """
        context = context.on(q.device)
        chosen = range(self.heads) if heads is None else heads
        if not self.norm_together:
            q = normalise_heads(self.q_norm, q, chosen)
            k = normalise_heads(self.k_norm, k, [head // self.group_size for head in chosen])
        if self.clip is not None:
            q, k = (x.clamp(-self.clip, self.clip) for x in (q, k))
        if self.rotary is not None:
            cos, sin = context.rotary(self.rotary, q.dtype)
            q = self.rotary(q, (context.queries(cos), context.queries(sin)))
            k = self.rotary(k, (cos, sin))
        q, k = (x.transpose(-2, -3) for x in (q, k))  # [..., B, h, T, K]
        wide = working_dtype(q.dtype)  # unscaled scores leave float16's range in some models
        weight = (q.to(wide) @ k.to(wide).transpose(-1, -2)) * self.scale
        if self.slopes is not None:
            slopes = place(self.slopes, q.device)[list(chosen)][:, None, None]
            bias = slopes * context.position_ids[:, None, None]  # of the slopes' own type
            weight = weight + bias.to(wide) * self.slope_scale
        if self.softcap is not None:
            weight = (weight / self.softcap).tanh() * self.softcap
        hidden = context.hidden(self.window, self.causal)
        return weight.masked_fill(hidden, torch.finfo(weight.dtype).min).softmax(-1)

    def merge(self, z: Tensor) -> Tensor:
        """Sum the heads' outputs, without the projection's bias: z [N, H, K] gives [N, D]."""
        return self.scaled(z.flatten(-2) @ self.wo.flatten(0, 1))

    def outputs(self, z: Tensor, heads: list[int] | None = None) -> Tensor:
        """Return each head's output: z [h, n, K] of these heads gives [h, n, D]."""
        return self.scaled(torch.bmm(z, self.wo if heads is None else self.wo[heads]))

    def scaled(self, x: Tensor) -> Tensor:
        """Multiply by the output scale."""
        return x if self.output_scale == 1 else x * self.output_scale

    @property
    def constant(self) -> Tensor | None:
        """Return what the layer adds to the stream whatever its heads do, [D]."""
        return None if self.bo is None else self.scaled(self.bo)


@dataclass
class AttentionContext:
    """What attention needs to know of a batch's positions; tables are made once.

    `mask`: bool [B, T], True on real tokens. `position_ids`: [B, T]. `start`: queries stand at the
    positions from here on, the window; keys and values at all positions. `at`: the position of
    each example's only query, [B], in place of `start`.
    """

    mask: Tensor
    position_ids: Tensor
    start: int = 0
    at: Tensor | None = None
    _hidden: dict[tuple[int | None, bool], Tensor] = field(default_factory=dict, repr=False)
    _tables: dict[tuple[int, float, torch.dtype], tuple[Tensor, Tensor]] = field(
        default_factory=dict, repr=False
    )
    _elsewhere: dict[torch.device, AttentionContext] = field(default_factory=dict, repr=False)

    def on(self, device: torch.device) -> AttentionContext:
        """Return the same for blocks on another device; this one where it lies there already."""
        if device == self.mask.device:
            return self
        if device not in self._elsewhere:
            mask, positions = place(self.mask, device), place(self.position_ids, device)
            at = None if self.at is None else place(self.at, device)
            self._elsewhere[device] = AttentionContext(mask, positions, self.start, at)
        return self._elsewhere[device]

    def hidden(self, window: int | None, causal: bool = True) -> Tensor:
        """Return bool [B, 1, queries, T], True where a query must not see a key (column)."""
        key = (window, causal)
        if key not in self._hidden:
            index = torch.arange(self.mask.shape[1], device=self.mask.device)
            gap = self.queries(index.expand(self.mask.shape))[:, None, :, None] - index
            seen = gap >= 0 if causal else torch.ones_like(gap, dtype=torch.bool)
            if window is not None:
                seen &= gap < window
            self._hidden[key] = ~(seen & self.mask[:, None, None, :])
        return self._hidden[key]

    def queries(self, x: Tensor) -> Tensor:
        """Pick the queries' positions from x [B, T, …]."""
        if self.at is None:
            return x[:, self.start :]
        return x[torch.arange(len(x), device=x.device), self.at][:, None]

    def rotary(self, rotary: Rotary, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return the rotation tables of this batch."""
        key = (rotary.frequencies.data_ptr(), rotary.factor, dtype)
        if key not in self._tables:
            self._tables[key] = rotary.tables(self.position_ids, dtype)
        return self._tables[key]
