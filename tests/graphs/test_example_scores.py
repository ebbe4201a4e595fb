"""Scores on examples as a value: means, clusters, columns, and room for them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgewise.graphs import example_scores
from edgewise.graphs.circuit import Circuit
from edgewise.graphs.errors import EdgewiseError, FileFormatError, GraphMismatch
from edgewise.graphs.example_scores import ExampleScores, new_values
from edgewise.graphs.files import (
    CircuitFile,
    example_scores_of,
    examples_path,
    read_circuit,
    read_example_scores,
    read_scores,
    write_circuit,
    write_example_scores,
    write_scores,
)
from edgewise.graphs.files import example_scores as example_scores_file
from edgewise.graphs.graph import ComputationGraph

GRAPH = ComputationGraph(layers=2, heads=2, kv_heads=1, grouped_kv=True)


def random_scores(examples: int = 5, dtype: type = np.float32) -> ExampleScores:
    values = np.random.default_rng(0).normal(size=(examples, GRAPH.edge_count)).astype(dtype)
    return ExampleScores(GRAPH, values, tuple("ab"[i % 2] for i in range(examples)))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_every_edge_has_its_column(dtype: type) -> None:
    found = random_scores(dtype=dtype)
    mean = found.mean()
    for column, (row, sender) in enumerate(np.argwhere(GRAPH.reads)):
        edge = GRAPH.edge_at(row, sender)
        assert found.edge_index(edge) == found.edge_index(str(edge)) == column
        assert mean[edge] == pytest.approx(found.values[:, column].astype(float).mean())


def test_examples_of_one_label_are_a_cluster_and_one_without_is_its_own() -> None:
    values = np.zeros((6, GRAPH.edge_count), dtype=np.float32)
    found = ExampleScores(GRAPH, values, ("", "x", "", "x", "e0", "y"))
    assert found.clusters.tolist() == [0, 1, 2, 1, 3, 4]
    assert found.chosen([3, 0]).groups == ("x", "")


def test_some_examples() -> None:
    found = random_scores()
    some = found.chosen(np.array([4, 1, 1]))
    np.testing.assert_array_equal(some.values, found.values[[4, 1, 1]])
    assert some.groups == ("a", "b", "b")


def test_they_are_not_copied_and_cannot_be_written_to() -> None:
    values = np.zeros((2, GRAPH.edge_count), dtype=np.float32)
    found = ExampleScores(GRAPH, values, ("", ""))
    assert np.shares_memory(found.values, values)
    with pytest.raises(ValueError, match="read-only"):
        found.values[0, 0] = 1


@pytest.mark.parametrize(
    ("shape", "dtype", "groups", "message"),
    [
        ((2, 5), "float32", 2, r"float32 of shape \[2, 5\]; accepted: float16 or float32 of shape"),
        ((2, -1), "float64", 2, "are float64 of shape"),
        ((2, -1), "float32", 1, "scores of 2 examples have 1 groups; accepted: one for each"),
        ((0, -1), "float32", 0, "at least one example"),
    ],
)
def test_what_does_not_fit_is_refused(
    shape: tuple[int, int], dtype: str, groups: int, message: str
) -> None:
    examples, edges = shape
    values = np.zeros((examples, GRAPH.edge_count if edges < 0 else edges), dtype=dtype)
    with pytest.raises(GraphMismatch, match=message):
        ExampleScores(GRAPH, values, ("",) * groups)


def test_large_ones_stand_on_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(example_scores, "IN_MEMORY", 8)
    values = new_values(GRAPH, 3)
    assert isinstance(values, np.memmap)
    values[:] = np.arange(3)[:, None]
    found = ExampleScores(GRAPH, values, ("", "", ""))
    assert isinstance(found.values, np.memmap)
    assert found.mean()["embed->m1"] == 1


def test_what_fits_nowhere_is_refused() -> None:
    with pytest.raises(EdgewiseError, match=r"on 1,000,000,000,000 examples take [\d.]+ GB, and"):
        new_values(GRAPH, 10**12)


# -- their file ---------------------------------------------------------------------------------

ABOUT = {"method": "eap", "metric": "logit_diff", "ablation": "resample"}


def save(path: Path, scores: ExampleScores, **more: Any) -> Path:
    return write_example_scores(path, scores, about=ABOUT, pairs_sha256="ab12", **more)


@pytest.mark.parametrize("rows_bytes", [1, 1 << 26])
def test_they_read_back_in_half_precision(
    tmp_path: Path, rows_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(example_scores_file, "ROWS_BYTES", rows_bytes)
    scores, path = random_scores(), tmp_path / "c.json"
    assert save(path, scores) == examples_path(path) == tmp_path / "c.examples.safetensors"
    for read in (read_example_scores(path), read_example_scores(examples_path(path), GRAPH)):
        assert read.scores.values.dtype == np.float16
        assert read.scores.graph == GRAPH
        np.testing.assert_array_equal(read.scores.values, scores.values.astype(np.float16))
        assert read.scores.groups == scores.groups
        assert (read.about, read.pairs_sha256) == (ABOUT, "ab12")
    from safetensors import safe_open

    with safe_open(examples_path(path), framework="np") as opened:  # as another tool reads it
        assert opened.get_tensor("scores").shape == (5, GRAPH.edge_count)
        about = opened.metadata()
    assert json.loads(about["groups"]) == ["a", "b", "a", "b", "a"]
    assert json.loads(about["ports"]) == [str(port) for port in GRAPH.ports]


@pytest.mark.parametrize("scale", [1e5, 1e-4])
def test_what_half_precision_does_not_hold_is_written_in_full(tmp_path: Path, scale: float) -> None:
    scores = random_scores()
    scores = ExampleScores(GRAPH, scores.values * np.float32(scale), scores.groups)
    save(tmp_path / "c.json", scores)
    read = read_example_scores(tmp_path / "c.json").scores
    np.testing.assert_array_equal(read.values, scores.values)


def test_full_precision_on_request(tmp_path: Path) -> None:
    save(tmp_path / "c.json", random_scores(), half=False)
    read = read_example_scores(tmp_path / "c.json").scores
    np.testing.assert_array_equal(read.values, random_scores().values)


def test_scores_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    values = np.zeros((2, GRAPH.edge_count), dtype=np.float32)
    values[1, 3] = np.nan
    with pytest.raises(EdgewiseError, match="cannot be saved: some are not finite"):
        save(tmp_path / "c.json", ExampleScores(GRAPH, values, ("", "")))
    assert not list(tmp_path.iterdir())


def spoilt(path: Path, **changes: Any) -> Path:
    """Write a file of which some things are not as they should be; metadata of None is left out."""
    from safetensors.numpy import save_file

    side = save(path, random_scores())
    from safetensors import safe_open

    with safe_open(side, framework="np") as opened:
        metadata, values = opened.metadata(), opened.get_tensor("scores")
    values = changes.pop("values", values)
    metadata = {k: v for k, v in {**metadata, **changes}.items() if v is not None}
    save_file({"scores": np.ascontiguousarray(values)}, side, metadata)
    return side


def with_nan() -> np.ndarray:
    values = random_scores().values.copy()
    values[2, 1] = np.nan
    return values


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": None}, "is no file of scores on each example; its metadata lacks groups"),
        ({"groups": '["a"]'}, "it has 1 groups for 5 examples; accepted: one for each"),
        ({"groups": '["a", 1, 2, 3, 4]'}, "accepted: a list of texts"),
        ({"groups": "["}, "is damaged: it was cut off"),
        ({"values": np.zeros((5, 3), np.float16)}, r"F16 of shape \[5, 3\]; accepted: float16 or"),
        ({"values": np.zeros((5, 110), np.float64)}, "scores are F64 of shape"),
        ({"values": np.zeros((0, GRAPH.edge_count), np.float16)}, r"of shape \[0, "),
        ({"values": np.zeros(GRAPH.edge_count, np.float16)}, "accepted: float16 or float32 of"),
        ({"values": with_nan()}, r"the score of a?\S+->\S+ on example 3 is nan; accepted: finite"),
        ({"senders": '["embed"]'}, "is of another graph: it has 1 senders for 7"),
        ({"graph": "3"}, "its graph is 3; accepted: an object"),
    ],
)
def test_a_bad_file_is_told_what_is_wrong_with_it(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(FileFormatError, match=message):
        read_example_scores(spoilt(tmp_path / "c.json", **changes))


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    with pytest.raises(FileFormatError, match="does not exist; a discovery with `per_example`"):
        read_example_scores(path)
    side = save(path, random_scores())
    with pytest.raises(FileFormatError, match="is of another graph"):
        read_example_scores(path, ComputationGraph(3, 2))
    with pytest.raises(FileFormatError, match="holds scores on each example, not those of the cir"):
        read_scores(side)
    write_scores(path, random_scores().mean(), **ABOUT)
    with pytest.raises(FileFormatError, match="is no file of scores on each example; its metadata"):
        read_example_scores(tmp_path / "c.scores.safetensors")
    side.write_bytes(side.read_bytes()[:-7])
    with pytest.raises(FileFormatError, match="is damaged or no safetensors file"):
        read_example_scores(path)


# -- whose they are ------------------------------------------------------------------------------


def circuit_beside(path: Path, graph: ComputationGraph = GRAPH, **changes: Any) -> CircuitFile:
    """Write a circuit whose sidecar `save` writes, but for the changes, and read it."""
    model: Any = {
        "name": "x", "revision": None, "weights_sha256": None, "family": "plain",
        "layers": graph.layers, "heads": graph.heads, "kv_heads": graph.kv_heads, "d_model": 8,
        "parallel": graph.parallel, "post_norm": graph.post_norm,
    }  # fmt: skip
    task: Any = {"name": "t", "sha256": "ab12", "examples": 5, "seed": None}
    discovery: Any = {**ABOUT, "top": 1}
    for block in (task, discovery):
        block.update({key: value for key, value in changes.items() if key in block})
    certificate: Any = {"kept_all": 0.0, "kept_none": 0.0, "stream": 0.0}
    circuit = Circuit.empty(graph).with_edges(["embed->logits"])
    write_circuit(path, CircuitFile(circuit, model, task, discovery, certificate))
    return read_circuit(path)


def test_scores_of_the_circuit_beside_them_are_read(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    file = circuit_beside(path)
    assert example_scores_of(file) is None
    save(path, random_scores())
    found = example_scores_of(file)
    assert found is not None
    assert found.scores.graph == file.circuit.graph
    np.testing.assert_array_equal(read_example_scores(path).scores.values, found.scores.values)
    assert example_scores_of(replace(file, path=None)) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sha256": "cd34"}, "they differ in prompt pairs ab12 and cd34"),
        ({"examples": 6}, "they differ in pairs 5 and 6"),
        (
            {"method": "eap-ig", "metric": "kl"},
            "in method eap and eap-ig, metric logit_diff and kl",
        ),
        ({"ablation": "zero"}, "in ablation resample and zero"),
    ],
)
def test_scores_of_an_earlier_circuit_are_noticed(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    path = tmp_path / "c.json"
    save(path, random_scores())
    file = circuit_beside(path, **changes)
    asked = (
        lambda: read_example_scores(path),
        lambda: read_example_scores(examples_path(path)),
        lambda: read_example_scores(examples_path(path), GRAPH),
        lambda: example_scores_of(file),
    )
    for ask in asked:
        with pytest.raises(FileFormatError, match=f"is not of the circuit beside it: .*{words}"):
            ask()


def test_scores_of_another_graph_than_the_circuits_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    save(path, random_scores())
    circuit_beside(path, ComputationGraph(3, 2))
    for where in (path, examples_path(path)):
        with pytest.raises(FileFormatError, match="is of another graph"):
            read_example_scores(where)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "edgewise/diff"}', "{"])
def test_what_is_no_circuit_says_nothing_of_the_scores_beside_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.json"
    save(path, random_scores())
    path.write_text(text)
    assert read_example_scores(path).pairs_sha256 == "ab12"
