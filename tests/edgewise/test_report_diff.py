"""What a report says of a diff: with and without a noise floor, cross-evaluation and roles."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edgewise.graphs.circuit import Circuit
from edgewise.graphs.comparison import (
    CrossEvaluation,
    CrossRow,
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


def floor_of(q: dict[str, float], p: float = 0.01) -> NoiseFloor:
    rows: list[list[Any]] = [
        ["embed", "m0", 1.0, 0.5, 2.0, 3.0, 0.5, q.get("embed->m0", 0.9)],
        ["m0", "logits", 0.75, 0.25, 1.0, 0.25, 0.001, q.get("m0->logits", 0.9)],
        ["embed", "m1", 0.0, 1.0, 0.0, 0.5, 0.001, q.get("embed->m1", 0.9)],
        ["m1", "logits", 0.25, 0.5, 0.0, -0.25, 0.2, q.get("m1->logits", 0.9)],
    ]
    return NoiseFloor(
        repetitions=4,
        examples=8,
        level=0.05,
        test="a test",
        jaccard=Likeness((0.8, 0.9, 0.6), (0.7,), (0.2, 0.4), p),
        edges=tuple(FloorRow(*row) for row in rows),
    )


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


def test_the_floor_is_told_with_survival(diff: DiffFile) -> None:
    found = replace(diff, noise_floor=floor_of({"embed->m1": 0.002, "embed->m0": 0.04}))
    text = told(found, "Beside the noise floor")
    assert "repeated 4 times in each model, each time on 8 pairs" in text
    assert "overlap by 0.800 (median), two in my\\_model by 0.700, one of each by 0.300" in text
    assert "differ by more than other prompts" in text
    assert "* 1 edge only in base; of these 0 changed beyond the noise floor" in text
    assert "* 2 edges only in my\\_model; of these 1 changed" in text
    appeared = text[text.index("Appeared in my\\_model") : text.index("In both circuits")]
    assert "| `embed->m1` | 0% | 100% | 0 | 0.5 | 0.001 | 0.002 |" in appeared
    assert "m1->logits" not in appeared
    assert "Vanished" not in text
    assert "| `embed->m0` | 100% | 50% | 2 | 3 |" in text


def test_a_floor_that_nothing_passes_claims_nothing(diff: DiffFile) -> None:
    text = told(replace(diff, noise_floor=floor_of({}, p=0.4)), "Beside the noise floor")
    assert "not shown to differ by more than other prompts" in text
    assert "Appeared" not in text and "Vanished" not in text
    assert text.count("of these 0 changed beyond the noise floor") == 2


@pytest.mark.parametrize(
    ("a", "b", "q", "sentence"),
    [
        ((0.95, 0.97), (0.97, 0.95), None, "what they share keeps 0%: the edges in which"),
        ((0.95, 0.97), (0.97, 0.95), {}, "those of either circuit do about as much."),
        ((0.9, 0.3), (0.2, 0.8), None, "is not known without a noise floor."),
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
    floor = None if q is None else floor_of(q)
    found = replace(diff, cross=cross_of(a, b, best=0.1), noise_floor=floor)
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


def test_repetitions_too_few_to_show_a_difference_are_pointed_out(diff: DiffFile) -> None:
    few = replace(floor_of({}, p=0.1), repetitions=3)
    text = told(replace(diff, noise_floor=few), "Beside the noise floor")
    assert "(3 repetitions cannot show it: their least p is 0.1)" in text
    assert "cannot show it" not in told(
        replace(diff, noise_floor=floor_of({}, p=0.4)), "Beside the noise floor"
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
    assert "**No noise floor was measured**" in text and "Nor was it measured how one" in text
    floored = told(replace(diff, noise_floor=floor_of({})))
    assert "No noise floor" not in floored and "It was not measured how one" in floored
    crossed = told(replace(diff, cross=cross_of((0.9, 0.3), (0.2, 0.8), best=0.1)))
    assert "was it measured how one" not in crossed and "was not measured how" not in crossed


def test_many_edges_and_nodes_are_cut_short(diff: DiffFile) -> None:
    graph = ComputationGraph(layers=3, heads=20)
    both = Circuit.empty(graph).with_edges([])
    one = Circuit.full(graph)
    none = np.full(graph.reads.shape, np.nan, np.float32)
    rows = [FloorRow(*str(edge).split("->"), 1, 0, 2.0, 1.0, 0.01, 0.02) for edge in one.edges]
    floor = replace(floor_of({}), edges=tuple(rows[:34]))
    text = told(
        replace(diff, diff=CircuitDiff(one, both), scores_a=none, scores_b=none, noise_floor=floor)
    )
    assert " and 24 more.\n" in text
    assert "Vanished from base and changed beyond the noise floor (30 of 34):" in text
    assert len(re.findall(r"^\| `.*`  ?\| 100% \| 0% \|", text, re.MULTILINE)) == 30


def test_the_picture_fades_what_is_not_stable(diff: DiffFile) -> None:
    picture = diff_picture(replace(diff, noise_floor=floor_of({"embed->m1": 0.002})), NAMES, top=10)
    assert picture.drawing.fade is not None
    shares = {str(edge): share for edge, share in picture.drawing.fade.survival.items()}
    assert shares == {"embed->m0": 0.5, "m0->logits": 0.75, "embed->m1": 1.0, "m1->logits": 0.5}
    assert [str(edge) for edge in picture.drawing.fade.changed] == ["embed->m1"]
    caption = picture.drawing.caption or ""
    assert "few of 4 repeated discoveries" in caption
    assert "(q < 0.05 after Benjamini and Hochberg): 1 of 1 such edges are drawn" in caption
    none = diff_picture(replace(diff, noise_floor=floor_of({})), NAMES, top=10)
    assert "No edge changed beyond the noise floor" in (none.drawing.caption or "")
    assert diff_picture(diff, NAMES, top=10).drawing.fade is None


def test_changed_edges_of_one_circuit_are_drawn_first() -> None:
    edges = {"embed->logits": 9.0, "a0.h0->logits": 8.0, "embed->a0.h0<v>": 7.0, "m0->logits": 0.1}
    edges |= {"embed->m0": 0.1}
    diff = diff_files(circuit_file(edges), circuit_file({"embed->m1": 1.0}))
    rows = (
        FloorRow("m0", "logits", 1.0, 0.0, 0.1, 0.0, 0.001, 0.01),
        FloorRow("embed", "m0", 1.0, 0.0, 0.1, 0.0, 0.001, 0.01),
    )
    floor = replace(floor_of({}), edges=rows)
    shown = diff_picture(replace(diff, noise_floor=floor), NAMES, top=2).subject
    assert "m0->logits" in {str(edge) for edge in shown.a.edges}
    plain = diff_picture(diff, NAMES, top=2).subject
    assert "m0->logits" not in {str(edge) for edge in plain.a.edges}
