"""The identities of the definitions, on tiny random models of every family, in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.graphs.circuit import Circuit
from edgewise.graphs.names import Kind, Node, Port
from edgewise.patching.metrics.registry import get_metric
from edgewise.patching.prompts.pairs import PromptPairs
from edgewise.patching.run.certificate import certify, original_run
from edgewise.patching.run.chunk import Chunk
from edgewise.patching.run.masked_run import SUMS_KEPT, World, run_masked
from edgewise.patching.run.plan import Plan, make_plan
from edgewise.patching.run.runner import Runner
from edgewise.patching.trace import at_answers
from tests.configs import CONFIGS, EVERY
from tests.configs_copies import COPIES_WHOLE
from tests.engine import (
    ABLATIONS,
    WITH_GROUPS,
    ablated_values,
    fitting,
    naive_run,
    random_mask,
    tiny_lift,
    tiny_pairs,
    whole,
)

SOME = [
    "gpt2", "llama", "llama-multi-query", "qwen2-some-windows", "olmo2", "falcon-new-one-norm",
    "mixtral", "qwen2-moe", "gemma4-e",
]  # fmt: skip


@pytest.fixture
def default_type() -> Iterator[Callable[[torch.dtype], None]]:
    """Set torch's default type for one test."""
    before = torch.get_default_dtype()
    yield torch.set_default_dtype
    torch.set_default_dtype(before)


def naive_logits(runner: Runner, chunk: Chunk, mask: np.ndarray) -> torch.Tensor:
    """Return a circuit's logits by the definition alone, [B, V]."""
    model, batch = chunk.model, chunk.batch
    ablated = ablated_values(runner, chunk)
    _, final = naive_run(model, batch.clean, whole(chunk), ablated, torch.from_numpy(mask * 1.0))
    return model.logits(at_answers(final, batch.answer_position))


