"""Claims about circuits: tests, the worst case, and the untrained control, on models by hand."""

from __future__ import annotations

import dataclasses
import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgewise.experiment.document import parse_spec
from edgewise.experiment.spec import (
    DiscoverySpec,
    EvaluationSpec,
    Experiment,
    ModelSpec,
    Selection,
)
from edgewise.experiment.task import TaskSpec
from edgewise.graphs.circuit import Circuit
from edgewise.graphs.errors import EdgewiseError, SpecError
from edgewise.graphs.files import read_circuit
from edgewise.graphs.lift.plain import plain_block, plain_model
from edgewise.patching.prompts.pairs import Pair, PromptPairs
from edgewise.patching.run.runner import Runner
from edgewise.run import run
from edgewise.session import make_runner, open_model
from edgewise.steps.claims.claims import claims_block, read_claims
from edgewise.steps.claims.control import Control, control, redraw, redrawn
from edgewise.steps.claims.hypotheses import (
    HypothesisTest,
    HypothesisTests,
    circuits_needed,
    hypothesis_tests,
)
from edgewise.steps.claims.worst import worst_case
from edgewise.steps.evaluate import evaluate
from edgewise.steps.stored import circuit_split
from tests.edgewise.conftest import Run, id_rows, tiny
from tests.engine import random_mask, tiny_lift, tiny_pairs

CLAIMS = ("random", "tests", "worst", "control")
ONE = PromptPairs((Pair((0, 1), (0, 2), (1,), (2,)), Pair((0, 3), (0, 2), (3,), (2,))))


def planted(layers: int = 8, write: float = 0.0) -> Runner:
    """Run a model in which `embed->logits` does the task; MLPs write what they read, `write` times.

    Without them nothing else matters. It predicts the token it reads.
    """
    zero, eye = torch.zeros(4, 2, 4), torch.eye(4)
    block = plain_block(wq=zero, wk=zero, wv=zero, wo=zero, up=eye, down=write * eye)
    model = plain_model(tokens=eye, blocks=[block] * layers, unembed=eye)
    return Runner.create(model, ONE, metric="logit_diff")


def edges(runner: Runner, *names: str) -> Circuit:
    return Circuit.empty(runner.graph).with_edges(names)


def named(found: HypothesisTests, test: str) -> HypothesisTest:
    return next(one for one in found.tests if one.test == test)


# -- hypotheses ----------------------------------------------------------------------------------


def test_the_circuit_that_does_the_task_stands_every_test() -> None:
    runner = planted()
    found = hypothesis_tests(runner, edges(runner, "embed->logits"), draws=60)
    p = {one.test: one.p for one in found.tests}
    assert list(p) == [
        "equivalence", "independence", "minimality", "sufficiency", "partial necessity",
    ]  # fmt: skip
    assert (p["equivalence"], p["independence"], p["minimality"]) == (1.0, 1.0, 1.0)
    assert p["sufficiency"] is not None
    assert p["partial necessity"] is not None
    assert 0 < p["sufficiency"] == p["partial necessity"] < 0.05
    assert named(found, "sufficiency").means == (
        "The circuit is nearer to the model than 90% of random circuits of its size."
    )
    assert found.circuits == circuits_needed(1, 60) == 3 + 4 * 60 + 1
    (edge,) = found.edges
    assert (str(edge.edge), edge.weak) == ("embed->logits", False)
    assert edge.effect == pytest.approx(2)  # the answer's logit falls by 1, the distractor's rises


def test_an_edge_that_does_nothing_is_found() -> None:
    runner = planted()
    useless = ["embed->m2", "m2->logits", "m1->m3"]
    found = hypothesis_tests(runner, edges(runner, "embed->logits", *useless), draws=30)
    assert {str(one.edge) for one in found.edges if one.weak} == set(useless)
    # no random edge has an effect below theirs, which is 0, so p = .1^30, times the four edges
    assert named(found, "minimality").p == pytest.approx(4 * 0.1**30)
    assert named(found, "minimality").seen == "3 of 4 edges weak"


def test_a_circuit_that_does_nothing_fails() -> None:
    runner = planted()
    found = hypothesis_tests(runner, edges(runner, "m1->logits"), draws=30)
    equivalence = named(found, "equivalence")
    assert equivalence.seen == "better on 0, worse on 2 of 2"
    assert equivalence.p == 1.0 or equivalence.p == pytest.approx(0.6**2 + 0.4**2)
    assert (named(found, "sufficiency").p or 0) > 0.5
    assert named(found, "sufficiency").means.startswith("It is not shown that the circuit")
    few = hypothesis_tests(runner, edges(runner, "m1->logits"), draws=3)
    assert named(few, "sufficiency").means.endswith("(of 3 draws p cannot be below 0.73).")


