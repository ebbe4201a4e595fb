"""Optimal ablation: what is learned, that it is what masked runs measure, and its file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgewise.graphs.circuit import Circuit
from edgewise.graphs.errors import EdgewiseError, FileFormatError
from edgewise.patching.ablations.learned.learning import Descent, Learned, learn
from edgewise.patching.ablations.learned.vectors import read_provenance, split, together, write
from edgewise.patching.ablations.mean import everywhere
from edgewise.patching.ablations.registry import get_ablation
from edgewise.patching.prompts.pairs import PromptPairs
from edgewise.patching.run.runner import Runner
from tests.edgewise.conftest import Run, edgewise, models, pairs
from tests.engine import tiny_lift, tiny_pairs

__all__ = ["edgewise", "models", "pairs"]

FEW = Descent(steps=25, rate=0.2)


def learned(family: str, some: PromptPairs, training: Descent = FEW) -> tuple[Runner, Learned]:
    lift = tiny_lift(family)
    found = learn(Runner.create(lift, some, metric="kl", ablation="mean"), training)
    held = replace(get_ablation("optimal"), prepare=lambda _: everywhere(found.values))
    return Runner.create(lift, some, metric="kl", ablation=held), found


def each_node(runner: Runner) -> np.ndarray:
    """Return the circuits that lack all edges out of one sender."""
    masks = np.repeat(runner.graph.reads[None], len(runner.graph.senders), 0)
    for sender, mask in enumerate(masks):
        mask[:, sender] = False
    return masks


@pytest.mark.parametrize("family", ["gpt2", "gptj", "gemma3", "mixtral", "gemma3n", "mamba"])
def test_its_losses_are_those_of_circuits_without_a_node_and_below_those_of_means(
    family: str,
) -> None:
    some = tiny_pairs(lengths=(6, 4, 5))
    runner, found = learned(family, some)
    masks = each_node(runner)
    after = runner.mask_losses(masks)
    means = Runner.create(runner.model, some, metric="kl", ablation="mean").mask_losses(masks)
    np.testing.assert_allclose(found.after, after, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.before, means, rtol=1e-4, atol=1e-6)
    assert (after <= means + 1e-7).all()
    assert after.mean() < 0.9 * means.mean()


def test_of_a_quadratic_loss_it_finds_the_best_vector() -> None:
    """With one sender into `logits` alone, the best constant gives the mean distribution."""
    some = tiny_pairs(lengths=(5, 5, 5))
    runner, found = learned("gpt2", some, Descent(steps=120, rate=0.3))
    last = runner.graph.sender_index[runner.graph.senders[-1]]
    vector = split(found.values)[last].double().requires_grad_()
    loss = 0.0
    for chunk in runner.chunks():
        final = chunk.at_answers(chunk.clean.streams.final)
        own = chunk.at_answers(chunk.clean.values.mlp[-1][0])
        target = runner.model.logits(final).log_softmax(-1)
        got = runner.model.logits(final - own + vector).log_softmax(-1)
        loss += (target.exp() * (target - got)).sum()
    (gradient,) = torch.autograd.grad(loss, vector)
    scale = float(torch.autograd.grad(
        sum(
            runner.model.logits(
                chunk.at_answers(chunk.clean.streams.final) + 0 * vector + vector - vector.detach()
            ).log_softmax(-1)[..., 0].sum()
            for chunk in runner.chunks()
        ), vector)[0].norm())  # fmt: skip
    assert gradient.norm() < 0.05 * scale


def test_the_same_seed_learns_the_same_vectors_and_another_others() -> None:
    some = tiny_pairs(lengths=(5, 5))
    runs = [learned("llama", some, Descent(steps=20, seed=seed))[1] for seed in (0, 0, 1)]
    first, same, other = (torch.cat([x.flatten() for x in split(one.values)]) for one in runs)
    torch.testing.assert_close(first, same, rtol=0, atol=0)
    assert (first - other).abs().max() > 1e-4


def test_answers_of_several_tokens_count_by_their_share() -> None:
    some = tiny_pairs(lengths=(5, 5))
    spelled = PromptPairs(tuple(p.spelling([(3, 4)], [(5, 6)]) for p in some.pairs))
    runner, found = learned("llama", spelled, Descent(steps=10))
    measured = runner.mask_losses(each_node(runner))
    np.testing.assert_allclose(found.after, measured, rtol=1e-4, atol=1e-6)


def test_vectors_and_values_are_the_same_in_other_order() -> None:
    runner, found = learned("gemma3", tiny_pairs(lengths=(5,)), Descent(steps=1))
    again = together(split(found.values), found.values)
    for a, b in zip(split(again), split(found.values), strict=True):
        assert torch.equal(a, b)
    assert len(split(again)) == len(runner.graph.senders)


def test_a_file_gives_what_was_learned_whatever_the_prompts(tmp_path: Path) -> None:
    runner, found = learned("gemma3n", tiny_pairs(lengths=(5, 6)))
    path = write(tmp_path / "own.safetensors", runner.graph, found.values, {"model": "tiny"})
    assert read_provenance(path) == {"model": "tiny"}
    empty = Circuit.empty(runner.graph)
    read = Runner.create(runner.model, runner.pairs, metric="kl", ablation=f"optimal:{path}")
    assert read.loss(empty) == pytest.approx(runner.loss(empty), rel=1e-5)
    assert read.ablation.name.startswith(f"optimal:{path}@")
    assert get_ablation(read.ablation.name).name == read.ablation.name
    path.write_bytes(path.read_bytes().replace(b"tiny", b"rose"))
    with pytest.raises(EdgewiseError, match="is not the file of vectors that was meant"):
        get_ablation(read.ablation.name)


def test_what_is_no_file_of_vectors_is_refused(tmp_path: Path) -> None:
    runner, found = learned("gpt2", tiny_pairs(lengths=(5,)), Descent(steps=1))
    path = write(tmp_path / "own.safetensors", runner.graph, found.values, {})
    other = Runner.create(tiny_lift("llama"), runner.pairs, ablation=f"optimal:{path}")
    with pytest.raises(FileFormatError, match="is of another model"):
        other.loss(Circuit.empty(other.graph))
    for text, why in ((b"", "damaged or no safetensors"), (b"nonsense" * 9, "damaged")):
        path.write_bytes(text)
        wrong = Runner.create(runner.model, runner.pairs, ablation=f"optimal:{path}")
        with pytest.raises(FileFormatError, match=why):
            wrong.loss(Circuit.empty(wrong.graph))
    with pytest.raises(FileFormatError, match="does not exist"):
        get_ablation("optimal:nowhere.safetensors")
    with pytest.raises(EdgewiseError, match="no file stands behind 'optimal:'"):
        get_ablation("optimal: ")


def test_the_command_writes_what_led_to_the_vectors_and_discovery_takes_them(
    edgewise: Run, models: dict[str, Path], pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgewise.patching.ablations.optimal.STEPS", 3)
    line = ("--model", models["gpt2"], "--task", pairs)
    said = edgewise("optimal", *line, "--steps", 5, "-o", "own.safetensors").output
    assert "--ablation optimal:own.safetensors" in said
    told = json.loads(
        edgewise("optimal", *line, "--steps", 5, "-o", "again.safetensors", "--json").stdout
    )
    assert Path("own.safetensors").read_bytes() == Path("again.safetensors").read_bytes()
    about = read_provenance("own.safetensors")
    assert about["training"] == {"steps": 5, "rows": 64, "rate": 0.1, "seed": 0}
    assert {"model", "task", "loss", "versions", "dtype"} <= set(about)
    assert about["task"]["sha256"] and about["model"]["weights_sha256"]  # type: ignore[index]
    assert all(one["learned"] <= one["at_mean"] for one in told["senders"])
    edgewise("discover", *line, "--method", "eap", "--top", 9, "--ablation",
             "optimal:own.safetensors", "-o", "found.json")  # fmt: skip
    noted = json.loads(Path("found.json").read_text())["discovery"]["ablation"]
    assert noted.startswith("optimal:own.safetensors@")
    edgewise("evaluate", "found.json")
    edgewise("discover", *line, "--method", "eap", "--ablation", "optimal", "-o", "learned.json")
    said = edgewise("discover", *line, "--ablation", "optimal:no", "-o", "x.json", status=2).output
    assert "no does not exist" in said
