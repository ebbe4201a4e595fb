"""Scores on each example and stability, from the command line to the files and back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgewise.discovery.uncertainty.stability import EdgeRule, stability
from edgewise.experiment.document import read_spec
from edgewise.experiment.spec import DiscoverySpec, Selection
from edgewise.graphs.errors import EdgewiseError, FileFormatError
from edgewise.graphs.files import (
    examples_path,
    read_circuit,
    read_example_scores,
    read_scores,
    read_scores_of,
    write_circuit,
)
from edgewise.graphs.files.stability import EdgeStability, stability_of
from edgewise.patching.prompts.pair_files import read_pairs
from edgewise.run import run_spec
from edgewise.session import open_model
from edgewise.steps.discover import discover
from edgewise.steps.found.stable import stable_part
from tests.edgewise.conftest import Run, id_rows

MODEL = "llama"
pytestmark = [
    pytest.mark.filterwarnings("ignore:the circuit's faithfulness"),
    pytest.mark.filterwarnings("ignore:no way of kept edges"),
    pytest.mark.filterwarnings("ignore:.* edges kept have the score 0"),
]


@pytest.fixture(scope="session")
def grouped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write prompt pairs of six templates."""
    path = tmp_path_factory.mktemp("grouped") / "pairs.jsonl"
    rows = [{**row, "group": "abcdef"[i % 6]} for i, row in enumerate(id_rows(18))]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def test_scores_on_each_example_are_written_beside_the_circuit(
    edgewise: Run, models: dict[str, Path], grouped: Path, tmp_path: Path
) -> None:
    output = tmp_path / "c.json"
    asked = ["discover", "--model", models[MODEL], "--task", grouped, "--method", "eap", "-o"]
    shown = edgewise(*asked, output, "--per-example", "--scores", "--top", "30").stdout
    side = examples_path(output)
    assert f"{side}, 18 examples x 110 edges x 2 bytes: 0.0 MB, 0.0 MB in memory" in shown
    found, circuit = read_example_scores(output), read_circuit(output)
    assert found.about == read_scores(output).about
    assert found.pairs_sha256 == circuit.task["sha256"]
    assert found.scores.groups == tuple("abcdef" * 3)
    mean, scores = found.scores.mean().values, read_scores(output).scores.values
    np.testing.assert_allclose(mean, scores, atol=1e-3)  # of larger ones of both signs
    plain = tmp_path / "plain.json"
    edgewise(*asked, plain, "--top", "30")
    assert read_circuit(plain).circuit == circuit.circuit
    assert not examples_path(plain).exists()
    document = json.loads(edgewise(*asked, output, "--per-example", "--json", "--top", "30").stdout)
    assert document["examples"] == str(side)
    assert document["stability"]["selected"] == 30


def test_a_stable_circuit_and_what_its_file_says(
    edgewise: Run, models: dict[str, Path], grouped: Path, tmp_path: Path
) -> None:
    output = tmp_path / "c.json"
    asked = ["discover", "--model", models[MODEL], "--task", grouped, "--method", "eap-ig", "-o"]
    edgewise(*asked, output, "--per-example", "--top", "30")
    whole, scores = read_circuit(output), read_example_scores(output).scores
    shown = edgewise(*asked, output, "--top", "30", "--stable", ".6").stdout
    file = read_circuit(output)
    found = stability_of(file)
    assert found is not None
    expected = stability(scores, EdgeRule(absolute=True, size=30)).by_edge
    np.testing.assert_allclose(
        found.shares[file.circuit.kept], expected[file.circuit.kept], atol=0.01
    )
    assert ((expected >= 0.61) & whole.circuit.kept <= file.circuit.kept).all()
    assert (found.shares[file.circuit.kept] >= 0.6).all()
    assert len(found.by_edge) == len(file.circuit) < found.selected == 30
    assert (found.resamples, found.examples, found.clusters, found.drawn) == (1000, 18, 6, "groups")
    assert found.least == file.discovery["stable"] == 0.6
    assert found.jaccard_stable is not None
    assert found.jaccard_stable_with_all is not None
    assert found.jaccard_with_all is not None
    alike = (found.jaccard_stable, found.jaccard_stable_with_all, found.jaccard_with_all)
    told = "(between such: {:.2f}; such with these: {:.2f}, before the cut: {:.2f})"
    assert told.format(*alike) in shown
    said = f"{len(file.circuit)} of 30 edges kept, in at least 60% of them"
    assert said in shown
    assert said in edgewise("evaluate", output).stdout
    edgewise("draw", output, "-o", tmp_path / "c.svg")
    assert "in 50% of resamples" in (tmp_path / "c.svg").read_text()
    assert "1,000 resamples of 6 groups of prompts" in shown
    assert DiscoverySpec.of_circuit(file).select == Selection(top=30, stable=0.6)
    write_circuit(tmp_path / "again.json", file)
    assert (tmp_path / "again.json").read_text() == output.read_text()


