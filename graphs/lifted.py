"""A lifted model: its blocks described as data, with weights that are views of the model's own.

Each part can compute alone, so that single heads and MLPs can be rerun. Shape letters:
N any leading axes, D d_model, H query heads, G key/value heads, K d_head, T positions,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from .graph import ComputationGraph

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_new": lambda x: functional.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "gelu_fast": lambda x: functional.gelu(x, approximate="tanh"),
    "relu": functional.relu,
    "silu": functional.silu,
    "swish": functional.silu,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu2": lambda x: functional.relu(x).square(),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}
"""Activation functions by the names that model configurations use."""


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the type that norms and softmax compute in: at least float32."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


@dataclass(frozen=True)
class Norm:
    """Normalise the last axis, by mean and variance (`centred`) or by the root mean square.

    `weight`, `bias`: [D]. `offset` is added to the weight (1 in models that store weight − 1), in
    float32 at least: near 1, bfloat16 has steps of 1/128.
    """

    weight: Tensor
    bias: Tensor | None
    eps: float
    centred: bool
    offset: float = 0.0

    def __call__(self, x: Tensor) -> Tensor:
        """Return the normalised x, [N, D]."""
        unit, _ = self.unit(x)
        y = (unit * self.scale).to(x.dtype) if self.offset else unit.to(x.dtype) * self.scale
        return y if self.bias is None else y + self.bias

    @property
    def scale(self) -> Tensor:
        """Return the factor of each feature, [D]."""
        if not self.offset:
            return self.weight
        return self.weight.to(working_dtype(self.weight.dtype)) + self.offset

    def unit(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return x without scale and bias, [N, D], and the factor 1/std that made it so, [N, 1]."""
        x = x.to(working_dtype(x.dtype))
        if self.centred:
            x = x - x.mean(-1, keepdim=True)
        rate = torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)
        return x * rate, rate


