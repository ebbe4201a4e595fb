"""One layer's attention by head, as data, and what it needs to know of a batch.

Shape letters: N any leading axes, B examples, T positions, D d_model, H query heads, G key/value
heads, K d_head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from .devices import place, projected
from .mlp import PLAIN, Functions, Linear
from .norms import Norm, normalise, normalise_heads, working_dtype
from .rotary import Rotary

GATES: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "softplus": functional.softplus,
}
"""What the gates of heads' outputs go through."""


@dataclass(frozen=True)
class Latent:
    """What stands before a projection: y = down · x, whose first R features are normalised.

    Heads project these, y[:R]. The rest of y, if there is any, is shared: each head has it behind
    its own features (DeepSeek's keys: the part that turns). down: [R + rest, D].
    """

    down: Linear
    norm: Norm | None

    @property
    def rows(self) -> Tensor:
        """Return the weight of `down` as that of one head which all share, [1, R + rest, D]."""
        return self.down.weight[None]

    def width(self, weight: Tensor) -> int:
        """Count the features that heads have behind their own, which weight [h, K, R] makes."""
        return len(self.down.weight) - weight.shape[-1]

    def project(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Project x [..., D] for the heads of a weight [h, K, R] and bias [h, K]: [..., h, K']."""
        size = weight.shape[-1]
        y = self.down(x)
        out = project(normalise(self.norm, y[..., :size]), weight, bias)
        if not self.width(weight):
            return out
        shared = y[..., None, size:].expand(*out.shape[:-1], -1)
        return torch.cat((out, shared), -1)


def project(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Project x [..., D] by a weight [h, K, D] and bias [h, K]: [..., h, K]."""
    out: Tensor = projected(x, weight.flatten(0, 1)).unflatten(-1, weight.shape[:2])
    return out if bias is None else out + bias


@dataclass(frozen=True)
class Temperature:
    """Stretch queries the further back they can look.

    The query at a position is multiplied by 1 + `rate` · log(1 + ⌊(position + `ahead`)/`length`⌋).
    """

    rate: float
    length: float
    ahead: int = 0

    def __call__(self, position_ids: Tensor) -> Tensor:
        """Return the factors of queries at these positions, [B, T] both, in float32."""
        steps = ((position_ids.float() + self.ahead) / self.length).floor()
        return steps.log1p() * self.rate + 1


@dataclass(frozen=True)
class Attention:
    """One layer's attention, by head.

    `wq`: [H, K, D] (or [G, H/G, K, D], where memory holds the groups apart, as it may those of
    `wk` and `wv`); `wk`, `wv`: [G, K, D]; `wo`: [H, K, D]; `bq`: [H, K]; `bk`, `bv`: [G, K];
    `bo`: [D].
    `window`: how many last positions a query sees, itself included; `causal`: it sees none after
    its own. `q_norm`, `k_norm` normalise each head's queries and keys before the rotation, with
    one norm for all heads or a tuple of one for each; if `norm_together`, all heads' queries (or
    keys) are normalised together, [H·K] (or [G·K]): a head then projects its own port's input
    through every head and takes its part of the norm. `clip` c keeps queries, keys and values in
    −c … c. `slopes` [H] add slope · the key's position · `slope_scale` to attention scores
    (ALiBi). `softcap` c bends attention scores s to c·tanh(s/c). What heads write is multiplied by
    `output_scale` (which the weights `wo` do not hold; `bo` is multiplied too).

    `q_latent` and its like make what `wq` and its like project, which are then [H, K, R]. With a
    `gate`, a name in GATES, a head's z is multiplied by the gate of what stands behind its query in
    its projection by `wq`, or by `wgate`, [H, K or 1, D], where memory holds that apart: the gate
    reads the queries' port. `sinks` [H] are one more score in each softmax, of nothing to read.
    `chunk` c: a query sees only keys with the same ⌊position/c⌋. `norm_after` the rotation: queries
    and keys are normalised behind it. `value_norm` normalises values.
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
    q_latent: Latent | None = None
    k_latent: Latent | None = None
    v_latent: Latent | None = None
    gate: str | None = None
    wgate: Tensor | None = None
    sinks: Tensor | None = None
    chunk: int | None = None
    norm_after: bool = False
    temperature: Temperature | None = None
    value_norm: Norm | None = None
    functions: Functions = PLAIN

    @property
    def heads(self) -> int:
        """Count the query heads."""
        return self.wo.shape[0]

    @property
    def size(self) -> int:
        """Return the width of a head's queries and keys, K."""
        own = self.wk.shape[-2]
        return own if self.k_latent is None else own + self.k_latent.width(self.wk)

    @property
    def kv_heads(self) -> int:
        """Count the key/value heads."""
        return self.wk.shape[:-2].numel()

    @property
    def group_size(self) -> int:
        """Count the query heads of one key/value head."""
        return self.heads // self.kv_heads

    def projection(self, letter: str) -> tuple[Tensor, Tensor | None]:
        """Return weight and bias of `q` (with the gate), `k` or `v`, by head."""
        weight, bias = {
            "q": (self.wq, self.bq), "k": (self.wk, self.bk), "v": (self.wv, self.bv),
        }[letter]  # fmt: skip
        if weight.dim() == 4:
            weight, bias = weight.flatten(0, 1), None if bias is None else bias.flatten(0, 1)
        if letter == "q" and self.wgate is not None:
            weight = torch.cat((weight, self.wgate), 1)
            if bias is not None:  # the gate has none
                bias = functional.pad(bias, (0, self.wgate.shape[1]))
        return weight, bias

    def latent(self, letter: str) -> Latent | None:
        """Return what stands before the projection of `q`, `k` or `v`."""
        return {"q": self.q_latent, "k": self.k_latent, "v": self.v_latent}[letter]

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
        v = self.functions.mixed(self.values(v)).transpose(-2, -3)
        z = (weight.to(v.dtype) @ v).transpose(-2, -3)
        return self.gated(z, q)

    def gated(self, z: Tensor, q: Tensor) -> Tensor:
        """Multiply z [..., h, K] by the gates that stand behind the queries q, as projected."""
        if self.gate is None:
            return z
        return self.functions.multiply(z, GATES[self.gate](q[..., self.size :]))

    def hidden(self, context: AttentionContext) -> Tensor:
        """Return bool [B, 1, queries, T], True where a query must not see a key (column)."""
        return context.hidden(self.window, self.causal, self.chunk)

    def values(self, v: Tensor) -> Tensor:
        """Return what heads mix, from values as projected, [..., K]."""
        v = v if self.clip is None else v.clamp(-self.clip, self.clip)
        return normalise(self.value_norm, v)

    def pattern(
        self, q: Tensor, k: Tensor, context: AttentionContext, heads: Sequence[int] | None = None
    ) -> Tensor:
        """Return how queries weigh keys, [..., B, h, queries, keys].

        Each row sums up to 1, or less where there are sinks. q: [..., B, queries, h, K] at the
        context's queries, with the gates or without; k: [..., B, keys, h, K]; both as projected, of
        the same h heads (default: all). The type is float32 at least.
        """
        q, k = self.turned(q[..., : k.shape[-1]], k, context, heads)
        q, k = (x.transpose(-2, -3) for x in (q, k))  # [..., B, h, T, K]
        wide = working_dtype(q.dtype)  # unscaled scores leave float16's range in some models
        scores = (q.to(wide) @ k.to(wide).transpose(-1, -2)) * self.scale
        return self.weigh(scores, context, heads)

    def turned(
        self, q: Tensor, k: Tensor, context: AttentionContext, heads: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return queries and keys as they are multiplied, of the same shapes; see `pattern`."""
        context = context.on(q.device)
        chosen = range(self.heads) if heads is None else heads
        if not self.norm_together and not self.norm_after:
            q, k = self._normalised(q, k, chosen)
        if self.clip is not None:
            q, k = (x.clamp(-self.clip, self.clip) for x in (q, k))
        if self.rotary is not None:
            cos, sin = context.rotary(self.rotary, q.dtype)
            q = self.rotary(q, (context.queries(cos), context.queries(sin)))
            k = self.rotary(k, (cos, sin))
        if self.norm_after:
            q, k = self._normalised(q, k, chosen)
        if self.temperature is not None:
            factors = self.temperature(context.queries(context.position_ids))
            q = (q * factors[..., None, None]).to(q.dtype)
        return q, k

    def weigh(
        self, scores: Tensor, context: AttentionContext, heads: Sequence[int] | None = None
    ) -> Tensor:
        """Return the pattern of scores, [..., B, h, queries, keys] both; see `pattern`."""
        context, weight = context.on(scores.device), scores
        chosen = range(self.heads) if heads is None else heads
        if self.slopes is not None:
            slopes = place(self.slopes, weight.device)[list(chosen)][:, None, None]
            bias = slopes * context.position_ids[:, None, None]  # of the slopes' own type
            weight = weight + bias.to(weight) * self.slope_scale
        if self.softcap is not None:
            weight = (weight / self.softcap).tanh() * self.softcap
        weight = weight.masked_fill(self.hidden(context), torch.finfo(weight.dtype).min)
        if self.sinks is None:
            return self.functions.softmax(weight)
        sinks = place(self.sinks, weight.device)[list(chosen)].to(weight)
        sinks = sinks[:, None, None].expand(*weight.shape[:-1], 1)
        return self.functions.softmax(torch.cat((weight, sinks), -1))[..., :-1]

    def _normalised(self, q: Tensor, k: Tensor, heads: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Normalise the queries and keys of these heads."""
        groups = [head // self.group_size for head in heads]
        return normalise_heads(self.q_norm, q, heads), normalise_heads(self.k_norm, k, groups)

    def merge(self, z: Tensor) -> Tensor:
        """Sum the heads' outputs, without the projection's bias: z [N, H, K] gives [N, D]."""
        return self.scaled(projected(z.flatten(-2), self.wo.flatten(0, 1).t()))

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
    _hidden: dict[tuple[int | None, bool, int | None], Tensor] = field(
        default_factory=dict, repr=False
    )
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

    def hidden(self, window: int | None, causal: bool = True, chunk: int | None = None) -> Tensor:
        """Return bool [B, 1, queries, T], True where a query must not see a key (column)."""
        key = (window, causal, chunk)
        if key not in self._hidden:
            index = torch.arange(self.mask.shape[1], device=self.mask.device)
            gap = self.queries(index.expand(self.mask.shape))[:, None, :, None] - index
            seen = gap >= 0 if causal else torch.ones_like(gap, dtype=torch.bool)
            if window is not None:
                seen &= gap < window
            if chunk is not None:
                part = self.position_ids // chunk
                seen &= self.queries(part)[:, None, :, None] == part[:, None, None, :]
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