def test_an_existing_circuit_is_cut_down_without_its_discovery(
    edgewise: Run, models: dict[str, Path], grouped: Path, tmp_path: Path
) -> None:
    """What `discover --stable` finds, from the file and the scores on each example beside it."""
    whole, cut, once = (tmp_path / f"{name}.json" for name in ("whole", "cut", "once"))
    asked = ["discover", "--model", models[MODEL], "--task", grouped, "--method", "eap-ig"]
    asked += ["--test", 4, "--top", 30]
    edgewise(*asked, "--per-example", "-o", whole)
    edgewise(*asked, "--stable", ".6", "-o", once)
    shown = edgewise("evaluate", whole, "--stable", ".6", "-o", cut).stdout
    found, expected = read_circuit(cut), read_circuit(once)
    assert found.circuit == expected.circuit
    assert found.measures == expected.measures
    assert found.discovery["stable"] == 0.6
    ours, theirs = stability_of(found), stability_of(expected)
    assert ours is not None
    assert theirs is not None
    np.testing.assert_array_equal(ours.shares, theirs.shares)
    assert ours.jaccard_stable == pytest.approx(
        theirs.jaccard_stable, abs=0.02
    )  # in half precision
    assert ours.words().split(" (")[0] == theirs.words().split(" (")[0]
    assert f"{len(found.circuit)} of 30 edges kept, in at least 60% of them" in shown
    assert f"written: {cut}" in shown
    assert DiscoverySpec.of_circuit(found) == DiscoverySpec.of_circuit(expected)
    edgewise("evaluate", cut)
    # the file alone tells as much, but for how alike such circuits are
    examples_path(whole).unlink()
    alone = stability_of(stable_part(read_circuit(whole), 0.6))
    assert alone is not None
    np.testing.assert_array_equal(alone.shares, theirs.shares)
    assert alone.jaccard_stable is None


def test_stability_is_made_from_the_scores_where_the_file_does_not_say(
    edgewise: Run, models: dict[str, Path], grouped: Path, tmp_path: Path
) -> None:
    path = tmp_path / "c.json"
    for more in (["--top", "30"], ["--top", "30", "--signed", "--connected"], ["--above", "0.01"]):
        edgewise(
            "discover", "--model", models[MODEL], "--task", grouped, "--method", "eap",
            "--per-example", *more, "-o", path,
        )  # fmt: skip
        file = read_circuit(path)
        silent = replace(file, extra={k: v for k, v in file.extra.items() if k != "stability"})
        told, made = (stability_of(stable_part(one, 0.6)) for one in (file, silent))
        assert told is not None
        assert made is not None
        both = told.circuit.kept & made.circuit.kept
        assert both.sum() >= 0.9 * max(told.circuit.kept.sum(), made.circuit.kept.sum())
        np.testing.assert_allclose(made.shares[both], told.shares[both], atol=0.03)
        assert (made.selected, made.least) == (len(file.circuit), 0.6)


