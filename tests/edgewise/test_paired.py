"""The paired comparison in real runs: what changed is found, and nothing where nothing changed."""

from __future__ import annotations

import json
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgewise.experiment.spec import ComparisonSpec, DiscoverySpec
from edgewise.graphs.circuit import Circuit
from edgewise.graphs.comparison import Comparison
from edgewise.graphs.diff import CircuitDiff
from edgewise.graphs.errors import EdgewiseError, FileFormatError
from edgewise.graphs.files import read_circuit, read_diff
from edgewise.patching.prompts.pair_files import write_pairs
from edgewise.patching.prompts.pairs import PromptPairs
from edgewise.session import Session, open_changed, open_model
from edgewise.steps.compare import paired_comparison
from edgewise.steps.comparison.paired import ComparedPairs, compare_scored
from edgewise.steps.comparison.scored import (
    ScoredModel,
    are_rounded,
    round_weights,
    score_model,
    weights_correlation,
)
from tests.edgewise.asking_model import answering, ask, without_head

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "paired.py"
SCORING = DiscoverySpec("eap-ig", metric="logit_diff")


@pytest.fixture(scope="module")
def whole() -> Session:
    """Open a trained model of two layers with four heads each and MLPs: 110 edges."""
    return open_model(answering(2, 4, steps=150))


@pytest.fixture(scope="module")
def jobs() -> dict[str, Session]:
    """Open a trained model whose two heads have a job each, and copies without one of them."""
    model = answering(1, 2, steps=400, jobs=True)
    cut = {f"cut{head}": open_model(without_head(model, 0, head)) for head in (0, 1)}
    return {"base": open_model(model), **cut}


