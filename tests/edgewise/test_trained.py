"""Models trained to a known circuit: they compute as they were taught, and by nothing else."""

from __future__ import annotations

import runpy
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from edgewise.discovery.registry import get_method
from edgewise.experiment.start import read_start
from edgewise.graphs.circuit import Circuit
from edgewise.graphs.errors import EdgewiseError
from edgewise.graphs.lift.lifting import describe
from edgewise.known.cases import DATA
from edgewise.known.interchange.agreement import CARRIED, agreement
from edgewise.known.interchange.causal import UNASKED, CausalModel
from edgewise.known.interchange.models import CAUSAL_MODELS, FRACTIONS, LETTERS, fraction, recall
from edgewise.known.interchange.runs import Interchange, without_nodes
from edgewise.known.interchange.training import Recipe, idle_nodes, train_to
from edgewise.known.programs import PAIRS, TRUTH, TRUTH_UNDER
from edgewise.patching.prompts.pair_files import read_pairs
from edgewise.patching.run.runner import Runner

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "trained" / "train.py"
NAMES = tuple(CAUSAL_MODELS)
LEAST_SHARE = 0.999
FRESH = 4321  # a seed of inputs that nothing was trained or written with


@cache
def trained(name: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(DATA / name).eval()


def untrained(causal: CausalModel, **rest: Any) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    no_dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    shape = {"n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_inner": 16}
    settings = {"tie_word_embeddings": False, "initializer_range": 0.3, **rest}
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=causal.vocabulary, bos_token_id=None, eos_token_id=None,
            **shape, **no_dropout, **settings,
        )
    ).eval()  # fmt: skip


# -- causal models --------------------------------------------------------------------------------


def test_a_fraction_is_of_the_tokens_so_far() -> None:
    answers = fraction().answers(torch.tensor([[1, 0, 0, 2, 0, 3]]))[0] - LETTERS
    assert [str(FRACTIONS[i]) for i in answers] == ["0", "1/2", "2/3", "1/2", "3/5", "1/2"]


def test_another_variable_gives_another_fraction() -> None:
    swapped = {"is 0": torch.tensor([[1, 1, 0, 0]])}
    answers = fraction().answers(torch.tensor([[1, 1, 1, 0]]), swapped)[0] - LETTERS
    assert [str(FRACTIONS[i]) for i in answers] == ["1", "1", "2/3", "1/2"]


def test_a_key_recalls_what_stands_where_another_input_says() -> None:
    base, source = torch.tensor([[3, 7, 5, 9, 3], [5, 10, 3, 11, 5]])[:, None]
    causal = recall()
    assert causal.answers(base)[0, -1] == 7
    assert causal.answers(base, {"previous": causal.run(source)["previous"]})[0, -1] == 9


def test_a_key_that_is_found_twice_is_not_asked_about() -> None:
    assert recall().answers(torch.tensor([[3, 7, 3, 9, 3]]))[0, -1] == UNASKED


@pytest.mark.parametrize("name", NAMES)
def test_sources_can_stand_in_for_their_bases(name: str) -> None:
    causal = CAUSAL_MODELS[name]()
    base, source = causal.draw(200, torch.Generator().manual_seed(3))
    for variable in causal.variables:
        swapped = causal.answers(base, {variable.name: causal.run(source)[variable.name]})
        at = causal.prompt - 1
        assert (swapped[:, at] != UNASKED).all()
        assert (swapped != causal.answers(base))[:, at].float().mean() > 0.3


def test_edges_of_other_nodes_are_refused() -> None:
    one = recall()
    other = CausalModel(
        "other", one.variables, (*one.edges, "m1->logits"), one.draw, one.vocabulary, one.prompt
    )
    with pytest.raises(EdgewiseError, match="m1"):
        other.circuit(describe(untrained(one)).graph)


# -- interventions and training -------------------------------------------------------------------


def by_hooks(model: Any, node: str, base: Tensor, source: Tensor) -> Tensor:
    """Run the model's own code on the base, with what one node writes on the source."""
    layer = model.transformer.h[int(node[1])]
    head = None if node[0] == "m" else int(node[-1])
    module = layer.mlp if head is None else layer.attn.c_proj
    width = model.config.n_embd // model.config.n_head
    kept: list[Tensor] = []

    def change(x: Tensor) -> Tensor:
        if not kept:
            kept.append(x)
            return x
        if head is None:
            return kept[0]
        x = x.clone()
        own = slice(head * width, (head + 1) * width)
        x[..., own] = kept[0][..., own]
        return x

    if head is None:
        hook = module.register_forward_hook(lambda _, __, out: change(out))
    else:
        hook = module.register_forward_pre_hook(lambda _, given: (change(given[0]),))
    try:
        model(input_ids=source)
        logits: Tensor = model(input_ids=base).logits
    finally:
        hook.remove()
    return logits


@torch.no_grad()
@pytest.mark.parametrize("node", ["a0.h1", "m0", "a1.h2", "m1"])
def test_an_interchange_is_what_hooks_do(node: str) -> None:
    model = untrained(recall())
    base, source = recall().draw(5, torch.Generator().manual_seed(0))
    lifted = describe(model)
    runs = Interchange(lifted, base, source)
    found = runs.logits(without_nodes(lifted.graph, {node}))
    torch.testing.assert_close(found, by_hooks(model, node, base, source), atol=1e-4, rtol=1e-4)
    assert (found - model(input_ids=base).logits).abs().max() > 1e-3


