"""What a report says of a diff: with and without a noise floor, cross-evaluation and roles."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edgewise.graphs.circuit import Circuit
from edgewise.graphs.comparison import (
    Comparison,
    Controls,
    CrossEvaluation,
    CrossRow,
    EdgeChange,
    FloorRow,
    Likeness,
    NoiseFloor,
    RandomCircuits,
    RolesComparison,
    RolesInModel,
)
from edgewise.graphs.diff import CircuitDiff
from edgewise.graphs.files import DiffFile, diff_files
from edgewise.graphs.files.circuit import CircuitFile, model_block
from edgewise.graphs.graph import ComputationGraph
from edgewise.graphs.roles import HeadRoles
from edgewise.report.findings import DiffFindings
from edgewise.report.report import templates
from edgewise.visualize.pictures import diff_picture

GRAPH = ComputationGraph(layers=2, heads=2)
NAMES = ("base", "my_model")


def circuit_file(edges: dict[str, float]) -> CircuitFile:
    circuit = Circuit.empty(GRAPH).with_edges(list(edges))
    scores = np.full(GRAPH.reads.shape, np.nan)
    for edge in circuit.edges:
        scores[GRAPH.locate(edge)] = edges[str(edge)]
    model = model_block(
        GRAPH, name="m", revision=None, weights_sha256=None, family="gpt2", d_model=8
    )
    task = {"name": "t", "sha256": None, "examples": 4, "seed": 0}
    found = {"method": "eap", "metric": "logit_diff", "ablation": "resample"}
    proof = {"kept_all": 0.0, "kept_none": 0.0, "stream": 0.0}
    return CircuitFile(circuit, model, task, found, proof, edge_scores=scores)


@pytest.fixture
def diff() -> DiffFile:
    """Compare two circuits: one edge shared, two appear, one vanishes."""
    a = circuit_file({"embed->m0": 2.0, "m0->logits": 1.0})
    b = circuit_file({"embed->m0": 3.0, "embed->m1": 0.5, "m1->logits": -0.25})
    return diff_files(a, b)


def told(diff: DiffFile, part: str = "") -> str:
    """Return what a report says of a diff, or what stands there under a heading."""
    words: Any = templates().get_template("diff.md.j2").module
    section: str = words.diff_section(DiffFindings(*NAMES, diff))
    return section.partition(f"### {part}")[2].partition("\n###")[0] if part else section


def floor_of(p: float = 0.01) -> NoiseFloor:
    rows = [
        ("embed", "m0", 1.0, 0.5), ("m0", "logits", 0.75, 0.25), ("embed", "m1", 0.0, 1.0),
        ("m1", "logits", 0.25, 0.5),
    ]  # fmt: skip
    return NoiseFloor(
        repetitions=4,
        examples=8,
        level=0.05,
        jaccard=Likeness((0.8, 0.9, 0.6), (0.7,), (0.2, 0.4), p),
        edges=tuple(FloorRow(*row) for row in rows),
    )


def compared_of(q: dict[str, float]) -> Comparison:
    """Make a comparison in which these edges have these q-values, and others have not changed."""
    rows: list[list[Any]] = [
        ["embed", "m0", 2.0, 3.0, 1.0, 0.5, 1.5, q.get("embed->m0", 0.9)],
        ["m0", "logits", 1.0, 0.25, -0.75, -1.0, -0.5, q.get("m0->logits", 0.9)],
        ["embed", "m1", 0.0, 0.5, 0.5, 0.25, 0.75, q.get("embed->m1", 0.9)],
        ["m1", "logits", 0.0, -0.25, -0.25, -1.0, 0.5, q.get("m1->logits", 0.9)],
    ]
    return Comparison(
        examples=8, clusters=8, metric="logit_diff", unit="logits", scores="eap-ig", delta=0.07,
        delta_share=0.005, detectable=0.2, level=0.05, edges_tested=57, controls=Controls(0, 0),
        edges=tuple(EdgeChange(*row) for row in rows),
    )  # fmt: skip


def cross_of(
    a: tuple[float, float], b: tuple[float, float], best: float, both: float = 0.0
) -> CrossEvaluation:
    """Make one; `a`, `b` and `both`: the faithfulness of A, B and what they share."""
    return CrossEvaluation(
        metric="logit_diff",
        models=("x", "y"),
        rows=tuple(
            CrossRow(name, 2, (1.0, 2.0), found)
            for name, found in (("A", a), ("B", b), ("both", (both, both)), ("either", (1.0, 1.0)))
        ),
        random=RandomCircuits(2, 3, ((-0.001, best), (0.0, best))),
        full=(3.0, 3.0),
        empty=(0.0, 0.0),
    )


def test_what_changed_is_told_in_numbers(diff: DiffFile) -> None:
    words = told(diff)
    assert "2 edges appear in the circuit, 1 vanishes and 1 stays (Jaccard 0.250" in words
    assert "1 node appears, 0 vanish and 2 stay" in words
    assert "\n\nNodes only in my\\_model: `m1`.\n\n" in words
    assert "From base to my\\_model" in words
    assert "rank correlation" not in words  # a single shared edge has none


def test_changes_are_told_with_their_intervals(diff: DiffFile) -> None:
    found = replace(diff, comparison=compared_of({"embed->m1": 0.002, "embed->m0": 0.04}))
    text = told(found, "What changed")
    assert "0.07 logits (0.5% of the larger model's difference between all edges and none)" in text
    assert "* 2 edges changed by more than 0.07 logits (q < 0.05, 8 prompts): 2 stronger" in text
    assert "* The smallest change that 8 prompts would have shown is 0.2 logits." in text
    assert "* Only in base: 0 of 1 changed.\n" in text
    assert "* Only in my\\_model: 1 of 2 changed: 1 stronger in my\\_model, 0 weaker.\n" in text
    assert "* Controls: edges that change where nothing changed: one half of the prompts" in text
    assert "after Benjamini and Hochberg over all 57 edges" in text
    assert "The circuits were found on these prompts too" in text
    appeared = text[text.index("Only in my\\_model, and changed (1)") : text.index("In both")]
    assert "| `embed->m1` | 0 | 0.5 | 0.5 | 0.25 to 0.75 | 0.002 |" in appeared
    assert "m1->logits" not in appeared
    assert "Only in base, and" not in text
    assert "| `embed->m0` | 2 | 3 | 1 | 0.5 to 1.5 | 0.04 |" in text
    assert "**Warning**" not in text


def test_where_nothing_changed_the_sets_differ_by_noise(diff: DiffFile) -> None:
    none = replace(compared_of({}), held_out=True, weights_correlation=0.0)
    text = told(replace(diff, comparison=none), "What changed")
    assert (
        "* No edge changed by more than 0.07 logits (q < 0.05, 8 held-out prompts): none above"
        in text
    )
    assert "none above 0.2 logits, the smallest change" in text
    assert "* The circuits differ in 3 edges, and none of these changed: as far as" in text
    assert "within the noise of selection" in text
    assert "* **Warning**: the weights of base and my\\_model are unrelated" in text
    assert "found on these prompts too" not in text and "and changed (" not in text


def test_the_floor_is_told_with_survival(diff: DiffFile) -> None:
    text = told(replace(diff, noise_floor=floor_of()), "How stable the sets are")
    assert "repeated 4 times in each model, each time on 8 pairs" in text
    assert "overlap by 0.800 (median), two in my\\_model by 0.700, one of each by 0.300" in text
    assert "differ by more than other prompts" in text
    assert "* 1 edge only in base; most repetitions keep 1 of these in base, and 0 in" in text
    assert "* 2 edges only in my\\_model; most repetitions keep 1 of these in my\\_model" in text
    alike = told(replace(diff, noise_floor=floor_of(p=0.4)), "How stable the sets are")
    assert "not shown to differ by more than other prompts" in alike


@pytest.mark.parametrize(
    ("a", "b", "q", "sentence"),
    [
        ((0.95, 0.97), (0.97, 0.95), None, "what they share keeps 0%: the edges in which"),
        ((0.95, 0.97), (0.97, 0.95), {}, "those of either circuit do about as much."),
        ((0.9, 0.3), (0.2, 0.8), None, "whether the models differ in them was not tested."),
        ((0.9, 0.3), (0.2, 0.8), {}, "told of two single circuits, not of the models."),
        ((0.9, 0.3), (0.2, 0.8), {"m0->logits": 0.01}, "in which they differ matter."),
        (
            (0.9, 0.8),
            (0.2, 0.3),
            {"m0->logits": 0.01},
            "apart, the other model's nearer",
        ),
        ((0.1, 0.1), (0.05, 0.05), None, "A random circuit does as well there"),
        ((0.9, 1.6), (0.9, 0.9), {"m0->logits": 0.01}, "lie 70 points apart, its own nearer"),
        ((0.4, 0.3), (0.3, 0.4), None, "Neither comes within half"),
    ],
)
def test_what_swapped_circuits_allow_to_say(
    diff: DiffFile,
    a: tuple[float, float],
    b: tuple[float, float],
    q: dict[str, float] | None,
    sentence: str,
) -> None:
    compared = None if q is None else compared_of(q)
    found = replace(diff, cross=cross_of(a, b, best=0.1), comparison=compared)
    text = told(found, "Function")
    second = text[text.index("In **my\\_model**") :]
    assert f"the circuit of base keeps {100 * a[1]:.0f}% of the difference" in second
    assert f"own {100 * b[1]:.0f}%; 2 random circuits keep 0% to 10%" in second
    assert sentence in second
    assert f"| circuit of base | 2 | {a[0]:.3f} | {a[1]:.3f} | 1 | 2 |" in text
    assert "| their union | 2 | 1.000 |" in text


def test_edges_matter_little_only_if_what_is_shared_does_as_well(diff: DiffFile) -> None:
    alike = cross_of((0.95, 0.97), (0.97, 0.95), best=0.1, both=0.94)
    text = told(replace(diff, cross=alike), "Function")
    assert text.count("in which the two circuits differ matter little.") == 2


@pytest.mark.parametrize(
    ("apart", "sentence"),
    [
        (((0.06, 0.3), (0.5, 0.9), (0.5, 0.9)), "lie 65 points apart [6, 30], its own nearer"),
        (((-0.04, 0.3), (0.5, 0.9), (0.5, 0.9)), "those of either circuit do about as much"),
        (((-0.04, 0.3), (-0.1, 0.2), (0.0, 0.9)), "matter is not shown."),
        (((-0.04, 0.04), (-0.03, 0.02), (0.0, 0.04)), "differ matter little."),
    ],
)
def test_edges_matter_if_an_interval_is_beyond_the_margin(
    diff: DiffFile, apart: tuple[tuple[float, float], ...], sentence: str
) -> None:
    names = ("A-B", "A-both", "B-both")
    cross = replace(
        cross_of((0.9, 0.3), (0.2, 0.95), best=0.1),
        differences=({}, dict(zip(names, apart, strict=True))),
    )
    text = told(replace(diff, cross=cross), "Function")
    assert sentence in text[text.index("In **my\\_model**") :]
    text = told(replace(diff, cross=replace(cross, undefined=(False, True))), "Function")
    assert "undefined and nothing follows" in text


def test_repetitions_too_few_to_show_a_difference_are_pointed_out(diff: DiffFile) -> None:
    few = replace(floor_of(p=0.1), repetitions=3)
    text = told(replace(diff, noise_floor=few), "How stable the sets are")
    assert "(3 repetitions cannot show it: their least p is 0.1)" in text
    assert "cannot show it" not in told(
        replace(diff, noise_floor=floor_of(p=0.4)), "How stable the sets are"
    )


def test_what_limits_roles_is_told_once_with_its_models(diff: DiffFile) -> None:
    sides = RolesInModel((), ("too short", "unable")), RolesInModel((), ("too short",))
    text = told(replace(diff, roles=RolesComparison(*sides)), "What heads do")
    assert "* roles in base and my\\_model: too short" in text
    assert "* roles in base: unable" in text


def test_roles_that_changed_are_listed(diff: DiffFile) -> None:
    def head(name: str, **scores: float) -> HeadRoles:
        return HeadRoles.of(name, scores)

    roles = RolesComparison(
        RolesInModel((head("a0.h0", previous=0.91), head("a0.h1"))),
        RolesInModel((head("a0.h0"), head("a0.h1"), head("a1.h0", induction=0.8))),
    )
    text = told(replace(diff, roles=roles), "What heads do")
    assert "Of 2 heads measured in both models, 1 have another role" in text
    assert "| `a0.h0` | previous token .91 | none |" in text
    assert "a0.h1" not in text and "a1.h0" not in text


def test_what_was_not_measured_has_no_part_and_is_said(diff: DiffFile) -> None:
    text = told(diff)
    assert re.findall("^#+ .*", text, re.MULTILINE) == [
        "## base and my\\_model", "### By kind and layer", "### Scores",
    ]  # fmt: skip
    assert "**Which edges changed was not tested**" in text and "Nor was it measured how" in text
    tested = told(replace(diff, comparison=compared_of({})))
    assert "was not tested" not in tested and "It was not measured how one" in tested
    crossed = told(replace(diff, cross=cross_of((0.9, 0.3), (0.2, 0.8), best=0.1)))
    assert "was it measured how one" not in crossed and "was not measured how" not in crossed


def test_many_edges_and_nodes_are_cut_short(diff: DiffFile) -> None:
    graph = ComputationGraph(layers=3, heads=20)
    both = Circuit.empty(graph).with_edges([])
    one = Circuit.full(graph)
    none = np.full(graph.reads.shape, np.nan, np.float32)
    rows = [EdgeChange(*str(edge).split("->"), 1, 0, -1, -2, 0, 0.02) for edge in one.edges]
    compared = replace(compared_of({}), edges=tuple(rows[:34]))
    text = told(
        replace(
            diff, diff=CircuitDiff(one, both), scores_a=none, scores_b=none, comparison=compared
        )
    )
    assert " and 24 more.\n" in text
    assert "Only in base, and changed (30 of 34):" in text
    assert len(re.findall(r"^\| `.*`  ?\| 1 \| 0 \| -1 \|", text, re.MULTILINE)) == 30


def test_the_picture_fades_what_is_not_stable(diff: DiffFile) -> None:
    found = replace(diff, noise_floor=floor_of(), comparison=compared_of({"embed->m1": 0.002}))
    picture = diff_picture(found, NAMES, top=10)
    assert picture.drawing.fade is not None and picture.drawing.fade.survival is not None
    shares = {str(edge): share for edge, share in picture.drawing.fade.survival.items()}
    assert shares == {"embed->m0": 0.5, "m0->logits": 0.75, "embed->m1": 1.0, "m1->logits": 0.5}
    assert [str(edge) for edge in picture.drawing.fade.changed] == ["embed->m1"]
    caption = picture.drawing.caption or ""
    assert "few of 4 repeated discoveries" in caption
    assert (
        "Solid edges changed by more than 0.07 logits (q < 0.05): 1 of 1 such edges are drawn"
        in caption
    )
    assert diff_picture(diff, NAMES, top=10).drawing.fade is None


def test_the_picture_shows_what_changed(diff: DiffFile) -> None:
    found = diff_picture(replace(diff, comparison=compared_of({"embed->m1": 0.002})), NAMES, top=10)
    fade = found.drawing.fade
    assert fade is not None and fade.survival is None
    assert list(fade.samples) == ["faint: did not", "solid: changed, q < 0.05"]
    none = diff_picture(replace(diff, comparison=compared_of({})), NAMES, top=10)
    assert none.drawing.fade is None
    assert "None of these edges changed by more than 0.07" in (none.drawing.caption or "")


def test_changed_edges_of_one_circuit_are_drawn_first() -> None:
    edges = {"embed->logits": 9.0, "a0.h0->logits": 8.0, "embed->a0.h0<v>": 7.0, "m0->logits": 0.1}
    edges |= {"embed->m0": 0.1}
    diff = diff_files(circuit_file(edges), circuit_file({"embed->m1": 1.0}))
    compared = compared_of({"m0->logits": 0.01, "embed->m0": 0.01})
    shown = diff_picture(replace(diff, comparison=compared), NAMES, top=2).subject
    assert "m0->logits" in {str(edge) for edge in shown.a.edges}
    plain = diff_picture(diff, NAMES, top=2).subject
    assert "m0->logits" not in {str(edge) for edge in plain.a.edges}
