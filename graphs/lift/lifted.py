"""A lifted model: its blocks described as data, with weights that are views of the model's own.

Each part can compute alone, so that single heads and MLPs can be rerun. Shape letters:
N any leading axes, D d_model, H query heads, G key/value heads, K d_head, T positions,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property

import torch
from torch import Tensor

from ..calls.typed import short_value, typed
from ..errors import EdgewiseError, UnsupportedModel
from ..graph import HEADS, NONE, WHOLE, ComputationGraph
from .attention import Attention, AttentionContext
from .devices import place
from .experts import Beside, Experts
from .mlp import ACTIVATIONS, MLP, Linear, Neurons, TokenGate
from .norms import Norm, normalise, working_dtype
from .own.packed import Gathered, PerLayer, Spread
from .rotary import Growth, Rotary
from .whole import Whole

__all__ = [
    "ACTIVATIONS",
    "Attention",
    "AttentionContext",
    "Block",
    "Growth",
    "LiftedModel",
    "Linear",
    "MLP",
    "Norm",
    "Rotary",
    "Whole",
    "normalise",
    "working_dtype",
]


@dataclass(frozen=True)
class SharedKeys:
    """Where a layer takes keys and values from that has none of its own.

    Its heads' ports for them read the stream before layer `source`, behind the `norm` that stands
    there before attention.
    """

    source: int
    norm: Norm | None


@dataclass(frozen=True)
class Block:
    """One layer, on one device; a norm that is None leaves its input as it is.

    `attention`, `mlp`: None where the layer has none. `attention_post_norm` makes the node `o{l}`:
    it normalises the sum of the heads before the stream takes it; behind a mixer that is taken
    whole it is part of the mixer. `mlp_post_norm` is part of the MLP, and has no place beside
    experts, each of which writes to the stream by itself. With a `gate` the port `m{l}` holds,
    behind the stream, what the tokens give the layer past it, and the gate is part of the MLP.
    `shared`: keys and values, which `attention` describes as their source's, are another layer's.
    """

    attention_norm: Norm | None
    attention: Attention | Whole | None
    mlp_norm: Norm | None
    mlp: MLP | Experts | Beside | Whole | None
    attention_post_norm: Norm | None = None
    mlp_post_norm: Norm | None = None
    gate: TokenGate | None = field(default=None, kw_only=True)
    shared: SharedKeys | None = field(default=None, kw_only=True)

    @property
    def device(self) -> torch.device:
        """Return where the block's weights lie."""
        if isinstance(self.attention, Attention):
            return self.attention.wq.device
        if isinstance(self.attention, Whole):
            return self.attention.device
        match self.mlp:
            case MLP(up=up):
                return up.weight.device
            case Experts(router=router):
                return router.device
            case Whole() as whole:
                return whole.device
        raise UnsupportedModel("a layer has neither a token mixer nor an MLP.")

    @property
    def mixer(self) -> str:
        """Tell what mixes tokens: `heads`, a module taken `whole`, or `none`."""
        if self.attention is None:
            return NONE
        return HEADS if isinstance(self.attention, Attention) else WHOLE

    @property
    def by_head(self) -> Attention:
        """Return the layer's attention by head; only where it has heads."""
        assert isinstance(self.attention, Attention)
        return self.attention

    @property
    def features(self) -> tuple[int, int]:
        """Count the numbers that a backward pass keeps of a token: of the mixer, and the MLP."""
        mixer = 0
        if isinstance(self.attention, Attention):
            mixer = 6 * self.attention.heads * self.attention.size
        elif isinstance(self.attention, Whole):
            mixer = self.attention.features
        return mixer, 0 if self.mlp is None else self.mlp.features

    def norm_of(self, letter: str) -> Norm | None:
        """Return the norm before the projection of `q`, `k` or `v`."""
        elsewhere = self.shared is not None and letter != "q"
        return self.shared.norm if self.shared and elsewhere else self.attention_norm

    def read(self, x: Tensor, letter: str = "q") -> Tensor:
        """Return what the heads project when their ports hold x, [N, D], where the block lies."""
        return normalise(self.norm_of(letter), place(x, self.device))

    @property
    def given(self) -> int:
        """Count the features behind the stream's that the port `m{l}` holds."""
        return 0 if self.gate is None else self.gate.width

    def write(self, x: Tensor) -> Tensor:
        """Return what the MLP, or all experts together, write when the port holds x, [N, D]."""
        if self.mlp is None:
            return torch.zeros_like(x)
        return self._written(x, self.mlp)

    def writes(self, x: Tensor, only: Sequence[int] | None = None) -> Tensor:
        """Return what each sender of `m{l}` (or `only` these) writes when it holds x, [n, N, D]."""
        mlp = self.mlp
        if mlp is None:
            return x.new_zeros(0, *x.shape)
        return self._written(x, lambda y: mlp.outputs(y, only))

    def _written(self, x: Tensor, write: Callable[[Tensor], Tensor]) -> Tensor:
        """Return what is written of a port's x, [N, D], with the norms and the gate."""
        here = place(x, self.device)
        stream = here if self.gate is None else here[..., : -self.given]
        out = write(normalise(self.mlp_norm, stream))
        out = out if self.mlp_post_norm is None else self.mlp_post_norm(out)
        if self.gate is not None:
            out = out + self.gate(stream + out, here[..., -self.given :])
        return place(out, x.device)

    def write_whole(self, x: Tensor, context: AttentionContext) -> Tensor:
        """Return what `s{l}` writes when its port holds x, [N, B, T, D]."""
        assert isinstance(self.attention, Whole)
        out = self.attention(self.read(x), context)
        return place(normalise(self.attention_post_norm, out), x.device)

    def write_post(self, x: Tensor) -> Tensor:
        """Return what `o{l}` writes when its port holds x, [N, D]."""
        assert self.attention_post_norm is not None
        return place(self.attention_post_norm(place(x, self.device)), x.device)


