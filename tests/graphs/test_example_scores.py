"""Scores on examples as a value: means, clusters, columns, and room for them."""

from __future__ import annotations

import numpy as np
import pytest

from edgewise.graphs import example_scores
from edgewise.graphs.errors import EdgewiseError, GraphMismatch
from edgewise.graphs.example_scores import ExampleScores, new_values
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
