"""Hypotheses of paths: their file, what they explain, the random ones beside them, the command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from edgewise.discovery.evaluation import measure
from edgewise.experiment.hypotheses_file import parse_hypotheses, read_hypotheses
from edgewise.graphs.circuit import Circuit
from edgewise.graphs.errors import EdgewiseError, NameSyntaxError, SpecError
from edgewise.graphs.graph import ComputationGraph
from edgewise.graphs.names import Edge
from edgewise.patching.path_tree import path_values
from edgewise.patching.paths import Path as GraphPath
from edgewise.patching.run.runner import Runner
from edgewise.session import make_runner, open_model, open_task
from edgewise.steps.claims.explained import explained_effects, parsed, renamed
from tests.engine import tiny_lift, tiny_pairs

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = ROOT / "examples" / "published"
SIX = (6, 5, 6, 5, 6, 6)

# -- the file --------------------------------------------------------------------------------------


def test_names_stand_for_lists_above_them_and_each_path_counts_once() -> None:
    text = """
    [paths]
    values = ["embed->a1.h0<v>->logits", "embed->a1.h1<v>->logits"]
    [hypotheses]
    one = ["values"]
    two = ["one", "embed->a1.h0<v>->logits", "embed->logits"]
    """
    values = ["embed->a1.h0<v>->logits", "embed->a1.h1<v>->logits"]
    assert parse_hypotheses(text) == {"one": values, "two": [*values, "embed->logits"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"has no table \[hypotheses\] of lists"),
        ("hypotheses = 3", r"has no table \[hypotheses\] of lists"),
        ("[hypothesis]\na = []", "unknown table 'hypothesis'"),
        ("[hypotheses]\na = []", r"hypotheses.a is \[\]; accepted: a list of one or more paths"),
        ("[hypotheses]\na = 'embed->logits'", 'hypotheses.a is "embed->logits"; accepted: a list'),
        ("[hypotheses]\na = [1]", "hypotheses.a has 1 in it; accepted: paths and names"),
        ("[hypotheses]\na = ['b']\nb = ['embed->logits']", "list of paths 'b'"),
        ("[paths]\na = ['m0->logits']\n[hypotheses]\na = ['m0->logits']", "is there twice"),
        ("[hypotheses]\na = [", "is not TOML: .* line 2"),
    ],
)
def test_what_is_no_file_of_hypotheses_is_refused(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse_hypotheses(text)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({}, EdgewiseError, "no hypothesis is given; accepted: one or more, each a name"),
        ({"a": []}, EdgewiseError, "hypothesis 'a' has no path; accepted: one or more"),
        ({"a": ["embed"]}, NameSyntaxError, "'embed' is not a path"),
    ],
)
def test_hypotheses_that_are_none(given: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        parsed(given, ComputationGraph(layers=1, heads=1))


# -- what they explain -----------------------------------------------------------------------------


def test_whole_senders_of_a_circuit_into_the_logits_explain_what_it_does() -> None:
    runner = Runner.create(tiny_lift("llama"), tiny_pairs(lengths=SIX), metric="kl")
    names = ["embed->logits", "a1.h1->logits", "m1->logits"]
    found = explained_effects(runner, {"late": names}, draws=0)
    (late,) = found.hypotheses
    # the same edges with everything before them kept
    graph = runner.graph
    kept = graph.reads.copy()
    kept[-1] = False
    circuit = Circuit(graph, kept).with_edges(map(Edge.parse, names))
    same = measure(runner, circuit)
    assert late.value.value == pytest.approx(same.value_circuit)
    assert late.explained.value == pytest.approx(same.faithfulness)
    assert late.explained.interval == pytest.approx(same.estimate("faithfulness").interval)
    assert found.full.value == pytest.approx(same.value_full)
    assert found.empty.value == pytest.approx(same.value_empty)
    rest = {f"{node}->logits" for node in graph.senders} - set(names)
    (others,) = explained_effects(runner, {"rest": sorted(rest)}, draws=0).hypotheses
    assert late.left.value == pytest.approx(others.explained.value)
    assert late.random == () and late.above is None


def test_random_sets_have_the_shape_of_the_hypothesis_and_are_others() -> None:
    graph = ComputationGraph(layers=3, heads=4)
    texts = ["embed->a0.h1<v>->a1.h0<k>->logits", "embed->a1.h0<v>->logits", "a0.h1->m1->logits"]
    paths = [path for text in texts for path in GraphPath.parse(text, graph)]
    drawn = renamed(graph, paths, 30, np.random.default_rng(0))
    assert len(drawn) == 30
    assert len({tuple(path.edges for path in one) for one in drawn}) == 30
    for one in drawn:
        assert [len(path.edges) for path in one] == [3, 2, 2]
        for path, own in zip(one, paths, strict=True):
            assert [edge.port.kind for edge in path.edges] == [edge.port.kind for edge in own.edges]
            for edge in path.edges:
                graph.locate(edge)
        first, second, third = (path.edges for path in one)
        assert first[1].port.node == second[0].port.node  # a1.h0, whatever it has become
        assert first[1].sender == third[0].sender == one[2].start  # a0.h1
        assert [path.edges for path in one] != [path.edges for path in paths]


def test_where_there_is_no_other_set_none_is_drawn() -> None:
    graph = ComputationGraph(layers=2, heads=2)
    rng = np.random.default_rng(0)
    assert renamed(graph, GraphPath.parse("embed->logits", graph), 5, rng) == []
    few = renamed(graph, GraphPath.parse("a0.h0->a1.h0<k>->logits", graph), 50, rng)
    assert len(few) == 3


def test_groups_of_keys_and_values_take_their_heads_along() -> None:
    graph = ComputationGraph(layers=1, heads=4, kv_heads=2, grouped_kv=True)
    paths = GraphPath.parse("embed->a0.kv0<v>->logits", graph)
    for one in renamed(graph, paths, 9, np.random.default_rng(0)):
        assert {str(edge.port) for edge in one[0].edges} == {"a0.kv1<v>", "logits"}
        assert {str(edge.sender) for edge in one[0].edges} == {"embed", "a0.h2", "a0.h3"}


def test_the_published_heads_explain_induction_and_v_composition_does_not() -> None:
    session = open_model(str(ROOT / "examples/induction/checkpoints/checkpoint-1000"))
    pairs, _ = open_task(session, str(PUBLISHED / "induction-held-out.jsonl"), examples=12)
    given = read_hypotheses(PUBLISHED / "induction.toml")
    chosen = {name: given[name] for name in ("V-composition", "K-composition")}
    runner = make_runner(session, pairs, metric="accuracy")
    v, k = explained_effects(runner, chosen, draws=0).hypotheses
    assert k.explained.value == 1 and v.explained.value is not None and v.explained.value < 0.8
    for one in (v, k):  # no two paths enter one head in different ways, as the page says
        paths = parsed({"": one.paths}, runner.graph)[""]
        edges = Circuit.empty(runner.graph).with_edges(edge for p in paths for edge in p.edges)
        exact = make_runner(session, pairs, metric="logit_diff")
        assert path_values(exact, [paths])[0] == pytest.approx(
            exact.measure_each([edges])[0][0], abs=1e-4
        )


def test_the_published_paths_of_greater_than_are_of_the_model() -> None:
    graph = ComputationGraph(layers=30, heads=9, kv_heads=3)  # SmolLM2-135M
    found = parsed(read_hypotheses(PUBLISHED / "greater-than.toml"), graph)
    assert {"late MLPs, whole", "YY heads through late MLPs"} <= found.keys()


# -- the command -----------------------------------------------------------------------------------


def test_the_command_prints_and_gives_json(
    models: dict[str, Path], pairs: Path, edgewise: Callable[..., Result], tmp_path: Path
) -> None:
    file = tmp_path / "claims.toml"
    file.write_text('[hypotheses]\ndirect = ["embed->logits"]\n"any head" = ["a1.*->logits"]\n')
    asked = [file, "--model", models["gpt2"], "--task", pairs, "--metric", "logit_diff"]
    lines = edgewise("hypotheses", *asked).stdout.splitlines()
    assert any(line.startswith("direct ") and line.endswith(" -") for line in lines)
    assert any(line.startswith("any head ") for line in lines)
    found = json.loads(edgewise("hypotheses", *asked, "--json", "--draws", "0").stdout)
    assert found["full"]["interval"] is None or len(found["full"]["interval"]) == 2
    assert [one["name"] for one in found["hypotheses"]] == ["direct", "any head"]
    assert found["hypotheses"][1]["paths"] == ["a1.h0->logits", "a1.h1->logits"]
    assert found["hypotheses"][1]["random"] == []


def test_a_wrong_path_is_named(
    models: dict[str, Path], pairs: Path, edgewise: Callable[..., Result], tmp_path: Path
) -> None:
    file = tmp_path / "claims.toml"
    file.write_text('[hypotheses]\nx = ["a9.h0->logits"]\n')
    asked = (file, "--model", models["gpt2"], "--task", pairs)
    assert "the graph has no sender a9.h0" in edgewise("hypotheses", *asked, status=1).stderr
