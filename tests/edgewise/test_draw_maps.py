"""`edgewise draw --as heat-map` and `--as overlap`: what is drawn, called and refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgewise.graphs.circuit import Circuit
from edgewise.graphs.comparison import RolesComparison, RolesInModel
from edgewise.graphs.diff import CircuitDiff
from edgewise.graphs.files import DiffFile, read_circuit, read_scores
from edgewise.graphs.graph import ComputationGraph
from edgewise.graphs.roles import HeadRoles
from edgewise.graphs.scores import Scores
from edgewise.visualize.pictures import role_changes

from .conftest import Run


@pytest.fixture
def tuned(edgewise: Run, models: dict[str, Path], pairs: Path, tmp_path: Path) -> Path:
    """Discover a circuit of the other model of the same shape."""
    path = tmp_path / "tuned.json"
    edgewise(
        "discover", "--model", models["tuned"], "--task", pairs, "--method", "eap-ig",
        "--top", 12, "--scores", "-o", path,
    )  # fmt: skip
    return path


def told(text: str, node: str) -> list[float]:
    """Read a node's values from the tooltips of an SVG, panel by panel."""
    lines = [line for line in text.splitlines() if f'data-cell="{node}"' in line]
    words = [line.split("<title>")[1].split("</title>")[0].split("  ")[-1] for line in lines]
    return [np.nan if word == "no score" else float(word) for word in words]


def test_a_heat_map_shows_the_files_sums(
    edgewise: Run, circuit: Path, tuned: Path, tmp_path: Path
) -> None:
    edgewise("diff", circuit, tuned, "-o", "diff.json")
    edgewise("draw", "diff.json", "--as", "heat-map", "-o", "diff.svg")
    edgewise("draw", circuit, tuned, "--as", "heat-map", "-o", "two.svg")
    files = [read_circuit(path) for path in (circuit, tuned)]
    for name in ("diff.svg", "two.svg"):
        text = (tmp_path / name).read_text()
        for column, node in enumerate(files[0].circuit.graph.senders):
            a, b = (
                Scores(f.circuit.graph, f.edge_scores).by_sender()[column]  # type: ignore[arg-type]
                for f in files
            )
            difference = np.nan if np.isnan([a, b]).all() else np.nan_to_num(b) - np.nan_to_num(a)
            np.testing.assert_allclose(told(text, str(node)), [a, b, difference], rtol=1e-3)


def test_scores_files_count_all_edges(edgewise: Run, circuit: Path, tmp_path: Path) -> None:
    sidecar = circuit.with_name("circuit.scores.safetensors")
    shown = edgewise(
        "draw", sidecar, "--as", "heat-map", "--absolute", "-o", "all.svg", "--json"
    ).stdout
    assert json.loads(shown)["panels"] == ["circuit"]
    text = (tmp_path / "all.svg").read_text()
    scores = read_scores(sidecar).scores
    expected = scores.by_sender(absolute=True)
    for value, node in zip(expected, scores.graph.senders, strict=True):
        np.testing.assert_allclose(told(text, str(node)), [value], rtol=1e-3)
    assert "absolute scores of all its edges out" in " ".join(text.split())


def test_overlaps_are_told_and_labelled(
    edgewise: Run, circuit: Path, tuned: Path, tmp_path: Path
) -> None:
    shown = edgewise(
        "draw", circuit, tuned, circuit, "--as", "overlap", "--label", "a", "--label", "b",
        "--label", "c", "--order", "clustered", "-o", "o.svg", "--json",
    ).stdout  # fmt: skip
    found = json.loads(shown)
    assert found["circuits"] == ["a", "c", "b"]
    assert found["jaccard"][0][1] == 1.0 and found["jaccard"][0][2] < 1
    assert found["jaccard"][0][2] == found["jaccard"][2][0] == found["jaccard"][1][2]
    assert "a and c  Jaccard 1  corrected 1" in (tmp_path / "o.svg").read_text()