@pytest.mark.parametrize(("templates", "clusters"), [(20, 20), (3, 40)])
def test_pairs_of_one_template_count_together(templates: int, clusters: int) -> None:
    runner = planted()
    pairs = [
        dataclasses.replace(pair, group=f"t{number % templates}")
        for number in range(20)
        for pair in ONE
    ]
    grouped = Runner.create(runner.model, PromptPairs(tuple(pairs)), metric="logit_diff")
    found = hypothesis_tests(grouped, edges(runner, "embed->logits", "m1->m3"), draws=30)
    assert (found.examples, found.clusters, found.templates) == (40, clusters, templates)
    assert found.prompts == ("40 pairs of 20 templates" if templates == 20 else "40 pairs")
    words = "this is told of these 3 templates, too few to stand for others"
    assert found.few_templates == (None if templates == 20 else words)
    # all pairs measure the same, so that no draw of templates changes what is exceeded
    alone = hypothesis_tests(runner, edges(runner, "embed->logits", "m1->m3"), draws=30)
    assert (alone.prompts, alone.few_templates) == ("2 pairs", None)
    for test in ("sufficiency", "partial necessity", "minimality"):
        assert named(found, test).p == pytest.approx(named(alone, test).p)


def test_every_circuit_that_was_said_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Runner.create(tiny_lift("llama"), tiny_pairs(), metric="logit_diff")
    circuit = Circuit(runner.graph, random_mask(runner.graph, 0.3, 0))
    seen: list[tuple[int, int, str]] = []
    run, measure = [0], Runner.measure_each

    def counted(self: Runner, circuits: Any, *more: Any, **named: Any) -> np.ndarray:
        run[0] += len(circuits)
        return measure(self, circuits, *more, **named)

    monkeypatch.setattr(Runner, "measure_each", counted)
    found = hypothesis_tests(runner, circuit, 5, 0, lambda *what: seen.append(what))
    ends = 2 * (run[0] - found.circuits == 2)  # what the two ends take, if measured so
    assert run[0] - ends == found.circuits == circuits_needed(len(circuit), 5)
    assert seen[-1] == (found.circuits, found.circuits, "circuits tested")
    again = hypothesis_tests(runner, circuit, 5)
    assert again == found
    assert hypothesis_tests(runner, circuit, 5, seed=1) != found


def test_a_metric_that_compares_with_the_model_has_no_value_of_each() -> None:
    runner = planted().with_metric("kl")
    found = hypothesis_tests(runner, edges(runner, "embed->logits"), draws=3)
    for test in ("equivalence", "independence"):
        assert named(found, test).p is None
        assert "kl compares with the full model" in named(found, test).means
        assert "logit_diff" in named(found, test).means
    assert named(found, "sufficiency").p is not None


@pytest.mark.parametrize(("name", "words"), [("full", "every edge"), ("empty", "no edge")])
def test_circuits_that_cannot_be_tested(name: str, words: str) -> None:
    runner = planted()
    circuit = getattr(Circuit, name)(runner.graph)
    with pytest.raises(EdgewiseError, match=f"the circuit keeps {words}, so a random one of its"):
        hypothesis_tests(runner, circuit)
    with pytest.raises(EdgewiseError, match="draws is 0; accepted: 1 or more"):
        hypothesis_tests(runner, edges(runner, "embed->logits"), draws=0)


# -- the worst case ------------------------------------------------------------------------------


def test_the_worst_pairing_is_that_of_brute_force() -> None:
    pairs = tiny_pairs(lengths=(6, 6, 6, 6, 5), shared=False)
    runner = Runner.create(tiny_lift("llama"), pairs, metric="logit_diff", batch_size=2)
    circuit = Circuit(runner.graph, random_mask(runner.graph, 0.4, 1))
    found = worst_case(runner, circuit).pairings
    assert found is not None
    excess = {}
    for i, j in product(range(5), repeat=2):
        a, b = pairs.pairs[i], pairs.pairs[j]
        if (len(a.clean), a.answer_position) == (len(b.clean), b.answer_position):
            assert b.corrupted is not None
            mixed = Pair(a.clean, b.corrupted, a.answers, a.distractors, a.answer_position)
            alone = Runner.create(runner.model, PromptPairs((mixed,)), metric="logit_diff")
            excess[i + 1, j + 1] = alone.loss(circuit) - alone.loss(Circuit.full(runner.graph))
    assert found.tried == found.possible == len(excess)
    assert found.largest == pytest.approx(max(excess.values()))
    worst = found.worst[0]
    assert excess[worst.clean, worst.corrupted] == pytest.approx(worst.excess)
    assert found.mean == pytest.approx(np.mean([excess[i, i] for i in range(1, 6)]))
    assert found.mean_tried == pytest.approx(np.mean(list(excess.values())))


