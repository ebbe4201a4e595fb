"""Layers that read more than one stream: everything that passes between layers, side by side.

Such a layer is one node that runs the model's own code, and the stream that it reads and writes has
a part for each thing that the original hands on:

* the streams themselves, `count` of them, which layers mix (alternating updates);
* for each layer the features that the tokens give it past the streams (embeddings per layer): only
  the embedding writes them, and only that layer reads them; or those that tokens give all layers
  (in some models layers read the embedding beside the stream);
* the keys and values that some layers make for later ones, which have none of their own: only the
  layer that makes them writes them, and later layers of its kind read them.

So every edge carries what its sender gives to its port, and the sum at a port is all that the
layer's code is given of the tokens.

Shape letters: N any leading axes, B examples, T positions, D d_model, S all features side by side,
G key/value heads, K d_head, P features that a layer is given past the streams.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, functional

from ...errors import UnsupportedModel
from ..devices import place
from ..mlp import Linear
from ..norms import Norm
from ..whole import Whole, constant_function
from .observing import OwnCalls

PER_LAYER = ("hidden_states", "per_layer_input", "shared_kv_states")
"""What Gemma's code calls the streams, what the tokens give a layer past them, and kept keys."""

SMALLEST = 1e-5
"""Least mean square by which a projected stream is divided, as in the models' code."""


@dataclass(frozen=True)
class Packing:
    """Where each part stands in the wide stream.

    `count` streams of `width` features; `inputs`: P, for each of `layers`, or, if that is 1, for
    all layers together; `stored`: the layers whose keys and values later ones read, `kept` features
    each, 2·G·K.
    """

    count: int
    width: int
    inputs: int
    layers: int
    stored: tuple[int, ...] = ()
    kept: int = 0

    @property
    def streams(self) -> int:
        """Count the features of the streams, which stand first."""
        return self.count * self.width

    @property
    def embedded(self) -> int:
        """Count the features that the embedding writes: all but keys and values."""
        return self.streams + self.layers * self.inputs

    @property
    def size(self) -> int:
        """Count all features, S."""
        return self.embedded + len(self.stored) * self.kept

    def given(self, layer: int) -> slice:
        """Tell where stands what the tokens give one layer past the streams."""
        start = self.streams + (layer if self.layers > 1 else 0) * self.inputs
        return slice(start, start + self.inputs)

    def made(self, layer: int) -> slice:
        """Tell where the keys and values stand that one layer makes for later ones."""
        start = self.embedded + self.stored.index(layer) * self.kept
        return slice(start, start + self.kept)


@dataclass(frozen=True)
class PackedLayer(Whole):
    """A whole decoder layer as a node: what its own code adds to the wide stream that it reads.

    `kind`: the layer's, by which the code keeps keys and values. `source`: the layer whose keys and
    values it reads, if it has none. `groups`: G. `given`: the names of the inputs of the layer's
    code by which the streams are given to it, what tokens give it, and, if any, keys and values.
    """

    packing: Packing = field(default_factory=lambda: Packing(1, 0, 0, 0))
    layer: int = 0
    kind: str = ""
    source: int | None = None
    groups: int = 1
    given: tuple[str, ...] = PER_LAYER

    @staticmethod
    def calls_of(model: Module, names: Sequence[str], given: tuple[str, ...]) -> OwnCalls:
        """Return how a model calls some layers; refuse what follows the length of prompts."""
        kinds = [getattr(module, "rope_type", "") for module in model.modules()]
        if any(kind in str(kinds) for kind in ("dynamic", "longrope")):
            raise UnsupportedModel(
                "the model's rotary frequencies follow the length of each prompt, so that no layer "
                "can be taken whole."
            )
        return OwnCalls(model, names, given)

    def _run(self, x: Tensor, context: Any) -> Tensor:
        """Map the wide stream [n, T, S] to what the layer adds to it, same shape."""
        packing, (part,) = self.packing, self.parts
        read = x.to(self.dtype)
        state = read[..., : packing.streams].unflatten(-1, (packing.count, packing.width))
        alone = packing.count == 1
        state = state[..., 0, :] if alone else state.movedim(-2, 0)
        shared: dict[str | int, tuple[Tensor, Tensor]] = {}
        if self.source is not None:
            keys, values = read[..., packing.made(self.source)].chunk(2, -1)
            shared[self.kind] = self._by_head(keys), self._by_head(values)
            shared[self.source] = shared[self.kind]  # so older code keeps them
        assert self.calls is not None
        call = self.calls.of(part.name, context, read.dtype)
        inputs = (read[..., packing.given(self.layer)], shared)
        given = dict(zip(self.given[1:], inputs, strict=False))
        new: Tensor = call(constant_function(part.module), state, **given)
        parts = [new - state if alone else (new - state).movedim(0, -2).flatten(-2)]
        parts.append(read.new_zeros(*read.shape[:-1], packing.size - packing.streams))
        out = torch.cat(parts, -1)
        if self.layer in packing.stored:
            made = shared[self.kind if self.kind in shared else self.layer]
            kept = torch.cat([one.transpose(1, 2).flatten(-2) for one in made], -1)
            at = packing.made(self.layer)
            out = torch.cat((out[..., : at.start], kept, out[..., at.stop :]), -1)
        return out.type_as(x)

    def _by_head(self, x: Tensor) -> Tensor:
        """Part keys or values [n, T, G·K] by head, [n, G, T, K]."""
        parted: Tensor = x.unflatten(-1, (self.groups, -1))
        return parted.transpose(1, 2)


