"""Names follow from scores by stated rules; roles files are read back with checks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.graphs.errors import EdgewiseError, FileFormatError
from edgewise.graphs.files import RolesFile, read_circuit, read_roles, write_roles
from edgewise.graphs.roles import (
    MOST_APART,
    RULES,
    HeadRoles,
    ModelRoles,
    compare_roles,
    labels,
    matches,
    short,
)

TOKENS = {"sequences": 2, "shortest": 4, "longest": 5, "first": "bos", "vocabulary": 9, "seed": 0}


def side(layers: int, *heads: HeadRoles, **more: Any) -> ModelRoles:
    return ModelRoles(heads, {"name": "m", "layers": layers, "heads": 4}, TOKENS, **more)


A = side(
    3,
    HeadRoles.of("a0.h1", {"previous": 0.9, "duplicate": 0.4, "induction": 0.0}),
    HeadRoles.of("a1.h0", {"previous": 0.1}),
    HeadRoles.of("a2.h3", {"induction": 0.75, "copy": 1.0, "direct_share": -0.02, "direct": -0.5}),
    circuit="a.json",
    task={"name": "ioi"},
    measures={"logit_difference": 2.5, "examples": 8},
    notes=("short.",),
)
B = side(
    11,
    HeadRoles.of("a1.h1", {"previous": 0.5}, {"first": 0.25, "rest": 0.75}),
    HeadRoles.of("a5.h0", {"induction": 0.5}),
    HeadRoles.of("a9.h0", {"induction": 0.5}),
)


@pytest.mark.parametrize(
    ("scores", "names"),
    [
        ({"previous": 0.4}, ["previous token"]),
        ({"previous": 0.399}, []),
        ({"duplicate": 0.5, "induction": 0.6}, ["induction", "duplicate token"]),
        ({"copy": 1.0}, []),  # without a share nobody knows whether it matters
        ({"copy": 1.0, "direct_share": 0.019}, []),
        ({"copy": 1.0, "direct_share": -0.02}, ["copying"]),
        ({"copy": 0.49, "direct_share": 0.5}, []),
        ({"anti_copy": 0.5, "direct_share": 0.3}, ["copy suppression"]),
        ({"direct": 3.0, "direct_share": 0.9}, []),
        # what misses a threshold by less than 10⁻⁶ reaches it
        ({"induction": 0.4 - 9e-7}, ["induction"]),
        ({"induction": 0.4 - 11e-7}, []),
        ({"copy": 0.5, "direct_share": 0.02 - 9e-7}, ["copying"]),
        ({"copy": 0.5, "direct_share": 0.02 - 11e-7}, []),
    ],
)
def test_names(scores: dict[str, float], names: list[str]) -> None:
    assert [name for name, _ in HeadRoles.of("a0.h0", scores).roles] == names


def test_labels() -> None:
    assert A.labels == {
        "a0.h1": "previous token .90, duplicate token .40",
        "a2.h3": "copying 1.00, induction .75",
    }
    assert labels(A.heads, most=1) == {"a0.h1": "previous token .90", "a2.h3": "copying 1.00"}
    assert labels(A.heads) == A.labels
    assert [short(x) for x in (0.0, 0.004, 0.995, 0.994, -0.25, 10.5)] == [
        ".00", ".00", "0.99", ".99", "-.25", "10.50",
    ]  # fmt: skip


def test_everything_about_a_head_by_hand() -> None:
    head = HeadRoles.of("a1.h0", {"previous": 0.5, "induction": 0.9}, {"first": 0.25, "rest": 0.75})
    found = head.as_dict(layers=4)
    none = dict.fromkeys(("duplicate", "copy", "anti_copy", "attended", "direct", "direct_share"))
    assert found == {
        "head": "a1.h0", "depth": 0.3333, "role": "induction",
        "label": "induction .90, previous token .50",
        "roles": [["induction", 0.9], ["previous token", 0.5]],
        "scores": {"previous": 0.5, "induction": 0.9, **none},
        "spans": {"first": 0.25, "rest": 0.75,
                  **dict.fromkeys(("answer", "distractor", "changed", "last"))},
    }  # fmt: skip
    assert HeadRoles.of("a1.h0", {}).role is None
    assert [head.depth(layers) for layers in (2, 3)] == [1.0, 0.5]
    assert A.total == 3 * 4
    assert short(-10.5) == "-10.50"
    assert compare_roles([side(4, head)])[0]["heads"] == [[("a1.h0", 0.3333)]]


def test_depths_a_tenth_apart_match_whatever_their_last_digits() -> None:
    assert MOST_APART < 0.8 - 0.7 and matches([0.7], [0.8]) == 1
    assert matches([0.7], [0.8001]) == 0


def test_only_heads_have_roles() -> None:
    with pytest.raises(EdgewiseError, match="m1 is no attention head"):
        HeadRoles.of("m1", {})


# -- comparing ----------------------------------------------------------------------------------


def test_heads_of_models_of_different_shapes_side_by_side() -> None:
    found = {one["role"]: one for one in compare_roles([A, B])}
    assert list(found) == ["previous token", "duplicate token", "induction", "copying", None]
    assert found["previous token"] == {
        "role": "previous token",
        "heads": [[("a0.h1", 0.0)], [("a1.h1", 0.1)]],
        "matched": [1, 1],
    }
    assert found["induction"]["heads"] == [[("a2.h3", 1.0)], [("a5.h0", 0.5), ("a9.h0", 0.9)]]
    assert found["induction"]["matched"] == [1, 1]
    assert found["copying"]["matched"] == [1, 0]
    assert found[None]["heads"] == [[("a1.h0", 0.5)], []]


def test_the_depth_of_a_single_layer() -> None:
    assert HeadRoles.of("a0.h0", {}).depth(1) == 0


depths = st.lists(st.integers(0, 20).map(lambda n: n / 20), max_size=5)


@given(depths, depths)
def test_matches_are_as_many_as_can_be(a: list[float], b: list[float]) -> None:
    def most(left: list[float], right: list[float]) -> int:
        if not left:
            return 0
        rest = left[1:]
        taken = [
            1 + most(rest, [*right[:i], *right[i + 1 :]])
            for i, value in enumerate(right)
            if abs(value - left[0]) <= MOST_APART + 1e-9
        ]
        return max([most(rest, right), *taken])

    assert matches(a, b) == matches(b, a) == most(a, b)


# -- files --------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    target = tmp_path / "roles.json"
    write_roles(target, RolesFile((A, B), {"mine": [1, 2]}))
    return target


def test_what_is_written_is_read_back(path: Path, tmp_path: Path) -> None:
    found = read_roles(path)
    assert found.extra == {"mine": [1, 2]}
    for one, other in zip(found.models, (A, B), strict=True):
        assert vars(one) == vars(other)
    assert found.comparison == compare_roles([A, B])
    write_roles(tmp_path / "again.json", found)
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()
    assert set(json.loads(path.read_text())["rules"]) == set(RULES)


def test_a_row_stands_on_a_line(path: Path) -> None:
    rows = [line for line in path.read_text().splitlines() if '"scores"' in line]
    assert len(rows) == 6
    assert '"label": "previous token .90, duplicate token .40"' in rows[0]


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (["version"], 2, "newer edgewise"),
        (["heads"], None, "heads is None; accepted: a list"),
        (["models"], [], "models is []; accepted: a list that is not empty"),
        (["models", 0, "model"], {"name": "m"}, "models[0].model.layers, models[0].model.heads"),
        (["models", 0, "model", "layers"], "3", "layers is '3'; accepted: a whole number"),
        (["models", 1, "tokens"], None, "models[1].tokens"),
        (["models", 0, "task"], 3, "models[0].task"),
        (["models", 0], 3, "models[0] (an object)"),
        (["models", 0, "heads"], 7, "model 0 has 3 heads, its entry says 7"),
        (["heads", 0], [], "entry 1: accepted: an object with model, head, scores, spans"),
        (["heads", 0, "model"], 2, "entry 1: model is 2; accepted: 0 to 1"),
        (["heads", 1, "head"], "b7", "entry 2: 'b7' is not a node's name"),
        (["heads", 1, "head"], "m0", "entry 2: m0 is no attention head"),
        (["heads", 1, "head"], "a3.h0", "a3.h0 is not in a model of 3 layers and 4 heads"),
        (["heads", 1, "head"], "a0.h1", "entry 2: a0.h1 of model 0 stands twice"),
        (["heads", 2, "scores"], {}, "scores of a2.h3; accepted: an object with previous"),
        (["heads", 2, "scores", "copy"], "1", "copy of a2.h3 is '1'; accepted: a number or null"),
        (["heads", 2, "spans", "rest"], True, "rest of a2.h3 is True"),
    ],
)
def test_damaged_files(path: Path, place: list[Any], value: Any, words: str) -> None:
    document = json.loads(path.read_text())
    inner = document
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    path.write_text(json.dumps(document))
    with pytest.raises(FileFormatError) as caught:
        read_roles(path)
    assert words in str(caught.value)


def test_names_follow_from_scores_not_from_the_file(path: Path) -> None:
    document = json.loads(path.read_text())
    document["heads"][0]["roles"] = [["copying", 1.0]]
    path.write_text(json.dumps(document))
    assert read_roles(path).models[0].labels == A.labels


def test_a_roles_file_is_no_circuit(path: Path) -> None:
    with pytest.raises(FileFormatError, match="what was measured of heads; give the circuit"):
        read_circuit(path)


def test_a_file_needs_a_model() -> None:
    with pytest.raises(EdgewiseError, match="needs a model"):
        RolesFile(())
