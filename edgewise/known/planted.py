"""Planted circuits: models in which a chosen set of edges carries the signal and no other does.

The model is an ordinary GPT-2 or Llama; only its weights are made.

1. One coordinate of the stream (two of opposite sign for LayerNorm) holds a large constant C, which
   the token embedding writes. Norms divide by it, and their weights multiply it back, so a norm
   changes x by no more than a share |x|²/C².
2. The embedding and every other sender write into coordinates of their own.
3. A port reads the coordinates of its chosen senders through random weights, and those of all
   others through `leak` times as large ones.
4. Each sender of a kept edge is scaled, from the first layer on, to write values of variance 1 on
   random tokens; senders that no kept edge leaves write nothing, or with a variance of leak².

So every kept edge changes the logits when it is ablated, and with leak 0 no other does, beyond
rounding and the share |x|²/C². Ablate with values of other prompts or with means: `zero` takes the
constant away with the embedding, on which every norm rests.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..graphs.calls.typed import typed
from ..graphs.circuit import Circuit
from ..graphs.errors import EdgewiseError
from ..graphs.names import Kind, Node, Port
from .architectures import BUILDERS, Gpt2, Llama
from .shapes import OWN, PlantedShape

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

CONSTANT = 1e3
"""C: larger leaks less through norms, and costs float32 its digits."""

SHARP = 1.5
"""Standard deviation of an attention score: enough to tell positions apart."""


@typed
@dataclass(frozen=True, eq=False)
class PlantedModel:
    """A model and the circuit that was planted in it."""

    model: Any = field(repr=False)
    circuit: Circuit
    shape: PlantedShape
    seed: int
    leak: float


@typed
def plant(
    shape: PlantedShape | None = None,
    circuit: Circuit | None = None,
    *,
    seed: int = 0,
    leak: float = 0.0,
) -> PlantedModel:
    """Make a model in which the edges of a circuit carry the signal, and no other edge does.

    Args:
        shape: of which architecture and size.
        circuit: on the shape's graph; default: one that `random_circuit` draws with the seed.
        seed: decides the weights.
        leak: how strongly all other edges are read, as a share of the planted ones.

    Raises:
        EdgewiseError: the circuit cannot be planted (see `require_plantable`); a leak below 0 or
            from 1 up.

    >>> planted = plant(PlantedShape(layers=2, heads=2), seed=1)
    >>> planted.circuit == planted.circuit.prune_dangling()
    True
    """
    import torch

    shape = shape or PlantedShape()
    if not 0 <= leak < 1:
        raise EdgewiseError(f"the leak is {leak}; accepted: from 0 to below 1.")
    circuit = random_circuit(shape, seed) if circuit is None else circuit
    require_plantable(circuit, shape)
    draw = torch.Generator().manual_seed(seed)
    build = BUILDERS[shape.architecture](shape)
    _Planting(build, circuit, leak, draw).run()
    return PlantedModel(build.model.float().eval(), circuit, shape, seed, leak)


@typed
def random_circuit(shape: PlantedShape, seed: int = 0, nodes: float = 0.5) -> Circuit:
    """Draw a circuit that can be planted: a share of the nodes, with one to three senders a port.

    >>> len(random_circuit(PlantedShape(layers=3, heads=4), seed=2)) > 4
    True
    """
    draw, graph = np.random.default_rng(seed), shape.graph
    candidates = [node for node in graph.senders if node.layer is not None]
    chosen = draw.permutation(len(candidates))[: max(1, round(nodes * len(candidates)))]
    there = {candidates[i] for i in chosen} | {graph.senders[0]}
    kept = np.zeros_like(graph.reads)

    def feed(ports: list[Port]) -> None:
        row = graph.port_index[ports[0]]
        able = [i for i, u in enumerate(graph.senders) if graph.reads[row, i] and u in there]
        some = draw.choice(able, min(len(able), int(draw.integers(1, 4))), replace=False)
        for port in ports:
            kept[graph.port_index[port], some] = True

    group = graph.heads // graph.kv_heads
    for layer in range(graph.layers):
        for first in range(0, graph.heads, group):
            heads = [Node(Kind.HEAD, layer, first + i) for i in range(group)]
            heads = [head for head in heads if head in there]
            if heads:
                feed([Port(head, "v") for head in heads])
                if draw.random() < 0.5:
                    feed([Port(head, "k") for head in heads])
                    for head in heads:
                        feed([Port(head, "q")])
        if Node(Kind.MLP, layer) in there:
            feed([Port(Node(Kind.MLP, layer))])
    logits = graph.port_index[Port(Node(Kind.LOGITS))]
    unread = [i for i, u in enumerate(graph.senders) if u in there and not kept[:, i].any()]
    kept[logits, unread] = True
    return Circuit(graph, kept)


@typed
def require_plantable(circuit: Circuit, shape: PlantedShape) -> None:
    """Refuse a circuit that no weights can give: every kept edge must have an effect.

    Every edge must lie on a path from the embedding to the logits; a head needs senders into its
    values, and into both queries and keys or neither, as a softmax feels neither alone; heads that
    share keys and values must read the same.
    """
    if unequal := circuit.graph.differences(shape.graph):
        raise EdgewiseError(
            f"the circuit is not on the graph of the model to make: they differ in "
            f"{'; '.join(unequal)} (circuit and model)."
        )
    if not len(circuit):
        raise EdgewiseError(
            "the circuit has no edge; accepted: one or more, such as embed->logits."
        )
    if dangling := sorted(str(edge) for edge in (circuit - circuit.prune_dangling()).edges):
        raise EdgewiseError(
            f"{dangling[0]} lies on no path from the embedding to the logits, so it can have no "
            f"effect ({len(dangling)} such); accepted: circuits in which every edge does."
        )
    into = {str(port): row for port, row in zip(circuit.graph.ports, circuit.kept, strict=True)}
    for node in circuit.nodes:
        if node.kind is not Kind.HEAD:
            continue
        queries, keys, values = (bool(into[f"{node}<{x}>"].any()) for x in "qkv")
        if not values or queries != keys:
            raise EdgewiseError(
                f"{node} reads {'' if values else 'no values, '}"
                f"{'queries' if queries else 'no queries'} and {'keys' if keys else 'no keys'}; "
                "accepted: heads that read values, and both queries and keys or neither."
            )
    for rows in _groups(circuit):
        first = rows[0]
        for other in rows[1:]:
            if (circuit.kept[first] != circuit.kept[other]).any():
                ports = circuit.graph.ports
                raise EdgewiseError(
                    f"{ports[first]} and {ports[other]} are one tensor in the model and read other "
                    "senders; accepted: the same for heads that share a key/value head."
                )


def _groups(circuit: Circuit) -> Iterator[list[int]]:
    """Yield the rows of the circuit's ports that are one tensor in the model."""
    graph = circuit.graph
    group = graph.heads // graph.kv_heads
    there = set(circuit.nodes)
    for layer in range(graph.layers):
        for first in range(0, graph.heads, group):
            heads = [Node(Kind.HEAD, layer, first + i) for i in range(group)]
            for letter in "kv":
                rows = [graph.port_index[Port(head, letter)] for head in heads if head in there]
                if rows:
                    yield rows