@typed
@dataclass(frozen=True)
class LiftedModel:
    """A whole model, described; all tensors are views of the model's own and never change.

    `tokens`: [V, D]. `positions`: [P, D] or None. `unembed`: [V, D] and bias. `embed_norm`
    normalises token embeddings; it is part of what the embedding writes. `model` is what was
    described; for other than Hugging Face models `original` maps token ids [B, T], without padding,
    to logits [B, T, V] by the model's own code, where there is any.
    `variants` names what was found, in words, for people. `stream_scales`: what the original's
    stream before each layer, and behind the last, is in units of the stream here (1 but in models
    that multiply the stream behind a layer). `spread`: in models with several streams, what the
    embedding makes of a token's embedding; the stream here is all of them side by side.
    `per_layer`: what the embedding sends to each `m{l}` beside the stream.
    """

    family: str
    tokens: Tensor = field(repr=False)
    positions: Tensor | None = field(repr=False)
    blocks: tuple[Block, ...] = field(repr=False)
    final_norm: Norm | Gathered | None = field(repr=False)
    unembed: Linear = field(repr=False)
    graph: ComputationGraph
    variants: dict[str, str]
    max_positions: int | None = None
    embed_scale: float = 1.0
    logit_scale: float = 1.0
    logit_softcap: float | None = None
    embed_norm: Norm | None = field(default=None, repr=False)
    stream_scales: tuple[float, ...] = ()
    spread: Spread | None = field(default=None, repr=False)
    per_layer: PerLayer | None = field(default=None, repr=False)
    model: torch.nn.Module | None = field(default=None, repr=False, compare=False)
    original: Callable[[Tensor], Tensor] | None = field(default=None, repr=False, compare=False)

    @property
    def d_model(self) -> int:
        """Return the width of the stream."""
        return self.tokens.shape[1] if self.spread is None else self.spread.packing.size

    @property
    def embedded(self) -> int:
        """Count the features of the stream that the embedding writes, which stand first."""
        return self.d_model if self.spread is None else self.spread.packing.embedded

    @property
    def given(self) -> int:
        """Count the features that the embedding sends past the stream, of all layers together."""
        return sum(block.given for block in self.blocks)

    @property
    def streams(self) -> int:
        """Count the original's streams, which stand side by side in the stream here."""
        return 1 if self.spread is None else self.spread.packing.count

    @property
    def dtype(self) -> torch.dtype:
        """Return the type of the weights."""
        return self.tokens.dtype

    @property
    def device(self) -> torch.device:
        """Return where the stream lies: with the token embedding."""
        return self.tokens.device

    @property
    def model_type(self) -> str:
        """Return the type that a Hugging Face model's config states, empty for others."""
        return str(getattr(getattr(self.model, "config", None), "model_type", ""))

    @cached_property
    def on_several_devices(self) -> bool:
        """Tell whether some of the model lies on another device than the stream."""
        parts = [self.unembed.weight.device, *(block.device for block in self.blocks)]
        return any(device != self.device for device in parts)

    @cached_property
    def causal(self) -> bool:
        """Tell whether no position is influenced by what stands behind it."""
        mixers = (block.attention for block in self.blocks)
        return all(one.causal for one in mixers if isinstance(one, Attention))

    @cached_property
    def windowed(self) -> bool:
        """Tell whether a run can begin behind positions whose keys and values are known.

        A mixer that is taken whole reads every position, in one run.
        """
        return self.causal and not any(isinstance(b.attention, Whole) for b in self.blocks)

    @cached_property
    def parts_whole(self) -> int:
        """Count the token mixers and MLPs that are taken whole."""
        parts = (part for block in self.blocks for part in (block.attention, block.mlp))
        return sum(isinstance(part, Whole) for part in parts)

    @cached_property
    def sources(self) -> int:
        """Count the senders that come from the embedding: `embed`, or `tok` and `pos`."""
        return 2 if self.graph.split_embedding else 1

    @typed
    def with_neurons(self, layers: Sequence[int]) -> LiftedModel:
        """Return the model with the hidden units of some layers' MLPs as senders of their own.

        An UnsupportedModel says which MLP's cannot be, as what it writes is no sum over them.
        """
        blocks, counts = list(self.blocks), [0] * len(self.blocks)
        for layer in layers:
            if not 0 <= layer < len(blocks):
                raise EdgewiseError(
                    f"there is no m{layer}; accepted: MLPs of layers 0 to {len(blocks) - 1}."
                )
            block = blocks[layer]
            if not isinstance(block.mlp, MLP) or block.mlp_post_norm or block.gate:
                raise UnsupportedModel(
                    f"the neurons of m{layer} cannot be told apart: what it writes is no sum over "
                    "hidden units, as it has experts, or is normalised, gated or taken whole; "
                    "accepted: MLPs whose last projection writes to the stream."
                )
            own = {one.name: getattr(block.mlp, one.name) for one in fields(block.mlp)}
            blocks[layer] = replace(block, mlp=Neurons(**own))
            counts[layer] = block.mlp.down.weight.shape[1]
        graph = replace(self.graph, neurons=tuple(counts))
        return replace(self, blocks=tuple(blocks), graph=graph) if layers else self

    @typed
    def embed(self, ids: Tensor, position_ids: Tensor) -> Tensor:
        """Return what the embedding senders write, [sources, B, T, D], for ids [B, T]."""
        token = self.embed_tokens(ids)
        if (table := self.positions) is not None:
            position = place(table[place(position_ids, table.device)], token.device)
        elif self.sources == 1:
            return token[None]
        else:
            position = torch.zeros_like(token)
        return torch.stack((token, position)) if self.sources == 2 else (token + position)[None]

    @typed
    def embed_tokens(self, ids: Tensor) -> Tensor:
        """Return the embeddings of tokens alone, without learned positions, [..., D]."""
        try:
            token = self.tokens[ids]
        except IndexError:  # floats, or beyond the vocabulary
            raise EdgewiseError(
                f"embed_tokens: `ids` are {short_value(ids)} of {ids.dtype}; accepted: whole "
                f"numbers from 0 to {len(self.tokens) - 1:,}."
            ) from None
        token = token if self.embed_scale == 1 else token * self.embed_scale
        token = normalise(self.embed_norm, token)
        return token if self.spread is None else self.spread(ids, token)

    @typed
    def give(self, ids: Tensor) -> tuple[Tensor, ...]:
        """Return what tokens give each layer past the stream, [..., P] each; () if nothing."""
        if self.per_layer is None:
            return ()
        return self.per_layer(ids, self.embed_tokens(ids)).unbind(-2)

    @typed
    def logits(self, x: Tensor) -> Tensor:
        """Map the stream at the `logits` port, [N, D], to logits, [N, V], where x lies."""
        if x.dim() < 1 or x.shape[-1] != self.d_model or not x.is_floating_point():
            raise EdgewiseError(
                f"logits: `x` is {short_value(x)} of {x.dtype}; accepted: the stream, [N, "
                f"{self.d_model}], as {self.dtype}."
            )
        normed = place(normalise(self.final_norm, x), self.unembed.weight.device)
        return self.scale_logits(place(self.unembed(normed), x.device))

    @typed
    def scale_logits(self, out: Tensor) -> Tensor:
        """Apply the scale and the soft cap that come behind the unembedding."""
        out = out if self.logit_scale == 1 else out * self.logit_scale
        if self.logit_softcap is not None:
            out = (out / self.logit_softcap).tanh() * self.logit_softcap
        return out
