"""Sinks, gates, chunks, temperatures and latent projections, by hand; the certificate sees them."""

from __future__ import annotations

from dataclasses import replace
from math import exp, log
from typing import Any

import pytest
import torch
from torch import Tensor

from edgewise.graphs.errors import PromptError
from edgewise.graphs.lift.attention import Attention, AttentionContext, Latent, Temperature
from edgewise.graphs.lift.lifted import Linear, Norm, Rotary
from edgewise.graphs.lift.lifting import describe
from edgewise.patching.run.certificate import certify
from edgewise.patching.run.runner import Runner
from edgewise.patching.trace import run_plain
from tests.configs_sparse import EVERY_SPARSE
from tests.engine import tiny_lift, tiny_pairs

WIDE = {"dtype": torch.float64}


def one_head(**fields: Any) -> Attention:
    """Return a head of one feature whose queries and keys are 0, so that it attends evenly."""
    one = torch.ones(1, 1, 1, **WIDE)
    parts = {"wq": 0 * one, "wk": 0 * one, "wv": one, "wo": one}
    usual = {**parts, "bq": None, "bk": None, "bv": None, "bo": None, "scale": 1.0}
    return Attention(**{**usual, **fields})


def context(length: int) -> AttentionContext:
    mask = torch.ones(1, length, dtype=torch.bool)
    return AttentionContext(mask, torch.arange(length)[None])


def column(values: list[float]) -> Tensor:
    return torch.tensor(values, **WIDE)[None, :, None, None]  # [B, T, h, K]


def mixed(attention: Attention, q: list[float], k: list[float], v: list[float]) -> list[float]:
    found: list[float] = attention.mix(*map(column, (q, k, v)), context(len(k))).flatten().tolist()
    return found


def test_a_sink_takes_its_part_of_the_weights() -> None:
    sinks = torch.tensor([log(2)], **WIDE)  # as much as two keys of score 0
    found = mixed(one_head(sinks=sinks), [0, 0, 0], [0, 0, 0], [3, 6, 9])
    assert found == pytest.approx([3 / 3, 9 / 4, 18 / 5])


def test_a_gate_stands_behind_the_query() -> None:
    attention = one_head(gate="sigmoid", wgate=torch.ones(1, 1, 1, **WIDE))
    weight, bias = attention.projection("q")
    assert (weight.flatten().tolist(), bias) == ([0, 1], None)
    q = torch.tensor([[0.0, log(3)], [0.0, -log(3)]], **WIDE)[None, :, None]
    z = attention.mix(q, column([0, 0]), column([4, 8]), context(2))
    assert z.flatten().tolist() == pytest.approx([4 * 3 / 4, 6 * 1 / 4])
    soft = replace(attention, gate="softplus")
    z = soft.mix(q, column([0, 0]), column([4, 8]), context(2))
    assert z.flatten().tolist() == pytest.approx([4 * log(4), 6 * log(4 / 3)])


def test_gates_held_with_the_queries_give_the_same() -> None:
    apart = one_head(gate="sigmoid", wgate=torch.full((1, 1, 1), 2.0, **WIDE))
    packed = one_head(gate="sigmoid", wq=torch.tensor([[[0.0], [2.0]]], **WIDE))
    assert torch.equal(apart.projection("q")[0], packed.projection("q")[0])


def test_queries_see_their_chunk_alone() -> None:
    found = mixed(one_head(chunk=2), [0] * 5, [0] * 5, [1, 2, 3, 4, 5])
    assert found == [1, 1.5, 3, 3.5, 5]


def test_chunks_are_counted_from_the_first_real_token() -> None:
    mask = torch.tensor([[False, True, True, True]])
    places = torch.tensor([[0, 0, 1, 2]])
    z = one_head(chunk=2).mix(
        *map(column, ([0] * 4, [0] * 4, [9, 1, 2, 3])), AttentionContext(mask, places)
    )
    assert z.flatten()[1:].tolist() == [1, 1.5, 3]


def test_temperatures_by_hand() -> None:
    places = torch.tensor([[0, 1, 2, 3, 4]])
    rows = Temperature(0.5, 2)(places)[0].tolist()
    assert rows == pytest.approx([1, 1, 1 + log(2) / 2, 1 + log(2) / 2, 1 + log(3) / 2])
    assert Temperature(0.5, 2, ahead=1)(places)[0, 1].item() == pytest.approx(1 + log(2) / 2)


