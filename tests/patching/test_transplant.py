"""Cross-model patching: the identities, the definition spelled out, hooks, numbers by hand."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.graphs.circuit import Circuit
from edgewise.graphs.errors import EdgewiseError, GraphMismatch, PromptError
from edgewise.graphs.lift.lifted import LiftedModel
from edgewise.graphs.lift.lifting import describe
from edgewise.graphs.names import Kind, Node
from edgewise.patching.metrics.registry import get_metric
from edgewise.patching.run import memory
from edgewise.patching.run.chunk import Chunk
from edgewise.patching.trace import at_answers
from edgewise.patching.transplant.donor import clean_runner, record
from edgewise.patching.transplant.transplant import Transplant, nodes_mask
from tests.configs import CONFIGS
from tests.engine import (
    naive_run,
    naive_values,
    random_mask,
    tiny_lift,
    tiny_model,
    tiny_pairs,
    whole,
)

SOME = [
    "gpt2", "llama", "llama-biases-tied", "olmo2", "gpt-neox", "gemma2-caps", "mixtral", "gemma4-e",
]  # fmt: skip
LENGTHS = (5, 7, 6, 3)


def opened(
    donor: LiftedModel, receiver: LiftedModel, metric: str = "logit_diff", size: int = 4
) -> Transplant:
    pairs = tiny_pairs(lengths=LENGTHS)
    return Transplant.create(receiver, pairs, record(clean_runner(donor, pairs, metric, size)))


def naive(transplant: Transplant, donor: LiftedModel, chosen: np.ndarray) -> float:
    """Measure a choice of edges by the definition alone."""
    (chunk,) = transplant.runner.chunks()
    model, batch = chunk.model, chunk.batch
    theirs = naive_values(donor, batch.clean, whole(chunk))
    kept = torch.from_numpy((model.graph.reads & ~chosen) * 1.0)
    _, final = naive_run(model, batch.clean, whole(chunk), theirs, kept)
    return mean(transplant, chunk, model.logits(at_answers(final, batch.answer_position)), donor)


def mean(transplant: Transplant, chunk: Chunk, logits: torch.Tensor, donor: LiftedModel) -> float:
    from edgewise.patching.metrics.metric import Target

    metric = transplant.runner.metric
    theirs = naive_logits(donor, chunk) if metric.needs_clean_logits else None
    target = Target(chunk.batch.answers, chunk.batch.distractors, theirs)
    return float(metric(logits, target).mean())


def naive_logits(model: LiftedModel, chunk: Chunk) -> torch.Tensor:
    everything = torch.from_numpy(np.ones_like(model.graph.reads) * 1.0)
    zeros = [torch.zeros(())] * len(model.graph.senders)
    _, final = naive_run(model, chunk.batch.clean, whole(chunk), zeros, everything)
    return model.logits(at_answers(final, chunk.batch.answer_position))


# -- identities ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
def test_an_identical_donor_changes_nothing_exactly(name: str) -> None:
    model = tiny_lift(name, dtype=torch.float32)
    again = tiny_lift(name, dtype=torch.float32)
    transplant = opened(again, model, size=2)
    graph = model.graph
    masks = np.stack(
        [graph.reads, nodes_mask(graph, graph.senders[2:4]), random_mask(graph, 0.4, 1)]
    )
    assert transplant.measure(masks) == [transplant.receiver] * 3
    assert transplant.donor == transplant.everything == transplant.receiver
    assert transplant.carried(transplant.receiver) is None


@pytest.mark.parametrize("name", CONFIGS)
def test_a_transplant_is_the_definition(name: str) -> None:
    donor, receiver = (tiny_lift(name, seed) for seed in (1, 0))
    transplant = opened(donor, receiver)
    graph = receiver.graph
    masks = np.stack([random_mask(graph, d, i) for i, d in enumerate((0.02, 0.3, 0.9))])
    expected = [naive(transplant, donor, mask) for mask in masks]
    assert transplant.measure(masks) == pytest.approx(expected, rel=1e-8, abs=1e-8)
    assert transplant.receiver == pytest.approx(naive(transplant, donor, masks[0] & False))
    everything = [naive(transplant, donor, graph.reads)]
    assert transplant.measure(graph.reads[None]) == pytest.approx(everything, rel=1e-8, abs=1e-8)
    assert transplant.everything == pytest.approx(everything[0], rel=1e-8, abs=1e-8)


@settings(max_examples=30, deadline=None)
@given(
    name=st.sampled_from(SOME),
    density=st.floats(0, 1),
    seed=st.integers(0, 999),
    grouped=st.booleans(),
    split=st.booleans(),
    metric=st.sampled_from(["logit_diff", "kl", "nll"]),
    size=st.integers(1, 4),
)
def test_any_choice_of_edges(
    name: str, density: float, seed: int, grouped: bool, split: bool, metric: str, size: int
) -> None:
    donor, receiver = (
        tiny_lift(name, s, grouped_kv=grouped, split_embedding=split) for s in (seed + 1, seed)
    )
    pairs = tiny_pairs(seed, LENGTHS)
    mask = random_mask(receiver.graph, density, seed)
    found = [
        Transplant.create(receiver, pairs, record(clean_runner(donor, pairs, metric, n)))
        for n in (4, size)
    ]
    expected = naive(found[0], donor, mask)
    for one in found:
        assert one.measure(mask[None]) == pytest.approx([expected], rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("name", CONFIGS)
def test_all_nodes_carry_all_where_only_values_differ(name: str) -> None:
    """Two models that differ in queries, keys and values alone share all that does not cross."""
    model = tiny_model(name)
    other = tiny_model(name)
    inner = 0
    with torch.no_grad():
        for key, parameter in other.named_parameters():
            words = key.lower()
            projections = (
                "q_proj",
                "k_proj",
                "v_proj",
                "qkv",
                "query_key_value",
                "c_attn",
                "wqkv",
                "_a_proj",
                "_b_proj",
            )
            if any(word in words for word in projections):
                parameter.add_(torch.randn_like(parameter) * 0.3)
                inner += 1
    assert inner, "nothing was changed"
    donor, receiver = describe(other), describe(model)
    transplant = opened(donor, receiver, "kl")
    assert transplant.donor == 0
    assert transplant.receiver > 1e-5
    assert transplant.everything == pytest.approx(0, abs=1e-9)
    whole = transplant.measure(receiver.graph.reads[None])
    assert whole == pytest.approx([0], abs=1e-9)
    assert transplant.carried(whole[0]) == pytest.approx(1)


def test_constants_the_final_norm_and_the_unembedding_stay() -> None:
    """Of GPT-2 with another output bias, final norm and unembedding, nothing can cross."""
    model = tiny_model("gpt2-untied-relu")
    other = copy.deepcopy(model)
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in (
            other.transformer.h[1].attn.c_proj.bias,
            other.transformer.ln_f.weight,
            other.lm_head.weight,
        ):
            parameter.add_(torch.randn_like(parameter))
    transplant = opened(describe(other), describe(model))
    logits = transplant.graph.port_index
    last = transplant.graph.reads.copy()
    last[: len(logits) - 1] = False
    # the last MLP reads the bias, so its own value does cross
    last[:, transplant.graph.sender_index[Node(Kind.MLP, 1)]] = False
    assert transplant.donor != transplant.receiver
    assert transplant.measure(last[None]) == [transplant.receiver]


# -- the definition, in the original model ------------------------------------------------------


def hooked(model: Any, site: Any, new: torch.Tensor, ids: torch.Tensor, head: int | None) -> Any:
    """Run a model in which a module's output, or a head's part of an input, is another."""

    def output(module: Any, inputs: Any, out: torch.Tensor) -> torch.Tensor:
        return new

    def inputs(module: Any, given: Any) -> Any:
        assert head is not None
        z = given[0].clone()
        width = z.shape[-1] // model.config.num_attention_heads
        z[..., head * width : (head + 1) * width] = new[..., head * width : (head + 1) * width]
        return (z,)

    hook = (
        site.register_forward_hook(output)
        if head is None
        else site.register_forward_pre_hook(inputs)
    )
    try:
        with torch.no_grad():
            return model(ids).logits
    finally:
        hook.remove()


def caught(site: Any, model: Any, ids: torch.Tensor, *, before: bool) -> torch.Tensor:
    """Run a model and return what goes into a module, or comes out of it."""
    seen = []
    hook = site.register_forward_hook(lambda m, i, o: seen.append(i[0] if before else o))
    try:
        with torch.no_grad():
            model(ids)
    finally:
        hook.remove()
    return seen[0]


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("node", ["a0.h1", "a1.h0", "m0", "m1", "embed"])
def test_a_node_is_patched_as_hooks_patch_it(name: str, node: str) -> None:
    """Of two models with equal output projections, a head's z is all that can differ of it."""
    model = tiny_model(name)
    other = tiny_model(name, seed=1)
    layers = [m.transformer.h if name == "gpt2" else m.model.layers for m in (model, other)]
    projections = [
        [block.attn.c_proj if name == "gpt2" else block.self_attn.o_proj for block in blocks]
        for blocks in layers
    ]
    for mine, theirs in zip(*projections, strict=True):
        theirs.load_state_dict(mine.state_dict())
    pairs = tiny_pairs(lengths=(6,))
    donated = record(clean_runner(describe(other), pairs, "logit_diff"), [Node.parse(node)])
    transplant = Transplant.create(describe(model), pairs, donated)
    (chunk,) = transplant.runner.chunks()
    ids = chunk.batch.clean
    which = Node.parse(node)
    if which.kind is Kind.HEAD:
        sites, head = [p[which.layer or 0] for p in projections], which.index
    elif which.kind is Kind.MLP:
        sites, head = [blocks[which.layer or 0].mlp for blocks in layers], None
    elif name == "gpt2":
        sites, head = [m.transformer.drop for m in (model, other)], None
    else:
        sites, head = [m.model.embed_tokens for m in (model, other)], None
    new = caught(sites[1], other, ids, before=head is not None)
    logits = hooked(model, sites[0], new, ids, head)[:, chunk.batch.answer_position[0]]
    expected = mean(transplant, chunk, logits, describe(other))
    found = transplant.measure(nodes_mask(transplant.graph, [which])[None])
    # the norms of the Llama classes compute in float32 even in a float64 model
    assert found == pytest.approx([expected], rel=1e-9, abs=1e-5 if name == "llama" else 0)
    assert abs(found[0] - transplant.receiver) > 1e-3


