"""What a noise floor, a cross-evaluation and roles allow to say: numbers and words by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgewise.graphs.circuit import Circuit
from edgewise.graphs.comparison import (
    ROWS,
    CrossEvaluation,
    CrossRow,
    Floor,
    FloorRow,
    Likeness,
    NoiseFloor,
    RandomCircuits,
    RolesComparison,
    RolesInModel,
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
    edges=(  # means in A and B, p, q
        FloorRow("embed", "m0", 1, 1, 1.0, -2.0, 0.001, 0.01),
        FloorRow("embed", "logits", 1, 0, 3.0, 1.0, 0.01, 0.05),
        FloorRow("m0", "logits", 0, 1, 0.1, 0.4, 0.02, 0.049),
        FloorRow("a0.h0", "logits", 0, 0, 0.0, 0.5, 0.9, 0.9),
        FloorRow("embed", "a0.h0<v>", 0, 0, -2.0, 1.0, 0.0, 0.0),
    ),
)
BEYOND = "changed beyond the noise floor (q < 0.05)"


def test_edges_are_sorted_into_places_and_those_below_the_level_have_changed() -> None:
    floor = Floor(MEASURED, CircuitDiff(A, B))
    assert {place: [row.edge for row in rows] for place, rows in floor.rows.items()} == {
        "only_a": ["embed->logits"],
        "only_b": ["m0->logits"],
        "shared": ["embed->m0"],
        "outside": ["embed->a0.h0<v>", "a0.h0->logits"],  # the least q first
    }
    changed = {place: [row.edge for row in floor.changed(place)] for place in floor.rows}
    assert changed == {
        "only_a": [],  # a q of the level itself is not below it
        "only_b": ["m0->logits"],
        "shared": ["embed->m0"],
        "outside": ["embed->a0.h0<v>"],
    }


def test_what_the_floor_allows_to_say() -> None:
    """An edge is stronger where its |score| is larger: from 1 to −2, not from −2 to 1."""
    assert Floor(MEASURED, CircuitDiff(A, B)).sentences(("old", "new")) == [
        f"1 edge only in old; of these 0 {BEYOND}",
        f"1 edge only in new; of these 1 {BEYOND}: 1 stronger in new, 0 weaker",
        f"1 edge shared; the scores of 1 {BEYOND}: 1 stronger in new, 0 weaker",
        f"1 edge in neither circuit {BEYOND}: 0 stronger in new, 1 weaker",
    ]
    assert Floor(replace(MEASURED, level=0.01), CircuitDiff(A, A)).sentences() == [
        "0 edges only in A",
        "0 edges only in B",
        f"2 edges shared; the scores of 0 {BEYOND.replace('0.05', '0.01')}",
        f"1 edge in neither circuit {BEYOND.replace('0.05', '0.01')}: 0 stronger in B, 1 weaker",
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
    assert list(CROSS.random.ends()) == [
        ("3 random ones, least faithful", (0.1, -0.1)),
        ("3 random ones, most faithful", (0.7, 0.3)),
    ]
    assert list(RandomCircuits(0, 5, ((), ())).ends()) == []
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
