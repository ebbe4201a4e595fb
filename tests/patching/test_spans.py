"""Spans: what holds where the positions of prompts are told apart by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgewise.discovery.measures.leaving_out import minimality
from edgewise.discovery.registry import get_method
from edgewise.graphs.circuit import Circuit
from edgewise.graphs.errors import EdgewiseError, GraphMismatch, NameSyntaxError, PromptError
from edgewise.graphs.graph import ComputationGraph
from edgewise.graphs.names import Edge, Port
from edgewise.patching.prompts.pair_files import pair_rows, pairs_from_rows, read_pairs
from edgewise.patching.prompts.pairs import Pair, PromptPairs
from edgewise.patching.run.runner import Runner
from edgewise.patching.trace import at_answers
from tests.engine import ablated_values, naive_run, random_mask, tiny_lift, tiny_pairs, whole

FAMILIES = ["gpt2", "llama", "gpt-neox", "gemma2"]


def labelled(lengths: tuple[int, ...] = (6, 5, 6)) -> PromptPairs:
    """Make pairs with a subject of one or two tokens and an end, at places that differ."""
    pairs = []
    for i, pair in enumerate(tiny_pairs(lengths=lengths)):
        first = 1 - i % 2
        spans = [("subject", first), ("subject", first + 1), ("end", pair.answer_position)]
        pairs.append(replace(pair, spans=tuple(spans)))
    return PromptPairs(tuple(pairs), name="tiny")


def both(name: str, **how: Any) -> tuple[Runner, Runner]:
    """Make a runner that tells no spans apart, and one that does."""
    model, pairs = tiny_lift(name), labelled()
    how = {"metric": "logit_diff", "batch_size": 2, **how}
    return Runner.create(model, pairs, **how), Runner.create(model, pairs.at_spans(), **how)


@pytest.mark.parametrize("name", [*FAMILIES, "gemma3n", "mixtral"])
@pytest.mark.parametrize("method", ["eap", "eap-ig", "conductance"])
def test_scores_of_spans_add_up_to_the_score(name: str, method: str) -> None:
    plain, spans = both(name)
    expected = get_method(method)(plain).scores.values
    found = get_method(method)(spans, per_example=True)
    each = found.scores.values.reshape(len(expected), 3, -1)
    np.testing.assert_allclose(each.sum(1), expected, rtol=1e-5, atol=1e-6)
    assert found.examples is not None
    np.testing.assert_allclose(found.examples.mean().values, found.scores.values, atol=1e-6)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("ablation", ["resample", "zero"])
def test_an_edge_kept_at_every_span_is_kept(name: str, ablation: str) -> None:
    plain, spans = both(name, ablation=ablation)
    kept = random_mask(plain.graph, 0.5, seed=1)
    apart = np.repeat(kept, 3, axis=0)
    circuits = (plain.graph.reads, np.zeros_like(kept), kept)
    expected = plain.losses([Circuit(plain.graph, one) for one in circuits])
    wide = [Circuit(spans.graph, np.repeat(one, 3, axis=0)) for one in circuits]
    np.testing.assert_allclose(spans.losses(wide), expected, rtol=1e-6, atol=1e-7)
    assert (wide[2].kept == apart).all()


def plainly(runner: Runner, mask: np.ndarray) -> float:
    """Run a circuit at spans by the definition, position by position."""
    (chunk,) = runner.chunks()
    graph, ablated = runner.model.graph, ablated_values(runner, chunk)
    assert chunk.batch.span is not None
    # a soft mask, each of whose entries is a tensor over positions [B, T, 1]
    weights = torch.from_numpy(mask.reshape(len(graph.ports), -1, mask.shape[1]).astype(float))
    soft = weights[:, chunk.batch.span].permute(0, 3, 1, 2)[..., None]  # [P, S, B, T, 1]
    _, final = naive_run(runner.model, chunk.batch.clean, whole(chunk), ablated, soft)
    logits = runner.model.logits(at_answers(final, chunk.batch.answer_position))
    return float(runner.metric.loss(logits, chunk.target).mean())


@pytest.mark.parametrize("name", FAMILIES)
def test_a_circuit_at_spans_does_what_the_definition_says(name: str) -> None:
    """In one chunk, in several, and with the gradient of an edge at a span as the slope there."""
    _, runner = both(name, batch_size=3)
    graph = runner.graph
    for seed, density in enumerate((0.9, 0.5, 0.2)):
        mask = random_mask(graph, density, seed)
        assert runner.loss(Circuit(graph, mask)) == pytest.approx(plainly(runner, mask), abs=1e-7)
    smaller = replace(runner, batch_size=1, _kept=type(runner._kept)({}))
    assert smaller.loss(Circuit(graph, mask)) == pytest.approx(plainly(runner, mask), abs=1e-7)


def test_an_exact_question_is_about_an_edge_at_a_span() -> None:
    plain, runner = both("gpt2")
    found = get_method("exact")(runner)
    graph, full = runner.graph, Circuit.full(runner.graph)
    loss = runner.loss(full)
    for text in ("embed->m0@subject", "m0->a1.h0<v>@subject", "m0->logits@end"):
        without = runner.loss(full.without([text]))
        assert found.scores[text] == pytest.approx(without - loss, abs=1e-6)
    assert graph.edge_count == 3 * plain.graph.edge_count
    few = Circuit.empty(graph).with_edges(["embed->m1@end", "m1->logits@end"])
    rise = minimality(runner, few)["embed->m1@end"]
    assert rise == pytest.approx(
        runner.loss(few.without(["embed->m1@end"])) - runner.loss(few), abs=1e-6
    )
    # nothing but the answer position is read
    other = [graph.port_index[Port.parse(f"logits@{span}")] for span in ("subject", "other")]
    np.testing.assert_allclose(found.scores.values[other], 0, atol=1e-7)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_run_can_begin_behind_what_is_kept(name: str) -> None:
    _, runner = both(name)
    graph = runner.graph
    for text in ("m0->a1.h0<k>@subject", "a1.h0->logits@end"):
        if text.startswith("a1") and graph.post_norm:
            continue
        row, column = graph.locate(text)
        mask = graph.reads.copy()
        mask[row, column] = mask[-1, 0] = False
        begun, whole_run = (runner.mask_losses(mask[None], start) for start in (row, 0))
        np.testing.assert_allclose(begun, whole_run, atol=1e-8)


def test_nodes_at_spans_by_the_sums_of_their_edges_and_by_patching() -> None:
    plain, runner = both("llama")
    found = get_method("eap").at("node")(runner).scores
    expected = get_method("eap").at("node")(plain).scores
    np.testing.assert_allclose(found.by_sender(), expected.by_sender(), atol=1e-6)
    assert found.units == 3 * len(plain.graph.senders)
    exact = get_method("exact").at("node")(runner).scores
    graph = runner.graph
    kept = graph.reads.copy()
    kept[graph.spans.index("subject") :: 3, graph.sender_index[Edge.parse("m0->m1").sender]] = False
    change = runner.loss(Circuit(graph, kept)) - runner.loss(Circuit.full(graph))
    assert exact["m0->m1@subject"] == pytest.approx(change, abs=1e-6)
    assert found.count(found.top(4)) == 4


def test_searches_work_at_spans() -> None:
    _, runner = both("gpt2", metric="kl")
    found = get_method("acdc")(runner, threshold=0.05)
    assert found.circuit is not None
    assert 0 < len(found.circuit) < runner.graph.edge_count
    assert runner.loss(found.circuit) == pytest.approx(found.notes["loss_search"], abs=1e-6)


# -- names, labels and files ----------------------------------------------------------------------


def test_names_by_hand() -> None:
    graph = ComputationGraph(layers=1, heads=1, spans=("s2", "end"))
    assert [str(port) for port in graph.ports] == [
        "a0.h0<q>@s2", "a0.h0<q>@end", "a0.h0<k>@s2", "a0.h0<k>@end", "a0.h0<v>@s2",
        "a0.h0<v>@end", "m0@s2", "m0@end", "logits@s2", "logits@end",
    ]  # fmt: skip
    assert graph.size == (10, 3)
    assert str(Edge.parse("m0->a1.h2<k>@s2").port) == "a1.h2<k>@s2"
    assert graph.plain == ComputationGraph(layers=1, heads=1)
    with pytest.raises(NameSyntaxError, match="names no span behind its @; accepted: letters"):
        Port.parse("m0@a b")
    with pytest.raises(GraphMismatch, match=r"no port m0; it has .*spans s2, end"):
        graph.locate("embed->m0")
    with pytest.raises(GraphMismatch, match=r"no graph has the spans \['a', 'a'\]"):
        ComputationGraph(layers=1, heads=1, spans=("a", "a"))


def test_every_position_is_of_one_span() -> None:
    batch = labelled().at_spans().batch()
    assert batch.span is not None
    names = ("subject", "end", "other")
    first, second, _ = ([names[i] for i in row] for row in batch.span.tolist())
    end = labelled().pairs[0].answer_position
    assert first == ["other", "subject", "subject", *["other"] * (end - 3), "end"]
    assert second[:2] == ["subject", "subject"]
    assert second[5] == "other"  # padding


def test_files_name_one_position_or_several(tmp_path: Path) -> None:
    row = {"clean_ids": [5, 6, 7, 8], "corrupted_ids": [5, 9, 7, 8], "answer_ids": [4]}
    spans = {"subject": [1, 2], "end": -1, "rest": [[0, 0]]}
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({**row, "spans": spans}))
    (pair,) = pairs = read_pairs(path)
    assert pair.spans == (("subject", 1), ("subject", 2), ("end", 3), ("rest", 0))
    assert pairs_from_rows(pair_rows(pairs)) == PromptPairs(pairs.pairs)
    assert pairs.at_spans().told_apart == ("subject", "end", "rest", "other")
    apart = Pair((1, 2, 3), (1, 4, 3), (0,), declared=(("x", 0), ("x", 2)))
    (row,) = pair_rows(PromptPairs((apart,)).at_spans())
    assert row["span_labels"] == {"x": [[0, 0], [2, 2]]}
    assert pairs_from_rows([row]).pairs[0].declared == apart.declared
    assert "span_labels" not in pair_rows(PromptPairs((apart,)))[0]


@pytest.mark.parametrize(
    ("spans", "words"),
    [
        ({"a": [2, 1]}, "'a' from 2 to 1; accepted: \\[first, last\\]"),
        ({"a": [0, 4]}, "'a' at 4, outside the 4 tokens"),
        ({"a": [0, 1, 2]}, "'spans' holds .*; accepted: a whole number for each name, or"),
        ({"a": [[0, True], 1]}, "'spans' holds"),
        ([3], "positions by their names"),
    ],
)
def test_wrong_spans(tmp_path: Path, spans: object, words: str) -> None:
    row = {"clean_ids": [5, 6, 7, 8], "corrupted_ids": [5, 9, 7, 8], "answer_ids": [4]}
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({**row, "spans": spans}))
    with pytest.raises(PromptError, match=words):
        read_pairs(path)


def test_pairs_whose_spans_cannot_be_told_apart() -> None:
    with pytest.raises(PromptError, match=r'names no spans of its prompts\' positions.*"subject"'):
        tiny_pairs().at_spans()
    with pytest.raises(PromptError, match="names the spans end, and those told apart are subject"):
        labelled().at_spans(("subject",))
    twice = Pair((1, 2), (1, 3), (0,), spans=(("a", 1), ("b", 1)))
    with pytest.raises(PromptError, match=r"pair 1 .* position 1 in the spans a and b; accepted"):
        PromptPairs((twice,)).at_spans()
    unfit = Pair((1, 2), (1, 3), (0,), spans=(("a b", 1),))
    with pytest.raises(PromptError, match="'a b' cannot name a span; accepted: letters"):
        PromptPairs((unfit,)).at_spans()


def test_what_knows_no_spans_says_so() -> None:
    _, runner = both("gpt2")
    for call in (
        lambda: get_method("eap")(runner, local=True),
        lambda: get_method("screen")(runner),
        lambda: get_method("information-flow-routes")(runner),
        lambda: Runner.create(runner.model, runner.pairs, engine="jax"),
    ):
        with pytest.raises(EdgewiseError, match=r"spans of positions apart|JAX, which is not inst"):
            call()
    with pytest.raises(GraphMismatch, match="spans"):
        runner.loss(Circuit.full(runner.model.graph))