def test_what_cannot_be_cut_down(
    edgewise: Run, models: dict[str, Path], grouped: Path, pairs: Path, tmp_path: Path
) -> None:
    path = tmp_path / "c.json"
    asked = ["discover", "--model", models[MODEL], "--method", "eap", "-o", path]
    edgewise(*asked, "--task", grouped, "--per-example", "--top", "30")
    lines: list[tuple[list[object], int, str]] = [
        (["--stable", "1.5"], 2, "1.5 is not in the range 0<x<=1"),
        (["--stable", "much"], 2, "'much' is not a valid number."),
        (["--examples", "1.5"], 2, "'1.5' is not a valid whole number."),
        (["-o", "d.json"], 2, "--output is for --stable; give that too"),
        (["--stable", ".5", "-o", "d.json", "--metric", "kl"], 2, "do not give others"),
        (["--stable", ".5", "-o", "d.json", "--task", grouped], 2, "do not give others"),
    ]
    for line, status, words in lines:
        assert words in edgewise("evaluate", path, *line, status=status).stderr
    file = read_circuit(path)
    found = stability_of(file)
    assert found is not None
    with pytest.raises(EdgewiseError, match="stable is 0; accepted: a share above 0, up to 1"):
        stable_part(file, 0)
    with pytest.raises(EdgewiseError, match="stable 1 leaves no edge: the most stable one is"):
        worst = {"edges": [[*row[:2], 0.25] for row in found.block["edges"]]}  # type: ignore[attr-defined]
        stable_part(replace(file, extra={**file.extra, "stability": {**found.block, **worst}}), 1.0)
    # found again on other pairs: the scores on each example beside it are of the old circuit
    shown = edgewise(*asked, "--task", pairs, "--top", "30").stderr
    assert "c.examples.safetensors is not of the circuit beside it: they differ in prompt" in shown
    result = edgewise("evaluate", path, "--stable", ".5", status=1)
    assert "is not of the circuit beside it" in result.stderr
    examples_path(path).unlink()
    words = "how stable the circuit's edges are cannot be told: its file does not say"
    assert words in edgewise("evaluate", path, "--stable", ".5", status=1).stderr


def test_scores_of_an_earlier_circuit_make_no_curve(
    edgewise: Run, models: dict[str, Path], grouped: Path, pairs: Path, tmp_path: Path
) -> None:
    path = tmp_path / "c.json"
    asked = ["discover", "--model", models[MODEL], "--top", "30", "-o", path]
    edgewise(*asked, "--task", grouped, "--method", "eap", "--scores")
    edgewise("evaluate", path, "--curve")
    edgewise(*asked, "--task", pairs, "--method", "eap")
    words = "c.scores.safetensors is not of the circuit beside it: they differ in "
    told = edgewise("evaluate", path, "--curve", status=1).stderr
    assert words in told
    assert ", of score " in told
    edgewise(*asked, "--task", grouped, "--method", "eap-ig")
    told = edgewise("evaluate", path, "--curve", status=1).stderr
    assert f"{words}method eap and eap-ig (scores and circuit)" in told
    with pytest.raises(EdgewiseError, match="the circuit is of no file"):
        read_scores_of(replace(read_circuit(path), path=None))


def test_few_groups_are_said_to_tell_nothing_of_others() -> None:
    kept = np.zeros((3, 3), dtype=bool)
    found = EdgeStability.__new__(EdgeStability)
    for key, value in {
        "circuit": None, "shares": kept, "resamples": 1000, "examples": 32, "clusters": 1,
        "drawn": "examples", "jaccard": 0.75, "selected": 9, "least": None, "jaccard_stable": None,
        "jaccard_with_all": None, "jaccard_stable_with_all": None,
    }.items():  # fmt: skip
        object.__setattr__(found, key, value)
    object.__setattr__(found, "circuit", type("Kept", (), {"kept": kept}))
    assert found.words().startswith(
        "mean Jaccard 0.75 between circuits of 1,000 resamples of 32 prompts (of 1 group, too few "
        "to draw from: nothing is said of other ones); 0 edges are in"
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "acdc", "per_example": True}, "'acdc' gives no scores on each example; accept"),
        ({"method": "eap", "select": Selection(top=5, stable=0.9)}, ""),
    ],
)
def test_methods_that_give_no_scores_on_examples(fields: dict[str, Any], message: str) -> None:
    if message:
        with pytest.raises(EdgewiseError, match=message):
            DiscoverySpec(**fields)
    else:
        assert DiscoverySpec(**fields).by_example


def test_stable_needs_a_selection_and_a_share() -> None:
    with pytest.raises(EdgewiseError, match="stable says which edges are left out again, but"):
        Selection(stable=0.9)
    with pytest.raises(EdgewiseError, match=r"stable is 1\.5; accepted: a number above 0, up to 1"):
        Selection(top=5, stable=1.5)


