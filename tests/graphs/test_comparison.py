"""What a comparison, a noise floor, a cross-evaluation and roles allow to say, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgewise.graphs.circuit import Circuit
from edgewise.graphs.comparison import (
    ROWS,
    Changes,
    Comparison,
    Controls,
    CrossEvaluation,
    CrossRow,
    EdgeChange,
    Floor,
    FloorRow,
    Likeness,
    NoiseFloor,
    RandomCircuits,
    Ratio,
    RolesComparison,
    RolesInModel,
    changed_edges,
)
from edgewise.graphs.diff import CircuitDiff
from edgewise.graphs.graph import ComputationGraph
from edgewise.graphs.roles import HeadRoles

EMPTY = Circuit.empty(ComputationGraph(layers=1, heads=1))
A = EMPTY.with_edges(["embed->m0", "embed->logits"])
B = EMPTY.with_edges(["embed->m0", "m0->logits"])
MEASURED = NoiseFloor(
    repetitions=3,
    examples=4,
    level=0.05,
    jaccard=Likeness((1.0, 0.5, 0.25), (0.75,) * 3, (0.2,) * 9, 0.1),
    edges=(
        FloorRow("embed", "m0", 1.0, 0.75),
        FloorRow("embed", "logits", 1.0, 0.25),
        FloorRow("m0", "logits", 0.0, 0.5),
    ),
)
COMPARED = Comparison(
    examples=32, clusters=32, metric="logit_diff", unit="logits", held_out=True, delta=0.07,
    detectable=0.09, level=0.05,
    edges=(  # means in A and B, the change, its interval, q
        EdgeChange("embed", "m0", 1.0, -2.0, -3.0, -4.0, -2.0, 0.01),
        EdgeChange("embed", "logits", 3.0, 1.0, -2.0, -5.0, 1.0, 0.05),
        EdgeChange("m0", "logits", 0.1, 0.4, 0.3, 0.2, 0.4, 0.049),
        EdgeChange("a0.h0", "logits", 0.0, 0.5, 0.5, -1.0, 2.0, 0.9),
        EdgeChange("embed", "a0.h0<v>", -2.0, 1.0, 3.0, 2.5, 3.5, 0.0),
    ),
)  # fmt: skip
TEST = "(q < 0.05, 32 held-out prompts)"


def test_changes_are_sorted_into_places_and_those_below_the_level_have_changed() -> None:
    found = Changes(COMPARED, CircuitDiff(A, B))
    assert {place: [row.edge for row in rows] for place, rows in found.rows.items()} == {
        "only_a": ["embed->logits"],
        "only_b": ["m0->logits"],
        "shared": ["embed->m0"],
        "outside": ["embed->a0.h0<v>", "a0.h0->logits"],  # those that changed first
    }
    changed = {place: [row.edge for row in found.changed(place)] for place in found.rows}
    assert changed == {
        "only_a": [],  # a q of the level itself is not below it
        "only_b": ["m0->logits"],
        "shared": ["embed->m0"],
        "outside": ["embed->a0.h0<v>"],
    }
    assert {str(edge) for edge in changed_edges(COMPARED, EMPTY.graph).edges} == {
        "embed->m0", "m0->logits", "embed->a0.h0<v>",
    }  # fmt: skip
    assert found.circuit == changed_edges(COMPARED, EMPTY.graph)


def test_what_changed_is_told_with_what_would_have_been_shown() -> None:
    """An edge is stronger where its |score| is larger: from 1 to −2, not from −2 to 1."""
    assert Changes(COMPARED, CircuitDiff(A, B)).sentences(("old", "new")) == [
        f"3 edges changed by more than 0.07 logits {TEST}: 2 stronger in new, 1 weaker",
        "the smallest change that 32 held-out prompts would have shown is 0.09 logits",
        "only in old: 0 of 1 changed",
        "only in new: 1 of 1 changed: 1 stronger in new, 0 weaker",
        "shared: 1 of 1 changed: 1 stronger in new, 0 weaker",
        "in neither circuit: 1 changed: 0 stronger in new, 1 weaker",
    ]


def test_no_change_is_told_as_none_above_what_would_have_been_shown() -> None:
    strict = replace(COMPARED, level=1e-9, unit="", held_out=False, clusters=16, edges=())
    assert Changes(strict, CircuitDiff(A, B)).sentences() == [
        "no edge changed by more than 0.07 of logit_diff (q < 1e-09, 32 prompts of 16 templates): "
        "none above 0.09 of logit_diff, the smallest change that 32 prompts of 16 templates would "
        "have shown",
        "the circuits differ in 2 edges, and none of these changed: as far as these prompts tell, "
        "that difference of sets is within the noise of selection",
    ]
    assert len(Changes(strict, CircuitDiff(A, A)).sentences()) == 1


def test_controls_and_unrelated_weights_are_pointed_out() -> None:
    diff = CircuitDiff(A, B)
    assert Changes(COMPARED, diff).controls() is None and Changes(COMPARED, diff).warnings() == []
    sound = replace(COMPARED, controls=Controls(0, 0), weights_correlation=0.99)
    assert Changes(sound, diff).controls(("old", "new")) == (
        "edges that change where nothing changed: one half of the prompts against the other, in "
        "one model: 0; new against itself with weights rounded to bfloat16: 0 (expected: none)"
    )
    assert Changes(sound, diff).warnings() == []
    doubtful = replace(COMPARED, controls=Controls(2, 1), weights_correlation=0.01)
    weights, halves, rounded = Changes(doubtful, diff).warnings(("old", "new"))
    assert weights.startswith("the weights of old and new are unrelated (correlation 0.01)")
    assert "`edgewise roles`" in weights
    assert halves.startswith("2 edges are found to change between two halves of the prompts")
    assert rounded.startswith("1 edge is found to change between new and itself with rounded")


def test_what_a_comparison_needs() -> None:
    for wrong in ({"level": 0.0}, {"delta": -1.0}, {"clusters": 33}, {"clusters": 1}):
        with pytest.raises(ValueError, match="a level between 0 and 1, a delta from 0 up"):
            replace(COMPARED, **wrong)  # type: ignore[arg-type]


def test_what_the_floor_allows_to_say() -> None:
    assert Floor(MEASURED, CircuitDiff(A, B)).sentences(("old", "new")) == [
        "1 edge only in old; most repetitions keep 1 of these in old, and 0 in new",
        "1 edge only in new; most repetitions keep 0 of these in new, and 0 in old",
        "1 edge shared; most repetitions in both keep 1",
    ]


def test_the_least_p_of_so_many_repetitions() -> None:
    """Of C(2R, R) ways to deal 2R out to two groups, two give the groups themselves."""
    assert replace(MEASURED, repetitions=2).least_p == pytest.approx(2 / 6)
    assert MEASURED.least_p == pytest.approx(2 / 20)
    assert 0 < replace(MEASURED, repetitions=499).least_p < 1e-290
    assert replace(MEASURED, repetitions=500).least_p == 0


def test_a_floor_needs_two_repetitions_and_a_level() -> None:
    for wrong in ({"repetitions": 1}, {"level": 0.0}, {"level": 1.0}, {"level": -0.1}):
        with pytest.raises(ValueError, match="repetitions from 2 up, a level between 0 and 1"):
            replace(MEASURED, **wrong)  # type: ignore[arg-type]
    assert replace(MEASURED, level=0.999, repetitions=2).level == 0.999


def test_likeness_is_told_side_by_side() -> None:
    told = [(words, values.tolist()) for words, values in MEASURED.likeness()]
    assert told == [
        ("two repetitions in A", [1.0, 0.5, 0.25]),
        ("two repetitions in B", [0.75] * 3),
        ("one in A, one in B", [0.2] * 9),
    ]


CROSS = CrossEvaluation(
    metric="kl",
    models=("x", "y"),
    rows=tuple(CrossRow(name, i, (i, -i), (i / 2, i / 4)) for i, name in enumerate(ROWS)),
    random=RandomCircuits(3, 5, ((0.1, 0.7, 0.2), (0.0, -0.1, 0.3))),
    full=(3.0, 3.5),
    empty=(0.0, 0.5),
)


def test_rows_and_ends_of_a_cross_evaluation() -> None:
    assert CROSS.row("both") == CrossRow("both", 2, (2, -2), (1.0, 0.5))
    least, most = list(CROSS.random.told())
    assert least == ("3 random ones, least faithful", (Ratio(0.1), Ratio(-0.1)))
    assert most == ("3 random ones, most faithful", (Ratio(0.7), Ratio(0.3)))
    middle = (Ratio(0.2, 0.1, 0.6), Ratio(None))
    assert [*replace(CROSS.random, median=middle).told()] == [least, ("their median", middle), most]
    assert middle[0].interval == (0.1, 0.6)
    assert middle[1].interval is None
    assert list(RandomCircuits(0, 5, ((), ())).told()) == []
    assert replace(CROSS, metric="nll").random == CROSS.random
    with pytest.raises(ValueError, match="accepted: rows of A, B, both, either"):
        replace(CROSS, rows=CROSS.rows[::-1])
    for values in (((0.1, 0.7), (0.0, -0.1, 0.3)), ((0.1, 0.7, 0.2), (0.0, -0.1))):
        with pytest.raises(ValueError, match="the random faithfulness of every circuit"):
            replace(CROSS, random=RandomCircuits(3, 5, values))


def test_roles_are_compared_where_they_were_measured_in_both_models() -> None:
    only, here, there = (
        HeadRoles.of(name, {"previous": value})
        for name, value in (("a0.h0", 0.5), ("a0.h1", 0.9), ("a0.h1", 0.1))
    )
    found = RolesComparison(
        RolesInModel((only, here), ("no task", "short")), RolesInModel((there,), ("short", "few"))
    )
    assert found.heads == [(here, there)]
    assert found.notes(("old", "new")) == [
        "roles in old: no task",
        "roles in old and new: short",
        "roles in new: few",
    ]
