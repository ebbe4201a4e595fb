"""Answers of several tokens: how they are taken, their metrics by hand, all ways to run them."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.discovery.evaluation import measure
from edgewise.discovery.registry import get_method
from edgewise.graphs.circuit import Circuit
from edgewise.graphs.errors import EdgewiseError, PromptError, UnknownName
from edgewise.patching.heads.random_tokens import model_blocks
from edgewise.patching.heads.roles import measure as roles
from edgewise.patching.incremental import readout
from edgewise.patching.incremental.search import IncrementalSearch, Search
from edgewise.patching.metrics.metric import METRICS, Target
from edgewise.patching.metrics.registry import get_metric
from edgewise.patching.paths import patch_paths
from edgewise.patching.prompts.answers import token_by_token, with_answers
from edgewise.patching.prompts.pair_files import pair_rows, pairs_from_rows, read_pairs, write_pairs
from edgewise.patching.prompts.pairs import Pair, PromptPairs
from edgewise.patching.run.certificate import certify
from edgewise.patching.run.runner import Runner
from edgewise.patching.transplant.donor import clean_runner, record
from edgewise.patching.transplant.transplant import Transplant
from tests.engine import random_mask, tiny_lift, tiny_pairs

WHOLE = [name for name, one in METRICS.items() if one.whole is not None]
FAMILIES = ["gpt2", "llama", "gptj", "gemma2", "mistral-window"]


def spelled_pairs(seed: int = 0, count: int = 3) -> PromptPairs:
    """Make pairs with answers and a distractor of one to three tokens, some of which share some."""
    draw, pairs = random.Random(seed), []
    for i, pair in enumerate(tiny_pairs(seed, (5, 6, 4)[:count])):
        long = tuple(draw.randrange(1, 30) for _ in range(3))
        wrong = (*long[:2], 30) if i % 2 else (0, long[1])
        pairs.append(pair.spelling([long], [wrong]))
    return PromptPairs(tuple(pairs), name="whole")


# -- numbers by hand ----------------------------------------------------------------------------


def test_which_metrics_take_whole_answers() -> None:
    assert WHOLE == ["kl", "nll", "log_prob_diff"]


LOGITS = torch.tensor([[0.0, log(2), log(3)], [log(4), 0.0, 0.0], [0.0, 0.0, 0.0]])
"""Probabilities 1/6, 2/6, 3/6 behind the prompt; 4/6, 1/6, 1/6 behind token 1; 1/3 behind 2."""


def target(*answers: tuple[int, ...], wrong: list[tuple[int, ...]] | None = None) -> Target:
    pair = Pair((0,), (1,), (0,)).spelling(answers, wrong or [])
    batch = PromptPairs((pair,)).batch()
    return Target(batch.answers, batch.distractors, torch.zeros_like(LOGITS), batch.steps)


def test_the_nll_of_two_tokens_is_the_sum_of_two_log_softmaxes() -> None:
    (value,) = METRICS["nll"](LOGITS[:2], replace_clean(target((1, 2)), 2)).tolist()
    assert value == pytest.approx(-(log(2 / 6) + log(1 / 6)))
    by_hand = -(LOGITS[0].log_softmax(0)[1] + LOGITS[1].log_softmax(0)[2])
    assert value == pytest.approx(float(by_hand))


def replace_clean(found: Target, reads: int) -> Target:
    return replace(found, clean_logits=torch.zeros(reads, 3))


def test_the_probabilities_of_several_whole_answers_are_added_up() -> None:
    two = target((1, 2), (2, 0))  # 2/6 · 1/6 and 3/6 · 1/3
    (value,) = METRICS["nll"](LOGITS, two).tolist()
    assert value == pytest.approx(-log(2 / 36 + 1 / 6))


def test_the_difference_is_of_whole_log_probabilities() -> None:
    found = target((1, 2), wrong=[(2, 0)])
    (value,) = METRICS["log_prob_diff"](LOGITS, found).tolist()
    assert value == pytest.approx(log(2 / 36) - log(1 / 6))
    shared = replace_clean(target((1, 2), wrong=[(1, 0)]), 2)  # what both begin with cancels
    (value,) = METRICS["log_prob_diff"](LOGITS[:2], shared).tolist()
    assert value == pytest.approx(log(1 / 6) - log(4 / 6))


def test_kl_is_summed_over_the_answers_positions_and_not_the_distractors() -> None:
    each = [sum(log((1 / 3) / p) / 3 for p in row) for row in ((1, 2, 3), (4, 1, 1), (2, 2, 2))]
    each = [value + log(6) for value in each]  # the rows are in sixths
    (value,) = METRICS["kl"](LOGITS, target((1, 2), wrong=[(2, 0)])).tolist()
    assert value == pytest.approx(each[0] + each[1], abs=1e-6)
    (value,) = METRICS["kl"](LOGITS, target((1, 2), (2, 0))).tolist()  # the mean of both answers
    assert value == pytest.approx(each[0] + (each[1] + each[2]) / 2, abs=1e-6)


def test_other_metrics_refuse_whole_answers_and_say_why() -> None:
    for name in ("logit_diff", "prob_diff", "accuracy", "p(answer) - p(distractor)"):
        with pytest.raises(
            PromptError, match=r"compares logits at one position.*kl, nll, log_prob"
        ):
            get_metric(name)(LOGITS, target((1, 2), wrong=[(2, 0)]))
        with pytest.raises(PromptError, match="`answers` whole"):
            Runner.create(tiny_lift("llama"), spelled_pairs(), metric=name)


# -- runs ---------------------------------------------------------------------------------------


def steps(pairs: PromptPairs, side: int) -> list[PromptPairs]:
    """Write each pair's only answer (0) or distractor (1) as a pair for each of its tokens."""
    found = []
    for pair in pairs:
        (answer,), end = pair.sequences[side], pair.answer_position + 1
        found.append(
            PromptPairs(
                tuple(
                    Pair(pair.clean[:end] + answer[:i], pair.twin[:end] + answer[:i], (token,))
                    for i, token in enumerate(answer)
                )
            )
        )
    return found


