"""What stands beside a diff: written and read as it was, and refused by field where damaged."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgewise.graphs.circuit import Circuit
from edgewise.graphs.comparison import (
    ROWS,
    Comparison,
    Controls,
    CrossEvaluation,
    CrossRow,
    EdgeChange,
    FloorRow,
    Likeness,
    NoiseFloor,
    RandomCircuits,
    Ratio,
    RolesComparison,
    RolesInModel,
)
from edgewise.graphs.diff import CircuitDiff, compare_scores
from edgewise.graphs.errors import FileFormatError
from edgewise.graphs.files import DiffFile, read_diff, write_diff
from edgewise.graphs.files.circuit import model_block
from edgewise.graphs.graph import ComputationGraph
from edgewise.graphs.roles import HeadRoles

GRAPH = ComputationGraph(layers=1, heads=2)
FLOOR = NoiseFloor(
    repetitions=2, examples=4, seeds_a=(1, 2), seeds_b=(3, 4), prompts="new seeds", method="acdc",
    scores="eap-ig", scores_options={"midpoint": False}, metric="kl", ablation="resample",
    level=0.05, edges_tested=8, test="a test", jaccard=Likeness((1.0,), (0.5,), (0.2,) * 4, 0.3),
    edges=(FloorRow("embed", "m0", 1.0, 0.5, 0.25, 0.0, 0.1, 0.9),),
)  # fmt: skip
COMPARED = Comparison(
    examples=8, clusters=4, metric="kl", unit="nats", ablation="resample", scores="eap-ig",
    scores_options={"steps": 5}, held_out=True, sha256="abc", delta=0.1, delta_share=0.005,
    detectable=0.2, level=0.05, edges_tested=8, full=(0.0, 0.0), empty=(20.0, 3.0),
    weights_correlation=0.99, controls=Controls(0, None),
    edges=(EdgeChange("embed", "m0", 0.25, 1.0, 0.75, 0.5, 1.0, 1e-9),),
)  # fmt: skip
CROSS = CrossEvaluation(
    metric="kl", ablation="resample", examples=4, sha256=None, models=("x", "y"),
    rows=tuple(CrossRow(name, 2, (1.0, 2.0), (0.5, 1.5)) for name in ROWS),
    random=RandomCircuits(
        2, 3, ((0.1, 0.2), (0.0, -0.1)), (Ratio(0.15, 0.1, 0.2), Ratio(-0.05))
    ),
    full=(3.0, 3.5), empty=(0.0, 0.5),
)  # fmt: skip
HEAD = HeadRoles.of("a0.h1", {"previous": 0.9}, {"first": 0.5, "rest": 0.5})
ROLES = RolesComparison(RolesInModel((HEAD,), ("short",)), RolesInModel((HEAD,)))


def diff_file(**blocks: Any) -> DiffFile:
    a = Circuit.empty(GRAPH).with_edges(["embed->logits"])
    model = model_block(
        GRAPH, name="m", revision=None, weights_sha256=None, family="gpt2", d_model=4
    )
    scores = np.full(GRAPH.reads.shape, np.nan, dtype=np.float32)
    diff = CircuitDiff(a, a.with_edges(["embed->m0"]))
    return DiffFile(diff, {"model": model}, {"model": model}, scores, scores, **blocks)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    found = diff_file(
        comparison=COMPARED, noise_floor=FLOOR, cross=CROSS, roles=ROLES, extra={"later": {"x": 1}}
    )
    alike = compare_scores(found.diff, (found.scores_a, found.scores_b))
    write_diff(tmp_path / "d.json", replace(found, alike=alike))
    return tmp_path / "d.json"


def test_what_is_written_is_read(written: Path) -> None:
    found = read_diff(written)
    assert (found.noise_floor, found.cross, found.roles) == (FLOOR, CROSS, ROLES)
    assert found.comparison == COMPARED
    block = json.loads(written.read_text())["comparison"]
    assert block["edges"] == [["embed", "m0", 0.25, 1.0, 0.75, 0.5, 1.0, 1e-9]]
    assert (block["test"], block["controls"]) == (
        "paired", {"other_prompts": 0, "rounded_weights": None},
    )  # fmt: skip
    assert found.alike == found.scores
    assert found.extra == {"later": {"x": 1}}
    again = written.with_name("again.json")
    write_diff(again, found)
    assert again.read_bytes() == written.read_bytes()


def test_without_blocks_there_are_none(tmp_path: Path) -> None:
    write_diff(tmp_path / "d.json", diff_file())
    found = read_diff(tmp_path / "d.json")
    assert found.alike is found.noise_floor is found.cross is found.roles is found.floor is None
    assert not {"scores", "noise_floor", "cross", "roles"} & set(
        json.loads((tmp_path / "d.json").read_text())
    )


DAMAGES: list[tuple[str, Any]] = [
    ("comparison", []),
    ("comparison.examples", "8"),
    ("comparison.level", 0),
    ("comparison.delta", -0.1),
    ("comparison.controls", [0, 0]),
    ("comparison.controls.other_prompts", "none"),
    ("comparison.full", [1.0]),
    ("comparison.edges.0", ["embed", "m0", 0.25]),
    ("comparison.edges.0", ["embed", "m9", 1, 1, 1, 1, 1, 1]),
    ("noise_floor", []),
    ("noise_floor.repetitions", "4"),
    ("noise_floor.repetitions", 1),
    ("noise_floor.repetitions", True),
    ("noise_floor.level", None),
    ("noise_floor.level", 1.5),
    ("noise_floor.jaccard", 0.5),
    ("noise_floor.jaccard.within_a", [[1.0]]),
    ("noise_floor.edges.0", ["embed", "m0"]),
    ("noise_floor.edges.0", ["embed", "m9", 1, 1, 1, 1, 1, 1]),
    ("noise_floor.edges.0", ["embed", "no name", 1, 1, 1, 1, 1, 1]),
    ("noise_floor.edges.0.7", "small"),
    ("cross.models", ["x"]),
    ("cross.rows", []),
    ("cross.rows.2.faithfulness", [0.5, None]),
    ("cross.random.faithfulness.0", [0.1]),
    ("cross.full", {"a": 1}),
    ("roles.a", {}),
    ("roles.a.0.head", "m0"),
    ("roles.a.0.head", "a0.h2"),
    ("roles.b.0.scores", {"previous": "much"}),
    ("roles.notes", ["a"]),
    ("scores.over", "everything"),
]


@pytest.mark.parametrize(("place", "value"), DAMAGES)
def test_a_damaged_block_is_refused_by_its_field(written: Path, place: str, value: Any) -> None:
    document = copy.deepcopy(json.loads(written.read_text()))
    *way, last = (int(part) if part.isdecimal() else part for part in place.split("."))
    target = document
    for part in way:
        target = target[part]
    target[last] = value
    written.write_text(json.dumps(document))
    with pytest.raises(FileFormatError) as caught:
        read_diff(written)
    name = place.partition(".")[0]
    told = str(caught.value)
    assert f"the diff's block {name} cannot be read ({name}" in told
    assert all(part in told for part in place.split(".")[1:2])


def test_many_repetitions_have_a_least_p_too() -> None:
    assert FLOOR.least_p == pytest.approx(2 / 6)
    assert replace(FLOOR, repetitions=10**9).least_p == 0.0
