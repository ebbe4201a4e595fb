"""Circuits: set algebra, dangling edges and liveness, each against a naive reference."""

from __future__ import annotations

from collections.abc import Callable

import networkx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.graphs.circuit import Circuit
from edgewise.graphs.errors import GraphMismatch, NameSyntaxError
from edgewise.graphs.graph import ComputationGraph
from edgewise.graphs.names import Edge, Kind, Node
from tests.graph_shapes import shapes

SHAPES = shapes(3, 2, 2)
TINY = ComputationGraph(layers=2, heads=2)


def drawn(graph: ComputationGraph, seed: int, share: float) -> Circuit:
    chosen = np.random.default_rng(seed).random(graph.reads.shape) < share
    return Circuit(graph, graph.reads & chosen)


CIRCUITS = st.builds(drawn, SHAPES, st.integers(0, 10_000), st.sampled_from([0.02, 0.1, 0.3, 0.7]))


def pairs(circuit: Circuit) -> set[tuple[str, str, str]]:
    """List the kept edges as (sender, node that reads, port)."""
    return {(str(e.sender), str(e.port.node), str(e.port)) for e in circuit.edges}


def group_of(graph: ComputationGraph, sender: str) -> str | None:
    """Name the node that reads for a sender: a head's key/value group, or an expert's port."""
    node = Node.parse(sender)
    if node.kind in (Kind.EXPERT, Kind.SHARED):
        return f"m{node.layer}"
    if not graph.grouped_kv or node.kind is not Kind.HEAD or node.index is None:
        return None
    return f"a{node.layer}.kv{node.index // (graph.heads // graph.kv_heads)}"


def naive_prune(circuit: Circuit) -> set[str]:
    """Apply the definition sentence by sentence, one edge at a time, until nothing changes."""
    graph, kept = circuit.graph, pairs(circuit)

    def has_out(node: str) -> bool:
        members = [s for s, _, _ in kept if s == node or group_of(graph, s) == node]
        return node == "logits" or bool(members)

    def has_in(node: str) -> bool:
        readers = {node, group_of(graph, node)}
        return node in ("embed", "tok", "pos") or any(reader in readers for _, reader, _ in kept)

    while True:
        loose = [e for e in kept if not has_out(e[1]) or not has_in(e[0])]
        if not loose:
            return {f"{sender}->{port}" for sender, _, port in kept}
        kept.discard(loose[0])


# -- identities ---------------------------------------------------------------------------------


@given(CIRCUITS)
def test_pruning_dangling_edges_follows_the_definition(circuit: Circuit) -> None:
    pruned = circuit.prune_dangling()
    assert {str(edge) for edge in pruned.edges} == naive_prune(circuit)
    assert pruned.prune_dangling() == pruned
    assert (circuit & pruned) == pruned


@given(CIRCUITS)
def test_live_is_reachability_of_the_logits(circuit: Circuit) -> None:
    graph = circuit.graph
    walk = networkx.DiGraph()
    walk.add_node("port logits")
    walk.add_edges_from((f"node {e.sender}", f"port {e.port}") for e in circuit.edges)
    for port, feeds in zip(graph.ports, graph.feeds, strict=True):
        walk.add_edges_from((f"port {port}", f"node {graph.senders[i]}") for i in feeds)
    reaching = networkx.ancestors(walk, "port logits") | {"port logits"}
    ports, senders = circuit.live()
    assert [f"port {port}" in reaching for port in graph.ports] == ports.tolist()
    assert [f"node {node}" in reaching for node in graph.senders] == senders.tolist()


@given(CIRCUITS, st.integers(0, 10_000))
def test_algebra_is_that_of_sets_of_names(circuit: Circuit, seed: int) -> None:
    other = drawn(circuit.graph, seed, 0.3)
    a, b = ({str(edge) for edge in c.edges} for c in (circuit, other))
    everything = {str(edge) for edge in Circuit.full(circuit.graph).edges}
    for result, expected in [
        (circuit & other, a & b),
        (circuit | other, a | b),
        (circuit - other, a - b),
        (circuit.complement, everything - a),
        (circuit.with_edges(other.edges), a | b),
        (circuit.without(b), a - b),
    ]:
        assert {str(edge) for edge in result.edges} == expected
        assert len(result) == len(expected)
    assert (circuit == other) == (a == b)
    assert circuit == Circuit.empty(circuit.graph).with_edges(a)
    assert hash(circuit) == hash(Circuit(circuit.graph, circuit.kept.copy()))


@given(CIRCUITS)
def test_edges_stand_in_graph_order_and_are_contained(circuit: Circuit) -> None:
    places = [circuit.graph.locate(edge) for edge in circuit.edges]
    assert places == sorted(places)
    assert all(edge in circuit for edge in circuit.edges)
    assert not any(edge in circuit for edge in circuit.complement.edges)


@given(CIRCUITS)
def test_nodes_are_those_edges_touch_each_once_in_order(circuit: Circuit) -> None:
    nodes = [str(node) for node in circuit.nodes]
    touched = {name for sender, reader, _ in pairs(circuit) for name in (sender, reader)}
    assert len(nodes) == len(set(nodes))
    assert set(nodes) == touched | {"logits"}
    assert nodes[-1] == "logits"
    rank = {str(node): i for i, node in enumerate(circuit.graph.senders)}
    ranks = [rank[name] for name in nodes if name in rank]
    assert ranks == sorted(ranks)
    layers = [node.layer for node in circuit.nodes if node.layer is not None]
    assert layers == sorted(layers)