def test_a_norm_behind_the_rotation_sees_the_rotated_query() -> None:
    norm = Norm(torch.tensor([1.0, 0.0], **WIDE), None, 0.0, centred=False)
    rotary = Rotary(torch.tensor([torch.pi / 2]))  # a quarter turn at each position
    attention = one_head(rotary=rotary, q_norm=norm, k_norm=norm, norm_after=True)
    q = torch.tensor([[3.0, 0.0], [3.0, 0.0]], **WIDE)[None, :, None]
    # at position 1 the query lies along the second feature, which the norm's weight hides
    pattern = attention.pattern(q, q, context(2))
    assert pattern[0, 0, 1].tolist() == pytest.approx([0.5, 0.5], abs=1e-6)
    before = replace(attention, norm_after=False).pattern(q, q, context(2))
    assert before[0, 0, 1, 1].item() == pytest.approx(exp(2) / (exp(2) + 1), abs=1e-6)


def test_a_rotation_may_begin_behind_other_features() -> None:
    rotary = Rotary(torch.tensor([torch.pi / 2]), start=1)
    x = torch.tensor([5.0, 1.0, 0.0], **WIDE).expand(1, 2, 1, 3)
    turned = rotary(x, rotary.tables(torch.tensor([[0, 1]]), torch.float64))
    torch.testing.assert_close(turned[0, 0, 0], x[0, 0, 0])
    torch.testing.assert_close(
        turned[0, 1, 0], torch.tensor([5.0, 0.0, 1.0], **WIDE), atol=1e-6, rtol=0
    )


def test_a_latent_projection_by_hand() -> None:
    down = Linear(torch.tensor([[1.0, 0], [0, 1.0], [1.0, 1.0]], **WIDE), None)
    latent = Latent(down, Norm(torch.tensor([2.0, 1.0], **WIDE), None, 0.0, centred=False))
    weight = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]], **WIDE)  # two heads of one feature
    found = latent.project(torch.tensor([3.0, 4.0], **WIDE), weight, None)
    size = (25 / 2) ** 0.5
    # each head's own feature, then the shared one, which no norm touches
    expected = torch.tensor([[2 * 3 / size, 7], [4 / size, 7]], **WIDE)
    torch.testing.assert_close(found, expected)
    assert latent.width(weight) == 1


def test_an_indexer_chooses_all_keys_of_short_prompts_and_longer_ones_are_refused() -> None:
    name = "deepseek32"
    config_class, model_class, options = EVERY_SPARSE[name]
    torch.manual_seed(0)
    model = model_class(config_class(**{**options, "index_topk": 5})).eval().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    lifted = describe(model)
    certify(lifted).require()
    ids = torch.arange(1, 8)[None]
    run = run_plain(lifted, ids, AttentionContext(torch.ones_like(ids).bool(), ids - 1))
    apart = (lifted.logits(run.streams.final) - model(ids).logits).abs().amax((0, 2))
    assert apart[:5].max() < 1e-5  # these queries see no more than five keys
    assert apart[5:].min() > 1e-3
    certify(lifted, tiny_pairs(lengths=(5, 4))).require()
    with pytest.raises(PromptError, match="the model takes at most 5"):
        Runner.create(lifted, tiny_pairs(lengths=(6, 6)))


WRONG: list[tuple[str, dict[str, Any]]] = [
    ("gpt-oss", {"sinks": None}),
    ("laguna", {"gate": "sigmoid"}),
    ("afmoe", {"gate": "softplus"}),
    ("llama4", {"chunk": None}),
    ("llama4", {"temperature": Temperature(0.2, 3, ahead=1)}),
    ("mistral4", {"temperature": None}),
    ("gemma4", {"value_norm": None}),
    ("deepseek3", {"scale": 0.3}),
]


@pytest.mark.parametrize(("name", "change"), WRONG)
def test_the_certificate_sees_a_wrong_part(name: str, change: dict[str, Any]) -> None:
    lifted = tiny_lift(name)
    blocks = []
    for block in lifted.blocks:
        assert isinstance(block.attention, Attention)
        own = block.attention
        has = all(getattr(own, field) is not None for field in change)
        blocks.append(replace(block, attention=replace(own, **change) if has else own))
    assert not certify(replace(lifted, blocks=tuple(blocks))).passed
