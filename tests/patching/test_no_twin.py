"""Prompts without a corrupted twin, and the ablation `noise`, which needs none.

The model of width 2 has no norm: embeddings (1, 0), (0, 1), (1, 1); v = 2·x₁ + x₂; a head weighs
all tokens up to its own alike and writes z·(1, 3); the MLP writes relu(x₁ + x₂ − 3)·(1, −1).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgewise.discovery.evaluation import measure
from edgewise.discovery.registry import get_method
from edgewise.graphs.circuit import Circuit
from edgewise.graphs.errors import PromptError
from edgewise.patching.ablations.registry import ablations
from edgewise.patching.paths import patch_paths
from edgewise.patching.prompts.pair_files import read_pairs, write_pairs
from edgewise.patching.prompts.pairs import Pair, PromptPairs
from edgewise.patching.run.certificate import certify
from edgewise.patching.run.runner import Runner
from tests.engine import drawn_noise, tiny_lift, tiny_pairs
from tests.patching.test_ablations import PADDED, model, prompts

__all__ = ["model"]

FREE = [name for name, one in ablations().items() if not one.needs_corrupted]
PAIRED = [name for name, one in ablations().items() if one.needs_corrupted]


def alone(pairs: PromptPairs) -> PromptPairs:
    """Take the corrupted prompts away."""
    return PromptPairs(
        tuple(Pair(p.clean, None, p.answers, p.distractors, p.answer_position) for p in pairs),
        name="alone",
    )


# -- what noise is ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2])
def test_noise_is_what_senders_write_on_average_over_noisy_embeddings(
    model: Any, size: int
) -> None:
    entries = [1, 0, 0, 1, 1, 1]  # of the tokens 0, 1 and 2, each once
    sigma = 3 * float(np.std(entries, ddof=1))
    expected = []
    for ids in ([0], [1, 2]):
        x = model.tokens[ids] + sigma * drawn_noise(ids, 2).double()  # [10, T, 2]
        z = (2 * x[..., 0] + x[..., 1]).mean(1)  # at the last token, of which all are seen
        head = z[:, None] * torch.tensor([1.0, 3.0])
        port = x[:, -1] + head
        mlp = (port.sum(-1) - 3).relu()[:, None] * torch.tensor([1.0, -1.0])
        expected.append((x[:, -1] + head + mlp).mean(0).tolist())
    runner = Runner.create(model, PADDED, ablation="noise", batch_size=size)
    found = runner.logits([Circuit.empty(runner.graph)])[0]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    # of one edge: the mean of the noisy embeddings in place of the last token's own
    one = runner.logits([Circuit.full(runner.graph).without(["embed->logits"])])[0]
    x = [
        (model.tokens[ids] + sigma * drawn_noise(ids, 2).double())[:, -1].mean(0)
        for ids in ([0], [1, 2])
    ]
    clean = runner.logits([Circuit.full(runner.graph)])[0]
    np.testing.assert_allclose(one, clean - model.tokens[[0, 2]] + torch.stack(x), rtol=1e-12)


def test_noise_is_the_same_in_any_batch_and_order_and_of_equal_prompts() -> None:
    lift = tiny_lift("llama")
    pairs = tiny_pairs(lengths=(5, 6, 4, 6))
    again = PromptPairs((*reversed(pairs.pairs), pairs.pairs[0]))
    first = Runner.create(lift, pairs, ablation="noise", batch_size=4)
    second = Runner.create(lift, again, ablation="noise", batch_size=1, reference=pairs)
    a, b = (one.logits([Circuit.empty(lift.graph)])[0] for one in (first, second))
    torch.testing.assert_close(a.flip(0), b[:4], rtol=1e-5, atol=1e-5)
    assert torch.equal(b[3], b[4])


# -- no twin ------------------------------------------------------------------------------------


@pytest.mark.parametrize("ablation", FREE)
def test_what_needs_no_twin_is_the_same_without_one(ablation: str) -> None:
    lift = tiny_lift("llama")
    pairs = tiny_pairs()
    runners = [Runner.create(lift, p, ablation=ablation) for p in (pairs, alone(pairs))]
    graph = lift.graph
    circuit = Circuit.full(graph).without(["embed->m0", "a0.h0->logits", "m0->a1.h1<v>"])
    one, other = (measure(runner, circuit) for runner in runners)
    assert one == other
    for method in ("eap-ig", "acdc"):
        a, b = (get_method(method)(runner) for runner in runners)
        np.testing.assert_array_equal(a.scores.values, b.scores.values)
    a, b = (patch_paths(runner, ["a0.h0->logits"]) for runner in runners)
    assert a == b


@pytest.mark.parametrize("ablation", PAIRED)
def test_what_needs_a_twin_is_refused_and_names_what_needs_none(ablation: str) -> None:
    lift = tiny_lift("llama")
    with_twin = tiny_pairs().pairs
    mixed = PromptPairs((*with_twin, *alone(tiny_pairs(lengths=(5, 4)))), name="mine")
    with pytest.raises(PromptError) as caught:
        Runner.create(lift, mixed, ablation=ablation)
    message = str(caught.value)
    assert f"{ablation} ablation takes its values from corrupted prompts, and 2 of the 5" in message
    assert "'mine' have none (pair 4, 5)" in message
    assert message.endswith(f"`ablation` that needs none: {', '.join(FREE)}.")
    assert FREE == ["mean", "noise", "optimal", "position-mean", "zero"]
    Runner.create(lift, mixed, ablation="zero")


def test_a_line_without_a_twin_is_read_and_written_without_one(
    tmp_path: Path, word_tokenizer: Any
) -> None:
    path = tmp_path / "mine.jsonl"
    rows = [{"clean": "Mary went to the", "answers": ["store"]}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (pair,) = pairs = read_pairs(path, word_tokenizer)
    assert pair.corrupted is None and pair.twin == pair.clean
    write_pairs(path, pairs)
    (row,) = map(json.loads, path.read_text().splitlines())
    assert "corrupted_ids" not in row and row["clean_ids"] == list(pair.clean)
    again = read_pairs(path)
    assert again.pairs == pairs.pairs and again.sha256 == pairs.sha256
    twin = PromptPairs((Pair(pair.clean, pair.clean, pair.answers),))
    assert twin.sha256 != pairs.sha256


def test_hashes_of_pairs_with_a_twin_are_what_they_were() -> None:
    pairs = prompts((0,), (1, 2))
    rows = [[p.clean, p.corrupted, p.answers, p.distractors, p.answer_position, ""] for p in pairs]
    assert pairs.sha256 == hashlib.sha256(json.dumps(rows).encode()).hexdigest()


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_certificate_compares_with_none_kept_on_other_tokens(name: str) -> None:
    lift = tiny_lift(name)
    found = certify(lift, alone(tiny_pairs()))
    assert found.passed and found.compared and 0 < found.kept_none < 1e-5


def test_noise_is_added_where_spans_are_named_and_these_count() -> None:
    lift, plain = tiny_lift("llama"), alone(tiny_pairs())
    marked = PromptPairs(tuple(replace(pair, spans=(("end", 2),)) for pair in plain))
    assert marked.sha256 != plain.sha256
    (chunk,) = Runner.create(lift, marked, ablation="noise").chunks()
    moved = (chunk.base.values.sources - chunk.clean.values.sources)[0].abs().sum(-1) > 1e-9
    assert moved[:, 2].all() and int(moved.sum()) == len(marked)
    (chunk,) = Runner.create(lift, plain, ablation="noise").chunks()
    moved = (chunk.base.values.sources - chunk.clean.values.sources)[0].abs().sum(-1) > 1e-9
    assert torch.equal(moved, chunk.batch.mask)
