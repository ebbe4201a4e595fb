"""Parts taken whole: the identities, on models whose token mixers run as they are."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator, Sequence
from types import MethodType
from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from edgewise.graphs.circuit import Circuit
from edgewise.graphs.errors import EdgewiseError, GraphMismatch, UnsupportedModel
from edgewise.graphs.lift.lifted import Whole
from edgewise.graphs.lift.lifting import describe
from edgewise.patching.gradients.attribution import attribute
from edgewise.patching.gradients.port_gradients import port_gradients
from edgewise.patching.heads.direct import Direct
from edgewise.patching.heads.random_tokens import model_blocks
from edgewise.patching.heads.roles import measure
from edgewise.patching.paths import patch_paths
from edgewise.patching.run.certificate import certify, original_run
from edgewise.patching.run.runner import Runner
from edgewise.patching.trace import at_answers
from tests.configs_hybrid import HYBRID_CONFIGS
from tests.configs_whole import WHOLE_CONFIGS
from tests.engine import (
    ABLATIONS,
    ablated_values,
    fitting,
    naive_run,
    random_mask,
    tiny_lift,
    tiny_model,
    tiny_pairs,
    whole,
)
from tests.patching.test_incremental import assert_equal, compare

EVERY = {**WHOLE_CONFIGS, **HYBRID_CONFIGS}
SOME = ["mamba", "mamba2-others", "falcon-mamba", "gemma3n", "qwen3-next"]


class InFloat64(TorchFunctionMode):
    """Compute in float64 where a model's own code asks for float32, to compare exactly."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.Tensor.float:
            return args[0].double()
        swap = {torch.float32: torch.float64}
        args = [swap.get(x, x) if isinstance(x, torch.dtype) else x for x in args]
        kwargs = kwargs or {}
        kwargs |= {k: swap.get(x, x) for k, x in kwargs.items() if isinstance(x, torch.dtype)}
        return func(*args, **kwargs)


