"""What is written above nodes: in its place, apart from other nodes, and in every kind of file."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.graphs.circuit import Circuit
from edgewise.graphs.graph import ComputationGraph
from edgewise.visualize.compose import make_scene
from edgewise.visualize.draw import draw
from edgewise.visualize.style import LABEL_FONT, LABEL_ROOM, text_width
from tests.visualize.test_scene import random_circuit

GRAPH = ComputationGraph(4, 4)
WORDS = "copy suppression .93 → induction .88"


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.sampled_from([0.05, 0.2, 0.5]))
def test_labels_stand_above_their_nodes_and_touch_no_others(seed: int, share: float) -> None:
    circuit = random_circuit(GRAPH, seed, share)
    labels = {str(node): WORDS for node in circuit.nodes if str(node).startswith("a")}
    scene = make_scene(circuit, labels=labels, layout="built-in")
    texts = [text for text in scene.texts if text.text == WORDS]
    nodes = {node.name: node for node in scene.nodes}
    assert len(texts) == len(labels)
    half = text_width(WORDS, LABEL_FONT) / 2
    for text, name in zip(texts, (n for n in nodes if n in labels), strict=True):
        node = nodes[name]
        assert text.x == node.x
        assert text.y + LABEL_ROOM / 2 == pytest.approx(node.y - node.height / 2, abs=0.02)
        assert text.x - half >= 0
        assert text.x + half <= scene.width
        for other in scene.nodes:
            beside = abs(other.x - text.x) >= half + other.width / 2
            apart = abs(other.y - text.y) >= other.height / 2 + LABEL_FONT / 2 - 0.5
            assert beside or apart, (name, other.name)
    for i, one in enumerate(texts):
        for other_text in texts[:i]:
            assert one.y != other_text.y or abs(one.x - other_text.x) >= 2 * half


def test_a_label_widens_the_drawing_and_is_told() -> None:
    circuit = Circuit.empty(GRAPH).with_edges(["embed->a0.h1<v>", "a0.h1->logits"])
    bare = make_scene(circuit, layout="built-in")
    scene = make_scene(circuit, labels={"a0.h1": "induction .91"}, layout="built-in")
    assert scene.height > bare.height
    (tip,) = (node.tooltip for node in scene.nodes if node.name == "a0.h1")
    assert tip == "a0.h1  attention head  induction .91"
    assert make_scene(circuit, labels={"a3.h0": "elsewhere"}, layout="built-in") == bare


@pytest.mark.parametrize("ending", ["svg", "html", "dot"])
def test_labels_are_in_the_files(ending: str, tmp_path: Path) -> None:
    circuit = Circuit.empty(GRAPH).with_edges(["embed->a0.h1<v>", "a0.h1->logits"])
    path = draw(circuit, tmp_path / f"x.{ending}", labels={"a0.h1": "copying 1.00"})
    text = path.read_text("utf-8")
    assert "copying 1.00" in text
    if ending == "dot":
        assert r'label="a0.h1\ncopying 1.00"' in text