@pytest.fixture(scope="module")
def files(jobs: dict[str, Session], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save these models with prompts for them, and their circuits."""
    from click.testing import CliRunner

    from edgewise.cli import cli

    folder = tmp_path_factory.mktemp("paired")
    write_pairs(folder / "ask.jsonl", ask(32, seed=0))
    for name, session in jobs.items():
        session.loaded.model.save_pretrained(folder / name)
        line = ("discover", "--model", folder / name, "--task", folder / "ask.jsonl", "--method",
                "eap-ig", "--above", 0.5, "-o", folder / f"{name}.json")  # fmt: skip
        assert CliRunner().invoke(cli, [*map(str, line)]).exit_code == 0
    return folder


def compared(
    a: Session, b: Session, pairs: PromptPairs, scoring: DiscoverySpec = SCORING, **spec: Any
) -> Comparison:
    """Compare two models, as if their circuits kept nothing."""
    none = Circuit.empty(a.graph)
    scored = (
        score_model(a, pairs, scoring, rounded=False),
        score_model(b, pairs, scoring, rounded=spec.get("controls", True)),
    )
    asked = ComparisonSpec(**spec)
    return compare_scored(CircuitDiff(none, none), scored, scoring, asked, ComparedPairs(pairs))


def found(comparison: Comparison) -> set[str]:
    return {row.edge for row in comparison.significant}


# -- done means ----------------------------------------------------------------------------------


@pytest.mark.parametrize("head", [0, 1])
def test_a_head_that_was_cut_is_found(jobs: dict[str, Session], head: int) -> None:
    """On 32 prompts, half of which ask for what the head does, ten times."""
    for seed in range(10):
        told = compared(jobs["base"], jobs[f"cut{head}"], ask(32, 100 + seed), controls=False)
        own = {f"embed->a0.h{head}<v>", f"a0.h{head}->logits"}
        assert found(told) >= own and len(found(told)) <= 4  # the norm's factor changes too


def test_a_weakened_head_is_found_and_what_has_no_meaning_is_not(
    jobs: dict[str, Session], whole: Session
) -> None:
    """A head that works writes half as much; rounded weights, and a head without function."""
    half = open_model(without_head(jobs["base"].loaded.model, 0, 0, keep=0.5))
    told = compared(jobs["base"], half, ask(32, 8))
    assert found(told) >= {"embed->a0.h0<v>", "a0.h0->logits"}
    assert (told.controls.other_prompts, told.controls.rounded_weights) == (0, 0)
    assert told.weights_correlation == pytest.approx(1, abs=0.02)
    idle = open_model(without_head(whole.loaded.model, 1, 2))
    assert found(compared(whole, idle, ask(32, 8), controls=False)) == set()


def test_a_model_does_not_differ_from_itself(whole: Session) -> None:
    """On the same prompts not at all, and on other prompts in no more than few runs."""
    same = compared(whole, whole, ask(16, 0))
    assert found(same) == set() and same.weights_correlation == 1
    assert all(row.change == 0 for row in same.edges)
    false = 0
    scored = [score_model(whole, ask(64, 20 + i), SCORING, rounded=False) for i in range(20)]
    none = Circuit.empty(whole.graph)
    for one in scored:  # its halves are the control
        spec = ComparisonSpec()
        told = compare_scored(
            CircuitDiff(none, none), (one, one), SCORING, spec, ComparedPairs(ask(1, 0))
        )
        assert told.controls.other_prompts is not None
        false += told.controls.other_prompts > 0
    assert false <= 1


@pytest.mark.slow
def test_what_the_benchmark_finds_in_fewer_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """The trained induction model: a head a tenth weaker is found, one without function is not."""
    found = runpy.run_path(str(BENCHMARK))["induction"](runs=20)
    same, tenth, half, cut, idle = found.values()
    assert (same, half, cut, idle) == (0, 1, 1, 0) and tenth >= 0.95
    assert capsys.readouterr().out.count("of 20 runs") == 5


# -- numbers -------------------------------------------------------------------------------------


def test_every_number_is_that_of_the_scores(jobs: dict[str, Session]) -> None:
    pairs = ask(24, 3)
    told = compared(jobs["base"], jobs["cut0"], pairs, delta_share=0.01, level=0.1)
    scored = [score_model(jobs[name], pairs, SCORING, rounded=False) for name in ("base", "cut0")]
    spans = [abs(one.full - one.empty) for one in scored]
    assert told.delta == pytest.approx(0.01 * max(spans))
    assert (told.delta_share, told.level, told.examples, told.clusters) == (0.01, 0.1, 24, 24)
    assert (told.full, told.empty) == (
        tuple(one.full for one in scored),
        tuple(one.empty for one in scored),
    )
    a, b = (one.scores.mean() for one in scored)
    for row in told.edges:
        assert (row.mean_a, row.mean_b) == (pytest.approx(a[row.edge]), pytest.approx(b[row.edge]))
        assert row.change == pytest.approx(row.mean_b - row.mean_a, abs=1e-6)
        assert row.low <= row.change <= row.high
    assert told.amount(told.delta).endswith(" logits")
    absolute = compared(jobs["base"], jobs["cut0"], pairs, delta=1e9)
    assert (absolute.delta, absolute.delta_share, absolute.edges) == (1e9, None, ())


def test_edges_in_which_the_circuits_differ_are_listed_too(jobs: dict[str, Session]) -> None:
    pairs, none = ask(16, 0), Circuit.empty(jobs["base"].graph)
    scored = [score_model(jobs[name], pairs, SCORING, rounded=False) for name in ("base", "base")]
    diff = CircuitDiff(none.with_edges(["embed->logits", "m0->logits"]), none)
    told = compare_scored(
        diff, (scored[0], scored[1]), SCORING, ComparisonSpec(), ComparedPairs(pairs)
    )
    assert [row.edge for row in told.edges] == ["embed->logits", "m0->logits"]
    assert [row.q for row in told.edges] == [1.0, 1.0]
    assert told.controls.rounded_weights is None


def test_groups_are_clusters(whole: Session) -> None:
    pairs = ask(32, 3)
    labelled = replace(
        pairs, pairs=tuple(replace(p, group=str(i % 16)) for i, p in enumerate(pairs))
    )
    told = compared(whole, whole, labelled)
    assert (told.examples, told.clusters) == (32, 16)
    assert (told.prompts, told.templates) == ("32 prompts of 16 templates", 16)
    few = replace(pairs, pairs=tuple(replace(p, group=str(i % 3)) for i, p in enumerate(pairs)))
    some = compared(whole, whole, few)
    assert (some.clusters, some.templates, some.prompts) == (32, 3, "32 prompts")


# -- weights -------------------------------------------------------------------------------------


def test_weights_are_rounded_in_a_copy(whole: Session) -> None:
    """The model that was given is altered at no time, not even while the control runs."""
    import torch

    mine = whole.loaded.model
    before = {k: v.clone() for k, v in mine.state_dict().items()}
    versions = [one._version for one in mine.parameters()]
    other = open_changed(whole, round_weights)
    after = other.loaded.model.state_dict()
    assert all(torch.equal(x, x.bfloat16().to(x.dtype)) for x in after.values())
    assert are_rounded(other.loaded.model) and not are_rounded(mine)
    assert other.loaded.weights_sha256 != whole.loaded.weights_sha256
    score_model(whole, ask(4, 0), SCORING, rounded=True)
    assert all(torch.equal(v, mine.state_dict()[k]) for k, v in before.items())
    assert [one._version for one in mine.parameters()] == versions


def test_unrelated_weights_are_told(whole: Session) -> None:
    other = open_model(type(whole.loaded.model)(whole.loaded.model.config).eval())
    told = compared(whole, other, ask(16, 0), controls=False)
    assert told.weights_correlation is not None and abs(told.weights_correlation) < 0.05
    assert weights_correlation(np.ones(3), np.ones(4)) is None
    assert weights_correlation(np.zeros(3), np.ones(3)) is None


def test_what_was_scored_is_written_and_read(whole: Session, tmp_path: Path) -> None:
    scored = score_model(whole, ask(4, 0), SCORING, rounded=True)
    path = tmp_path / "s.safetensors"
    scored.write(path)
    again = ScoredModel.read(path, whole.graph)
    np.testing.assert_array_equal(again.scores.values, scored.scores.values)
    assert again.rounded is not None and scored.rounded is not None
    np.testing.assert_array_equal(again.rounded.values, scored.rounded.values)
    assert (again.full, again.empty) == (scored.full, scored.empty)
    np.testing.assert_array_equal(again.scores.clusters, scored.scores.clusters)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(FileFormatError, match="make it again"):
        ScoredModel.read(path, whole.graph)


# -- the command ---------------------------------------------------------------------------------


@pytest.fixture
def here(edgewise: Any, files: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand beside the circuits."""
    monkeypatch.chdir(files)
    return files


def test_a_diff_tests_every_edge_unless_told_not_to(edgewise: Any, here: Path) -> None:
    shown = edgewise("diff", "base.json", "cut0.json", "-o", "d.json").stdout
    told = read_diff("d.json").compared
    assert told is not None
    vanished = {row.edge for row in told.changed("only_a")}
    assert vanished == {"embed->a0.h0<v>", "a0.h0->logits"}
    assert "only in A: 2 of 2 changed: 0 stronger in B, 2 weaker" in shown
    assert "the smallest change that 32 prompts would have shown is" in shown
    assert "edges that change where nothing changed: one half of the prompts" in shown
    by_hand = paired_comparison(read_circuit("base.json"), read_circuit("cut0.json"))
    assert by_hand == told.measured
    document = json.loads(edgewise("diff", "base.json", "cut0.json", "--json").stdout)
    block = document["comparison"]
    assert block["test"] == "paired" and block["controls"] == {
        "other_prompts": 0, "rounded_weights": 0,
    }  # fmt: skip
    assert all(len(row) == 8 for row in block["edges"])
    plain = edgewise("diff", "base.json", "cut0.json", "--no-paired", "--json")
    assert "comparison" not in json.loads(plain.stdout)
    large = ("--delta", 1000, "--no-controls", "--json")
    none = json.loads(edgewise("diff", "base.json", "cut0.json", *large).stdout)["comparison"]
    assert none["delta"] == 1000 and none["controls"]["rounded_weights"] is None
    assert all(row[-1] == 1 for row in none["edges"])


def test_where_a_model_is_gone_the_structure_is_compared(edgewise: Any, here: Path) -> None:
    gone = json.loads(Path("cut0.json").read_text())
    gone["model"] |= {"name": "gone", "paths": {"absolute": "/nowhere/gone", "relative": "gone"}}
    Path("gone.json").write_text(json.dumps(gone))
    shown = edgewise("diff", "base.json", "gone.json")
    assert "which edges changed was not tested" in shown.stderr
    assert "structure alone" in shown.stderr and "only A" in shown.stdout
    assert "which edges" not in edgewise("diff", "base.json", "gone.json", "--no-paired").stderr
    edgewise("diff", "base.json", "gone.json", "--paired", status=1)


def test_circuits_of_other_tools_are_tested_too(edgewise: Any, here: Path) -> None:
    """The Python object of a circuit that another tool found: no method to repeat."""
    file = read_circuit("base.json")
    imported = replace(file, discovery={**file.discovery, "method": "imported"})
    told = paired_comparison(imported, read_circuit("cut1.json"), models=("base", "cut1"))
    assert found(told) >= {"embed->a0.h1<v>", "a0.h1->logits"}
    assert told.scores == "eap-ig"


def test_a_metric_without_a_gradient_leaves_structure(edgewise: Any, here: Path) -> None:
    file = read_circuit("base.json")
    blind = replace(file, discovery={**file.discovery, "method": "acdc", "metric": "accuracy"})
    with pytest.raises(EdgewiseError, match="'accuracy' has no gradient"):
        paired_comparison(blind, blind)