def test_a_planted_gate_that_hurts_is_found() -> None:
    # m0 writes −½ of what it reads: of the clean token if `embed->m0` is kept
    runner = planted(layers=1, write=-0.5)
    circuit = edges(runner, "embed->logits", "embed->m0")
    found = worst_case(runner, circuit)
    # logits e1 − ½ e2: the difference is 1.5; with the gate open e1 − ½ e1: it is .5
    assert found.loss_circuit == pytest.approx(-1.5)
    assert found.gates is not None
    assert found.gates.loss == pytest.approx(-0.5)
    assert [(str(one.edge), one.gate) for one in found.gates.edges] == [("m0->logits", 1.0)]
    assert found.gates.edges[0].fall == pytest.approx(1)
    assert found.gates.loss_opened == pytest.approx(-0.5)


def test_two_gates_that_hurt_only_together_are_found() -> None:
    runner = planted(layers=1, write=-0.5)
    found = worst_case(runner, edges(runner, "embed->logits"))
    assert found.gates is not None
    assert found.gates.loss == pytest.approx(
        -0.5
    )  # from the circuit itself no gradient leads there
    assert {str(one.edge) for one in found.gates.edges} == {"embed->m0", "m0->logits"}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("metric", ["kl", "nll"])
def test_the_worst_is_never_better_than_the_mean(metric: str, seed: int) -> None:
    runner = Runner.create(tiny_lift("gpt2"), tiny_pairs(), metric=metric)
    circuit = Circuit(runner.graph, random_mask(runner.graph, 0.5, seed))
    found = worst_case(runner, circuit)
    assert found.pairings is not None
    assert found.gates is not None
    assert found.pairings.largest >= found.pairings.mean
    assert found.gates.loss >= found.loss_circuit - 1e-9
    assert found.gates.gradients <= 20


def test_parts_that_cannot_be_searched_are_said() -> None:
    lift = tiny_lift("gpt2")
    runner = Runner.create(lift, tiny_pairs(), metric="accuracy", ablation="zero")
    found = worst_case(runner, Circuit(runner.graph, random_mask(runner.graph, 0.5, 0)))
    assert (found.pairings, found.gates) == (None, None)
    assert found.left_out == (
        "pairings: under zero ablation nothing comes from corrupted prompts",
        "gates: the metric accuracy has no gradient",
    )
    runner = Runner.create(lift, tiny_pairs(), metric="nll")
    full = worst_case(runner, Circuit.full(runner.graph))
    assert full.left_out == ("gates: the circuit discards no edge",)
    assert full.pairings is not None
    assert full.pairings.largest == pytest.approx(0, abs=1e-5)


# -- the control ---------------------------------------------------------------------------------


def test_weights_are_redrawn_with_their_own_mean_and_deviation() -> None:
    model = tiny("llama", hidden_size=64, intermediate_size=96)
    before = {name: weights.clone() for name, weights in model.state_dict().items()}
    redraw(model)
    for name, drawn in model.named_parameters():
        old, weights = before[name], drawn.detach()
        assert not torch.equal(weights, old) or old.std() == 0
        if old.numel() > 2000:
            assert float(weights.std()) == pytest.approx(float(old.std()), rel=0.1)
            assert abs(float(weights.mean() - old.mean())) < 0.1 * float(old.std())


def test_the_model_itself_stays_as_it_is() -> None:
    session = open_model(tiny("gpt2"))
    before = session.loaded.weights_sha256
    first, second, other = redrawn(session), redrawn(session), redrawn(session, seed=1)
    assert session.loaded.weights_sha256 == before
    hashes = [one.loaded.weights_sha256 for one in (first, second, other)]
    assert hashes[0] == hashes[1] != hashes[2]
    assert before not in hashes
    assert first.certificate.passed
    tied = first.loaded.model
    assert tied.lm_head.weight is tied.transformer.wte.weight


