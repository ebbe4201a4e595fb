"""What a circuit's kept edges imply for running it: liveness of nodes and positions, and groups.

A node is computed only if it has a kept path to `logits`, and only at the positions where something
reads it: `logits` reads each example's answer position alone; a `<q>` port, an MLP and `o{l}` read
where their owner's output is read; `<k>`, `<v>` and `s{l}` read every position. So a node is
*narrow* (computed at one position per example) or *wide* (at every position of the window). Where
`logits` reads several positions of a run, for answers of several tokens, every node is wide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...graphs.graph import ComputationGraph
from ...graphs.names import Kind

READS_ALL = ("k", "v", Kind.MIXER.value)
"""Kinds of ports whose owner, to know one position, reads every position."""


@dataclass(frozen=True)
class Group:
    """Live ports of one layer that keep the same edges, `kept` [S], and so hold one stream.

    So do not a query's and a key's where keys read the stream before an earlier layer.
    """

    kept: np.ndarray
    rows: list[int]
    heads: dict[str, list[int]]


class Liveness:
    """Liveness and groups of a circuit, from its mask, bool [ports, senders].

    `live_ports`, `live`: bool [P], [S], which have a kept path to `logits`. `wide_port`, `wide`:
    which of them are read at every position. `others`: by layer, the rows of `s`, `o` and `m`.
    """

    def __init__(self, graph: ComputationGraph, kept: np.ndarray, *, wide: bool = False) -> None:
        self.graph, self.kept = graph, kept
        self.others = graph.part_rows
        senders = np.zeros(len(graph.senders), dtype=np.int8)  # 0: dead, 1: narrow, 2: wide
        ports = np.zeros(len(graph.ports), dtype=np.int8)
        for row in range(len(ports) - 1, -1, -1):
            feeds = graph.feeds[row]
            level = int(senders[list(feeds)].max()) if feeds else 1 + wide
            if level and graph.ports[row].kind in READS_ALL:
                level = 2
            ports[row] = level
            if level:
                np.maximum(senders, kept[row] * np.int8(level), out=senders)
        self.live_ports, self.live = ports > 0, senders > 0
        self.wide_port, self.wide = ports > 1, senders > 1

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

    @cached_property
    def groups(self) -> list[list[Group]]:
        """Part the live attention ports of each layer into groups."""
        layers: list[list[Group]] = []
        for layer, by_letter in enumerate(self.graph.attention_rows):
            found: dict[object, Group] = {}
            for letter, rows in by_letter.items():
                for head, row in enumerate(rows):
                    if self.live_ports[row]:
                        new = Group(self.kept[row], [], {})
                        source = self.graph.source_of(self.graph.ports[row])
                        group = found.setdefault((source, self.kept[row].tobytes()), new)
                        if row not in group.rows[-1:]:
                            group.rows.append(row)
                        if self.live[self.head(layer, head)]:
                            group.heads.setdefault(letter, []).append(head)
            layers.append(list(found.values()))
        return layers

    def head(self, layer: int, head: int) -> int:
        """Return the column of a head's sender."""
        return self.graph.first_heads[layer] + head

    def classes(self, senders: Sequence[int]) -> list[list[int]]:
        """Part senders, as indices, by which live ports keep an edge from them."""
        columns = self.kept[self.live_ports]
        found: dict[bytes, list[int]] = {}
        for i, sender in enumerate(senders):
            found.setdefault(columns[:, sender].tobytes(), []).append(i)
        return list(found.values())