@dataclass(frozen=True)
class Rotary:
    """Rotate queries and keys by angles position · frequency (Su et al. 2021).

    `frequencies`: [R/2] for the first R features of a head. `factor` scales cosine and sine.
    Features i and i + R/2 turn together, or 2i and 2i + 1 if `interleaved`.
    """

    frequencies: Tensor
    factor: float = 1.0
    interleaved: bool = False

    def tables(self, position_ids: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return cosine and sine, [B, T, 1, R], of positions [B, T]."""
        angle = position_ids[..., None].float() * self.frequencies.float()
        if self.interleaved:
            angle = angle.repeat_interleave(2, -1)[:, :, None]
        else:
            angle = torch.cat((angle, angle), -1)[:, :, None]
        return (angle.cos() * self.factor).to(dtype), (angle.sin() * self.factor).to(dtype)

    def __call__(self, x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
        """Rotate x, [..., B, T, H, K], whose tables are those of its positions."""
        cos, sin = tables
        size = cos.shape[-1]
        turn, rest = x[..., :size], x[..., size:]
        if self.interleaved:
            crossed = torch.stack((-turn[..., 1::2], turn[..., ::2]), -1).flatten(-2)
        else:
            low, high = turn.chunk(2, -1)
            crossed = torch.cat((-high, low), -1)
        turned = turn * cos + crossed * sin
        return torch.cat((turned, rest), -1) if rest.shape[-1] else turned


@dataclass(frozen=True)
class Attention:
    """Hold one layer's attention, by head.

    `wq`: [H, K, D]; `wk`, `wv`: [G, K, D]; `wo`: [H, K, D]; `bq`: [H, K]; `bk`, `bv`: [G, K];
    `bo`: [D]. `window`: how many last positions a query sees, itself included. `q_norm`, `k_norm`
    normalise each head's queries and keys before the rotation. What heads write is multiplied by
    `output_scale` (which the weights `wo` do not hold; `bo` is multiplied too). `softcap` c bends
    attention scores s to c·tanh(s/c).
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
    q_norm: Norm | None = None
    k_norm: Norm | None = None
    output_scale: float = 1.0
    softcap: float | None = None

    @property
    def heads(self) -> int:
        """Count the query heads."""
        return self.wq.shape[0]

    @property
    def kv_heads(self) -> int:
        """Count the key/value heads."""
        return self.wk.shape[0]

    @property
    def share(self) -> int:
        """Count the query heads of one key/value head."""
        return self.heads // self.kv_heads

    def projection(self, letter: str) -> tuple[Tensor, Tensor | None]:
        """Return weight and bias of `q`, `k` or `v`."""
        return {"q": (self.wq, self.bq), "k": (self.wk, self.bk), "v": (self.wv, self.bv)}[letter]

    def mix(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        context: AttentionContext,
        past: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Attend: q, k, v [..., B, T, h, K] of the same h heads give their z, same shape.

        z is what a head reads from the positions, before the output projection. `past`: keys and
        values [B, start, h, K] of the positions before the context's window.
        """
        if past is not None:
            k, v = (
                torch.cat((old.expand(*new.shape[:-3], -1, -1, -1), new), -3)
                for old, new in zip(past, (k, v), strict=True)
            )
        q = q if self.q_norm is None else self.q_norm(q)
        k = k if self.k_norm is None else self.k_norm(k)
        if self.rotary is not None:
            cos, sin = context.rotary(self.rotary, q.dtype)
            q = self.rotary(q, (context.queries(cos), context.queries(sin)))
            k = self.rotary(k, (cos, sin))
        q, k, v = (x.transpose(-2, -3) for x in (q, k, v))  # [..., B, h, T, K]
        wide = working_dtype(q.dtype)  # unscaled scores leave float16's range in some models
        weight = (q.to(wide) @ k.to(wide).transpose(-1, -2)) * self.scale
        if self.softcap is not None:
            weight = (weight / self.softcap).tanh() * self.softcap
        weight = weight.masked_fill(context.hidden(self.window), torch.finfo(weight.dtype).min)
        return (weight.softmax(-1).to(v.dtype) @ v).transpose(-2, -3)

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
    """Hold what attention needs to know of a batch's positions; tables are made once.

    `mask`: bool [B, T], True on real tokens. `position_ids`: [B, T]. `start`: queries stand at the
    positions from here on, the window; keys and values at all positions. `at`: the position of
    each example's only query, [B], in place of `start`.
    """

    mask: Tensor
    position_ids: Tensor
    start: int = 0
    at: Tensor | None = None
    _hidden: dict[int | None, Tensor] = field(default_factory=dict, repr=False)
    _tables: dict[tuple[int, float, torch.dtype], tuple[Tensor, Tensor]] = field(
        default_factory=dict, repr=False
    )

    def hidden(self, window: int | None) -> Tensor:
        """Return bool [B, 1, queries, T], True where a query must not see a key (column)."""
        if window not in self._hidden:
            index = torch.arange(self.mask.shape[1], device=self.mask.device)
            queries = self.queries(index.expand(self.mask.shape))[:, None, :, None]
            gap = queries - index
            seen = gap >= 0
            if window is not None:
                seen &= gap < window
            self._hidden[window] = ~(seen & self.mask[:, None, None, :])
        return self._hidden[window]

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


@dataclass(frozen=True)
class Linear:
    """Map features: `weight` [out, in], `bias` [out]."""

    weight: Tensor
    bias: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Return x · weightᵀ + bias."""
        return functional.linear(x, self.weight, self.bias)


@dataclass(frozen=True)
class MLP:
    """Hold one layer's MLP: down(act(up(x))), or down(act(gate(x)) · up(x)) if gated."""

    up: Linear
    down: Linear
    activation: str
    gate: Linear | None = None
    output_scale: float = 1.0

    def __call__(self, x: Tensor) -> Tensor:
        """Map normalised features [N, D] to what the MLP writes, [N, D]."""
        act = ACTIVATIONS[self.activation]
        inner = act(self.up(x)) if self.gate is None else act(self.gate(x)) * self.up(x)
        out = self.down(inner)
        return out if self.output_scale == 1 else out * self.output_scale


@dataclass(frozen=True)
class Block:
    """Hold one layer.

    `attention_post_norm` makes the node `o{l}`: it normalises the sum of the heads before the
    stream takes it. `mlp_post_norm` is part of the MLP.
    """

    attention_norm: Norm
    attention: Attention
    mlp_norm: Norm
    mlp: MLP
    attention_post_norm: Norm | None = None
    mlp_post_norm: Norm | None = None

    def write(self, x: Tensor) -> Tensor:
        """Return what `m{l}` writes when its port holds x, [N, D]."""
        out = self.mlp(self.mlp_norm(x))
        return out if self.mlp_post_norm is None else self.mlp_post_norm(out)

    def write_post(self, x: Tensor) -> Tensor:
        """Return what `o{l}` writes when its port holds x, [N, D]."""
        assert self.attention_post_norm is not None
        return self.attention_post_norm(x)


@dataclass(frozen=True)
class LiftedModel:
    """Describe a whole model; all tensors are views of the model's own and never change.

    `tokens`: [V, D]. `positions`: [P, D] or None. `unembed`: [V, D] and bias.
    `variants` names what was found, in words, for people.
    """

    family: str
    tokens: Tensor
    positions: Tensor | None
    blocks: tuple[Block, ...]
    final_norm: Norm
    unembed: Linear
    graph: ComputationGraph
    variants: dict[str, str]
    max_positions: int | None = None
    embed_scale: float = 1.0
    logit_scale: float = 1.0
    logit_softcap: float | None = None
    model: torch.nn.Module | None = field(default=None, repr=False, compare=False)

    @property
    def d_model(self) -> int:
        """Return the width of the stream."""
        return self.tokens.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """Return the type of the weights."""
        return self.tokens.dtype

    @property
    def device(self) -> torch.device:
        """Return where the weights lie."""
        return self.tokens.device

    @cached_property
    def sources(self) -> int:
        """Count the senders that come from the embedding: `embed`, or `tok` and `pos`."""
        return 2 if self.graph.split_embedding else 1

    def embed(self, ids: Tensor, position_ids: Tensor) -> Tensor:
        """Return what the embedding senders write, [sources, B, T, D], for ids [B, T]."""
        token = self.tokens[ids]
        token = token if self.embed_scale == 1 else token * self.embed_scale
        if self.positions is None:
            place = torch.zeros_like(token) if self.sources == 2 else None
        else:
            place = self.positions[position_ids]
        if self.sources == 2:
            assert place is not None
            return torch.stack((token, place))
        return (token if place is None else token + place)[None]

    def logits(self, x: Tensor) -> Tensor:
        """Map the stream at the `logits` port, [N, D], to logits, [N, V]."""
        return self.scale_logits(self.unembed(self.final_norm(x)))

    def scale_logits(self, out: Tensor) -> Tensor:
        """Apply the scale and the soft cap that come behind the unembedding."""
        out = out if self.logit_scale == 1 else out * self.logit_scale
        if self.logit_softcap is not None:
            out = (out / self.logit_softcap).tanh() * self.logit_softcap
        return out
