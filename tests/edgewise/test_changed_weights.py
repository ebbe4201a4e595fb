"""Weights changed in place under an open session: what is written is true of the weights now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from edgewise.graphs.circuit import Circuit
from edgewise.graphs.errors import (
    CertificateFailed,
    EdgewiseError,
    ModelNotFound,
    UnsupportedModel,
)
from edgewise.patching.run.runner import Runner
from edgewise.steps.discover import discover
from edgewise.workflow import Selection, Session, evaluate, make_runner, open_model, open_task

TOP = Selection(top=9)


@pytest.fixture
def session(models: dict[str, Path]) -> Session:
    """Open a live model, which a user may go on training."""
    return open_model(AutoModelForCausalLM.from_pretrained(models["llama"]).eval())


def pairs_of(session: Session) -> Any:
    return open_task(session, "induction", examples=4, options={"period": 6, "repeat": 3})[0]


def optimise(model: Any) -> None:
    weight = model.model.layers[0].mlp.up_proj.weight
    weight.grad = torch.ones_like(weight)
    torch.optim.SGD([weight], lr=0.3).step()
    weight.grad = None


def add(model: Any) -> None:
    with torch.no_grad():
        model.model.layers[1].self_attn.q_proj.weight[3] += 0.5


def reassign(model: Any) -> None:
    norm = model.model.norm
    norm.weight = torch.nn.Parameter(norm.weight.detach() * 1.5)


def replace_module(model: Any) -> None:
    layer = model.model.layers[0]
    old, layer.mlp.down_proj = layer.mlp.down_proj, torch.nn.Linear(24, 16, bias=False)
    assert old.weight.shape == layer.mlp.down_proj.weight.shape


def other_data(model: Any) -> None:
    weight = model.model.layers[0].self_attn.o_proj.weight
    weight.data = weight.data * 1.5


def through_data(model: Any) -> None:
    model.model.layers[0].self_attn.v_proj.weight.data[2, 3] += 1.0


def other_frequencies(model: Any) -> None:
    model.model.rotary_emb.inv_freq.mul_(0.5)


def other_epsilon(model: Any) -> None:
    for layer in model.model.layers:
        layer.input_layernorm.variance_epsilon = 0.5


def other_activation(model: Any) -> None:
    model.model.layers[1].mlp.act_fn = torch.nn.ReLU()


def other_slope(model: Any) -> None:
    model.model.layers[0].self_attn.scaling *= 2.0


def other_forward(model: Any) -> None:
    mlp = model.model.layers[0].mlp
    mlp.forward = lambda x: 2.0 * type(mlp).forward(mlp, x)


def hook(model: Any) -> None:
    model.model.layers[0].register_forward_hook(lambda module, args, out: out * 2.0)


def pre_hook(model: Any) -> None:
    model.model.norm.register_forward_pre_hook(lambda module, args: (args[0] * 2.0 + 1.0,))


COUNTED = [optimise, add, reassign, replace_module, other_data]


@pytest.mark.parametrize("change", [*COUNTED, through_data])
def test_a_file_written_after_a_change_is_of_the_new_weights(
    session: Session, change: Callable[[Any], None]
) -> None:
    pairs = pairs_of(session)
    before = discover(session, pairs, method="eap", select=TOP).file
    change(session.loaded.model)
    after = discover(session, pairs, method="eap", select=TOP).file
    fresh = open_model(session.loaded.model)
    true = discover(fresh, pairs, method="eap", select=TOP).file
    assert after.model["weights_sha256"] == true.model["weights_sha256"]
    assert after.model["weights_sha256"] != before.model["weights_sha256"]
    assert after.certificate == true.certificate != before.certificate
    assert after.measures == true.measures
    assert after.circuit == true.circuit


def kept_runner(session: Session) -> tuple[Runner, Circuit]:
    """Return a runner that has run a circuit before, and the circuit."""
    runner = make_runner(session, pairs_of(session), metric="logit_diff")
    circuit = Circuit.full(session.graph)
    runner.loss(circuit)
    return runner, circuit


@pytest.mark.parametrize("change", [*COUNTED, through_data])
def test_a_kept_runner_refuses_changed_weights(
    session: Session, change: Callable[[Any], None]
) -> None:
    runner, circuit = kept_runner(session)
    change(session.loaded.model)
    for one in (runner, runner.with_metric("kl")):
        with pytest.raises(EdgewiseError, match="weights have changed since this runner was made"):
            one.loss(circuit)
    again = make_runner(session, pairs_of(session), metric="logit_diff")
    fresh = make_runner(open_model(session.loaded.model), pairs_of(session), metric="logit_diff")
    assert again.loss(circuit) == fresh.loss(circuit)


def test_weights_that_stay_are_neither_hashed_nor_certified_again(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgewise.graphs.load import loading
    from edgewise.patching.run import certificate

    pairs = pairs_of(session)
    file = discover(session, pairs, method="eap", select=TOP).file

    def never(*_: object) -> None:
        raise AssertionError("done again")

    monkeypatch.setattr(certificate, "certify", never)
    monkeypatch.setattr(loading, "weights_sha256", never)
    evaluate(session, file, pairs)
    assert discover(session, pairs, method="eap", select=TOP).file.model == file.model


def test_a_model_in_training_or_broken_by_the_change_is_refused(session: Session) -> None:
    pairs = pairs_of(session)
    model = session.loaded.model
    optimise(model.train())
    with pytest.raises(ModelNotFound, match="training mode"):
        discover(session, pairs, method="eap", select=TOP)
    model.eval()
    discover(session, pairs, method="eap", select=TOP)
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    with pytest.raises(CertificateFailed, match=r"not finite \(model\.norm\.weight\)"):
        evaluate(session, Circuit.full(session.graph), pairs)


PARTS = {
    other_frequencies: r"model\.rotary_emb\.inv_freq",
    other_epsilon: r"input_layernorm\.variance_epsilon",
    other_activation: r"model\.layers\.1\.mlp\.act_fn\(\)",
    other_slope: r"model\.layers\.0\.self_attn\.scaling",
    other_forward: r"model\.layers\.0\.mlp\.forward",
    hook: r"model\.layers\.0\(\)",
    pre_hook: r"model\.norm\(\)",
}
FOLLOWED = (other_frequencies, other_epsilon)


@pytest.mark.parametrize("change", PARTS)
def test_a_kept_runner_refuses_other_buffers_numbers_functions_and_hooks(
    session: Session, change: Callable[[Any], None]
) -> None:
    runner, circuit = kept_runner(session)
    change(session.loaded.model)
    with pytest.raises(EdgewiseError, match=f"the model's .*{PARTS[change]}.* have changed since"):
        runner.loss(circuit)


@pytest.mark.parametrize("change", PARTS)
def test_other_buffers_numbers_functions_and_hooks_are_certified_again_or_refused(
    session: Session, change: Callable[[Any], None]
) -> None:
    pairs = pairs_of(session)
    before = discover(session, pairs, method="eap", select=TOP).file
    change(session.loaded.model)
    if change in FOLLOWED:
        after = discover(session, pairs, method="eap", select=TOP).file
        fresh = discover(open_model(session.loaded.model), pairs, method="eap", select=TOP).file
        assert after.certificate == fresh.certificate != before.certificate
        assert after.measures == fresh.measures != before.measures
    else:
        with pytest.raises((CertificateFailed, UnsupportedModel)):
            discover(session, pairs, method="eap", select=TOP)


def test_what_has_no_influence_is_not_taken_for_a_change(session: Session) -> None:
    model = session.loaded.model
    runner = make_runner(session, pairs_of(session), metric="logit_diff")
    certificate, loss = session.certificate, runner.loss(Circuit.full(session.graph))
    model.train()
    model.config.use_cache = False
    model.model._anything = torch.ones(3)
    with torch.no_grad():
        model(torch.ones(1, 4, dtype=torch.long), output_attentions=True)
    assert runner.loss(Circuit.full(session.graph)) == loss
    model.eval()
    assert session.certificate is certificate


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_a_rotary_scaling_that_follows_the_length_is_no_change(
    models: dict[str, Path], kind: str
) -> None:
    model = AutoModelForCausalLM.from_pretrained(models["llama"]).eval()
    size = model.config.hidden_size // model.config.num_attention_heads
    factors = {"short_factor": [1.0] * (size // 2), "long_factor": [2.0] * (size // 2)}
    more = factors if kind == "longrope" else {}
    model.config.rope_parameters |= {"rope_type": kind, "factor": 2.0, **more}
    model.config.rope_parameters["original_max_position_embeddings"] = 8
    model.config.max_position_embeddings = 8 if kind == "dynamic" else 16
    model = AutoModelForCausalLM.from_config(model.config).eval()
    session = open_model(model)
    runner = make_runner(session, pairs_of(session), metric="logit_diff")
    circuit = Circuit.full(session.graph)
    loss = runner.loss(circuit)
    with torch.no_grad():
        model(torch.ones(1, 14, dtype=torch.long))
    assert runner.loss(circuit) == loss
    model.model.rotary_emb.original_inv_freq.mul_(0.5)
    with pytest.raises(EdgewiseError, match="inv_freq have changed"):
        runner.loss(circuit)


def test_a_model_known_by_its_tensors_alone_is_watched_too(session: Session) -> None:
    plain = replace(session.lifted, model=None)
    runner = Runner.create(plain, pairs_of(session), metric="logit_diff")
    add(session.loaded.model)
    with pytest.raises(EdgewiseError, match="weights have changed"):
        runner.loss(Circuit.full(plain.graph))
