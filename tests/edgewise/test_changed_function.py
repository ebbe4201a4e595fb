"""What changed edges do: the numbers are those of the runners, and the words say no more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgewise.discovery.evaluation import measure
from edgewise.graphs.circuit import Circuit
from edgewise.graphs.comparison import ChangedFunction, Ratio
from edgewise.graphs.files import read_diff, write_diff
from edgewise.graphs.graph import ComputationGraph
from edgewise.session import Session, make_runner, open_model, open_task
from edgewise.steps.comparison.function import (
    carried_in,
    changed_in,
    donated,
    function_of,
    senders_of,
)
from edgewise.steps.transplant import Choice, transplant
from tests.edgewise.conftest import id_rows, tiny

BY = ("logit_diff", "resample")
KL = ("kl", "resample")  # of any prompts its ends are apart, and so are two models


@pytest.fixture(scope="module")
def sessions() -> tuple[Session, Session]:
    """Open a Llama, and the same with another MLP in layer 1."""
    changed = tiny("llama")
    with torch.no_grad():
        changed.model.layers[1].mlp.down_proj.weight.mul_(3)
    return open_model(tiny("llama")), open_model(changed)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in id_rows(24)))
    return file


def function(
    a: Session, b: Session, pairs: Path, changed: Circuit, by: tuple[str, str] = BY
) -> ChangedFunction:
    chosen = open_task(a, str(pairs))[0]
    sides = tuple(changed_in(session, chosen, changed, by) for session in (a, b))
    given = donated(b, chosen, changed, by[0], None)
    return function_of(changed, sides, carried_in(a, given, changed), chosen, by)  # type: ignore[arg-type]


def edges(graph: ComputationGraph, *names: str) -> Circuit:
    return Circuit.empty(graph).with_edges(names)


@pytest.mark.parametrize("by", [BY, KL])
def test_the_numbers_are_those_of_evaluate_and_transplant(
    sessions: Any, pairs: Path, by: tuple[str, str]
) -> None:
    a, b = sessions
    changed = edges(a.graph, "m1->logits", "embed->a0.h1<v>", "a0.h1->m1", "m0->a1.h2<k>")
    found = function(a, b, pairs, changed, by)
    for side, session in enumerate(sessions):
        runner = make_runner(session, open_task(session, str(pairs))[0], metric=by[0])
        true = measure(runner, changed)
        for share, value in ((found.alone, true.faithfulness), (found.without, true.completeness)):
            defined = share[side].value is not None
            assert defined or by == BY
            assert not defined or share[side].value == pytest.approx(value, abs=1e-5)
        if by == BY:
            assert found.value[side] == pytest.approx(true.value_full, abs=1e-5)
    assert found.gain.value == pytest.approx(found.value[1] - found.value[0], abs=1e-6)
    for shown, chosen in (
        (found.carried_by_edges, changed), (found.carried_by_senders, senders_of(changed)),
    ):  # fmt: skip
        carried = transplant(a, b, str(pairs), Choice(circuit=chosen), metric=by[0]).chosen
        assert carried is not None and (shown.value is not None or by == BY)
        if shown.value is not None:
            assert shown.value == pytest.approx(carried["carried"], abs=1e-5)
            assert shown.low is not None and shown.low <= shown.value
    assert found.senders == 4 and found.edges == 4


def test_all_edges_do_everything_and_none_is_left(sessions: Any, pairs: Path) -> None:
    a, b = sessions
    found = function(a, b, pairs, Circuit.full(a.graph), KL)
    for share, value in ((found.alone, 1), (found.without, 0), (found.random_without, 0)):
        for one in share:
            assert one.value == pytest.approx(value, abs=1e-5)


def test_the_part_that_changed_carries_the_whole_gain(sessions: Any, pairs: Path) -> None:
    a, b = sessions
    found = function(a, b, pairs, edges(a.graph, "m1->logits"), KL)
    assert found.senders == 1
    for one in (found.carried_by_edges, found.carried_by_senders, found.carried_by_all):
        assert one.value == pytest.approx(1, abs=1e-4)


def test_one_model_has_no_gain_and_says_that_function_did_not_change(
    sessions: Any, pairs: Path
) -> None:
    a, _ = sessions
    found = function(a, a, pairs, edges(a.graph, "m1->logits"))
    assert found.gain.value == 0 and found.gain.within(0)
    assert found.carried_by_edges.value is None
    said = found.sentences(0.01)
    assert "function did not change" in said[0]
    assert not any("gains" in line for line in said)


def told(gain: Ratio) -> str:
    one = Ratio(0.5, 0.4, 0.6)
    found = ChangedFunction(
        metric="logit_diff", edges=1, senders=1, value=(1.0, 2.0), gain=gain, alone=(one, one),
        without=(one, one), random=10, random_without=(one, Ratio(None)), carried_by_edges=one,
        carried_by_senders=one, carried_by_all=Ratio(1.02, 0.98, 1.06),
    )  # fmt: skip
    return " | ".join(found.sentences(0.1, ("base", "tuned")))


def test_words_say_what_the_interval_allows() -> None:
    assert "function did not change" in told(Ratio(0.02, -0.05, 0.08))
    wide = told(Ratio(0.3, -0.2, 0.8))
    assert "do not show that function changed" in wide and "did not change," not in wide
    clear = told(Ratio(1.0, 0.5, 1.5))
    assert "function" not in clear and "differ by 1.00 [.50, 1.50]" in clear
    assert "random edges .50 [.40, .60] and undefined" in clear
    assert "function did not" not in told(Ratio(0.02))  # no interval, no claim


def test_senders_keep_all_their_edges() -> None:
    graph = ComputationGraph(layers=2, heads=2)
    found = senders_of(edges(graph, "m0->logits"))
    column = graph.sender_index[next(n for n in graph.senders if str(n) == "m0")]
    assert np.array_equal(found.kept[:, column], graph.reads[:, column])
    assert len(found) == int(graph.reads[:, column].sum())


def test_a_diff_tells_what_its_changed_edges_do(
    edgewise: Any, tmp_path: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By `diff`, its file and `run`: of one edge that changed, the same numbers as by hand."""
    monkeypatch.chdir(tmp_path)
    for name, scale in (("base", 1.0), ("tuned", 3.0)):
        model = tiny("llama")
        with torch.no_grad():
            model.model.layers[1].mlp.down_proj.weight.mul_(scale)
        model.save_pretrained(tmp_path / name)
        edgewise(
            "discover", "--model", name, "--task", pairs, "--metric", "kl",
            "--method", "eap-ig", "--top", 12, "--test", 0, "-o", f"{name}.json",
        )  # fmt: skip
    printed = edgewise("diff", "base.json", "tuned.json", "-o", "diff.json").stdout
    file = read_diff("diff.json")
    compared, found = file.compared, file.function
    assert compared is not None and len(compared.circuit)
    assert found is not None and found.edges == len(compared.circuit)
    assert "what they do, by kl" in printed and "random edges" in printed
    a, b = open_model("base"), open_model("tuned")
    assert function(a, b, pairs, compared.circuit, KL) == found
    write_diff("again.json", file)
    assert read_diff("again.json").function == found
    without = edgewise("diff", "base.json", "tuned.json", "--no-function").stdout
    assert "what they do" not in without