def test_a_control_finds_a_circuit_of_its_own() -> None:
    session, pairs = open_model(tiny("llama")), tiny_pairs()
    spec = DiscoverySpec("eap-ig", select=Selection(top=10))
    circuit = Circuit(session.graph, random_mask(session.graph, 0.1, 0))
    like = make_runner(session, pairs, metric="nll")
    found = control(session, pairs, like, spec, circuit)
    assert (found.edges, found.metric, found.as_many) == (10, "nll", False)
    assert found.refused is None
    assert found.jaccard is not None
    assert 0 <= found.jaccard < 1
    assert found == control(session, pairs, like, spec, circuit)
    assert found != control(session, pairs, like, spec, circuit, seed=1)
    assert Control.from_dict(json.loads(json.dumps(found.as_dict()))) == found


@pytest.mark.parametrize("way", ["target", "faithfulness"])
def test_a_control_that_can_reach_nothing_has_as_many_edges(way: str) -> None:
    session, pairs = open_model(tiny("llama")), tiny_pairs()
    circuit = Circuit(session.graph, random_mask(session.graph, 0.1, 0))
    like = make_runner(session, pairs)
    spec = DiscoverySpec("eap-ig", select=Selection(**{way: 0.9}))
    found = control(session, pairs, like, spec, circuit)  # of random weights before and after
    assert (found.edges, found.faithfulness, found.interval) == (len(circuit), None, None)
    why = "about as many as the circuit: no number reaches anything"
    assert found.said == f"{len(circuit)} edges ({why})"
    # by kl the two ends are apart, so that a faithfulness can be reached
    spec = DiscoverySpec("eap-ig", "kl", select=Selection(**{way: 0.9}))
    pairs = PromptPairs(pairs.pairs * 4)
    other = control(session, pairs, make_runner(session, pairs, metric="kl"), spec, circuit)
    assert (other.as_many, other.refused) == (False, None)
    assert other.faithfulness is not None
    assert other.interval is not None
    assert other.interval[0] <= other.faithfulness <= other.interval[1]


def test_a_control_that_the_method_refuses_is_told() -> None:
    session, pairs = open_model(tiny("llama")), tiny_pairs()
    spec = DiscoverySpec("eap-ig", select=Selection(top=10**6))
    like = make_runner(session, pairs)
    found = control(session, pairs, like, spec, Circuit.empty(session.graph))
    assert found.refused is not None
    assert found.refused.startswith("top is 1,000,000, but the model's graph has")
    assert found.as_dict()["faithfulness"] is None


def test_a_control_needs_to_know_how_the_circuit_was_found() -> None:
    runner = planted()
    with pytest.raises(EdgewiseError, match="neither a runner nor a circuit alone says how it was"):
        evaluate(runner, edges(runner, "embed->logits"), control=True)


# -- the command line ----------------------------------------------------------------------------


def test_claims_on_the_command_line(edgewise: Run, circuit: Path) -> None:
    line = ("evaluate", circuit, "--tests", "--draws", 4, "--worst", "--control")
    result = edgewise(*line)
    assert "tests: 31 circuits are run" in result.stderr
    for words in ("partial necessity", "worst pairings", "worst gates", "control, redrawn"):
        assert words in result.stdout
    shown = result.stdout.partition("tests, by")[2].partition("\n\n")[0]
    assert max(map(len, shown.splitlines())) <= 80
    found = json.loads(edgewise(*line, "--json").stdout)
    assert [set(row) for row in found["tests"]["tests"]] == [
        {"test", "p", "draws", "seen", "means"}
    ] * 5
    assert found["tests"]["circuits"] == 31
    assert found["worst"]["pairings"]["worst"][0]["excess"] == pytest.approx(
        found["worst"]["pairings"]["largest"]
    )
    assert found["control"]["edges"] == 12


def test_a_control_stands_in_the_circuit_file(
    edgewise: Run, models: dict[str, Path], pairs: Path
) -> None:
    line = ("discover", "--model", models["llama"], "--task", pairs, "--method", "eap-ig")
    result = edgewise(*line, "--top", 12, "--control", "-o", "circuit.json")
    assert "control, redrawn" in result.stdout
    assert "by chance" in result.stdout
    block = json.loads(Path("circuit.json").read_text())["measures"]["control"]
    assert (block["edges"], block["seed"], block["examples"]) == (12, 0, 6)
    edgewise(*line, "--top", 12, "-o", "plain.json")
    assert "control" not in json.loads(Path("plain.json").read_text())["measures"]


def declared(models: dict[str, Path], pairs: Path, evaluation: str) -> str:
    """Declare a run of one model with a `[evaluation]` table."""
    return f"""
        [[models]]
        source = "{models["llama"]}"
        name = "base"
        [task]
        file = "{pairs}"
        [discovery]
        method = "eap-ig"
        top = 12
        [evaluation]
        metrics = ["logit_diff"]
        {evaluation}
        [drawing]
        formats = []
        """


