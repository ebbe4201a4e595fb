"""A hand-built model that attends in both directions, with its circuit worked out on paper.

Features (a, b, start, out); prompts of a's and b's behind a start token. Queries and keys are 0, so
every position sees all positions alike.

    head 0: v = a, writes v to out      head 1: v = b, writes 2·v to start, which nothing reads
    MLP: 2·relu(out − ¼) to out         logits = (out, 0), read at the start token

Clean start a a b: head 0 writes ½, the MLP ½, out is 1. Corrupted start b a b: ¼, 0, ¼.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from edgewise import describe, evaluate, get_method, plain_block, plain_model
from edgewise.graphs.circuit import Circuit
from edgewise.graphs.errors import CertificateFailed, PromptError, UnsupportedModel
from edgewise.graphs.lift.lifted import LiftedModel, Norm
from edgewise.patching.gradients.port_gradients import port_gradients
from edgewise.patching.prompts.pairs import Pair, PromptPairs
from edgewise.patching.run.certificate import certify
from edgewise.patching.run.chunk import Chunk
from edgewise.patching.run.runner import Runner
from tests.engine import random_mask, tiny_model, tiny_pairs
from tests.patching.test_attribution import mask_loss
from tests.patching.test_identities import naive_logits


def numbers(*rows: Any) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


ZERO = torch.zeros(2, 1, 4, dtype=torch.float64)
BLOCK: dict[str, Any] = {
    "wq": ZERO, "wk": ZERO,
    "wv": numbers([[1, 0, 0, 0]], [[0, 1, 0, 0]]), "wo": numbers([[0, 0, 0, 1]], [[0, 0, 2, 0]]),
    "up": numbers([0, 0, 0, 1]), "up_bias": numbers(-0.25), "down": numbers([0], [0], [0], [2]),
}  # fmt: skip
MODEL: dict[str, Any] = {
    "tokens": numbers([1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]),
    "unembed": numbers([0, 0, 0, 1], [0, 0, 0, 0]),
    "causal": False,
}
START, A, B = 2, 0, 1
PAIRS = PromptPairs((Pair((START, A, A, B), (START, B, A, B), (0,), (1,), answer_position=0),))
CIRCUIT = ["embed->a0.h0<v>", "a0.h0->m0", "a0.h0->logits", "m0->logits"]


def counted(ids: Tensor) -> Tensor:
    """Compute the same from the share of a's."""
    share = (ids == A).double().mean(-1, keepdim=True).expand(ids.shape)
    return torch.stack((share + 2 * (share - 0.25).clamp(min=0), torch.zeros_like(share)), -1)


@pytest.fixture
def runner() -> Runner:
    return Runner.create(plain_model(blocks=[plain_block(**BLOCK)], **MODEL), PAIRS)


@pytest.mark.parametrize(
    ("ablated", "out"),
    [
        ([], 1),
        (["a0.h0->m0"], 0.5 + 0),
        (["m0->logits"], 0.5 + 0),
        (["a0.h0->logits"], 0.25 + 0.5),
        (["embed->a0.h0<v>"], 0.25),
        (["embed->a0.h0<q>", "embed->a0.h1<v>", "embed->logits", "a0.h1->m0"], 1),
    ],
)
def test_circuits(runner: Runner, ablated: list[str], out: float) -> None:
    circuit = Circuit.full(runner.graph).without(ablated)
    assert runner.measure([circuit])[0, 0] == pytest.approx(out)


def test_gradients_and_search_find_the_circuit(runner: Runner) -> None:
    scores = get_method("eap")(runner).scores
    found = {edge: scores[edge] for edge in CIRCUIT}
    by_hand = {CIRCUIT[0]: 3 * 0.25, CIRCUIT[1]: 2 * 0.25, CIRCUIT[2]: 0.25, CIRCUIT[3]: 0.5}
    assert found == pytest.approx(by_hand)
    circuit = get_method("acdc")(runner, threshold=0.01).circuit
    assert circuit == Circuit.empty(runner.graph).with_edges(CIRCUIT)
    assert evaluate(runner, circuit).faithfulness == pytest.approx(1)


def test_the_certificate_compares_with_the_original_if_there_is_one() -> None:
    block = plain_block(**BLOCK)
    alone = certify(plain_model(blocks=[block], **MODEL)).require()
    assert not alone.compared
    assert alone.as_dict()["compared"] is False
    beside = certify(plain_model(blocks=[block], original=counted, **MODEL)).require()
    assert beside.compared
    assert "compared" not in beside.as_dict()
    wrong = plain_model(blocks=[block], original=lambda ids: counted(ids) + 0.01, **MODEL)
    with pytest.raises(CertificateFailed):
        certify(wrong).require()


def test_one_direction_and_two_differ() -> None:
    one = plain_model(blocks=[plain_block(**BLOCK)], **{**MODEL, "causal": True})
    with pytest.raises(CertificateFailed):
        certify(replace(one, original=counted)).require()
    assert one.causal


