"""What a circuit's kept edges imply for running it: liveness of nodes and positions, and groups.

A node is computed only if it has a kept path to `logits`, and only at the positions where something
reads it: `logits` reads each example's answer position alone; a `<q>` port, an MLP and `o{l}` read
where their owner's output is read; `<k>` and `<v>` read every position. So a node is *narrow*
(computed at one position per example) or *wide* (at every position of the window).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...graphs.graph import ComputationGraph
from ...graphs.names import Kind


@dataclass(frozen=True)
class Group:
    """Live ports of one layer that keep the same edges, so that they hold the same stream.

    `kept`: bool [S]. `heads`: which heads read the stream, for each letter.
    """

    kept: np.ndarray
    rows: tuple[int, ...]
    heads: dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Rows:
    """Where the ports of one layer are: `attention` by letter, `others` (`o`, `m`)."""

    attention: dict[str, tuple[int, ...]]
    others: tuple[int, ...]


def rows_by_layer(graph: ComputationGraph) -> tuple[Rows, ...]:
    """List the rows of every layer's ports."""
    found = []
    for layer in range(graph.layers):
        own = [(i, p) for i, p in enumerate(graph.ports) if p.node.layer == layer]
        letters = {x: tuple(i for i, p in own if p.letter == x) for x in "qkv"}
        found.append(Rows(letters, tuple(i for i, p in own if p.letter is None)))
    return tuple(found)


@dataclass(frozen=True)
class Liveness:
    """Derive liveness and groups from a circuit's mask.

    Args:
        graph: the graph.
        rows: its ports by layer (`rows_by_layer`).
        kept: the mask, bool [ports, senders].
    """

    graph: ComputationGraph
    rows: tuple[Rows, ...]
    kept: np.ndarray

    @cached_property
    def _need(self) -> tuple[np.ndarray, np.ndarray]:
        """Return for ports and senders 0 (dead), 1 (narrow) or 2 (wide)."""
        graph = self.graph
        senders = np.zeros(len(graph.senders), dtype=np.int8)
        ports = np.zeros(len(graph.ports), dtype=np.int8)
        for row in range(len(ports) - 1, -1, -1):
            feeds = graph.feeds[row]
            level = int(senders[list(feeds)].max()) if feeds else 1
            if level and graph.ports[row].letter in ("k", "v"):
                level = 2
            ports[row] = level
            if level:
                np.maximum(senders, self.kept[row] * np.int8(level), out=senders)
        return ports, senders

    @cached_property
    def live_ports(self) -> np.ndarray:
        """Tell which ports have a kept path to `logits`, bool [P]."""
        live: np.ndarray = self._need[0] > 0
        return live

    @cached_property
    def live(self) -> np.ndarray:
        """Tell which senders have a kept path to `logits`, bool [S]."""
        live: np.ndarray = self._need[1] > 0
        return live

    @cached_property
    def wide_port(self) -> np.ndarray:
        """Tell which ports read every position, bool [P]."""
        wide: np.ndarray = self._need[0] > 1
        return wide

    @cached_property
    def wide(self) -> np.ndarray:
        """Tell which senders are read at every position, bool [S]."""
        wide: np.ndarray = self._need[1] > 1
        return wide

    @cached_property
    def touched(self) -> tuple[np.ndarray, np.ndarray]:
        """Tell which live ports and senders can differ from the full circuit's, bool [P], [S]."""
        ports = np.zeros(len(self.graph.ports), dtype=bool)
        senders = np.zeros(len(self.graph.senders), dtype=bool)
        cut = (self.kept != self.graph.reads).any(1)
        for row, feeds in enumerate(self.graph.feeds):
            if self.live_ports[row]:
                ports[row] = cut[row] or bool((self.kept[row] & senders).any())
                if ports[row] and feeds:
                    senders[list(feeds)] = True
        return ports, senders & self.live

    def groups(self, layer: int) -> tuple[Group, ...]:
        """List the groups of a layer's live attention ports."""
        return self._groups[layer]

    @cached_property
    def _groups(self) -> tuple[tuple[Group, ...], ...]:
        share = self.graph.heads // self.graph.kv_heads
        layers: list[tuple[Group, ...]] = []
        for rows in self.rows:
            first: dict[bytes, list[int]] = {}
            for letter in "qkv":
                for row in rows.attention[letter]:
                    if self.live_ports[row]:
                        first.setdefault(self.kept[row].tobytes(), []).append(row)
            groups = []
            for members in first.values():
                heads: dict[str, tuple[int, ...]] = {}
                for row in members:
                    port = self.graph.ports[row]
                    index = port.node.index or 0
                    of_kv = port.node.kind is Kind.KV
                    own = range(index * share, (index + 1) * share) if of_kv else (index,)
                    letter = port.letter or ""
                    heads[letter] = heads.get(letter, ()) + tuple(
                        h for h in own if self.live[self.head(layer=len(layers), head=h)]
                    )
                groups.append(Group(self.kept[members[0]], tuple(members), heads))
            layers.append(tuple(groups))
        return tuple(layers)

    def head(self, layer: int, head: int) -> int:
        """Return the column of a head's sender."""
        return self.graph.first_heads[layer] + head

    def classes(self, senders: Sequence[int]) -> list[tuple[int, ...]]:
        """Part senders by which live ports keep an edge from them; returns places in `senders`.

        What the senders of one class write can be added up at once.
        """
        columns = self.kept[self.live_ports]
        found: dict[bytes, list[int]] = {}
        for place, sender in enumerate(senders):
            found.setdefault(columns[:, sender].tobytes(), []).append(place)
        return [tuple(members) for members in found.values()]