@torch.no_grad()
def test_all_edges_are_the_base_and_none_the_source() -> None:
    model = untrained(fraction())
    base, source = fraction().draw(5, torch.Generator().manual_seed(0))
    lifted = describe(model)
    runs, every = Interchange(lifted, base, source), lifted.graph.reads
    for kept, ids in ((every, base), (np.zeros_like(every), source)):
        torch.testing.assert_close(
            runs.logits(kept), model(input_ids=ids).logits, atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize("by_edge", [True, False])
def test_training_lowers_every_loss_and_repeats_itself(by_edge: bool) -> None:
    causal, weights, told = fraction(), list[dict[str, Tensor]](), list[list[float]]()

    def note(_: int, __: int, words: str) -> None:
        told.append([float(word.split()[1]) for word in words.split(", ")])

    for _ in range(2):
        model = untrained(causal)
        recipe = Recipe(updates=40, inputs=32, rate=0.01, by_edge=by_edge)
        circuit = train_to(model, causal, recipe, note)
        weights.append({key: x.clone() for key, x in model.state_dict().items()})
    losses = np.array(told[:40])
    assert (losses[-6:].mean(0) < 0.7 * losses[:6].mean(0)).all()
    assert all(torch.equal(x, weights[1][key]) for key, x in weights[0].items())
    assert not torch.equal(
        weights[0]["lm_head.weight"], untrained(causal).state_dict()["lm_head.weight"]
    )
    assert {str(edge) for edge in circuit.edges} == set(causal.edges)


def test_a_tied_embedding_is_refused() -> None:
    with pytest.raises(EdgewiseError, match="tie_word_embeddings=False"):
        train_to(untrained(recall(), tie_word_embeddings=True), recall())


def test_a_recipe_without_updates_is_refused() -> None:
    with pytest.raises(EdgewiseError, match="updates is 0"):
        Recipe(updates=0)


def test_the_script_trains_and_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    monkeypatch.setattr(sys, "argv", ["train.py", "fraction", str(tmp_path / "made"), "2"])
    try:
        runpy.run_path(str(SCRIPT))
    finally:
        torch.set_num_threads(threads)
    assert "2 of 2: behaviour" in capsys.readouterr().out
    assert len(read_pairs(tmp_path / "made" / PAIRS)) == 128
    made = AutoModelForCausalLM.from_pretrained(tmp_path / "made")
    assert made.config.vocab_size == fraction().vocabulary


# -- the trained models ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_trained_model_agrees_with_its_causal_model(name: str) -> None:
    found = agreement(trained(name), CAUSAL_MODELS[name](), inputs=500, seed=FRESH)
    shares = {"behaviour": found.behaviour, **found.interchange, **found.strictness}
    assert min(shares.values()) >= LEAST_SHARE, shares
    assert found.circuit[next(iter(CARRIED))] >= LEAST_SHARE, found.circuit
    assert set(found.strictness) == idle_nodes(CAUSAL_MODELS[name](), describe(trained(name)).graph)


@pytest.mark.parametrize("name", NAMES)
def test_its_files_are_what_the_causal_model_says(name: str) -> None:
    causal, pairs = CAUSAL_MODELS[name](), read_pairs(DATA / name / PAIRS)
    for pair in pairs:
        assert pair.corrupted is not None
        for ids, token in ((pair.clean, pair.answers[0]), (pair.corrupted, pair.distractors[0])):
            assert causal.answers(torch.tensor([ids]))[0, -1] == token
    listed = read_start(DATA / name / TRUTH)
    assert listed.named is not None
    assert set(listed.named.edges) == set(causal.edges)


@cache
def effects(name: str, ablation: str, metric: str) -> tuple[float, float]:
    """Return the exact effect of the weakest true edge, and of the strongest other one."""
    lifted = describe(trained(name))
    pairs = CAUSAL_MODELS[name]().pairs(64, FRESH)
    runner = Runner.create(lifted, pairs, metric=metric, ablation=ablation)
    found = np.abs(get_method("exact")(runner).scores.values)
    special = DATA / name / TRUTH_UNDER.format(ablation)
    named = read_start(special if special.exists() else DATA / name / TRUTH).named
    assert named is not None
    true = named.on(lifted.graph).kept
    taught = CAUSAL_MODELS[name]().circuit(lifted.graph).kept
    assert not (true & ~taught).any()
    return float(found[true].min()), float(found[lifted.graph.reads & ~true].max())


@pytest.mark.parametrize("ablation", ["resample", "mean", "zero"])
@pytest.mark.parametrize("name", NAMES)
def test_exact_effects_tell_true_edges_from_others(name: str, ablation: str) -> None:
    weakest, strongest = effects(name, ablation, "logit_diff")
    assert weakest > 2 * strongest
    weakest, strongest = effects(name, ablation, "kl")
    assert weakest > strongest


@pytest.mark.parametrize("name", NAMES)
def test_other_prompts_values_on_other_edges_change_next_to_nothing(name: str) -> None:
    weakest, strongest = effects(name, "resample", "kl")
    assert weakest > 1 and strongest < 0.05


@pytest.mark.parametrize("name", NAMES)
def test_steps_are_the_nodes_that_matter(name: str) -> None:
    causal, lifted = CAUSAL_MODELS[name](), describe(trained(name))
    runner = Runner.create(lifted, causal.pairs(64, FRESH), metric="kl")
    every = lifted.graph.reads
    nodes = {one.node for one in causal.variables}
    cut = {str(node): without_nodes(lifted.graph, {str(node)}) for node in lifted.graph.senders[1:]}
    assert len(cut) == 10
    losses = runner.losses([Circuit(lifted.graph, kept) for kept in (every, *cut.values())])
    change = dict(zip(cut, (losses[1:] - losses[0]).tolist(), strict=True))
    others = max(change[node] for node in change if node not in nodes)
    assert min(change[node] for node in nodes) > 1 and others < 0.05, change