@pytest.mark.parametrize("name", [*EVERY, *COPIES_WHOLE])
def test_all_kept_is_the_model_and_none_kept_is_the_corrupted_run(
    name: str, default_type: Callable[[torch.dtype], None]
) -> None:
    if name.startswith("xglm"):  # its code makes float64's smallest number in the default type
        default_type(torch.float64)
    model = tiny_lift(name)
    pairs = tiny_pairs(lengths=(7, 4, 7, 5))
    runner = Runner.create(model, pairs, batch_size=4)
    (chunk,) = runner.chunks()
    rows = torch.arange(4)
    for circuit, ids in (
        (Circuit.full(model.graph), chunk.batch.clean),
        (Circuit.empty(model.graph), chunk.batch.corrupted),
    ):
        logits, _ = original_run(model, ids, chunk.batch)
        expected = logits[rows, chunk.batch.answer_position]
        found = runner.chunk_logits(chunk, circuit.kept[None])[0]
        # the norms of the Llama classes compute in float32 even in a float64 model
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    certificate = certify(model)
    assert certificate.passed, certificate
    assert max(certificate.kept_all, certificate.kept_none, certificate.stream) < 1e-5


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_certificate_follows_the_type(name: str, dtype: torch.dtype) -> None:
    assert certify(tiny_lift(name, dtype=dtype)).passed


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(("ablation", "grouped"), WITH_GROUPS)
def test_the_dense_runner_is_the_definition(name: str, ablation: str, grouped: bool) -> None:
    model = tiny_lift(name, grouped_kv=grouped)
    runner = Runner.create(
        model, tiny_pairs(lengths=fitting(ablation, (5, 7, 6))), ablation=ablation, batch_size=3
    )
    (chunk,) = runner.chunks()
    for seed, density in enumerate((0.03, 0.3, 0.6, 0.97)):
        mask = random_mask(model.graph, density, seed)
        found = runner.chunk_logits(chunk, mask[None])[0]
        torch.testing.assert_close(found, naive_logits(runner, chunk, mask), rtol=1e-9, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(
    name=st.sampled_from(SOME),
    density=st.floats(0, 1),
    seed=st.integers(0, 999),
    ablation=st.sampled_from(ABLATIONS),
    grouped=st.booleans(),
    split=st.booleans(),
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
)
def test_any_mask_on_any_shape(
    name: str,
    density: float,
    seed: int,
    ablation: str,
    grouped: bool,
    split: bool,
    lengths: list[int],
) -> None:
    model = tiny_lift(name, seed, grouped_kv=grouped, split_embedding=split)
    pairs = tiny_pairs(seed, fitting(ablation, tuple(lengths)))
    runner = Runner.create(model, pairs, ablation=ablation, batch_size=len(lengths))
    (chunk,) = runner.chunks()
    mask = random_mask(model.graph, density, seed)
    found = runner.chunk_logits(chunk, mask[None])[0]
    torch.testing.assert_close(found, naive_logits(runner, chunk, mask), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("ablation", ABLATIONS)
def test_circuits_together_are_circuits_alone(name: str, ablation: str) -> None:
    model = tiny_lift(name)
    runner = Runner.create(model, tiny_pairs(), ablation=ablation)
    masks = np.stack([random_mask(model.graph, d, i) for i, d in enumerate((0, 0.1, 0.5, 0.9, 1))])
    together = runner.mask_losses(masks)
    alone = [runner.mask_losses(mask[None])[0] for mask in masks]
    np.testing.assert_allclose(together, alone, rtol=1e-9, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(name=st.sampled_from(SOME), row=st.integers(1, 100), seed=st.integers(0, 99))
def test_a_restart_is_a_run_from_scratch(name: str, row: int, seed: int) -> None:
    model = tiny_lift(name, grouped_kv=bool(seed % 2))
    runner = Runner.create(model, tiny_pairs(seed), ablation=ABLATIONS[seed % len(ABLATIONS)])
    row = row % len(model.graph.ports)
    mask = model.graph.reads.copy()
    mask[row:] = random_mask(model.graph, 0.4, seed)[row:]
    restarted = runner.mask_losses(mask[None], start_row=row)
    np.testing.assert_allclose(restarted, runner.mask_losses(mask[None]), rtol=1e-9, atol=1e-9)


PLACES = [
    "gpt2",
    "llama",
    "mistral-window",
    "bloom",
    "falcon-sequential",
    "llama-dynamic",
    "phi3-long",
    "qwen2-moe-windows",
]


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("padding", ["left", "right"])
def test_padding_changes_nothing(name: str, padding: str) -> None:
    model = tiny_lift(name)
    pairs = tiny_pairs(lengths=(3, 8, 5))
    runner = Runner.create(model, pairs, batch_size=1)
    mask = random_mask(model.graph, 0.6, 1)
    alone = runner.logits([Circuit(model.graph, mask)])[0]
    chunk = Chunk(model, pairs.batch(padding=padding), runner.ablation, runner.carried())
    torch.testing.assert_close(runner.chunk_logits(chunk, mask[None])[0], alone)


def test_batches_of_any_size_give_the_same_mean() -> None:
    model = tiny_lift("llama")
    pairs = tiny_pairs(lengths=(5, 3, 8, 5, 6))
    circuit = Circuit(model.graph, random_mask(model.graph, 0.5, 0))
    losses = [Runner.create(model, pairs, batch_size=n).loss(circuit) for n in (1, 2, 5)]
    np.testing.assert_allclose(losses, losses[0], rtol=1e-12)


def test_values_of_each_example_stand_in_the_pairs_order_and_their_means_are_measured() -> None:
    model, pairs = tiny_lift("llama"), tiny_pairs(1, lengths=(7, 4, 7, 5))  # run by length
    circuits = [Circuit(model.graph, random_mask(model.graph, 0.6, seed)) for seed in range(3)]
    metrics = [get_metric("logit_diff"), get_metric("kl")]
    found = []
    for batch_size in (1, 3, 4):
        runner = Runner.create(model, pairs, batch_size=batch_size)
        each = runner.measure_each(circuits, metrics)
        assert each.shape == (2, 3, 4)
        assert each.dtype == np.float64
        assert np.allclose(each.mean(-1), runner.measure(circuits, metrics), atol=1e-12)
        found.append(each)
    assert np.allclose(found[0], found[1])
    assert np.allclose(found[0], found[2])
    for i, pair in enumerate(pairs):
        alone = Runner.create(model, PromptPairs((pair,)))
        assert np.allclose(alone.measure(circuits, metrics), found[0][:, :, i])
    losses = runner.measure_each(circuits, metrics, losses=True)
    assert np.allclose(losses, found[0] * np.array([-1, 1])[:, None, None])


def test_dead_nodes_are_not_run() -> None:
    model = tiny_lift("gpt2")
    circuit = Circuit.empty(model.graph).with_edges(
        ["embed->a0.h1<v>", "a0.h1->logits", "embed->m0", "m0->a1.h0<q>"]
    )
    plan = make_plan(model.graph, circuit.kept[None], consistent=True)
    assert [step.heads for step in plan.layers] == [(1,), ()]
    assert [step.mlp for step in plan.layers] == [None, None]


def test_only_live_experts_run() -> None:
    model = tiny_lift("qwen2-moe")
    circuit = Circuit.empty(model.graph).with_edges(
        ["embed->m0", "m0.e2->logits", "embed->m1", "m1.e0->logits", "m1.shared->logits"]
    )
    plan = make_plan(model.graph, circuit.kept[None], consistent=True)
    assert [step.writers for step in plan.layers] == [(2,), (0, 4)]
    assert all(step.mlp is not None for step in plan.layers)
    circuit = circuit.without(["m0.e2->logits"])
    plan = make_plan(model.graph, circuit.kept[None], consistent=True)
    assert plan.layers[0].writers == ()
    assert plan.layers[0].mlp is None


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_an_expert_can_be_ablated_alone(ablation: str) -> None:
    model = tiny_lift("mixtral")
    runner = Runner.create(
        model, tiny_pairs(lengths=fitting(ablation, (7, 6))), ablation=ablation, batch_size=2
    )
    (chunk,) = runner.chunks()
    for expert in ("m0.e1", "m1.e3"):
        column = model.graph.sender_index[Node.parse(expert)]
        mask = model.graph.reads.copy()
        mask[:, column] = False
        found = runner.chunk_logits(chunk, mask[None])[0]
        torch.testing.assert_close(found, naive_logits(runner, chunk, mask), rtol=1e-9, atol=1e-9)
        # of all the senders this one only is kept, with everything into it
        mask = model.graph.reads & (np.arange(len(model.graph.senders)) == column)
        mask[model.graph.port_index[Port(Node(Kind.MLP, int(expert[1])))]] = True
        mask &= model.graph.reads
        found = runner.chunk_logits(chunk, mask[None])[0]
        torch.testing.assert_close(found, naive_logits(runner, chunk, mask), rtol=1e-9, atol=1e-9)


def test_a_live_node_without_inputs_runs_only_where_it_can_differ() -> None:
    model = tiny_lift("gpt2")
    circuit = Circuit.empty(model.graph).with_edges(["m1->logits"])
    runs = [
        make_plan(model.graph, circuit.kept[None], consistent=c).layers[1].mlp is not None
        for c in (True, False)
    ]
    assert runs == [False, True]


def test_the_model_is_not_altered() -> None:
    from edgewise.graphs.lift.lifting import describe
    from tests.engine import tiny_model

    model = tiny_model("llama")
    before = {name: p.clone() for name, p in model.named_parameters()}
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    runner = Runner.create(describe(model), tiny_pairs())
    runner.loss(Circuit(runner.graph, random_mask(runner.graph, 0.5, 0)))
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.requires_grad == flags[name]
        assert parameter.grad is None


def test_a_restart_keeps_few_sums_of_known_senders() -> None:
    runner = Runner.create(tiny_lift("llama-ungrouped"), tiny_pairs(lengths=(5,)))
    reads = runner.graph.reads
    for row in range(1, len(reads)):
        masks = reads[None].copy()
        masks[:, row, 0] = False
        runner.mask_losses(masks, start_row=row)
    (chunk,) = runner.chunks()
    assert len(chunk.restart_world._sums) <= SUMS_KEPT


def test_circuits_with_equal_first_layers_run_together_with_gradients() -> None:
    runner = Runner.create(tiny_lift("gpt2"), tiny_pairs())
    (chunk,) = runner.chunks()
    masks = np.stack([random_mask(runner.graph, 0.3, seed) for seed in (0, 1)])
    first = [port.node.layer == 0 for port in runner.graph.ports]
    masks[:, first] = runner.graph.reads[first]  # what these ports hold is the same in both
    with torch.no_grad():
        wanted = runner.chunk_logits(chunk, masks)
    torch.testing.assert_close(runner.chunk_logits(chunk, masks), wanted)


def test_circuits_that_do_not_fit_run_in_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Runner.create(tiny_lift("gpt2"), tiny_pairs(), batch_size=3)
    (chunk,) = runner.chunks()
    masks = np.stack([random_mask(runner.graph, 0.5, seed) for seed in range(5)])
    masks[:, :3] = runner.graph.reads[:3]
    together = runner.chunk_logits(chunk, masks, start_row=3)
    sizes = []

    def counted(world: World, plan: Plan, circuits: int) -> torch.Tensor:
        sizes.append(circuits)
        return run_masked(world, plan, circuits)

    monkeypatch.setattr("edgewise.patching.run.runner.run_masked", counted)
    runner = replace(runner, budget=replace(runner.budget, run=1))
    torch.testing.assert_close(runner.chunk_logits(chunk, masks, start_row=3), together)
    assert sizes == [1] * 5


@pytest.mark.parametrize("name", ["qwen3", "helium"])
def test_a_port_that_keeps_nothing_is_exactly_ablated_beside_others(name: str) -> None:
    model = tiny_lift(name, dtype=torch.float32)
    runner = Runner.create(model, tiny_pairs(1, (6, 5, 4)), metric="nll", ablation="zero")
    row = runner.graph.port_index[Port.parse("a1.h2<q>")]
    masks = runner.graph.reads[None].repeat(2, axis=0)
    masks[0, row] = False
    masks[1, row, 0] = False
    together = runner.mask_losses(masks)
    apart = [runner.mask_losses(mask[None])[0] for mask in masks]
    assert together == pytest.approx(apart, abs=1e-5)
