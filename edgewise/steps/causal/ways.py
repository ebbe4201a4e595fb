"""The routes of a way: from a sender, through the heads of roles, to the logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...graphs.graph import ComputationGraph
from ...graphs.names import Edge, Kind, Node, Port
from .rules import Way

if TYPE_CHECKING:
    from ...patching.heads.along import Route


@dataclass
class Roles:
    """The heads that have a role so far, and the ways by which they have it.

    >>> from ...graphs.graph import ComputationGraph
    >>> roles, head = Roles(ComputationGraph(layers=2, heads=1)), Node.parse("a1.h0")
    >>> roles.give("name mover", head, Way())
    >>> route = roles.route(Node.parse("a0.h0"), Way("name mover", "q"))
    >>> sorted(map(str, route.edges))
    ['a0.h0->a1.h0<q>', 'a1.h0->logits']
    """

    graph: ComputationGraph
    given: dict[str, dict[Node, list[Way]]] = field(default_factory=dict)

    def give(self, role: str, head: Node, way: Way) -> None:
        """Say that a head has a role, by a way."""
        self.given.setdefault(role, {}).setdefault(head, []).append(way)

    def heads(self, role: str) -> list[Node]:
        """List the heads of a role, in graph order."""
        found = self.given.get(role, {})
        return sorted(found, key=self.graph.sender_index.__getitem__)

    @property
    def receivers(self) -> Mapping[str, list[str]]:
        """Return the heads of each role by name."""
        return {role: [str(head) for head in self.heads(role)] for role in self.given}

    def route(self, start: Node, way: Way) -> Route | None:
        """Return the route from a sender along a way; None if no edge leads there."""
        from ...patching.heads.along import Route

        edges = self._edges(start, way, start)
        return Route(start, frozenset(edges)) if edges else None

    def _edges(self, sender: Node, way: Way, start: Node) -> set[Edge]:
        if way.through is None:
            end = Edge(sender, Port(Node(Kind.LOGITS)))
            return {end} if self._leads(end) else set()
        found: set[Edge] = set()
        for head, onward in self.given.get(way.through, {}).items():
            into = {Edge(sender, port) for port in self._ports(head, way.letters)}
            into = {edge for edge in into if self._leads(edge)}
            behind = [self._edges(head, one, start) for one in onward if head != start]
            if into and any(behind):
                found |= into.union(*behind)
        return found

    def _ports(self, head: Node, letters: Sequence[str]) -> list[Port]:
        assert head.layer is not None and head.index is not None
        rows = self.graph.attention_rows[head.layer]
        return [self.graph.ports[rows[letter][head.index]] for letter in letters]

    def _leads(self, edge: Edge) -> bool:
        row, column = self.graph.port_index[edge.port], self.graph.sender_index[edge.sender]
        return bool(self.graph.reads[row, column])