def test_one_edge_by_hand() -> None:
    """The last MLP into logits moves the stream there by the difference of what it writes."""
    donor, receiver = (tiny_lift("gpt2", seed) for seed in (1, 0))
    transplant = opened(donor, receiver)
    (chunk,) = transplant.runner.chunks()
    theirs, ours = (
        naive_values(model, chunk.batch.clean, whole(chunk))[-1] for model in (donor, receiver)
    )
    position = chunk.batch.answer_position
    stream = at_answers(chunk.clean.streams.final + theirs - ours, position)
    expected = mean(transplant, chunk, receiver.logits(stream), donor)
    mask = Circuit.empty(transplant.graph).with_edges(["m1->logits"]).kept
    assert transplant.measure(mask[None]) == pytest.approx([expected], rel=1e-9)
    only = nodes_mask(transplant.graph, [Node.parse("m1")])  # it has no other edge
    assert (mask == only).all()


def test_the_share_is_not_clamped() -> None:
    donor, receiver = (tiny_lift("gpt2", seed) for seed in (1, 0))
    found = opened(donor, receiver)
    a, b = found.receiver, found.donor
    assert found.carried(a) == 0
    assert found.carried(b) == 1
    assert found.carried(b + 2 * (b - a)) == pytest.approx(3)
    assert found.carried(a - (b - a)) == pytest.approx(-1)


