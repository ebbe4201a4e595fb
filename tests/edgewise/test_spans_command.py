"""Spans from the command line: found, measured, compared and drawn; what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from edgewise.experiment.task import TaskSpec
from edgewise.graphs.files import read_circuit, read_scores
from edgewise.patching.tasks import describe_tasks, make_task
from tests.edgewise.conftest import Run


@pytest.fixture
def named(pairs: Path) -> Path:
    """Name the last position of each pair, and the one before it, in a copy of the file."""
    path = pairs.with_name("named.jsonl")
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    path.write_text(
        "\n".join(json.dumps({**r, "spans": {"s2": [-3, -2], "end": -1}}) for r in rows)
    )
    return path


def test_a_circuit_at_spans_from_end_to_end(
    edgewise: Run, models: dict[str, Path], named: Path
) -> None:
    line = ("discover", "--model", models["llama"], "--task", named, "--method", "eap")
    edgewise(*line, "--spans", "--scores", "--top", 12, "-o", "a.json")
    found, document = read_circuit("a.json"), json.loads(Path("a.json").read_text())
    assert document["graph"]["spans"] == ["s2", "end", "other"]
    assert document["task"]["spans"] is True
    assert all(re.fullmatch(r".*@(s2|end|other)", port) for _, port, _ in document["edges"])
    edgewise(*line, "--scores", "--top", 12, "-o", "plain.json")
    scores, plain = (read_scores(name).scores.values for name in ("a.json", "plain.json"))
    summed = scores.reshape(len(plain), 3, -1).sum(1)
    np.testing.assert_allclose(summed, plain, rtol=1e-4, atol=1e-6)
    result = edgewise("evaluate", "a.json", "--curve", "--json")
    value = json.loads(result.output)["faithfulness"]
    assert value == pytest.approx(found.measures["faithfulness"], abs=1e-5)
    edgewise(*line, "--spans", "--top", 9, "-o", "b.json")
    named.rename("elsewhere.jsonl")  # the file holds the pairs with their spans
    edgewise("evaluate", "a.json")
    edgewise("diff", "a.json", "b.json", "--cross", "-o", "d.json")
    edgewise("draw", "a.json", "-o", "a.svg")
    text = " ".join(re.sub(r"<[^>]*>", " ", Path("a.svg").read_text()).split())
    assert "Above nodes: at which spans of the prompt they read." in text
    assert "end" in text.partition("Above")[0]
    edgewise("draw", "d.json", "-o", "d.svg")
    refused = edgewise("diff", "a.json", "plain.json", status=1)
    assert "spans ('s2', 'end', 'other') and ()" in " ".join(refused.output.split())


def test_nodes_and_fitted_sizes_at_spans(
    edgewise: Run, models: dict[str, Path], named: Path
) -> None:
    line = ("discover", "--model", models["gpt2"], "--task", named, "--spans")
    result = edgewise(*line, "--level", "node", "--method", "eap", "--top", 5, "-o", "n.json")
    words = "level node: 5 nodes that write at spans, with every edge among them"
    assert words in " ".join(result.output.split())
    edgewise(*line, "-o", "usual.json")
    assert read_circuit("usual.json").circuit.graph.spans == ("s2", "end", "other")


def test_what_is_refused(edgewise: Run, models: dict[str, Path], pairs: Path) -> None:
    line = ("discover", "--model", models["gpt2"], "--task", pairs, "--spans", "--method", "eap")
    result = edgewise(*line, "--top", 3, "-o", "a.json", status=1)
    assert "names no spans of its prompts' positions" in " ".join(result.output.split())


def test_every_built_in_task_names_spans() -> None:
    for task in describe_tasks():
        assert task["spans"][-1] == "end"  # type: ignore[index]
    (pair,) = make_task("induction", vocab_size=50, examples=1, period=5, repeat=2).pairs
    assert [name for name, _ in pair.declared] == [
        "first", "match", "next", "first", "first", "again", "end",
    ]  # fmt: skip
    assert TaskSpec("induction", spans=True).table()["spans"] is True