def summed(lift: Any, pairs: PromptPairs, metric: str, ablation: str, run: Any) -> Any:
    """Add up what one-token pairs give for each token, and take the mean over the pairs."""
    total: Any = 0.0
    for side, sign in ((0, 1.0), (1, -1.0)):
        if side and metric != "log_prob_diff":
            continue
        for each in steps(pairs, side):
            kind = "nll" if metric == "log_prob_diff" else metric
            runner = Runner.create(lift, each, metric=kind, ablation=ablation)
            total = total + sign * len(each) * run(runner)
    return total / len(pairs)


@pytest.mark.parametrize("ablation", ["resample", "zero"])
@pytest.mark.parametrize("metric", WHOLE)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_loss_is_the_sum_of_its_tokens(family: str, metric: str, ablation: str) -> None:
    lift, pairs = tiny_lift(family), spelled_pairs()
    graph = lift.graph
    circuits = [Circuit(graph, random_mask(graph, d, 7)) for d in (0.0, 0.3, 0.7, 1.0)]
    for size in (1, 3):
        runner = Runner.create(lift, pairs, metric=metric, ablation=ablation, batch_size=size)
        expected = summed(lift, pairs, metric, ablation, lambda r: r.losses(circuits))
        np.testing.assert_allclose(runner.losses(circuits), expected, rtol=1e-9, atol=1e-9)
    for i, pair in enumerate(pairs):
        alone = Runner.create(lift, PromptPairs((pair,)), metric=metric, ablation=ablation)
        each = runner.measure_each(circuits, losses=True)[0, :, i]
        np.testing.assert_allclose(each, alone.losses(circuits), rtol=1e-9, atol=1e-9)


SCORED = [
    (method, metric)
    for method in ("eap", "eap-ig", "clean-corrupted", "exact")
    for metric in WHOLE
    if method != "eap" or not METRICS[metric].flat_at_clean
]


