"""The computation graph: which senders and ports a model has, and who can read whom.

A graph is only a shape. A mask over its edges is a bool matrix [ports, senders].
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np

from .bitsets import booleans, integers
from .calls.typed import require, short_value, typed, typed_late
from .errors import EdgewiseError, GraphMismatch
from .names import LETTERS, SPAN_FORM, Edge, Kind, Node, Port, is_span

HEADS, WHOLE, NONE = "heads", "whole", "none"
"""What mixes tokens in a layer: attention by head, one node `s{l}`, or nothing."""

MOST_CELLS = 10**9
"""Most places of a mask [ports, senders], a byte each: Llama-3.1-405B's has 0.8 billion."""


@typed
@dataclass(frozen=True)
class ComputationGraph:
    """A transformer's shape; senders, ports and edges follow from it.

    Args:
        layers: number of blocks.
        heads: query heads in each block.
        kv_heads: key/value heads in each block.
        parallel: attention and MLP of a block read the same stream.
        post_norm: a norm after attention stands between the heads and the stream.
        grouped_kv: one `<k>` and one `<v>` port for each key/value head.
        split_embedding: `tok` and `pos` in place of `embed`.
        experts: for each layer how many experts it has, 0 where it has a plain MLP; empty if no
            layer has experts. They are senders of their own and read one port, `m{l}`.
        shared_experts: layers with experts have a shared one too, another sender.
        mixers: for each layer what mixes tokens in it: `heads`, `whole` (one node, `s{l}`, in
            their place), or `none`; empty if all layers have heads.
        without_mlp: the layers that have no MLP, and so no `m{l}`.
        kv_sources: for each layer the layer before which its keys' and values' ports read the
            stream, itself or an earlier one; empty if all read it before their own.
        neurons: for each layer how many hidden units of its MLP are senders of their own, all that
            it has, or 0; empty if none. What else it writes, a bias, is one more, `m5.rest`.
        spans: names of spans of the prompts' positions, to one of which each position belongs;
            every port is then one for each span, `a5.h1<q>@end`. Empty: positions are not told
            apart.

    >>> graph = ComputationGraph(layers=12, heads=12)
    >>> graph.edge_count
    32491
    """

    layers: int
    heads: int
    kv_heads: int = 0
    parallel: bool = False
    post_norm: bool = False
    grouped_kv: bool = False
    split_embedding: bool = False
    experts: tuple[int, ...] = ()
    shared_experts: bool = False
    mixers: tuple[str, ...] = ()
    without_mlp: tuple[int, ...] = ()
    kv_sources: tuple[int, ...] = ()
    spans: tuple[str, ...] = ()
    neurons: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.kv_heads:
            object.__setattr__(self, "kv_heads", self.heads)
        object.__setattr__(self, "experts", tuple(self.experts) if any(self.experts) else ())
        usual = set(self.mixers) <= {HEADS}
        object.__setattr__(self, "mixers", () if usual else tuple(self.mixers))
        object.__setattr__(self, "without_mlp", tuple(self.without_mlp))
        sources = tuple(
            self.kv_sources
        )  # a file can state any number of layers: list no range of it
        own = len(sources) == self.layers and all(i == j for i, j in enumerate(sources))
        object.__setattr__(self, "kv_sources", () if own else sources)
        if self.mixers and HEADS not in self.mixers:
            if (self.heads, self.kv_heads) != (0, 0):
                raise GraphMismatch(
                    f"no layer of the graph has heads, but it states {self.heads}; accepted: 0."
                )
        elif self.layers < 1 or self.heads < 1 or self.heads % self.kv_heads:
            raise GraphMismatch(
                f"no graph has {self.layers} layers, {self.heads} heads and {self.kv_heads} "
                "key/value heads; accepted: at least one of each, heads a multiple of kv_heads."
            )
        self._check_parts()
        if self.experts and (len(self.experts) != self.layers or min(self.experts) < 0):
            raise GraphMismatch(
                f"no graph of {self.layers} layers has experts {list(self.experts)}; accepted: a "
                "number for each layer, 0 where it has none."
            )
        object.__setattr__(self, "neurons", tuple(self.neurons) if any(self.neurons) else ())
        if self.neurons and (
            len(self.neurons) != self.layers
            or min(self.neurons) < 0
            or any(n and not self._has_plain_mlp(i) for i, n in enumerate(self.neurons))
        ):
            raise GraphMismatch(
                f"no graph of {self.layers} layers has neurons {list(self.neurons)}; accepted: a "
                "number for each layer, 0 where it has experts, or no MLP."
            )
        object.__setattr__(self, "spans", tuple(self.spans))
        wrong = [name for name in self.spans if not is_span(name)]
        if wrong or len(set(self.spans)) < len(self.spans):
            raise GraphMismatch(
                f"no graph has the spans {list(self.spans)}; accepted: names of {SPAN_FORM}, each "
                "once."
            )
        if self.shared_experts and not self.experts:
            raise GraphMismatch("a graph without experts has no shared experts.")
        ports, senders = self.size
        if ports * senders > MOST_CELLS:
            raise GraphMismatch(
                f"a graph of {ports} ports and {senders} senders is larger than any this program "
                f"can hold; accepted: {MOST_CELLS} pairs of them."
            )

    def _check_parts(self) -> None:
        """Refuse lists of layers' parts that do not fit the number of layers, or each other."""
        known = {HEADS, WHOLE, NONE}
        if self.mixers and (len(self.mixers) != self.layers or set(self.mixers) - known):
            raise GraphMismatch(
                f"no graph of {self.layers} layers has mixers {list(self.mixers)}; accepted: one "
                f"of {HEADS}, {WHOLE} and {NONE} for each layer."
            )
        if list(self.without_mlp) != sorted({i for i in self.without_mlp if 0 <= i < self.layers}):
            raise GraphMismatch(
                f"no graph of {self.layers} layers lacks the MLPs of layers "
                f"{list(self.without_mlp)}; accepted: layers from 0 up, in order, each once."
            )
        sources = self.kv_sources
        shared = [(i, j) for i, j in enumerate(sources) if i != j]
        fits = len(sources) in (0, self.layers) and all(0 <= j < i for i, j in shared)
        if not fits or any(
            sources[j] != j or not (self.heads_of(i) and self.heads_of(j)) for i, j in shared
        ):
            raise GraphMismatch(
                f"no graph of {self.layers} layers has keys and values from layers "
                f"{list(sources)}; accepted: for each layer itself, or an earlier one that has "
                "its own; both with heads."
            )
        if both := [i for i in self.without_mlp if self.experts and self.experts[i]]:
            raise GraphMismatch(f"layer {both[0]} of the graph has experts, and no MLP.")

    @property
    def size(self) -> tuple[int, int]:
        """Count the ports and senders, a mask's shape, without listing them.

        >>> ComputationGraph(2, 2, 1, post_norm=True, experts=(0, 3), shared_experts=True).size
        (17, 12)
        >>> ComputationGraph(2, 2, mixers=("whole", "heads"), without_mlp=(0,)).size
        (9, 5)
        """
        attention = self.heads + 2 * (self.kv_heads if self.grouped_kv else self.heads)
        apart = self.mixers.count(HEADS) if self.mixers else self.layers
        whole, rest = self.mixers.count(WHOLE), self.layers - len(self.without_mlp)
        ports = apart * (attention + self.post_norm) + whole + rest + 1
        mlps = sum(n + self.shared_experts if n else 1 for n in self.experts) or self.layers
        mlps -= len(self.without_mlp)
        mlps += sum(self.neurons)  # and the rest in the MLP's place
        heads = apart * (self.heads + self.post_norm)
        senders = 1 + self.split_embedding + heads + whole + mlps
        return ports * self.positions, senders

    @property
    def positions(self) -> int:
        """Count the ports that stand for one of the model's: one for each span, or one.

        >>> ComputationGraph(1, 1, spans=("s2", "end")).positions
        2
        """
        return max(1, len(self.spans))

    @property
    def plain(self) -> ComputationGraph:
        """Return the model's graph, which tells neither positions nor neurons apart."""
        return replace(self, spans=(), neurons=()) if self.spans or self.neurons else self

    @property
    def layers_of_neurons(self) -> tuple[int, ...]:
        """List the layers whose MLPs' hidden units are senders of their own."""
        return tuple(layer for layer, number in enumerate(self.neurons) if number)

    def _has_plain_mlp(self, layer: int) -> bool:
        return layer not in self.without_mlp and not (self.experts and self.experts[layer])

    @typed
    def at_spans(self, spans: tuple[str, ...]) -> ComputationGraph:
        """Return the graph with a port for each of some spans; see `spans`.

        >>> graph = ComputationGraph(1, 1).at_spans(("s2", "end"))
        >>> [str(port) for port in graph.ports][-4:], graph.edge_count
        (['m0@s2', 'm0@end', 'logits@s2', 'logits@end'], 16)
        """
        return self if spans == self.spans else replace(self, spans=spans)

    @typed
    def source_of(self, port: Port) -> int | None:
        """Tell before which earlier layer a port reads the stream; None: before its own."""
        layer = port.node.layer
        if not self.kv_sources or layer is None or port.letter not in ("k", "v"):
            return None
        return self.kv_sources[layer] if self.kv_sources[layer] != layer else None

    @typed
    def mixer(self, layer: int) -> str:
        """Tell what mixes tokens in a layer: `heads`, `whole` or `none`."""
        return self.mixers[layer] if layer < len(self.mixers) else HEADS

    @typed
    def heads_of(self, layer: int) -> int:
        """Count the heads of a layer: 0 where it has another mixer, or none."""
        return self.heads if self.mixer(layer) == HEADS else 0

    @typed
    def has_post(self, layer: int) -> bool:
        """Tell whether a layer has the node `o{l}`."""
        return self.post_norm and self.mixer(layer) == HEADS

    @typed
    def has_mlp(self, layer: int) -> bool:
        """Tell whether a layer has the port `m{l}`."""
        return layer not in self.without_mlp

    # -- senders and ports ------------------------------------------------------------------

    @cached_property
    def senders(self) -> tuple[Node, ...]:
        """List the senders in topological order."""
        found = [Node(Kind.TOK), Node(Kind.POS)] if self.split_embedding else [Node(Kind.EMBED)]
        for layer in range(self.layers):
            found += self.mixer_nodes(layer)
            if self.has_post(layer):
                found.append(Node(Kind.POST, layer))
            found += self.mlp_nodes(layer)
        return tuple(found)

    @typed
    def mixer_nodes(self, layer: int) -> list[Node]:
        """List the senders that mix tokens in a layer: its heads, or its whole mixer, or none."""
        if self.mixer(layer) == WHOLE:
            return [Node(Kind.MIXER, layer)]
        return [Node(Kind.HEAD, layer, head) for head in range(self.heads_of(layer))]

    @typed
    def mlp_nodes(self, layer: int) -> list[Node]:
        """List what computes from a layer's port `m{l}`: its MLP, or its neurons, or experts."""
        if not self.has_mlp(layer):
            return []
        if self.neurons and self.neurons[layer]:
            units = [Node(Kind.NEURON, layer, unit) for unit in range(self.neurons[layer])]
            return [*units, Node(Kind.REST, layer)]
        if not self.experts or not self.experts[layer]:
            return [Node(Kind.MLP, layer)]
        found = [Node(Kind.EXPERT, layer, expert) for expert in range(self.experts[layer])]
        return [*found, Node(Kind.SHARED, layer)] if self.shared_experts else found

    @cached_property
    def mlp_columns(self) -> tuple[range, ...]:
        """Tell, for each layer, the columns of the senders that compute from its port `m{l}`."""
        found = []
        for layer in range(self.layers):
            first = self.first_heads[layer] + len(self.mixer_nodes(layer)) + self.has_post(layer)
            found.append(range(first, first + len(self.mlp_nodes(layer))))
        return tuple(found)

    @cached_property
    def ports(self) -> tuple[Port, ...]:
        """List the ports in topological order: per layer q, k, v of all heads, (o), m; logits.

        A whole mixer has `s` in the heads' place; what a layer has not is left out. Ports of
        several spans stand together.
        """
        found = []
        for layer in range(self.layers):
            for letter in LETTERS:
                found += [Port(node, letter) for node in self.attention_owners(layer, letter)]
            if self.mixer(layer) == WHOLE:
                found.append(Port(Node(Kind.MIXER, layer)))
            if self.has_post(layer):
                found.append(Port(Node(Kind.POST, layer)))
            if self.has_mlp(layer):
                found.append(Port(Node(Kind.MLP, layer)))
        found.append(Port(Node(Kind.LOGITS)))
        spans: tuple[str | None, ...] = self.spans or (None,)
        return tuple(replace(port, span=span) for port in found for span in spans)

    @typed
    def attention_owners(self, layer: int, letter: str) -> list[Node]:
        """List the owners of one layer's ports of one letter."""
        heads = self.heads_of(layer)
        if self.grouped_kv and letter != "q" and heads:
            return [Node(Kind.KV, layer, group) for group in range(self.kv_heads)]
        return [Node(Kind.HEAD, layer, head) for head in range(heads)]

    @cached_property
    def attention_rows(self) -> tuple[dict[str, tuple[int, ...]], ...]:
        """Tell, for each layer and letter, the row of the port that each query head reads.

        Layers without heads have no letters.
        """
        found = []
        for layer in range(self.layers):
            rows: dict[str, tuple[int, ...]] = {}
            for letter in LETTERS if self.heads_of(layer) else ():
                owners = self.attention_owners(layer, letter)
                first, share = self.port_index[Port(owners[0], letter)], self.heads // len(owners)
                rows[letter] = tuple(first + head // share for head in range(self.heads))
            found.append(rows)
        return tuple(found)

    @cached_property
    def first_heads(self) -> tuple[int, ...]:
        """Return the column of each layer's first head, or of what would stand behind it."""
        found, at = [], 1 + self.split_embedding
        for layer in range(self.layers):
            found.append(at)
            at += len(self.mixer_nodes(layer)) + self.has_post(layer) + len(self.mlp_nodes(layer))
        return tuple(found)

    @cached_property
    def part_rows(self) -> tuple[tuple[int, ...], ...]:
        """List, for each layer, the rows of its ports of whole parts: those of `s`, `o` and `m`."""
        kinds = (Kind.MIXER, Kind.POST, Kind.MLP)
        found: list[list[int]] = [[] for _ in range(self.layers)]
        for row, port in enumerate(self.ports):
            if port.node.kind in kinds and port.node.layer is not None:
                found[port.node.layer].append(row)
        return tuple(map(tuple, found))

    @cached_property
    def sender_index(self) -> dict[Node, int]:
        """Map each sender to its column."""
        return {node: i for i, node in enumerate(self.senders)}

    @cached_property
    def port_index(self) -> dict[Port, int]:
        """Map each port to its row."""
        return {port: i for i, port in enumerate(self.ports)}

    @cached_property
    def feed_bits(self) -> tuple[int, ...]:
        """Return the same as `feeds`, each port's senders as the bits of an integer."""
        return tuple(sum(1 << sender for sender in senders) for senders in self.feeds)

    @cached_property
    def feeds(self) -> tuple[tuple[int, ...], ...]:
        """List, for each port, the senders that compute from it (none for `logits`)."""
        share = self.heads // max(1, self.kv_heads)
        found: list[tuple[int, ...]] = []
        for port in self.ports:
            node = port.node
            if node.kind is Kind.LOGITS:
                found.append(())
            elif node.kind is Kind.KV:
                assert node.index is not None
                first = self.sender_index[Node(Kind.HEAD, node.layer, node.index * share)]
                found.append(tuple(range(first, first + share)))
            elif node.kind is Kind.MLP:
                assert node.layer is not None
                found.append(tuple(self.mlp_columns[node.layer]))
            else:
                found.append((self.sender_index[node],))
        return tuple(found)

    # -- edges ------------------------------------------------------------------------------

    @cached_property
    def reads(self) -> np.ndarray:
        """Return the bool matrix [ports, senders] of the edges that exist; read-only."""
        layers = np.array([-1 if node.layer is None else node.layer for node in self.senders])
        steps = np.array([_STEP.get(node.kind, 0) for node in self.senders])
        heads = np.array([node.kind is Kind.HEAD for node in self.senders])
        written, unread = layers * 3 + steps, heads & self.post_norm
        exist = np.zeros(self.size, dtype=bool)
        for row, port in enumerate(self.ports):
            kind, layer = port.node.kind, port.node.layer
            if kind is Kind.POST:
                exist[row] = heads & (layers == layer)
                continue
            if (source := self.source_of(port)) is not None:
                layer = source
            step = _STEP[Kind.MLP] if kind is Kind.MLP and not self.parallel else 0
            before = (self.layers if layer is None else layer) * 3 + step
            exist[row] = (written < before) & ~unread
        exist.setflags(write=False)
        return exist

    @cached_property
    def edge_count(self) -> int:
        """Count the edges."""
        return int(self.reads.sum())

    @typed_late
    def locate(self, edge: Edge | str) -> tuple[int, int]:
        """Find an edge's place in a mask, (port row, sender column), or raise a GraphMismatch."""
        edge = Edge.parse(edge) if isinstance(edge, str) else edge
        require("locate", "edge", edge, Edge, "an Edge or its name, as in m2->a5.h1<q>")
        row = self.port_index.get(edge.port)
        column = self.sender_index.get(edge.sender)
        if row is None or column is None:
            missing = f"port {edge.port}" if row is None else f"sender {edge.sender}"
            if row is not None and edge.sender.kind is Kind.MLP and self.experts:
                missing += " (where a layer has experts, they are its senders)"
            elif row is not None and edge.sender.kind is Kind.MLP and self.neurons:
                missing += " (where neurons are told apart, they are its senders)"
            missing += self._why_missing(edge.port.node if row is None else edge.sender)
            raise GraphMismatch(
                f"edge {edge}: the graph has no {missing}; it has {self.describe()}."
            )
        if not self.reads[row, column]:
            raise GraphMismatch(
                f"edge {edge} does not exist: {edge.sender} writes after {edge.port} reads"
                + (", or only through the layer's o node" if self.post_norm else "")
                + self._why_unread(edge.port)
                + "."
            )
        return row, column

    def _why_unread(self, port: Port) -> str:
        """Say, for a port that reads the stream before an earlier layer, before which."""
        if (source := self.source_of(port)) is None:
            return ""
        return f" (layer {port.node.layer} takes its keys and values from layer {source})"

    def _why_missing(self, node: Node) -> str:
        """Say, for a node that another kind of layer would have, what its layer has."""
        layer = node.layer
        if layer is None or layer >= self.layers:
            return ""
        if node.kind is Kind.MLP and not self.has_mlp(layer):
            return f" (layer {layer} has no MLP)"
        kind = {WHOLE: f"its token mixer is one node, s{layer}", NONE: "it mixes no tokens"}
        if node.kind in (Kind.HEAD, Kind.KV, Kind.POST) and self.mixer(layer) in kind:
            return f" (layer {layer} has no heads: {kind[self.mixer(layer)]})"
        if node.kind is Kind.MIXER and self.mixer(layer) == HEADS:
            return f" (layer {layer} has heads, a{layer}.h0 and so on)"
        return ""

    @typed
    def edge_at(self, row: int, column: int) -> Edge:
        """Name the edge at a place of a mask."""
        try:
            return Edge(self.senders[column], self.ports[row])
        except IndexError:
            rows, columns = self.size
            raise EdgewiseError(
                f"edge_at: `row` and `column` are {short_value(row)} and {short_value(column)}; "
                f"accepted: whole numbers below {rows} and {columns}."
            ) from None

    @typed
    def count_by_kind(self, mask: np.ndarray | None = None) -> dict[str, int]:
        """Count edges by the kind of port they end in (q, k, v, mixer, post, mlp, logits)."""
        if mask is not None and np.shape(mask) != self.size:
            raise GraphMismatch(
                f"count_by_kind: `mask` has shape {np.shape(mask)}; accepted: {self.size}."
            )
        per_port = (self.reads if mask is None else np.asarray(mask)).sum(axis=1)
        counts: Counter[str] = Counter()
        for port, number in zip(self.ports, per_port, strict=True):
            counts[port.kind] += int(number)
        return dict(counts)

    @typed
    def live(self, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find the ports, bool [P], and senders, bool [S], with a kept path to `logits`."""
        if np.shape(kept) != self.size:
            raise GraphMismatch(f"live: `kept` has shape {np.shape(kept)}; accepted: {self.size}.")
        senders, held = 0, integers(np.asarray(kept, dtype=bool))
        ports = np.zeros(len(self.ports), dtype=bool)
        for row in range(len(self.ports) - 1, -1, -1):
            feeds = self.feed_bits[row]
            if not feeds or senders & feeds:
                ports[row] = True
                senders |= held[row]
        return ports, booleans(senders, len(self.senders))

    # -- comparing shapes -------------------------------------------------------------------

    def describe(self) -> str:
        """Say the shape in one line."""
        words = [f"{self.layers} layers"]
        if self.heads:
            words += [f"{self.heads} heads", f"{self.kv_heads} key/value heads"]
        flags = ("parallel", "post_norm", "grouped_kv", "split_embedding")
        words += [name for name in flags if getattr(self, name)]
        if self.experts:
            shared = " and a shared one" if self.shared_experts else ""
            words.append(f"{_counts(self.experts)} experts{shared}")
        for kind, what in ((WHOLE, "token mixers taken whole"), (NONE, "no token mixer")):
            if layers := [i for i, mixer in enumerate(self.mixers) if mixer == kind]:
                words.append(f"{what} in {_layers(layers, self.layers)}")
        if self.spans:
            words.append(f"spans {', '.join(self.spans)}")
        for layer, number in enumerate(self.neurons):
            if number:
                words.append(f"{number:,} neurons of m{layer}")
        if self.without_mlp:
            words.append(f"no MLP in {_layers(self.without_mlp, self.layers)}")
        for source in sorted({j for i, j in enumerate(self.kv_sources) if i != j}):
            sharing = [i for i, j in enumerate(self.kv_sources) if j == source != i]
            which = _layers(sharing, self.layers)
            words.append(f"keys and values of layer {source} in {which}")
        return ", ".join(words)

    @typed
    def differences(self, other: ComputationGraph) -> list[str]:
        """List in words where two shapes differ; empty if equal."""
        return [
            f"{f.name} {getattr(self, f.name)} and {getattr(other, f.name)}"
            for f in fields(self)
            if getattr(self, f.name) != getattr(other, f.name)
        ]


_STEP = {
    Kind.HEAD: 0, Kind.MIXER: 0, Kind.POST: 1, Kind.MLP: 2, Kind.EXPERT: 2, Kind.SHARED: 2,
    Kind.NEURON: 2, Kind.REST: 2,
}  # fmt: skip
"""In which of the three steps of a layer a node writes."""


def _layers(some: Sequence[int], every: int) -> str:
    """Name some of the layers, runs of them by their ends.

    >>> _layers((0, 1), 2), _layers((0, 1, 2, 5), 6), _layers((3,), 6)
    ('all layers', 'layers 0-2, 5', 'layer 3')
    """
    if len(some) == every:
        return "all layers" if every > 1 else "layer 0"
    starts = [i for i in some if i - 1 not in some]
    ends = [i for i in some if i + 1 not in some]
    runs = [str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True)]
    return f"layer{'s' * (len(some) > 1)} {', '.join(runs)}"


def _counts(numbers: tuple[int, ...]) -> str:
    """Say numbers, one for each layer, in words.

    >>> _counts((8, 8)), _counts((0, 4, 4))
    ('8', '0, 4, 4')
    """
    return str(numbers[0]) if len(set(numbers)) == 1 else ", ".join(map(str, numbers))
