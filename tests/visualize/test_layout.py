"""The parts of the layout: trunks, crossings, places, and what happens when `dot` misbehaves."""

from __future__ import annotations

import re
from itertools import pairwise, permutations
from pathlib import Path
from shutil import which

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.graphs.circuit import Circuit
from edgewise.graphs.graph import ComputationGraph
from edgewise.visualize.compose import make_scene
from edgewise.visualize.layout import dot_layout
from edgewise.visualize.layout.ordering import count_crossings, neighbours, order_rows
from edgewise.visualize.layout.placement import place_rows, separation
from edgewise.visualize.layout.skeleton import Skeleton, Wire, build, choose_trunks


def wire(source: int, target: int) -> Wire:
    return Wire(source, target, (0,), (0,), 1.0)


@st.composite
def skeletons(draw: st.DrawFn) -> Skeleton:
    rows = sorted(draw(st.lists(st.integers(0, 4), min_size=2, max_size=9)))
    levels = sorted(set(rows))
    rows = [levels.index(r) for r in rows]
    pairs = [(i, j) for i in range(len(rows)) for j in range(len(rows)) if rows[i] < rows[j]]
    chosen = draw(st.lists(st.sampled_from(pairs), max_size=12)) if pairs else []
    return build(rows, [20.0] * len(rows), [wire(*pair) for pair in chosen])


def test_edges_of_one_sender_share_its_trunk() -> None:
    wires = [wire(0, 1), wire(0, 2), wire(0, 3)]
    skeleton = build([0, 4, 5, 6], [9.0] * 4, wires)
    assert skeleton.joined == (False, False, False)
    assert len(skeleton.vertices) == 4 + 5
    assert skeleton.routes[0][:-1] == skeleton.routes[1][:4] == skeleton.routes[2][:4]


def test_edges_into_one_receiver_join_its_trunk() -> None:
    wires = [wire(0, 3), wire(1, 3), wire(2, 3)]
    assert choose_trunks([0, 1, 2, 6], wires) == (True, True, True)
    skeleton = build([0, 1, 2, 6], [9.0] * 4, wires)
    assert len(skeleton.vertices) == 4 + 5


@given(skeletons())
def test_every_route_climbs_row_by_row(skeleton: Skeleton) -> None:
    for route in skeleton.routes:
        rows = [skeleton.vertices[v].row for v in route]
        assert rows == list(range(rows[0], rows[-1] + 1))


@given(skeletons())
def test_trunks_never_cost_more_places_than_lines_of_their_own(skeleton: Skeleton) -> None:
    nodes = sum(v.node is not None for v in skeleton.vertices)
    alone = sum(len(route) - 2 for route in skeleton.routes)
    assert len(skeleton.vertices) - nodes <= alone


def test_crossings_worked_out_by_hand() -> None:
    up = [[3, 5], [3, 4], [4], [], [], []]
    # 0-3, 0-5, 1-3, 1-4, 2-4: only 0-5 crosses, namely 1-3, 1-4 and 2-4
    assert count_crossings([[0, 1, 2], [3, 4, 5]], up) == 3


@settings(deadline=None)
@given(skeletons())
def test_ordering_permutes_rows_and_never_adds_crossings(skeleton: Skeleton) -> None:
    order = order_rows(skeleton)
    assert [sorted(row) for row in order] == [sorted(row) for row in skeleton.rows]
    _, up = neighbours(skeleton)
    assert count_crossings(order, up) <= count_crossings(skeleton.rows, up)


def test_two_rows_are_ordered_optimally() -> None:
    ends = [(0, 5), (1, 4), (2, 6), (3, 4), (0, 7), (2, 7)]
    skeleton = build([0] * 4 + [1] * 4, [9.0] * 8, [wire(*pair) for pair in ends])
    _, up = neighbours(skeleton)
    best = min(
        count_crossings([low, high], up)
        for low in permutations(range(4))
        for high in permutations(range(4, 8))
    )
    assert count_crossings(order_rows(skeleton), up) == best


@settings(deadline=None)
@given(skeletons())
def test_places_keep_the_order_and_the_distances(skeleton: Skeleton) -> None:
    order = order_rows(skeleton)
    x = place_rows(skeleton, order)
    assert min(x) == 0
    for row in order:
        for left, right in pairwise(row):
            assert x[right] - x[left] >= separation(skeleton, left, right) - 1e-6


def test_places_worked_out_by_hand() -> None:
    # one parent above three children of width 20, 10 apart: the middle child stands below it
    skeleton = build([0, 0, 0, 1], [20.0] * 4, [wire(0, 3), wire(1, 3), wire(2, 3)])
    assert place_rows(skeleton, [[0, 1, 2], [3]]) == [0.0, 30.0, 60.0, 30.0]


def test_a_lone_trunk_is_straight() -> None:
    skeleton = build([0, 1, 2, 3, 4], [20.0] * 5, [wire(0, 4), *map(wire, range(4), range(1, 5))])
    x = place_rows(skeleton, order_rows(skeleton))
    assert len({x[v] for v in skeleton.routes[0][1:-1]}) == 1


CIRCUIT = Circuit.full(ComputationGraph(1, 2))


def fake_dot(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "dot"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr("edgewise.visualize.layout.layout.which", lambda _: str(program))


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo bad graph >&2; exit 3", r"status 3 \(bad graph\)"),
        ("exec sleep 30", "longer than 0.5 s"),
        ("cat > /dev/null; echo node v0", "answered 'node v0'"),
        ("cat > /dev/null; echo graph 1 1 1", "did not place vertex"),
    ],
)
def test_a_misbehaving_dot_gives_way_to_the_built_in_layout(
    script: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = make_scene(CIRCUIT, layout="built-in")
    fake_dot(tmp_path, script, monkeypatch)
    scene = make_scene(CIRCUIT, layout="auto", timeout=0.5)
    assert len(scene.notes) == 1
    assert re.search(words, scene.notes[0])
    assert (scene.nodes, scene.edges) == (expected.nodes, expected.edges)


def test_without_dot_auto_is_silent_and_dot_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgewise.visualize.layout.layout.which", lambda _: None)
    assert make_scene(CIRCUIT, layout="auto").notes == ()
    (note,) = make_scene(CIRCUIT, layout="dot").notes
    assert "not found" in note


def test_a_program_that_cannot_be_run_is_a_failed_dot(tmp_path: Path) -> None:
    skeleton = build([0, 1], [9.0, 9.0], [wire(0, 1)])
    with pytest.raises(dot_layout.DotFailed, match="could not be run"):
        dot_layout.order_with_dot(skeleton, str(tmp_path / "none"), timeout=1)


@pytest.mark.skipif(not which("dot"), reason="no dot here")
def test_dot_orders_two_rows_without_the_avoidable_crossing() -> None:
    skeleton = build([0, 0, 1, 1], [9.0] * 4, [wire(0, 3), wire(1, 2)])
    order = dot_layout.order_with_dot(skeleton, which("dot") or "", timeout=20)
    _, up = neighbours(skeleton)
    assert count_crossings(order, up) == 0
