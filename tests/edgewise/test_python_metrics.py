"""Metrics given as Python functions: what they measure, what is refused, what files say of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgewise import discover, evaluate, open_model, timeline
from edgewise.discovery.registry import get_method
from edgewise.experiment.spec import DiscoverySpec, EvaluationSpec, Experiment, ModelSpec, Selection
from edgewise.experiment.task import TaskSpec
from edgewise.graphs.circuit import Circuit
from edgewise.graphs.errors import EdgewiseError, JournalMismatch
from edgewise.graphs.files import read_circuit, write_circuit
from edgewise.patching.metrics.functions import as_metric, source_sha256
from edgewise.patching.metrics.metric import Metric
from edgewise.patching.prompts.pair_files import read_pairs
from edgewise.patching.prompts.pairs import PromptPairs
from edgewise.patching.run.runner import Runner
from edgewise.run import run
from edgewise.session import make_runner
from edgewise.steps.transplant import Choice, transplant
from edgewise.store.journal import JournalFile
from edgewise.store.results import Results
from edgewise.workflow import patch
from tests.engine import tiny_lift, tiny_pairs

from .conftest import Run

# tiny circuits, which are about something else
pytestmark = pytest.mark.filterwarnings("ignore:no way of kept edges:UserWarning")


def gap(logits: Any, target: Any) -> Any:
    """Mean logit of the answers minus that of the distractors."""
    values = []
    for ids in (target.answers, target.distractors):
        chosen = logits.gather(1, ids.clamp(min=0)).masked_fill(ids < 0, 0.0)
        values.append(chosen.sum(-1) / (ids >= 0).sum(-1))
    return values[0] - values[1]


def divergence(logits: Any, target: Any) -> Any:
    """KL divergence from the full model."""
    full, own = (x.log_softmax(-1) for x in (target.clean_logits, logits))
    return (full.exp() * (full - own)).sum(-1)


def right(logits: Any, target: Any) -> Any:
    """1 where the answer is the likeliest token."""
    return (logits.argmax(-1) == target.answers[:, 0]).float()


DOWN = Metric("divergence", divergence, larger_is_better=False, needs_clean_logits=True)


@pytest.fixture
def session(models: dict[str, Path]) -> Any:
    return open_model(str(models["llama"]))


# -- what it measures ---------------------------------------------------------------------------


@pytest.mark.parametrize(("function", "name"), [(gap, "logit_diff"), (DOWN, "kl")])
def test_a_function_measures_what_the_built_in_metric_does(function: Any, name: str) -> None:
    lift, pairs = tiny_lift("llama"), tiny_pairs()
    own, built_in = (Runner.create(lift, pairs, metric=one) for one in (function, name))
    circuits = [Circuit.full(lift.graph).without(["m0->logits"]), Circuit.empty(lift.graph)]
    np.testing.assert_allclose(own.losses(circuits), built_in.losses(circuits), atol=1e-9)
    for method in ("eap-ig", "exact", "acdc"):
        a, b = (get_method(method)(runner) for runner in (own, built_in))
        np.testing.assert_allclose(a.scores.values, b.scores.values, atol=1e-6)
        assert a.circuit == b.circuit
    again = built_in.with_metric(function)
    np.testing.assert_allclose(again.losses(circuits), own.losses(circuits), atol=1e-12)


def test_a_trial_tells_what_its_gradient_is() -> None:
    lift, pairs = tiny_lift("llama"), tiny_pairs()
    assert Runner.create(lift, pairs, metric=gap).metric.differentiable
    flat = Runner.create(lift, pairs, metric=divergence)
    assert flat.metric.flat_at_clean and flat.metric.larger_is_better
    with pytest.raises(EdgewiseError, match="gradient of 'divergence' is 0 at the clean run"):
        get_method("eap")(flat)
    steps = Runner.create(lift, pairs, metric=right)
    assert not steps.metric.differentiable
    with pytest.raises(EdgewiseError, match="metric 'right' has no gradient"):
        get_method("eap-ig")(steps)
    assert 0 <= -steps.loss(Circuit.full(lift.graph)) <= 1  # but it can be measured


def test_every_public_call_takes_a_function(
    session: Any, pairs: Path, models: dict[str, Path]
) -> None:
    read = read_pairs(pairs)
    found = discover(session, read, method="eap-ig", metric=gap, select=Selection(top=9))
    named = discover(session, read, method="eap-ig", metric="logit_diff", select=Selection(top=9))
    assert found.file.circuit == named.file.circuit
    measured = evaluate(session, found.file, read, metric=gap)
    assert measured.metric == "gap"
    assert measured.value_circuit == pytest.approx(found.evaluation.value_circuit, abs=1e-6)
    assert make_runner(session, read, metric=gap).metric.name == "gap"
    (a,), (b,) = (patch(session, read, ["m0->logits"], metric=one) for one in (gap, "logit_diff"))
    assert a.effect == pytest.approx(b.effect, abs=1e-6)
    two = [str(models["llama"]), str(models["tuned"])]
    line = timeline(two, str(pairs), method="eap", metric=gap, measure=[right],
                    select=Selection(top=9))  # fmt: skip
    assert line.metrics == ["gap", "right"]
    moved = transplant(*two, str(pairs), Choice(nodes=("m0",)), metric=gap)
    assert moved.transplant["metric"] == "gap"
    spec = EvaluationSpec((gap, "kl"))  # type: ignore[arg-type]
    assert spec.metrics == ("gap", "kl")
    assert evaluate(session, found.file.circuit, read, spec, ablation="zero").metric == "gap"


# -- what is refused ----------------------------------------------------------------------------


def kl(logits: Any, target: Any) -> Any:
    return logits[:, 0]


WRONG: list[tuple[Any, str]] = [
    (lambda logits, target: logits.mean(), r"returns the shape \[\] for 3 examples; it is called"),
    (lambda logits, target: logits, r"returns the shape \[3, 31\] for 3 examples"),
    (lambda logits, target: 3, "returns 3, no tensor; it is called with logits"),
    (lambda logits: logits[:, 0], "failed on a trial call .TypeError: .*positional argument"),
    (lambda logits, target: logits.argmax(-1), "returns torch.int64; accepted: floating point"),
    (lambda logits, target: (logits[:, 0] * 0 - 1).log(), "not finite for 3 of 3 examples"),
    (lambda logits, target: logits[:, 0] - logits[:, 0].mean(), "gives the first example .* alone"),
    (kl, "the metric function is called 'kl', as one that is built in"),
    (3, r"the metric is 3; accepted: a metric's name, an expression such as"),
    (Metric, "the metric is <class .*Metric'>; accepted: a metric's name"),
    ("gapp", "unknown metric 'gapp'"),
]


@pytest.mark.parametrize(("function", "why"), WRONG)
def test_a_wrong_function_is_told_what_is_taken(function: Any, why: str) -> None:
    lift, pairs = tiny_lift("llama"), tiny_pairs()
    with pytest.raises(EdgewiseError, match=why):
        Runner.create(lift, pairs, metric=function)


def test_the_request_refuses_what_is_no_metric() -> None:
    for wrong in (3, ["kl"], kl, " "):
        with pytest.raises(EdgewiseError):
            DiscoverySpec("acdc", metric=wrong)  # type: ignore[arg-type]


# -- answers of several tokens ------------------------------------------------------------------


def surprise(logits: Any, target: Any) -> Any:
    """Minus the log of the probability of all answers."""
    return target.log_probs(logits)[0].logsumexp(-1)


def entropy(logits: Any, target: Any) -> Any:
    """Entropy of what is predicted."""
    return -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1)


def whole_pairs() -> PromptPairs:
    ends = [([(4, 5), (6, 7, 8)], [(4, 9)]), ([(3,)], [(5,)]), ([(1, 2)], [(2, 2)])]
    pairs = (pair.spelling(*one) for pair, one in zip(tiny_pairs(), ends, strict=True))
    return PromptPairs(tuple(pairs))


def test_a_function_of_log_probabilities_takes_answers_of_any_length() -> None:
    lift = tiny_lift("llama")
    for pairs, size in ((whole_pairs(), 8), (whole_pairs(), 1), (tiny_pairs(), 8)):
        own, built_in = (
            Runner.create(lift, pairs, metric=one, batch_size=size) for one in (surprise, "nll")
        )
        circuits = [Circuit.full(lift.graph).without(["m0->logits"]), Circuit.empty(lift.graph)]
        np.testing.assert_allclose(own.losses(circuits), built_in.losses(circuits), atol=1e-9)
        for method in ("eap-ig", "acdc"):
            a, b = (get_method(method)(runner) for runner in (own, built_in))
            np.testing.assert_allclose(a.scores.values, b.scores.values, atol=1e-6)
            assert a.circuit == b.circuit
    whole = Metric("own", gap, larger_is_better=True, whole=surprise)
    measured = Runner.create(lift, whole_pairs(), metric=whole).losses(circuits)
    np.testing.assert_allclose(
        measured, Runner.create(lift, whole_pairs(), metric="nll").losses(circuits), atol=1e-9
    )


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (gap, r"`target.answers` are single tokens, and these are of several; accepted"),
        (entropy, r"returns the shape \[\d+\] for \d examples of answers of several"),
        (lambda logits, target: surprise(logits, target) - surprise(logits, target).mean(),
         "gives the first example .* alone"),
        (Metric("mine", gap, larger_is_better=True), "mine compares logits at one position"),
    ],
)  # fmt: skip
def test_a_function_of_one_position_is_refused_for_answers_of_several(
    function: Any, why: str
) -> None:
    for size in (8, 1):  # alone, the last one has answers of one token
        with pytest.raises(EdgewiseError, match=why):
            Runner.create(tiny_lift("llama"), whole_pairs(), metric=function, batch_size=size)
        if "alone" in why:
            break


# -- files and keys -----------------------------------------------------------------------------


def test_a_file_says_that_its_metric_is_a_function_that_must_be_given_again(
    session: Any, pairs: Path, edgewise: Run, tmp_path: Path
) -> None:
    read = read_pairs(pairs)
    found = discover(session, read, method="eap-ig", metric=gap, select=Selection(top=9))
    write_circuit("own.json", found.file)
    file = read_circuit("own.json")
    noted: Any = file.discovery["metric_function"]
    assert file.discovery["metric"] == "gap"
    assert noted == {"module": __name__, "larger_is_better": True, "sha256": source_sha256(gap)}
    again = "found with the metric 'gap', a Python function, which its file cannot hold; give the"
    with pytest.raises(EdgewiseError, match=again):
        evaluate(session, file, read)
    with pytest.raises(EdgewiseError, match=again):
        DiscoverySpec.of_circuit(file)
    assert evaluate(session, file, read, metric=gap).faithfulness is not None
    output = edgewise("evaluate", "own.json", status=1).output
    assert "give the function again as --metric, or another metric, such as kl, nll" in output
    edgewise("evaluate", "own.json", "--metric", "kl")
    edgewise("diff", "own.json", "own.json")
    assert "Python function" in edgewise("diff", "own.json", "own.json", "--cross", status=1).output


def test_an_experiments_file_cannot_hold_a_function(pairs: Path, tmp_path: Path) -> None:
    discovery = DiscoverySpec("eap", metric=gap, select=Selection(top=3))  # type: ignore[arg-type]
    spec = Experiment("x", (ModelSpec.at("a"),), TaskSpec(file=str(pairs)), discovery)
    with pytest.raises(EdgewiseError, match="'gap' is a Python function, which an experiment's"):
        spec.to_toml()
    with pytest.raises(EdgewiseError, match="'gap' is a Python function"):
        run(spec, tmp_path / "out")


def made(factor: Any) -> Callable[..., Any]:
    def scaled(logits: Any, target: Any) -> Any:
        return factor * logits[:, 0] if not callable(factor) else factor(logits)

    return scaled


def test_keys_count_a_functions_source_and_the_values_it_uses(pairs: Path) -> None:
    def key(function: Any) -> str:
        discovery = DiscoverySpec("acdc", metric=function)
        models, task = (ModelSpec.at("a"),), TaskSpec(file=str(pairs))
        return Experiment("x", models, task, discovery).key().sha256

    assert key(gap) == key(gap) != key(right)
    assert key(made(2.0)) == key(made(2.0)) != key(made(3.0))
    assert len({key(made(torch.ones(1))) for _ in range(3)}) == 3  # nothing equals it
    assert source_sha256(made(torch.ones(1))) is None
    assert source_sha256(made(gap)) not in (None, source_sha256(made(right)))
    assert key(DOWN) not in (key(divergence), key("kl"))
    assert as_metric(as_metric("kl")) is as_metric("kl")
    assert key("logit(answer)") == key(as_metric("logit(answer)"))


def test_a_journal_is_never_gone_on_with_by_another_function(
    session: Any, pairs: Path, tmp_path: Path
) -> None:
    read, path = read_pairs(pairs), tmp_path / "x.journal.jsonl"
    for function in (made(2.0), made(2.0)):
        discover(session, read, method="acdc", metric=function,
                 journal=JournalFile(path, resume=path.exists()))  # fmt: skip
    with pytest.raises(JournalMismatch):
        discover(session, read, method="acdc", metric=made(3.0),
                 journal=JournalFile(path, resume=True))  # fmt: skip
    unknown = made(torch.ones(1))
    with pytest.raises(EdgewiseError, match="'scaled' cannot be resumed: it is a Python function"):
        discover(session, read, method="acdc", metric=unknown,
                 journal=JournalFile(path, resume=True))  # fmt: skip
    other = tmp_path / "y.journal.jsonl"
    discover(session, read, method="acdc", metric=unknown, journal=JournalFile(other))
    assert not other.exists()


def test_kept_results_are_of_the_same_function_only(
    models: dict[str, Path], pairs: Path, tmp_path: Path
) -> None:
    folder, two = tmp_path / "results", [str(models["llama"]), str(models["tuned"])]

    def kept() -> int:
        return len([one for one in folder.rglob("*") if one.is_file()]) if folder.exists() else 0

    def follow(function: Any) -> None:
        timeline(two, str(pairs), method="eap", metric=function, select=Selection(top=9),
                 results=Results(folder))  # fmt: skip

    follow(made(2.0))
    first = kept()
    follow(made(2.0))
    assert kept() == first > 0
    follow(made(torch.ones(1)))
    assert kept() == first
    follow(made(3.0))
    assert kept() > first


def test_what_is_noted_is_plain(session: Any, pairs: Path) -> None:
    found = discover(session, read_pairs(pairs), method="eap", metric=gap, select=Selection(top=3))
    assert json.loads(json.dumps(found.file.discovery["metric_function"]))["module"] == __name__
    assert type(found.file.discovery["metric"]) in (str, type(DiscoverySpec("eap", gap).metric))  # type: ignore[arg-type]
