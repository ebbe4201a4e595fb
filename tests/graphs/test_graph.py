"""Computation graphs: edge counts of the definitions, and existence against a naive walk."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.graphs.errors import GraphMismatch
from edgewise.graphs.graph import ComputationGraph
from edgewise.graphs.names import Edge, Kind, Node, Port
from tests.graph_shapes import shapes

SHAPES = shapes(4, 3, 3)


def walked(graph: ComputationGraph) -> set[str]:
    """List the edges by running through the model once, remembering who has written."""
    edges: set[str] = set()
    before: list[list[str]] = []
    written = ["tok", "pos"] if graph.split_embedding else ["embed"]
    for layer in range(graph.layers):
        kind = graph.mixers[layer] if graph.mixers else "heads"
        heads = [f"a{layer}.h{head}" for head in range(graph.heads)] if kind == "heads" else []
        groups = [f"a{layer}.kv{group}" for group in range(graph.kv_heads)]
        owners = groups if graph.grouped_kv else heads
        ports = [f"{name}<q>" for name in heads]
        ports += [f"{name}<{letter}>" for letter in "kv" for name in owners]
        ports = ports if heads else []
        before.append(list(written))
        if graph.kv_sources and heads:
            keys = [port for port in ports if not port.endswith("<q>")]
            edges |= {f"{u}->{port}" for port in keys for u in before[graph.kv_sources[layer]]}
            ports = [port for port in ports if port not in keys]
        mixers = [f"s{layer}"] if kind == "whole" else []
        ports += mixers
        mlp = layer not in graph.without_mlp
        ports += [f"m{layer}"] if graph.parallel and mlp else []
        edges |= {f"{sender}->{port}" for port in ports for sender in written}
        if graph.post_norm and heads:
            edges |= {f"{head}->o{layer}" for head in heads}
            written.append(f"o{layer}")
        else:
            written += heads + mixers
        if mlp and not graph.parallel:
            edges |= {f"{sender}->m{layer}" for sender in written}
        if not mlp:
            continue
        experts = graph.experts[layer] if graph.experts else 0
        written += [f"m{layer}.e{i}" for i in range(experts)] or [f"m{layer}"]
        written += [f"m{layer}.shared"] if experts and graph.shared_experts else []
    return edges | {f"{sender}->logits" for sender in written}


@given(SHAPES)
def test_the_edges_are_those_of_a_walk_through_the_model(graph: ComputationGraph) -> None:
    names = {str(graph.edge_at(row, column)) for row, column in np.argwhere(graph.reads)}
    assert names == walked(graph)
    assert graph.edge_count == len(names)


@pytest.mark.parametrize(
    ("graph", "edges"),
    [
        pytest.param(ComputationGraph(12, 12), 32_491, id="gpt2-small"),
        pytest.param(ComputationGraph(6, 8, parallel=True), 3_580, id="pythia-70m"),
        pytest.param(ComputationGraph(12, 12, parallel=True), 32_347, id="pythia-160m"),
        pytest.param(ComputationGraph(30, 9, 3), 123_211, id="smollm2-135m"),
        pytest.param(ComputationGraph(30, 9, 3, grouped_kv=True), 70_651, id="smollm2-grouped"),
        pytest.param(ComputationGraph(32, 32, 8), 1_592_881, id="llama-3.1-8b"),
        pytest.param(ComputationGraph(2, 4), 110, id="gpt2-tiny"),
    ],
)
def test_edge_counts_of_known_models(graph: ComputationGraph, edges: int) -> None:
    assert graph.edge_count == edges


@given(st.integers(1, 6), st.integers(1, 6), st.booleans())
def test_the_edge_count_follows_the_formula(layers: int, heads: int, parallel: bool) -> None:
    before = [1 + layer * (heads + 1) for layer in range(layers + 1)]
    own = 0 if parallel else heads
    expected = sum(3 * heads * w + w + own for w in before[:-1]) + before[-1]
    assert ComputationGraph(layers, heads, parallel=parallel).edge_count == expected


def test_smallest_graph_written_out() -> None:
    graph = ComputationGraph(layers=1, heads=1)
    assert [str(node) for node in graph.senders] == ["embed", "a0.h0", "m0"]
    assert [str(port) for port in graph.ports] == [
        "a0.h0<q>",
        "a0.h0<k>",
        "a0.h0<v>",
        "m0",
        "logits",
    ]
    assert graph.reads.astype(int).tolist() == [
        [1, 0, 0],
        [1, 0, 0],
        [1, 0, 0],
        [1, 1, 0],
        [1, 1, 1],
    ]


def test_post_norm_graph_written_out() -> None:
    graph = ComputationGraph(layers=1, heads=2, post_norm=True, split_embedding=True)
    assert [str(node) for node in graph.senders] == ["tok", "pos", "a0.h0", "a0.h1", "o0", "m0"]
    rows = {
        str(port): graph.reads[row].astype(int).tolist() for row, port in enumerate(graph.ports)
    }
    assert rows["a0.h1<k>"] == [1, 1, 0, 0, 0, 0]
    assert rows["o0"] == [0, 0, 1, 1, 0, 0]
    assert rows["m0"] == [1, 1, 0, 0, 1, 0]
    assert rows["logits"] == [1, 1, 0, 0, 1, 1]


def test_experts_are_senders_behind_one_port() -> None:
    graph = ComputationGraph(layers=2, heads=1, experts=(0, 2), shared_experts=True)
    senders = ["embed", "a0.h0", "m0", "a1.h0", "m1.e0", "m1.e1", "m1.shared"]
    assert [str(node) for node in graph.senders] == senders
    rows = {
        str(port): graph.reads[row].astype(int).tolist() for row, port in enumerate(graph.ports)
    }
    assert [name for name in rows if name.startswith("m")] == ["m0", "m1"]
    assert rows["m0"] == [1, 1, 0, 0, 0, 0, 0]
    assert rows["m1"] == [1, 1, 1, 1, 0, 0, 0]
    assert rows["logits"] == [1] * 7
    assert graph.feeds[graph.port_index[Port.parse("m1")]] == (4, 5, 6)
    assert graph.mlp_columns == (range(2, 3), range(4, 7))
    assert graph.describe().endswith("0, 2 experts and a shared one")
    assert (
        ComputationGraph(2, 1, experts=(2, 2)).describe().endswith("1 key/value heads, 2 experts")
    )


def test_experts_of_other_numbers_are_other_graphs() -> None:
    graph = ComputationGraph(2, 1, experts=(0, 2))
    assert ComputationGraph(2, 1, experts=(0, 0)) == ComputationGraph(2, 1)
    assert graph.differences(ComputationGraph(2, 1)) == ["experts (0, 2) and ()"]
    for experts in ((2,), (2, 2, 2), (2, -1)):
        with pytest.raises(GraphMismatch, match="accepted: a number for each layer"):
            ComputationGraph(2, 1, experts=experts)
    with pytest.raises(GraphMismatch, match="without experts has no shared"):
        ComputationGraph(2, 1, shared_experts=True)


def test_an_edge_from_the_port_of_experts_is_refused_with_the_reason() -> None:
    with pytest.raises(GraphMismatch, match=r"no sender m1 \(where a layer has experts, they are"):
        ComputationGraph(2, 1, experts=(0, 2)).locate(Edge.parse("m1->logits"))


@given(SHAPES)
def test_places_and_names_of_edges_are_inverse(graph: ComputationGraph) -> None:
    for row, column in np.argwhere(graph.reads):
        edge = graph.edge_at(row, column)
        assert graph.locate(edge) == (row, column)
        assert Edge.parse(str(edge)) == edge


@given(SHAPES)
def test_every_port_feeds_the_senders_it_is_an_input_of(graph: ComputationGraph) -> None:
    share = graph.heads // max(1, graph.kv_heads)
    for port, feeds in zip(graph.ports, graph.feeds, strict=True):
        owners = [graph.senders[i] for i in feeds]
        if port.node.kind is Kind.LOGITS:
            assert owners == []
        elif port.node.kind is Kind.KV:
            assert [node.index // share for node in owners if node.index is not None] == (
                [port.node.index] * share
            )
            assert {node.layer for node in owners} == {port.node.layer}
        elif port.node.kind is Kind.MLP and graph.experts and graph.experts[port.node.layer or 0]:
            names = [f"{port}.e{i}" for i in range(graph.experts[port.node.layer or 0])]
            names += [f"{port}.shared"] if graph.shared_experts else []
            assert [str(node) for node in owners] == names
        else:
            assert owners == [port.node]


@given(SHAPES)
def test_counts_by_kind_add_up(graph: ComputationGraph) -> None:
    counts = {**dict.fromkeys("qkv", 0), **graph.count_by_kind()}
    assert sum(counts.values()) == graph.edge_count
    assert counts["logits"] == graph.reads[-1].sum()
    share = max(1, graph.heads) // max(1, graph.kv_heads) if graph.grouped_kv else 1
    assert counts["k"] == counts["v"]
    queries = counts["q"] // share  # keys of earlier layers have fewer edges
    assert counts["k"] <= queries if graph.kv_sources else counts["k"] == queries
    assert ("post" in counts) == any(map(graph.has_post, range(graph.layers)))
    assert sum(graph.count_by_kind(np.zeros_like(graph.reads)).values()) == 0


@pytest.mark.parametrize(
    ("edge", "message"),
    [
        ("m1->m0", "m1 writes after m0 reads"),
        ("a0.h0->a0.h1<q>", "writes after"),
        ("a7.h0->logits", "no sender a7.h0; it has 2 layers, 2 heads"),
        ("embed->m7", "no port m7"),
        ("embed->a0.kv0<k>", "no port a0.kv0<k>"),
        ("tok->m0", "no sender tok"),
    ],
)
def test_edges_that_do_not_exist_are_refused(edge: str, message: str) -> None:
    with pytest.raises(GraphMismatch, match=message):
        ComputationGraph(2, 2).locate(Edge.parse(edge))


SHARED = ComputationGraph(3, 2, kv_sources=(0, 1, 0))


def test_keys_and_values_of_an_earlier_layer_are_read_before_it() -> None:
    assert SHARED.edge_count == ComputationGraph(3, 2).edge_count - 2 * 2 * 6
    assert SHARED.reads[SHARED.port_index[Port.parse("a2.h1<k>")]].nonzero()[0].tolist() == [0]
    assert SHARED.locate("m1->a2.h1<q>")
    with pytest.raises(
        GraphMismatch,
        match=r"m1 writes after a2\.h1<v> reads \(layer 2 takes its keys and values from layer 0\)",
    ):
        SHARED.locate("m1->a2.h1<v>")
    assert SHARED.describe().endswith("keys and values of layer 0 in layer 2")
    assert ComputationGraph(3, 2, kv_sources=(0, 1, 2)) == ComputationGraph(3, 2)
    assert SHARED.differences(ComputationGraph(3, 2)) == ["kv_sources (0, 1, 0) and ()"]


@pytest.mark.parametrize("sources", [(0, 0), (0, 1, 3), (0, 0, 1), (-1, 1, 2)])
def test_impossible_sources_of_keys_are_refused(sources: tuple[int, ...]) -> None:
    with pytest.raises(GraphMismatch, match="accepted: for each layer itself, or an earlier one"):
        ComputationGraph(3, 2, kv_sources=sources)
    with pytest.raises(GraphMismatch, match="both with heads"):
        ComputationGraph(2, 2, mixers=("whole", "heads"), kv_sources=(0, 0))


def test_the_o_node_is_named_where_it_is_the_reason() -> None:
    with pytest.raises(GraphMismatch, match="only through the layer's o node"):
        ComputationGraph(2, 2, post_norm=True).locate(Edge.parse("a0.h0->logits"))


@pytest.mark.parametrize("shape", [(0, 1, 1), (1, 0, 1), (1, 3, 2), (-1, 1, 1)])
def test_impossible_shapes_are_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(GraphMismatch, match="heads a multiple of kv_heads"):
        ComputationGraph(*shape)


def test_equal_shapes_are_equal_graphs_and_differences_are_named() -> None:
    graph = ComputationGraph(2, 4)
    assert graph == ComputationGraph(2, 4, 4)
    assert hash(graph) == hash(ComputationGraph(2, 4, 4))
    assert graph.differences(ComputationGraph(2, 4)) == []
    assert graph.differences(ComputationGraph(3, 4, 2, parallel=True)) == [
        "layers 2 and 3",
        "kv_heads 4 and 2",
        "parallel False and True",
    ]


def test_the_matrix_of_edges_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        ComputationGraph(1, 1).reads[0, 0] = False


def test_names_are_found_by_value() -> None:
    graph = ComputationGraph(2, 4, 2, grouped_kv=True)
    assert graph.sender_index[Node.parse("m1")] == len(graph.senders) - 1
    assert graph.ports[graph.port_index[Port.parse("a1.kv1<v>")]] == Port.parse("a1.kv1<v>")
