"""Names of nodes, ports and edges: what is read is printed the same, the rest is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.graphs.errors import NameSyntaxError
from edgewise.graphs.names import LETTERS, Edge, Kind, Node, Port

NUMBERS = st.integers(0, 10_000)
BARE = st.sampled_from([Kind.EMBED, Kind.TOK, Kind.POS, Kind.LOGITS]).map(Node)
HEADS = st.builds(Node, st.just(Kind.HEAD), NUMBERS, NUMBERS)
GROUPS = st.builds(Node, st.just(Kind.KV), NUMBERS, NUMBERS)
LAYERED = st.builds(Node, st.sampled_from([Kind.MLP, Kind.POST]), NUMBERS)
EXPERTS = st.builds(Node, st.just(Kind.EXPERT), NUMBERS, NUMBERS)
SHARED = st.builds(Node, st.just(Kind.SHARED), NUMBERS)
NODES = BARE | HEADS | GROUPS | LAYERED | EXPERTS | SHARED
PORTS = (
    st.builds(Port, HEADS, st.sampled_from(LETTERS))
    | st.builds(Port, GROUPS, st.sampled_from(("k", "v")))
    | st.builds(Port, LAYERED)
    | st.just(Port(Node(Kind.LOGITS)))
)
EDGES = st.builds(Edge, NODES, PORTS)


@given(NODES)
def test_a_node_reads_back_as_itself(node: Node) -> None:
    assert Node.parse(str(node)) == node
    assert Node.parse(f"  {node} ") == node


@given(PORTS)
def test_a_port_reads_back_as_itself(port: Port) -> None:
    assert Port.parse(str(port)) == port


@given(EDGES)
def test_an_edge_reads_back_as_itself(edge: Edge) -> None:
    assert Edge.parse(str(edge)) == edge
    assert Edge.parse(str(edge).replace("->", " -> ")) == edge


@given(st.text("embdtokpslgiahvqr0123<>.->", max_size=12))
def test_any_text_is_read_exactly_or_refused(text: str) -> None:
    for kind in (Node, Port, Edge):
        try:
            value = kind.parse(text)
        except NameSyntaxError as error:
            assert str(error).split("'")[1] in text
        else:
            assert kind.parse(str(value)) == value


@pytest.mark.parametrize(
    ("text", "kind", "layer", "index"),
    [
        ("embed", Kind.EMBED, None, None),
        ("tok", Kind.TOK, None, None),
        ("pos", Kind.POS, None, None),
        ("logits", Kind.LOGITS, None, None),
        ("a5.h1", Kind.HEAD, 5, 1),
        ("a0.h0", Kind.HEAD, 0, 0),
        ("a5.kv0", Kind.KV, 5, 0),
        ("o5", Kind.POST, 5, None),
        ("m11", Kind.MLP, 11, None),
        ("m5.e12", Kind.EXPERT, 5, 12),
        ("m5.shared", Kind.SHARED, 5, None),
    ],
)
def test_nodes_of_the_table(text: str, kind: Kind, layer: int | None, index: int | None) -> None:
    assert Node.parse(text) == Node(kind, layer, index)
    assert str(Node(kind, layer, index)) == text


@pytest.mark.parametrize(
    ("text", "kind"),
    [("a5.h1<q>", "q"), ("a5.kv1<v>", "v"), ("m3", "mlp"), ("o2", "post"), ("logits", "logits")],
)
def test_the_kind_of_an_edge_is_its_ports(text: str, kind: str) -> None:
    assert Port.parse(text).kind == kind


@pytest.mark.parametrize(
    "text",
    ["", "a5", "a5.h", "h1", "a5.h1<q>", "m", "m-1", "m1.5", "m1.e", "m1.e1.shared", "input"],
)
def test_what_is_no_node_is_refused_with_the_forms(text: str) -> None:
    with pytest.raises(NameSyntaxError, match="accepted: embed, tok"):
        Node.parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a5.h1", "has these: a5.h1<q>, a5.h1<k>, a5.h1<v>"),
        ("a5.h1<z>", "has these: a5.h1<q>"),
        ("a5.kv1<q>", "has these: a5.kv1<k>, a5.kv1<v>"),
        ("m3<q>", "has these: m3"),
        ("embed", "reads nothing"),
        ("m3.e1", "is no port: the experts of a layer, and their router, all read the port m3"),
        ("m3.shared", "all read the port m3"),
        ("<q>", "is not a port's name"),
        ("a5.h1<q>>", "is not a port's name"),
    ],
)
def test_what_is_no_port_is_refused_with_the_ones_there_are(text: str, message: str) -> None:
    with pytest.raises(NameSyntaxError, match=message):
        Port.parse(text)


@pytest.mark.parametrize("text", ["m1", "m1->m2->m3", "m1=>m2", ""])
def test_what_is_no_edge_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(NameSyntaxError, match=r"as in m2->a5.h1<q>"):
        Edge.parse(text)
