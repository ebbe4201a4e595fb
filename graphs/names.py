"""Names of nodes, ports and edges: text is parsed here, once, and printed by `str`.

| name | meaning |
| --- | --- |
| `embed`, `tok`, `pos` | what the embedding writes (whole, or its two parts) |
| `a5.h1` | head 1 of layer 5 |
| `a5.kv0` | key/value head 0 of layer 5 (graphs with grouped key/values) |
| `s5` | token mixer of layer 5 taken whole, where it is no attention that is read by head |
| `o5` | post-attention norm of layer 5 (models that have one) |
| `m5` | MLP of layer 5; where the layer has experts, only a port: what its router and they read |
| `m5.n7`, `m5.rest` | hidden unit 7 of layer 5's MLP, and what else it writes, where asked for |
| `m5.e2`, `m5.shared` | expert 2, and the shared expert, of layer 5: what each writes |
| `logits` | the stream before the final norm |
| `a5.h1<q>` | a port: the query input of that head |
| `a5.h1<q>@end` | the same where the prompt's positions are of the span `end` alone |
| `m2->a5.h1<q>` | an edge, from a sender to a port |
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from functools import cache

from .calls.typed import require, typed, typed_late
from .errors import NameSyntaxError


class Kind(str, Enum):
    """What a node is."""

    EMBED = "embed"
    TOK = "tok"
    POS = "pos"
    HEAD = "head"
    KV = "kv"
    MIXER = "mixer"
    POST = "post"
    MLP = "mlp"
    EXPERT = "expert"
    SHARED = "shared"
    NEURON = "neuron"
    REST = "rest"
    LOGITS = "logits"


KIND_WORDS = {
    "q": "query", "k": "key", "v": "value", "mixer": "token mixer",
    "post": "post-attention norm", "mlp": "MLP", "logits": "logits",
    "embed": "embedding", "tok": "token embedding", "pos": "position embedding",
    "head": "attention head", "kv": "key/value head", "expert": "expert", "shared": "shared expert",
    "neuron": "neuron", "rest": "rest of an MLP",
}  # fmt: skip
"""Words for the kinds of edges (by the port they end in) and of nodes."""

LETTERS = ("q", "k", "v")
"""The inputs of an attention head, in graph order."""

_FORMS = {
    Kind.HEAD: "a{}.h{}",
    Kind.KV: "a{}.kv{}",
    Kind.MIXER: "s{}",
    Kind.POST: "o{}",
    Kind.MLP: "m{}",
    Kind.EXPERT: "m{}.e{}",
    Kind.SHARED: "m{}.shared",
    Kind.NEURON: "m{}.n{}",
    Kind.REST: "m{}.rest",
}
"""Names of nodes that a layer has: with the layer, and the index where there are several."""

_PATTERNS = {
    kind: re.compile(form.replace(".", r"\.").replace("{}", r"(\d{1,9})"))
    for kind, form in _FORMS.items()
}
_PORT = re.compile(r"(?P<node>[^<>@]+?)(?:<(?P<letter>[^<>@]*)>)?(?:@(?P<span>.*))?")
_SPAN = re.compile(r"[A-Za-z0-9_.+-]{1,40}")
SPAN_FORM = "letters, digits, '_', '.', '+' and '-', at most 40"
"""What the name of a span is made of, in words."""

_BARE = ("embed", "tok", "pos", "logits")
_NODE_FORMS = (
    "embed, tok, pos, logits, a{layer}.h{head}, a{layer}.kv{group}, s{layer}, o{layer}, "
    "m{layer}, m{layer}.e{expert}, m{layer}.shared, m{layer}.n{unit}, m{layer}.rest"
)


def is_span(name: str) -> bool:
    """Tell whether a text can name a span.

    >>> is_span("s2"), is_span("S+1"), is_span("a b")
    (True, True, False)
    """
    return _SPAN.fullmatch(name) is not None


def _short(thing: Node | Port | Edge) -> str:
    """Show a name as people write it, in lists and notebooks too."""
    return f"{type(thing).__name__}({str(thing)!r})"


@typed_late
@dataclass(frozen=True, slots=True)
class Node:
    """One computation of the model, by its name.

    >>> str(Node.parse("a5.h1")), Node.parse("m3").layer
    ('a5.h1', 3)
    """

    kind: Kind
    layer: int | None = None
    index: int | None = None
    __repr__ = _short

    def __post_init__(self) -> None:
        require("Node", "kind", self.kind, Kind, "a Kind, such as Kind.HEAD")
        for name in ("layer", "index"):
            number: object = getattr(self, name)
            if number is not None and type(number) is not int:
                require("Node", name, number, (), "a whole number or None")

    @staticmethod
    @typed
    @cache
    def parse(text: str) -> Node:
        """Read a node's name; a NameSyntaxError lists the forms of this module's table."""
        name = text.strip()
        if name in _BARE:
            return Node(Kind(name))
        for kind, pattern in _PATTERNS.items():
            match = pattern.fullmatch(name)
            if match is not None:
                return Node(kind, *map(int, match.groups()))
        raise NameSyntaxError(f"'{text}' is not a node's name; accepted: {_NODE_FORMS}.")

    def __str__(self) -> str:
        form = _FORMS.get(self.kind)
        return self.kind.value if form is None else form.format(self.layer, self.index)


@typed_late
@dataclass(frozen=True, slots=True)
class Port:
    """One input that reads the residual stream, by its name; `letter`: q, k or v of attention.

    `span`: at which of the prompt's positions, by the name of their span; None: at all.

    >>> port = Port.parse("a5.h1<q>@end")
    >>> str(port.node), port.letter, port.span
    ('a5.h1', 'q', 'end')
    """

    node: Node
    letter: str | None = None
    span: str | None = None
    __repr__ = _short

    def __post_init__(self) -> None:
        require("Port", "node", self.node, Node, "a Node")
        require("Port", "letter", self.letter, str | None, "q, k, v or None")
        require("Port", "span", self.span, str | None, "the name of a span or None")

    @staticmethod
    @typed
    @cache
    def parse(text: str) -> Port:
        """Read a port's name; a NameSyntaxError says what is accepted."""
        match = _PORT.fullmatch(text.strip())
        if match is None:
            raise NameSyntaxError(f"'{text}' is not a port's name; examples: a5.h1<q>, m7, logits.")
        node, letter = Node.parse(match["node"]), match["letter"]
        accepted = {Kind.HEAD: LETTERS, Kind.KV: ("k", "v")}.get(node.kind, (None,))
        if letter not in accepted:
            forms = ", ".join(f"{node}<{a}>" if a else str(node) for a in accepted)
            raise NameSyntaxError(f"'{text}' is not a port's name; {node} has these: {forms}.")
        if node.kind in (Kind.EMBED, Kind.TOK, Kind.POS):
            raise NameSyntaxError(f"'{text}' reads nothing, so it is no port; it is a sender only.")
        if node.kind in (Kind.NEURON, Kind.REST):
            raise NameSyntaxError(
                f"'{text}' is no port: all neurons of a layer read the port m{node.layer}."
            )
        if node.kind in (Kind.EXPERT, Kind.SHARED):
            raise NameSyntaxError(
                f"'{text}' is no port: the experts of a layer, and their router, all read the port "
                f"m{node.layer}."
            )
        span = match["span"]
        if span is not None and not is_span(span):
            raise NameSyntaxError(f"'{text}' names no span behind its @; accepted: {SPAN_FORM}.")
        return Port(node, letter, span)

    @property
    def kind(self) -> str:
        """Return the kind of edges that end here: q, k, v, mixer, mlp, post or logits."""
        return self.letter or self.node.kind.value

    def __str__(self) -> str:
        everywhere = f"{self.node}<{self.letter}>" if self.letter else str(self.node)
        return everywhere if self.span is None else f"{everywhere}@{self.span}"


@typed_late
@dataclass(frozen=True, slots=True)
class Edge:
    """One connection through the residual stream, by its name.

    >>> edge = Edge.parse("a0.h1->a2.h3<q>")
    >>> str(edge.sender), str(edge.port)
    ('a0.h1', 'a2.h3<q>')
    """

    sender: Node
    port: Port
    __repr__ = _short

    def __post_init__(self) -> None:
        require("Edge", "sender", self.sender, Node, "a Node")
        require("Edge", "port", self.port, Port, "a Port")

    @staticmethod
    @typed
    def parse(text: str) -> Edge:
        """Read an edge's name, `sender->port`; a NameSyntaxError says what is accepted."""
        parts = text.split("->")
        if len(parts) != 2:
            raise NameSyntaxError(
                f"'{text}' is not an edge's name; accepted: sender->port, as in m2->a5.h1<q>."
            )
        return Edge(Node.parse(parts[0]), Port.parse(parts[1]))

    def __str__(self) -> str:
        return f"{self.sender}->{self.port}"