@dataclass(frozen=True)
class PerLayer:
    """What the tokens give each layer past the stream: of a table of its own, and of the embedding.

    It is (norm(projection · e · `scale`) + table[token] · `table_scale`) · `factor`; a token that
    the table does not have takes its first row. table: [V', layers·P].
    """

    table: Tensor
    table_scale: float
    projection: Linear
    scale: float
    norm: Norm
    factor: float
    layers: int

    @property
    def width(self) -> int:
        """Count the features that a layer is given, P."""
        return self.table.shape[1] // self.layers

    def __call__(self, ids: Tensor, embedded: Tensor) -> Tensor:
        """Return what layers are given of tokens [N] with embeddings [N, D], [N, layers, P]."""
        known = torch.where((ids >= 0) & (ids < len(self.table)), ids, 0)
        own = functional.embedding(place(known, self.table.device), self.table)
        own = place(own * self.table_scale, embedded.device).unflatten(-1, (self.layers, -1))
        read = place(embedded, self.projection.weight.device)
        projected = place(self.projection(read) * self.scale, embedded.device)
        projected = projected.unflatten(-1, (self.layers, -1))
        given: Tensor = (self.norm(projected) + own) * self.factor
        return given


@dataclass(frozen=True)
class Spread:
    """What the embedding writes to a wide stream: each stream's first state, and layers' inputs.

    The first stream begins with the token's embedding, each other with a projection of it that is
    scaled to the same size. Where no table gives layers their inputs, they are the embedding again.
    """

    packing: Packing
    projections: tuple[Linear, ...] = ()
    per_layer: PerLayer | None = None

    def __call__(self, ids: Tensor, embedded: Tensor) -> Tensor:
        """Return what is written of tokens [N] with embeddings [N, D], [N, S]."""
        size = _size(embedded)
        states = [embedded, *(_resized(one(embedded), size) for one in self.projections)]
        given = embedded if self.per_layer is None else self.per_layer(ids, embedded).flatten(-2)
        written = torch.cat((*states, given), -1)
        return functional.pad(written, (0, self.packing.size - self.packing.embedded))


@dataclass(frozen=True)
class Gathered:
    """The last norm of a wide stream: of the mean of its streams, behind projections.

    Each stream but the first is projected and scaled to the first one's size.
    """

    packing: Packing
    projections: tuple[Linear, ...]
    norm: Norm

    def __call__(self, x: Tensor) -> Tensor:
        """Return the normalised mean of the streams in x [N, S], [N, D]."""
        return self.norm(self._mean(x, x)).to(x.dtype)

    def frozen(self, at: Tensor, x: Tensor) -> tuple[Norm, Tensor, Tensor]:
        """Return the norm, and the means of `at` and of its part x, with factors as of `at`."""
        return self.norm, self._mean(at, at), self._mean(at, x)

    def _mean(self, at: Tensor, x: Tensor) -> Tensor:
        """Average the streams in x [N, S], scaled as those in `at` are."""
        first, *others = self._streams(at)
        mine, *rest = self._streams(x)
        size, parts = _size(first), [mine]
        for projection, whole, part in zip(self.projections, others, rest, strict=True):
            wide = replace(projection, weight=projection.weight.to(x.dtype))
            factor = size / _least(wide(whole.to(x.dtype)))
            parts.append(wide(part) * factor)
        return torch.stack(parts).mean(0)

    def _streams(self, x: Tensor) -> list[Tensor]:
        width = self.packing.width
        return [*x[..., : self.packing.streams].split(width, -1)]


def _size(x: Tensor) -> Tensor:
    """Return the root of the mean square of features, [N, 1]."""
    return x.square().mean(-1, keepdim=True).sqrt()


def _least(x: Tensor) -> Tensor:
    """Return the same, at least that of `SMALLEST`."""
    return x.square().mean(-1, keepdim=True).clamp(min=SMALLEST).sqrt()


def _resized(x: Tensor, size: Tensor) -> Tensor:
    """Scale features to a size, [N, 1]."""
    return x * size / _least(x)