# -- batches ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SOME)
def test_choices_together_are_choices_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    donor, receiver = (tiny_lift(name, seed) for seed in (1, 0))
    graph = receiver.graph
    masks = np.stack(
        [nodes_mask(graph, [node]) for node in graph.senders] + [graph.reads, graph.reads & False]
    )
    transplant = opened(donor, receiver)
    together = transplant.measure(masks)
    alone = [transplant.measure(mask[None])[0] for mask in masks]
    assert together == pytest.approx(alone, rel=1e-9)
    monkeypatch.setattr(memory, "LAPTOP", replace(memory.LAPTOP, run=1))
    transplant = opened(donor, receiver)
    assert transplant.measure(masks) == pytest.approx(alone, rel=1e-9)


def test_only_what_a_choice_reaches_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgewise.patching.transplant import transplant as module

    plans = []

    def noted(*given: Any, **options: Any) -> Any:
        plans.append(make_plan(*given, **options))
        return plans[-1]

    make_plan = module.make_plan
    monkeypatch.setattr(module, "make_plan", noted)
    donor, receiver = (tiny_lift("gpt2", seed) for seed in (1, 0))
    transplant = opened(donor, receiver)
    for edge in ("a0.h1->a1.h0<q>", "m1->logits"):
        transplant.measure(Circuit.empty(receiver.graph).with_edges([edge]).kept[None])
    transplant.measure(nodes_mask(receiver.graph, [Node.parse("a0.h0"), Node.parse("a0.h1")])[None])
    assert [[step.heads for step in plan.layers] for plan in plans] == [
        [(), (0,)],
        [(), ()],
        [(), (0, 1)],
    ]
    assert [[step.mlp is not None for step in plan.layers] for plan in plans] == [
        [False, True],
        [False, False],
        [True, True],
    ]


