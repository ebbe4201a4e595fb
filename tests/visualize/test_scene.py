"""What a scene must obey whatever the circuit: geometry, completeness, monotone widths, colours."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from itertools import combinations, pairwise
from shutil import which

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.graphs.circuit import Circuit
from edgewise.graphs.diff import CircuitDiff
from edgewise.graphs.errors import EdgewiseError, GraphMismatch, NameSyntaxError, UnknownName
from edgewise.graphs.graph import ComputationGraph
from edgewise.graphs.names import Node
from edgewise.graphs.scores import Scores
from edgewise.visualize.compose import make_scene
from edgewise.visualize.dot import to_dot
from edgewise.visualize.scene import EdgeMark, NodeMark, Scene
from edgewise.visualize.style import KIND_COLOURS, ONLY_A, ONLY_B, SHARED
from edgewise.visualize.subject import Drawing, read_subject

SMALL = ComputationGraph(layers=2, heads=2)
LAYOUTS = [
    "built-in",
    pytest.param("dot", marks=pytest.mark.skipif(not which("dot"), reason="no dot here")),
]


def random_circuit(graph: ComputationGraph, seed: int, share: float) -> Circuit:
    chosen = np.random.default_rng(seed).random(graph.reads.shape) < share
    return Circuit(graph, graph.reads & chosen)


graphs = st.builds(
    lambda layers, heads, grouped, experts, **flags: ComputationGraph(
        layers,
        heads,
        1 if grouped else heads,
        grouped_kv=grouped,
        experts=experts[:layers],
        shared_experts=any(experts[:layers]),
        **flags,
    ),
    st.integers(1, 4),
    st.integers(1, 3),
    st.booleans(),
    st.just(()) | st.tuples(*[st.integers(0, 3)] * 4),
    parallel=st.booleans(),
    post_norm=st.booleans(),
    split_embedding=st.booleans(),
)
circuits = st.builds(random_circuit, graphs, st.integers(0, 99), st.sampled_from([0, 0.05, 0.3, 1]))


def points(mark: EdgeMark, steps: int = 8) -> list[tuple[float, float]]:
    """Sample a path."""
    found: list[tuple[float, float]] = []
    for command, values in mark.path:
        end = (values[-2], values[-1])
        if command == "M":
            found.append(end)
            continue
        start = found[-1]
        if command == "L":
            corners = [start, end]
            for i in range(1, steps + 1):
                t = i / steps
                found.append(
                    (start[0] + t * (end[0] - start[0]), start[1] + t * (end[1] - start[1]))
                )
            continue
        corners = [start, (values[0], values[1]), (values[2], values[3]), end]
        for i in range(1, steps + 1):
            t = i / steps
            weights = [math.comb(3, k) * t**k * (1 - t) ** (3 - k) for k in range(4)]
            x = sum(w * c[0] for w, c in zip(weights, corners, strict=True))
            y = sum(w * c[1] for w, c in zip(weights, corners, strict=True))
            found.append((x, y))
    return found


def inside(mark: NodeMark, x: float, y: float, slack: float = 0.0) -> bool:
    wide, high = mark.width / 2 - slack, mark.height / 2 - slack
    return abs(x - mark.x) < wide and abs(y - mark.y) < high


def check_geometry(scene: Scene, circuit: Circuit) -> None:
    nodes = {node.name: node for node in scene.nodes}
    assert list(nodes) == [str(node) for node in circuit.nodes]
    assert sorted(e.name for e in scene.edges) == sorted(map(str, circuit.edges))

    def level(name: str) -> float:
        layer = Node.parse(name).layer
        return layer if layer is not None else (math.inf if name == "logits" else -1)

    for a, b in combinations(scene.nodes, 2):
        apart = abs(a.x - b.x) >= (a.width + b.width) / 2 or abs(a.y - b.y) >= a.height
        assert apart, f"{a.name} and {b.name} overlap"
        if level(a.name) != level(b.name):
            assert (level(a.name) < level(b.name)) == (a.y > b.y)
    for node in scene.nodes:
        assert node.x - node.width / 2 > 0 and node.x + node.width / 2 < scene.width
        assert node.y - node.height / 2 > 0 and node.y + node.height / 2 < scene.height
    for edge in scene.edges:
        sender, port = edge.name.split("->")
        ends = nodes[sender], nodes[port.split("<")[0]]
        way = points(edge)
        assert inside(ends[0], *way[0]) and inside(ends[1], *way[-1])
        assert all(y1 <= y0 + 1e-6 for (_, y0), (_, y1) in pairwise(way))
        for other in scene.nodes:
            if other not in ends:
                assert not any(inside(other, x, y) for x, y in way), f"{edge.name}: {other.name}"


@settings(max_examples=40, deadline=None)
@given(circuits)
def test_geometry_of_random_circuits(circuit: Circuit) -> None:
    check_geometry(make_scene(circuit, layout="built-in"), circuit)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("edges", [20, 300])
def test_geometry_of_realistic_circuits(sample: Callable, layout: str, edges: int) -> None:
    circuit, scores = sample(ComputationGraph(30, 9, 3), edges, 3)
    scene = make_scene(circuit, scores=scores, layout=layout)
    assert scene.notes == ()
    check_geometry(scene, circuit)
    assert 0.4 < scene.width / scene.height < 1.6


def test_widths_follow_scores_and_dashes_their_sign() -> None:
    circuit = Circuit.full(SMALL)
    values = {str(e): random.Random(str(e)).uniform(-1, 1) for e in circuit.edges}
    edges = {e.name: e for e in make_scene(circuit, scores=values, layout="built-in").edges}
    ranked = sorted(edges, key=lambda name: abs(values[name]))
    widths = [edges[name].width for name in ranked]
    assert widths == sorted(widths) and widths[0] < widths[-1]
    assert all(bool(edges[name].dashes) == (values[name] < 0) for name in edges)
    assert edges[ranked[-1]].tooltip == f"{ranked[-1]}  score {values[ranked[-1]]:.4g}"


def test_scores_value_and_mapping_draw_alike() -> None:
    circuit = Circuit.full(SMALL)
    values = np.where(SMALL.reads, np.arange(SMALL.reads.size).reshape(SMALL.reads.shape), np.nan)
    scores = Scores(SMALL, values)
    mapping = {edge: scores[edge] for edge in circuit.edges}
    assert make_scene(circuit, scores=scores) == make_scene(circuit, scores=mapping)


def test_edges_without_a_score_have_one_plain_width() -> None:
    circuit = Circuit.full(SMALL)
    assert len({e.width for e in make_scene(circuit).edges}) == 1
    scene = make_scene(circuit, scores={"embed->m0": 2.0, "m0->logits": float("nan")})
    widths = {e.name: e.width for e in scene.edges}
    assert widths["embed->m0"] > widths["m0->logits"] == widths["embed->m1"]


def test_colour_tells_the_kind_of_port_and_curves_differ() -> None:
    names = [f"embed->a1.h0<{letter}>" for letter in "qkv"]
    circuit = Circuit.empty(SMALL).with_edges([*names, "a1.h0->logits"])
    edges = {e.name: e for e in make_scene(circuit).edges}
    assert [edges[n].colour for n in names] == [KIND_COLOURS[letter] for letter in "qkv"]
    assert len({edges[n].path for n in names}) == 3
    assert edges["a1.h0->logits"].colour == KIND_COLOURS["logits"]


def test_parallel_edges_into_a_far_head_stay_apart() -> None:
    graph = ComputationGraph(4, 2)
    names = [f"{u}->a3.h0<{p}>" for u in ("a0.h0", "a0.h1", "m1") for p in "qkv"]
    scene = make_scene(Circuit.empty(graph).with_edges(names), layout="built-in")
    edges = {e.name: points(e, 40) for e in scene.edges}
    for first, second in combinations("qkv", 2):
        one, two = (edges[f"a0.h0->a3.h0<{letter}>"] for letter in (first, second))
        near = [min(math.dist(p, q) for q in two) for p in one]
        assert sum(d > 0.8 for d in near) > 0.6 * len(near)


def test_shapes_tell_kinds_of_nodes_apart() -> None:
    graph = ComputationGraph(
        2, 2, 1, post_norm=True, grouped_kv=True, experts=(0, 2), shared_experts=True
    )
    scene = make_scene(Circuit.full(graph))
    looks = {node.name: (node.shape, node.fill) for node in scene.nodes}
    kinds = ["embed", "a0.h0", "a0.kv0", "o0", "m0", "m1.e0", "m1.shared", "logits"]
    assert len({looks[name] for name in kinds}) == len(kinds)


def test_key_value_heads_are_tied_to_their_heads_but_not_by_edges() -> None:
    graph = ComputationGraph(1, 4, 2, grouped_kv=True)
    circuit = Circuit.empty(graph).with_edges(
        ["embed->a0.kv1<k>", "a0.h2->logits", "a0.h1->logits"]
    )
    scene = make_scene(circuit)
    assert [link.tooltip.split()[0::2][:2] for link in scene.links] == [["a0.kv1", "a0.h2"]]
    assert all(link.name == "" for link in scene.links)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_experts_are_tied_to_the_port_they_read(layout: str) -> None:
    graph = ComputationGraph(2, 2, experts=(0, 4), shared_experts=True)
    circuit = Circuit.empty(graph).with_edges(
        ["embed->m0", "m0->m1", "a1.h0->m1", "m1.e2->logits", "m1.shared->logits", "m0->logits"]
    )
    scene = make_scene(circuit, layout=layout)
    check_geometry(scene, circuit)
    assert [link.tooltip for link in scene.links] == [
        "m1 gives m1.e2 its input",
        "m1 gives m1.shared its input",
    ]
    y = {node.name: node.y for node in scene.nodes}
    assert y["m1.e2"] == y["m1.shared"] < y["m1"] < y["a1.h0"]
    assert "MLP input read by experts" in [text.text for text in scene.legend.texts]


def test_empty_circuit_draws_the_logits_and_says_so() -> None:
    scene = make_scene(Circuit.empty(SMALL))
    assert [n.name for n in scene.nodes] == ["logits"] and scene.edges == ()
    assert "keeps no edge" in " ".join(t.text for t in scene.legend.texts)


def test_long_titles_are_broken_into_lines() -> None:
    title = "The circuit of a very small model on a task with a name that does not end " * 2
    scene = make_scene(Circuit.full(SMALL), title=title)
    lines = [t for t in scene.texts if t.bold]
    assert " ".join(t.text for t in lines) == title.strip() and len(lines) > 1
    assert max(t.y for t in lines) < min(n.y - n.height / 2 for n in scene.nodes)


def test_diff_has_three_colours_and_counts() -> None:
    a = Circuit.empty(SMALL).with_edges(["embed->m0", "m0->logits", "embed->a1.h1<q>"])
    b = Circuit.empty(SMALL).with_edges(["embed->m0", "m0->m1"])
    scores = ({"embed->m0": 1.0, "m0->logits": 0.5}, {"embed->m0": -2.0})
    scene = make_scene(CircuitDiff(a, b), scores=scores, names=("base", "tuned"))
    colours = {e.name: e.colour for e in scene.edges}
    assert colours == {
        "embed->m0": SHARED, "m0->logits": ONLY_A, "embed->a1.h1<q>": ONLY_A, "m0->m1": ONLY_B,
    }  # fmt: skip
    edges = {e.name: e for e in scene.edges}
    assert edges["embed->m0"].dashes and edges["embed->m0"].width > edges["m0->logits"].width
    assert "base 1" in edges["embed->m0"].tooltip and "tuned -2" in edges["embed->m0"].tooltip
    words = {t.text for t in scene.legend.texts}
    assert {"in both (1)", "only in base (2)", "only in tuned (1)"} <= words
    strokes = {n.name: n.stroke for n in scene.nodes}
    assert strokes["a1.h1"] == ONLY_A and strokes["m1"] == ONLY_B
    assert strokes["m0"] not in (ONLY_A, ONLY_B)
    assert [t.text for t in scene.texts if t.halo] == ["q"]
    whole = CircuitDiff(a.with_edges(["m1->logits"]), b)
    strokes = {n.name: n.stroke for n in make_scene(CircuitDiff(a, b), whole=whole).nodes}
    assert strokes["a1.h1"] == ONLY_A and strokes["m1"] not in (ONLY_A, ONLY_B)


def test_diff_of_equal_circuits_is_all_shared(sample: Callable) -> None:
    circuit, _ = sample(ComputationGraph(6, 4), 30, 1)
    scene = make_scene(CircuitDiff(circuit, circuit))
    assert {e.colour for e in scene.edges} == {SHARED}


@settings(max_examples=15, deadline=None)
@given(graphs, st.integers(0, 99), st.integers(100, 199))
def test_diff_draws_the_union_in_one_layout(graph: ComputationGraph, one: int, two: int) -> None:
    a, b = random_circuit(graph, one, 0.3), random_circuit(graph, two, 0.3)
    check_geometry(make_scene(CircuitDiff(a, b), layout="built-in"), a | b)


def test_wrong_input_is_refused_in_words() -> None:
    circuit = Circuit.full(SMALL)
    other = ComputationGraph(3, 2)
    with pytest.raises(GraphMismatch, match="layers 3 and 2"):
        make_scene(circuit, scores=Scores(other, np.zeros(other.reads.shape)))
    with pytest.raises(GraphMismatch, match="no port a9"):
        make_scene(circuit, scores={"embed->a9.h9<q>": 1.0})
    with pytest.raises(NameSyntaxError):
        make_scene(circuit, scores={"nonsense": 1.0})
    with pytest.raises(EdgewiseError, match="a number"):
        make_scene(circuit, scores={"embed->m0": "big"})  # type: ignore[dict-item]
    with pytest.raises(EdgewiseError, match="a pair"):
        make_scene(CircuitDiff(circuit, circuit), scores={"embed->m0": 1.0})
    with pytest.raises(EdgewiseError, match="a Circuit or a CircuitDiff"):
        make_scene("circuit.json")  # type: ignore[arg-type]
    with pytest.raises(UnknownName, match="built-in"):
        make_scene(circuit, layout="builtin")
    with pytest.raises(EdgewiseError, match="at most 4,000"):
        make_scene(Circuit.full(ComputationGraph(6, 12)))


# -- stability of a circuit -----------------------------------------------------------------------


def test_lines_are_as_opaque_as_their_edges_are_stable() -> None:
    circuit = Circuit.empty(SMALL).with_edges(["embed->m0", "m0->m1", "m1->logits"])
    steady, half, _ = edges = list(circuit.edges)
    scores = dict.fromkeys(edges, 1.0)
    scene = make_scene(circuit, Drawing(scores, stability={steady: 1.0, half: 0.5}))
    found = {mark.name: mark for mark in scene.edges}
    assert [found[str(edge)].opacity for edge in edges] == pytest.approx(
        [0.95, 0.535, 0.12], abs=0.006
    )
    assert len({found[str(edge)].width for edge in edges}) == 1
    assert found[str(half)].tooltip.endswith("in 50% of resamples")
    words = [text.text for text in scene.legend.texts]
    assert [one for one in words if "resamples" in one] == [
        "in 100% of resamples", "in 50% of resamples", "in 0% of resamples",
    ]  # fmt: skip
    assert "stability" in words
    plain = make_scene(circuit, Drawing(scores))
    assert {mark.opacity for mark in plain.edges if mark.name} == {0.95}
    assert not any("resamples" in text.text for text in plain.legend.texts)


def test_the_dot_language_has_stability_as_opacity() -> None:
    circuit = Circuit.empty(SMALL).with_edges(["embed->m0", "m0->logits"])
    first, second = circuit.edges
    text = to_dot(read_subject(circuit, Drawing(stability={first: 1.0, second: 0.0})))
    assert f'color="{KIND_COLOURS["mlp"]}f2"' in text
    assert f'color="{KIND_COLOURS["logits"]}1f"' in text
    assert f'color="{KIND_COLOURS["mlp"]}"' in to_dot(read_subject(circuit, Drawing()))