@pytest.mark.parametrize(("method", "metric"), SCORED)
def test_scores_are_the_sums_of_their_tokens(method: str, metric: str) -> None:
    lift, pairs = tiny_lift("llama"), spelled_pairs(1)

    def scores(runner: Runner) -> Any:
        return np.nan_to_num(get_method(method)(runner).scores.values.astype(np.float64))

    found = scores(Runner.create(lift, pairs, metric=metric, batch_size=2))
    expected = summed(lift, pairs, metric, "resample", scores)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("metric", WHOLE)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_incremental_search_is_the_dense_one(
    family: str, metric: str, small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if small:  # take normalisers by bounds, in a vocabulary of 31
        monkeypatch.setattr(readout, "SIZES", (2, 6))
    lift = tiny_lift(family)
    runner = Runner.create(lift, spelled_pairs(2), metric=metric, batch_size=2)
    generator, graph = np.random.default_rng(0), lift.graph
    dense, incremental = Search(runner), IncrementalSearch(runner)
    for _ in range(6):
        row = int(generator.integers(len(graph.ports)))
        asked = generator.random((3, 1, len(graph.senders))) < 0.4
        a, b = (search.ask((row,), asked) for search in (dense, incremental))
        known = a.values()
        assert (b.bounds.low <= known + 1e-9).all() and (b.bounds.high >= known - 1e-9).all()
        rises = np.diff(known)
        assert (b.bounds.rise_low[1:] <= rises + 1e-9).all()
        assert (b.bounds.rise_high[1:] >= rises - 1e-9).all()
        np.testing.assert_allclose(known, b.values(), rtol=1e-8, atol=1e-9)
        for search, found in ((dense, a), (incremental, b)):
            search.commit((row,), asked[1], found[1])
    kept = random_mask(graph, 0.5, 3)
    for search in (dense, incremental):
        search.restart(kept)
    assert incremental.loss.value() == pytest.approx(dense.loss.value(), abs=1e-9)


@pytest.mark.parametrize("metric", WHOLE)
def test_acdc_decides_as_by_whole_runs(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgewise.patching.incremental import search

    lift = tiny_lift("llama")
    runner = Runner.create(lift, spelled_pairs(3), metric=metric)
    found = get_method("acdc")(runner, threshold=0.05)
    assert found.circuit is not None
    loss = runner.loss(found.circuit)
    assert found.notes["loss_search"] == pytest.approx(loss, abs=1e-8)
    monkeypatch.setattr(readout, "SIZES", (2, 6))
    small = get_method("acdc")(runner, threshold=0.05)
    assert small.circuit == found.circuit
    monkeypatch.setattr(search, "make_search", lambda runner, *_: Search(runner))
    again = get_method("acdc")(runner, threshold=0.05)
    assert again.circuit is not None
    np.testing.assert_array_equal(found.circuit.kept, again.circuit.kept)


def test_paths_transplants_and_the_certificate_take_whole_answers() -> None:
    lift, other, pairs = tiny_lift("llama"), tiny_lift("llama", seed=1), spelled_pairs()
    runner = Runner.create(lift, pairs, metric="nll")
    (path,) = patch_paths(runner, ["m0->logits"])

    def effect(one: Runner) -> Any:
        return patch_paths(one, ["m0->logits"])[0].effect

    assert path.effect == pytest.approx(summed(lift, pairs, "nll", "resample", effect), abs=1e-9)
    donated = record(clean_runner(other, pairs, "nll", None), list(other.graph.senders))
    moved = Transplant.create(lift, pairs, donated)
    full = Circuit.full(lift.graph)
    assert moved.receiver == pytest.approx(runner.loss(full), abs=1e-9)
    assert moved.donor == pytest.approx(Runner.create(other, pairs, metric="nll").loss(full))
    assert certify(lift, pairs).passed


def test_means_are_over_every_run_with_its_answer() -> None:
    lift, pairs = tiny_lift("llama"), spelled_pairs()
    rows = PromptPairs(tuple(Pair(a, b, (0,)) for pair in pairs for a, b in pair.runs))
    runners = [
        Runner.create(lift, pairs, metric="nll", ablation="mean", reference=reference)
        for reference in (pairs, rows)
    ]
    empty = Circuit.empty(lift.graph)
    assert runners[0].loss(empty) == pytest.approx(runners[1].loss(empty), abs=1e-12)


def test_answers_of_one_token_are_the_default_exactly() -> None:
    lift, pairs = tiny_lift("llama"), tiny_pairs()
    for name in WHOLE:
        runners = []
        for way in (None, "first", "whole"):
            made = (with_answers(p, *p.sequences, way, str) for p in pairs)
            again = PromptPairs(tuple(made), name="tiny")
            assert again == pairs and again.sha256 == pairs.sha256
            runners.append(Runner.create(lift, again, metric=name))
        circuit = Circuit(lift.graph, random_mask(lift.graph, 0.5, 1))
        one, *others = (measure(runner, circuit) for runner in runners)
        assert all(other == one for other in others)


def test_a_plain_pair_beside_a_spelled_one_measures_what_it_does_alone() -> None:
    lift, plain = tiny_lift("gpt2"), tiny_pairs()
    mixed = PromptPairs((*plain, *spelled_pairs(4)))
    circuit = [Circuit(lift.graph, random_mask(lift.graph, 0.5, 1))]
    for name in WHOLE:
        values = [
            len(pairs) * Runner.create(lift, pairs, metric=name).losses(circuit)[0]
            for pairs in (mixed, plain, spelled_pairs(4))
        ]
        assert values[0] == pytest.approx(values[1] + values[2], abs=1e-9)


def test_roles_are_those_of_every_token_of_an_answer_by_itself() -> None:
    lift, prompt = tiny_lift("llama"), ((1, 2, 3), (1, 5, 3))
    spelled = Pair(*prompt, (0,)).spelling([(4, 5, 6)], [(4, 7), (8, 9)])
    by_hand = (
        Pair(*prompt, (4,), (8,)),
        Pair((1, 2, 3, 4), (1, 5, 3, 4), (5,), (7,)),
        Pair((1, 2, 3, 4, 5), (1, 5, 3, 4, 5), (6,)),
    )
    assert token_by_token(PromptPairs((spelled,))).pairs == by_hand
    blocks = model_blocks(lift, sequences=1)
    found = [roles(lift, blocks, PromptPairs(p)) for p in ((spelled,), by_hand)]
    assert found[0] == found[1] and found[0].difference is not None


def test_what_is_too_long_with_its_answers_is_refused() -> None:
    with pytest.raises(PromptError, match=r"has 2001 tokens with its answers"):
        Runner.create(tiny_lift("gpt2"), long_pairs(), metric="nll")


def long_pairs() -> PromptPairs:
    pair = Pair((1, 2), (1, 3), (0,)).spelling([tuple([4] * 2000)])
    return PromptPairs((pair,))


# -- how answers are taken ----------------------------------------------------------------------

PROMPT = {"clean": "When Mary went", "corrupted": "When John went"}


def read(folder: Path, tokenizer: Any, answers: str | None, *rows: dict[str, Any]) -> PromptPairs:
    path = folder / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_pairs(path, tokenizer, answers=answers)


def test_answers_of_several_tokens_are_refused_with_both_ways_named(
    tmp_path: Path, word_tokenizer: Any
) -> None:
    row = {**PROMPT, "answers": [" to the store"], "distractors": [" to the drink"]}
    with pytest.raises(PromptError) as caught:
        read(tmp_path, word_tokenizer, None, row)
    message = str(caught.value)
    assert "'answers' holds ' to the store', which is 3 tokens ('to' 'the' 'store')" in message
    assert "; or `answers` first, which asks for the first token at which" in message
    assert "; or `answers` whole, which reads every answer token by token." in message
    ids = {"clean_ids": [1, 2], "corrupted_ids": [1, 3], "answer_ids": [[4, 5]]}
    with pytest.raises(
        PromptError, match=r"line 1: an answer is 2 tokens .*`answers` first.*whole"
    ):
        read(tmp_path, None, None, ids)
    with pytest.raises(UnknownName, match="did you mean 'whole'"):
        read(tmp_path, None, "hole", ids)


def test_first_asks_for_the_token_at_which_they_differ(tmp_path: Path, word_tokenizer: Any) -> None:
    row = {**PROMPT, "answers": [" to the store"], "distractors": [" to the drink"]}
    (pair,) = read(tmp_path, word_tokenizer, "first", row)
    ids = word_tokenizer.convert_tokens_to_ids
    assert pair.clean == tuple(ids(["When", "Mary", "went", "to", "the"]))
    assert pair.corrupted == tuple(ids(["When", "John", "went", "to", "the"]))
    assert (pair.answers, pair.distractors) == ((ids("store"),), (ids("drink"),))
    assert pair.answer_position == 4 and pair.spelled is None
    alone = {**PROMPT, "answers": [" to the store", " to drink"]}
    (pair,) = read(tmp_path, word_tokenizer, "first", alone)  # no distractor: the first tokens
    assert len(pair.clean) == 3 and pair.answers == (ids("to"),)
    several = {**row, "answers": [" to the store", " to the store ."]}
    (pair,) = read(tmp_path, word_tokenizer, "first", several)
    assert pair.answers == (ids("store"),)


@pytest.mark.parametrize(
    ("answers", "distractors", "why"),
    [
        ([[4, 5]], [[4]], r"ends \(4\) where the others go on.*accepted with `answers` first"),
        ([[4, 5], [6, 7]], [[4, 8]], "no single position separates the answers from the distract"),
        ([[4, 5], [4, 5]], [], "the answers name the same tokens twice"),
        ([[4, 5]], [[4, 5]], "4, 5 is both answer and distractor"),
    ],
)
def test_first_refuses_what_no_position_separates(
    tmp_path: Path, answers: Any, distractors: Any, why: str
) -> None:
    ids = {"clean_ids": [1, 2], "corrupted_ids": [1, 3]}
    with pytest.raises(PromptError, match=why):
        read(tmp_path, None, "first", {**ids, "answer_ids": answers, "distractor_ids": distractors})


def test_whole_refuses_an_answer_that_begins_another(tmp_path: Path) -> None:
    row = {"clean_ids": [1, 2], "answer_ids": [[4, 5], [4]]}
    with pytest.raises(PromptError, match=r"\(4\) is what another \(4, 5\) begins with"):
        read(tmp_path, None, "whole", row)


def test_whole_answers_are_written_and_read_back(tmp_path: Path, word_tokenizer: Any) -> None:
    row = {**PROMPT, "answers": [" to the store", " gave"], "distractors": [" to the drink"]}
    pairs = read(tmp_path, word_tokenizer, "whole", row)
    (pair,) = pairs
    assert pair.clean == tuple(word_tokenizer(PROMPT["clean"])["input_ids"])
    assert [len(one) for one in pair.sequences[0]] == [3, 1] and len(pair.runs) == 1
    path = tmp_path / "ids.jsonl"
    write_pairs(path, pairs)
    (line,) = map(json.loads, path.read_text().splitlines())
    assert line["answer_ids"] == [list(pair.sequences[0][0]), pair.sequences[0][1][0]]
    for again in (read_pairs(path, answers="whole"), pairs_from_rows(pair_rows(pairs))):
        assert again.pairs == pairs.pairs and again.sha256 == pairs.sha256
    plain = PromptPairs((replace(pair, spelled=None),))
    assert plain.sha256 != pairs.sha256
    with pytest.raises(PromptError, match="an answer is 3 tokens"):
        read_pairs(path)


Words = st.lists(st.integers(0, 3), min_size=1, max_size=4).map(tuple)


@settings(max_examples=150)
@given(answers=st.lists(Words, min_size=1, max_size=3), distractors=st.lists(Words, max_size=3))
def test_however_answers_are_they_are_taken_as_said_or_refused(
    answers: list[tuple[int, ...]], distractors: list[tuple[int, ...]]
) -> None:
    pair = Pair((5, 6, 7), (5, 8, 7), (0,), answer_position=1)
    for way in ("first", "whole"):
        try:
            found = with_answers(pair, answers, distractors, way, str)
        except EdgewiseError:
            continue
        assert not set(map(tuple, answers)) & set(distractors)
        if all(len(one) == 1 for one in (*answers, *distractors)):
            assert found.sequences == (tuple(answers), tuple(distractors)) and found.runs[0][0] == (
                pair.clean
            )
        elif way == "first":
            more = found.clean[2:] if found.clean != pair.clean else ()
            assert found.answer_position == 1 + len(more) and found.spelled is None
            assert all(one[: len(more)] == more for one in (*answers, *distractors))
            assert set(found.answers) == {one[len(more)] for one in answers}
            assert not set(found.answers) & set(found.distractors)
        else:
            assert found.sequences == (tuple(answers), tuple(distractors))
            batch = PromptPairs((found,)).batch()
            assert batch.steps is not None
            places = zip(batch.steps.read, batch.steps.token, batch.steps.answer, strict=True)
            spelled: dict[int, list[int]] = {}
            for at, token, answer in places:
                done = spelled.setdefault(int(answer), [])
                row, column = int(batch.row[at]), int(batch.answer_position[at])
                context = batch.clean[row, : column + 1].tolist()
                assert context == [5, 6, *done]  # each token is read behind those before it
                done.append(int(token))
            assert [tuple(spelled[i]) for i in range(len(spelled))] == [*answers, *distractors]