@given(CIRCUITS)
def test_networkx_has_the_same_nodes_and_edges(circuit: Circuit) -> None:
    graph = circuit.to_networkx()
    assert list(graph.nodes) == [str(node) for node in circuit.nodes]
    assert set(graph.edges(keys=True)) == pairs(circuit)


@given(CIRCUITS)
def test_edits_leave_the_original_alone(circuit: Circuit) -> None:
    before = circuit.kept.copy()
    circuit.with_edges(Circuit.full(circuit.graph).edges).without(circuit.edges)
    circuit.prune_dangling()
    assert (circuit.kept == before).all()
    with pytest.raises(ValueError, match="read-only"):
        circuit.kept[0, 0] = True


# -- by hand ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edges", "left"),
    [
        (["embed->m0", "m0->logits"], ["embed->m0", "m0->logits"]),
        (["embed->m0", "m0->m1"], []),  # m1 leads nowhere, then m0
        (["m0->m1", "m1->logits"], []),  # m0 has nothing to compute from, then m1
        (["embed->logits", "embed->a0.h0<q>"], ["embed->logits"]),
        (
            ["embed->a0.h0<v>", "a0.h0->logits", "a0.h1->logits"],
            ["embed->a0.h0<v>", "a0.h0->logits"],
        ),
        (
            ["embed->a0.h0<v>", "a0.h0->m1", "m1->logits", "m0->m1"],
            ["embed->a0.h0<v>", "a0.h0->m1", "m1->logits"],
        ),
    ],
)
def test_pruning_worked_out_by_hand(edges: list[str], left: list[str]) -> None:
    pruned = Circuit.empty(TINY).with_edges(edges).prune_dangling()
    assert {str(edge) for edge in pruned.edges} == set(left)


def test_a_shared_key_port_stays_for_any_head_that_needs_it() -> None:
    graph = ComputationGraph(2, 4, 2, grouped_kv=True)
    base = Circuit.empty(graph).with_edges(["embed->a0.kv1<k>", "a0.h3->logits"])
    assert base.prune_dangling() == base
    assert len(base.with_edges(["embed->a0.kv0<k>"]).prune_dangling()) == 2
    other = Circuit.empty(graph).with_edges(["embed->a0.kv1<k>", "a0.h0->logits"])
    assert len(other.prune_dangling()) == 0
    assert [str(node) for node in base.nodes] == ["embed", "a0.kv1", "a0.h3", "logits"]


def test_full_and_empty() -> None:
    full, empty = Circuit.full(TINY), Circuit.empty(TINY)
    assert (len(full), len(empty)) == (TINY.edge_count, 0)
    assert full.prune_dangling() == full
    assert full.complement == empty
    assert empty.nodes == (Node(Kind.LOGITS),)
    ports, senders = empty.live()
    assert (ports.sum(), senders.sum()) == (1, 0)
    assert ports[-1]


# -- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "operation",
    [lambda a, b: a & b, lambda a, b: a | b, lambda a, b: a - b],
    ids=["and", "or", "minus"],
)
def test_unequal_graphs_are_refused_saying_in_what(
    operation: Callable[[Circuit, Circuit], Circuit],
) -> None:
    other = Circuit.full(ComputationGraph(3, 2, grouped_kv=True))
    with pytest.raises(GraphMismatch, match="layers 2 and 3; grouped_kv False and True"):
        operation(Circuit.full(TINY), other)
    assert Circuit.full(TINY) != other
    assert Circuit.full(TINY) != "no circuit"


def test_masks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(GraphMismatch, match=r"\(2, 2\) does not fit a graph of 15 ports and 7"):
        Circuit(TINY, np.ones((2, 2), dtype=bool))
    with pytest.raises(GraphMismatch, match=r"a0\.h0->a0\.h0<q> does not exist"):
        Circuit(TINY, np.ones_like(TINY.reads))
    with pytest.raises(GraphMismatch, match="m1 writes after m0 reads"):
        Circuit.empty(TINY).with_edges([Edge.parse("m1->m0")])
    with pytest.raises(NameSyntaxError):
        Circuit.full(TINY).without(["m0"])


def test_the_port_of_experts_is_a_node_between_its_inputs_and_them() -> None:
    graph = ComputationGraph(layers=2, heads=2, experts=(2, 0), shared_experts=True)
    circuit = Circuit.empty(graph).with_edges(
        ["embed->m0", "a0.h1->m0", "embed->a0.h1<v>", "m0.e1->logits", "m0.shared->m1"]
    )
    names = ["embed", "a0.h1", "m0", "m0.e1", "m0.shared", "m1", "logits"]
    assert [str(node) for node in circuit.nodes] == names
    assert [str(edge) for edge in (circuit - circuit.prune_dangling()).edges] == ["m0.shared->m1"]
    alone = Circuit.empty(graph).with_edges(["m0.e1->logits"])  # nothing feeds the expert
    assert len(alone.prune_dangling()) == 0