def test_only_wanted_layers_are_kept() -> None:
    pairs = tiny_pairs(lengths=(5, 5))
    runner = clean_runner(tiny_lift("gpt2"), pairs, "logit_diff")
    donated = record(runner, [Node.parse("a1.h0"), Node.parse("m0")])
    (part,) = donated.parts
    assert [z.numel() > 0 for z in part.values.z] == [False, True]
    assert [m.numel() > 0 for m in part.values.mlp] == [True, False]
    assert part.values.sources.numel() == 0
    assert set(donated.projections) == {1}
    transplant = Transplant.create(tiny_lift("gpt2", 1), pairs, donated)
    with pytest.raises(EdgewiseError, match=r"recorded without a0\.h1; record"):
        transplant.measure(nodes_mask(donated.graph, [Node.parse("a0.h1")])[None])


def test_much_memory_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgewise.patching.transplant.donor.WARN_BYTES", 1000)
    runner = clean_runner(tiny_lift("gpt2"), tiny_pairs(), "logit_diff")
    with pytest.warns(UserWarning, match="fewer examples, or fewer nodes"):
        record(runner)
    record(runner, [])


# -- what is refused ----------------------------------------------------------------------------


def test_other_shapes_and_prompts_are_refused() -> None:
    pairs = tiny_pairs()
    donated = record(clean_runner(tiny_lift("gpt2"), pairs, "logit_diff"))
    with pytest.raises(GraphMismatch, match="layers 2 and 3"):
        Transplant.create(tiny_lift("gpt2-one-head"), pairs, donated)
    with pytest.raises(PromptError, match="not those the donor ran on"):
        Transplant.create(tiny_lift("gpt2", 1), tiny_pairs(1), donated)
    config_class, model_class, options = CONFIGS["gpt2"]
    wide = model_class(config_class(**{**options, "n_embd": 32})).eval().double()
    with pytest.raises(GraphMismatch, match="d_model 16 and 32"):
        Transplant.create(describe(wide), pairs, donated)
    longer = model_class(config_class(**{**options, "vocab_size": 40})).eval().double()
    Transplant.create(describe(longer), pairs, donated)
    donated = record(clean_runner(tiny_lift("gpt2"), pairs, "kl"))
    assert get_metric("kl").needs_clean_logits
    with pytest.raises(EdgewiseError, match="the donor has 31, the receiver 40"):
        Transplant.create(describe(longer), pairs, donated)


def test_unknown_nodes_are_refused() -> None:
    graph = tiny_lift("gpt2").graph
    with pytest.raises(GraphMismatch, match=r"no node 'a5\.h0' that writes"):
        nodes_mask(graph, [Node.parse("a5.h0")])
    with pytest.raises(GraphMismatch, match=r"its senders: m0\.e0"):
        nodes_mask(tiny_lift("mixtral").graph, [Node.parse("m0")])
    with pytest.raises(GraphMismatch, match="does not exist"):
        Circuit.empty(graph).with_edges(["m1->a0.h1<q>"])