def random_model(causal: bool = False, **options: Any) -> LiftedModel:
    draw = torch.Generator().manual_seed(3)

    def some(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64) * 0.6

    def block(**rest: Any) -> Any:
        heads = {"wq": some(4, 3, 5), "wk": some(2, 3, 5), "wv": some(2, 2, 5), "wo": some(4, 2, 5)}
        return plain_block(**heads, bk=some(2, 3), **rest)

    norm = Norm(some(5), some(5), 1e-5, centred=True)
    blocks = [
        block(),
        block(up=some(7, 5), down=some(5, 7), down_bias=some(5), bo=some(5), activation="tanh"),
        block(attention_norm=norm),
    ]
    return plain_model(
        tokens=some(31, 5), positions=some(12, 5), blocks=blocks, unembed=some(31, 5),
        unembed_bias=some(31), causal=causal, **options,
    )  # fmt: skip


OPTIONS: list[dict[str, bool]] = [{}, {"grouped_kv": True, "parallel": True}, {"causal": True}]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("ablation", ["resample", "zero"])
def test_random_weights_run_as_the_definition_says(options: Any, ablation: str) -> None:
    model = random_model(**options)
    certify(model).require()
    pairs = tiny_pairs(lengths=(5, 7, 6))
    runner = Runner.create(model, pairs, ablation=ablation, batch_size=3)
    (chunk,) = runner.chunks()
    for seed, density in enumerate((0.1, 0.5, 0.97)):
        mask = random_mask(model.graph, density, seed)
        found = runner.chunk_logits(chunk, mask[None])[0]
        torch.testing.assert_close(found, naive_logits(runner, chunk, mask), rtol=1e-9, atol=1e-9)
    full = torch.ones(model.graph.reads.shape, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(mask_loss(runner, full), full)
    scores = get_method("eap")(runner).scores.values
    reads = model.graph.reads
    np.testing.assert_allclose(scores[reads], -slope.numpy()[reads], rtol=1e-4, atol=1e-6)
    assert set(port_gradients(runner, chunk, Circuit.full(model.graph))) <= set(model.graph.ports)


@pytest.mark.parametrize("padding", ["left", "right"])
def test_padding_changes_nothing(padding: str) -> None:
    model, pairs = random_model(), tiny_pairs(lengths=(3, 8, 5))
    mask = random_mask(model.graph, 0.6, 1)
    alone = Runner.create(model, pairs, batch_size=1)
    chunk = Chunk(model, pairs.batch(padding=padding), alone.ablation, alone.carried())
    found = alone.chunk_logits(chunk, mask[None])[0]
    torch.testing.assert_close(found, alone.logits([Circuit(model.graph, mask)])[0])


def test_a_transformers_model_can_be_described_by_hand() -> None:
    model = tiny_model("gpt2-untied-relu")
    lifted = describe(model)
    blocks = []
    for block in lifted.blocks:
        a, mlp = block.attention, block.mlp
        heads = {f.name: getattr(a, f.name) for f in _weights(a)}
        inner = {"up": mlp.up.weight, "up_bias": mlp.up.bias, "down": mlp.down.weight}
        norms = {"attention_norm": block.attention_norm, "mlp_norm": block.mlp_norm}
        blocks.append(plain_block(**heads, **inner, **norms, down_bias=mlp.down.bias))
    original: Callable[[Tensor], Tensor] = lambda ids: model(ids).logits  # noqa: E731
    plain = plain_model(
        tokens=model.transformer.wte.weight, positions=model.transformer.wpe.weight, blocks=blocks,
        unembed=model.lm_head.weight, final_norm=lifted.final_norm, original=original,
    )  # fmt: skip
    assert not plain.tokens.requires_grad
    assert plain.tokens.data_ptr() == model.transformer.wte.weight.data_ptr()
    certify(plain).require()


def _weights(attention: Any) -> list[Any]:
    from dataclasses import fields

    return [f for f in fields(attention) if f.name[0] in "wb" and len(f.name) == 2]


def test_everything_that_does_not_fit_is_named() -> None:
    blocks = [
        plain_block(**{**BLOCK, "wk": ZERO[:, :, :3], "up": numbers([0, 1])}),
        plain_block(**{**BLOCK, "wv": BLOCK["wv"][:1], "activation": "sine"}),
    ]
    with pytest.raises(UnsupportedModel) as error:
        plain_model(blocks=blocks, **{**MODEL, "unembed": numbers([1, 0, 0]).float()})
    for words in (
        "layer 0: wk has shape [2, 1, 3]; accepted: [2, 1, 4]",
        "layer 0: up has shape [1, 2]; accepted: [1, 4]",
        "layer 1: wv has shape [1, 1, 4]; accepted: [2, 1, 4]",
        "'sine' is not known",
        "unembed has shape [1, 3]; accepted: [·, 4]",
        "torch.float32, torch.float64",
    ):
        assert words in str(error.value)
    with pytest.raises(UnsupportedModel, match="no layers"):
        plain_model(blocks=[], **MODEL)
    with pytest.raises(UnsupportedModel, match="has no window"):
        plain_model(blocks=[plain_block(**BLOCK, window=2)], **MODEL)


def test_answers_are_checked_against_the_logits(runner: Runner) -> None:
    pairs = PromptPairs((Pair((START, A), (START, B), (2,), (1,)),))
    with pytest.raises(PromptError, match="id 2; the model has logits 0 to 1"):
        Runner.create(runner.model, pairs)
