"""Strips: one layout for all panels, colours that say what is new or leaves, curves below."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from edgewise.graphs.circuit import Circuit
from edgewise.graphs.errors import EdgewiseError, UnknownName
from edgewise.graphs.graph import ComputationGraph
from edgewise.graphs.names import Edge
from edgewise.graphs.timeline import Timeline
from edgewise.visualize.charts.timeline import (
    ABSENT,
    LEAVING,
    NEW,
    PASSING,
    STAYING,
    WIDEST,
    MetricLine,
    draw_timeline,
    make_timeline_scene,
)
from edgewise.visualize.scene import EdgeMark, NodeMark, Scene
from edgewise.visualize.svg import to_svg

GRAPH = ComputationGraph(layers=2, heads=2)
EMPTY = Circuit.empty(GRAPH)
ALWAYS, LATE, ONCE, EARLY = (
    "embed->a0.h0<v>", "a0.h0->a1.h1<k>", "a1.h1->logits", "embed->m0",
)  # fmt: skip
CIRCUITS = ([ALWAYS, EARLY], [ALWAYS, LATE, ONCE], [ALWAYS, LATE])


def strip(*, scored: bool = True, repeat: int = 1) -> Timeline:
    circuits = tuple(EMPTY.with_edges(edges) for edges in CIRCUITS * repeat)
    values = np.where(GRAPH.reads, 1.0, np.nan)
    values[GRAPH.locate(Edge.parse(LATE))] = -4.0
    labels = tuple(str(10 * i) for i in range(len(circuits)))
    return Timeline(labels, circuits, (values,) * len(circuits) if scored else ())


def scene(line: Timeline, **options: object) -> Scene:
    return make_timeline_scene(line, layout="built-in", **options)  # type: ignore[arg-type]


def by_name(marks: tuple[EdgeMark, ...] | tuple[NodeMark, ...], found: Scene) -> dict[str, list]:  # type: ignore[type-arg]
    """List the marks of each name by panel, from left to right."""
    panels = sorted((band.y, band.x) for band in found.bands)
    table: dict[str, dict[int, object]] = defaultdict(dict)
    for mark in marks:
        x, y = (mark.x, mark.y) if isinstance(mark, NodeMark) else mark.path[0][1][:2]
        at = max(i for i, (top, left) in enumerate(panels) if top <= y and left <= x)
        table[mark.name][at] = mark
    return {name: [row[i] for i in sorted(row)] for name, row in table.items()}


def test_colours_say_what_is_new_and_what_leaves() -> None:
    found = scene(strip())
    edges = by_name(found.edges, found)
    colours = {name: [mark.colour for mark in marks] for name, marks in edges.items()}
    assert colours == {
        ALWAYS: [STAYING, STAYING, STAYING],
        EARLY: [LEAVING, ABSENT, ABSENT],
        LATE: [ABSENT, NEW, STAYING],
        ONCE: [ABSENT, PASSING, ABSENT],
    }
    nodes = by_name(found.nodes, found)
    assert [mark.stroke for mark in nodes["m0"]] == [LEAVING, ABSENT, ABSENT]
    assert [mark.stroke for mark in nodes["a1.h1"]][:2] == [ABSENT, NEW]


def test_a_node_and_an_edge_stand_in_the_same_place_in_every_panel() -> None:
    found = scene(strip())
    corners = [(band.x, band.y) for band in found.bands]
    for marks in by_name(found.nodes, found).values():
        places = {
            (round(m.x - x, 1), round(m.y - y, 1)) for m, (x, y) in zip(marks, corners, strict=True)
        }
        assert len(places) == 1
    for marks in by_name(found.edges, found).values():
        shapes = [
            np.concatenate([np.reshape(v, (-1, 2)) for _, v in m.path]) - corner
            for m, corner in zip(marks, corners, strict=True)
        ]
        assert all(np.allclose(shape, shapes[0], atol=0.02) for shape in shapes)
    for band in found.bands:
        inside = [m for m in found.nodes if band.x < m.x < band.x + band.width]
        assert all(m.x + m.width / 2 <= band.x + band.width for m in inside)


def test_width_and_dashes_follow_the_score() -> None:
    found = scene(strip())
    edges = by_name(found.edges, found)
    assert edges[LATE][1].width > edges[ALWAYS][1].width > edges[LATE][0].width
    assert edges[LATE][1].dashes
    assert not edges[ALWAYS][1].dashes
    plain = scene(strip(scored=False))
    assert len({mark.width for mark in plain.edges if mark.colour != ABSENT}) == 1


def test_curves_stand_under_the_middles_of_their_panels() -> None:
    curve = MetricLine("of the model", [0.0, 5.0, -5.0], "#123456")
    found = scene(strip(), curves=[curve], axis="logit_diff")
    dots = [mark for mark in found.nodes if not mark.name]
    assert [mark.x for mark in dots] == pytest.approx(
        [band.x + band.width / 2 for band in found.bands], abs=0.01
    )
    low, high = max(d.y for d in dots), min(d.y for d in dots)
    assert [d.y for d in dots] == pytest.approx([(low + high) / 2, high, low], abs=0.02)
    assert all(d.y > band.y + band.height for d, band in zip(dots, found.bands, strict=True))
    assert "logit_diff of the model" in {text.text for text in found.legend.texts}
    assert "<title>10: of the model 5</title>" in to_svg(found)  # shown by pointing at the dot
    gap = scene(strip(), curves=[MetricLine("x", [None, None, None])])
    assert not [mark for mark in gap.nodes if not mark.name]


def test_many_checkpoints_are_broken_into_rows() -> None:
    line = strip(repeat=6)
    curve = MetricLine("x", list(range(len(line))))
    found = scene(line, curves=[curve])
    assert found.width <= WIDEST + 30
    rows = sorted({band.y for band in found.bands})
    assert len(rows) > 1
    assert len(found.bands) == len([m for m in found.nodes if not m.name]) == len(line)
    counts = [sum(band.y == y for band in found.bands) for y in rows]
    assert max(counts) - min(counts) <= len(rows)
    bottom = max(band.y + band.height for band in found.bands)
    assert all(text.y > bottom for text in found.legend.texts)
    assert max(text.y for text in found.legend.texts) < found.height


def test_only_what_is_shown_is_drawn() -> None:
    found = scene(strip(), shown=EMPTY.with_edges([ALWAYS]))
    assert {mark.name for mark in found.edges} == {ALWAYS}


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(EdgewiseError, match="nothing to draw"):
        scene(Timeline(("0", "1"), (EMPTY, EMPTY)))


def test_files(tmp_path: Path) -> None:
    for ending in ("svg", "png", "pdf"):
        draw_timeline(strip(), tmp_path / f"a.{ending}", layout="built-in")
        draw_timeline(strip(), tmp_path / f"b.{ending}", layout="built-in")
        first, second = ((tmp_path / f"{name}.{ending}").read_bytes() for name in "ab")
        assert first == second
        assert len(first) > 1000
    text = to_svg(scene(strip(), title="a < b"))
    assert "a &lt; b" in text
    with pytest.raises(UnknownName, match=r"\.dot.*Accepted: \.svg, \.png, \.pdf"):
        draw_timeline(strip(), tmp_path / "a.dot")