@pytest.mark.filterwarnings("ignore:the circuit.s faithfulness")
def test_a_control_stands_in_a_runs_report(
    models: dict[str, Path], pairs: Path, tmp_path: Path
) -> None:
    spec = parse_spec(declared(models, pairs, "control = true"))
    result = run(spec, tmp_path / "out")
    block = json.loads(result.evaluation.read_text())["models"]["base"]["control"]
    assert block["edges"] == 12
    table = result.report.read_text().partition("| control of |")[2]
    row = table.splitlines()[2]
    assert row.startswith("| base | 12 | ")
    assert f"{block['jaccard']:.3f}" in row
    assert f"{block['value_full']:.4g}" in row


@pytest.mark.filterwarnings("ignore:the circuit.s faithfulness")
def test_a_run_puts_circuits_to_claims_on_the_held_out_pairs(
    models: dict[str, Path], tmp_path: Path
) -> None:
    """Whatever a spec declares is what `evaluate` finds on the same pairs, and stands in words."""
    file = tmp_path / "many.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in id_rows(12, 0)))
    asked = {"random": 6, "tests": True, "draws": 5, "draw_seed": 3, "worst": True, "control": True}
    table = "\n".join(f"{key} = {json.dumps(value)}" for key, value in asked.items())
    spec = parse_spec(declared(models, file, table).replace("[task]", "[task]\ntest = 4"))
    assert parse_spec(spec.to_toml()) == spec
    result = run(spec, tmp_path / "out")
    found = json.loads(result.evaluation.read_text())["models"]["base"]
    session, circuit = open_model(str(models["llama"])), read_circuit(result.circuits["base"])
    split = circuit_split(circuit, session, {})[0]
    assert [len(split.discovery), len(split.test or ())] == [8, 4]
    own = evaluate(session, circuit, split, metric="logit_diff", **asked)
    for name in CLAIMS:
        assert found[name] == json.loads(json.dumps(getattr(own, name).as_dict())), name
    assert json.loads(json.dumps(claims_block(read_claims(found)))) == {k: found[k] for k in CLAIMS}
    assert [found[name]["examples"] for name in ("tests", "worst", "control")] == [4, 4, 4]
    report = result.report.read_text()
    assert own.tests is not None
    assert own.random is not None
    assert own.worst is not None
    assert own.worst.gates is not None
    assert own.worst.pairings is not None
    for one in own.tests.tests:
        assert f"| {one.test} | " in report
        assert one.means[:40] in report
    assert (
        "Five tests of the circuit of base (Shi et al. 2024), by `logit_diff` on 4 pairs" in report
    )
    worst = next(
        line
        for line in report.splitlines()
        if line.startswith("| base | ") and f"{own.worst.gates.loss:.4g}" in line
    )
    assert f"{own.worst.pairings.largest:.4g}" in worst
    low, high = own.random.interval
    assert f"| {low:.0f} to {high:.0f}% |" in report
    assert run(spec, tmp_path / "out").made == ()
    changed = run(spec.but(evaluation=spec.evaluation.but(draw_seed=4)), tmp_path / "out")
    assert changed.made == ("evaluation of base", "report")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('tests = "yes"', r"evaluation.tests is .yes.*accepted: true or false"),
        ("draws = 0", "evaluation.draws is 0; accepted: a whole number from 1 up"),
        ("random = -1", "evaluation.random is -1; accepted: a whole number from 1 up"),
        ("draw_seed = 0.5", "evaluation.draw_seed is 0.5; accepted: a whole number from 0 up"),
        ("wurst = true", r"'wurst'.*mean 'worst'\?"),
    ],
)
def test_what_a_spec_cannot_ask_for(
    line: str, words: str, models: dict[str, Path], pairs: Path
) -> None:
    with pytest.raises(SpecError, match=words):
        parse_spec(declared(models, pairs, line))


@pytest.mark.parametrize("asked", [{"tests": True}, {"random": 9}, {"rivals": 2}])
def test_random_circuits_need_a_selection(asked: dict[str, Any]) -> None:
    name = next(iter(asked))
    words = rf"evaluation\.{name} is given, but .* every edge is kept.*give the discovery top"
    with pytest.raises(EdgewiseError, match=words):
        Experiment(
            "x", (ModelSpec.at("a"),), TaskSpec("ioi"), DiscoverySpec("eap-ig"),
            EvaluationSpec(**asked),
        )  # fmt: skip
