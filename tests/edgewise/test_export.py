"""Export: graphs of EAP-IG, and MIB's submissions that this program reads back and judges."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgewise.graphs.circuit import Circuit
from edgewise.graphs.errors import EdgewiseError, UnknownName
from edgewise.graphs.files import read_circuit, read_scores_of
from edgewise.graphs.files.exchange import (
    Submitted,
    read_foreign,
    read_sizes,
    write_eap_ig,
    write_submission,
)
from edgewise.graphs.files.exchange.mib import PERCENT
from edgewise.graphs.graph import ComputationGraph
from edgewise.graphs.scores import Scores
from tests.edgewise.conftest import Run
from tests.graphs.test_files import circuit_file

HERE = "eap-ig_resample_edge"


@pytest.fixture
def circuit(discovered: Path) -> Path:
    return discovered / "circuit.json"


def test_one_file_is_one_graph(edgewise: Run, circuit: Path) -> None:
    file = read_circuit(circuit)
    for name in ("graph.json", "graph.pt"):
        assert f"written: {name}" in edgewise("export", circuit, "-o", name).stdout
        found, scores = read_foreign(name).on(file.circuit.graph, file.model["d_model"])
        assert found == file.circuit
        assert scores is not None
        reads = file.circuit.graph.reads
        every = read_scores_of(file).scores.values
        np.testing.assert_array_equal(scores.values[reads], every[reads])


@pytest.mark.parametrize("form", ["json", "pt"])
def test_a_submission_has_importances(edgewise: Run, circuit: Path, form: str) -> None:
    edgewise("export", circuit, "--form", form, "-o", "mine")
    (folder,) = Path("mine").iterdir()
    (inner,) = folder.iterdir()
    assert (folder.name, inner.name) == (HERE, "pairs_llama")
    found = read_foreign(inner)
    assert found.path.name == f"importances.{form}"
    file = read_circuit(circuit)
    scores = found.on(file.circuit.graph)[1]
    assert scores is not None
    assert scores.top(30) == read_scores_of(file).scores.top(30)
    assert f"{HERE}/pairs_llama" in edgewise("evaluate", "mine", status=1).stderr


@pytest.mark.parametrize("signed", [False, True])
def test_a_submission_has_a_circuit_of_each_size(
    edgewise: Run, circuit: Path, signed: bool
) -> None:
    more = ("--signed",) if signed else ()
    done = edgewise("export", circuit, "--sizes", *more, "--name", "ioi_gpt2", "-o", "mine",
                    "--json")  # fmt: skip
    assert len(json.loads(done.stdout)["written"]) == len(PERCENT) == 10
    folder = Path("mine") / HERE / "ioi_gpt2"
    file = read_circuit(circuit)
    scores, graph = read_scores_of(file).scores, file.circuit.graph
    for percent in PERCENT:
        size = max(1, round(percent / 100 * graph.edge_count))
        found = read_foreign(folder / f"circuit_{percent:g}.json").on(graph)[0]
        assert found == scores.top(size, absolute=not signed)
    assert [one.kept for one in read_sizes(folder)] == sorted(
        max(1, round(p / 100 * graph.edge_count)) for p in PERCENT
    )


def test_what_is_written_is_judged_by_the_same_table(
    edgewise: Run, circuit: Path, models: dict[str, Path], pairs: Path
) -> None:
    edgewise("export", circuit, "-o", "mine")
    given = Path("mine") / HERE / "pairs_llama"
    line = ("methods", "--model", models["llama"], "--task", pairs, "--exact", 0, "--sizes", 10)
    found = json.loads(edgewise(*line, "--compare", f"eap-ig,{given}", "--json").stdout)
    rows = {row["method"]: row for row in found["methods"]}
    own, other = rows["eap-ig"], rows[f"{HERE}/pairs_llama"]
    assert other["CPR"] == pytest.approx(own["CPR"], abs=1e-5)
    assert other["CMD"] == pytest.approx(own["CMD"], abs=1e-5)


def neurons(path: Path, graph: ComputationGraph, width: int) -> np.ndarray:
    """Write importances of neurons, as MIB has them; return the sums by sender."""
    write_eap_ig(path, Circuit.empty(graph), d_model=width)
    content = json.loads(path.read_text())
    draw = np.random.default_rng(1).normal(size=(len(graph.senders), width))
    for node, row in zip(graph.senders, draw, strict=True):
        name = str(node).replace("embed", "input")
        content["nodes"][name]["neurons_scores"] = row.tolist()
    path.write_text(json.dumps(content))
    return np.asarray(draw.sum(1))


def test_importances_of_neurons_make_a_circuit_of_nodes(
    edgewise: Run, circuit: Path, models: dict[str, Path], pairs: Path
) -> None:
    graph = read_circuit(circuit).circuit.graph
    sums = neurons(Path("neurons.json"), graph, 16)
    line = ("import", "neurons.json", "--model", models["llama"], "--task", pairs, "--top", 3)
    result = edgewise(*line, "-o", "nodes.json")
    assert "scored are nodes, each the sum over its neurons" in result.stderr
    file = read_circuit("nodes.json")
    assert file.discovery["level"] == "node"  # type: ignore[typeddict-item]
    strongest = {str(graph.senders[i]) for i in np.argsort(-np.abs(sums))[:3]}
    assert {str(edge.sender) for edge in file.circuit.edges} == strongest
    edgewise("evaluate", "nodes.json")
    edgewise("export", "nodes.json", "-o", "again")
    (again,) = Path("again").glob("*/*/importances.json")
    assert again.parent.parent.name == "imported_resample_node"
    values = read_foreign(again).on(graph)[1]
    assert values is not None
    assert values.level == "node"
    np.testing.assert_allclose(values["embed->logits"], sums[0], rtol=1e-5)
    said = edgewise("methods", "--compare", "eap,neurons.json", *line[2:6], status=1).stderr
    assert "the scores 'neurons.json' are of nodes, and edges are compared" in said
    level = ("--level", "node", "--exact", 0, "--json")
    beside = edgewise("methods", "--compare", "eap,neurons.json", *line[2:6], *level).stdout
    rows = json.loads(beside[beside.index("{") :])["methods"]
    assert [row["method"] for row in rows] == ["eap", "neurons.json", "random"]
    curve = edgewise("evaluate", "neurons.json", "--model", models["llama"], "--task", pairs,
                     "--curve", "--json")  # fmt: skip
    assert json.loads(curve.stdout)["curve"]["level"] == "node"


@pytest.mark.parametrize(("line", "said"), [
    (("--sizes", "-o", "graph.json"), "--sizes is of a folder, and graph.json is one file"),
    (("--form", "pt", "-o", "graph.pt"), "--form is of a folder"),
    (("--signed", "-o", "mine"), "--signed chooses edges for --sizes"),
    (("--name", "a/b", "-o", "mine"), "--name is 'a/b'; accepted: the name of one folder"),
    (("--form", "csv", "-o", "mine"), "'csv' is not one of 'json', 'pt'"),
])  # fmt: skip
def test_wrong_requests_are_wrong_usage(
    edgewise: Run, circuit: Path, line: tuple[Any, ...], said: str
) -> None:
    assert said in edgewise("export", circuit, *line, status=2).stderr
    assert not list(Path().iterdir())


def test_what_cannot_be_submitted_is_refused(
    edgewise: Run, circuit: Path, models: dict[str, Path], pairs: Path
) -> None:
    said = edgewise("export", circuit, circuit, "-o", "mine", status=2).stderr
    assert "would both be written to" in said
    assert "2 circuits are given" in edgewise("export", circuit, circuit, "-o", "g.pt",
                                              status=2).stderr  # fmt: skip
    line = ("--model", models["llama"], "--task", pairs, "--top", 5, "-o", "few.json")
    edgewise("discover", *line, "--method", "eap")
    said = edgewise("export", "few.json", "-o", "mine", status=1).stderr
    assert "a submission needs a score of every edge, and 5 of 110 have one" in said
    edgewise("discover", *line, "--method", "eap", "--grouped-kv", "--scores")
    said = edgewise("export", "few.json", "-o", "mine", status=1).stderr
    assert "EAP-IG's format has no graphs with grouped_kv" in said
    Path("taken").write_text("x")
    said = edgewise("export", circuit, "-o", "taken", status=1).stderr
    assert "cannot make the folder taken" in said


def test_folders_are_named_as_the_benchmark_does() -> None:
    file = circuit_file(ComputationGraph(2, 2))
    for model, task, name in (
        ("Qwen/Qwen2.5-0.5B", "ioi", "ioi_qwen2.5"),
        ("meta-llama/Llama-3.1-8B", "arithmetic_addition", "arithmetic-addition_llama3"),
        ("here/my model", "pairs.jsonl", "pairs_my-model"),
    ):
        named = Submitted(with_names(file, model, task))
        assert named.folder.name == name
    with pytest.raises(EdgewiseError, match="names no task, or no model"):
        assert Submitted(with_names(file, "m", "")).folder


def with_names(file: Any, model: str, task: str) -> Any:
    from dataclasses import replace

    return replace(file, model={**file.model, "name": model}, task={**file.task, "name": task})


def test_forms_are_checked(tmp_path: Path) -> None:
    graph = ComputationGraph(2, 2)
    scores = Scores(graph, np.ones(graph.reads.shape))
    with pytest.raises(UnknownName, match="form 'csv'"):
        write_submission(tmp_path, Submitted(circuit_file(graph), scores), "csv")
