"""Liveness, widths, changed nodes and groups against their definitions, spelled out."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.graphs.graph import ComputationGraph
from edgewise.patching.incremental.liveness import Liveness
from edgewise.patching.run.plan import make_plan
from tests.engine import random_mask

SHAPES = [
    ComputationGraph(3, 2),
    ComputationGraph(2, 4, 2),
    ComputationGraph(2, 4, 2, grouped_kv=True),
    ComputationGraph(3, 4, 1, grouped_kv=True, post_norm=True),
    ComputationGraph(3, 2, parallel=True, split_embedding=True),
    ComputationGraph(3, 2, 1, post_norm=True),
    ComputationGraph(3, 2, 2, experts=(0, 3, 2), shared_experts=True),
    ComputationGraph(2, 4, 2, grouped_kv=True, experts=(3, 3)),
]


@st.composite
def layouts(draw: st.DrawFn) -> Liveness:
    graph = draw(st.sampled_from(SHAPES))
    density = draw(st.sampled_from([0.02, 0.06, 0.15, 0.3, 0.6, 0.9, 0.99, 1.0]))
    generator = np.random.default_rng(draw(st.integers(0, 10**6)))
    kept = graph.reads & (generator.random(graph.reads.shape) < density)
    if draw(st.booleans()):  # some ports alike, as groups want them
        rows = generator.integers(0, len(graph.ports), 6)
        kept[rows] = kept[rows[0]] & graph.reads[rows]
    if draw(st.booleans()):  # some senders alike
        columns = generator.integers(0, len(graph.senders), 3)
        kept[:, columns] = kept[:, columns[:1]] & graph.reads[:, columns]
    return Liveness(graph, kept)


def needs(layout: Liveness) -> tuple[set[tuple[int, str]], set[tuple[int, str]]]:
    """Follow needs from `logits` backwards, place by place: (port, place) and (sender, place).

    Places are `answer`, and `other` for all positions that are not.
    """
    graph = layout.graph
    ports: set[tuple[int, str]] = set()
    senders: set[tuple[int, str]] = set()
    todo = [(len(graph.ports) - 1, "answer")]
    while todo:
        row, place = todo.pop()
        if (row, place) in ports:
            continue
        ports.add((row, place))
        for sender in np.flatnonzero(layout.kept[row]):
            senders.add((int(sender), place))
            for other in range(len(graph.ports)):
                if sender in graph.feeds[other]:
                    attends = graph.ports[other].letter in ("k", "v")
                    todo += [(other, p) for p in (("answer", "other") if attends else (place,))]
    return ports, senders


@settings(max_examples=150, deadline=None)
@given(layouts())
def test_nodes_are_live_and_wide_where_they_are_needed(layout: Liveness) -> None:
    ports, senders = needs(layout)
    for row in range(len(layout.graph.ports)):
        assert layout.live_ports[row] == any(at == row for at, _ in ports)
        assert layout.wide_port[row] == ((row, "other") in ports)
    for sender in range(len(layout.graph.senders)):
        assert layout.live[sender] == any(at == sender for at, _ in senders)
        assert layout.wide[sender] == ((sender, "other") in senders)
    live_ports, live = layout.graph.live(layout.kept)
    assert np.array_equal(layout.live_ports, live_ports)
    assert np.array_equal(layout.live, live)


def changed(layout: Liveness) -> tuple[set[int], set[int]]:
    """Follow every missing edge into a live port forwards: the ports and senders it reaches."""
    graph = layout.graph
    cut = (layout.kept != graph.reads).any(1)
    todo = [row for row in range(len(graph.ports)) if cut[row] and layout.live_ports[row]]
    ports: set[int] = set()
    senders: set[int] = set()
    while todo:
        row = todo.pop()
        ports.add(row)
        for sender in graph.feeds[row]:
            if layout.live[sender]:
                senders.add(sender)
                readers = np.flatnonzero(layout.kept[:, sender] & layout.live_ports)
                todo += [int(r) for r in readers if r not in ports]
    return ports, senders


@settings(max_examples=150, deadline=None)
@given(layouts())
def test_touched_nodes_are_those_behind_a_missing_edge(layout: Liveness) -> None:
    ports, senders = layout.touched
    listed = [set(np.flatnonzero(mask).tolist()) for mask in (ports, senders)]
    assert listed == list(changed(layout))


@pytest.mark.parametrize("graph", SHAPES, ids=lambda graph: graph.describe())
def test_nothing_of_the_full_circuit_is_touched(graph: ComputationGraph) -> None:
    layout = Liveness(graph, graph.reads)
    assert not any(mask.any() for mask in layout.touched)
    assert layout.live.all()


def readers(layout: Liveness, row: int) -> Iterator[tuple[str, int]]:
    """Yield the letter and the live heads of an attention port."""
    port = layout.graph.ports[row]
    assert port.letter is not None
    for sender in layout.graph.feeds[row]:
        if layout.live[sender]:
            yield port.letter, layout.graph.senders[sender].index or 0


@settings(max_examples=100, deadline=None)
@given(layouts())
def test_groups_hold_the_live_ports_that_keep_the_same(layout: Liveness) -> None:
    graph = layout.graph
    for layer in range(graph.layers):
        groups = layout.groups[layer]
        rows = sorted(row for group in groups for row in group.rows)
        own = [i for i, p in enumerate(graph.ports) if p.node.layer == layer and p.letter]
        assert rows == [row for row in own if layout.live_ports[row]]
        assert len({group.kept.tobytes() for group in groups}) == len(groups)
        for group in groups:
            assert all(np.array_equal(layout.kept[row], group.kept) for row in group.rows)
            listed = [(letter, h) for letter, heads in group.heads.items() for h in heads]
            assert sorted(listed) == sorted(x for row in group.rows for x in readers(layout, row))
        for head in range(graph.heads):
            node = graph.senders[layout.head(layer, head)]
            assert str(node) == f"a{layer}.h{head}"


@settings(max_examples=100, deadline=None)
@given(layouts(), st.randoms(use_true_random=False))
def test_classes_part_senders_by_their_live_readers(layout: Liveness, draw: random.Random) -> None:
    senders = list(range(len(layout.graph.senders)))
    chosen = draw.sample(senders, draw.randint(1, len(senders)))
    classes = layout.classes(chosen)
    assert sorted(place for places in classes for place in places) == list(range(len(chosen)))
    live = np.flatnonzero(layout.live_ports)
    which = {place: i for i, places in enumerate(classes) for place in places}
    for a, u in enumerate(chosen):
        for b, v in enumerate(chosen):
            alike = all(layout.kept[row, u] == layout.kept[row, v] for row in live)
            assert (which[a] == which[b]) == alike


@pytest.mark.parametrize("graph", SHAPES, ids=lambda graph: graph.describe())
def test_groups_and_others_list_every_port_but_logits(graph: ComputationGraph) -> None:
    layout = Liveness(graph, graph.reads)
    found: list[int] = []
    for layer, others in enumerate(layout.others):
        for group in layout.groups[layer]:
            assert all(str(graph.ports[row]).startswith(f"a{layer}.") for row in group.rows)
            assert {graph.ports[row].letter for row in group.rows} == set(group.heads)
            found += group.rows
        assert [str(graph.ports[row]) for row in others] == [f"o{layer}", f"m{layer}"][
            -len(others) :
        ]
        found += others
    assert sorted(found) == list(range(len(graph.ports) - 1))


def test_the_current_stream_is_kept_only_while_somebody_reads_it() -> None:
    graph = ComputationGraph(layers=8, heads=4)
    full = make_plan(graph, graph.reads[None], consistent=True)
    assert full.current_until == graph.layers  # `logits` reads it
    few = random_mask(graph, 0.05, 0)
    assert few.sum() > 20
    plan = make_plan(graph, few[None], consistent=True)
    assert plan.current_until == -1  # each port adds up its few edges instead
    last = graph.reads.copy()
    last[-1] = False
    last[-1, -1] = True  # `logits` only reads the last MLP, which reads the whole stream
    assert make_plan(graph, last[None], consistent=True).current_until == graph.layers - 1