def test_pages_are_drawn(edgewise: Run, circuit: Path, tmp_path: Path) -> None:
    edgewise("draw", circuit, "-o", "c.html", "--layout", "built-in")
    text = (tmp_path / "c.html").read_text()
    assert text.startswith("<!DOCTYPE html>") and text.count("data-edge=") == 12


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("x", "--as", "heat-map", "-o", "m.dot"), "Accepted: .svg, .png, .pdf, .html"),
        (("x", "x", "-o", "m.svg"), "one circuit or diff is drawn at a time"),
        (("x.safetensors", "-o", "m.svg"), "holds no circuit; of a scores file"),
        (("x", "x", "x", "--as", "heat-map", "-o", "m.svg"), "one or two files"),
        (("x", "--as", "overlap", "-o", "m.svg"), "two or more circuit files"),
        (("x", "--absolute", "-o", "m.svg"), "--absolute belongs to --as heat-map"),
        (("x", "--order", "clustered", "-o", "m.svg"), "--order belongs to --as overlap"),
        (("x", "--label", "a", "-o", "m.svg"), "--label belongs to"),
        (("x", "x", "--as", "overlap", "--label", "a", "-o", "m.svg"), "give one for each"),
        (("x", "x", "--as", "overlap", *["--label", "a"] * 2, "-o", "m.svg"), "its own"),
    ],
)
def test_wrong_requests_are_told(
    edgewise: Run, circuit: Path, arguments: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    given = [circuit if argument == "x" else argument for argument in arguments]
    assert words in edgewise("draw", *given, status=2).output
    assert not list(tmp_path.glob("m.*"))


def test_unequal_graphs_are_refused(
    edgewise: Run, circuit: Path, models: dict[str, Path], pairs: Path, tmp_path: Path
) -> None:
    edgewise(
        "discover", "--model", models["deeper"], "--task", pairs, "--method", "eap-ig",
        "--top", 12, "-o", "deeper.json",
    )  # fmt: skip
    for kind in ("overlap", "heat-map"):
        found = edgewise("draw", circuit, "deeper.json", "--as", kind, "-o", "m.svg", status=1)
        assert "layers 2 and 3" in found.output and "deeper" in found.output
    assert not (tmp_path / "m.svg").exists()


# -- head roles -----------------------------------------------------------------------------------


def test_roles_stand_above_a_circuits_heads(
    edgewise: Run, circuit: Path, tuned: Path, tmp_path: Path
) -> None:
    edgewise("roles", circuit, "--sequences", 4, "-o", "roles.json")
    rows = json.loads(Path("roles.json").read_text())
    rows["heads"][0]["scores"]["induction"] = 0.875  # names are made anew from scores
    Path("roles.json").write_text(json.dumps(rows))
    edgewise("draw", circuit, "--roles", "roles.json", "-o", "x.svg")
    assert "induction .88" in Path("x.svg").read_text()
    wrong = edgewise("draw", tuned, "--roles", "roles.json", "-o", "y.svg", status=1).output
    assert "not those of the circuit's model" in wrong
    assert not Path("y.svg").exists()
    del rows["models"][0]["model"]["weights_sha256"]
    Path("z.json").write_text(json.dumps(rows))
    wrong = edgewise("draw", circuit, "--roles", "z.json", "-o", "y.svg", status=1).output
    assert "not those of the circuit's model" in wrong
    edgewise("diff", circuit, tuned, "-o", "d.json")
    wrong = edgewise("draw", "d.json", "--roles", "roles.json", "-o", "y.svg", status=1).output
    assert "edgewise diff A.json B.json --roles" in wrong
    wrong = edgewise(
        "draw", circuit, "--roles", "roles.json", "--as", "heat-map", "-o", "y.svg", status=2
    ).output
    assert "--roles belongs to --as edges" in wrong


def test_roles_of_a_diff_tell_what_changed() -> None:
    graph = ComputationGraph(2, 2)
    circuit = Circuit.empty(graph).with_edges(["embed->a0.h1<v>", "a0.h1->logits"])

    def side(*scores: dict[str, float]) -> RolesInModel:
        names = ("a0.h0", "a0.h1", "a1.h0")
        return RolesInModel(tuple(HeadRoles.of(*one) for one in zip(names, scores, strict=True)))

    a = side({"induction": 0.88}, {"copy": 0.75, "direct_share": 0.5}, {})
    b = side({"induction": 0.9}, {}, {"previous": 0.5})
    scores = np.full(graph.reads.shape, np.nan, dtype=np.float32)
    diff, roles = CircuitDiff(circuit, circuit), RolesComparison(a, b)
    file = DiffFile(diff, {}, {}, scores, scores, roles=roles)
    assert role_changes(file) == {
        "a0.h0": "induction .88 / .90",
        "a0.h1": "copying .75 → none",
        "a1.h0": "none → previous token .50",
    }
