"""Heat maps, overlap matrices and faded diffs: every value has its place, no text is cut."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import combinations, pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from edgewise.graphs.diff import CircuitDiff
from edgewise.graphs.errors import EdgewiseError, UnknownName
from edgewise.graphs.graph import ComputationGraph
from edgewise.graphs.names import Edge
from edgewise.graphs.overlap import pairwise_overlaps
from edgewise.visualize import make_scene, to_svg
from edgewise.visualize.charts.heat_map import Panel, make_heat_map, panels_of
from edgewise.visualize.charts.overlap import make_overlap_matrix
from edgewise.visualize.charts.scales import DIFFERENCE, SCORE, Scale
from edgewise.visualize.draw import draw, write_scene
from edgewise.visualize.legend import wrap
from edgewise.visualize.scene import Cell, Scene, Text
from edgewise.visualize.style import ONLY_A, ONLY_B, PAPER, SHARED, mix, text_width
from edgewise.visualize.subject import Fade

LONG = "HuggingFaceTB/SmolLM2-135M-Instruct@93efa2f097d58c2a74874c7e644dbc9b0cee75a2"
SHAPES = [
    ComputationGraph(2, 2),
    ComputationGraph(30, 9),
    ComputationGraph(80, 64),
    ComputationGraph(3, 4, post_norm=True, split_embedding=True),
    ComputationGraph(3, 4, experts=(0, 4, 4), shared_experts=True),
]
CAPTION = "A caption of many words, which say how a picture is read. " * 3


def box(text: Text) -> tuple[float, float, float, float]:
    """Return left, right, top and bottom of a text."""
    width = text_width(text.text, text.size) * (1.1 if text.bold else 1.0)
    left = text.x - {"start": 0.0, "middle": width / 2, "end": width}[text.anchor]
    return left, left + width, text.y - 0.4 * text.size, text.y + 0.4 * text.size


def check_texts(scene: Scene) -> None:
    """Fail if a text leaves the drawing or touches another."""
    texts = [*scene.texts, *scene.legend.texts]
    for text in texts:
        left, right, top, bottom = box(text)
        assert left >= 0 and right <= scene.width and top >= 0 and bottom <= scene.height, text
    for one, other in combinations(texts, 2):
        (l1, r1, t1, b1), (l2, r2, t2, b2) = box(one), box(other)
        assert r1 <= l2 or r2 <= l1 or b1 <= t2 or b2 <= t1, (one, other)


def values_of(graph: ComputationGraph, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    values = generator.standard_normal(len(graph.senders))
    values[generator.random(len(values)) < 0.3] = np.nan
    return values


@pytest.mark.parametrize("graph", SHAPES, ids=lambda graph: graph.describe())
@pytest.mark.parametrize("names", [("a", "b"), (LONG, f"{LONG}-tuned")])
def test_heat_maps_show_every_node_and_no_text_is_cut(
    graph: ComputationGraph, names: tuple[str, str]
) -> None:
    panels = panels_of(names, [values_of(graph, 0), values_of(graph, 1)])
    scene = make_heat_map(graph, panels, title=f"Scores of {names[0]}", caption=CAPTION)
    cells = [cell for cell in scene.cells if cell.name]
    assert len(cells) == 3 * len({cell.name for cell in cells})
    layers = sum(1 + graph.heads + graph.post_norm for _ in range(graph.layers))
    assert len(cells) == 3 * (layers + 1 + graph.split_embedding)
    check_cells(cells, scene)
    check_texts(scene)


def check_cells(cells: list[Cell], scene: Scene) -> None:
    """Fail if two cells of one row overlap, or one leaves the drawing."""
    rows: dict[float, list[Cell]] = {}
    for cell in cells:
        rows.setdefault(cell.y, []).append(cell)
        assert cell.x >= 0 and cell.x + cell.width <= scene.width
    for row in rows.values():
        ordered = sorted(row, key=lambda cell: cell.x)
        assert all(a.x + a.width <= b.x + 1e-6 for a, b in pairwise(ordered))


def test_cells_stand_at_their_layer_and_head() -> None:
    graph = ComputationGraph(3, 2)
    values = np.arange(len(graph.senders), dtype=float)
    scene = make_heat_map(graph, [Panel("p", values)])
    at = {cell.name: cell for cell in scene.cells if cell.name}
    assert at["a2.h0"].y < at["a1.h0"].y < at["a0.h0"].y < at["embed"].y
    assert at["a1.h0"].x < at["a1.h1"].x < at["m1"].x
    assert at["a1.h0"].y == at["a1.h1"].y == at["m1"].y
    assert at["a2.h1"].tooltip == "a2.h1  p  8"
    assert at["embed"].fill == "#ffffff" and at["m2"].fill == SCORE[1][1]


def test_the_difference_counts_a_missing_node_as_nothing() -> None:
    graph = ComputationGraph(1, 1)
    a, b = np.array([2.0, np.nan, np.nan]), np.array([0.5, 1.0, np.nan])
    difference = panels_of(["a", "b"], [a, b])[2]
    assert difference.difference and difference.title == "b − a"
    np.testing.assert_array_equal(difference.values, [-1.5, 1.0, np.nan])
    scene = make_heat_map(graph, panels_of(["a", "b"], [a, b]))
    fills = [cell.fill for cell in scene.cells if cell.name == "embed"]
    assert fills[0] == SCORE[1][1] and fills[2] == DIFFERENCE[0][1]
    assert "no score" in [text.text for text in scene.legend.texts]


def test_scales_are_centred_and_monotone() -> None:
    scale = Scale(4.0, *DIFFERENCE)
    assert [scale.value(place) for place in (-1, -0.5, 0, 0.5, 1)] == [-4, -1, 0, 1, 4]
    assert scale.colour(1.0) == scale.at(0.5) == DIFFERENCE[1][0]
    assert Scale(0.0, *DIFFERENCE).colour(0.0) == "#ffffff"


def test_values_that_do_not_fit_are_refused() -> None:
    with pytest.raises(EdgewiseError, match=r"of shape \[4\], the senders"):
        make_heat_map(ComputationGraph(1, 2), [Panel("p", np.zeros(3))])
    with pytest.raises(EdgewiseError, match="0 panels"):
        make_heat_map(ComputationGraph(1, 2), [])
    with pytest.raises(EdgewiseError, match="does not fit 2 names"):
        make_overlap_matrix(["a", "b"], [[]])


@pytest.mark.parametrize("names", [["a", "b"], [LONG, "c", "x" * 90], [f"n{i}" for i in range(30)]])
def test_overlap_matrices_show_every_pair(names: list[str], sample: Callable) -> None:
    graph = ComputationGraph(3, 3)
    circuits = [sample(graph, 20, seed)[0] for seed in range(len(names))]
    overlaps = pairwise_overlaps(circuits)
    scene = make_overlap_matrix(names, overlaps, title=f"Overlaps of {LONG}")
    cells = {cell.name: cell for cell in scene.cells if cell.name}
    assert len(cells) == len(names) ** 2
    check_cells(list(cells.values()), scene)
    check_texts(scene)
    words = [text.text for text in scene.texts]
    assert f"{overlaps[0][1].jaccard:.2f}" in words
    corrected = f"{overlaps[0][1].corrected:.2f}".replace("-", "−")
    assert corrected in words
    assert cells["1,2"].fill == cells["2,1"].fill


def test_long_names_break_within_themselves() -> None:
    for width in (30.0, 100.0, 200.0):
        lines = wrap(f"see {LONG}", width)
        assert "".join(lines).replace(" ", "") == f"see{LONG}"
        assert all(text_width(line, 8.5) <= width for line in lines)
    assert wrap("one two", 1000) == ["one two"]


# -- faded diffs --------------------------------------------------------------------------------


def faded(sample: Callable, changed: int = 1) -> tuple[CircuitDiff, Fade]:
    graph = ComputationGraph(4, 3)
    diff = CircuitDiff(sample(graph, 20, 2)[0], sample(graph, 20, 3)[0])
    edges = list((diff.a | diff.b).edges)
    survival = {edge: i / len(edges) for i, edge in enumerate(edges)}
    return diff, Fade(survival, frozenset(edges[:changed]), 0.05)


def test_shades_follow_stability_and_changed_edges_are_solid(sample: Callable) -> None:
    diff, fade = faded(sample)
    marks = {m.name: m for m in make_scene(diff, fade=fade, layout="built-in").edges if m.name}
    assert {mark.opacity for mark in marks.values()} == {1.0}
    stable = {e: share for e, share in (fade.survival or {}).items() if e not in fade.changed}
    for colour, part in ((SHARED, diff.shared), (ONLY_A, diff.only_a), (ONLY_B, diff.only_b)):
        ink = 3 * 255 - sum(bytes.fromhex(colour[1:]))
        for edge in (edge for edge in part.edges if edge in stable):
            paleness = (3 * 255 - sum(bytes.fromhex(marks[str(edge)].colour[1:]))) / ink
            assert paleness == pytest.approx(0.08 + 0.42 * stable[edge], abs=0.01)
    (changed,) = fade.changed
    mark = marks[str(changed)]
    assert mark.colour in (SHARED, ONLY_A, ONLY_B) and list(marks)[-1] == mark.name
    assert "changed, q < 0.05" in mark.tooltip
    assert "kept in 0% of the repetitions" in mark.tooltip


def test_the_legend_says_what_fading_means(sample: Callable) -> None:
    diff, fade = faded(sample)
    words = [t.text for t in make_scene(diff, fade=fade, layout="built-in").legend.texts]
    assert "stability" in words and "solid: changed, q < 0.05" in words
    plain = make_scene(diff, layout="built-in")
    assert "stability" not in [text.text for text in plain.legend.texts]
    unknown = make_scene(diff, fade=Fade({}, frozenset(), 0.05), layout="built-in")
    pale = {mix(PAPER, colour, 0.08) for colour in (SHARED, ONLY_A, ONLY_B)}
    assert {mark.colour for mark in unknown.edges if mark.name} == pale


def test_long_names_fit_the_legend_of_a_diff(sample: Callable) -> None:
    diff, fade = faded(sample)
    scene = make_scene(diff, fade=fade, names=(LONG, "x" * 80), title=LONG, layout="built-in")
    for text in (*scene.legend.texts, *scene.texts):
        left, right, _, _ = box(text)
        assert left >= 0 and right <= scene.width, text


def test_dot_has_the_shades(sample: Callable, tmp_path: Path) -> None:
    diff, fade = faded(sample)
    text = draw(diff, tmp_path / "d.dot", fade=fade).read_text()
    shades = {m.name: m.colour for m in make_scene(diff, fade=fade, layout="built-in").edges}
    lines = [line for line in text.splitlines() if " -> " in line and "edgetooltip" in line]
    assert len(lines) == len(diff.a | diff.b)
    for line in lines:
        name = line.split('edgetooltip="')[1].split("  ")[0]
        assert f'color="{shades[name]}"' in line


# -- files --------------------------------------------------------------------------------------


def test_endless_names_are_cut() -> None:
    scene = make_heat_map(
        ComputationGraph(1, 1), [Panel("long " * 9999, np.ones(3))], title="x" * 9999
    )
    assert scene.height < 60 * 17 + 60 * 12 + 200 and sum(t.text == "…" for t in scene.texts) == 2
    assert scene.title == "x" * 9999


def test_html_is_one_page_with_names_and_scores(sample: Callable, tmp_path: Path) -> None:
    circuit, scores = sample(ComputationGraph(4, 3), 25, 2)
    path = draw(
        circuit, tmp_path / "c.html", scores=scores, title="a </script> & b", layout="built-in"
    )
    text = path.read_text()
    assert text.startswith("<!DOCTYPE html>") and "<?xml" not in text
    assert not re.search("https?:", text.replace("http://www.w3.org/2000/svg", ""))
    assert text.count("<script>") == text.count("</script>") == 1
    assert "<title>a &lt;/script&gt; &amp; b</title>" in text
    svg = ElementTree.fromstring(text[text.index("<svg") : text.index("</svg>") + 6])
    edges = [one for one in svg.iter() if one.get("data-edge")]
    assert len(edges) == len(circuit)
    for edge in edges:
        name = Edge.parse(edge.get("data-edge") or "")
        told = edge.findtext("{http://www.w3.org/2000/svg}title")
        assert told == f"{name}  score {scores[str(name)]:.4g}"


@pytest.mark.parametrize("suffix", ["svg", "png", "pdf", "html"])
def test_maps_are_written_in_every_format(suffix: str, tmp_path: Path) -> None:
    if suffix in ("png", "pdf"):
        pytest.importorskip("matplotlib")
    graph = ComputationGraph(2, 2)
    scene = make_heat_map(graph, panels_of(["a", "b"], [values_of(graph, 0), values_of(graph, 1)]))
    one, two = (write_scene(scene, tmp_path / f"{n}.{suffix}").read_bytes() for n in "ab")
    assert one == two and len(one) > 1000


def test_maps_have_no_dot(tmp_path: Path) -> None:
    scene = make_heat_map(ComputationGraph(1, 1), [Panel("p", np.zeros(3))])
    with pytest.raises(UnknownName, match=r"Accepted: \.svg, \.png, \.pdf, \.html"):
        write_scene(scene, tmp_path / "m.dot")
    assert list(tmp_path.iterdir()) == []


def test_cells_carry_their_names(tmp_path: Path) -> None:
    scene = make_heat_map(ComputationGraph(1, 1), [Panel("<p>", np.ones(3))])
    root = ElementTree.fromstring(to_svg(scene))
    cells = [one for one in root.iter() if one.get("data-cell")]
    assert [one.get("data-cell") for one in cells] == ["embed", "a0.h0", "m0"]
    assert cells[0].findtext("{http://www.w3.org/2000/svg}title") == "embed  <p>  1"


PROGRAM = """
import sys
import numpy as np
from edgewise.graphs.graph import ComputationGraph
from edgewise.graphs.overlap import clustered_order, pairwise_overlaps
from edgewise.graphs.scores import Scores
from edgewise.visualize.charts.heat_map import ScoredSide, draw_heat_map
from edgewise.visualize.charts.overlap import draw_overlap
from edgewise.visualize.draw import write_scene
graph, generator = ComputationGraph(3, 3), np.random.default_rng(0)
scores = [Scores(graph, generator.standard_normal(graph.reads.shape)) for _ in range(4)]
sides = [ScoredSide(name, one) for name, one in zip("ab", scores)]
write_scene(draw_heat_map(sides), f"{sys.argv[1]}/heat.html")
circuits = {str(i): one.top(30) for i, one in enumerate(scores)}
write_scene(draw_overlap(circuits, clustered=True)[0], f"{sys.argv[1]}/overlap.svg")
assert "matplotlib" not in sys.modules and "torch" not in sys.modules
"""


def test_maps_do_not_depend_on_the_hash_seed(tmp_path: Path) -> None:
    found = []
    for seed in ("0", "77"):
        folder = tmp_path / seed
        folder.mkdir()
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", PROGRAM, str(folder)], check=True, env=environment)
        found.append({p.name: p.read_bytes() for p in folder.iterdir()})
    assert len(found[0]) == 2 and found[0] == found[1]
