"""Exact effects of chosen edges alone: `exact --edges FILE`, whatever the file's form."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgewise.discovery.registry import get_method
from edgewise.experiment.spec import DiscoverySpec
from edgewise.experiment.start import read_start
from edgewise.graphs.errors import EdgewiseError, FileFormatError
from edgewise.graphs.files import read_circuit, read_scores
from edgewise.graphs.files.exchange import is_named, read_named
from edgewise.graphs.scores import Scores
from edgewise.patching.run.runner import Runner
from tests.edgewise.conftest import Run
from tests.engine import tiny_lift, tiny_pairs

EDGES = ["m0->a1.h1<q>", "embed->m0", "a0.h1->logits"]
FORMS = {
    "edges.txt": "# chosen\nm0->a1.h1<q>\n\nembed -> m0  # the first\na0.h1->logits\n",
    "names.json": json.dumps(EDGES),
    "pairs.json": json.dumps([name.split("->") for name in EDGES]),
    "rows.json": json.dumps({"edges": [[*name.split("->"), 0.5] for name in EDGES]}),
}


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3"])
def test_chosen_effects_are_those_of_all_edges(family: str) -> None:
    runner = Runner.create(tiny_lift(family), tiny_pairs(lengths=(6, 4)), metric="logit_diff")
    every, reads = get_method("exact")(runner), runner.graph.reads
    among = reads & (np.random.default_rng(0).random(reads.shape) < 0.1)
    start = Scores(runner.graph, np.where(among, 1.0, np.nan))
    found = get_method("exact")(runner, start=start)
    assert found.questions == among.sum()
    np.testing.assert_array_equal(np.isnan(found.scores.values), ~among)
    got, wanted = found.scores.values[among], every.scores.values[among]
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-7)


def discover(edgewise: Run, model: Path, pairs: Path, *more: object, status: int = 0) -> str:
    line = ("discover", "--model", model, "--task", pairs, "--method", "exact")
    return edgewise(*line, *more, "-o", "found.json", status=status).output


@pytest.mark.parametrize("name", [*FORMS, "circuit.json", "circuit.scores.safetensors"])
def test_every_form_of_file_names_the_edges(
    name: str, edgewise: Run, models: dict[str, Path], pairs: Path
) -> None:
    Path(name).write_text(FORMS.get(name, ""))
    wanted = set(EDGES)
    if name not in FORMS:
        Path(name).unlink()
        line = ("discover", "--model", models["gpt2"], "--task", pairs, "--method", "eap")
        edgewise(
            *line, "--top", 4, *(["--scores"] if "scores" in name else []), "-o", "circuit.json"
        )
        kept = read_circuit("circuit.json").circuit
        wanted = {str(edge) for edge in kept.edges} if name == "circuit.json" else set()
    discover(edgewise, models["gpt2"], pairs, "--edges", name, "--scores")
    found = read_circuit("found.json")
    measured = {str(edge) for edge in found.circuit.edges}
    assert measured == wanted or (not wanted and len(measured) == found.circuit.graph.edge_count)
    scores = read_scores("found.json").scores
    assert (~np.isnan(scores.values)).sum() == len(measured) == found.discovery["questions"]
    assert found.discovery["start"]["edges"] == len(measured)


def test_the_meaning_of_edges_follows_the_method(
    edgewise: Run, models: dict[str, Path], pairs: Path
) -> None:
    Path("edges.txt").write_text(FORMS["edges.txt"])
    line = ("discover", "--model", models["gpt2"], "--task", pairs, "--method", "refine")
    edgewise(*line, "--edges", 20, "-o", "small.json")
    assert read_circuit("small.json").discovery["edges"] == 20
    said = edgewise(*line, "--edges", "many", "-o", "small.json", status=2).output
    assert "'many' is not a valid integer" in said
    said = discover(
        edgewise, models["gpt2"], pairs, "--edges", "edges.txt", "--from", "x", status=2
    )
    assert "--edges and --from are given together" in said
    said = discover(
        edgewise, models["gpt2"], pairs, "--edges", "edges.txt", "--per-example", status=1
    )
    assert "only chosen ones are to be measured" in said
    assert "N|FILE" in edgewise("discover", "--help").output


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("m0->a1.h1<q>\nm7->logits\n", "the graph has no sender m7"),
        ("m0->a0.h1<q>\n", "m0 writes after a0.h1<q> reads"),
    ],
)
def test_edges_that_the_graph_has_not_are_named(
    text: str, why: str, edgewise: Run, models: dict[str, Path], pairs: Path
) -> None:
    Path("edges.txt").write_text(text)
    said = discover(edgewise, models["gpt2"], pairs, "--edges", "edges.txt", status=1)
    assert "edges.txt does not fit the graph" in said
    assert why in said


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("m0->a1.h1<q>\nnonsense\n", "line 2: 'nonsense' is not an edge's name"),
        ('["m0->logits", 3]', "entry 2: '3' is not an edge's name"),
        ('{"edges": 3}', "its edges are 3"),
        ("# nothing\n", "names no edge"),
        ("[]", "names no edge"),
    ],
)
def test_what_is_no_edge_is_refused_by_its_place(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "edges.txt"
    path.write_text(text)
    with pytest.raises(FileFormatError, match=why):
        read_named(path)


def test_other_files_are_no_lists(tmp_path: Path) -> None:
    others = {
        "pruned.json": '[["a0.h1", "a2.h3.q"], ["m2", "resid_post"]]',
        "acdc.txt": "blocks.0.hook_mlp_out[:] -> blocks.1.hook_resid_post[:]",
        "graph.json": '{"cfg": {}, "edges": {"m0->m1": {}}}',
        "words.txt": "some words -> others",
    }
    for name, text in others.items():
        (tmp_path / name).write_text(text)
        assert not is_named(tmp_path / name)
    assert not is_named(tmp_path)
    assert not is_named(tmp_path / "missing")


def test_a_list_of_edges_is_part_of_the_request(tmp_path: Path) -> None:
    path = tmp_path / "edges.txt"
    path.write_text("m0->logits\n")
    start = read_start(path)
    spec = DiscoverySpec.of(method="exact", start=start)
    assert spec.block["start"] == start.about
    path.write_text("m1->logits\n")
    assert read_start(path).counted() != start.counted()


def test_faithfulness_that_chosen_edges_do_not_reach_is_refused() -> None:
    from edgewise.discovery.smallest import smallest_faithful

    runner = Runner.create(tiny_lift("gpt2"), tiny_pairs(lengths=(6, 4)), metric="logit_diff")
    values = np.full(runner.graph.reads.shape, np.nan)
    values[runner.graph.locate("m0->logits")] = 1
    with pytest.raises(EdgewiseError, match="the 1 edges that have a score do not reach"):
        smallest_faithful(runner, Scores(runner.graph, values), 0.99)
