"""The functions behind the commands, called from Python as users do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgewise as public
from edgewise.experiment.spec import DiscoverySpec
from edgewise.graphs.circuit import Circuit
from edgewise.graphs.errors import CertificateFailed, EdgewiseError, PromptError, UnknownName
from edgewise.graphs.files import CircuitFile, read_circuit, write_circuit
from edgewise.workflow import (
    Selection,
    Session,
    check_task,
    compare,
    discover,
    evaluate,
    make_runner,
    open_model,
    open_task,
    patch,
    request,
    stored_model,
    stored_task,
)


@pytest.fixture(scope="module")
def session(models: dict[str, Path]) -> Session:
    return open_model(models["llama"])


def induction(session: Session, **more: Any) -> Any:
    return open_task(session, "induction", examples=6, options={"period": 6, "repeat": 3}, **more)


def test_a_live_model_gives_the_same_circuit(models: dict[str, Path], session: Session) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(models["llama"]).eval()
    live = open_model(model)
    assert live.certificate.passed
    assert live.model_block["weights_sha256"] == session.model_block["weights_sha256"]
    files = [
        discover(s, induction(s)[0], method="eap-ig", select=Selection(top=9)).file
        for s in (live, session)
    ]
    assert files[0].circuit == files[1].circuit


def test_a_failed_certificate_is_refused(models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgewise.patching.run import certificate

    wrong = certificate.Certificate(0.5, 0.0, 0.0, 0.1, 0.1, 0.5, 2, 12)
    monkeypatch.setattr(certificate, "certify", lambda *_: wrong)
    with pytest.raises(CertificateFailed):
        open_model(models["gpt2"])
    assert not open_model(models["gpt2"], require_certificate=False).certificate.passed


def test_pairs_remember_how_to_be_made_again(session: Session, tmp_path: Path) -> None:
    pairs, report = induction(session, seed=3)
    assert report is not None and report.kept == 6
    found = discover(session, pairs, method="eap", select=Selection(top=5))
    write_circuit(tmp_path / "c.json", found.file)
    file = read_circuit(tmp_path / "c.json")
    assert open_model(stored_model(file)).model_block == session.model_block
    again, _ = open_task(session, **stored_task(file))
    assert again == pairs


def test_pairs_of_a_file(session: Session, pairs: Path) -> None:
    every, report = open_task(session, str(pairs))
    assert (len(every), report) == (6, None)
    first, _ = open_task(session, str(pairs), examples=2)
    assert first.pairs == every.pairs[:2]
    with pytest.raises(PromptError, match="from 1 up"):
        open_task(session, str(pairs), examples=0)


def test_options_of_every_task(session: Session) -> None:
    options = {"period": 6, "repeat": 3, "groups": "swap0, swap4"}
    pairs, _ = open_task(session, "induction", examples=8, options=options)
    assert {pair.group for pair in pairs} == {"swap0", "swap4"}
    with pytest.raises(UnknownName, match="swap0"):
        open_task(session, "induction", options={**options, "groups": ["swap9"]})
    with pytest.raises(UnknownName, match="seed"):
        check_task("induction", {"seed": 3})


def test_requests_are_checked_and_completed() -> None:
    asked = request("eap-ig", options={"steps": 7})
    assert asked.options["steps"] == 7
    assert asked.options["midpoint"] is False
    assert (asked.metric, request("acdc").metric) == ("logit_diff", "kl")
    with pytest.raises(UnknownName, match="steps"):
        request("eap-ig", options={"step": 7})
    with pytest.raises(EdgewiseError, match="selects its edges itself"):
        request("acdc", select=Selection(top=3))


def test_selections(session: Session) -> None:
    pairs, _ = induction(session)
    scores = discover(session, pairs, method="exact").scores.scores
    total = session.graph.edge_count
    half = float(np.nanmedian(np.abs(scores.values)))
    above = discover(session, pairs, method="exact", select=Selection(above=half)).file.circuit
    assert above == scores.above(half)
    assert 0 < len(above) < total
    found = discover(session, pairs, method="exact", select=Selection(faithfulness=0.9))
    assert found.evaluation.faithfulness is not None
    assert found.evaluation.faithfulness >= 0.9
    runner = make_runner(session, pairs, metric="logit_diff")
    fewer = scores.top(len(found.file.circuit) - 1)
    full, less, empty = runner.measure(
        [Circuit.full(session.graph), fewer, Circuit.empty(session.graph)]
    )[0]
    assert (less - empty) / (full - empty) < 0.9


def test_a_signed_selection_prefers_edges_that_help(session: Session) -> None:
    pairs, _ = induction(session)

    def found(**asked: Any) -> CircuitFile:
        select = Selection(signed=True, **asked)
        return discover(session, pairs, method="exact", select=select).file

    scores = discover(session, pairs, method="exact").scores.scores
    helpful = int((scores.values > 0).sum())
    half = float(np.nanmedian(scores.values[scores.values > 0]))
    assert 10 < helpful < session.graph.edge_count
    with pytest.warns(UserWarning, match="no way of kept edges leads from the embedding"):
        top = found(top=10)
    assert top.circuit == scores.top(10, absolute=False) != scores.top(10)
    assert (scores.values[top.circuit.kept] > 0).all()
    assert (top.discovery["top"], top.discovery["signed"]) == (10, True)
    assert DiscoverySpec.of_circuit(top).select == Selection(top=10, signed=True)
    above = found(above=half).circuit
    assert above == scores.above(half, absolute=False)
    assert len(above) < len(scores.above(half))
    faithful = found(faithfulness=0.9)
    assert faithful.circuit == scores.top(len(faithful.circuit), absolute=False)
    assert faithful.measures["faithfulness"] >= 0.9


def test_signed_selections_say_what_is_missing(session: Session) -> None:
    with pytest.raises(EdgewiseError, match="top, above, faithfulness or target beside it"):
        Selection(signed=True)
    with pytest.raises(EdgewiseError, match="top and above are given together"):
        Selection(top=3, above=1, signed=True)
    with pytest.raises(EdgewiseError, match="largest score is"):
        select = Selection(above=1e9, signed=True)
        discover(session, induction(session)[0], method="eap-ig", select=select)


def test_stored_measures_are_those_of_the_circuit(session: Session) -> None:
    pairs, _ = induction(session)
    found = discover(session, pairs, method="eap-ig", select=Selection(top=10))
    again = evaluate(session, found.file, pairs).evaluation
    assert again == found.evaluation
    stored = found.file.measures
    assert stored["loss_circuit"] == -stored["value_circuit"] == again.loss_circuit
    full = evaluate(session, Circuit.full(session.graph), pairs).evaluation
    assert full.faithfulness == pytest.approx(1.0)
    assert full.completeness == pytest.approx(0.0)
    runner = make_runner(session, pairs, metric=found.evaluation.metric)
    assert public.evaluate(runner, found.file.circuit) == evaluate(session, found.file, pairs)
    with pytest.raises(EdgewiseError, match="a runner has its own pairs"):
        evaluate(runner, found.file, pairs)
    with pytest.raises(EdgewiseError, match="give the pairs too"):
        evaluate(session, found.file)


def test_a_curve_needs_all_scores(session: Session) -> None:
    pairs, _ = induction(session)
    found = discover(session, pairs, method="acdc", options={"threshold": 0.05})
    with pytest.raises(EdgewiseError, match="scores of all edges"):
        evaluate(session, found.file, pairs, curve=True)
    with pytest.raises(EdgewiseError, match="have none"):
        evaluate(session, found.file, pairs, scores=found.scores.scores, curve=True)


def test_patching_and_comparing(session: Session) -> None:
    pairs, _ = induction(session)
    effects = patch(session, pairs, ["a1.*->logits"])
    assert [effect.name for effect in effects] == [f"a1.h{h}->logits" for h in range(4)]
    files = [
        discover(session, pairs, method=method, select=Selection(top=10)).file
        for method in ("eap", "exact")
    ]
    diff = compare(*files, names=("x", "y")).diff
    assert diff.shared == files[0].circuit & files[1].circuit


def test_progress_is_told(session: Session) -> None:
    told: list[tuple[int, int, str]] = []
    pairs, _ = induction(session)
    discover(
        session, pairs, method="exact", select=Selection(faithfulness=0.5),
        progress=lambda *report: told.append(report),
    )  # fmt: skip
    assert all(0 <= done <= total for done, total, _ in told)
    words = " ".join(what for _, _, what in told)
    assert all(part in words for part in ("measured", "original model"))