@pytest.fixture
def exact() -> Iterator[None]:
    with InFloat64():
        yield


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.usefixtures("exact")
def test_all_kept_is_the_model_and_none_kept_is_the_corrupted_run(name: str) -> None:
    model = tiny_lift(name)
    runner = Runner.create(model, tiny_pairs(lengths=(7, 4, 7, 5)), batch_size=4)
    (chunk,) = runner.chunks()
    assert chunk.start == 0
    for circuit, ids in (
        (Circuit.full(model.graph), chunk.batch.clean),
        (Circuit.empty(model.graph), chunk.batch.corrupted),
    ):
        logits, _ = original_run(model, ids, chunk.batch)
        found = runner.chunk_logits(chunk, circuit.kept[None])[0]
        expected = at_answers(logits, chunk.batch.answer_position)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    certificate = certify(model).require()
    assert max(certificate.kept_all, certificate.kept_none, certificate.stream) < 1e-8


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.usefixtures("exact")
def test_the_dense_runner_is_the_definition(name: str, ablation: str) -> None:
    model = tiny_lift(name)
    pairs = tiny_pairs(lengths=fitting(ablation, (6, 4, 5)))
    runner = Runner.create(model, pairs, ablation=ablation, batch_size=3)
    (chunk,) = runner.chunks()
    masks = np.stack([random_mask(model.graph, d, i) for i, d in enumerate((0.2, 0.5, 0.8))])
    together = runner.chunk_logits(chunk, masks)
    ablated = ablated_values(runner, chunk)
    for mask, found in zip(masks, together, strict=True):
        kept = torch.from_numpy(mask * 1.0)
        _, final = naive_run(model, chunk.batch.clean, whole(chunk), ablated, kept)
        expected = model.logits(at_answers(final, chunk.batch.answer_position))
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("density", [0.3, 1.0])
@pytest.mark.usefixtures("exact")
def test_incremental_answers_are_those_of_the_dense_runner(name: str, density: float) -> None:
    runner = Runner.create(tiny_lift(name, 1), tiny_pairs(1, (5, 4, 4)))
    assert_equal(*compare(runner, density, 2))


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.usefixtures("exact")
def test_gradients_are_central_differences(name: str) -> None:
    model = tiny_lift(name)
    runner = Runner.create(model, tiny_pairs(lengths=(6, 4)), metric="nll", ablation="zero")
    (chunk,) = runner.chunks()
    batch, ports = chunk.batch, len(model.graph.ports)
    shape = (ports, *batch.clean.shape, model.d_model)
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(shape, generator=generator, dtype=model.dtype)
    zero = [torch.zeros((), dtype=model.dtype)] * len(model.graph.senders)
    everything = torch.ones(model.graph.reads.shape, dtype=model.dtype)

    def loss(step: float) -> float:
        offsets = dict(enumerate(step * direction))
        with torch.no_grad():
            _, final = naive_run(model, batch.clean, whole(chunk), zero, everything, offsets)
            logits = model.logits(at_answers(final, batch.answer_position))
            return float(runner.metric.loss(logits, chunk.target).sum())

    found = port_gradients(runner, chunk, Circuit.full(model.graph))
    slope = sum(
        float((gradient * direction[model.graph.port_index[port]]).sum())
        for port, gradient in found.items()
    )
    assert slope == pytest.approx((loss(1e-6) - loss(-1e-6)) / 2e-6, rel=1e-5, abs=1e-6)
    rows = [-(chunk.delta @ found[port].flatten()) for port in model.graph.ports]
    scores = torch.stack(rows).numpy() / len(runner.pairs)
    expected, reads = attribute(runner, [1.0]).values, model.graph.reads
    np.testing.assert_allclose(scores[reads], expected[reads], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", SOME)
def test_what_the_models_weights_require_does_not_matter(name: str) -> None:
    model, frozen = tiny_model(name), tiny_model(name).requires_grad_(False)
    scores = []
    for one in (model, frozen):
        before = [p.requires_grad for p in one.parameters()]
        scores.append(attribute(Runner.create(describe(one), tiny_pairs(), metric="nll"), [1.0]))
        assert [p.requires_grad for p in one.parameters()] == before
        assert all(p.grad is None for p in one.parameters())
    np.testing.assert_array_equal(scores[0].values, scores[1].values)


@pytest.mark.parametrize("name", SOME)
def test_nothing_is_left_on_the_model(name: str) -> None:
    model = tiny_model(name, dtype=torch.float32)
    before = {key: dict(vars(module)) for key, module in model.named_modules()}
    state = copy.deepcopy(model.state_dict())
    lifted = describe(model)
    certify(lifted).require()
    attribute(Runner.create(lifted, tiny_pairs(), metric="nll"), [1.0])
    for key, module in model.named_modules():
        assert vars(module).keys() == before[key].keys()
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert all(torch.equal(state[key], now) for key, now in model.state_dict().items())
    pickle.dumps(model)


def test_every_weight_of_a_whole_module_is_claimed_and_watched() -> None:
    model = tiny_model("mamba")
    runner = Runner.create(describe(model), tiny_pairs())
    list(runner.chunks())
    with torch.no_grad():
        model.backbone.layers[1].mixer.A_log.add_(0.1)
    with pytest.raises(EdgewiseError, match="weights have changed"):
        list(runner.chunks())


def test_a_mixer_that_reads_later_positions_is_refused() -> None:
    model = tiny_model("mamba")
    own = type(model.backbone.layers[1].mixer).forward

    def both_ways(self: Any, hidden_states: torch.Tensor, **rest: Any) -> torch.Tensor:
        return own(self, hidden_states, **rest) + own(self, hidden_states.flip(1), **rest).flip(1)

    model.backbone.layers[1].mixer.forward = MethodType(both_ways, model.backbone.layers[1].mixer)
    with pytest.raises(UnsupportedModel, match=r"layer 1 \(taken whole \(MambaMixer\)\) reads pos"):
        describe(model)


def test_paths_lead_through_whole_mixers() -> None:
    runner = Runner.create(tiny_lift("mamba"), tiny_pairs(), metric="nll")
    found = patch_paths(runner, ["embed->s0->s1->logits", "s0->logits"])
    assert [one.name for one in found] == ["embed->s0->s1->logits", "s0->logits"]
    assert all(np.isfinite(one.effect) and one.effect for one in found)
    with pytest.raises(GraphMismatch, match=r"layer 0 has no heads for 'a0\.\*'"):
        patch_paths(runner, ["a0.*->logits"])
    with pytest.raises(GraphMismatch, match=r"no sender m0 \(layer 0 has no MLP\)"):
        patch_paths(runner, ["m0->logits"])
    with pytest.raises(GraphMismatch, match=r"no heads: its token mixer is one node, s0"):
        patch_paths(runner, ["a0.h0->logits"])


def test_head_roles_need_heads() -> None:
    model = tiny_lift("mamba")
    with pytest.raises(GraphMismatch, match="no attention heads to measure"):
        measure(model, model_blocks(model))


def test_a_mixer_is_called_as_the_models_own_code_does() -> None:
    model = tiny_lift("mamba2")
    mixer = model.blocks[0].attention
    assert isinstance(mixer, Whole)
    assert mixer.words == "taken whole (Mamba2Mixer)"
    runner = Runner.create(model, tiny_pairs(lengths=(6, 4)), batch_size=2)
    (chunk,) = runner.chunks()
    stream = chunk.clean.streams.attention[0]
    once = model.blocks[0].write_whole(stream, chunk.context)
    many = model.blocks[0].write_whole(torch.stack((stream, 2 * stream)), chunk.context)
    torch.testing.assert_close(many[0], once)


@pytest.mark.parametrize("name", ["gemma3n", "gemma3n-others"])
def test_what_senders_add_to_the_logits_of_several_streams_sums_up(name: str) -> None:
    model = tiny_lift(name)
    runner = Runner.create(model, tiny_pairs(), ablation="zero")
    (chunk,) = runner.chunks()
    answers, distractors = chunk.batch.answers, chunk.batch.distractors
    direct = Direct(model, chunk.at_answers(chunk.clean.streams.final), answers, distractors)
    single = chunk.delta.view(len(model.graph.senders), *chunk.clean.streams.final.shape)
    parts = direct.normed(chunk.at_answers(single))
    total = direct.logits(parts.sum(0))
    cap = model.logit_softcap
    bent = (total / cap).tanh() * cap if cap is not None else total
    assert chunk.target.clean_logits is not None
    torch.testing.assert_close(bent, chunk.target.clean_logits, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["gemma3n", "gemma3n-others"])
def test_an_edge_carries_what_a_layer_is_given_past_the_streams(name: str) -> None:
    """Cut off from `embed`, a layer is given the corrupted tokens' input, whatever it is."""
    model = tiny_lift(name)
    runner = Runner.create(model, tiny_pairs(lengths=(6,)), metric="nll")
    (chunk,) = runner.chunks()
    assert model.spread is not None
    packing = model.spread.packing
    for layer, block in enumerate(model.blocks):
        edges = [f"embed->s{layer}", f"s{layer}->logits"]
        edges += [f"{u}->s{layer}" for u in [f"s{i}" for i in range(layer)]]
        for kept in (edges, edges[1:]):
            circuit = Circuit.empty(model.graph).with_edges(kept)
            found = runner.chunk_logits(chunk, circuit.kept[None])[0]
            x = chunk.base.streams.attention[layer].clone()
            if kept is edges:
                x += (chunk.clean.values.sources - chunk.base.values.sources)[0]
                given = chunk.clean.values.sources[0][..., packing.given(layer)]
                torch.testing.assert_close(x[..., packing.given(layer)], given)
            final = chunk.base.streams.final - chunk.base.values.z[layer].squeeze(-2)
            final = final + block.write_whole(x, chunk.context)
            expected = model.logits(chunk.at_answers(final))
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
