"""Rivals: disjoint under an infinite penalty, the same circuit under none, and told in words."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgewise.discovery.acdc import Rule, apart, walk
from edgewise.discovery.registry import Discovery, get_method
from edgewise.discovery.searches.orders import Orders
from edgewise.experiment.document import parse_spec
from edgewise.experiment.spec import DiscoverySpec, EvaluationSpec, Selection
from edgewise.graphs.circuit import Circuit
from edgewise.graphs.errors import EdgewiseError
from edgewise.graphs.scores import Scores
from edgewise.patching.incremental.search import Search
from edgewise.patching.run.runner import Runner
from edgewise.run import run
from edgewise.session import Session, make_runner, open_model
from edgewise.steps.claims.rivals import Rival, Rivals, burden, rivals
from edgewise.steps.evaluate import evaluate
from tests.edgewise.conftest import Run, tiny
from tests.engine import tiny_lift, tiny_pairs

PAIRS = tiny_pairs(0, (5, 4, 5, 4))


@pytest.fixture(scope="module")
def session() -> Session:
    return open_model(tiny("llama"))


def first(session: Session, spec: DiscoverySpec) -> Circuit:
    runner = make_runner(session, PAIRS, metric=spec.metric)
    found = spec.chosen(runner, **spec.options)
    if found.circuit is not None:
        return found.circuit
    assert spec.select.top is not None
    return found.scores.top(spec.select.top, absolute=not spec.select.signed)


def searched(session: Session, spec: DiscoverySpec, number: int, penalty: float) -> Rivals:
    runner = make_runner(session, PAIRS, metric="logit_diff")
    return rivals(session, (runner, PAIRS), spec, first(session, spec), (number, penalty))


SPECS = {
    "top": DiscoverySpec("eap", select=Selection(top=15, signed=True)),
    "walk": DiscoverySpec("acdc", options={"threshold": 0.05}),
    "refine": DiscoverySpec("refine", options={"edges": 12, "sweeps": 0}),
}


@pytest.mark.parametrize("name", SPECS)
def test_an_infinite_penalty_leaves_no_edge_to_two(session: Session, name: str) -> None:
    found = searched(session, SPECS[name], 2, math.inf)
    assert len(found.circuits) > 1 or found.ended
    every = [edge for one in found.circuits for edge in one.edges]
    assert len(set(every)) == len(every)
    assert [one.new for one in found.circuits] == [len(one.edges) for one in found.circuits]
    if len(found.circuits) > 1:
        assert found.shared == []
        assert len(found.only_some) == len(every)
    again = Rivals.from_dict(json.loads(json.dumps(found.as_dict())))
    assert again == found


@pytest.mark.parametrize("name", SPECS)
def test_without_a_penalty_the_circuit_comes_again(session: Session, name: str) -> None:
    found = searched(session, SPECS[name], 2, 0.0)
    assert len(found.circuits) == 1
    assert found.ended == "the search found a circuit again that was found before"
    assert found.shared == list(found.circuits[0].edges)
    assert found.only_some == []


def test_scores_are_divided_by_how_often_an_edge_was_kept(session: Session) -> None:
    spec = SPECS["top"]
    runner = make_runner(session, PAIRS, metric=spec.metric)
    scores, graph = get_method("eap")(runner).scores, session.graph
    found, kept = [scores.top(15, absolute=False)], np.zeros(graph.size)
    for _ in range(2):
        kept += found[-1].kept
        lighter = (scores.values / (1 + 3.0 * kept)).astype(np.float32)
        found.append(Scores(graph, lighter).top(15, absolute=False))
    made = searched(session, spec, 2, 3.0)
    names = [{(str(e.sender), str(e.port)) for e in one.edges} for one in found]
    assert [set(one.edges) for one in made.circuits] == names
    counts = made.counts
    assert all(counts[edge] == sum(edge in one for one in names) for edge in counts)
    assert made.shared == [edge for edge, n in counts.items() if n == 3]
    known = Discovery(scores)
    judge = make_runner(session, PAIRS, metric="logit_diff")
    assert rivals(session, (judge, PAIRS), spec, found[0], (2, 3.0), known=known) == made


@pytest.mark.parametrize("ports_first", [False, True])
def test_a_walk_asks_more_of_edges_that_were_kept(ports_first: bool) -> None:
    pairs = tiny_pairs(2, (4, 3))
    runner = Runner.create(tiny_lift("gpt2", 2), pairs, metric="kl")
    options = get_method("acdc").check({"threshold": 0.02, "ports_first": ports_first})
    assert {one.name for one in fields(Orders)} <= options.keys()
    once = apart(runner, options, np.ones(runner.graph.size), None)
    plain = get_method("acdc")(runner, **options)
    assert once.circuit == plain.circuit is not None
    np.testing.assert_array_equal(once.scores.values, plain.scores.values)
    weights = burden([plain.circuit], 4.0)
    other = apart(runner, options, weights, None)
    assert other.circuit is not None
    rule = Rule(0.02, ports_first, candidates=1, burden=weights)
    assert walk(Search(runner), runner.graph, rule).circuit == other.circuit
    kept = other.circuit.kept
    assert (other.scores.values[kept] >= 0.02 * weights[kept] - 1e-6).all()
    assert len(other.circuit & plain.circuit) < len(plain.circuit)


def test_a_penalty_of_groups_of_edges_is_that_of_the_lightest() -> None:
    weights = np.array([[1.0, 3.0], [np.inf, np.inf]])
    rule = Rule(0.5, burden=weights)
    assert rule.limit([0], np.array([[False, True]])) == 1.5
    assert rule.limit([0], np.array([[True, True]])) == 0.5
    assert rule.limit([1], np.array([[True, False]])) == np.inf
    assert Rule(0.0, burden=weights).limit([1], np.array([[True, False]])) == np.inf


# -- files and the command line ------------------------------------------------------------------


def test_rivals_on_the_command_line(edgewise: Run, models: dict[str, Path], pairs: Path) -> None:
    line = ("discover", "--model", models["llama"], "--task", pairs, "--method", "eap", "--top", 12)
    more = ("--test", 3, "--examples", 3, "--rivals", 2, "--penalty", "inf", "-o", "circuit.json")
    result = edgewise(*line, *more)
    assert "rivals, penalty inf, by logit_diff on 3 held-out pairs" in result.stdout
    assert "all 3 share     no edge" in result.stdout
    block = json.loads(Path("circuit.json").read_text())["measures"]["rivals"]
    assert (block["penalty"], block["held_out"], block["examples"]) == ("inf", True, 3)
    assert [one["edges"] for one in block["circuits"]] == [12, 12, 12]
    assert block["shared"] == []
    assert len(block["only_some"]) == 36
    assert {one[2] for one in block["only_some"]} == {1}
    again = json.loads(edgewise("evaluate", "circuit.json", "--rivals", 2, "--penalty", "inf",
                                "--json").stdout)["rivals"]  # fmt: skip
    assert again == block


@pytest.mark.parametrize(("more", "said"), [
    (("--method", "eap", "--rivals", 1), "nothing says which edges to keep"),
    (("--method", "eap", "--top", 5, "--penalty", 2), "--penalty is of rivals; give --rivals N"),
    (("--method", "eap", "--top", 5, "--rivals", 0), "--rivals"),
    (("--method", "eap", "--top", 5, "--rivals", 1, "--penalty", -1), "--penalty"),
])  # fmt: skip
def test_wrong_requests_are_wrong_usage(
    edgewise: Run, models: dict[str, Path], pairs: Path, more: tuple[Any, ...], said: str
) -> None:
    line = ("discover", "--model", models["llama"], "--task", pairs, "-o", "circuit.json")
    assert said in edgewise(*line, *more, status=2).stderr


def test_specs_check_rivals_too(session: Session) -> None:
    with pytest.raises(EdgewiseError, match="a number from 0 up, or inf"):
        EvaluationSpec(penalty=-1.0)
    with pytest.raises(EdgewiseError, match="rivals repeat the circuit's discovery"):
        evaluate(make_runner(session, PAIRS), Circuit.full(session.graph), rivals=1)


@pytest.mark.filterwarnings("ignore:the circuit.s faithfulness")
def test_a_run_reports_rivals(models: dict[str, Path], pairs: Path, tmp_path: Path) -> None:
    text = f"""
        [[models]]
        source = "{models["llama"]}"
        name = "base"
        [task]
        file = "{pairs}"
        [discovery]
        method = "acdc"
        threshold = 0.05
        stop_on = 2
        [evaluation]
        metrics = ["logit_diff"]
        rivals = 1
        [drawing]
        formats = []
        """
    result = run(parse_spec(text), tmp_path / "out")
    block = json.loads(result.evaluation.read_text())["models"]["base"]["rivals"]
    found = Rivals.from_dict(block)
    assert [type(one) for one in found.circuits] == [Rival] * len(found.circuits)
    report = result.report.read_text()
    assert "Rivals of base: further circuits" in report
    other = found.circuits[1]
    assert f"| rival 1 | {len(other.edges)} | {other.new} |" in report
    assert "* The search for the circuit of base: it stopped at " in report