# -- weights --------------------------------------------------------------------------------------


@dataclass
class _Planting:
    """Fill in the weights of a model of zeros."""

    build: Gpt2 | Llama
    circuit: Circuit
    leak: float
    draw: torch.Generator

    def run(self) -> None:
        """Write the constant, the embedding, what ports read, and scale what senders write."""
        import torch

        with torch.no_grad():
            self._constant()
            for row in range(len(self.circuit.graph.ports)):
                self._read(row)
            self._write()

    def coordinates(self, column: int) -> slice:
        """Return which coordinates of the stream a sender writes."""
        first = len(self.build.constants)
        if column == 0:
            return slice(first, first + 2 * OWN)
        return slice(first + OWN * (column + 1), first + OWN * (column + 2))

    def _gauss(self, *size: int) -> Tensor:
        import torch

        return torch.randn(*size, generator=self.draw, dtype=torch.float64)

    def _constant(self) -> None:
        """Write C with every token, undo it in the norms, and give each token its own values.

        LayerNorm takes the mean away, so values sum to 0 over a sender's coordinates.
        """
        build, width = self.build, self.build.shape.d_model
        signs = build.constants
        embedding = build.embedding
        own = self.coordinates(0)
        embedding[:, own] = _centred(self._gauss(len(embedding), own.stop - own.start))
        for place, sign in enumerate(signs):
            embedding[:, place] = sign * CONSTANT
        for norm in build.norms():
            norm.fill_(CONSTANT * math.sqrt(len(signs) / width))

    def _read(self, row: int) -> None:
        """Give a port random weights on its senders' coordinates, and leaks on those of others."""
        graph, kept = self.circuit.graph, self.circuit.kept[row]
        port, readable = graph.ports[row], np.flatnonzero(graph.reads[row])
        sharp = SHARP if port.letter in ("q", "k") else 1.0
        if port.node not in set(self.circuit.nodes) and not self.leak:
            return
        for weight in self.build.reading(port):
            if bool(weight.any()):
                continue  # a key/value head that an earlier port has filled in
            scale = math.sqrt(sharp / (OWN * max(1, kept.sum())))
            for column in readable:
                share = 1.0 if kept[column] else self.leak
                own = self.coordinates(int(column))
                if share:
                    weight[:, own] = share * scale * self._gauss(len(weight), own.stop - own.start)

    def _write(self) -> None:
        """Draw what senders write, and scale it while the model runs on random tokens."""
        import torch

        graph = self.circuit.graph
        used = np.asarray(self.circuit.kept.any(axis=0))
        hooks = []
        for layer in range(graph.layers):
            (heads, to_heads), (mlp, to_mlp) = self.build.writing(layer)
            width = self.build.head_width
            nodes = [graph.sender_index[Node(Kind.HEAD, layer, i)] for i in range(graph.heads)]
            parts = [slice(i * width, (i + 1) * width) for i in range(graph.heads)]
            last = graph.sender_index[Node(Kind.MLP, layer)]
            hooks.append(self._scaled(heads, to_heads, nodes, parts, used))
            hooks.append(self._scaled(mlp, to_mlp, [last], [slice(None)], used))
        tokens = torch.randint(
            self.build.shape.vocabulary, (32, min(12, self.build.shape.positions)),
            generator=self.draw,
        )  # fmt: skip
        try:
            self.build.model(input_ids=tokens, use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()

    def _scaled(
        self,
        module: nn.Module,
        weight: Tensor,
        columns: list[int],
        parts: list[slice],
        used: np.ndarray,
    ) -> Any:
        """Have a projection's weights drawn and scaled right before it is first run."""

        def draw(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            inner = given[0].flatten(0, -2)
            for column, part in zip(columns, parts, strict=True):
                size = 1.0 if used[column] else self.leak
                own = self.coordinates(column)
                if not size or not bool(inner[:, part].any()):
                    continue
                drawn = _centred(self._gauss(inner[:, part].shape[1], own.stop - own.start))
                spread = (inner[:, part] @ drawn).std()
                weight[own, part] = drawn.T * (size / spread)

        return module.register_forward_pre_hook(draw)


def _centred(values: Tensor) -> Tensor:
    """Take the mean of the last dimension away; what is left has variance 1."""
    count = values.shape[-1]
    return (values - values.mean(-1, keepdim=True)) * math.sqrt(count / (count - 1))