def test_a_share_that_no_edge_reaches_is_refused(models: dict[str, Path], grouped: Path) -> None:
    pairs = read_pairs(str(grouped), None)
    session = open_model(str(models[MODEL]))
    with pytest.raises(EdgewiseError, match="stable 1 leaves no edge: none that the selection"):
        discover(session, pairs, DiscoverySpec("eap", select=Selection(top=1, stable=1.0)))


def test_without_a_method_the_usual_edges_are_kept_if_they_are_stable(
    edgewise: Run, models: dict[str, Path], grouped: Path, tmp_path: Path
) -> None:
    output = tmp_path / "c.json"
    asked = ("discover", "--model", models[MODEL], "--task", grouped, "--stable", ".5")
    shown = edgewise(*asked, "-o", output).stdout
    assert "of these those of stability 0.5 up" in shown
    select = Selection.usual().as_dict() | {"stable": 0.5}
    assert DiscoverySpec.of_circuit(read_circuit(output)).select.as_dict() == select


def test_an_experiment_writes_both(models: dict[str, Path], grouped: Path, tmp_path: Path) -> None:
    spec = tmp_path / "spec.toml"
    spec.write_text(
        f"[[models]]\nsource = '{models[MODEL]}'\n[task]\nfile = '{grouped}'\n[discovery]\n"
        "method = 'eap'\ntop = 20\nstable = 0.5\nper_example = true\n[drawing]\nformats = []\n"
    )
    assert read_spec(spec).discovery.per_example
    run_spec(spec, tmp_path / "out")
    (circuit,) = (tmp_path / "out" / "circuits").glob("*.json")
    assert len(read_example_scores(circuit).scores) == 18
    found = stability_of(read_circuit(circuit))
    assert found is not None
    report = " ".join((tmp_path / "out" / "report.md").read_text().split())
    assert f"The circuit of {MODEL}: {found.words()}." in report


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"jaccard": "high"}, "stability.jaccard is 'high'; accepted: a number"),
        ({"resamples": None}, "stability.resamples is"),
        ({"edges": [["embed", "m9", 0.5]]}, "the graph has no port m9"),
        ({"edges": [["embed", "m0", 1.5]]}, "the stability of embed->m0 is 1.5; accepted: a share"),
        ({"edges": 3}, "stability.edges is no list"),
    ],
)
def test_a_bad_block_is_told_what_is_wrong_with_it(
    models: dict[str, Path], grouped: Path, change: dict[str, object], message: str
) -> None:
    session = open_model(str(models[MODEL]))
    spec = DiscoverySpec("eap", select=Selection(top=20), per_example=True)
    file = discover(session, read_pairs(str(grouped), None), spec).file
    block = file.extra["stability"]
    assert isinstance(block, dict)
    spoilt = replace(file, extra={**file.extra, "stability": {**block, **change}})
    with pytest.raises(FileFormatError, match=message):
        stability_of(spoilt)
    with pytest.raises(FileFormatError, match=r"is incomplete; missing: stability\.jaccard"):
        lacking = {key: value for key, value in block.items() if key != "jaccard"}
        stability_of(replace(file, extra={"stability": lacking}))


def test_files_without_it_say_nothing(models: dict[str, Path], grouped: Path) -> None:
    session = open_model(str(models[MODEL]))
    found = discover(session, read_pairs(str(grouped), None), DiscoverySpec("eap"))
    assert found.examples is None
    assert stability_of(found.file) is None


def test_from_python_the_scores_are_a_field(models: dict[str, Path], grouped: Path) -> None:
    session, pairs = open_model(str(models[MODEL])), read_pairs(str(grouped), None)
    found = discover(session, pairs, method="eap", per_example=True)
    assert found.examples is not None
    assert found.examples.about == found.scores.about
    scores = discover(session, pairs, method="eap").scores.scores.values
    np.testing.assert_array_equal(found.scores.scores.values, scores)  # to the last bit
    mean = found.examples.scores.mean().values
    np.testing.assert_allclose(mean, scores, rtol=1e-5, atol=1e-6)
